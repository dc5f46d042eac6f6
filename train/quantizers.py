"""Quantizers: binary, ternary and integer weights, sign and PACT activations, as Brevitas modules.

| bits | weights (per output channel)               | activations                                    |
|------|--------------------------------------------|------------------------------------------------|
| 1    | sign(w) * mean|w| (XNOR-Net)               | sign(x), gradient 1{|x| <= 1}                  |
| 2    | {-1, 0, 1} * 1.5 mean|w|                   | PACT, codes 0..3                               |
| 4    | -7..7, scale max|w| / 7                    | PACT, codes 0..15                              |
| 8    | -127..127, scale max|w| / 127              | PACT, codes 0..255                             |

sign(0) is +1 and rounding is half to even. Every quantizer follows the model's dtype: after `model.double()` scales,
alphas and outputs are float64.
"""

from __future__ import annotations

from typing import Any

import brevitas.nn as qnn
import torch
from brevitas.core.restrict_val import FloatToIntImplType, RestrictValueType
from brevitas.core.scaling import ScalingImplType, ScalingPerOutputType
from brevitas.core.stats import StatsOp
from brevitas.core.zero_point import ZeroZeroPoint
from brevitas.inject.enum import BitWidthImplType, QuantType
from brevitas.quant.solver import ActQuantSolver, WeightQuantSolver
from torch import Tensor, nn

from bitlens.runtime.errors import BitlensError
from bitlens.train.precision import BITS

HARDTANH = "hardtanh"
"""Straight-through kind of the sign: the gradient passes where |x| <= 1 (closed)."""

PACT = "pact"
"""Straight-through kind of PACT: the gradient passes where 0 < x < alpha (open)."""

FIRST_ALPHA = {2: 2.0, 4: 3.0, 8: 3.0}
"""PACT's alpha before training, in units of the batch-normalised input, by bits.

Behind a batch norm with unit variance hardly a value exceeds the customary 6: alpha would then receive no gradient.
"""

ALPHA_NAME = "scaling_impl.value"
"""How the name of a learned alpha ends among a model's parameters."""

_SMALLEST_SCALE = 1e-8  # an all-zero channel still has a scale to divide by


class _PactFunction(torch.autograd.Function):
    """PACT's rounding with the paper's gradients; its backward is made of torch operations, so it has a gradient."""

    @staticmethod
    def forward(x: Tensor, alpha: Tensor, levels: Tensor) -> Tensor:
        scale = alpha / levels
        return torch.clamp(torch.round(x / scale), torch.zeros_like(levels), levels) * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        x, alpha, _ = inputs
        ctx.save_for_backward(x, alpha)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        x, alpha = ctx.saved_tensors
        saturated = x >= alpha
        inside = (x > 0) & ~saturated
        return gradient * inside, (gradient * saturated).sum().reshape(alpha.shape), None


def pact(x: Tensor, alpha: Tensor, levels: Tensor) -> Tensor:
    """Clip to [0, alpha] and round to `levels` steps, with PACT's straight-through gradients.

    Forward: round(clip(x, 0, alpha) * levels / alpha) * alpha / levels (Choi et al., 1805.06085, eq. 1 and 2).
    Backward: dy/dx = 1{0 < x < alpha}, dy/dalpha = 1{x >= alpha} (eq. 3). Both can be differentiated again.

    Parameters
    ----------
    x : Tensor
        Any shape, float32 or float64.
    alpha : Tensor
        The clipping level, positive, one element, dtype of `x`, in units of `x`.
    levels : Tensor
        2^bits - 1, one element, dtype of `x`.

    Returns
    -------
    Tensor
        Shape and dtype of `x`; multiples of alpha / levels in [0, alpha].
    """
    result: Tensor = _PactFunction.apply(x, alpha, levels)  # type: ignore[no-untyped-call]
    return result


class _PactQuant(nn.Module):
    """PACT in the place of Brevitas' integer quantizer; the argument names are those its injector fills."""

    def __init__(
        self,
        int_quant: nn.Module,
        scaling_impl: nn.Module,
        int_scaling_impl: nn.Module,
        zero_point_impl: nn.Module,
        bit_width_impl: nn.Module,
    ) -> None:
        super().__init__()
        self.int_quant = int_quant  # unused by the forward pass; the proxy reads its input view
        self.scaling_impl = scaling_impl
        self.int_scaling_impl = int_scaling_impl
        self.zero_point_impl = zero_point_impl
        self.msb_clamp_bit_width_impl = bit_width_impl
        self.observer_only = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        bit_width = self.msb_clamp_bit_width_impl()
        levels = self.int_scaling_impl(bit_width)
        alpha = self.scaling_impl(x, torch.ones_like(levels))
        scale = alpha / levels
        return pact(x, alpha, levels), scale, self.zero_point_impl(x, scale, bit_width), bit_width


class _MeanMagnitudeAndAHalf(nn.Module):
    """1.5 mean|w|: at the maximum, ternary weights would nearly all be zero."""

    def __init__(self, stats_reduce_dim: int) -> None:
        super().__init__()
        self.stats_reduce_dim = stats_reduce_dim

    def forward(self, x: Tensor) -> Tensor:
        return 1.5 * x.abs().mean(dim=self.stats_reduce_dim)


class _Weight(WeightQuantSolver):  # type: ignore[misc]
    bit_width_impl_type = BitWidthImplType.CONST
    scaling_impl_type = ScalingImplType.STATS
    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    restrict_scaling_type = RestrictValueType.FP
    float_to_int_impl_type = FloatToIntImplType.ROUND
    zero_point_impl = ZeroZeroPoint
    narrow_range = True
    signed = True
    scaling_min_val = _SMALLEST_SCALE


