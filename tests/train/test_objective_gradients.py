"""Gradients of the papers' losses against central finite differences in float64, double backward included."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from affine_extension import extended, with_float_weights
from numpy.typing import NDArray
from torch import Tensor, nn

from bitlens.train import fit as fit_module
from bitlens.train import quantizers
from bitlens.train.fit import FitConfig
from bitlens.train.losses.interpretable_gradient import agreement, guided_rule, input_gradients
from bitlens.train.losses.saliency_guided import without_least_salient
from bitlens.train.models import build_model
from bitlens.train.models.blocks import activation_or_relu, convolution, dense

# The rounding of a loss of size 1 over the step leaves 1e-8; a larger step crosses the kinks of ReLUs and pools.
STEP = 1e-7
TOLERANCE = 2e-7
IMAGES, CLASSES, SHAPE = 5, 4, (2, 7, 6)
CONFIG = FitConfig(
    label_smoothing=0.1, saliency_guided_weight=1.0, interpretable_gradient_weight=0.7, saliency_guided_share=0.4
)


def small_network(weight_bits: int, activation_bits: int) -> nn.Sequential:
    """Without a max-pool: equal sums of codes would make a finite difference one-sided."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    modules["conv1"] = convolution(8, SHAPE[0], 4, 3, padding=1)
    modules["norm1"] = nn.BatchNorm2d(4)
    modules["act1"] = activation_or_relu(activation_bits)
    modules["conv2"] = convolution(weight_bits, 4, 5, 3, stride=2)
    modules["norm2"] = nn.BatchNorm2d(5)
    modules["act2"] = activation_or_relu(activation_bits)
    modules["flatten"] = nn.Flatten()
    modules["fc"] = dense(8, 5 * 3 * 2, CLASSES)
    return nn.Sequential(modules)


