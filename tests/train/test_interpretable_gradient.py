from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop
from torch import Tensor, nn
from torch.nn import functional

from bitlens.export.lowering import lower
from bitlens.export.qonnx import qonnx_from_brevitas
from bitlens.runtime.engines import open_engine
from bitlens.runtime.network import Network
from bitlens.runtime.parity import relative_errors
from bitlens.train.datasets import SplitDataset, network_input
from bitlens.train.fit import FitConfig, _batch_loss
from bitlens.train.losses.interpretable_gradient import (
    agreement,
    cosines,
    gradients_apart,
    guided_rule,
    input_gradients,
)
from bitlens.train.models import MODELS, build_model

BOUND = 1e-5  # the runtime's gradients are float32
COUNT = 12


def network(digits: SplitDataset, name: str, precision: str) -> nn.Module:
    """A fresh network with the running statistics of a few images."""
    model = build_model(name, precision, width=4, seed=6).train()
    for _ in range(4):
        model(network_input(digits.train().images[:64]))
    return model.eval()


class _CrossEntropy(nn.Module):
    """The cross entropy of each image as an output of its own, as Captum wants it."""

    def __init__(self, model: nn.Module, labels: Tensor) -> None:
        super().__init__()
        self.model = model
        self.labels = labels

    def forward(self, x: Tensor) -> Tensor:
        return functional.cross_entropy(self.model(x), self.labels, reduction="none")[:, None]


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_guided_gradient_of_the_twin_is_captums(name: str, digits: SplitDataset) -> None:
    model = network(digits, name, "fp32").double()
    test = digits.test().subset(torch.arange(COUNT))
    x = network_input(test.images, torch.float64).requires_grad_()
    with guided_rule(model) as rule:
        loss = functional.cross_entropy(model(x), test.labels, reduction="sum")
    plain, guided = input_gradients(loss, x, rule, differentiable=True)
    with pytest.warns(UserWarning, match="Setting backward hooks on ReLU"):
        theirs = GuidedBackprop(_CrossEntropy(copy.deepcopy(model), test.labels)).attribute(x, target=0)
    torch.testing.assert_close(guided, theirs.detach(), rtol=1e-10, atol=1e-14)
    assert relative_errors(guided.numpy(), plain.detach().numpy()).min() > 0.1


@pytest.mark.parametrize("precision", ["fp32", "w4a4", "w2a2", "w1a1"])
def test_guided_gradient_is_the_one_of_a_board(precision: str, digits: SplitDataset) -> None:
    model = network(digits, "lenet", precision)
    program = lower(qonnx_from_brevitas(model, (1, 28, 28)))
    engine = open_engine(Network(Path("memory"), program), "reference")
    test = digits.test().subset(torch.arange(COUNT))
    exact = copy.deepcopy(model).double()
    x = network_input(test.images, torch.float64).requires_grad_()
    with guided_rule(exact) as rule:
        logits = exact(x)
        loss = functional.cross_entropy(logits, test.labels, reduction="sum")
    plain, guided = input_gradients(loss, x, rule, differentiable=True)
    seed = (logits.detach().softmax(1) - functional.one_hot(test.labels, 10)).numpy()
    for expected, rule_is_on in ((plain, False), (guided, True)):
        got = engine.gradient(test.images.numpy(), seed.astype(np.float32), guided=rule_is_on).input_gradient
        assert relative_errors(got, expected.detach().numpy()).max() < BOUND
    assert relative_errors(guided.numpy(), plain.detach().numpy()).min() > 0.1


def test_rule_is_off_but_for_the_guided_gradient(digits: SplitDataset) -> None:
    model = network(digits, "lenet", "w2a2").double()
    test = digits.test().subset(torch.arange(4))
    x = network_input(test.images, torch.float64).requires_grad_()
    functional.cross_entropy(model(x), test.labels).backward()  # type: ignore[no-untyped-call]
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    with guided_rule(model) as rule:
        loss = functional.cross_entropy(model(x), test.labels)
        input_gradients(loss, x, rule, differentiable=True)
    assert not rule.active
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True) if p.grad is not None)
    assert not any(module._forward_hooks for module in model.modules())


