from __future__ import annotations

import pytest
import torch
from torch import nn

from bitlens.train.pooling import MaxPool2d

GEOMETRIES = [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 1, 0), (3, 3, 0)]


@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_pytorch_where_nothing_is_nearly_equal(
    kernel: int, stride: int, padding: int, dtype: torch.dtype
) -> None:
    # A permutation: any two values are far apart; negative ones meet the padding.
    generator = torch.Generator().manual_seed(kernel * 100 + stride * 10 + padding)
    order = torch.randperm(2 * 3 * 9 * 8, generator=generator)
    x = (order.to(dtype) - 200).reshape(2, 3, 9, 8).requires_grad_()
    expected, indices = nn.MaxPool2d(kernel, stride, padding, return_indices=True)(x)
    pool = MaxPool2d(kernel, stride, padding).eval()
    assert torch.equal(pool(x), expected)
    assert torch.equal(pool.winners(x), indices)
    weights = torch.rand(expected.shape, generator=generator, dtype=dtype)
    (ours,) = torch.autograd.grad((pool(x) * weights).sum(), x)
    (theirs,) = torch.autograd.grad((nn.MaxPool2d(kernel, stride, padding)(x) * weights).sum(), x)
    # Overlapping windows add up a pixel's gradient in another order.
    torch.testing.assert_close(ours, theirs, rtol=4 * torch.finfo(dtype).eps, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_of_maxima_that_a_rounding_error_parts(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    # Row-major: the second entry is larger by 2 epsilon, which PyTorch's own pool follows.
    x = torch.tensor([[3.0, 3.0 * (1 + 2 * eps)], [1.0, 3.0]], dtype=dtype).reshape(1, 1, 2, 2).requires_grad_()
    (own,) = torch.autograd.grad(nn.MaxPool2d(2)(x).sum(), x)
    assert own.flatten().tolist() == [0.0, 1.0, 0.0, 0.0]
    (stable,) = torch.autograd.grad(MaxPool2d(2).eval()(x).sum(), x)
    assert stable.flatten().tolist() == [1.0, 0.0, 0.0, 0.0]


def test_sums_that_differ_are_told_apart_in_float64() -> None:
    # The smallest difference of a first layer: one step of codes * weights whose sums reach 2^24.
    x = torch.tensor([[2.0**24 - 1, 2.0**24]], dtype=torch.float64).reshape(1, 1, 1, 2) * 1.7e-5
    assert MaxPool2d((1, 2)).eval().winners(x).flatten().tolist() == [1]


def test_in_training_it_is_pytorchs_own() -> None:
    x = torch.tensor([[3.0, 3.0 * (1 + 2**-22)], [1.0, 3.0]]).reshape(1, 1, 2, 2)
    assert MaxPool2d(2).train()(x).item() == nn.MaxPool2d(2)(x).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_does_not_depend_on_its_batch_and_gets_its_maximum(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    one = torch.rand(1, 2, 6, 6, generator=generator, dtype=dtype) * 1e-3
    loud = torch.full((1, 2, 6, 6), 1e4, dtype=dtype)
    pool = MaxPool2d(2).eval()
    assert torch.equal(pool(torch.cat([one, loud]))[:1], pool(one))
    nearly = one + one * torch.finfo(dtype).eps * torch.randint(-3, 4, one.shape, generator=generator)
    assert torch.equal(pool(nearly), nn.MaxPool2d(2)(nearly))
