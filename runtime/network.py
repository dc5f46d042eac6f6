"""An exported network on disk: a folder whose manifest names its members and their SHA-256, or a bare program file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.program import Program
from bitlens.runtime.program_file import MAX_FILE_BYTES, program_from_bytes, read_program

MANIFEST = "manifest.json"
NETWORK_PROGRAM = "network.program"
TWIN_PROGRAM = "twin.program"
FORWARD_ONNX = "forward.onnx"
GRADIENT_ONNX = "gradient.onnx"
GOLDEN = "golden.npz"

QONNX_OF_A_RUN = "network.qonnx"

MANIFEST_VERSION = 1
MAX_MANIFEST_BYTES = 2**20
_MEMBER_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)  # a file of the folder itself, never a path out of it


def _no_members(name: str) -> bytes:
    raise BitlensError(f"a bare program file has no member {name!r}")


def shown(value: object) -> str:
    """Text of something that a file says, fit for a terminal: escaped where it would steer it."""
    text = str(value)
    return text if text.isprintable() else ascii(text)


@dataclass(frozen=True)
class Network:
    """A network with everything exported beside it.

    Parameters
    ----------
    source : Path
        Where it was opened.
    program : Program
    manifest : mapping
        The manifest's JSON; empty for a bare program file.
    read : callable
        Member name -> its bytes, checked against the manifest's SHA-256.
    """

    source: Path
    program: Program
    manifest: Mapping[str, object] = field(default_factory=dict)
    read: Callable[[str], bytes] = _no_members

    @property
    def members(self) -> Mapping[str, Mapping[str, object]]:
        """Member name -> its manifest record: sha256, bytes."""
        members = self.manifest.get("members", {})
        assert isinstance(members, dict)
        return members

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class; numbers where none were given."""
        labels = self.program.metadata.get("labels")
        if isinstance(labels, list):
            return tuple(shown(label) for label in labels)
        return ()

    def has(self, member: str) -> bool:
        """Whether a member was exported."""
        return member in self.members

    def label(self, index: int) -> str:
        """Name of a class."""
        return self.labels[index] if index < len(self.labels) else str(index)

    def twin(self) -> Network | None:
        """Open the full-precision twin exported beside it; None if there is none."""
        if not self.has(TWIN_PROGRAM):
            return None
        content = self.read(TWIN_PROGRAM)
        with context(str(self.source / TWIN_PROGRAM)):
            program = program_from_bytes(content)
        return Network(self.source / TWIN_PROGRAM, program)


def _read_bounded(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise BitlensError(f"cannot read {path} ({error.strerror}): expected what `bitlens export` wrote") from error
    if len(content) > limit:
        raise BitlensError(f"{path} is larger than {limit} bytes: not what `bitlens export` wrote")
    return content


def _checked_manifest(folder: Path) -> dict[str, object]:
    try:
        manifest = json.loads(_read_bounded(folder / MANIFEST, MAX_MANIFEST_BYTES))
        version = manifest["manifest_version"]
        if isinstance(version, int) and version > MANIFEST_VERSION:
            raise BitlensError(
                f"{folder} has manifest version {version}, this bitlens reads up to {MANIFEST_VERSION}: update bitlens"
            )
        well_formed = isinstance(version, int) and all(
            _MEMBER_NAME.fullmatch(name) and isinstance(record["sha256"], str) and isinstance(record["bytes"], int)
            for name, record in manifest["members"].items()
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise BitlensError(f"{folder / MANIFEST} is damaged ({reason}): export the network again") from error
    if not well_formed:
        raise BitlensError(f"{folder / MANIFEST} is damaged: export the network again")
    return dict(manifest)


def open_network(path: Path) -> Network:
    """Open what `bitlens export` wrote, or a bare `.program` file.

    Raises
    ------
    BitlensError
        If it is missing, damaged, or made by a newer version.
    """
    path = Path(path)
    if not path.is_dir():
        return Network(path, read_program(path))
    if not (path / MANIFEST).exists() and (path / QONNX_OF_A_RUN).exists():
        raise BitlensError(f"{path} is a training run: write its network with `bitlens export {path} --output FOLDER`")
    manifest = _checked_manifest(path)
    members = manifest["members"]
    assert isinstance(members, dict)

    def read(name: str) -> bytes:
        if name not in members:
            raise BitlensError(f"{path} has no member {name!r}: export the network again")
        content = _read_bounded(path / name, MAX_FILE_BYTES)
        if hashlib.sha256(content).hexdigest() != members[name]["sha256"]:
            raise BitlensError(f"{path / name} is damaged (its SHA-256 differs): copy or export it again")
        return content

    program_bytes = read(NETWORK_PROGRAM)
    with context(str(path / NETWORK_PROGRAM)):
        program = program_from_bytes(program_bytes)
    return Network(path, program, manifest, read)
