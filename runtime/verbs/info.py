"""`bitlens info`: everything a person wants to know about a bundle, a bare program, an ONNX or a TFLite file."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bitlens.runtime.autodiff import spatial_activations
from bitlens.runtime.engines import capable_engines, present_engines
from bitlens.runtime.engines.tflite import MANIFEST_FACTS, tflite_refusal
from bitlens.runtime.json_form import to_json
from bitlens.runtime.layer_cost import layer_costs, stored_parameters
from bitlens.runtime.network import Network, open_network, shown
from bitlens.runtime.onnx_summary import OnnxSummary, read_onnx_summary
from bitlens.runtime.program import Array, Node
from bitlens.runtime.shipped import SHIPPED, network_path
from bitlens.runtime.tflite_summary import (
    TFLiteMetadata,
    TFLiteQuantization,
    TFLiteSignature,
    TFLiteSummary,
    TFLiteTensor,
    read_tflite_summary,
)
from bitlens.runtime.type_check import infer_types
from bitlens.runtime.verbs.options import add_json

HELP = "describe a network, or an ONNX or TFLite file"
NEEDS = ()

COLUMNS = 100
LABEL_COLUMNS = 12
NAME_COLUMNS = 20
ONNX_SUFFIXES = (".onnx", ".qonnx")
TFLITE_SUFFIXES = (".tflite",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens info`."""
    parser.add_argument(
        "network",
        type=network_path,
        help=".bitlens or .program file, any .onnx, QONNX or .tflite file, or a network that comes with bitlens: "
        f"{', '.join(SHIPPED)}",
    )
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
    program = network.program
    types, costs = infer_types(program), {cost.name: cost for cost in layer_costs(program)}
    return {
        "kind": "bundle" if network.sha256 else "program",
        "source": str(network.source),
        "sha256": network.sha256 or None,
        "trusted": network.trusted if network.sha256 else None,
        "input": {"dtype": program.image_type.dtype, "shape": list(program.image_type.shape)},
        "picture_rule": network.picture_rule,
        "classes": types[program.outputs[0]].shape[0],
        "full_precision": program.is_full_precision,
        "metadata": dict(program.metadata),
        "tflite": network.manifest.get(MANIFEST_FACTS),
        "members": {name: record["bytes"] for name, record in network.members.items()},
        "engines": list(present_engines(network)),
        "engines_if_trusted": list(capable_engines(network)),
        "feature_maps": list(spatial_activations(program)),
        "layers": [
            dict(zip(("name", "op", "output", "note"), layer_row(node, types[node.outputs[0]].shape), strict=True))
            | ({"cost": asdict(costs[node.name])} if node.name in costs else {})
            for node in program.nodes
        ],
        "weights": sum(cost.weights for cost in costs.values()),
        "weight_bytes": sum(cost.weight_bytes for cost in costs.values()),
        "parameters": stored_parameters(program),
        "macs": sum(cost.macs for cost in costs.values()),
        "bit_operations": sum(cost.bit_operations for cost in costs.values()),
    }


def _cut(text: object, columns: int) -> str:
    line = shown(text)
    return line if len(line) <= columns else line[: columns - 3] + "..."


def _said(label: str, text: object) -> str:
    """Give a labelled line, broken where it is wider than a terminal."""
    start = f"  {_cut(label, LABEL_COLUMNS - 1):{LABEL_COLUMNS}}"
    return textwrap.fill(shown(text), COLUMNS, initial_indent=start, subsequent_indent=" " * len(start))


def _table(rows: Sequence[tuple[str, ...]], numeric: tuple[int, ...]) -> list[str]:
    """Columns as wide as they must be, the first cut to `NAME_COLUMNS`; the header is the first row."""
    cut = [(_cut(name, NAME_COLUMNS), *(_cut(cell, 40) for cell in cells)) for name, *cells in rows]
    widths = [max(len(row[column]) for row in cut) for column in range(len(cut[0]))]
    return [
        ("  " + "  ".join(f"{cell:{'>' if i in numeric else '<'}{widths[i]}}" for i, cell in enumerate(row)))
        .rstrip()[:COLUMNS]
        for row in cut
    ]  # fmt: skip


