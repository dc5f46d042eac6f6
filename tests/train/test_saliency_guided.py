from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from torch import Tensor, nn

from bitlens.train.evaluation_mode import evaluation_mode
from bitlens.train.losses.saliency_guided import (
    ABSOLUTE,
    SIGNED,
    answers_apart,
    class_saliency,
    least_salient,
    replaced,
    without_least_salient,
)
from bitlens.train.models import build_model


def network(precision: str = "fp32") -> nn.Module:
    """With running statistics that differ from those of any batch."""
    model = build_model("lenet", precision, (2, 12, 12), 5, 4, seed=3).double().train()
    generator = torch.Generator().manual_seed(8)
    model(3 * torch.rand(16, 2, 12, 12, generator=generator, dtype=torch.float64) - 1)
    return model


def images(seed: int = 0, count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Each image with a range of its own, none of them 0..1.
    span = torch.rand(count, 1, 1, 1, generator=generator, dtype=torch.float64)
    return 0.2 + span * torch.rand(count, 2, 12, 12, generator=generator, dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


class _LogProbabilities(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.model(x).log_softmax(1)
        return result


@pytest.mark.parametrize("precision", ["fp32", "w2a2", "w1a1"])
def test_saliency_is_captums_in_evaluation_mode(precision: str) -> None:
    model, x = network(precision), images()
    found = class_saliency(model, x, LABELS)
    explained = Saliency(_LogProbabilities(copy.deepcopy(model).eval()))
    expected = explained.attribute(x.clone().requires_grad_(), LABELS, abs=False).detach().mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    # In training mode it would be another one: the check above sees the difference.
    y = x.clone().requires_grad_()
    score = copy.deepcopy(model).train()(y).log_softmax(1).gather(1, LABELS[:, None]).sum()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(torch.autograd.grad(score, y)[0].mean(1), expected)


def test_saliency_leaves_the_model_as_it_was() -> None:
    model, x = network("w2a2"), images()
    model.get_submodule("norm2").eval()  # a frozen layer stays frozen
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saliency = class_saliency(model, x, LABELS)
    assert not saliency.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not x.requires_grad


def test_evaluation_mode_ends_with_an_error_too() -> None:
    model = network()
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        raise ZeroDivisionError
    assert all(module.training for module in model.modules())


def test_least_salient_of_either_ranking() -> None:
    saliency = torch.tensor([[[-3.0, -1.0, 0.5], [2.0, 0.1, -0.2]]])
    assert least_salient(saliency, 0.5, SIGNED).tolist() == [[[True, True, False], [False, False, True]]]
    assert least_salient(saliency, 0.5, ABSOLUTE).tolist() == [[[False, False, True], [False, True, True]]]
    equal = torch.zeros(2, 2, 3)
    assert least_salient(equal, 0.5).flatten(1).tolist() == [[True, True, True, False, False, False]] * 2


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("ranking", [SIGNED, ABSOLUTE])
def test_as_many_as_the_share_says_and_none_more_salient(share: float, ranking: str) -> None:
    saliency = torch.randn(7, 9, 11, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    marked = least_salient(saliency, share, ranking).numpy()
    values = np.abs(saliency.numpy()) if ranking == ABSOLUTE else saliency.numpy()
    for one, value in zip(marked, values, strict=True):
        assert one.sum() == int(share * 99)
        if one.any():
            assert value[one].max() < value[~one].min()


def test_fill_is_uniform_in_the_images_own_range() -> None:
    x = images(count=4)
    x = torch.cat([x, torch.full_like(x[:1], 0.7)])  # a flat image stays as it is
    where = torch.zeros(5, 12, 12, dtype=torch.bool)
    where[:, :8] = True
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    noise[0, 0, 0, 0], noise[1, 0, 0, 0] = 0.0, 1.0
    found = replaced(x, where, noise)
    assert torch.equal(found[:, :, 8:], x[:, :, 8:])
    assert torch.equal(found[4], x[4])
    for image, filled, numbers in zip(x[:4], found[:4, :, :8], noise[:4, :, :8], strict=True):
        low, high = image.min(), image.max()
        assert ((filled >= low) & (filled <= high)).all()
        torch.testing.assert_close((filled - low) / (high - low), numbers, rtol=0, atol=1e-12)
    assert found[0, 0, 0, 0] == x[0].min()
    assert found[1, 0, 0, 0] == x[1].max()
    assert not torch.equal(found[0, 0, :8], found[0, 1, :8])  # each channel has numbers of its own


@pytest.mark.parametrize("ranking", [SIGNED, ABSOLUTE])
def test_what_is_left_of_an_image(ranking: str) -> None:
    model, x = network("w2a2"), images()
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    left = without_least_salient(model, x.clone().requires_grad_(), LABELS, noise, share=0.25, ranking=ranking)
    assert not left.requires_grad
    changed = (left != x).all(1)
    assert torch.equal(changed, (left != x).any(1))  # a pixel goes in all channels
    saliency = class_saliency(model, x, LABELS)
    values = saliency.abs() if ranking == ABSOLUTE else saliency
    for one, value in zip(changed, values, strict=True):
        assert one.sum() == 36
        assert value[one].max() <= value[~one].min()


def test_rankings_differ_on_a_network() -> None:
    model, x = network(), images()
    saliency = class_saliency(model, x, LABELS)
    assert not torch.equal(least_salient(saliency, 0.5, SIGNED), least_salient(saliency, 0.5, ABSOLUTE))


def test_divergence_is_the_formula_in_its_direction() -> None:
    generator = np.random.default_rng(3)
    one, two = generator.normal(0, 3, (2, 7, 5))
    p, q = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True) for logits in (one, two))
    expected, reversed_one = (p * np.log(p / q)).sum(1).mean(), (q * np.log(q / p)).sum(1).mean()
    found = answers_apart(torch.from_numpy(one), torch.from_numpy(two))
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert abs(found.item() - reversed_one) > 0.1


def test_divergence_draws_both_answers() -> None:
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    (gradient,) = torch.autograd.grad(answers_apart(logits[0], logits[1]), logits)
    assert (gradient != 0).all()


def test_no_image_gives_zero() -> None:
    model, none = network("w2a2"), images()[:0]
    left = without_least_salient(model, none, LABELS[:0], none, share=0.5, ranking=SIGNED)
    assert left.shape == none.shape
    logits = model(none)
    apart = answers_apart(logits, logits)
    apart.backward()  # type: ignore[no-untyped-call]
    assert apart.item() == 0
    assert all(p.grad is not None and (p.grad == 0).all() for p in model.parameters())
