"""An exported network that was never written to a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bitlens.export.bundle import EXACT_GRAPHS, WriteGraphs, manifest_facts, written_graphs
from bitlens.runtime.network import Network
from bitlens.runtime.program import Program


def network_in_memory(program: Program, graphs: Iterable[WriteGraphs] = EXACT_GRAPHS.values()) -> Network:
    members, said = written_graphs(program, graphs)
    manifest = manifest_facts(program, None) | said
    records = {name: {"sha256": "", "bytes": len(content)} for name, content in members.items()}
    return Network(Path("memory"), program, {**manifest, "members": records}, members.__getitem__, trusted=True)
