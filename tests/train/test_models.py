from __future__ import annotations

import copy
from collections.abc import Iterator

import brevitas.nn as qnn
import pytest
import torch
from torch import Tensor, nn

from bitlens.runtime.errors import BitlensError
from bitlens.train.models import (
    MODELS,
    ModelEntry,
    build_model,
    initialise_from_pretrained,
    initialise_from_twin,
    register_model,
)
from bitlens.train.models.residual import Flow, ResidualBlock
from bitlens.train.precision import LayerPrecision
from bitlens.train.quantizers import FIRST_ALPHA, HARDTANH, PACT, learned_alphas

PRECISIONS = ("fp32", "w1a1", "w2a2", "w2a4", "w4a4", "w8a8", "w1a4", "w4a1", "w1a1,w2a4,w4a2,w8a8")


@pytest.fixture
def registry() -> Iterator[dict[str, ModelEntry]]:
    before = dict(MODELS)
    yield MODELS
    MODELS.clear()
    MODELS.update(before)


def images(count: int = 3, shape: tuple[int, int, int] = (1, 28, 28)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *shape), generator=generator).float() / 255


def lively_model(precision: str) -> nn.Module:
    """Give a network whose batch norms have worked: a fresh one has offset 0, where binary sums tie with the sign."""
    model = build_model("lenet", precision, width=4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.children():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.copy_(torch.rand(module.bias.shape, generator=generator) - 0.3)
        for _ in range(20):
            model(images(16))
    return model.eval()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_forward_gives_plain_logits(precision: str, mode: str) -> None:
    model = build_model("lenet", precision, width=4).train(mode == "train")
    logits = model(images())
    assert type(logits) is Tensor
    assert logits.shape == (3, 10)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 4, 4), (2, 17, 30)])
def test_any_image_size_and_class_count(shape: tuple[int, int, int]) -> None:
    model = build_model("lenet", "w2a4", input_shape=shape, classes=7, width=3)
    assert model(images(2, shape)).shape == (2, 7)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_quantized_tensor_travels_between_layers(precision: str) -> None:
    seen = []
    model = build_model("lenet", precision, width=4).eval()
    for module in model.children():
        module.register_forward_hook(lambda _module, _inputs, output: seen.append(type(output)))
    model(images())
    assert set(seen) == {Tensor}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_float64_model_computes_in_float64(precision: str) -> None:
    model = lively_model(precision)
    reference = copy.deepcopy(model).double()
    dtypes = set()
    for module in reference.children():
        module.register_forward_hook(lambda _module, _inputs, output: dtypes.add(output.dtype))
    exact = reference(images().double())
    assert dtypes == {torch.float64}
    torch.testing.assert_close(model(images()).double(), exact, rtol=1e-4, atol=1e-4)
    assert not torch.equal(model(images()).double(), exact), "the float64 model gave float32 numbers"


def test_pool_stands_before_the_quantizer() -> None:
    names = [name for name, _ in build_model("lenet", "w4a4").named_children()]
    block = ["conv{0}", "norm{0}", "pool{0}", "act{0}"]
    blocks = [part.format(i) for i in (1, 2, 3) for part in block if not (i == 3 and part.startswith("pool"))]
    assert names == [*blocks, "flatten", "fc"]


def test_binary_maps_are_padded_with_a_code() -> None:
    model = build_model("lenet", "w1a1", width=4)
    padded = {name: module for name, module in model.named_children() if isinstance(module, nn.ConstantPad2d)}
    assert list(padded) == ["pad2", "pad3"]
    assert {module.value for module in padded.values()} == {-1.0}
    convolutions = [module for module in model.children() if isinstance(module, nn.Conv2d)]
    assert [module.padding for module in convolutions] == [(2, 2), (0, 0), (0, 0)]
    seen = []
    for name in ("conv2", "conv3"):
        model.get_submodule(name).register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].unique()))
    model(images())
    assert [values.tolist() for values in seen] == [[-1, 1], [-1, 1]]


