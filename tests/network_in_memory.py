"""An exported network that was never written to a file."""

from __future__ import annotations

from pathlib import Path

from bitlens.export.bundle import manifest_facts, onnx_members, tflite_members
from bitlens.runtime.engines.tflite import MANIFEST_FACTS
from bitlens.runtime.network import Network
from bitlens.runtime.program import Program


def network_in_memory(program: Program) -> Network:
    of_tflite, facts = tflite_members(program)
    members = {**onnx_members(program), **of_tflite}
    records = {name: {"sha256": "", "bytes": len(content)} for name, content in members.items()}
    manifest = {**manifest_facts(program, None), MANIFEST_FACTS: facts, "members": records}
    return Network(Path("memory"), program, manifest, members.__getitem__, trusted=True)
