"""Feed the loader and the native engine with programs that nobody would write: `make fuzz`.

A case is a valid program, drawn or kept from before, with something changed: an attribute, an entry of the header,
bytes of an array. The checksum is made good again, so that the change reaches the type check and the layout. Each case
ends in a `BitlensError`, or in what the reference engine computes; anything else is a finding. Cases run in a child
process, so that a crash is one too. What reaches a new refusal, or a new form of layer, is kept and changed further.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from small_programs import (
    affine,
    conv2d,
    dense,
    image_input,
    max_pool,
    reshape,
    residual_network,
    small_network,
    small_twin,
    sum_pool,
    threshold,
)

from bitlens.runtime.engines import Gradient, one_hot, open_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.network import Network
from bitlens.runtime.program import Array, Node, Program, TensorType
from bitlens.runtime.program_file import FORMAT_VERSION, MAGIC, program_bytes, program_from_bytes
from bitlens.runtime.type_check import infer_types

CORPUS = Path(__file__).parent / "golden" / "fuzz"
CASES_PER_PROCESS = 150
MOST_CPU_SECONDS = 20  # of one case
MOST_SECONDS = 1200  # of one process, on however busy a machine
MOST_ELEMENTS = 2**19  # of all maps: what is larger is opened nowhere, a fuzz run is to be fast
MOST_PRODUCTS = 2**25
MOST_KEPT_BYTES = 4096
MOST_CORPUS_BYTES = 190_000
ODD_NUMBERS = (-1, 0, 1, 2, 3, 7, 31, 32, 33, 127, 255, 256, 1023, 1024, 2**15, 2**24, 2**31 - 1, -(2**31), 2**62)


class WrongResultError(Exception):
    """The native engine and the reference differ."""


# What becomes of an input.


def outcome(data: bytes) -> set[str]:
    """Run one input; give what it reached. Whatever it raises is a finding."""
    try:
        program = program_from_bytes(data)
    except BitlensError as error:
        return {_refusal("loader", error)}
    types = infer_types(program)
    if sum(type.elements for type in types.values()) > MOST_ELEMENTS or _products(program, types) > MOST_PRODUCTS:
        return {"too large to run"}
    network = Network(Path("fuzzed.program"), program)
    try:
        reference = open_engine(network, "reference")
        engine = open_engine(network, "native")
        quick = open_engine(network, "native-int8")
        draw = np.random.default_rng(len(data))
        images = _images(draw, program)
        seed = one_hot(draw.integers(0, reference.classes, len(images)), reference.classes)
    except BitlensError as error:
        return {_refusal("engine", error)}
    reached = {_form_of(node, types) for node in program.nodes}
    try:
        expected = reference.traced_gradient(images, seed)
    except BitlensError as error:
        expected = None
        reached.add(_refusal("gradient", error))
    for part in (images[:1], images):
        _check("logits", program, reference.forward(part), engine.forward(part))
    try:
        changed = np.repeat(images[:1], 2, axis=0)
        changed[1, :, -2:, :1] = images[-1, :, -2:, :1]
        near = engine.forward_near(images[0], changed)
    except BitlensError as error:
        reached.add(_refusal("near", error))
    else:
        if not np.array_equal(near, engine.forward(changed), equal_nan=True):
            raise WrongResultError(f"near one image: {near}")
    if expected is not None:
        _check_gradient(program, expected, engine.traced_gradient(images, seed))
        quick.gradient(images, seed)
    return reached


def _images(draw: np.random.Generator, program: Program) -> Array:
    """A picture, and one that only a perturbation gives."""
    type = program.image_type
    if not type.is_integer:
        return draw.random((2, *type.shape), np.float32)
    low, high = np.clip((0, 255), type.low, type.high)
    images = draw.integers(low, high + 1, (2, *type.shape))
    images[1].flat[0], images[1].flat[-1] = type.low, type.high
    return images


def _refusal(where: str, error: BitlensError) -> str:
    words = re.sub(r"'[^']*'|\"[^\"]*\"|\([^()]*\)|\[[^\]]*\]|-?\d[\d.e+]*", "", str(error))
    return f"{where} refuses: {' '.join(words.split())[:120]}"


def _form_of(node: Node, types: dict[str, TensorType]) -> str:
    """What of a node decides which step it becomes."""
    source = types[node.inputs[0]]
    said = {key: value for key, value in node.attributes.items() if key in ("stride", "kernel", "groups", "step")}
    said["padded"] = int(any(node.attributes.get("padding") or (0,)))  # type: ignore[arg-type]
    weight = node.arrays.get("weight")
    weights = () if weight is None else (weight.shape[2:], str(weight.dtype), min(int(np.abs(weight).max()), 3))
    channels = min(source.shape[0], 70).bit_length()
    return f"{node.op} {said} {weights} {channels} {source.dtype} {source.low == -1}"


def _products(program: Program, types: dict[str, TensorType]) -> int:
    return sum(
        node.arrays["weight"][0].size * types[node.outputs[0]].elements
        for node in program.nodes
        if "weight" in node.arrays and node.arrays["weight"].ndim > 1 and len(node.arrays["weight"])
    )


def _is_exact(program: Program) -> bool:
    """Whether all engines compute the same bits: sums of floats may be taken in any order."""
    types = infer_types(program)
    sums = ("conv2d", "dense", "sum_pool")
    return not any(node.op in sums and not types[node.outputs[0]].is_integer for node in program.nodes)


def _check(what: str, program: Program, expected: Array, got: Array) -> None:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise WrongResultError(f"{what}: {got.dtype} {got.shape}, expected {expected.dtype} {expected.shape}")
    if _is_exact(program):
        if not np.array_equal(got, expected, equal_nan=expected.dtype == np.float32):
            raise WrongResultError(f"{what}: {got}, expected {expected}")
    elif not any(node.op == "threshold" for node in program.nodes):  # a code may turn with the last bit of a float
        _check_near(what, expected, got, 1e-3)


def _check_near(what: str, expected: Array, got: Array, tolerance: float) -> None:
    if not np.isfinite(expected).all():
        return
    scale = float(np.abs(expected.astype(np.float64)).max(initial=0.0))
    if not np.allclose(got, expected, rtol=0.0, atol=max(tolerance * scale, 1e-30)):
        raise WrongResultError(f"{what}: off by {np.abs(got - expected).max()} of {scale}")


def _check_gradient(program: Program, expected: Gradient, got: Gradient) -> None:
    _check("logits of the gradient", program, expected.logits, got.logits)
    for kind in ("codes", "masks"):
        for name, values in getattr(expected, kind).items():
            _check(f"{kind} of {name}", program, values, getattr(got, kind)[name])
    if _is_exact(program):
        _check_near("gradient", expected.input_gradient, got.input_gradient, 1e-2)


# Where inputs come from.


def odd_program(draw: np.random.Generator) -> Program:
    """A valid network of few, odd layers."""
    channels, side = int(draw.choice([1, 2, 3, 4, 5])), [int(n) for n in draw.integers(3, 12, 2)]
    item = image_input((channels, *side))
    program = Program((item,), (), ("image",))
    for place in range(int(draw.integers(2, 9))):
        for _ in range(20):
            node = _drawn_node(draw, program, f"t{place}")
            grown = Program(program.inputs, (*program.nodes, node), (node.outputs[0],))
            try:
                types = infer_types(grown)
            except BitlensError:
                continue
            if types[node.outputs[0]].elements <= 4096:
                program = grown
                break
    name = program.outputs[0]
    type = infer_types(program)[name]
    nodes = list(program.nodes)
    if len(type.shape) == 3:
        nodes.append(reshape(name, "flat", type.elements))
        name = "flat"
    if type.is_integer:
        nodes.append(dense(name, "sums", _weights(draw, (3, type.elements))))
        nodes.append(affine("sums", "logits", draw.normal(0, 1e-3, 3), draw.normal(0, 1, 3)))
        outputs = ("logits", "sums")
    else:
        bias = draw.normal(size=3).astype(np.float32)
        nodes.append(dense(name, "logits", draw.normal(size=(3, type.elements)).astype(np.float32), bias))
        outputs = ("logits",)  # type: ignore[assignment]
    return Program(program.inputs, tuple(nodes), outputs)


def _weights(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    kind = draw.integers(0, 6)
    if kind == 0:
        return draw.choice(np.array([-1, 1], np.int8), shape)
    limit = (1, 1, 2, 7, 127, 300)[kind]
    return draw.integers(-limit, limit + 1, shape).astype(np.int16 if kind == 5 else np.int8)


def _pair(draw: np.random.Generator, most: int) -> tuple[int, int]:
    one = int(draw.integers(1, most + 1))
    return (one, one) if draw.random() < 0.7 else (one, int(draw.integers(1, most + 1)))


def _padding(draw: np.random.Generator, most: int = 2) -> tuple[int, int, int, int]:
    if draw.random() < 0.4:
        return (0, 0, 0, 0)
    sides = draw.integers(0, most + 1, 4)
    return (1, 1, 1, 1) if draw.random() < 0.5 else (int(sides[0]), int(sides[1]), int(sides[2]), int(sides[3]))


def _drawn_node(draw: np.random.Generator, program: Program, name: str) -> Node:
    types = infer_types(program)
    names = list(types)
    source = names[-1] if draw.random() < 0.85 else str(draw.choice(names))
    type = types[source]
    channels = type.shape[0]
    ops = ["conv2d", "max_pool", "sum_pool", "threshold", "threshold", "affine", "pad", "reshape"]
    ops += ["conv2d", "conv2d"] if type.is_integer and type.high - type.low < 2**12 else []
    ops += [] if type.is_integer else ["relu", "add", "add", "threshold", "threshold"]
    ops += ["dense", "dense"] if len(type.shape) == 1 else []
    op = str(draw.choice(ops))
    if op == "conv2d":
        groups = int(draw.choice([1, 1, 1, 1, channels, 2]))
        outputs = int(draw.choice([1, 2, 3, 8, 16, 31, 32, 33, 40, 65])) * (groups if groups > 1 else 1)
        shape = (outputs, max(channels // groups, 1), *_pair(draw, 4))
        pad = None
        if type.is_integer and draw.random() < 0.3:
            pad = draw.integers(type.low, type.high + 1, channels).clip(-(2**15), 2**15 - 1).astype(np.int16)
        weight = _weights(draw, shape) if type.is_integer else draw.normal(size=shape).astype(np.float32)
        bias = None if type.is_integer else draw.normal(size=outputs).astype(np.float32)
        return conv2d(
            source, name, weight, stride=_pair(draw, 3), padding=_padding(draw), groups=groups, pad=pad, bias=bias
        )
    if op == "max_pool":
        direction = draw.choice(np.array([-1, 1], np.int8), channels)
        return max_pool(
            source, name, channels, kernel=_pair(draw, 3), stride=_pair(draw, 3), padding=_padding(draw, 1),
            direction=direction,
        )  # fmt: skip
    if op == "sum_pool":
        return sum_pool(source, name, kernel=_pair(draw, 4), stride=_pair(draw, 3), padding=_padding(draw, 1))
    if op == "threshold":
        return _drawn_threshold(draw, source, name, type)
    if op == "affine":
        reach = max(abs(type.low), abs(type.high), 1)
        return affine(source, name, draw.normal(0, 2 / reach, channels), draw.normal(0, 1, channels))
    if op == "pad":
        fill = draw.integers(type.low, type.high + 1, channels) if type.is_integer else draw.normal(size=channels)
        kind = np.int16 if type.is_integer else np.float32
        return Node("pad", name, (source,), (name,), {"padding": _padding(draw)}, {"fill": fill.astype(kind)})
    if op == "relu":
        return Node("relu", name, (source,), (name,))
    if op == "add":
        alike = [other for other in names if types[other].shape == type.shape and types[other].dtype == type.dtype]
        return Node("add", name, (source, str(draw.choice(alike))), (name,))
    if op == "dense":
        outputs = int(draw.choice([1, 3, 32, 40]))
        if type.is_integer:
            return dense(source, name, _weights(draw, (outputs, type.elements)))
        bias = draw.normal(size=outputs).astype(np.float32)
        return dense(source, name, draw.normal(size=(outputs, type.elements)).astype(np.float32), bias)
    shapes = [(type.elements,), (1, 1, type.elements), (type.elements, 1, 1), type.shape[::-1]]
    return reshape(source, name, *shapes[int(draw.integers(0, 4))])


def _drawn_threshold(draw: np.random.Generator, source: str, name: str, type: TensorType) -> Node:
    channels = type.shape[0]
    levels = int(draw.choice([1, 1, 1, 2, 3, 3, 7, 15, 255]))
    direction = draw.choice(np.array([-1, 1], np.int8), channels)
    if type.is_integer:
        drawn = draw.integers(type.low // 2 - 1, type.high // 2 + 2, (channels, levels)).astype(np.int32)
    else:
        drawn = draw.normal(size=(channels, levels)).astype(np.float32)
    ordered = np.sort(drawn, axis=1)
    ordered[direction < 0] = ordered[direction < 0, ::-1]
    low, step = ((-1, 2), (0, 1), (0, 1), (-levels, 2), (-5, 1))[int(draw.integers(0, 5))]
    box = np.sort(drawn[:, :1].repeat(2, 1) + np.array([-1, 1], drawn.dtype), axis=1)
    return threshold(
        source, name, ordered, direction=direction, low=low, step=step, scale=0.5, slope=draw.normal(size=channels),
        mask_low=box[:, 0].copy(), mask_high=box[:, 1].copy(),
    )  # fmt: skip


def changed(draw: np.random.Generator, data: bytes) -> bytes:
    """Change a program file in one place or a few; its checksum is right again, save for one in twenty."""
    length = struct.unpack_from("<I", data, 12)[0]
    header, body = json.loads(data[48 : 48 + length]), bytearray(data[48 + length :])
    for _ in range(int(draw.choice([1, 1, 1, 2, 3]))):
        if body and draw.random() < 0.3:
            at = int(draw.integers(0, len(body)))
            body[at] = int(draw.choice([0, 1, 127, 128, 255, int(draw.integers(0, 256))]))
        else:
            _change_entry(draw, header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(48 + len(text)) % 64)
    fixed = struct.pack("<8sII", MAGIC, FORMAT_VERSION, len(text))
    whole = fixed + hashlib.sha256(fixed + text + body).digest() + text + bytes(body)
    if draw.random() < 0.05:
        at = int(draw.integers(0, len(whole)))
        return whole[:at] if draw.random() < 0.5 else whole[:at] + bytes([int(draw.integers(0, 256))]) + whole[at + 1 :]
    return whole


def _change_entry(draw: np.random.Generator, header: Any) -> None:
    """Change one entry anywhere in the header: places are drawn among all, numbers more often than the rest."""
    places = [(holder, key) for holder, key in _entries(header)]
    numbers = [(holder, key) for holder, key in places if isinstance(holder[key], int | float)]
    chosen = numbers if numbers and draw.random() < 0.6 else places
    if not chosen:
        return
    holder, key = chosen[int(draw.integers(0, len(chosen)))]
    value = holder[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        near = [value + 1, value - 1, value * 2, -value, value // 2]
        holder[key] = near[int(draw.integers(0, 5))] if draw.random() < 0.7 else int(draw.choice(ODD_NUMBERS))
        if draw.random() < 0.03:
            holder[key] = float(draw.choice([0.5, -1e30, 1e300, 1e-300]))
    elif isinstance(value, str):
        others = [other[k] for other, k in places if isinstance(other[k], str)]
        holder[key] = others[int(draw.integers(0, len(others)))] if draw.random() < 0.9 else ""
    elif isinstance(value, list):
        at = int(draw.integers(0, len(value) + 1))
        action = draw.integers(0, 4)
        if action == 0 and value:
            del value[at % len(value)]
        elif action == 1 and value:
            value.insert(at, json.loads(json.dumps(value[at % len(value)])))
        elif action == 2 and len(value) > 1:
            value[at % len(value)], value[0] = value[0], value[at % len(value)]
        else:
            value.append(0)
    elif isinstance(holder, dict) and draw.random() < 0.3:
        del holder[key]
    else:
        other, k = places[int(draw.integers(0, len(places)))]
        holder[key] = json.loads(json.dumps(other[k]))


def _entries(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *_entries(value[key]))]


# The run.


def next_case(draw: np.random.Generator, kept: Sequence[bytes]) -> bytes:
    """A fresh program, as it is or changed, or one that was kept, changed."""
    kind = draw.random()
    if kind < 0.4 or not kept:
        try:
            fresh = program_bytes(odd_program(draw))
        except BitlensError:
            fresh = program_bytes(small_network())
        return fresh if kind < 0.25 else changed(draw, fresh)
    return changed(draw, kept[int(draw.integers(0, len(kept)))])


def first_inputs() -> list[bytes]:
    """Inputs that a run starts from beside the corpus."""
    return [program_bytes(program) for program in (small_network(), small_twin(), residual_network())]


def run_cases(seed: int, folder: Path) -> None:
    """Run the cases of one process: each is written down before it runs; lines of JSON say what it reached."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    draw = np.random.default_rng(seed)
    kept = first_inputs() + [path.read_bytes() for path in sorted(folder.glob("*.program"))]
    kept = [data for data in kept if _is_changeable(data)]
    for _ in range(CASES_PER_PROCESS):
        data = next_case(draw, kept)
        (folder / "current").write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, MOST_CPU_SECONDS)  # whoever lets it pass is ended
        try:
            found = {"reached": sorted(outcome(data))}
        except Exception as error:  # whatever comes is what is looked for
            found = {"finding": [f"{type(error).__name__}: {error}"[:500]]}
        print(json.dumps(found | {"data": data.hex()}), flush=True)