class BinaryWeight(_Weight):
    """sign(w) * mean|w| per output channel (Rastegari et al., XNOR-Net, 1603.05279, eq. 6)."""

    quant_type = QuantType.BINARY
    bit_width = 1
    scaling_stats_op = StatsOp.AVE


class TernaryWeight(_Weight):
    """{-1, 0, 1} with scale 1.5 mean|w| per output channel."""

    quant_type = QuantType.INT
    bit_width = 2
    scaling_stats_op = StatsOp.AVE  # only asked for its reduction axis
    scaling_stats_impl = _MeanMagnitudeAndAHalf


class Int4Weight(_Weight):
    """-7..7 with scale max|w| / 7 per output channel."""

    quant_type = QuantType.INT
    bit_width = 4
    scaling_stats_op = StatsOp.MAX


class Int8Weight(_Weight):
    """-127..127 with scale max|w| / 127 per output channel."""

    quant_type = QuantType.INT
    bit_width = 8
    scaling_stats_op = StatsOp.MAX


class _Activation(ActQuantSolver):  # type: ignore[misc]
    bit_width_impl_type = BitWidthImplType.CONST
    scaling_per_output_type = ScalingPerOutputType.TENSOR
    restrict_scaling_type = RestrictValueType.FP
    float_to_int_impl_type = FloatToIntImplType.ROUND
    zero_point_impl = ZeroZeroPoint


class SignActivation(_Activation):
    """sign(x) with the gradient 1{|x| <= 1} (Courbariaux et al., 1602.02830, eq. 4)."""

    quant_type = QuantType.BINARY
    bit_width = 1
    scaling_impl_type = ScalingImplType.CONST
    narrow_range = True
    signed = True
    min_val = -1.0
    max_val = 1.0


class PactActivation(_Activation):
    """PACT with a learned alpha; `bit_width` and `max_val`, the first alpha, are given where it is used."""

    quant_type = QuantType.INT
    tensor_quant = _PactQuant
    scaling_impl_type = ScalingImplType.PARAMETER
    narrow_range = False
    signed = False


_WEIGHTS: dict[int, type] = {1: BinaryWeight, 2: TernaryWeight, 4: Int4Weight, 8: Int8Weight}


def weight_quantizer(bits: int) -> type:
    """Give the Brevitas weight quantizer for `bits`, to pass as `weight_quant=`.

    Its truth value is False, as that of any Brevitas quantizer: compare with None, never write `if quantizer:`.

    Parameters
    ----------
    bits : int
        1, 2, 4 or 8.

    Returns
    -------
    type
        A Brevitas injector class.

    Raises
    ------
    BitlensError
        If there is no weight quantizer with so many bits.
    """
    _check_bits("weight", bits)
    return _WEIGHTS[bits]


class Sign(qnn.QuantIdentity):  # type: ignore[misc]
    """The sign, with values -1 and +1."""

    surrogate = HARDTANH


class Pact(qnn.QuantReLU):  # type: ignore[misc]
    """PACT with codes 0..2^bits - 1."""

    surrogate = PACT

    def alpha(self) -> Tensor:
        """Clipping level, one element, in the model's dtype."""
        quant = self.act_quant.fused_activation_quant_proxy.tensor_quant
        levels = quant.int_scaling_impl(quant.msb_clamp_bit_width_impl())
        level: Tensor = quant.scaling_impl(torch.ones_like(levels), torch.ones_like(levels))
        return level.detach()


def activation(bits: int, alpha: float | None = None) -> nn.Module:
    """Make an activation with its quantizer.

    Parameters
    ----------
    bits : int
        1 for the sign with values -1 and +1; 2, 4 or 8 for PACT with codes 0..2^bits - 1.
    alpha : float, optional
        PACT's alpha before training, in units of the input; `FIRST_ALPHA` if not given. The sign has none.

    Returns
    -------
    nn.Module
        Maps a float tensor of any shape to a plain float tensor of the same shape. Its attribute `surrogate`,
        `HARDTANH` or `PACT`, says where the gradient passes.

    Raises
    ------
    BitlensError
        If there is no activation with so many bits, or alpha is not positive or stands where there is none.
    """
    _check_bits("activation", bits)
    if bits == 1:
        if alpha is not None:
            raise BitlensError(f"a 1-bit activation has no alpha, got {alpha}: leave it out")
        return Sign(act_quant=SignActivation, return_quant_tensor=False)
    first = FIRST_ALPHA[bits] if alpha is None else alpha
    if not first > 0:
        raise BitlensError(f"alpha must be positive, got {first}: give the clipping level in units of the input")
    return Pact(act_quant=PactActivation, bit_width=bits, max_val=first, return_quant_tensor=False)


def activations(model: nn.Module) -> dict[str, nn.Module]:
    """Give the activations of a network by name, in the order of the modules: `nn.ReLU`, or one with a `surrogate`."""
    found: dict[str, nn.Module] = {}
    last = ""
    for name, module in model.named_modules():
        if last and name.startswith(f"{last}."):
            continue  # an activation's own parts are none: Brevitas' PACT holds a ReLU
        if isinstance(module, nn.ReLU) or isinstance(getattr(module, "surrogate", None), str):
            found[name] = module
            last = name
    return found


def learned_alphas(model: nn.Module) -> dict[str, nn.Parameter]:
    """Give PACT's alphas by parameter name, in the order of the modules; each holds one positive number."""
    return {name: parameter for name, parameter in model.named_parameters() if name.endswith(ALPHA_NAME)}


def _check_bits(kind: str, bits: int) -> None:
    if bits not in BITS:
        raise BitlensError(f"there is no {kind} quantizer with {bits} bits: choose one of {', '.join(map(str, BITS))}")
