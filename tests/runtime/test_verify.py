"""`bitlens verify`: what its certificate says, on one machine and beside another's."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Answer, answered, check_refused, work_in_a_copy
from exported_network import GOLDEN_IMAGES, NAME, exported_network, replaced_member
from page_reader import Reader, references
from small_programs import affine, dense, images_for, reshape, small_network, small_twin

from bitlens.export.bundle import write_bundle
from bitlens.export.hand_over import Samples
from bitlens.runtime import cli
from bitlens.runtime.board_state import BoardState
from bitlens.runtime.bootstrap import bootstrap_mean
from bitlens.runtime.engines import Engine, open_engine, registry
from bitlens.runtime.fidelity import METRICS
from bitlens.runtime.golden import golden_of
from bitlens.runtime.machine import processor_name, this_machine
from bitlens.runtime.methods import METHODS
from bitlens.runtime.network import Network, open_network
from bitlens.runtime.program import Array, Program
from bitlens.runtime.program_file import program_bytes
from bitlens.runtime.random_weights import with_random_weights
from bitlens.runtime.verbs import verify as verify_verb

EVERY = ["native", "onnxruntime", "tflite", "reference", "native-int8"]
KEPT = Path(__file__).parent.parent / "golden" / "bundle_1.bitlens"


Verify = Callable[..., Answer]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle and a certificate of it."""
    place = tmp_path_factory.mktemp("pristine")
    exported_network(place)
    assert cli.main(["verify", str(place / NAME), "--trust", "--output", str(place / "pristine.json")]) == 0
    return place


