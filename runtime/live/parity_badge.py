"""Whether the engine that runs here was verified here, for this very file: one short line, and why."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bitlens import __version__
from bitlens.runtime.certificate import Certificate, read_certificate
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.machine import Machine, this_machine
from bitlens.runtime.network import Network
from bitlens.runtime.parity import EngineParity
from bitlens.runtime.shipped import SHIPPED, shipped_bundle


@dataclass(frozen=True)
class ParityBadge:
    """What is known of one engine, by a certificate or because it was verified just now.

    Parameters
    ----------
    kind : {"here", "elsewhere", "failed", "none"}
    text : str
        A few words.
    reason : str
        What was compared, or what is missing.
    commands : tuple of str
        What may be run next; none where there is nothing to do.
    """

    kind: Literal["here", "elsewhere", "failed", "none"]
    text: str
    reason: str
    commands: tuple[str, ...] = ()


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
    if certificate is None:
        return ParityBadge("none", "not verified here", "There is no certificate of this network.")
    parity = next((each for each in certificate.engines if each.engine.name == engine), None)
    if parity is None:
        return ParityBadge("none", "not verified here", f"The certificate does not speak of {engine}.")
    if not parity.holds:
        return _failed(parity)
    found = found_by(parity)
    here = machine or this_machine()
    there = certificate.machine
    if (there.processor, there.architecture) != (here.processor, here.architecture):
        where = there.name or there.processor
        return ParityBadge("elsewhere", "verified on another machine", f"{engine} on {where}: {found}.")
    if certificate.bitlens != __version__:
        version = f"{engine} of bitlens {certificate.bitlens}, and this is {__version__}"
        return ParityBadge("elsewhere", "verified with another version", f"{version}: {found}.")
    return ParityBadge("here", "parity verified", f"{engine} on this machine: {found}.")


def fresh_badge(parity: EngineParity, network: Network) -> ParityBadge:
    """Say what was found on this machine while the program runs, and how to keep it."""
    if not parity.holds:
        return _failed(parity)
    reason = f"{parity.engine.name} on this machine, just now: {found_by(parity)}. To know it the next time, too:"
    return ParityBadge("here", "parity verified", reason, commands_to_keep(network))


def found_by(parity: EngineParity) -> str:
    """Say in numbers what a comparison found."""
    images = f"{parity.images} image{'' if parity.images == 1 else 's'}"
    if parity.full_precision:
        return f"{parity.differing_classes} of {images} get another class than on the desktop"
    return (
        f"{parity.differing_codes:,} of {parity.codes:,} codes and {parity.differing_masks:,} of {parity.masks:,} mask "
        f"bits differ from the reference on {images}"
    )


def commands_to_keep(network: Network) -> tuple[str, ...]:
    """List the commands after which this network's certificate is found; the first of one's own runs in its folder."""
    source, file = network.source, f"{network.source.stem}.certificate.json"
    if source.stem in SHIPPED and source == shipped_bundle(source.stem):
        verify = ["bitlens", "verify", source.stem, "--output", file]
        return shlex.join(verify), shlex.join(["bitlens", "demo", source.stem, "--certificate", file])
    return (shlex.join(["bitlens", "verify", source.name, "--output", file]),)


def _failed(parity: EngineParity) -> ParityBadge:
    name, differences = parity.engine.name, parity.differences()
    reason = f"{name}: {found_by(parity)}{f'; {differences[0]}' if differences else ''}. Choose another engine."
    if parity.forward_holds and parity.likeness is not None:
        return ParityBadge("failed", "gradient not near enough", f"It computes the network. {reason}")
    return ParityBadge("failed", "parity does not hold", reason)
