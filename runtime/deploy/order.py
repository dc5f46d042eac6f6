"""What is to be deployed, checked before any board is spoken to."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import metadata, version
from pathlib import Path

from bitlens.runtime.bundle_file import is_bundle, open_bundle
from bitlens.runtime.certificate import read_certificate
from bitlens.runtime.certificate.comparison import require_same_bundle
from bitlens.runtime.deploy.board import UNIT, Board
from bitlens.runtime.deploy.wheel import HOW_TO_MAKE, Wheel, found_wheels, opened_wheel
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.network import GOLDEN

WHEELS = Path("dist")
SERVICE_EXTRAS = ("web",)  # what `bitlens demo` serves its page with
ESTIMATED_BYTES = 60_000_000, 110_000_000, 150_000_000
"""Of a virtual environment with bitlens, of NumPy, of an extra with compiled packages: guessed, on the large side."""


@dataclass(frozen=True)
class Order:
    """What is to be deployed.

    Parameters
    ----------
    bundle : Path
    bundle_sha256 : str
        Of the whole file.
    wheels : tuple of Wheel
        To choose from, board by board.
    extras : tuple of str
        Of bitlens, sorted.
    is_offline : bool
        Whether boards get their dependencies from here.
    wheelhouse : Path or None
        The folder those are taken from; None asks pip's index.
    certificate : Path or None
        The desktop's, to compare with.
    has_service : bool
    demo_options : tuple of str
        That the service gives to `bitlens demo`.
    """

    bundle: Path
    bundle_sha256: str
    wheels: tuple[Wheel, ...]
    extras: tuple[str, ...]
    is_offline: bool
    wheelhouse: Path | None
    certificate: Path | None
    has_service: bool
    demo_options: tuple[str, ...]

    @property
    def bundle_name(self) -> str:
        """What the bundle is called on a board."""
        stem = re.sub("[^A-Za-z0-9_.-]", "_", self.bundle.stem).strip(".-")[:60]
        return f"{stem or 'bundle'}.bitlens"

    def on(self, board: Board) -> Order:
        """Add what a service that is there already needs: it goes on with the new version, whether asked for or not."""
        if UNIT not in board.programs:
            return self
        return replace(self, extras=tuple(sorted({*self.extras, *SERVICE_EXTRAS})))

    def needed_bytes(self, board: Board) -> int:
        """Estimate the disk space that an installation on this board takes while it is made."""
        environment, numpy, extra = ESTIMATED_BYTES
        files = 2 * self.bundle.stat().st_size + 2 * max(wheel.path.stat().st_size for wheel in self.wheels)
        heavy = [each for each in self.extras if each not in SERVICE_EXTRAS]
        return files + environment + (0 if board.uses_system_packages else numpy) + len(heavy) * extra

    def content(self, wheel: Wheel) -> str:
        """Digest of what a version is made from: the same files make the same."""
        facts = [self.bundle_sha256, self.bundle_name, wheel.path.name, file_sha256(wheel.path), list(self.extras)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file.

    Raises
    ------
    BitlensError
        If it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while piece := stream.read(2**20):
                digest.update(piece)
    except OSError as error:
        raise BitlensError(f"cannot read {path} ({error.strerror})") from error
    return digest.hexdigest()


def checked_order(
    bundle: Path,
    *,
    wheels: Sequence[Path] = (),
    extras: Sequence[str] = (),
    is_offline: bool = False,
    wheelhouse: Path | None = None,
    certificate: Path | None = None,
    has_service: bool = False,
    demo_options: str = "",
) -> Order:
    """Check on this machine all that can be.

    Parameters
    ----------
    bundle : Path
    wheels : sequence of Path
        Those in `dist/` of this version of bitlens if none is given.
    extras : sequence of str
    is_offline : bool
    wheelhouse : Path, optional
        Means `is_offline`.
    certificate : Path, optional
    has_service : bool
    demo_options : str
        As on a command line.

    Raises
    ------
    BitlensError
        If a file is missing or damaged, or the bundle cannot be verified on a board.
    """
    if not is_bundle(bundle):
        raise BitlensError(f"{bundle} is no bundle: give a .bitlens file that `bitlens export` wrote")
    opened = open_bundle(bundle)
    if GOLDEN not in opened.records:
        raise BitlensError(
            f"{bundle} has no golden inputs, so nothing could be verified there: export a run folder, or a QONNX file "
            "with --images"
        )
    if certificate is not None:
        told = read_certificate(certificate)
        with context(str(certificate)):
            require_same_bundle(told, opened.sha256)
    known = metadata("bitlens").get_all("Provides-Extra") or []
    odd = [extra for extra in extras if extra not in known]  # pip would pass over it without a word
    if odd:
        raise BitlensError(f"--extras names {odd[0]!a}, expected some of {', '.join(known)}, with commas between")
    if wheelhouse is not None and not wheelhouse.is_dir():
        raise BitlensError(f"--wheelhouse {wheelhouse} is no folder: give one with the wheels that bitlens needs")
    try:
        options = tuple(shlex.split(demo_options))
    except ValueError as error:
        raise BitlensError(f"--demo-options cannot be read as a command line ({error}): check the quotes") from error
    if not all(option.isprintable() for option in options):
        raise BitlensError("--demo-options holds characters that are not printable: leave them out")
    if options and not has_service:
        raise BitlensError("--demo-options are those of the service: give --service too")
    own = version("bitlens")
    found = tuple(opened_wheel(path) for path in wheels) if wheels else found_wheels(WHEELS, own)
    if not found:
        raise BitlensError(f"there is no wheel of bitlens {own} in {WHEELS}/: give one with --wheel, {HOW_TO_MAKE}")
    return Order(
        bundle=bundle,
        bundle_sha256=opened.sha256,
        wheels=found,
        extras=tuple(sorted({*extras, *(SERVICE_EXTRAS if has_service else ())})),
        is_offline=is_offline or wheelhouse is not None,
        wheelhouse=wheelhouse,
        certificate=certificate,
        has_service=has_service,
        demo_options=options,
    )
