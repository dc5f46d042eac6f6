"""Program files: equal after a round trip, the same bytes every time, and nothing but a refusal for anything else."""

from __future__ import annotations

import hashlib
import json
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.make_golden import GOLDEN_ANSWERS, GOLDEN_PROGRAM, golden_program
from small_programs import conv2d, image_input, residual_network, small_network, small_twin

from bitlens.runtime import program_file
from bitlens.runtime.autodiff import INPUT_GRADIENT, gradient_program
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.interpreter import interpret
from bitlens.runtime.program import Array, Program
from bitlens.runtime.program_file import program_bytes, program_from_bytes, read_program, write_program

PREFIX_BYTES = 48
PEAK_BYTES = 128 * 2**20

Header = dict[str, Any]

PROGRAMS: dict[str, Callable[[], Program]] = {
    "small_network": small_network,
    "small_twin": small_twin,
    "residual_network": residual_network,
}


def check_equal(got: Program, expected: Program) -> None:
    """Equal in everything, bytes and dtypes of arrays included."""
    assert got.inputs == expected.inputs
    assert got.outputs == expected.outputs
    assert got.metadata == expected.metadata
    assert len(got.nodes) == len(expected.nodes)
    for ours, theirs in zip(got.nodes, expected.nodes, strict=True):
        for field in ("op", "name", "inputs", "outputs", "attributes"):
            assert getattr(ours, field) == getattr(theirs, field)
        assert ours.arrays.keys() == theirs.arrays.keys()
        for name, array in theirs.arrays.items():
            assert ours.arrays[name].dtype == array.dtype
            assert ours.arrays[name].shape == array.shape
            assert ours.arrays[name].tobytes() == np.ascontiguousarray(array).tobytes(), f"{ours.name}: {name}"


def taken_apart(data: bytes) -> tuple[Header, bytes]:
    """Header and arrays of a file, read by its documented layout alone."""
    magic, version, length = struct.unpack_from("<8sII", data)
    assert (magic, version) == (b"bitlens\n", 1)
    return json.loads(data[PREFIX_BYTES : PREFIX_BYTES + length]), data[PREFIX_BYTES + length :]