def test_cosines_are_the_formula() -> None:
    one, two = torch.randn(2, 5, 2, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for size in (1.0, 1e-100, 1e100):
        a, b = one.numpy().reshape(5, -1), two.numpy().reshape(5, -1)
        expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        np.testing.assert_allclose(cosines(size * one, two).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("nothing", [0.0, 1e-30, 1e-45])
def test_image_without_a_gradient_counts_as_no_agreement(nothing: float) -> None:
    generator = torch.Generator().manual_seed(2)
    plain = torch.randn(3, 1, 2, 2, generator=generator)
    guided = torch.randn(3, 1, 2, 2, generator=generator)
    plain[0] = nothing
    guided[1] = nothing
    plain.requires_grad_()
    found = cosines(plain, guided)
    (gradient,) = torch.autograd.grad(found.sum(), plain)
    assert found[:2].tolist() == [0, 0]
    assert found[2] != 0
    assert (gradient[:2] == 0).all()
    assert (gradient[2] != 0).any()


@pytest.mark.parametrize("precision", ["fp32", "w2a2", "w1a1"])
def test_network_without_a_gradient_takes_a_finite_step(precision: str) -> None:
    model = build_model("lenet", precision, width=4, seed=6).train()
    with torch.no_grad():
        model.get_parameter("fc.weight").zero_()
    x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(3))
    # An all-zero layer with integer or binary weights has tiny ones instead, and with them a gradient.
    apart = gradients_apart(model, x, torch.arange(4))
    assert 0 <= apart.item() <= 2
    if precision == "fp32":
        assert apart.item() == 1
    (functional.cross_entropy(model(x), torch.arange(4)) + apart).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def precision_of(word: str, layers: int) -> str:
    if word != "mixed":
        return word
    return ",".join(["w8a4", *(("w4a2", "w2a4")[place % 2] for place in range(layers - 2)), "w8a4"])


@pytest.mark.parametrize("word", ["w1a1", "w2a2", "w4a4", "mixed"])
@pytest.mark.parametrize("name", list(MODELS))
def test_every_network_takes_a_step_with_both_losses(name: str, word: str) -> None:
    side = 64 if name == "bireal_resnet18" else 28
    model = build_model(name, precision_of(word, MODELS[name].layers), (1, side, side), 10, 2, seed=1).train()
    assert not finite_step(model, side).count(0.0)


def finite_step(model: nn.Module, side: int, wrapped: nn.Module | None = None) -> list[float]:
    """Sizes of all gradients after a step's backward pass."""
    generator = torch.Generator().manual_seed(5)
    x, noise = torch.rand(2, 4, 1, side, side, generator=generator)
    config = FitConfig(saliency_guided_weight=1.0, interpretable_gradient_weight=1.0)
    loss = _batch_loss(model if wrapped is None else wrapped, model, x, torch.arange(4), noise, None, config)
    assert loss.isfinite()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    return [float(p.grad.abs().sum()) for n, p in model.named_parameters() if p.grad is not None and "scaling" not in n]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", ["fp32", "w2a2", "w1a1"])
def test_step_in_half_precision_is_finite(precision: str, dtype: torch.dtype) -> None:
    model = build_model("lenet", precision, width=4, seed=1).train()
    assert not finite_step(model, 28, _InHalfPrecision(model, dtype)).count(0.0)


class _InHalfPrecision(nn.Module):
    """As Fabric wraps a model for mixed precision."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", self.dtype):
            answers: Tensor = self.model(x)
        assert answers.dtype == self.dtype
        return answers.float()


def test_agreement_of_confident_answers_is_a_number(digits: SplitDataset) -> None:
    model = network(digits, "lenet", "fp32")
    few = digits.test().subset(torch.arange(6))
    x = network_input(few.images)
    with torch.no_grad():
        model.get_parameter("fc.weight").mul_(1000.0)
    assert functional.cross_entropy(model(x), few.labels, reduction="none").gt(100).any()
    single = agreement(model, x, few.labels, differentiable=False)
    exact = agreement(copy.deepcopy(model).double(), x.double(), few.labels, differentiable=False)
    assert (exact != 0).all()
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-4)


def test_modes_and_hooks_are_put_back(digits: SplitDataset) -> None:
    model = network(digits, "lenet", "w2a2").train()
    model.get_submodule("norm2").eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients_apart(model, torch.rand(3, 1, 28, 28), torch.arange(3))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_no_image_gives_zero(precision: str) -> None:
    model = build_model("lenet", precision, width=4, seed=1).train()
    apart = gradients_apart(model, torch.empty(0, 1, 28, 28), torch.empty(0, dtype=torch.int64))
    assert apart.item() == 0
    (apart + model(torch.rand(2, 1, 28, 28)).sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
