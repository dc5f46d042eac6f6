from __future__ import annotations

import copy
from collections.abc import Iterator

import brevitas.nn as qnn
import pytest
import torch
from torch import Tensor, nn

from bitlens.runtime.errors import BitlensError
from bitlens.train.models import MODELS, ModelEntry, build_model, initialise_from_twin, register_model
from bitlens.train.quantizers import HARDTANH, PACT, learned_alphas

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
    with pytest.raises(BitlensError, match=r"conv1\.weight has shape \(5, 1, 5, 5\), expected \(4, 1, 5, 5\)"):
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
    with pytest.raises(BitlensError, match=r"unknown model 'resnet'.*lenet"):
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
    with pytest.raises(BitlensError, match="'dense' is registered already"):
        register_model("dense", layers=1)(dense)
