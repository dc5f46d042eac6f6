"""Two certificates of one bundle side by side: whether two machines compute the same network."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitlens.runtime.certificate.certificate import Certificate
from bitlens.runtime.certificate.golden_fidelity import NETWORK
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.fidelity import METRICS
from bitlens.runtime.parity import EngineParity

NOTHING = "\u2013"


@dataclass(frozen=True)
class ComparedRow:
    """One line of the table.

    Parameters
    ----------
    what : str
    here, there : str
        A dash where a machine has no such thing.
    must_agree : bool
        Whether a difference is one: versions and times may differ, codes may not.
    """

    what: str
    here: str
    there: str
    must_agree: bool

    @property
    def equal(self) -> bool:
        """Whether both say the same."""
        return self.here == self.there

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.equal:
            return "equal"
        if NOTHING in (self.here, self.there):
            return "only there" if self.here == NOTHING else "only here"
        return "DIFFERS" if self.must_agree else "differs, and may"


@dataclass(frozen=True)
class Comparison:
    """Two machines.

    Parameters
    ----------
    here, there : Certificate
    rows : tuple of ComparedRow
    differences : tuple of str
        What must agree and does not, one by one.
    """

    here: Certificate
    there: Certificate
    rows: tuple[ComparedRow, ...]
    differences: tuple[str, ...]

    @property
    def agree(self) -> bool:
        """Whether parity holds on both and every engine of both gives the same codes, masks and accumulators."""
        return self.here.holds and self.there.holds and not self.differences


def require_same_bundle(certificate: Certificate, sha256: str) -> None:
    """Refuse a certificate of anything but the bundle with that SHA-256.

    Raises
    ------
    BitlensError
        If it is of another one.
    """
    theirs = certificate.network.bundle_sha256
    if theirs != sha256:
        raise BitlensError(
            f"it is of another bundle, {certificate.network.name} with SHA-256 {theirs[:16]}..., and not of "
            f"{sha256[:16]}...: compare certificates of one bundle"
        )


def compared_certificates(here: Certificate, there: Certificate) -> Comparison:
    """Compare.

    Raises
    ------
    BitlensError
        If they are of two bundles.
    """
    require_same_bundle(there, here.network.bundle_sha256)
    rows = [ComparedRow("bitlens", here.bitlens, there.bitlens, False)]
    for name in ("name", "board", "processor", "architecture", "system", "python", "numpy"):
        pair = getattr(here.machine, name) or NOTHING, getattr(there.machine, name) or NOTHING
        if pair != (NOTHING, NOTHING):
            rows.append(ComparedRow(f"machine: {name}", *pair, False))
    state, other_state = (NOTHING if each.board is None else str(each.board) or NOTHING for each in (here, there))
    if (state, other_state) != (NOTHING, NOTHING):
        rows.append(ComparedRow("board meanwhile", state, other_state, False))
    one, other = ({engine.engine.name: engine for engine in each.engines} for each in (here, there))
    for name in dict.fromkeys((*one, *other)):
        rows += _engine_rows(name, one.get(name), other.get(name))
    rows += _fidelity_rows(here, there)
    differences: list[str] = []
    for name, engine in one.items():
        counterpart = other.get(name, there.engines[0])
        differences += _differences(engine, counterpart)
    for name in other.keys() - one.keys():
        differences += _differences(here.engines[0], other[name])
    for said, certificate in (("here", here), ("there", there)):
        for engine in certificate.engines:
            if not engine.holds:
                differences.append(f"{engine.engine.name} {said} does not compute the network")
    return Comparison(here, there, tuple(rows), tuple(dict.fromkeys(differences)))


def _engine_rows(name: str, here: EngineParity | None, there: EngineParity | None) -> list[ComparedRow]:
    if here is None or there is None:
        versions = [NOTHING if one is None else one.engine.version for one in (here, there)]
        return [ComparedRow(name, versions[0], versions[1], False)]
    one, other = _engine_facts(here), _engine_facts(there)
    return [
        ComparedRow(f"{name}: {what}", one[what], other[what], must)
        for what, must in _ENGINE_FACTS.items()
        if (one[what], other[what]) != (NOTHING, NOTHING)
    ]


_ENGINE_FACTS = {
    "version": False,
    "kernels": False,
    "threads": False,
    "computes the network": True,
    "codes, masks, accumulators": True,
    "images of another class": True,
    "largest logit error": False,
    "largest gradient error": False,
    "smallest cosine of gradients": False,
    "smallest Spearman of gradients": False,
}


def _engine_facts(engine: EngineParity) -> dict[str, str]:
    info, near = engine.engine, engine.likeness
    trace = "floats" if engine.full_precision else engine.trace_sha256[:16]
    values = (
        info.version,
        info.kernels,
        str(info.threads),
        "yes" if engine.holds else "no",
        trace,
        str(engine.differing_classes),
        f"{engine.logit_error:.1e}",
        f"{engine.gradient_error:.1e}",
        *((NOTHING, NOTHING) if near is None else (_number(near.smallest_cosine), _number(near.smallest_spearman))),
    )
    return dict(zip(_ENGINE_FACTS, values, strict=True))


def _fidelity_rows(here: Certificate, there: Certificate) -> list[ComparedRow]:
    if here.fidelity is None or there.fidelity is None:
        return []
    rows = []
    for one in here.fidelity.means:
        other = there.fidelity.mean(one.method, one.of, one.metric)
        if one.of == NETWORK and one.metric in METRICS and other is not None:
            what = f"{METRICS[one.metric].title} of {one.method} with the twin's"
            rows.append(ComparedRow(what, _number(one.mean.mean), _number(other.mean), False))
    return rows


def _number(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.4f}"


def _differences(here: EngineParity, there: EngineParity) -> list[str]:
    """Say which tensors of two engines differ, from the input to the output."""
    who = f"{here.engine.name} here and {there.engine.name} there"
    if here.full_precision or there.full_precision:
        return []  # floats need not be the same bits; each is held to the desktop's
    if here.trace_sha256 == there.trace_sha256:
        return []
    said = []
    theirs = {(tensor.kind, tensor.name): tensor for tensor in there.tensors}
    for tensor in here.tensors:
        other = theirs.get((tensor.kind, tensor.name))
        if other is None:
            said.append(f"{who}: {tensor.title} are only here")
        elif len(other.sha256) != len(tensor.sha256):
            said.append(f"{who}: {tensor.title} are of {len(tensor.sha256)} and {len(other.sha256)} images")
        elif other.sha256 != tensor.sha256:
            images = [
                place for place, pair in enumerate(zip(tensor.sha256, other.sha256, strict=True)) if len(set(pair)) > 1
            ]
            said.append(
                f"{who}: {tensor.title} differ on {len(images)} of {len(tensor.sha256)} images, the first image "
                f"{images[0]}"
            )
    return said or [f"{who}: codes, masks and accumulators together have different hashes"]