@pytest.fixture
def place(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return work_in_a_copy(pristine, tmp_path, monkeypatch)


@pytest.fixture
def verify(place: Path, capsys: pytest.CaptureFixture[str]) -> Verify:
    return lambda *arguments: answered(capsys, "verify", *arguments)


def named(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """What a certificate says of one engine."""
    (found,) = (engine for engine in facts["engines"] if engine["engine"]["name"] == name)
    assert isinstance(found, dict)
    return found


def changed(name: str, constant: str, place: int, value: int) -> Program:
    """`small_network` with `value` added to one number of a constant."""
    program = small_network()
    nodes = []
    for node in program.nodes:
        if node.name == name:
            array = node.arrays[constant].copy()
            array.flat[place] += value
            node = replace(node, arrays={**node.arrays, constant: array})
        nodes.append(node)
    return replace(program, nodes=tuple(nodes))


def codes_of(program: Program) -> dict[str, Array]:
    engine = open_engine(Network(Path("memory"), program), "reference")
    images = images_for(small_network(), GOLDEN_IMAGES)
    return dict(engine.traced_gradient(images, np.eye(3, dtype=np.float32)[np.zeros(GOLDEN_IMAGES, int)]).codes)


def differing_engine(change: Callable[[dict[str, Array]], dict[str, Array]], version: str) -> Callable[..., Engine]:
    """Open the ONNX Runtime engine as if another version of it gave something else."""
    opened = registry.ENGINES["onnxruntime"].open

    def other(network: Network, threads: int) -> Engine:
        engine = opened(network, threads)
        return replace(
            engine,
            info=replace(engine.info, version=version),
            run_gradient=lambda feeds, outputs: change(engine.run_gradient(feeds, outputs)),
        )

    return other


@pytest.fixture
def other_version(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(change: Callable[[dict[str, Array]], dict[str, Array]], version: str = "0.9") -> None:
        entry = registry.ENGINES["onnxruntime"]
        monkeypatch.setitem(registry.ENGINES, "onnxruntime", replace(entry, open=differing_engine(change, version)))

    return install


def one_code(got: dict[str, Array]) -> dict[str, Array]:
    codes = got["act2"].copy()
    codes[2, 1, 0, 1] += 1
    return got | {"act2": codes}


# One machine.


def test_the_certificate_has_its_documented_form(pristine: Path) -> None:
    facts = json.loads((pristine / "pristine.json").read_text())
    assert set(facts) == {
        "certificate_version", "holds", "bitlens", "network", "machine", "tolerances", "engines", "fidelity", "board"
    }  # fmt: skip
    assert (facts["certificate_version"], facts["holds"]) == (1, True)
    assert set(facts["network"]) == {
        "name", "bundle_sha256", "program_sha256", "precision", "bundle_version", "program_version"
    }  # fmt: skip
    assert facts["network"]["name"] == NAME
    assert facts["network"]["bundle_sha256"] == open_network(pristine / NAME).sha256
    assert set(facts["machine"]) == {"name", "processor", "architecture", "system", "python", "numpy", "board"}
    for look in ("before", "after"):
        assert set(facts["board"][look]) == {"temperature_celsius", "throttle_bits", "governor"}
    assert facts["tolerances"] == {
        "gradient": 1e-5,
        "logits": 1e-5,
        "full_precision_exceptions": 0.01,
        "int8_cosine": 0.999,
        "int8_spearman": 0.995,
    }
    assert [engine["engine"]["name"] for engine in facts["engines"]] == EVERY
    for engine in facts["engines"]:
        assert set(engine["engine"]) == {"name", "version", "threads", "kernels", "gradients"}
        assert engine["engine"]["gradients"] == ("int8" if engine["engine"]["name"] == "native-int8" else "float32")
        near = engine["likeness"]
        assert (near is None) == (engine["engine"]["gradients"] == "float32")
        if near is not None:
            assert 0.999 <= near["smallest_cosine"] <= near["mean_cosine"] <= 1
            assert near["smallest_spearman"] <= near["mean_spearman"] <= 1
        assert (engine["holds"], engine["differences"], engine["images"]) == (True, [], GOLDEN_IMAGES)
        tensors = [(tensor["kind"], tensor["name"]) for tensor in engine["tensors"]]
        names = ("act1", "act2", "act3")
        expected = [("codes", name) for name in names] + [("mask", name) for name in names] + [("accumulators", "")]
        assert tensors == expected
        assert all(len(tensor["sha256"]) == GOLDEN_IMAGES for tensor in engine["tensors"])
        assert all(tensor["foreign_images"] == [] for tensor in engine["tensors"])
    assert set(facts["fidelity"]) == {"engine", "images", "seed", "means"}
    assert len(facts["fidelity"]["means"]) == 2 * 3 * len(METRICS)
    for one in facts["fidelity"]["means"]:
        assert set(one) == {"method", "of", "metric", "mean"}
        assert set(one["mean"]) == {"mean", "low", "high", "images", "undefined"}
        assert one["mean"]["images"] + one["mean"]["undefined"] == GOLDEN_IMAGES


def test_how_the_board_was_doing(place: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([BoardState(48.25, 0x0, "ondemand"), BoardState(80.0, 0x40000, "ondemand")])
    monkeypatch.setattr(verify_verb, "board_state", lambda: next(looks))
    answer = verify(NAME, "--methods", "none", "--against", "pristine.json", "--output", "hot")
    said = "48.2 to 80.0 \N{DEGREE SIGN}C, governor ondemand, slowed down (throttled)"
    assert f"the board: {said}\n" in answer.out
    assert said in (place / "hot" / "index.html").read_text()
    assert answer.code == 0  # nothing that must agree
    assert json.loads((place / "hot" / "certificate.json").read_text())["board"]["after"]["throttle_bits"] == 0x40000


def test_it_names_no_host_user_or_folder(pristine: Path, verify: Verify) -> None:
    text = (pristine / "pristine.json").read_text()
    assert platform.node() not in text
    assert str(pristine) not in text
    assert json.loads(text)["machine"]["name"] == ""
    answer = verify(NAME, "--methods", "none", "--machine", "bench 3", "--json")
    assert answer.facts["machine"]["name"] == "bench 3"
    check_refused(verify(NAME, "--machine", "\x1b[2J"), "expected printable text")


def test_fidelity_is_that_of_the_functions(pristine: Path) -> None:
    network = open_network(pristine / NAME, trust=True)
    golden, twin = golden_of(network), small_twin()
    engines = {
        "network": open_engine(network),
        "random weights": open_engine(Network(Path("x"), with_random_weights(twin, seed=0)), "reference"),
    }
    twin_engine = open_engine(Network(Path("x"), twin), "reference")
    means = json.loads((pristine / "pristine.json").read_text())["fidelity"]["means"]
    targets = golden.targets.tolist()
    for name in ("gradient", "grad_cam"):
        expected = METHODS[name].function(twin_engine, golden.images, targets)[:, 0]
        for of, engine in engines.items():
            maps = METHODS[name].function(engine, golden.images, targets)[:, 0]
            for metric in METRICS:
                (found,) = (m["mean"] for m in means if (m["method"], m["of"], m["metric"]) == (name, of, metric))
                mean = bootstrap_mean(METRICS[metric].batch(expected, maps))
                values = [None if np.isnan(value) else value for value in (mean.mean, mean.low, mean.high)]
                assert [found[end] for end in ("mean", "low", "high")] == values
                assert (found["images"], found["undefined"]) == (mean.images, mean.undefined)


def test_where_it_is_written(place: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_verb, "board_state", lambda: BoardState(48.25, 0, "ondemand"))  # it may warm up
    assert verify(NAME, "--output", "a.json").code == 0
    assert verify(NAME, "--output", "a.html").code == 0
    assert verify(NAME, "--output", "new/folder").code == 0
    assert json.loads((place / "a.json").read_text()) == json.loads((place / "new/folder/certificate.json").read_text())
    assert (place / "a.html").read_text() == (place / "new/folder/index.html").read_text()
    # What cannot be written is said before the work.
    monkeypatch.setattr(verify_verb, "compare_engine", None)
    (place / "folder.json").mkdir()
    for output, reason in (
        ("a.json/b", "Not a directory"),
        ("missing/b.json", "No such file or directory"),
        ("folder.json", "Is a directory"),
    ):
        check_refused(verify(NAME, "--output", output), rf"cannot write .*{output}.* \({reason}\)")
    assert sorted(each.name for each in (place / "new/folder").iterdir()) == ["certificate.json", "index.html"]


def test_the_page_is_one_file_and_says_what_it_shows(place: Path, verify: Verify) -> None:
    assert verify(NAME, "--trust", "--against", "pristine.json", "--output", "a.html").code == 0
    text = (place / "a.html").read_text()
    reader = Reader(text)
    assert reader.wrong == []
    assert references(text) == []
    assert len(reader.all("img")) == 2 * GOLDEN_IMAGES * 4  # methods, images, columns
    assert all(image["alt"] for image in reader.all("img"))
    shown = " ".join(word for words in reader.words.values() for word in words)
    for told in (
        "Numerical parity holds",
        "cosine of gradients",
        "A gradient in bytes is another gradient",
        "The two machines agree",
        f"only {GOLDEN_IMAGES} images",
        "random weights",
    ):
        assert told in shown


def test_without_a_twin_and_without_methods(place: Path, verify: Verify) -> None:
    samples = Samples(images_for(small_network(), 2), np.arange(2, dtype=np.int64), None)
    write_bundle(place / "alone.bitlens", small_network(), samples=samples, twin=None)
    write_bundle(place / "full.bitlens", small_twin(), samples=samples, twin=None)
    for arguments, said in (
        (("alone.bitlens",), "no full-precision twin in the bundle"),
        (("full.bitlens",), "this network is full precision"),
        ((NAME, "--methods", "none"), "not asked for"),
    ):
        answer = verify(*arguments, "--output", "out")
        assert answer.code == 0
        assert said in answer.out
        assert json.loads((place / "out/certificate.json").read_text())["fidelity"] is None
        assert said[1:] in (place / "out/index.html").read_text()
    check_refused(verify(NAME, "--methods", "magic"), "unknown method 'magic'")
    answer = verify(NAME, "--methods", "grad_cam:layer=act1", "--json")
    assert {mean["method"] for mean in answer.facts["fidelity"]["means"]} == {"grad_cam:layer=act1"}


# What differs is said exactly.


def test_one_flipped_threshold_is_found(place: Path, verify: Verify) -> None:
    tampered = changed("act1", "thresholds", 0, -400)
    replaced_member(place / NAME, "network.program", program_bytes(tampered))
    answer = verify(NAME, "--trust", "--json")
    assert answer.code == 1
    onnx, reference = (named(answer.facts, name) for name in ("onnxruntime", "reference"))
    true, wrong = codes_of(small_network())["act1"], codes_of(tampered)["act1"]
    differing = true != wrong
    count, images = differing.sum(), differing.any(axis=(1, 2, 3))
    first = [int(index[0]) for index in np.nonzero(differing)]
    assert 0 < count < differing.size
    (tensor,) = (each for each in onnx["tensors"] if (each["kind"], each["name"]) == ("codes", "act1"))
    assert (tensor["differing"], tensor["first"], tensor["differing_images"]) == (count, first, images.sum())
    assert (tensor["got"], tensor["expected"]) == (true[tuple(first)], wrong[tuple(first)])
    assert onnx["differences"][0] == (
        f"codes of act1: {count} of {differing.size} are not the reference engine's here, on {images.sum()} of "
        f"{GOLDEN_IMAGES} images; the first at image {first[0]}, channel {first[1]}, row {first[2]}, column "
        f"{first[3]}: {tensor['got']}, expected {tensor['expected']}"
    )
    assert any("it is the reference engine here that does not" in line for line in onnx["differences"])
    # With NumPy alone: the desktop's hash of each tensor and image says where it begins.
    assert reference["differences"][0] == (
        f"codes of act1: their hash is not the desktop's on {images.sum()} of {GOLDEN_IMAGES} images, the first image "
        f"{first[0]}"
    )
    (tensor,) = (each for each in reference["tensors"] if (each["kind"], each["name"]) == ("codes", "act1"))
    assert tensor["foreign_images"] == np.flatnonzero(images).tolist()


def test_a_tampered_program_is_found_by_numpy_alone(place: Path, verify: Verify) -> None:
    replaced_member(place / NAME, "network.program", program_bytes(changed("sums", "weight", 0, 1)))
    answer = verify(NAME, "--engine", "reference", "--output", "out")
    assert answer.code == 1
    assert answer.out.endswith("numerical parity DOES NOT HOLD\n")
    lines = [line.strip() for line in answer.out.splitlines()]
    (counted,) = (line for line in lines if line.startswith("logit accumulators: ") and "are not what" in line)
    assert re.search(r"the first at image \d, unit 0: -?\d+, expected -?\d+$", counted)
    assert not any(line.startswith("codes of act") for line in lines)
    page = (place / "out/index.html").read_text()
    assert "DOES NOT HOLD" in page
    assert "logit accumulators: " in page
    assert Reader(page).wrong == []


def test_another_engine_version_that_gives_another_code(
    place: Path, verify: Verify, other_version: Callable[..., None]
) -> None:
    other_version(one_code)
    answer = verify(NAME, "--trust", "--json", "--against", "pristine.json")
    assert answer.code == 1
    onnx, reference = (named(answer.facts, name) for name in ("onnxruntime", "reference"))
    assert (onnx["engine"]["version"], onnx["holds"], reference["holds"]) == ("0.9", False, True)
    (tensor,) = (each for each in onnx["tensors"] if each["differing"])
    assert (tensor["name"], tensor["differing"], tensor["first"]) == ("act2", 1, [2, 1, 0, 1])
    assert tensor["got"] == tensor["expected"] + 1
    against = answer.facts["against"]
    assert against["agree"] is False
    assert against["differences"][0] == (
        "onnxruntime here and onnxruntime there: codes of act2 differ on 1 of 4 images, the first image 2"
    )
    assert {row["what"] for row in against["rows"] if row["verdict"] == "DIFFERS"} == {
        "onnxruntime: computes the network", "onnxruntime: codes, masks, accumulators"
    }  # fmt: skip
    assert all(row["verdict"] == "equal" for row in against["rows"] if row["what"].startswith("reference"))


def test_a_bundle_without_the_hash_of_each_tensor(place: Path, verify: Verify) -> None:
    (place / NAME).write_bytes(KEPT.read_bytes())
    assert verify(NAME, "--json").facts["engines"][0]["tensors"][0]["foreign_images"] is None
    replaced_member(place / NAME, "network.program", program_bytes(changed("act1", "thresholds", 0, -400)))
    answer = verify(NAME, "--engine", "reference", "--json")
    assert answer.code == 1
    (line,) = (line for line in answer.facts["engines"][0]["differences"] if "does not store" in line)
    assert "codes, masks and accumulators together have another hash" in line


# Two machines.


def edited(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    facts = json.loads((place / "pristine.json").read_text())
    change(facts)
    (place / "other.json").write_text(json.dumps(facts))


def test_two_machines_agree(place: Path, verify: Verify) -> None:
    def move(facts: dict[str, Any]) -> None:
        facts["machine"] |= {"name": "the board", "processor": "Cortex-A53", "architecture": "aarch64"}
        named(facts, "onnxruntime")["engine"]["version"] = "0.9"
        named(facts, "onnxruntime")["gradient_error"] = 3e-7
        named(facts, "native-int8")["likeness"]["smallest_cosine"] = 0.9993

    edited(place, move)
    answer = verify(NAME, "--trust", "--against", "other.json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.endswith("the two machines agree\n")
    assert "Beside the certificate of the board" in answer.out
    rows = verify(NAME, "--trust", "--json", "--against", "other.json").facts["against"]["rows"]
    assert {row["what"]: row["there"] for row in rows if row["verdict"] != "equal"} == {
        "machine: name": "the board",
        "machine: processor": "Cortex-A53",
        "machine: architecture": "aarch64",
        "onnxruntime: version": "0.9",
        "onnxruntime: largest gradient error": "3.0e-07",
        "native-int8: smallest cosine of gradients": "0.9993",
    }


def test_a_certificate_from_before_there_were_gradients_in_bytes(place: Path, verify: Verify) -> None:
    def age(facts: dict[str, Any]) -> None:
        facts["engines"] = [named(facts, name) for name in ("onnxruntime", "reference")]
        for engine in facts["engines"]:
            del engine["likeness"], engine["engine"]["gradients"]
        del facts["tolerances"]["int8_cosine"], facts["tolerances"]["int8_spearman"]

    edited(place, age)
    answer = verify(NAME, "--trust", "--json", "--against", "other.json")
    assert answer.code == 0
    only_here = [row["what"] for row in answer.facts["against"]["rows"] if row["verdict"] == "only here"]
    assert only_here == [name for name in EVERY if name not in ("onnxruntime", "reference")]


def test_an_engine_on_one_machine_alone(place: Path, verify: Verify) -> None:
    answer = verify(NAME, "--engine", "reference", "--json", "--against", "pristine.json")
    assert answer.code == 0
    alone = [row["what"] for row in answer.facts["against"]["rows"] if row["verdict"] == "only there"]
    assert alone == [name for name in EVERY if name != "reference"]

    def tamper(facts: dict[str, Any]) -> None:
        del facts["engines"][1:]
        facts["engines"][0]["trace_sha256"] = "0" * 64
        facts["engines"][0]["tensors"][4]["sha256"][1] = "0" * 64

    edited(place, tamper)
    answer = verify(NAME, "--engine", "reference", "--json", "--against", "other.json")
    assert answer.code == 1
    assert answer.facts["against"]["differences"] == [
        "reference here and native there: mask bits of act2 differ on 1 of 4 images, the first image 1"
    ]


def test_a_machine_where_it_does_not_hold(place: Path, verify: Verify) -> None:
    edited(place, lambda facts: named(facts, "reference").update(differing_classes=1))
    answer = verify(NAME, "--trust", "--against", "other.json")
    assert answer.code == 1
    assert answer.out.endswith("reference there does not compute the network\nthe two machines DO NOT AGREE\n")


def test_a_certificate_of_another_bundle_is_refused(place: Path, verify: Verify) -> None:
    edited(place, lambda facts: facts["network"].update(bundle_sha256="0" * 64))
    check_refused(
        verify(NAME, "--against", "other.json"), r"other.json: it is of another bundle, network.bitlens with SHA-256 0"
    )


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "version": (lambda facts: facts.update(certificate_version=2), "has version 2, this bitlens reads 1 to 1"),
    "no version": (lambda facts: facts.pop("certificate_version"), "is no certificate"),
    "no engines": (lambda facts: facts.update(engines=[]), "each engine once, and at least one"),
    "twice": (lambda facts: facts["engines"].append(facts["engines"][0]), "each engine once"),
    "missing": (lambda facts: facts["engines"][0].pop("trace_sha256"), r"certificate.engines\[0\].trace_sha256"),
    "text": (lambda facts: facts["engines"][0].update(images="four"), "expected a whole number"),
    "huge": (lambda facts: facts["engines"][0].update(images=10**400), "expected a whole number"),
    "number": (lambda facts: facts["machine"].update(name=7), "expected printable text"),
    "escape": (lambda facts: facts["machine"].update(name="\x1b[2J"), "expected printable text"),
    "hash": (lambda facts: facts["engines"][0].update(trace_sha256="0"), "is no SHA-256"),
    "images": (lambda facts: facts["engines"][0]["tensors"][0]["sha256"].pop(), "not of as many images"),
    "list": (lambda facts: facts.update(engines={}), "expected a list"),
    "object": (lambda facts: facts.update(machine=[]), "expected an object"),
    "gradients": (lambda facts: facts["engines"][0]["engine"].update(gradients="int8"), "its gradients are not what"),
    "likeness": (lambda facts: named(facts, "native-int8").update(likeness=None), "its gradients are not what"),
    "fidelity": (lambda facts: facts["fidelity"]["means"][0]["mean"].update(mean="high"), "expected a number"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_certificate_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, place: Path, verify: Verify
) -> None:
    edited(place, change)
    check_refused(verify(NAME, "--against", "other.json"), message)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"[" * 100_000, b'{"certificate_version": NaN}'])
def test_what_is_no_certificate_is_refused(content: bytes, place: Path, verify: Verify) -> None:
    (place / "other.json").write_bytes(content)
    check_refused(verify(NAME, "--against", "other.json"), "other.json: it is (damaged|no certificate)")
    check_refused(verify(NAME, "--against", "nothing.json"), "cannot read the certificate nothing.json")


def test_a_hostile_certificate_is_shown_as_it_is(place: Path, verify: Verify) -> None:
    edited(place, lambda facts: facts["machine"].update(name="<script>alert(1)</script>"))
    assert verify(NAME, "--trust", "--against", "other.json", "--output", "a.html").code == 0
    text = (place / "a.html").read_text()
    assert "<script" not in text
    assert Reader(text).wrong == []


def test_machine() -> None:
    here = this_machine("x")
    assert here.name == "x"
    assert here.processor
    assert here.numpy == np.__version__
    assert platform.node() not in (here.processor, here.architecture, here.system)
    assert processor_name("", "") == ""
    assert processor_name("Model : A\x1b board\n", "") == "A board"


def test_grad_cam_is_left_out_where_there_is_no_feature_map(place: Path, verify: Verify) -> None:
    weight = np.random.default_rng(0).integers(-7, 8, (3, 64))
    start = reshape("image", "flat", 64)
    whole = (start, dense("flat", "sums", weight.astype(np.int8)), affine("sums", "logits", [0.01] * 3, [0.0] * 3))
    flat = replace(small_network(), nodes=whole)
    twin = replace(
        small_twin(), nodes=(start, dense("flat", "logits", weight.astype(np.float32), np.zeros(3, np.float32)))
    )
    samples = Samples(images_for(flat, 2), np.arange(2, dtype=np.int64), None)
    write_bundle(place / "flat.bitlens", flat, samples=samples, twin=twin)
    answer = verify("flat.bitlens", "--json")
    assert answer.code == 0
    assert {mean["method"] for mean in answer.facts["fidelity"]["means"]} == {"gradient"}
    check_refused(verify("flat.bitlens", "--methods", "grad_cam", "--engine", "reference"), "feature map")