def _training_lines(network: Network) -> list[str]:
    metadata = network.program.metadata
    fit = metadata.get("fit")
    fit = fit if isinstance(fit, dict) else {}
    run = [f"{name} {metadata[name]}" for name in ("model", "width", "dataset") if metadata.get(name) is not None]
    run += [f"{name} {fit[name]}" for name in ("epochs", "seed") if name in fit]
    lines = [_said("trained", ", ".join(run))] if run else []
    accuracy = metadata.get("test_accuracy")
    if isinstance(accuracy, int | float):
        lines.append(_said("accuracy", f"{100 * accuracy:.2f} % of the test images"))
    versions = metadata.get("versions")
    if isinstance(versions, dict):
        lines.append(_said("versions", ", ".join(f"{name} {number}" for name, number in versions.items())))
    return lines


def network_lines(network: Network) -> list[str]:
    """Describe a network for a person, at most `COLUMNS` wide."""
    program = network.program
    channels, *size = (*program.image_type.shape, 1, 1)[:3]
    types = infer_types(program)
    kind = "x float32" if program.is_full_precision else "codes 0..255 (x = code / 255; -512..767 allowed)"
    lines = [_cut(network.source, COLUMNS)]
    if network.sha256:
        trusted = "trusted" if network.trusted else "not trusted: `bitlens trust FILE` if you know who made it"
        lines += [_said("sha256", network.sha256), _said("trust", trusted)]
    grey = ", turned to grey" if channels == 1 else ""
    lines += [
        _said("input", f"{'x'.join(map(str, program.image_type.shape))}, {kind}"),
        _said(
            "pictures",
            f"any size{grey}, cropped to the centre, resized to {size[1]}x{size[0]} ({network.picture_rule})",
        ),
        _said("classes", ", ".join(network.labels) or types[program.outputs[0]].shape[0]),
    ]
    if program.metadata.get("precision") is not None:
        lines.append(_said("precision", program.metadata["precision"]))
    lines += _training_lines(network)
    lines.append(_said("engines", f"{', '.join(present_engines(network))} on this machine"))
    untrusted = sorted(set(capable_engines(network)) - set(present_engines(network)))
    if untrusted:
        lines.append(_said("", f"{', '.join(untrusted)} too, if it were trusted"))
    maps = [f"{name} {'x'.join(map(str, types[name].shape))}" for name in spatial_activations(program)]
    lines.append(_said("maps", ", ".join(maps) or "none: no feature map with a height and a width"))
    if tflite_refusal(network.manifest):
        lines.append(_said("no TFLite", tflite_refusal(network.manifest)))
    if network.members:
        rows = [("member", "bytes"), *((name, f"{record['bytes']:,}") for name, record in network.members.items())]
        lines += ["", *_table(rows, (1,))]
    costs = {cost.name: cost for cost in layer_costs(program)}
    table = [("layer", "op", "output", "bits", "bytes", "MACs", "")]
    for node in program.nodes:
        name, op, output, note = layer_row(node, types[node.outputs[0]].shape)
        cost = costs.get(name)
        figures = ("", "", "") if cost is None else (str(cost.weight_bits), f"{cost.weight_bytes:,}", f"{cost.macs:,}")
        table.append((name, op, output, *figures, note))
    lines += ["", *_table(table, (3, 4, 5)), ""]
    weights, stored = sum(cost.weights for cost in costs.values()), sum(cost.weight_bytes for cost in costs.values())
    if weights:
        per_weight = f"{stored:,} bytes, {8 * stored / weights:.2f} bits each"
        lines.append(_said("weights", f"{weights:,} in {per_weight}; {stored_parameters(program):,} parameters in all"))
    macs, operations = sum(cost.macs for cost in costs.values()), sum(cost.bit_operations for cost in costs.values())
    lines.append(_said("an image", f"{macs:,} multiplications, {operations:,} bit operations"))
    return lines


def _counted(values: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in values.items()) or "none"


def onnx_lines(path: Path, summary: OnnxSummary) -> list[str]:
    """Describe an ONNX file for a person, at most `COLUMNS` wide."""

    def said(values: tuple[tuple[str, str, tuple[str, ...]], ...]) -> str:
        return ", ".join(f"{name} {type} ({', '.join(sides)})" for name, type, sides in values) or "none"

    opsets = ", ".join(f"{domain} {version}" for domain, version in summary.opsets.items())
    return [
        _cut(path, COLUMNS),
        _said("made by", summary.producer or "unknown"),
        _said("opset", opsets or "none"),
        _said("inputs", said(summary.inputs)),
        _said("outputs", said(summary.outputs)),
        _said("ops", _counted(summary.ops)),
        _said("quantizers", _counted(summary.quantizers)),
        _said("constants", f"{summary.initializers:,} with {summary.initializer_elements:,} elements"),
    ]


