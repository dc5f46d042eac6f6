"""A network folder as `bitlens export` writes it, and ways to tamper with it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from small_programs import images_for, small_network, small_twin

from bitlens.export.hand_over import Samples
from bitlens.export.network_folder import write_network

GOLDEN_IMAGES = 4


def exported_network(folder: Path) -> Path:
    """`small_network` with its twin, ONNX graphs and golden answers, below `folder`."""
    program = small_network()
    samples = Samples(images_for(program, GOLDEN_IMAGES), np.arange(GOLDEN_IMAGES, dtype=np.int64), None)
    return write_network(folder / "network", program, samples=samples, twin=small_twin()).folder


def changed_manifest(folder: Path, **changes: Any) -> None:
    """Replace entries of the manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replaced_member(folder: Path, name: str, content: bytes) -> None:
    """Replace a member, and its record in the manifest with it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["members"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    changed_manifest(folder, members=manifest["members"])
