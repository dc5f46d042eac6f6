"""Networks on disk: what export wrote, or a refusal. What a hostile file may hold is in `test_bundle_file`."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from exported_network import GOLDEN_IMAGES, exported_network
from small_programs import LABELS, small_network, small_twin

from bitlens.runtime.engines import open_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.golden import Golden, golden_bytes, golden_from_bytes, record_golden
from bitlens.runtime.network import GOLDEN, Network, open_network
from bitlens.runtime.program_file import program_bytes, write_program
from bitlens.runtime.resize import RULE
from bitlens.runtime.trust import TRUST_VARIABLE, trust_bundle


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_network(tmp_path_factory.mktemp("pristine"))


def refusal(path: Path) -> str:
    with pytest.raises(BitlensError) as caught:
        open_network(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_everything_that_was_exported_is_there(pristine: Path) -> None:
    network = open_network(pristine)
    assert network.labels == LABELS
    assert network.label(1) == "bee"
    assert network.label(7) == "7"
    assert set(network.members) == {
        "network.program",
        "twin.program",
        "forward.onnx",
        "gradient.onnx",
        "forward.tflite",
        "gradient.tflite",
        "golden.npz",
    }
    assert program_bytes(network.program) == program_bytes(small_network())
    for name, record in network.members.items():
        assert len(network.read(name)) == record["bytes"]
    twin = network.twin()
    assert twin is not None
    assert twin.program.is_full_precision
    assert network.picture_rule == RULE


def test_the_manifest_tells_a_reader_without_bitlens_how_to_feed_it(pristine: Path) -> None:
    manifest = open_network(pristine).manifest
    assert manifest["bundle_version"] == 1
    assert manifest["labels"] == list(LABELS)
    assert manifest["precision"] == "mixed"
    assert manifest["input"] == {
        "shape": [1, 8, 8],
        "colour": "grey",
        "dtype": "int16",
        "value": "code 0..255, x = code / 255",
        "range": [-512, 767],
    }
    preprocessing = manifest["preprocessing"]
    assert isinstance(preprocessing, dict)
    assert (preprocessing["rule"], preprocessing["size"]) == (RULE, [8, 8])
    assert manifest["layers"] == [
        {"name": "conv1", "op": "conv2d", "weights": 27, "weight_bits": 8, "input_bits": 8},
        {"name": "conv2", "op": "conv2d", "weights": 108, "weight_bits": 2, "input_bits": 2},
        {"name": "dense1", "op": "dense", "weights": 96, "weight_bits": 1, "input_bits": 1},
        {"name": "sums", "op": "dense", "weights": 18, "weight_bits": 4, "input_bits": 4},
    ]


def test_trust_comes_from_the_list_or_from_the_user(
    pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, str(tmp_path / "trusted"))
    assert not open_network(pristine).trusted
    assert open_network(pristine, trust=True).trusted
    trust_bundle(open_network(pristine).sha256, "a")
    assert open_network(pristine).trusted


def test_a_bare_program(tmp_path: Path) -> None:
    write_program(replace(small_network(), metadata={}), tmp_path / "a.program")
    network = open_network(tmp_path / "a.program")
    assert (network.members, network.labels, network.label(2)) == ({}, (), "2")
    assert network.twin() is None
    with pytest.raises(BitlensError, match=r"a bare program file has no member 'golden\.npz'"):
        network.read(GOLDEN)


def test_missing_places(tmp_path: Path) -> None:
    assert "cannot read" in refusal(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").endswith("is a folder, expected a .bitlens file that `bitlens export` wrote")


def test_labels_cannot_steer_the_terminal() -> None:
    program = replace(small_network(), metadata={"labels": ["\x1b[2J", "fünf", "\ud800", 4]})
    assert Network(Path("a"), program).labels == (r"'\x1b[2J'", "fünf", r"'\ud800'", "4")
    assert Network(Path("a"), replace(program, metadata={"labels": "abc"})).labels == ()


# Golden answers.


@pytest.fixture(scope="module")
def golden(pristine: Path) -> Golden:
    return golden_from_bytes(open_network(pristine).read(GOLDEN))


def test_golden_answers_are_those_of_the_reference(pristine: Path, golden: Golden) -> None:
    engine = open_engine(open_network(pristine), "reference")
    twin = open_engine(Network(Path("twin"), small_twin()), "reference")
    again = record_golden(engine, golden.images, golden.labels, twin=twin)
    for item in fields(Golden):
        first, second = getattr(golden, item.name), getattr(again, item.name)
        assert first.dtype == second.dtype
        assert np.array_equal(first, second), item.name
    assert golden_bytes(again) == golden_bytes(golden)
    assert len(golden.images) == GOLDEN_IMAGES
    assert np.array_equal(golden.targets, golden.logits.argmax(axis=1))
    # The twin's answers to the same question: the class that the quantized network predicts.
    expected = twin.gradient(golden.images, golden.seed)
    assert np.array_equal(golden.twin_logits, expected.logits)
    assert np.array_equal(golden.twin_input_gradient, expected.input_gradient)
    assert golden.twin_input_gradient.any()


def test_golden_answers_without_a_twin() -> None:
    engine = open_engine(Network(Path("memory"), small_network()), "reference")
    images = np.zeros((2, 1, 8, 8), np.uint8)
    golden = golden_from_bytes(golden_bytes(record_golden(engine, images, np.zeros(2, np.int64))))
    assert (golden.twin_logits.shape, golden.twin_input_gradient.shape) == ((0, 3), (0, 1, 8, 8))


def test_a_twin_of_another_network_is_refused() -> None:
    engine = open_engine(Network(Path("memory"), small_network()), "reference")
    stranger = replace(
        small_twin(),
        inputs=(replace(small_twin().inputs[0], type=replace(small_twin().inputs[0].type, shape=(1, 10, 8))),),
    )
    twin = open_engine(Network(Path("twin"), stranger), "reference")
    with pytest.raises(BitlensError, match="the twin: the image is of shape"):
        record_golden(engine, np.zeros((2, 1, 8, 8), np.uint8), np.zeros(2, np.int64), twin=twin)


def test_trace_hash_sees_one_code(pristine: Path, golden: Golden) -> None:
    from bitlens.runtime.engines import one_hot
    from bitlens.runtime.golden import trace_sha256

    engine = open_engine(open_network(pristine), "reference")
    gradient = engine.traced_gradient(golden.images, one_hot(golden.targets, 3))
    assert np.array_equal(trace_sha256(gradient, golden.accumulators), golden.trace_sha256)
    for name in ("act1", "act3"):
        codes = gradient.codes[name].copy()
        codes.flat[5] += 1
        changed = replace(gradient, codes={**gradient.codes, name: codes})
        assert not np.array_equal(trace_sha256(changed, golden.accumulators), golden.trace_sha256)
        masks = gradient.masks[name].copy()
        masks.flat[5] ^= True
        changed = replace(gradient, masks={**gradient.masks, name: masks})
        assert not np.array_equal(trace_sha256(changed, golden.accumulators), golden.trace_sha256)


@pytest.mark.parametrize("name", [item.name for item in fields(Golden)])
def test_golden_arrays_must_belong_together(name: str, golden: Golden) -> None:
    array = getattr(golden, name)
    wrongs = [array[:-1], array[None], array.astype(np.float64)]
    if name != "twin_logits":
        wrongs.append(array[:0])
    for wrong in wrongs:
        with pytest.raises(BitlensError, match="export the network again"):
            golden_from_bytes(golden_bytes(replace(golden, **{name: wrong})))


def test_no_golden_images(golden: Golden) -> None:
    empty = {item.name: getattr(golden, item.name)[:0] for item in fields(Golden) if item.name != "trace_sha256"}
    with pytest.raises(BitlensError, match="export the network again"):
        golden_from_bytes(golden_bytes(replace(golden, **empty)))


def test_damaged_golden_answers(golden: Golden) -> None:
    content = golden_bytes(golden)
    for place in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        try:
            golden_from_bytes(bytes(damaged))
        except BitlensError as error:
            assert "\n" not in str(error)  # noqa: PT017 - some bytes, a date for one, say nothing
    with pytest.raises(BitlensError, match="damaged"):
        golden_from_bytes(content[:-30])


def test_a_run_is_to_be_exported_first(tmp_path: Path) -> None:
    (tmp_path / "network.qonnx").write_bytes(b"")
    assert "is a training run: write its network with `bitlens export" in refusal(tmp_path)