def _quantization(found: TFLiteQuantization | None) -> str:
    if found is None:
        return ""
    zero = f"{found.zero_low}" if found.zero_low == found.zero_high else f"{found.zero_low}..{found.zero_high}"
    if found.scales == 1:
        return f" scale {found.low:.6g} zero {zero}"
    return f" {found.scales} scales {found.low:.6g}..{found.high:.6g} along {found.dimension}, zero {zero}"


def _tflite_tensors(tensors: Sequence[TFLiteTensor]) -> str:
    return (
        ", ".join(
            f"{each.name} {each.dtype} ({', '.join('?' if side < 0 else str(side) for side in each.shape)})"
            f"{_quantization(each.quantization)}"
            for each in tensors
        )
        or "none"
    )


def _signature(found: TFLiteSignature) -> str:
    sides = (", ".join(name for name, _ in each) for each in (found.inputs, found.outputs))
    return f"{found.key} ({' -> '.join(sides)})"


def _metadata_lines(found: TFLiteMetadata, appended: Sequence[str]) -> list[str]:
    parts = (found.name, found.version and f"version {found.version}", found.author and f"by {found.author}")
    lines = [_said("is said to be", ", ".join(part for part in (*parts, found.description, found.license) if part))]
    for each in found.normalizations:
        mean, deviation = (", ".join(f"{value:.6g}" for value in values) for values in (each.mean, each.deviation))
        lines.append(_said("normalized", f"{each.input}: (x - mean) / deviation, mean {mean}, deviation {deviation}"))
    for name, purpose in found.files:
        absent = "" if name in appended else ", which is not in it"
        lines.append(_said("file", f"{name} ({purpose}){absent}"))
    return lines


def tflite_lines(path: Path, summary: TFLiteSummary) -> list[str]:
    """Describe a TFLite file for a person, at most `COLUMNS` wide."""
    needs = f", needs TensorFlow Lite {summary.min_runtime}" if summary.min_runtime else ""
    constants = (f"{each.tensors:,} {each.dtype} in {each.bytes:,} bytes" for each in summary.constants)
    described = {name for name, _ in summary.metadata.files} if summary.metadata else set()
    others = [name for name in summary.appended if name not in described]
    lines = [
        _cut(path, COLUMNS),
        _said("description", summary.description or "none"),
        _said("format", f"TFLite, version {summary.version} of the schema{needs}"),
        _said("inputs", _tflite_tensors(summary.inputs)),
        _said("outputs", _tflite_tensors(summary.outputs)),
        *(_said("signature", _signature(each)) for each in summary.signatures),
        _said("ops", _counted(summary.ops)),
        _said("constants", ", ".join(constants) or "none"),
        _said("metadata", ", ".join(summary.entries) or "none"),
    ]
    if summary.subgraphs > 1:
        lines.insert(3, _said("subgraphs", f"{summary.subgraphs}, of which the first is shown; ops are those of all"))
    if summary.metadata:
        lines += _metadata_lines(summary.metadata, summary.appended)
    if others:
        lines.append(_said("appended", ", ".join(others)))
    return lines


def run(arguments: argparse.Namespace) -> int:
    """Print the description."""
    path: Path = arguments.network
    if path.suffix.lower() in TFLITE_SUFFIXES:
        found = read_tflite_summary(path)
        described_file = {"kind": "tflite", "source": str(path)} | to_json(found)
        print(json.dumps(described_file) if arguments.json else "\n".join(tflite_lines(path, found)))
        return 0
    if path.suffix.lower() in ONNX_SUFFIXES:
        summary = read_onnx_summary(path)
        facts = {"kind": "onnx", "source": str(path)} | asdict(summary)
        print(json.dumps(facts) if arguments.json else "\n".join(onnx_lines(path, summary)))
        return 0
    network = open_network(path)
    print(json.dumps(described(network)) if arguments.json else "\n".join(network_lines(network)))
    return 0
