"""`bitlens info`: everything a person wants to know about a network."""

from __future__ import annotations

import argparse
import json

from bitlens.runtime.engines import present_engines
from bitlens.runtime.network import Network, open_network, shown
from bitlens.runtime.program import Array, Node
from bitlens.runtime.type_check import infer_types
from bitlens.runtime.verbs.options import add_json, add_network

HELP = "describe a network"
NEEDS = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens info`."""
    add_network(parser)
    add_json(parser)


def weight_alphabet(weight: Array) -> str:
    """Say which whole numbers weights take: 'binary', 'ternary', '-7..7', or 'float32'."""
    if weight.dtype == "float32":
        return "float32"
    low, high = int(weight.min()), int(weight.max())
    if low >= -1 and high <= 1:
        return "ternary" if (weight == 0).any() else "binary"
    return f"{low}..{high}"


def layer_row(node: Node, shape: tuple[int, ...]) -> tuple[str, str, str, str]:
    """Give name, op, output shape and what is particular about a layer."""
    note = ""
    if "weight" in node.arrays:
        weight = node.arrays["weight"]
        note = f"{weight.size:,} weights, {weight_alphabet(weight)}"
    if node.op == "threshold":
        low, step, steps = node.integer("low"), node.integer("step"), node.arrays["thresholds"].shape[1]
        note = f"codes {low}..{low + step * steps}" + (" by 2" if step == 2 else "")
        note += f", step {node.number('scale'):.4g}"
    return node.name, node.op, "x".join(map(str, shape)), note


def described(network: Network) -> dict[str, object]:
    """Describe a network as JSON values."""
    types = infer_types(network.program)
    return {
        "source": str(network.source),
        "input": {"dtype": network.program.image_type.dtype, "shape": list(network.program.image_type.shape)},
        "full_precision": network.program.is_full_precision,
        "metadata": dict(network.program.metadata),
        "members": {name: record["bytes"] for name, record in network.members.items()},
        "engines": list(present_engines(network)),
        "layers": [
            dict(zip(("name", "op", "output", "note"), layer_row(node, types[node.outputs[0]].shape), strict=True))
            for node in network.program.nodes
        ],
    }


def run(arguments: argparse.Namespace) -> int:
    """Print the description."""
    network = open_network(arguments.network)
    facts = described(network)
    if arguments.json:
        print(json.dumps(facts))
        return 0
    program = network.program
    shape = "x".join(map(str, program.image_type.shape))
    kind = "x float32" if program.is_full_precision else "codes 0..255 (x = code / 255; -512..767 allowed)"
    print(f"{network.source}")
    print(f"  input    {shape}, {kind}")
    print(f"  classes  {', '.join(network.labels) or infer_types(program)[program.outputs[0]].shape[0]}")
    for name in ("precision", "model", "dataset", "test_accuracy"):
        if program.metadata.get(name) is not None:
            print(f"  {name:8} {shown(program.metadata[name])}")
    print(f"  engines  {', '.join(present_engines(network))} on this machine")
    for name, record in network.members.items():
        print(f"  {name:16} {record['bytes']:>10,} bytes")
    types = infer_types(program)
    for node in program.nodes:
        name, op, output, note = layer_row(node, types[node.outputs[0]].shape)
        print(f"  {name:16} {op:10} {output:12} {note}".rstrip())
    return 0
