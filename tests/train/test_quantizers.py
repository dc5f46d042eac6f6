"""Quantizers against their papers' formulas, written here a second time in NumPy float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import brevitas.nn as qnn
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitlens.runtime.errors import BitlensError
from bitlens.train.precision import BITS
from bitlens.train.quantizers import (
    FIRST_ALPHA,
    HARDTANH,
    PACT,
    activation,
    learned_alphas,
    pact,
    weight_quantizer,
)

ALPHABETS = {1: {-1, 1}, 2: {-1, 0, 1}, 4: set(range(-7, 8)), 8: set(range(-127, 128))}
PACT_BITS = (2, 4, 8)


def convolution(bits: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer: nn.Module = qnn.QuantConv2d(6, 5, 3, bias=False, weight_quant=weight_quantizer(bits))
    return layer


def weights_by_formula(w: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    magnitude = np.abs(w).reshape(len(w), -1)
    column = (-1, *[1] * (w.ndim - 1))
    if bits == 1:
        binary: NDArray[np.float64] = np.where(w >= 0, 1.0, -1.0) * magnitude.mean(axis=1).reshape(column)
        return binary
    levels = 2 ** (bits - 1) - 1
    scale = (1.5 * magnitude.mean(axis=1) if bits == 2 else magnitude.max(axis=1) / levels).reshape(column)
    integer: NDArray[np.float64] = np.clip(np.rint(w / scale), -levels, levels) * scale
    return integer


def assert_alphabet(layer: nn.Module, bits: int) -> None:
    """Brevitas gives float weights without a word when a quantizer is missed (its truth value is False)."""
    quantized = layer.quant_weight()  # type: ignore[operator]
    value = quantized if isinstance(quantized, Tensor) else quantized.value
    scale = getattr(quantized, "scale", None)
    assert scale is not None, "the weights are float"
    codes = value / scale
    assert torch.equal(codes.round(), codes.round().clamp(min(ALPHABETS[bits]), max(ALPHABETS[bits])))
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
    found = {int(code) for code in codes.round().unique()}
    assert found <= ALPHABETS[bits]
    assert bits == 8 or found == ALPHABETS[bits], f"{found} leaves part of the alphabet unused"


@pytest.mark.parametrize("bits", BITS)
def test_weight_alphabet(bits: int) -> None:
    assert_alphabet(convolution(bits), bits)


def test_alphabet_check_sees_float_weights() -> None:
    with pytest.raises(AssertionError):
        assert_alphabet(qnn.QuantConv2d(6, 5, 3, bias=False, weight_quant=None), 4)


@pytest.mark.parametrize(("made", "claimed"), [(8, 4), (4, 2), (2, 1), (1, 4)])
def test_alphabet_check_sees_other_bits(made: int, claimed: int) -> None:
    with pytest.raises(AssertionError):
        assert_alphabet(convolution(made), claimed)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weight_values_follow_the_formula(bits: int, dtype: torch.dtype) -> None:
    layer = convolution(bits).to(dtype)
    value = layer.quant_weight().value  # type: ignore[operator]
    assert value.dtype == dtype
    expected = weights_by_formula(layer.weight.detach().double().numpy(), bits)  # type: ignore[operator]
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=0, atol=32 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("bits", BITS)
def test_dense_layer_has_a_scale_per_output(bits: int) -> None:
    layer = qnn.QuantLinear(12, 5, bias=True, weight_quant=weight_quantizer(bits))
    assert layer.quant_weight().scale.shape == (5, 1)
    expected = weights_by_formula(layer.weight.detach().double().numpy(), bits)
    np.testing.assert_allclose(layer.quant_weight().value.detach().numpy(), expected, rtol=0, atol=1e-6)


def test_zero_weight_is_plus_one() -> None:
    layer = convolution(1)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = 0.0  # type: ignore[operator]
        layer.weight[0, 0, 0, 1] = -0.0  # type: ignore[operator]
    assert (layer.quant_weight().value[0, 0, 0, :2] > 0).all()  # type: ignore[operator]


def test_weights_round_half_to_even() -> None:
    layer = convolution(4).double()
    with torch.no_grad():
        weight = layer.weight
        assert isinstance(weight, Tensor)
        weight.zero_()
        weight[0].view(-1)[:6] = torch.tensor([7.0, 0.5, 1.5, 2.5, -0.5, -1.5], dtype=torch.float64)
    codes = layer.quant_weight().value[0].view(-1)[:6]  # type: ignore[operator]
    assert codes.tolist() == [7, 0, 2, 2, 0, -2]


@pytest.mark.parametrize("bits", BITS)
def test_all_zero_channel_stays_finite(bits: int) -> None:
    layer = convolution(bits)
    with torch.no_grad():
        layer.weight[0] = 0.0  # type: ignore[operator]
    output = layer(torch.ones(1, 6, 4, 4))
    assert torch.isfinite(output).all()
    assert output[0, 0].abs().max() < 1e-5


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gradient_passes_the_weight_quantizer(bits: int) -> None:
    layer = convolution(bits)
    layer(torch.ones(1, 6, 4, 4)).sum().backward()
    gradient = layer.weight.grad
    assert isinstance(gradient, Tensor)
    assert (gradient != 0).all()


def test_sign_activation_values_and_box() -> None:
    module = activation(1)
    x = torch.tensor([-2, -1.0001, -1, -0.5, -0.0, 0.0, 0.5, 1, 1.0001], requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert type(y) is Tensor
    assert y.tolist() == [-1, -1, -1, -1, 1, 1, 1, 1, 1]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 0]
    assert module.surrogate == HARDTANH
    assert learned_alphas(module) == {}


# Where PACT (1805.06085, eq. 3) differs from Brevitas' own learned scale: that one passes the gradient up to
# alpha + scale/2 and gives alpha LSQ's gradient, 1.93 instead of 5 at such points.
PROBES = [-1.0, 0.0, 0.25, 0.5, 0.51, 1.5, 2.5, 2.99, 3.0, 3.2, 3.4, 3.6, 10.0]
PROBE_DX = [0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
PROBE_Y = [0, 0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 3, 3]  # half to even at .5, 1.5 and 2.5


def assert_pact_gradients(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    x = torch.tensor(PROBES, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    y = function(x, alpha)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert y.tolist() == PROBE_Y
    assert x.grad is not None
    assert alpha.grad is not None
    assert x.grad.tolist() == PROBE_DX
    assert alpha.grad.item() == 5.0


def test_pact_gradients_at_the_probe_points() -> None:
    assert_pact_gradients(lambda x, alpha: pact(x, alpha, torch.tensor(3.0, dtype=torch.float64)))


def test_gradient_check_sees_a_learned_scale_that_is_not_pact() -> None:
    def lsq(x: Tensor, alpha: Tensor) -> Tensor:
        scale = alpha / 3
        ratio = (x / scale).clamp(0, 3)
        return (ratio + (ratio.round() - ratio).detach()) * scale

    with pytest.raises(AssertionError):
        assert_pact_gradients(lsq)


@pytest.mark.parametrize("bits", PACT_BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pact_module_follows_the_formula(bits: int, dtype: torch.dtype) -> None:
    module = activation(bits, alpha=1.7).to(dtype)
    generator = torch.Generator().manual_seed(bits)
    x = (torch.rand(5000, generator=generator, dtype=torch.float64) * 4 - 1).to(dtype).requires_grad_()
    weight = torch.rand(5000, generator=generator, dtype=torch.float64).to(dtype)
    y = module(x)
    (y * weight).sum().backward()
    ((name, alpha),) = learned_alphas(module).items()
    assert name.endswith("scaling_impl.value")
    assert y.dtype == alpha.dtype == dtype
    a, levels, values = float(alpha.detach()), 2**bits - 1, x.detach().double().numpy()
    expected = np.rint(np.clip(values, 0, a) * levels / a) * a / levels
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
    assert x.grad is not None
    assert alpha.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), np.where((values > 0) & (values < a), weight.numpy(), 0))
    np.testing.assert_allclose(float(alpha.grad), weight.double().numpy()[values >= a].sum(), rtol=1e-5)
    assert module.surrogate == PACT


@pytest.mark.parametrize("bits", PACT_BITS)
def test_pact_starts_at_the_alpha_for_its_bits(bits: int) -> None:
    (alpha,) = learned_alphas(activation(bits)).values()
    assert alpha.item() == FIRST_ALPHA[bits]


def test_pact_can_be_differentiated_twice() -> None:
    levels = torch.tensor(15.0, dtype=torch.float64)
    x = torch.tensor([-0.5, 0.3, 1.1, 2.9, 3.4, 6.0], dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def scaled(x: Tensor, alpha: Tensor) -> Tensor:
        return pact(x, alpha, levels)

    assert torch.autograd.gradgradcheck(scaled, (x, alpha))

    # d/dw of sum (d pact(w x) / dx)^2 = 2 w 1{0 < w x < alpha}, and d/dc of d (c pact(x)) / dalpha = 1{x >= alpha}.
    w = torch.tensor([0.5, 2.0, 3.0, 1.0, 0.5, 0.6], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(scaled(w * x, alpha).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), w)
    assert second.tolist() == [0, 4.0, 0, 2.0, 1.0, 0]
    c = torch.ones(6, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad((c * scaled(x, alpha)).sum(), alpha, create_graph=True)
    (second,) = torch.autograd.grad(first, c)
    assert second.tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("bits", BITS)
def test_double_makes_everything_double(bits: int) -> None:
    act = copy.deepcopy(activation(bits)).double()
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    assert act(x).dtype == torch.float64
    assert act.act_quant.scale().dtype == torch.float64  # type: ignore[operator, union-attr]
    layer = copy.deepcopy(convolution(bits)).double()
    quantized = layer.quant_weight()  # type: ignore[operator]
    assert quantized.value.dtype == quantized.scale.dtype == torch.float64
    floating = [*act.state_dict().values(), *act.buffers(), *layer.buffers()]
    assert {tensor.dtype for tensor in floating if tensor.is_floating_point()} <= {torch.float64}


def test_alpha_follows_its_gradient() -> None:
    module = activation(4, alpha=1.0)
    (alpha,) = learned_alphas(module).values()
    optimiser = torch.optim.SGD([alpha], lr=0.1)
    for _ in range(50):
        optimiser.zero_grad()
        (module(torch.full((8,), 3.0)) - 2.0).square().mean().backward()
        optimiser.step()
    assert alpha.item() == pytest.approx(2.0, abs=1e-3)


def test_alpha_that_nothing_reaches_has_no_gradient() -> None:
    module = activation(4, alpha=100.0)
    (alpha,) = learned_alphas(module).values()
    module(torch.linspace(-3, 3, 50)).sum().backward()
    assert alpha.grad is not None
    assert alpha.grad.item() == 0


@pytest.mark.parametrize("bits", [0, 3, 16])
def test_unknown_bits_are_refused(bits: int) -> None:
    with pytest.raises(BitlensError, match=f"no weight quantizer with {bits} bits: choose one of 1, 2, 4, 8"):
        weight_quantizer(bits)
    with pytest.raises(BitlensError, match=f"no activation quantizer with {bits} bits"):
        activation(bits)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_bad_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(BitlensError, match="alpha must be positive"):
        activation(4, alpha)


def test_alpha_of_a_sign_is_refused() -> None:
    with pytest.raises(BitlensError, match="has no alpha"):
        activation(1, 2.0)