class Example:
    """A network, a batch and what is constant to the gradient: the images X~ and the guided gradient at the base."""

    def __init__(self, model: nn.Module, shape: tuple[int, int, int], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.model = model.double().train()
        self.x = torch.rand(IMAGES, *shape, generator=generator, dtype=torch.float64)
        self.labels = torch.randint(0, CLASSES, (IMAGES,), generator=generator)
        self.noise = torch.rand(IMAGES, *shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:  # not the gamma and beta of a fresh batch norm, at which errors could hide
                    parameter.add_(0.3 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64))
        # Running statistics of a batch, which later ones do not move: they are constant to the gradient.
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        model(self.noise)
        for norm in norms:
            norm.momentum = 0.0
        self.fewer = without_least_salient(model, self.x, self.labels, self.noise, share=0.4, ranking="signed")

    def loss(self, model: nn.Module) -> Tensor:
        """As `fit` takes it."""
        return fit_module._batch_loss(model, model, self.x, self.labels, self.noise, None, CONFIG)

    def cross_entropy(self, logits: Tensor, smoothing: float) -> Tensor:
        """Of each image."""
        target = (1 - smoothing) * torch.eye(CLASSES, dtype=torch.float64)[self.labels] + smoothing / CLASSES
        return -(target * (logits - logits.logsumexp(1, keepdim=True))).sum(1)

    def guided(self, model: nn.Module) -> Tensor:
        x = self.x.clone().requires_grad_()
        with guided_rule(model.eval()) as rule:
            loss = self.cross_entropy(model(x), 0.0).sum()
        model.train()
        return input_gradients(loss, x, rule, differentiable=False)[1]

    def value(self, model: nn.Module, guided: Tensor) -> float:
        """The same loss by the papers' formulas, with the constants of the base point."""
        answers = model(torch.cat([self.x, self.fewer])).detach()
        p, q = answers[:IMAGES].softmax(1), answers[IMAGES:].softmax(1)
        apart = (p * (p / q).log()).sum(1).mean()
        x = self.x.clone().requires_grad_()
        (plain,) = torch.autograd.grad(self.cross_entropy(model.eval()(x), 0.0).sum(), x)
        model.train()
        one, two = plain.flatten(1).numpy(), guided.flatten(1).numpy()
        cosine = (one * two).sum(1) / np.sqrt((one**2).sum(1) * (two**2).sum(1))
        classification = self.cross_entropy(answers[:IMAGES], 0.1).mean()
        return float(classification + apart) + 0.7 * float((1 - cosine).mean())


def differences(
    example: Example, model: nn.Module, guided: Tensor, seed: int
) -> tuple[list[Tensor], NDArray[np.float64]]:
    """Two directions for each parameter, and the central differences along them."""
    generator = torch.Generator().manual_seed(seed)
    parameters = list(model.parameters())
    directions = [torch.randn(2, *p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    found = np.empty((len(parameters), 2))
    for place, (parameter, pair) in enumerate(zip(parameters, directions, strict=True)):
        for which, direction in enumerate(pair):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    kept = parameter.clone()
                    parameter.add_(sign * STEP * direction)
                values.append(example.value(model, guided))
                with torch.no_grad():
                    parameter.copy_(kept)
            found[place, which] = (values[0] - values[1]) / (2 * STEP)
    return directions, found


def assert_gradients_are(gradients: list[Tensor], directions: list[Tensor], expected: NDArray[np.float64]) -> None:
    found = np.array([[float((g * d).sum()) for d in pair] for g, pair in zip(gradients, directions, strict=True)])
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE * 10, atol=TOLERANCE)
    assert (np.abs(expected).max(axis=1) > 1e-4).all(), "a parameter without influence checks nothing"


def gradients_of(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def twin_example(seed: int) -> Example:
    return Example(build_model("lenet", "fp32", (2, 8, 8), CLASSES, 3, seed=seed), (2, 8, 8), seed)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradients_on_the_twin(seed: int) -> None:
    example = twin_example(seed)
    model = example.model
    loss, guided = example.loss(model), example.guided(model)
    gradients = gradients_of(loss, model)
    assert loss.item() == pytest.approx(example.value(model, guided), rel=1e-12)
    directions, expected = differences(example, model, guided, seed)
    assert_gradients_are(gradients, directions, expected)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(1, 1), (2, 2), (4, 4)])
def test_gradients_through_the_quantizers(weight_bits: int, activation_bits: int, seed: int) -> None:
    example = Example(small_network(weight_bits, activation_bits), SHAPE, seed)
    real = example.model
    assert isinstance(real, nn.Sequential)
    floating = with_float_weights(real)
    smooth = extended(floating)
    guided = example.guided(smooth)
    assert torch.equal(guided, example.guided(copy.deepcopy(floating)))
    loss = example.loss(floating)
    assert loss.item() == pytest.approx(example.value(smooth, guided), rel=1e-12)
    # Same order of parameters: the extension's alpha stands where the quantizer's does.
    by_float = gradients_of(loss, floating)
    directions, expected = differences(example, smooth, guided, seed)
    assert_gradients_are(by_float, directions, expected)

    # The latent weights: one more step of the chain, through the weight quantizer.
    by_latent = gradients_of(example.loss(real), real)
    for (name, parameter), got, at_the_value in zip(real.named_parameters(), by_latent, by_float, strict=True):
        layer = real.get_submodule(name.split(".")[0])
        if name.endswith("weight") and hasattr(layer, "quant_weight"):
            (wanted,) = torch.autograd.grad(layer.quant_weight().value, parameter, at_the_value)  # type: ignore[operator]
        else:
            wanted = at_the_value
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def _detached(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    return (1 - agreement(model, x, labels, differentiable=False)).mean()


def test_the_check_sees_a_missing_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_module, "gradients_apart", _detached)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test_gradients_on_the_twin(0)


def _once(function: Callable[..., tuple[Tensor | None, ...]]) -> staticmethod[..., tuple[Tensor | None, ...]]:
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            return function(ctx, *gradients)

    return staticmethod(backward)


def test_the_check_sees_a_quantizer_without_a_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    own = quantizers._PactFunction.backward
    monkeypatch.setattr(quantizers._PactFunction, "backward", _once(own))
    with pytest.raises((AssertionError, RuntimeError)):
        test_gradients_through_the_quantizers(2, 2, 0)