def test_padding_follows_the_activation_before_it() -> None:
    model = build_model("lenet", "w4a4,w1a1,w4a4,w4a4", width=4)
    assert [name for name, _ in model.named_children() if name.startswith("pad")] == ["pad3"]


@pytest.mark.parametrize(
    ("precision", "surrogates"),
    [("w1a1", [HARDTANH] * 3), ("w4a4", [PACT] * 3), ("w4a4,w4a1,w4a2,w4a4", [PACT, HARDTANH, PACT])],
)
def test_activations_say_where_the_gradient_passes(precision: str, surrogates: list[str]) -> None:
    model = build_model("lenet", precision, width=4)
    assert [model.get_submodule(f"act{i}").surrogate for i in (1, 2, 3)] == surrogates


@pytest.mark.parametrize(
    ("precision", "bits"),
    [
        ("w1a1", [8, 1, 1, 8]),
        ("w2a2", [8, 2, 2, 8]),
        ("w2a4", [8, 2, 2, 8]),
        ("w4a4", [8, 4, 4, 8]),
        ("w1a1,w2a4,w4a2,w8a8", [1, 2, 4, 8]),
    ],
)
def test_weights_are_quantized_and_not_silently_float(precision: str, bits: list[int]) -> None:
    model = build_model("lenet", precision)
    largest = {1: 1, 2: 1, 4: 7, 8: 127}
    for name, width in zip(("conv1", "conv2", "conv3", "fc"), bits, strict=True):
        quantized = model.get_submodule(name).quant_weight()  # type: ignore[operator]
        codes = (quantized.value / quantized.scale).round().int().unique().tolist()
        assert max(codes) <= largest[width], name
        assert min(codes) >= -largest[width], name
        assert (0 in codes) == (width != 1), name
        assert int(quantized.bit_width) == width, name


def test_twin_has_no_quantizer() -> None:
    twin = build_model("lenet", "fp32")
    assert {type(module) for module in twin.children()} == {
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.MaxPool2d,
        nn.ReLU,
        nn.Flatten,
        nn.Linear,
    }


