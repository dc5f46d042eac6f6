"""What every engine does alike, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from engine_choices import asked, offered_features
from exported_network import exported_network
from missing_modules import without_kernels, without_modules
from network_in_memory import network_in_memory
from small_programs import images_for, residual_network, small_network, small_twin

from bitlens.export.bundle import EXACT_GRAPHS, tflite_int8_graph
from bitlens.export.onnx_writer import onnx_model
from bitlens.export.tflite_writer import tflite_model
from bitlens.runtime.bundle_file import bundle_bytes, open_bundle
from bitlens.runtime.engines import (
    ENGINES,
    FLOAT32_GRADIENTS,
    FREE_ENGINES,
    INT8_GRADIENTS,
    Choices,
    Engine,
    capable_engines,
    one_hot,
    open_engine,
    present_engines,
    tflite,
    trained_window,
)
from bitlens.runtime.engines.engine import RunGraph
from bitlens.runtime.engines.native import KERNELS_VARIABLE
from bitlens.runtime.engines.onnxruntime import run_onnx
from bitlens.runtime.engines.registry import register_engine
from bitlens.runtime.engines.tflite import MANIFEST_FACTS, run_tflite
from bitlens.runtime.engines.tflite_interpreter import PACKAGES, TFLiteModel, open_tflite
from bitlens.runtime.errors import BitlensError, MissingExtraError
from bitlens.runtime.gradient_likeness import cosines, magnitude_spearmans
from bitlens.runtime.native.kernels import MODULE, kernels
from bitlens.runtime.network import FORWARD_TFLITE, GRADIENT_TFLITE, Network, open_network
from bitlens.runtime.parity import INT8_COSINE, INT8_SPEARMAN
from bitlens.runtime.program import Program
from bitlens.runtime.thresholds import Interval
from bitlens.runtime.trust import TRUST_VARIABLE


@pytest.fixture(scope="module")
def network() -> Network:
    return network_in_memory(small_network(), (*EXACT_GRAPHS.values(), tflite_int8_graph))


@pytest.fixture(scope="module", params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest, network: Network) -> Engine:
    return open_engine(network, request.param)


@pytest.fixture
def images(network: Network) -> npt.NDArray[np.uint8]:
    return images_for(network.program, 4)


def test_auto_takes_the_fastest_that_is_present(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    assert present_engines(network) == ("native", "onnxruntime", "tflite", "reference", "native-int8", "tflite-int8")
    assert open_engine(network).info.name == "native"
    bare = Network(Path("bare"), network.program)
    assert present_engines(bare) == ("native", "reference", "native-int8")
    without_kernels(monkeypatch)
    assert present_engines(network) == ("onnxruntime", "tflite", "reference", "tflite-int8")
    assert open_engine(network).info.name == "onnxruntime"
    assert open_engine(bare).info.name == "reference"
    without_modules(monkeypatch, MODULE, "onnxruntime")
    assert open_engine(network).info.name == "tflite"
    without_modules(monkeypatch, MODULE, "onnxruntime", *PACKAGES)
    assert open_engine(network).info.name == "reference"


def test_only_the_files_of_a_trusted_network_are_parsed(network: Network) -> None:
    stranger = replace(network, trusted=False, source=Path("a.bitlens"))
    assert capable_engines(stranger) == ("native", "onnxruntime", "tflite", "reference", "native-int8", "tflite-int8")
    assert present_engines(stranger) == ("native", "reference", "native-int8")
    assert open_engine(stranger).info.name == "native"
    for name in ("onnxruntime", "tflite"):
        with pytest.raises(BitlensError, match=r"run `bitlens trust a\.bitlens` or add --trust, or use --engine ref"):
            open_engine(stranger, name)


HOW_TO_INSTALL = [
    ("onnxruntime", r"pip install 'bitlens\[onnx\]'"),
    ("tflite", r"pip install 'bitlens\[tflite\]'"),
    ("native", "install bitlens with a C\\+\\+ compiler and without BITLENS_PURE_PYTHON"),
]


@pytest.mark.parametrize(("name", "how"), HOW_TO_INSTALL)
def test_engine_that_is_not_installed_says_how(
    name: str, how: str, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_modules(monkeypatch, MODULE, "onnxruntime", *PACKAGES)
    with pytest.raises(MissingExtraError, match=rf"engine '{name}' needs [a-z._]+, which is not installed: .*{how}$"):
        open_engine(network, name)


@pytest.mark.parametrize(("name", "how"), HOW_TO_INSTALL)
def test_engine_that_does_not_load_says_so(
    name: str, how: str, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(network: Network, threads: int) -> Engine:
        raise ImportError("lib.so: cannot open shared object file")

    monkeypatch.setitem(ENGINES, name, replace(ENGINES[name], open=broken))
    with pytest.raises(
        BitlensError, match=rf"is installed but does not load \(lib.so.*{how}, or use --engine reference"
    ):
        open_engine(network, name)


def test_unknown_engine(network: Network) -> None:
    with pytest.raises(
        BitlensError,
        match="unknown engine 'cuda': choose from auto, native, native-int8, onnxruntime, reference, tflite, tflite-i",
    ):
        open_engine(network, "cuda")


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads(network: Network, threads: int) -> None:
    with pytest.raises(BitlensError, match=f"threads is {threads}, expected at least 1"):
        open_engine(network, threads=threads)


@pytest.mark.parametrize(("name", "file"), [("onnxruntime", "forward.onnx"), ("tflite", "forward.tflite")])
def test_engine_whose_files_are_missing(name: str, file: str) -> None:
    with pytest.raises(BitlensError, match=rf"'{name}' needs {file}, which bare does not have"):
        open_engine(Network(Path("bare"), small_network()), name)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="engine 'reference' is already in the table"):
        register_engine("reference", speed=1)(ENGINES["reference"].open)


def test_what_is_free_and_what_is_fixed(network: Network) -> None:
    choices = {name: open_engine(network, name).choices for name in ENGINES}
    assert {name for name, each in choices.items() if each == Choices()} == {*FREE_ENGINES, "native-int8"}
    assert choices["tflite"] == choices["tflite-int8"] == Choices(windows=False, guided=False, features=("act2",))


def test_the_fast_forward_is_near_and_takes_a_cameras_codes(network: Network) -> None:
    fast, exact = open_engine(network, "tflite-int8"), open_engine(network, "reference")
    images = images_for(network.program, 40)
    near, wanted = fast.forward(images), exact.forward(images)
    same = np.mean(near.tobytes() == wanted.tobytes() or (near == wanted).all(axis=1))
    assert 0.5 <= same <= 1.0
    # Noise leaves 0..255: those images go through the exact file.
    noisy = images.astype(np.int16) - 40
    assert fast.forward(noisy).tobytes() == exact.forward(noisy).tobytes()


def test_a_feature_map_that_is_not_offered(engine: Engine, images: npt.NDArray[np.uint8]) -> None:
    seed = one_hot([0] * 4, 3)
    for name in engine.feature_names:
        got = asked(
            engine,
            name in offered_features(engine),
            "feature map act2, asked was that of act1",
            lambda name=name: engine.gradient(images, seed, features=("act2", name)),  # type: ignore[misc]
        )
        assert got is None or set(got.features) == {"act2", name}


def test_engine_says_what_it_is(engine: Engine) -> None:
    assert engine.info.name in ENGINES
    assert engine.info.threads == 1
    assert engine.info.version
    assert engine.classes == 3
    assert engine.feature_names == ("act1", "act2")


def test_forward_equals_gradient_and_accumulators(engine: Engine, images: npt.NDArray[np.uint8]) -> None:
    logits, sums = engine.forward(images), engine.accumulators(images)
    assert logits.dtype == np.float32
    assert sums.dtype == np.int32
    slope, offset = np.array([0.011, 0.012, 0.013], np.float32), np.array([0.1, -0.2, 0.3], np.float32)
    assert np.array_equal(logits, sums.astype(np.float32) * slope + offset)
    assert np.array_equal(engine.gradient(images, one_hot([0] * 4, 3)).logits, logits)


def test_gradient_gives_every_code_and_mask(engine: Engine, images: npt.NDArray[np.uint8]) -> None:
    seed = one_hot([0, 1, 2, 0], 3)
    got = engine.traced_gradient(images, seed)
    assert {name: codes.shape for name, codes in got.codes.items()} == {
        "act1": (4, 3, 4, 4),
        "act2": (4, 4, 4, 4),
        "act3": (4, 6),
    }
    assert {name: mask.shape for name, mask in got.masks.items()} == {
        name: codes.shape for name, codes in got.codes.items()
    }
    assert all(mask.dtype == np.bool_ for mask in got.masks.values())
    assert got.input_gradient.shape == images.shape
    worth = {"act1": np.float32(0.5), "act2": np.float32(1.0)}  # alpha 1.5 in 3 steps; a sign
    for name in offered_features(engine):
        plain = engine.gradient(images, seed, features=(name,))
        assert np.array_equal(plain.input_gradient, got.input_gradient)
        assert (plain.codes, plain.masks, list(plain.features)) == ({}, {}, [name])
        assert np.array_equal(plain.features[name].values, got.codes[name] * worth[name])
        assert plain.features[name].gradient.shape == got.codes[name].shape


def test_features_agree_with_the_reference(engine: Engine, network: Network, images: npt.NDArray[np.uint8]) -> None:
    seed, names = one_hot([0, 1, 2, 0], 3), offered_features(engine)
    ours, expected = (
        each.gradient(images, seed, features=names) for each in (engine, open_engine(network, "reference"))
    )
    for name in names:
        assert np.array_equal(ours.features[name].values, expected.features[name].values)
        wanted = expected.features[name].gradient
        assert np.abs(wanted).max() > 0
        if engine.info.gradients == INT8_GRADIENTS:
            assert cosines(ours.features[name].gradient, wanted).min() >= INT8_COSINE
        else:
            error = np.abs(ours.features[name].gradient - wanted).max()
            assert error <= 16 * np.finfo(np.float32).eps * np.abs(wanted).max()


@pytest.mark.parametrize("name", sorted(name for name in ENGINES if ENGINES[name].is_exact and name != "reference"))
@pytest.mark.parametrize("program", [small_network(), residual_network()], ids=["small", "residual"])
def test_engines_agree(program: Program, name: str) -> None:
    network = network_in_memory(program)
    images, seed = images_for(program, 4), one_hot([0, 1, 2, 0], 3)
    engine, reference = (open_engine(network, each) for each in (name, "reference"))
    ours, expected = (each.traced_gradient(images, seed) for each in (engine, reference))
    assert ours.codes.keys() == expected.codes.keys()
    for tensor in expected.codes:
        assert np.array_equal(ours.codes[tensor], expected.codes[tensor])
        assert ours.codes[tensor].dtype == expected.codes[tensor].dtype
        assert np.array_equal(ours.masks[tensor], expected.masks[tensor])
    assert np.array_equal(engine.accumulators(images), reference.accumulators(images))
    assert engine.forward(images).tobytes() == reference.forward(images).tobytes()
    assert np.abs(expected.input_gradient).max() > 0
    if engine.info.gradients == INT8_GRADIENTS:
        assert not np.array_equal(ours.input_gradient, expected.input_gradient)
        assert cosines(ours.input_gradient, expected.input_gradient).min() >= INT8_COSINE
        assert magnitude_spearmans(ours.input_gradient, expected.input_gradient).mean() >= INT8_SPEARMAN
    else:
        size = np.abs(expected.input_gradient).max()
        assert np.abs(ours.input_gradient - expected.input_gradient).max() <= 16 * np.finfo(np.float32).eps * size


def test_engine_says_which_gradients_it_gives(network: Network) -> None:
    said = {name: open_engine(network, name).info.gradients for name in ENGINES}
    assert said == dict.fromkeys(ENGINES, FLOAT32_GRADIENTS) | {"native-int8": INT8_GRADIENTS}
    twin = Network(Path("twin"), small_twin())  # has no layer whose gradient could go through bytes
    assert open_engine(twin, "native-int8").info.gradients == FLOAT32_GRADIENTS
    image, seed = images_for(twin.program, 2), one_hot([0, 1], 3)
    gradients = [open_engine(twin, name).gradient(image, seed).input_gradient for name in ("native", "native-int8")]
    assert gradients[0].tobytes() == gradients[1].tobytes()


@pytest.mark.parametrize("name", ["native", "native-int8"])
def test_threads_and_the_cut_of_a_batch_change_no_bit(name: str, network: Network) -> None:
    images = images_for(network.program, 40)  # more than one run of the plan takes
    seed = one_hot(np.arange(40) % 3, 3)
    one, several = (open_engine(network, name, threads=threads) for threads in (1, 3))
    whole = one.gradient(images, seed, features=("act2",))
    again = several.gradient(images, seed, features=("act2",))
    alone = [one.gradient(images[at : at + 1], seed[at : at + 1]).input_gradient for at in range(40)]
    assert whole.input_gradient.tobytes() == again.input_gradient.tobytes() == np.concatenate(alone).tobytes()
    assert whole.features["act2"].gradient.tobytes() == again.features["act2"].gradient.tobytes()
    assert whole.logits.tobytes() == again.logits.tobytes()


def test_native_engine_logs_its_kernels_and_takes_those_it_is_told(
    network: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "bitlens")
    monkeypatch.setenv(KERNELS_VARIABLE, "scalar")
    engine = open_engine(network, "native")
    assert caplog.messages == [f"native on 1 thread: {engine.info.kernels}"]
    assert {kernel.split("__")[1] for kernel in engine.info.kernels.split(", ")} == {"scalar"}
    monkeypatch.setenv(KERNELS_VARIABLE, "scalar, mmx")
    known = sorted({isa for _, isa, *_ in kernels().sum_kernels()})
    with pytest.raises(BitlensError, match=rf"BITLENS_KERNELS names 'mmx', .* choose from .*{known[-1]}"):
        open_engine(network, "native")


def test_one_image_does_not_see_the_others(engine: Engine, images: npt.NDArray[np.uint8]) -> None:
    seed = one_hot([0, 1, 2, 0], 3)
    whole = engine.gradient(images, seed).input_gradient
    for place in range(len(images)):
        alone = engine.gradient(images[place : place + 1], seed[place : place + 1]).input_gradient
        size = np.abs(whole[place]).max()
        assert np.abs(alone[0] - whole[place]).max() <= 4 * np.finfo(np.float32).eps * size


def test_window_that_was_trained_changes_nothing(engine: Engine, images: npt.NDArray[np.uint8]) -> None:
    seed = one_hot([0] * 4, 3)
    trained = {name: trained_window(engine.program, name) for name in ("act1", "act2", "act3")}
    assert trained["act1"] == Interval(0.0, 1.5, False, False)
    assert trained["act2"] == Interval(-1.0, 1.0, True, True)
    plain, same = engine.gradient(images, seed), engine.gradient(images, seed, windows=trained)
    assert np.array_equal(plain.input_gradient, same.input_gradient)


def test_another_window_moves_the_mask(engine: Engine, images: npt.NDArray[np.uint8]) -> None:
    seed = one_hot([0] * 4, 3)
    narrow, wide = Interval(-0.1, 0.1, True, True), Interval(-np.inf, np.inf, False, False)
    answers = [
        asked(
            engine,
            engine.choices.windows,
            "windows of training, asked was another window of act2",
            lambda window=window: engine.traced_gradient(images, seed, windows={"act2": window}),  # type: ignore[misc]
        )
        for window in (narrow, wide)
    ]
    masks = [answer.masks for answer in answers if answer is not None]
    if not masks:
        return
    plain = engine.traced_gradient(images, seed).masks
    assert masks[0]["act2"].sum() < plain["act2"].sum() < masks[1]["act2"].sum() == plain["act2"].size
    assert np.array_equal(masks[0]["act1"], plain["act1"])
    closed = {name: Interval(9.0, -9.0, True, True) for name in ("act1", "act2", "act3")}
    assert not engine.gradient(images, seed, windows=closed).input_gradient.any()


def test_guided_is_not_plain(engine: Engine, images: npt.NDArray[np.uint8]) -> None:
    seed = one_hot([0] * 4, 3)
    plain, guided = (
        asked(
            engine,
            engine.choices.guided or not choice,
            "plain gradient, asked was guided backprop",
            lambda choice=choice: engine.gradient(images, seed, guided=choice),  # type: ignore[misc]
        )
        for choice in (False, True)
    )
    assert plain is not None
    assert guided is None or not np.array_equal(plain.input_gradient, guided.input_gradient)


def test_what_a_gradient_refuses(engine: Engine, images: npt.NDArray[np.uint8]) -> None:
    seed = one_hot([0] * 4, 3)
    with pytest.raises(BitlensError, match="no feature map named 'act3': choose from act1, act2"):
        engine.gradient(images, seed, features=("act3",))
    with pytest.raises(BitlensError, match="no quantizer named 'conv1': choose from act1, act2, act3"):
        engine.gradient(images, seed, windows={"conv1": Interval(0.0, 1.0, True, True)})
    with pytest.raises(BitlensError, match=r"seed is of shape \(3, 3\), expected \(4, 3\): give one target per image"):
        engine.gradient(images, seed[:3])
    with pytest.raises(BitlensError, match="seed holds NaN or infinity"):
        engine.gradient(images, seed * np.float32(np.nan))
    with pytest.raises(BitlensError, match="resize it to 8x8 pixels"):
        engine.forward(images[:, :, 1:])


def test_no_layer_and_no_quantizer_to_choose_from() -> None:
    twin = open_engine(Network(Path("twin"), small_twin()), "reference")
    image = images_for(twin.program, 1)
    with pytest.raises(BitlensError, match="no quantizer named 'act1': choose from none, it has no quantizers"):
        twin.gradient(image, one_hot(0, 3), windows={"act1": Interval(0.0, 1.0, True, True)})
    assert np.array_equal(twin.accumulators(image), twin.forward(image))
    with pytest.raises(BitlensError, match="no layer named 'nothing'; this network has: conv1, act1"):
        trained_window(twin.program, "nothing")


@pytest.mark.parametrize(
    ("targets", "named"), [([0, 3], "3"), ([-1, 2], "-1"), ([1, -1, 2], "-1"), ([0.5], "0.5"), ([np.nan], "nan")]
)
def test_a_target_that_is_no_class(targets: list[float], named: str) -> None:
    with pytest.raises(BitlensError, match=f"target {named} is no class: expected 0 to 2"):
        one_hot(targets, 3)


def test_one_hot_rows() -> None:
    assert one_hot([2, 0], 3).tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert one_hot(np.array([1], np.uint8), 2).dtype == np.float32
    assert one_hot([], 3).shape == (0, 3)


def test_model_that_onnxruntime_refuses() -> None:
    with pytest.raises(BitlensError, match="ONNX Runtime refuses the model"):
        run_onnx(b"nonsense", small_network())


def test_model_of_another_network_is_refused() -> None:
    program = small_network()
    other = onnx_model(residual_network()).SerializeToString()
    image = images_for(program, 1).astype(np.int16)
    with pytest.raises(BitlensError, match="ONNX Runtime cannot run the model"):
        run_onnx(other, program)({"image": image}, ["logits"])
    wider = replace(
        program, nodes=(*program.nodes[:-1], replace(program.nodes[-1], inputs=("act1",))), outputs=("logits",)
    )
    model = onnx_model(replace(wider, nodes=program.nodes[:3] + wider.nodes[-1:])).SerializeToString()
    with pytest.raises(BitlensError, match=r"gives 'logits' as \(3, 4, 4\), expected \(3,\): it was not written from"):
        run_onnx(model, program)({"image": image}, ["logits"])


def loaded(content: bytes, program: Program) -> RunGraph:
    return run_tflite(open_tflite(content), program)


def test_tflite_model_of_another_network_is_refused(network: Network) -> None:
    program, image = network.program, images_for(network.program, 2).astype(np.int16)
    with pytest.raises(BitlensError, match=r"cannot run the model \(.*\): export the network again"):
        loaded(network_in_memory(residual_network()).read(FORWARD_TFLITE), program)({"image": image}, ["logits"])
    with pytest.raises(BitlensError, match=r"the model reads image, seed and gives .* asked were logits of image"):
        loaded(network.read(GRADIENT_TFLITE), program)({"image": image}, ["logits"])
    shorter = replace(program, nodes=program.nodes[:3], outputs=("act1",))
    types = replace(shorter, nodes=(*program.nodes[:2], replace(program.nodes[2], outputs=("logits",))))
    model = tflite_model(replace(types, outputs=("logits",)))
    with pytest.raises(
        BitlensError, match=r"gives 'logits' as \(4, 4, 3\), expected \(3,\), channels last: it was not"
    ):
        loaded(model, program)({"image": image}, ["logits"])


@pytest.mark.parametrize("facts", [None, {}, {"feature": "act3"}, {"feature": 1}, {"feature": "conv1"}, "act2"])
def test_a_manifest_that_does_not_say_what_was_fixed(facts: object, network: Network) -> None:
    odd = replace(network, manifest={**network.manifest, MANIFEST_FACTS: facts})
    with pytest.raises(BitlensError, match="manifest does not say what its TFLite files were made for: export the"):
        open_engine(odd, "tflite")


def test_a_manifest_that_names_another_feature_map(network: Network, images: npt.NDArray[np.uint8]) -> None:
    odd = open_engine(replace(network, manifest={**network.manifest, MANIFEST_FACTS: {"feature": "act1"}}), "tflite")
    with pytest.raises(BitlensError, match=r"asked were .*act1\.gradient of image, seed: export the network again"):
        odd.gradient(images, one_hot([0] * 4, 3), features=("act1",))


def test_every_graph_is_one_part_for_xnnpack(network: Network) -> None:
    for program in (network.program, residual_network(), small_twin()):
        members = network_in_memory(program)
        for name in (FORWARD_TFLITE, GRADIENT_TFLITE):
            assert open_tflite(members.read(name)).delegation.is_whole
    assert open_engine(network, "tflite").info.kernels == "XNNPACK"


@pytest.mark.parametrize("member", [FORWARD_TFLITE, GRADIENT_TFLITE])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_corrupted_member_is_refused_by_its_hash(
    member: str, place: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a bundle that was damaged, nor one that was made up so that its seal fits, reaches the interpreter."""
    path = exported_network(tmp_path)
    bundle = open_bundle(path)
    members = {name: bundle.read(name) for name in bundle.records}
    found, content = bundle.places[member], bytearray(path.read_bytes())
    content[found.start + int(place * found.packed_bytes)] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(BitlensError, match="damaged"):
        open_network(path, trust=True)
    wrong = {**bundle.records, member: {**bundle.records[member], "sha256": "0" * 64}}
    changed = bytearray(members[member])
    changed[int(place * len(changed))] ^= 0x10
    path.write_bytes(
        bundle_bytes({**members, member: bytes(changed)}, {MANIFEST_FACTS: bundle.manifest[MANIFEST_FACTS]})
    )
    resealed = open_bundle(path)
    forged = replace(resealed, manifest={**resealed.manifest, "members": wrong})
    stranger = Network(path, small_network(), forged.manifest, forged.read, forged.sha256, trusted=True)
    opened = tflite.open_tflite

    def given(content: bytes, *, threads: int) -> TFLiteModel:
        assert content != bytes(changed), "it was given to the interpreter"
        return opened(content, threads=threads)

    monkeypatch.setattr(tflite, "open_tflite", given)
    image, seed = images_for(stranger.program, 1), one_hot([0], 3)
    with pytest.raises(BitlensError, match=rf"member {member} is damaged \(its SHA-256 differs\)"):
        open_engine(stranger, "tflite").gradient(image, seed)


def test_a_strangers_file_never_reaches_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exported_network(tmp_path)
    monkeypatch.setenv(TRUST_VARIABLE, str(tmp_path / "trusted"))
    monkeypatch.setattr(tflite, "open_tflite", lambda *_, **__: pytest.fail("it was given to the interpreter"))
    stranger = open_network(path)
    assert not stranger.trusted
    for name in (*present_engines(stranger), "auto"):
        open_engine(stranger, name).forward(images_for(stranger.program, 1))
    with pytest.raises(BitlensError, match="not on your list of trusted networks"):
        open_engine(stranger, "tflite")
    monkeypatch.undo()
    trusted = open_engine(open_network(path, trust=True), "tflite")
    assert np.array_equal(
        trusted.forward(images_for(stranger.program, 2)),
        open_engine(stranger, "reference").forward(images_for(stranger.program, 2)),
    )
