"""The certificate: what was verified, where, and what came out; bound to the bundle by its SHA-256, not signed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bitlens.runtime.board_state import BoardLooks
from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.bundle_file import BUNDLE_VERSION
from bitlens.runtime.certificate.golden_fidelity import GoldenFidelity
from bitlens.runtime.engines import FLOAT32_GRADIENTS, INT8_GRADIENTS
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.json_form import from_json, to_json, versioned_values
from bitlens.runtime.machine import Machine
from bitlens.runtime.network import Network, shown
from bitlens.runtime.parity import (
    GRADIENT_TOLERANCE,
    INT8_COSINE,
    INT8_SPEARMAN,
    LOGIT_TOLERANCE,
    TWIN_EXCEPTIONS,
    EngineParity,
)
from bitlens.runtime.program_file import FORMAT_VERSION, program_bytes

CERTIFICATE_VERSION = 1
MAX_CERTIFICATE_BYTES = 2**24

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class CertifiedNetwork:
    """Which network.

    Parameters
    ----------
    name : str
        Of the file, without its folder.
    bundle_sha256 : str
        Of the whole file.
    program_sha256 : str
        Of the program in it, as this version writes it.
    precision : str
        As its training called it; empty if it does not say.
    bundle_version, program_version : int
        Of the file's forms.
    """

    name: str
    bundle_sha256: str
    program_sha256: str
    precision: str
    bundle_version: int
    program_version: int


@dataclass(frozen=True)
class Tolerances:
    """What may differ.

    Parameters
    ----------
    gradient, logits : float
        Relative to the largest element of an image.
    full_precision_exceptions : float
        Share of images of a float network whose gradient may lie beyond; one image may in any case.
    int8_cosine, int8_spearman : float
        What a gradient in bytes must reach: cosine on every image, rank correlation of magnitudes in the mean.
    """

    gradient: float
    logits: float
    full_precision_exceptions: float
    int8_cosine: float = INT8_COSINE
    int8_spearman: float = INT8_SPEARMAN


@dataclass(frozen=True)
class Certificate:
    """What one machine found.

    Parameters
    ----------
    bitlens : str
        Version.
    network : CertifiedNetwork
    machine : Machine
    tolerances : Tolerances
    engines : tuple of EngineParity
        At least one: the first question, of each engine.
    fidelity : GoldenFidelity or None
        The second question; None where it was not asked or there is no twin.
    board : BoardLooks or None
        How the board was doing meanwhile; None in certificates of before.
    """

    bitlens: str
    network: CertifiedNetwork
    machine: Machine
    tolerances: Tolerances
    engines: tuple[EngineParity, ...]
    fidelity: GoldenFidelity | None
    board: BoardLooks | None = None

    @property
    def holds(self) -> bool:
        """Whether every engine computes the network. Fidelity is no part of it.

        How near a gradient in bytes is depends on the depth of the network: its line says it. It decides where such an
        engine is verified alone; beside engines with exact gradients that one only has to compute the forward pass.
        """
        has_exact = any(engine.likeness is None for engine in self.engines)
        return all(
            engine.forward_holds if has_exact and engine.likeness is not None else engine.holds
            for engine in self.engines
        )


def certified_network(network: Network) -> CertifiedNetwork:
    """Say which network it is."""
    said_version = network.manifest.get("bundle_version")
    return CertifiedNetwork(
        name=shown(network.source.name),
        bundle_sha256=network.sha256,
        program_sha256=hashlib.sha256(program_bytes(network.program)).hexdigest(),
        precision=shown(network.program.metadata.get("precision", "")),
        bundle_version=said_version if isinstance(said_version, int) else BUNDLE_VERSION,
        program_version=FORMAT_VERSION,
    )


def certified(
    network: Network,
    machine: Machine,
    engines: Sequence[EngineParity],
    fidelity: GoldenFidelity | None,
    board: BoardLooks | None = None,
) -> Certificate:
    """Put together what was found."""
    return Certificate(
        bitlens=version("bitlens"),
        network=certified_network(network),
        machine=machine,
        tolerances=Tolerances(GRADIENT_TOLERANCE, LOGIT_TOLERANCE, TWIN_EXCEPTIONS),
        engines=tuple(engines),
        fidelity=fidelity,
        board=board,
    )


def certificate_bytes(certificate: Certificate) -> bytes:
    """Write it as JSON; equal certificates give equal bytes."""
    facts = {"certificate_version": CERTIFICATE_VERSION, "holds": certificate.holds} | to_json(certificate)
    for engine, said in zip(certificate.engines, facts["engines"], strict=True):
        said |= {"holds": engine.holds, "differences": engine.differences()}
    return (json.dumps(facts, indent=1) + "\n").encode()


def certificate_from_bytes(content: bytes) -> Certificate:
    """Read one; whether it holds is found anew from its numbers.

    Raises
    ------
    BitlensError
        If it is damaged, or made by a newer version.
    """
    facts = versioned_values(content, "certificate", CERTIFICATE_VERSION, "bitlens verify --output NAME.json")
    certificate = from_json(Certificate, facts, "certificate")
    hashes = [certificate.network.bundle_sha256, certificate.network.program_sha256]
    for engine in certificate.engines:
        hashes += [engine.trace_sha256, *(sha256 for tensor in engine.tensors for sha256 in tensor.sha256)]
        if any(len(tensor.sha256) != engine.images for tensor in engine.tensors):
            raise BitlensError("it is damaged: its tensors are not of as many images as it says")
    if not all(map(_SHA256.fullmatch, hashes)):
        raise BitlensError("it is damaged: one of its hashes is no SHA-256")
    for engine in certificate.engines:
        if engine.engine.gradients != (FLOAT32_GRADIENTS if engine.likeness is None else INT8_GRADIENTS):
            raise BitlensError("it is damaged: its gradients are not what it says of them")
    names = [engine.engine.name for engine in certificate.engines]
    if not names or len(set(names)) != len(names):
        raise BitlensError("it is damaged: expected each engine once, and at least one")
    return certificate


def read_certificate(path: Path) -> Certificate:
    """`certificate_from_bytes` of a file.

    Raises
    ------
    BitlensError
        Also if there is no such file; the message names it.
    """
    content = read_at_most(path, MAX_CERTIFICATE_BYTES, "expected what `bitlens verify` wrote", what="the certificate")
    with context(str(path)):
        return certificate_from_bytes(content)