def put_together(header: Header | bytes, arrays: bytes, *, version: int = 1, length: int | None = None) -> bytes:
    """A file with a correct checksum, whatever is in it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(PREFIX_BYTES + len(text)) % 64)
    fixed = struct.pack("<8sII", b"bitlens\n", version, len(text) if length is None else length)
    return fixed + hashlib.sha256(fixed + text + arrays).digest() + text + arrays


def tiny() -> Program:
    """The smallest program with packed, raw and float constants."""
    return replace(
        small_twin(),
        inputs=(image_input((1, 2, 2)),),
        nodes=(conv2d("image", "out", np.array([[[[1, -1], [-1, 1]]]], np.int8), pad=np.array([7], np.int16)),),
        outputs=("out",),
        metadata={},
    )


def check_refused(data: bytes) -> str:
    """Refused with one sentence, in little memory; the message."""
    tracemalloc.start()
    try:
        with pytest.raises(BitlensError) as caught:
            program_from_bytes(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert len(message) < 400
    assert peak < PEAK_BYTES
    return message


@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS)
def test_round_trip(make: Callable[[], Program], tmp_path: Path) -> None:
    write_program(make(), tmp_path / "a.program")
    check_equal(read_program(tmp_path / "a.program"), make())


@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS)
def test_the_same_program_gives_the_same_bytes(make: Callable[[], Program]) -> None:
    data = program_bytes(make())
    assert program_bytes(make()) == data
    assert program_bytes(program_from_bytes(data)) == data
    assert put_together(*taken_apart(data)) == data or json.dumps(taken_apart(data)[0])  # layout as documented
    header, arrays = taken_apart(data)
    fixed = data[:16]
    text = data[PREFIX_BYTES : len(data) - len(arrays)]
    assert data[16:48] == hashlib.sha256(fixed + text + arrays).digest()
    assert header["outputs"] == list(make().outputs)


def test_check_equal_can_fail() -> None:
    with pytest.raises(AssertionError, match="conv1: weight"):
        check_equal(small_network(1), replace(small_network(1), nodes=small_network(4).nodes))


@pytest.mark.parametrize(
    ("alphabet", "bits"),
    [((-1, 1), 1), ((0, 1), 1), ((5,), 1), ((-1, 0, 1), 2), ((-3, -1, 1, 3), 2), ((-7, 0, 7), 4), ((-15, 1, 15), 4)],
    ids=str,
)
@pytest.mark.parametrize("outputs", [1, 7, 64])
def test_weights_are_packed(alphabet: tuple[int, ...], bits: int, outputs: int) -> None:
    draw = np.random.default_rng(outputs)
    weight = draw.choice(alphabet, (outputs, 3, 3, 3)).astype(np.int8)
    weight.flat[: len(alphabet)] = alphabet
    program = Program((image_input((3, 4, 4)),), (conv2d("image", "out", weight),), ("out",))
    data = program_bytes(program)
    header, arrays = taken_apart(data)
    record = header["nodes"][0]["arrays"]["weight"]
    assert record["bits"] == bits
    assert record["bytes"] == -(-weight.size * bits // 8)
    assert len(arrays) == -(-record["bytes"] // 64) * 64
    # Field by field as documented: (value - low) / step, lowest bits first.
    stored = arrays[record["offset"] :][: record["bytes"]]
    whole = int.from_bytes(stored, "little")
    fields = [(whole >> (bits * place)) % 2**bits for place in range(weight.size)]
    assert [record["low"] + record["step"] * field for field in fields] == weight.ravel().tolist()
    check_equal(program_from_bytes(data), program)


def test_wide_weights_are_stored_as_they_are() -> None:
    weight = np.arange(-9, 9, dtype=np.int8).reshape(1, 2, 3, 3)
    program = Program((image_input((2, 4, 4)),), (conv2d("image", "out", weight),), ("out",))
    header, arrays = taken_apart(program_bytes(program))
    record = header["nodes"][0]["arrays"]["weight"]
    assert "bits" not in record
    assert arrays[record["offset"] :][: record["bytes"]] == weight.tobytes()


def test_a_shared_array_is_stored_once() -> None:
    weight = np.ones((2, 2, 1, 1), np.int8)
    shared = (conv2d("image", "a", weight), conv2d("a", "out", weight))
    program = Program((image_input((2, 4, 4)),), shared, ("out",))
    data = program_bytes(program)
    assert len(taken_apart(data)[1]) == 64
    first, second = program_from_bytes(data).nodes
    assert first.arrays["weight"] is second.arrays["weight"]


def test_arrays_that_were_read_cannot_be_written() -> None:
    program = program_from_bytes(program_bytes(small_network()))
    for node in program.nodes:
        for array in node.arrays.values():
            assert not array.flags.writeable


def test_every_truncation_is_refused() -> None:
    data = program_bytes(tiny())
    for length in range(len(data)):
        with pytest.raises(BitlensError, match=r"not a bitlens program|damaged or cut short"):
            program_from_bytes(data[:length])
    for more in (b"\0", b"\0" * 64, data):
        with pytest.raises(BitlensError, match="damaged or cut short"):
            program_from_bytes(data + more)


@pytest.mark.parametrize("make", [tiny, small_network])
def test_a_flipped_bit_in_any_byte_is_refused(make: Callable[[], Program]) -> None:
    data = program_bytes(make())
    draw = np.random.default_rng(3)
    for place in range(len(data)):
        flips = range(8) if place < PREFIX_BYTES else [int(draw.integers(8))]
        for bit in flips:
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            with pytest.raises(BitlensError, match=r"not a bitlens program|damaged or cut short|update bitlens"):
                program_from_bytes(bytes(damaged))


def test_a_newer_version_says_so() -> None:
    data = put_together({}, b"", version=2)
    assert check_refused(data) == "format version 2, this bitlens reads up to 1: update bitlens"
    assert "damaged" in check_refused(put_together({}, b"", version=0))


@pytest.mark.parametrize("content", [b"", b"bitlens\n", b"PK\3\4" + bytes(100), b'{"inputs": []}', bytes(100)])
def test_other_files_are_refused(content: bytes) -> None:
    assert check_refused(content) == "not a bitlens program: expected a file that `bitlens export` wrote"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BitlensError, match=r"cannot read .*no\.program \(No such file or directory\)"):
        read_program(tmp_path / "no.program")
    with pytest.raises(BitlensError, match=r"cannot read .* \(Is a directory\)"):
        read_program(tmp_path)


def test_message_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.program").write_bytes(b"x")
    with pytest.raises(BitlensError, match=r"^.*a\.program: not a bitlens program"):
        read_program(tmp_path / "a.program")


# Hostile files: the checksum is right, the content is not.


def first_node(header: Header) -> Header:
    node: Header = header["nodes"][0]
    return node


def weight_of(header: Header) -> Header:
    record: Header = first_node(header)["arrays"]["weight"]
    return record


def set_in(*path: str | int, to: object) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        place: Any = header
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


def removed(*path: str | int) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        place: Any = header
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


WEIGHT = ("nodes", 0, "arrays", "weight")
PAD = ("nodes", 0, "arrays", "pad")

HOSTILE: dict[str, tuple[Callable[[Header], None], str]] = {
    "huge shape": (set_in(*WEIGHT, "shape", to=[2**40, 2**40, 3, 3]), "out of bounds"),
    "huge empty shape": (set_in(*WEIGHT, "shape", to=[0, 10**30]), "is not a whole number"),
    "shape of many sides": (set_in(*WEIGHT, "shape", to=[1] * 10_000), "is not a shape"),
    "shape larger than its bytes": (set_in(*WEIGHT, "shape", to=[2**20, 1, 2, 2]), "does not fit, expected 524288"),
    "negative side": (set_in(*WEIGHT, "shape", to=[-1, 1, 2, 2]), "out of bounds"),
    "shape of floats": (set_in(*WEIGHT, "shape", to=[1.0, 1, 2, 2]), "1.0 is not a whole number"),
    "shape is a word": (set_in(*WEIGHT, "shape", to="large"), "'large' is not a shape"),
    "negative offset": (set_in(*PAD, "offset", to=-64), "overlaps another one, or is not aligned"),
    "offset beyond the file": (set_in(*WEIGHT, "offset", to=2**20), "does not fit"),
    "offset beyond 64 bits": (set_in(*WEIGHT, "offset", to=10**30), "is not a whole number of 64 bits"),
    "offset not aligned": (set_in(*WEIGHT, "offset", to=65), "is not aligned"),
    "arrays overlap": (set_in(*WEIGHT, "offset", to=0), "overlaps"),
    "bytes negative": (set_in(*WEIGHT, "bytes", to=-1), "an array of -1 bytes"),
    "bytes is true": (set_in(*WEIGHT, "bytes", to=True), "True is not a whole number"),
    "array type unknown": (set_in(*WEIGHT, "dtype", to="object"), "'object' is not an array type"),
    "array type of another kind": (set_in(*PAD, "dtype", to="float32"), "header is not of the expected form"),
    "array type not taken": (set_in(*WEIGHT, "dtype", to="uint8"), "packed values do not fit uint8"),
    "3-bit fields": (set_in(*WEIGHT, "bits", to=3), "3-bit fields"),
    "0-bit fields": (set_in(*WEIGHT, "bits", to=0), "0-bit fields"),
    "field below its type": (set_in(*WEIGHT, "low", to=-129), "packed values do not fit int8"),
    "field above its type": (set_in(*WEIGHT, "low", to=127), "packed values do not fit int8"),
    "low beyond 64 bits": (set_in(*WEIGHT, "low", to=10**30), "header is not of the expected form"),
    "step 3": (set_in(*WEIGHT, "step", to=3), "packed values do not fit"),
    "step missing": (removed(*WEIGHT, "step"), "'step' is missing"),
    "unknown op": (set_in("nodes", 0, "op", to="eval"), "uses op 'eval', which this version of bitlens does not know"),
    "input nobody writes": (set_in("nodes", 0, "inputs", to=["other"]), "reads 'other', which nothing before"),
    "cycle": (set_in("nodes", 0, "inputs", to=["out"]), "reads 'out', which nothing before it writes"),
    "no inputs of a node": (set_in("nodes", 0, "inputs", to=[]), "does not have the form of this op"),
    "output written twice": (set_in("nodes", 0, "outputs", to=["image"]), "writes 'image', which is already written"),
    "output nobody writes": (set_in("outputs", to=["nothing"]), "output 'nothing' is written by nothing"),
    "no output": (set_in("outputs", to=[]), "at least one input and one output"),
    "no input": (set_in("inputs", to=[]), "at least one input and one output"),
    "attribute missing": (removed("nodes", 0, "attributes", "groups"), "'groups' is None, expected a whole number"),
    "attribute of another type": (set_in("nodes", 0, "attributes", "groups", to=[1]), "expected a whole number"),
    "attribute nested": (set_in("nodes", 0, "attributes", "groups", to={"a": 1}), "is not an attribute"),
    "attribute null": (set_in("nodes", 0, "attributes", "groups", to=None), "None is not an attribute"),
    "attribute true": (set_in("nodes", 0, "attributes", "groups", to=True), "True is not an attribute"),
    "attribute list of words": (set_in("nodes", 0, "attributes", "stride", to=["1", "1"]), "is not a whole number"),
    "attribute huge": (set_in("nodes", 0, "attributes", "groups", to=2**62), "do not fit 1 input channels"),
    "attribute not a number": (set_in("nodes", 0, "attributes", "groups", to=float("nan")), "NaN is not a number"),
    "metadata not a number": (set_in("metadata", to={"accuracy": float("inf")}), "Infinity is not a number"),
    "constant missing": (removed(*WEIGHT), "'weight' is missing"),
    "name empty": (set_in("nodes", 0, "name", to=""), "'' is not a name"),
    "name a number": (set_in("nodes", 0, "name", to=5), "5 is not a name"),
    "name very long": (set_in("nodes", 0, "name", to="x" * 10**6), "is not a name"),
    "name that clears the terminal": (set_in("nodes", 0, "name", to="\x1b[2J"), "is not a name"),
    "name with a lone surrogate": (set_in("nodes", 0, "name", to="\ud800"), "is not a name"),
    "input type unknown": (set_in("inputs", 0, "dtype", to="int64"), "is of type 'int64', expected one of"),
    "input bool": (set_in("inputs", 0, "dtype", to="bool"), "input 'image' is bool, expected numbers"),
    "input range impossible": (set_in("inputs", 0, "high", to=2**15), "claims the range -512 to 32768"),
    "input range upside down": (set_in("inputs", 0, "high", to=-513), "claims the range -512 to -513"),
    "input scale 0": (set_in("inputs", 0, "scale", to=0), "0 is not a scale"),
    "input scale a word": (set_in("inputs", 0, "scale", to="1"), "'1' is not a scale"),
    "input huge": (set_in("inputs", 0, "shape", to=[1, 2**14, 2**14]), "out of bounds"),
    "input empty": (set_in("inputs", 0, "shape", to=[1, 0, 2]), "out of bounds"),
    "input twice": (lambda header: header["inputs"].append(header["inputs"][0]), "'image' is declared twice"),
    "node twice": (
        lambda header: header["nodes"].append({**first_node(header), "outputs": ["b"]}),
        "a second node has this name",
    ),
    "too many nodes": (lambda header: header.update(nodes=[{}] * 100_000), "100000 nodes, expected at most 10000"),
    "10001 nodes": (lambda header: header.update(nodes=[0] * 10_001), "10001 nodes, expected at most 10000"),
    "sum too large": (set_in(*PAD, "low", to=2**15 - 1), ""),
}  # fmt: skip


def with_padding() -> Program:
    """`tiny`, its pad code in use."""
    program = tiny()
    (node,) = program.nodes
    return replace(program, nodes=(replace(node, attributes={**node.attributes, "padding": (1, 1, 1, 1)}),))


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_header(change: Callable[[Header], None], message: str) -> None:
    header, arrays = taken_apart(program_bytes(with_padding()))
    program_from_bytes(put_together(header, arrays))
    change(header)
    data = put_together(header, arrays)
    if not message:
        program_from_bytes(data)  # another pad code is another network
        return
    assert message in check_refused(data)


@pytest.mark.parametrize("wrong", [None, True, 3, -1, 1.5, "text", [], {}, [[]], [None], {"a": []}], ids=repr)
def test_wrong_type_of_every_field(wrong: object) -> None:
    """Each value anywhere in the header in turn."""
    data = program_bytes(with_padding())

    def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
        found = [path] if path else []
        items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
        for key, inner in items:
            found += places(inner, (*path, key))
        return found

    whole, arrays = taken_apart(data)
    tried = places(whole)
    assert len(tried) > 40
    for path in tried:
        header, _ = taken_apart(data)
        set_in(*path, to=wrong)(header)
        try:
            program_from_bytes(put_together(header, arrays))
        except BitlensError as error:
            assert "\n" not in str(error)  # noqa: PT017 - a value that happens to fit is no error


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"inputs":' * 50_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe\x00",
        b'{"inputs": 1e999}',
        b'{"inputs": ' + b"1" * 5000 + b"}",
        b'{"inputs": [], "nodes": [], "outputs": [], "metadata": []}',
        b"[" + b"[]," * 600_000 + b"[]]",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_header_that_is_not_one(text: bytes) -> None:
    assert "its header is not of the expected form" in check_refused(put_together(text, b""))


@pytest.mark.parametrize("length", [0, 2**21 + 1, 2**32 - 1])
def test_header_of_a_length_it_cannot_have(length: int) -> None:
    assert f"its header claims {length} bytes" in check_refused(put_together(b"{}", b"", length=length))


def test_a_million_nodes_are_refused_before_they_are_made() -> None:
    assert "its header claims" in check_refused(put_together(b'{"nodes": [' + b"{}," * 2_000_000 + b"{}]}", b""))


def test_one_stretch_of_bytes_is_not_unpacked_many_times() -> None:
    header, _ = taken_apart(program_bytes(tiny()))
    node = first_node(header)
    side = 2**12
    # 2 MiB of file would become 16 MiB of weights, for each of 500 nodes.
    shapes = [[1, side * side // (2**place), 2**place // 1, 1] for place in range(10)]
    node["arrays"] = {
        f"w{place}": {
            "dtype": "int8",
            "shape": shape,
            "bits": 1,
            "low": 0,
            "step": 1,
            "offset": 0,
            "bytes": side * side // 8,
        }
        for place, shape in enumerate(shapes)
    }
    assert "overlaps another one" in check_refused(put_together(header, bytes(side * side // 8)))


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = program_bytes(small_network())
    monkeypatch.setattr(program_file, "MAX_UNPACKED_BYTES", 500)
    assert "unpack to more than 500 bytes" in check_refused(data)
    monkeypatch.setattr(program_file, "MAX_FILE_BYTES", len(data) - 1)
    (tmp_path / "a.program").write_bytes(data)
    with pytest.raises(BitlensError, match=rf"has more than {len(data) - 1} bytes"):
        read_program(tmp_path / "a.program")
    with pytest.raises(BitlensError, match="use a smaller network"):
        program_bytes(small_network())


# What cannot be written.


def test_a_program_that_does_not_check_is_not_written(tmp_path: Path) -> None:
    wrong = replace(small_network(), outputs=("nothing",))
    with pytest.raises(BitlensError, match="output 'nothing' is written by nothing"):
        write_program(wrong, tmp_path / "a.program")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), np.zeros(2)], ids=repr)
def test_metadata_that_json_has_no_word_for(value: object) -> None:
    with pytest.raises(BitlensError, match="the metadata holds something that JSON does not"):
        program_bytes(replace(small_network(), metadata={"accuracy": value}))


def test_a_constant_of_another_type_is_not_written() -> None:
    program = tiny()
    (node,) = program.nodes
    wrong = replace(node, arrays={**node.arrays, "extra": np.zeros(2, np.int64)})
    with pytest.raises(BitlensError, match="a constant is int64, expected one of int8"):
        program_bytes(replace(program, nodes=(wrong,)))


def test_a_gradient_program_is_not_written() -> None:
    with pytest.raises(BitlensError, match="write the network instead"):
        program_bytes(gradient_program(small_network()))


# Format 1, for ever.


def answers(program: Program) -> dict[str, Array]:
    with np.load(GOLDEN_ANSWERS, allow_pickle=False) as stored:
        feeds = {"image": stored["image"], "seed": stored["seed"]}
    wanted = [*program.outputs, INPUT_GRADIENT]
    return interpret(gradient_program(program), feeds, wanted)


def test_golden_file_of_format_1_gives_its_stored_answers() -> None:
    assert GOLDEN_PROGRAM.stat().st_size < 20_000
    got = answers(read_program(GOLDEN_PROGRAM))
    with np.load(GOLDEN_ANSWERS, allow_pickle=False) as stored:
        assert np.array_equal(got["sums"], stored["sums"])
        assert got["logits"].tobytes() == stored["logits"].tobytes()
        size = np.abs(stored[INPUT_GRADIENT]).max()
        # Sums of floats, whose order belongs to the machine: 8 roundings of the largest element.
        assert np.abs(got[INPUT_GRADIENT] - stored[INPUT_GRADIENT]).max() <= 8 * np.finfo(np.float32).eps * size


def test_golden_file_is_what_its_script_makes() -> None:
    check_equal(read_program(GOLDEN_PROGRAM), golden_program())


def test_golden_answers_belong_to_this_program() -> None:
    with np.load(GOLDEN_ANSWERS, allow_pickle=False) as stored:
        assert not np.array_equal(answers(small_network(9))["sums"], stored["sums"])
