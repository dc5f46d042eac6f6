"""Network folders: what export wrote, or a refusal."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from exported_network import GOLDEN_IMAGES, changed_manifest, exported_network, replaced_member
from small_programs import LABELS, small_network

from bitlens.runtime import network as network_module
from bitlens.runtime.engines import open_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.golden import Golden, golden_bytes, golden_from_bytes, record_golden
from bitlens.runtime.network import GOLDEN, Network, open_network
from bitlens.runtime.program_file import program_bytes, write_program


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_network(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "network"))


def refusal(folder: Path) -> str:
    with pytest.raises(BitlensError) as caught:
        open_network(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_everything_that_was_exported_is_there(folder: Path) -> None:
    network = open_network(folder)
    assert network.labels == LABELS
    assert network.label(1) == "bee"
    assert network.label(7) == "7"
    assert set(network.members) == {
        "network.program",
        "twin.program",
        "forward.onnx",
        "gradient.onnx",
        "golden.npz",
    }
    assert program_bytes(network.program) == program_bytes(small_network())
    for name, record in network.members.items():
        assert len(network.read(name)) == record["bytes"]
    twin = network.twin()
    assert twin is not None
    assert twin.program.is_full_precision


def test_a_bare_program(tmp_path: Path) -> None:
    write_program(replace(small_network(), metadata={}), tmp_path / "a.program")
    network = open_network(tmp_path / "a.program")
    assert (network.members, network.labels, network.label(2)) == ({}, (), "2")
    assert network.twin() is None
    with pytest.raises(BitlensError, match=r"a bare program file has no member 'golden\.npz'"):
        network.read(GOLDEN)


def test_missing_places(tmp_path: Path, folder: Path) -> None:
    assert "cannot read" in refusal(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    message = refusal(tmp_path / "empty")
    assert message.endswith("manifest.json (No such file or directory): expected what `bitlens export` wrote")
    (folder / "network.program").unlink()
    assert "network.program (No such file or directory)" in refusal(folder)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"manifest_version": 1}', '{"manifest_version": "1", "members": {}}', "[" * 100_000],
    ids=lambda text: text[:20],
)
def test_damaged_manifest(text: str, folder: Path) -> None:
    (folder / "manifest.json").write_text(text)
    assert "manifest.json is damaged" in refusal(folder)


@pytest.mark.parametrize("members", [[], None, {"a": 1}, {"a": {}}, {"a": {"sha256": 1, "bytes": 1}}], ids=str)
def test_manifest_with_damaged_members(members: object, folder: Path) -> None:
    changed_manifest(folder, members=members)
    assert "manifest.json is damaged" in refusal(folder)


@pytest.mark.parametrize(
    "name", ["../network.program", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "\x1b[2J", "é", "a" * 101]
)
def test_member_names_are_plain_names(name: str, folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    changed_manifest(folder, members=manifest["members"] | {name: {"sha256": "", "bytes": 0}})
    assert "manifest.json is damaged" in refusal(folder)


def test_manifest_of_a_newer_version(folder: Path) -> None:
    changed_manifest(folder, manifest_version=2, members="something new")
    assert refusal(folder).endswith("has manifest version 2, this bitlens reads up to 1: update bitlens")


def test_too_large_a_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "MAX_MANIFEST_BYTES", 100)
    assert "is larger than 100 bytes" in refusal(folder)


def test_a_changed_member_is_noticed(folder: Path) -> None:
    network = open_network(folder)
    for name in network.members:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(BitlensError, match=rf"{name} is damaged \(its SHA-256 differs\): copy or export it again"):
            network.read(name)
    assert "network.program is damaged" in refusal(folder)
    with pytest.raises(BitlensError) as caught:
        network.twin()
    assert str(caught.value).count("twin.program") == 1


def test_a_member_that_is_not_one(folder: Path) -> None:
    with pytest.raises(BitlensError, match=r"has no member 'secret': export the network again"):
        open_network(folder).read("secret")


def test_a_member_that_is_no_program(folder: Path) -> None:
    replaced_member(folder, "network.program", b"nonsense")
    assert "network.program: not a bitlens program" in refusal(folder)


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
    again = record_golden(engine, golden.images, golden.labels)
    for item in fields(Golden):
        first, second = getattr(golden, item.name), getattr(again, item.name)
        assert first.dtype == second.dtype
        assert np.array_equal(first, second), item.name
    assert golden_bytes(again) == golden_bytes(golden)
    assert len(golden.images) == GOLDEN_IMAGES
    assert np.array_equal(golden.targets, golden.logits.argmax(axis=1))


def test_trace_hash_sees_one_code(pristine: Path, golden: Golden) -> None:
    from bitlens.runtime.engines import one_hot
    from bitlens.runtime.golden import trace_sha256

    engine = open_engine(open_network(pristine), "reference")
    gradient = engine.gradient(golden.images, one_hot(golden.targets, 3))
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
    for wrong in (array[:-1], array[None], array.astype(np.float64), array[:0]):
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
