"""Whether the engine that runs here was verified here, for this very file: one short line, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bitlens import __version__
from bitlens.runtime.certificate import Certificate, read_certificate
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.machine import Machine, this_machine
from bitlens.runtime.network import Network


@dataclass(frozen=True)
class ParityBadge:
    """What a certificate says of one engine.

    Parameters
    ----------
    kind : {"here", "elsewhere", "failed", "none"}
    text : str
        A few words.
    reason : str
        A sentence: what was compared, or what to do.
    """

    kind: Literal["here", "elsewhere", "failed", "none"]
    text: str
    reason: str


def certificate_beside(network: Network) -> Certificate | None:
    """Find a certificate of this very bundle beside it: NAME.certificate.json, NAME.json or certificate.json.

    A file that is damaged or belongs to another bundle is passed over.
    """
    if not network.sha256:
        return None
    source = network.source
    for name in (f"{source.stem}.certificate.json", f"{source.stem}.json", "certificate.json"):
        path = source.with_name(name)
        try:
            if path.is_file() and (found := read_certificate(path)).network.bundle_sha256 == network.sha256:
                return found
        except BitlensError:
            continue
    return None


def named_certificate(path: Path, network: Network) -> Certificate:
    """Read the certificate that the user names.

    Raises
    ------
    BitlensError
        If it cannot be read, or belongs to another bundle.
    """
    certificate = read_certificate(path)
    with context(str(path)):
        if certificate.network.bundle_sha256 != network.sha256:
            raise BitlensError(
                f"it certifies {certificate.network.name} with another SHA-256: run `bitlens verify` on this network"
            )
    return certificate


def parity_badge(
    certificate: Certificate | None, network: Network, engine: str, machine: Machine | None = None
) -> ParityBadge:
    """Say what a certificate, or none, says of an engine on this machine.

    Parameters
    ----------
    certificate : Certificate or None
        Of this bundle.
    network : Network
    engine : str
        Which runs.
    machine : Machine, optional
        This one if not given.
    """
    remedy = f"run `bitlens verify {network.source.name} --output {network.source.stem}.certificate.json` beside it"
    if certificate is None:
        return ParityBadge("none", "not verified here", f"No certificate lies beside the network: {remedy}.")
    parity = next((each for each in certificate.engines if each.engine.name == engine), None)
    if parity is None:
        return ParityBadge("none", "not verified here", f"The certificate does not speak of {engine}: {remedy}.")
    found = (
        f"{parity.differing_codes:,} of {parity.codes:,} codes and {parity.differing_masks:,} of {parity.masks:,} mask "
        f"bits differ from the reference on {parity.images} images"
    )
    if not parity.holds:
        return ParityBadge("failed", "parity does not hold", f"{engine}: {found}. Choose another engine.")
    here = machine or this_machine()
    there = certificate.machine
    if (there.processor, there.architecture) != (here.processor, here.architecture):
        where = there.name or there.processor
        return ParityBadge("elsewhere", "verified on another machine", f"{engine} on {where}: {found}. Here, {remedy}.")
    if certificate.bitlens != __version__:
        return ParityBadge(
            "elsewhere",
            "verified with another version",
            f"{engine} of bitlens {certificate.bitlens}: {found}. For {__version__}, {remedy}.",
        )
    return ParityBadge("here", "parity verified", f"{engine} on this machine: {found}.")
