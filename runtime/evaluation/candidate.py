"""Who is evaluated: networks of one full-precision twin, the twin itself, and those that make its baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bitlens.runtime.bundle_file import SUFFIX
from bitlens.runtime.engines import AUTO, Engine, open_engine
from bitlens.runtime.engines.registry import ENGINES
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.evaluation.plan import OTHER_SEED, RANDOM_MAP, RANDOM_WEIGHTS
from bitlens.runtime.network import Network, open_network
from bitlens.runtime.program import Program
from bitlens.runtime.program_file import program_bytes
from bitlens.runtime.random_weights import with_random_weights

REFERENCE = "reference"


@dataclass(frozen=True)
class Candidate:
    """A network, opened.

    Parameters
    ----------
    name : str
        What the tables call it.
    engine : Engine
    sha256 : str
        Of everything its numbers hang on: the program, without what it says about itself, and the engine's own files.
    """

    name: str
    engine: Engine
    sha256: str

    @property
    def program(self) -> Program:
        """What it computes."""
        return self.engine.program

    @property
    def precision(self) -> str:
        """As its training called it; empty if it does not say."""
        said = self.program.metadata.get("precision", "")
        return str(said) if str(said).isprintable() else ascii(said)


@dataclass(frozen=True)
class Cast:
    """Everyone who takes part.

    Parameters
    ----------
    twin : Candidate
        The full-precision twin that all networks share: its maps are what theirs are compared to.
    networks : tuple of Candidate
        Without the twin.
    other_seed : Candidate or None
        Another full-precision network of the same form.
    random_weights : Candidate
        The twin with its weights in a random order.
    labels : tuple of str
        Names of the classes, as far as a network says them.
    picture_rule : str
        Name of the rule by which all of them want pictures prepared.
    opened : tuple of Network
        What was opened for it, in the order given, for the caller to say which of them are not trusted.
    """

    twin: Candidate
    networks: tuple[Candidate, ...]
    other_seed: Candidate | None
    random_weights: Candidate
    labels: tuple[str, ...]
    picture_rule: str
    opened: tuple[Network, ...]

    @property
    def judged(self) -> tuple[Candidate, ...]:
        """The twin first, then the networks: those whose own maps are rated."""
        return (self.twin, *self.networks)


def file_label(path: Path) -> str:
    """Name of a network by its file: without an ending that says what kind of file it is."""
    return path.stem if path.suffix in (SUFFIX, ".program") else path.name


def anonymous(program: Program) -> bytes:
    """Bytes of a program without its metadata, which says who made it and changes no number."""
    return program_bytes(replace(program, metadata={}))


def _opened(name: str, network: Network, engine_name: str, threads: int) -> Candidate:
    engine = open_engine(network, engine_name, threads=threads)
    digest = hashlib.sha256(anonymous(network.program))
    for file in ENGINES[engine.info.name].files:
        digest.update(network.read(file))
    return Candidate(name, engine, digest.hexdigest())


def _full_precision(network: Network) -> Network:
    if network.program.is_full_precision:
        return network
    twin = network.twin()
    if twin is None:
        raise BitlensError(
            f"{network.source} was exported without its full-precision twin, to which its maps are compared: train it "
            "with --twin and export it again"
        )
    return twin


def _engine_for(network: Network, engine_name: str) -> str:
    """Fall back to the reference where a network, a bare twin for one, lacks the engine's files."""
    if engine_name == AUTO or engine_name not in ENGINES:
        return engine_name
    return engine_name if all(network.has(file) for file in ENGINES[engine_name].files) else REFERENCE


def open_cast(
    paths: Sequence[Path], *, other_seed: Path | None, engine: str, threads: int, seed: int, trust: bool = False
) -> Cast:
    """Open networks, and the twin that they share.

    Parameters
    ----------
    paths : sequence of Path
        Networks, at least one. A full-precision one among them is the twin, opened with its own files, which is faster
        than the twin inside a quantized network, for which there is only the reference engine.
    other_seed : Path, optional
        A network trained with another seed: its twin, or itself if it is full precision.
    engine : str
        A key of `ENGINES`, or `auto`.
    threads, seed : int
        The seed is that of the random weights.
    trust : bool
        Whether the user trusts them although they may not be on the trust list.

    Raises
    ------
    BitlensError
        If one cannot be opened, has no twin, has another twin or form than the others, wants its pictures prepared in
        another way, or two are called the same.
    """
    opened = [open_network(path, trust=trust) for path in paths]
    names = [file_label(Path(path).resolve()) for path in paths]
    for name in names:
        if name in (OTHER_SEED, RANDOM_WEIGHTS, RANDOM_MAP):
            raise BitlensError(f"a network is called {name!r}, which is what the tables call a baseline: rename it")
        if names.count(name) > 1:
            raise BitlensError(f"two networks are called {name!r}: rename one, or give each once")
    twins = [_full_precision(network) for network in opened]
    for path, twin in zip(paths, twins, strict=True):
        if anonymous(twin.program) != anonymous(twins[0].program):
            raise BitlensError(
                f"{path} has another full-precision twin than {paths[0]}: evaluate them apart, because maps are "
                "compared to the twin's"
            )
    rules = [network.picture_rule for network in opened]
    for path, rule in zip(paths, rules, strict=True):
        if rule != rules[0]:
            raise BitlensError(f"{path} wants pictures prepared in another way than {paths[0]}: evaluate them apart")
    place = next((at for at, network in enumerate(opened) if network.program.is_full_precision), None)
    twin = twins[0] if place is None else opened[place]
    twin_name = "twin" if place is None else names[place]
    if place is None and "twin" in names:
        raise BitlensError(
            "a network is called 'twin', which is what the tables call the full-precision one: rename it"
        )
    twin_candidate = _opened(twin_name, twin, _engine_for(twin, engine), threads)
    networks = tuple(
        _opened(name, network, engine, threads)
        for name, network in zip(names, opened, strict=True)
        if not network.program.is_full_precision
    )
    seeds = () if other_seed is None else (open_network(other_seed, trust=trust),)
    other = _other_seed(seeds[0], twin_candidate, engine, threads) if seeds else None
    shuffled = Network(twin.source, with_random_weights(twin.program, seed=seed))
    labels = max((network.labels for network in (*opened, twin)), key=len)
    random_weights = _opened(RANDOM_WEIGHTS, shuffled, REFERENCE, threads)
    return Cast(twin_candidate, networks, other, random_weights, labels, rules[0], (*opened, *seeds))


def _other_seed(opened: Network, twin: Candidate, engine: str, threads: int) -> Candidate:
    network = _full_precision(opened)
    if anonymous(network.program) == anonymous(twin.program):
        raise BitlensError(f"--other-seed {opened.source} is the twin itself: give a network trained with another seed")
    other = _opened(OTHER_SEED, network, _engine_for(network, engine), threads)
    if network.program.image_type.shape != twin.program.image_type.shape or other.engine.classes != twin.engine.classes:
        raise BitlensError(
            f"--other-seed {opened.source} has another form than the twin: give the same model, trained anew"
        )
    return other
