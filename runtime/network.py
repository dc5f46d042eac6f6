"""An exported network on disk: a bundle, or a bare program file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bitlens.runtime.bundle_file import MANIFEST, is_bundle, open_bundle
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.program import Program
from bitlens.runtime.program_file import program_from_bytes, read_program
from bitlens.runtime.resize import RULE
from bitlens.runtime.trust import is_trusted

NETWORK_PROGRAM = "network.program"
TWIN_PROGRAM = "twin.program"
FORWARD_ONNX = "forward.onnx"
GRADIENT_ONNX = "gradient.onnx"
FORWARD_TFLITE = "forward.tflite"
FORWARD_TFLITE_INT8 = "forward_int8.tflite"
GRADIENT_TFLITE = "gradient.tflite"
GOLDEN = "golden.npz"

QONNX_OF_A_RUN = "network.qonnx"


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
    sha256 : str
        Of the bundle's file; empty for a bare program.
    trusted : bool
        Whether an engine may parse its ONNX and TFLite files: it is on the user's trust list, or the user says so.
    """

    source: Path
    program: Program
    manifest: Mapping[str, object] = field(default_factory=dict)
    read: Callable[[str], bytes] = _no_members
    sha256: str = ""
    trusted: bool = False

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

    @property
    def picture_rule(self) -> str:
        """Name of the rule by which a picture is made fit for it; a bare program has the one there is."""
        preprocessing = self.manifest.get("preprocessing", {})
        return str(preprocessing.get("rule")) if isinstance(preprocessing, dict) and preprocessing else RULE

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


def open_network(path: Path, *, trust: bool = False) -> Network:
    """Open what `bitlens export` wrote, or a bare `.program` file.

    Parameters
    ----------
    path : Path
    trust : bool
        Whether the user trusts it although it may not be on the trust list.

    Raises
    ------
    BitlensError
        If it is missing, damaged, or made by a newer version.
    """
    path = Path(path)
    if path.is_dir():
        raise _no_bundle(path)
    if not is_bundle(path):
        return Network(path, read_program(path), trusted=trust)
    bundle = open_bundle(path)
    content = bundle.read(NETWORK_PROGRAM)
    with context(str(path / NETWORK_PROGRAM)):
        program = program_from_bytes(content)
    return Network(path, program, bundle.manifest, bundle.read, bundle.sha256, trust or is_trusted(bundle.sha256))


def _no_bundle(folder: Path) -> BitlensError:
    if (folder / QONNX_OF_A_RUN).exists() and not (folder / MANIFEST).exists():
        return BitlensError(
            f"{folder} is a training run: write its network with `bitlens export {folder} --output NAME.bitlens`"
        )
    return BitlensError(f"{folder} is a folder, expected a .bitlens file that `bitlens export` wrote")