def test_seed_decides_the_weights_and_leaves_torch_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (build_model("lenet", "w4a4", width=4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.get_parameter("conv2.weight"), again.get_parameter("conv2.weight"))
    assert not torch.equal(first.get_parameter("conv2.weight"), other.get_parameter("conv2.weight"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_model_starts_from_its_twin(precision: str) -> None:
    twin = build_model("lenet", "fp32", width=4, seed=1)
    twin(images())  # moves the batch-norm statistics
    model = build_model("lenet", precision, width=4, seed=2)
    alphas = {name: alpha.item() for name, alpha in learned_alphas(model).items()}
    initialise_from_twin(model, twin.state_dict())
    own = model.state_dict()
    for name, tensor in twin.state_dict().items():
        assert torch.equal(own[name], tensor), name
    assert {name: alpha.item() for name, alpha in learned_alphas(model).items()} == alphas


def test_eight_bit_model_from_a_twin_is_close_to_it() -> None:
    twin = build_model("lenet", "fp32", width=4, seed=1)
    twin(images(64))
    twin.eval()
    model = build_model("lenet", "w8a8", width=4, seed=2).eval()
    initialise_from_twin(model, twin.state_dict())
    assert torch.corrcoef(torch.stack([model(images(32)).flatten(), twin(images(32)).flatten()]))[0, 1] > 0.99


def test_twin_of_another_width_is_refused_and_changes_nothing() -> None:
    model = build_model("lenet", "w4a4", width=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        BitlensError, match=r"conv1\.weight of the twin has shape \(5, 1, 5, 5\), expected \(4, 1, 5, 5\)"
    ):
        initialise_from_twin(model, build_model("lenet", "fp32", width=5).state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_twin_with_missing_or_further_tensors_is_refused() -> None:
    model = build_model("lenet", "w4a4", width=4)
    state = build_model("lenet", "fp32", width=4).state_dict()
    bias = state.pop("fc.bias")
    with pytest.raises(BitlensError, match=r"missing tensors: fc\.bias; left over: none"):
        initialise_from_twin(model, state)
    with pytest.raises(BitlensError, match=r"missing tensors: none; left over: fc2\.bias"):
        initialise_from_twin(model, {**state, "fc.bias": bias, "fc2.bias": bias})


@pytest.mark.parametrize("name", MODELS)
def test_all_but_the_classifier_starts_from_a_run_on_other_images(name: str) -> None:
    side = 64 if name == "bireal_resnet18" else 32
    other = build_model(name, "w2a2", (3, side, side), classes=3, width=4, seed=1)
    model = build_model(name, "w2a2", (3, side, side), classes=5, width=4, seed=2)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    initialise_from_pretrained(model, other.state_dict())
    fresh = [key for key, tensor in model.state_dict().items() if torch.equal(tensor, before[key])]
    given = other.state_dict()
    same = [key for key, tensor in model.state_dict().items() if torch.equal(tensor, given[key])]
    assert {"fc.weight", "fc.bias"} <= set(fresh)
    assert set(same) == set(given) - {"fc.weight", "fc.bias"}


def test_run_of_another_network_is_no_start_and_changes_nothing() -> None:
    model = build_model("lenet", "fp32", classes=3, width=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(BitlensError, match=r"conv1\.weight of the run to start from has shape \(5, 1, 5, 5\)"):
        initialise_from_pretrained(model, build_model("lenet", "fp32", width=5).state_dict())
    with pytest.raises(BitlensError, match=r"the run to start from is another network .*: give one of the same model"):
        initialise_from_pretrained(model, build_model("lenet", "w4a4", width=4).state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("precision", ["w1a1", "w2a2", "w2a4", "w4a4"])
def test_input_gradient_can_be_differentiated(precision: str) -> None:
    model = build_model("lenet", precision, width=4)
    x = images(4).requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x, create_graph=True)
    gradient.square().sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if name.endswith("conv1.weight"):
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.abs().max() > 0


def test_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BitlensError, match=r"unknown model 'resnet'.*lenet, resnet20, vgg_small"):
        build_model("resnet", "w4a4")


@pytest.mark.parametrize(
    "sizes", [{"classes": 0}, {"width": 0}, {"input_shape": (0, 8, 8)}, {"input_shape": (1, 3, 8)}]
)
def test_impossible_sizes_are_refused(sizes: dict[str, object]) -> None:
    with pytest.raises(BitlensError, match="at least"):
        build_model("lenet", "w4a4", **sizes)  # type: ignore[arg-type]


def test_registered_model_is_built_and_its_name_is_taken(registry: dict[str, ModelEntry]) -> None:
    @register_model("dense", layers=1)
    def dense(spec: object) -> nn.Module:
        return nn.Sequential(nn.Flatten(), qnn.QuantLinear(16, 2, bias=True))

    assert registry["dense"].layers == 1
    assert build_model("dense", "w4a4", (1, 4, 4), 2)(images(1, (1, 4, 4))).shape == (1, 2)
    with pytest.raises(ValueError, match="model 'dense' is already in the table: choose another name"):
        register_model("dense", layers=1)(dense)


# Every registered network.

SIZES = {
    "lenet": (1, 28, 28),
    "vgg_small": (3, 32, 32),
    "resnet20": (3, 32, 32),
    "bireal_resnet18": (3, 64, 64),
}
WORDS = ("fp32", "w1a1", "w2a2", "w2a4", "w4a4")


def small(name: str, precision: str, *, width: int = 3, seed: int = 0) -> nn.Module:
    return build_model(name, precision, SIZES[name], width=width, seed=seed)


def counted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layers with weights that a precision list names: all but the projections on shortcuts."""
    kinds = nn.Conv2d | nn.Linear
    return {
        name: module for name, module in model.named_modules() if isinstance(module, kinds) and ".shortcut." not in name
    }


def test_every_network_is_tested() -> None:
    assert set(MODELS) == set(SIZES)


@pytest.mark.parametrize("precision", WORDS)
@pytest.mark.parametrize("name", SIZES)
def test_every_network_gives_plain_logits_in_both_modes(name: str, precision: str) -> None:
    model = small(name, precision)
    seen = set()
    handles = [
        module.register_forward_hook(
            lambda _module, _inputs, output: (
                seen.update(type(part) for part in output) if isinstance(output, tuple) else seen.add(type(output))
            )
        )
        for module in model.modules()
    ]
    for mode in (True, False):
        logits = model.train(mode)(images(2, SIZES[name]))
        assert logits.shape == (2, 10)
        assert torch.isfinite(logits).all()
    for handle in handles:  # Brevitas shares some modules between networks
        handle.remove()
    assert seen == {Tensor} or precision != "fp32"  # inside a quantizer Brevitas passes its own tuples
    assert next(iter(model.double()(images(2, SIZES[name]).double()))).dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vgg_small", (1, 28, 28)),
        ("vgg_small", (3, 64, 45)),
        ("vgg_small", (3, 8, 9)),
        ("resnet20", (1, 28, 28)),
        ("resnet20", (3, 4, 5)),
        ("bireal_resnet18", (3, 67, 90)),
        ("bireal_resnet18", (1, 96, 128)),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "w1a1", "w2a2"])
def test_images_of_other_sizes(name: str, shape: tuple[int, int, int], precision: str) -> None:
    assert build_model(name, precision, shape, 7, 2)(images(2, shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "shape"), [("vgg_small", (3, 7, 32)), ("resnet20", (3, 32, 3)), ("bireal_resnet18", (3, 64, 63))]
)
def test_images_that_are_too_small_are_refused(name: str, shape: tuple[int, int, int]) -> None:
    with pytest.raises(BitlensError, match=rf"{name} halves the image .* got {shape[1]}x{shape[2]} pixels: give at"):
        build_model(name, "w4a4", shape)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        # 128-128-256-256-512-512 convolutions, their batch norms, and 8192 x 10 + 10.
        ("vgg_small", (3, 32, 32), 10, 9 * (3 * 128 + 128**2 + 128 * 256 + 256**2 + 256 * 512 + 512**2) + 3584 + 81930),
        ("resnet20", (3, 32, 32), 10, 272_474),  # the literature's 0.27 M, with its two projections
        ("bireal_resnet18", (3, 224, 224), 1000, 11_689_512),  # torchvision's resnet18
    ],
)
def test_networks_of_the_papers_width_have_the_papers_parameters(
    name: str, shape: tuple[int, int, int], classes: int, parameters: int
) -> None:
    model = build_model(name, "fp32", shape, classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("name", SIZES)
def test_a_precision_list_has_a_word_for_every_layer(name: str) -> None:
    """Weight bits in order, and the activation of layer i is what layer i + 1 reads."""
    count = MODELS[name].layers
    words = [(weight, act) for weight, act in zip((8, 2, 4, 1, 2) * 5, (4, 2, 1, 4, 8, 2) * 4, strict=False)][:count]
    model = small(name, ",".join(f"w{weight}a{act}" for weight, act in words))
    layers = counted_layers(model)
    assert len(layers) == count
    assert [int(layer.quant_weight().bit_width) for layer in layers.values()] == [weight for weight, _ in words]  # type: ignore[operator]
    read: dict[str, int] = {}
    for layer_name, layer in layers.items():
        layer.register_forward_pre_hook(
            lambda _module, inputs, key=layer_name: read.update({key: len(inputs[0].unique())})
        )
    model(torch.rand((8, *SIZES[name]), generator=torch.Generator().manual_seed(1)))
    for (_, act), levels in zip(words[:-2], list(read.values())[1:-1], strict=True):
        # Zero padding is code 0, one of PACT's own; +-1 maps are padded with -1.
        assert levels == 2 if act == 1 else 2 < levels <= 2**act
    with pytest.raises(BitlensError, match=rf"has {count - 1} words for {count} layers"):
        small(name, ",".join(["w4a4"] * (count - 1)))


@pytest.mark.parametrize("precision", [word for word in WORDS if word != "fp32"])
@pytest.mark.parametrize("name", SIZES)
def test_every_network_starts_from_its_twin(name: str, precision: str) -> None:
    twin, model = small(name, "fp32", seed=1), small(name, precision, seed=2)
    twin(images(2, SIZES[name]))
    alphas = {key: alpha.item() for key, alpha in learned_alphas(model).items()}
    initialise_from_twin(model, twin.state_dict())
    own = model.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in twin.state_dict().items())
    assert {key: alpha.item() for key, alpha in learned_alphas(model).items()} == alphas
    kinds = {type(module) for module in twin.modules()}
    assert not [kind for kind in kinds if kind.__module__.startswith("brevitas")]


@pytest.mark.parametrize("name", SIZES)
def test_eight_bits_are_close_to_the_twin(name: str) -> None:
    twin = small(name, "fp32", width=4, seed=1)
    for _ in range(40):
        twin(images(16, SIZES[name]))
    model = small(name, "w8a8", width=4, seed=2)
    initialise_from_twin(model, twin.state_dict())
    with torch.no_grad():
        for alpha in learned_alphas(model).values():
            alpha.fill_(12.0)  # above every value, so that only the rounding is left
        x = images(16, SIZES[name])
        pair = torch.stack([model.eval()(x).flatten(), twin.eval()(x).flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.98


@pytest.mark.parametrize("name", ["vgg_small", "resnet20", "bireal_resnet18"])
def test_binary_convolutions_read_nothing_but_signs(name: str) -> None:
    model = small(name, "w1a1")
    seen = {}
    for key, layer in list(counted_layers(model).items())[1:-1]:
        layer.register_forward_pre_hook(
            lambda _module, inputs, key=key: seen.update({key: inputs[0].unique().tolist()})
        )
    model(images(2, SIZES[name]))
    assert len(seen) == MODELS[name].layers - 2
    assert all(values == [-1.0, 1.0] for values in seen.values())


@pytest.mark.parametrize("precision", ["w1a1", "w2a2"])
@pytest.mark.parametrize("name", ["vgg_small", "resnet20", "bireal_resnet18"])
def test_gradients_reach_every_weight_and_can_be_differentiated(name: str, precision: str) -> None:
    model = small(name, precision)
    x = images(4, SIZES[name]).requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x, create_graph=True)
    (gradient.square().sum() + model(x).square().sum()).backward()  # type: ignore[no-untyped-call]
    for key, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.weight.grad is not None, key
            assert torch.isfinite(layer.weight.grad).all(), key
            assert layer.weight.grad.abs().max() > 0, key


# What a residual block computes.


def block(bits: int | None, *, bi_real: bool, outputs: int = 4, stride: int = 1) -> ResidualBlock:
    layer = None if bits is None else LayerPrecision(bits, bits)
    made = ResidualBlock(layer, layer, layer, Flow(4, 6, 6, 1), outputs, stride, bi_real=bi_real).eval()
    for convolution in (made.norm1, made.norm2):
        nn.init.zeros_(convolution.weight)  # the branch is silent: what comes out went through the shortcut
    return made


def real_and_codes(bits: int | None) -> tuple[Tensor, Tensor]:
    real = 2.0 * torch.randn((2, 4, 6, 6), generator=torch.Generator().manual_seed(0))
    return real, {None: real.relu(), 1: real.sign(), 4: real.clamp(0, 3).mul(5).round() / 5}[bits]


@pytest.mark.parametrize("bits", [None, 1, 4])
def test_bi_real_shortcut_carries_the_real_value(bits: int | None) -> None:
    real, codes = real_and_codes(bits)
    assert torch.equal(block(bits, bi_real=True)(real, codes)[0], real)


@pytest.mark.parametrize("bits", [None, 4])
def test_plain_shortcut_carries_what_the_convolution_reads(bits: int | None) -> None:
    real, codes = real_and_codes(bits)
    assert torch.equal(block(bits, bi_real=False)(real, codes)[0], codes)


def test_each_convolution_of_a_bi_real_block_has_a_shortcut_of_its_own() -> None:
    real, codes = real_and_codes(1)
    made = block(1, bi_real=True)
    nn.init.constant_(made.norm1.bias, 0.25)
    nn.init.constant_(made.norm2.bias, 0.5)
    total, behind = made(real, codes)
    assert torch.allclose(total, real + 0.75)
    assert set(behind.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(behind, torch.where(total >= 0, 1.0, -1.0))


def test_bi_real_projection_averages_the_quantized_real_value() -> None:
    real, codes = real_and_codes(1)
    made = block(1, bi_real=True, outputs=8, stride=2)
    assert [name for name, _ in made.shortcut.named_children()] == ["act", "pool", "conv", "norm"]
    alpha = FIRST_ALPHA[8]
    grid = (real.clamp(0, alpha) * 255 / alpha).round() * alpha / 255
    averaged = nn.functional.avg_pool2d(grid, 2)
    conv = made.shortcut.get_submodule("conv")
    expected = nn.functional.conv2d(averaged, conv.quant_weight().value) / (1 + 1e-5) ** 0.5  # type: ignore[operator]
    assert torch.allclose(made(real, codes)[0], expected, atol=1e-5)


@pytest.mark.parametrize(("width", "quantized_twice"), [(16, [False, False, False]), (64, [False, False, True])])
def test_averages_are_quantized_again_where_a_sum_could_be_inexact(width: int, quantized_twice: list[bool]) -> None:
    # 127 * 255 * 4 * channels reaches 2^24 from 130 channels on.
    model = build_model("bireal_resnet18", "w1a1", (3, 64, 64), 10, width)
    found = ["pooled_act" in dict(model.get_submodule(f"block{i}.shortcut").named_children()) for i in (3, 5, 7)]
    assert found == quantized_twice


def test_a_block_that_meets_signs_takes_the_bi_real_form() -> None:
    list_of_words = ["w8a4", *["w4a4"] * 5, "w4a1", *["w4a4"] * 12, "w8a8"]
    model = small("resnet20", ",".join(list_of_words))
    forms = [model.get_submodule(f"block{i}").bi_real for i in range(1, 10)]
    assert forms == [False, False, False, True, *[False] * 5]  # layer 7 is the last of block 3; block 4 reads it
    assert {
        block.bi_real for block in small("bireal_resnet18", "fp32").modules() if isinstance(block, ResidualBlock)
    } == {True}


def test_the_map_before_the_average_keeps_more_than_signs() -> None:
    for name, last in (("resnet20", "block9"), ("bireal_resnet18", "block8")):
        for precision, bits in (("w1a1", 8), ("w2a2", 2), ("w4a4", 4)):
            quantizer = small(name, precision).get_submodule(f"{last}.act2")
            assert quantizer.surrogate == PACT
            assert int(quantizer.act_quant.bit_width()) == bits  # type: ignore[operator, union-attr]


def test_first_alphas_grow_with_the_sums_before_them() -> None:
    alphas = {key: alpha.item() for key, alpha in learned_alphas(small("bireal_resnet18", "w4a4")).items()}
    starts = {".".join(key.split(".")[:2]): value for key, value in alphas.items() if "shortcut" not in key}
    expected = {"block1.act1": 2, "block1.act2": 3, "block2.act2": 5, "block3.act1": 2, "block8.act2": 5}
    for key, terms in expected.items():
        assert starts[key] == pytest.approx(FIRST_ALPHA[4] * terms**0.5)
