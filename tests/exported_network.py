"""A bundle as `bitlens export` writes it, and ways to tamper with it that its seal does not show."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from small_programs import images_for, small_network, small_twin

from bitlens.export.bundle import write_bundle
from bitlens.export.hand_over import Samples
from bitlens.runtime.bundle_file import MANIFEST, bundle_bytes
from bitlens.runtime.trust import trust_bundle

GOLDEN_IMAGES = 4
NAME = "network.bitlens"


def exported_network(folder: Path) -> Path:
    """`small_network` with its twin, ONNX graphs and golden answers, below `folder`; not trusted yet."""
    program = small_network()
    samples = Samples(images_for(program, GOLDEN_IMAGES), np.arange(GOLDEN_IMAGES, dtype=np.int64), None)
    return write_bundle(folder / NAME, program, samples=samples, twin=small_twin()).bundle.path


def unpacked(path: Path) -> dict[str, bytes]:
    """Every member of a bundle, read by another reader of zips."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, members: dict[str, bytes], **facts: Any) -> None:
    """Write a sound bundle, and trust it; `facts` replace entries of the manifest among `members`."""
    content = {name: value for name, value in members.items() if name != MANIFEST}
    told = json.loads(members.get(MANIFEST, b"{}")) | facts
    for name in ("members", "bundle_version"):
        if name not in facts:
            told.pop(name, None)
    path.write_bytes(bundle_bytes(content, told))


def replaced_member(path: Path, name: str, content: bytes | None) -> None:
    """Replace a member, or remove it, and its record in the manifest with it; the new bundle is trusted."""
    from bitlens.runtime.bundle_file import open_bundle

    members = unpacked(path)
    if content is None:
        del members[name]
    else:
        members[name] = content
    packed(path, members)
    trust_bundle(open_bundle(path).sha256, path.name)
