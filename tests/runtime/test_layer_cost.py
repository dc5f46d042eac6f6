"""What a layer costs, against counts made by hand and by running it."""

from __future__ import annotations

import numpy as np
import pytest
from small_programs import (
    affine,
    conv2d,
    dense,
    image_input,
    max_pool,
    reshape,
    residual_network,
    small_network,
    small_twin,
    sum_pool,
    threshold,
)

from bitlens.runtime.layer_cost import LayerCost, layer_costs, stored_parameters
from bitlens.runtime.program import Array, Program
from bitlens.runtime.program_file import program_bytes, stored_bits
from bitlens.runtime.type_check import infer_types


def test_by_hand() -> None:
    assert layer_costs(small_network()) == (
        LayerCost("conv1", "conv2d", 27, 8, 27, 8, 64 * 27),
        LayerCost("conv2", "conv2d", 108, 2, 27, 2, 16 * 108),  # 2-bit codes, through a pool
        LayerCost("dense1", "dense", 96, 1, 12, 1, 96),  # signs, through a pool and a reshape
        LayerCost("sums", "dense", 18, 4, 9, 4, 18),
    )
    first = layer_costs(small_network())[0]
    assert first.bit_operations == 64 * 27 * 8 * 8


def test_a_twin_is_all_floats() -> None:
    assert {(cost.weight_bits, cost.input_bits) for cost in layer_costs(small_twin())} == {(32, 32)}


def test_sums_and_real_values_have_the_bits_they_need() -> None:
    (_, second, third, last) = layer_costs(residual_network())
    assert (second.weight_bits, second.input_bits) == (third.weight_bits, third.input_bits) == (1, 1)
    assert last.input_bits == (9 - -9).bit_length()  # a sum of nine signs


def test_multiplications_of_a_strided_grouped_convolution() -> None:
    draw = np.random.default_rng(1)
    weight = draw.integers(1, 8, (6, 2, 3, 3)).astype(np.int8)
    nodes = (
        conv2d("image", "conv", weight, stride=(2, 2), groups=3),
        max_pool("conv", "pool", 6),
        threshold("pool", "act", np.zeros((6, 1), np.int32)),
        sum_pool("act", "sum", kernel=(1, 1), stride=(1, 1)),
        reshape("sum", "flat", 6),
        dense("flat", "sums", draw.integers(0, 2, (2, 6)).astype(np.int8)),
        affine("sums", "logits", [1, 1], [0, 0]),
    )
    program = Program((image_input((6, 7, 7)),), nodes, ("logits", "sums"))
    outputs = infer_types(program)["conv"].shape
    assert outputs == (6, 3, 3)
    first, last = layer_costs(program)
    assert first.macs == np.prod(outputs) * 2 * 3 * 3
    assert (last.macs, last.input_bits) == (12, 1)
    assert stored_parameters(program) == weight.size + 6 + (6 * 6) + 12 + 4


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ([-1, 1], 1),
        ([0, 1], 1),
        ([-1, 0, 1], 2),
        ([-3, 0], 2),
        ([-7, 8], 4),
        ([-8, 8], 4),
        ([-8, 1, 8], 8),
    ],
)
def test_stored_bits_are_those_of_the_file(values: list[int], bits: int) -> None:
    draw: Array = np.random.default_rng(2).choice(values, (4, 2048)).astype(np.int8)
    draw[:, : len(values)] = values
    assert stored_bits(draw) == bits
    sizes = []
    for width in (1024, 2048):
        nodes = (
            reshape("image", "flat", width),
            dense("flat", "sums", np.ascontiguousarray(draw[:, :width])),
            affine("sums", "logits", np.ones(4), np.zeros(4)),
        )
        program = Program((image_input((1, 1, width)),), nodes, ("logits", "sums"))
        sizes.append(len(program_bytes(program)))
    assert abs(sizes[1] - sizes[0] - 4 * 1024 * bits // 8) <= 64  # a digit more in the header moves the arrays by 64