def _is_changeable(data: bytes) -> bool:
    try:
        json.loads(data[48 : 48 + struct.unpack_from("<I", data, 12)[0]])
    except (ValueError, struct.error):
        return False
    return True


def distil(folder: Path) -> None:
    """Make the corpus anew: of what was kept, the inputs that reach most for their size."""
    left = {path: outcome(path.read_bytes()) for path in sorted(folder.glob("*.program"))}
    for path in CORPUS.glob("*.program"):
        path.unlink()
    CORPUS.mkdir(parents=True, exist_ok=True)
    space, reached = MOST_CORPUS_BYTES, set[str]()
    while left:
        best = max(left, key=lambda path: len(left[path] - reached) / path.stat().st_size)
        new, data = left.pop(best) - reached, best.read_bytes()
        if not new:
            return
        if len(data) <= space:
            (CORPUS / best.name).write_bytes(data)
            space -= len(data)
            reached |= new


def main() -> int:
    """Fuzz for some minutes; exit with 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="takes what is kept, and findings")
    parser.add_argument("--sanitized", action="store_true", help="with the kernels of build/sanitize")
    parser.add_argument("--distil", action="store_true", help="only write the folder's best inputs into the corpus")
    parser.add_argument("--cases", type=int, help=argparse.SUPPRESS)  # of a child process: its seed
    given = parser.parse_args()
    if given.sanitized:
        import_module("sanitized_kernels")
    if given.distil:
        distil(given.folder)
        return 0
    if given.cases is not None:
        run_cases(given.cases, given.folder)
        return 0
    given.folder.mkdir(parents=True, exist_ok=True)
    reached: set[str] = set()
    for path in (*CORPUS.glob("*.program"), *given.folder.glob("*.program")):
        (given.folder / path.name).write_bytes(path.read_bytes())
    seed, cases, findings, end = given.seed, 0, 0, time.monotonic() + 60 * given.minutes
    while time.monotonic() < end:
        command = [sys.executable, __file__, "--cases", str(seed), "--folder", str(given.folder)]
        command += ["--sanitized"] if given.sanitized else []
        variable = {"BITLENS_KERNELS": ("", "avx2", "scalar", "avx512")[seed % 4]} if seed % 4 else {}
        try:
            child = subprocess.run(
                command, capture_output=True, text=True, timeout=MOST_SECONDS, env=os.environ | variable, check=False
            )
            lines, ended = child.stdout.splitlines(), f"exit {child.returncode}: {child.stderr[-4000:]}"
            crashed = child.returncode != 0
        except subprocess.TimeoutExpired as error:
            lines, ended, crashed = (error.stdout or b"").decode().splitlines(), "timeout", True
        for line in lines:
            record = json.loads(line)
            cases += 1
            data = bytes.fromhex(record["data"])
            name = hashlib.sha256(data).hexdigest()[:12]
            if "finding" in record:
                findings += 1
                (given.folder / f"finding-{name}").write_bytes(data)
                print(f"finding-{name} (seed {seed}): {record['finding'][0]}", flush=True)
            elif not reached.issuperset(record["reached"]) and len(data) <= MOST_KEPT_BYTES:
                (given.folder / f"{name}.program").write_bytes(data)
            reached.update(record.get("reached", ()))
        if crashed:
            findings += 1
            data = (given.folder / "current").read_bytes()
            name = hashlib.sha256(data).hexdigest()[:12]
            (given.folder / f"finding-{name}").write_bytes(data)
            print(f"finding-{name} (seed {seed}): {ended}", flush=True)
        seed += 1
    print(f"{cases} cases, {len(reached)} outcomes, {findings} findings; the next seed is {seed}")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
