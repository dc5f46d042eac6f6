from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets import ImageDataset, SplitDataset, network_input, shift_and_rotate, stratified_split
from bitlens.train.fit import EpochRecord, FitConfig, accuracy, fit
from bitlens.train.losses.classification import objective
from bitlens.train.losses.interpretable_gradient import agreement
from bitlens.train.losses.saliency_guided import without_least_salient
from bitlens.train.models import build_model, initialise_from_twin
from bitlens.train.quantizers import FIRST_ALPHA, learned_alphas


@pytest.fixture(scope="module")
def few(digits: SplitDataset) -> ImageDataset:
    return digits.train().subset(torch.arange(200))


def short(seed: int = 0, **changes: float) -> FitConfig:
    return FitConfig(epochs=2, seed=seed, **changes)  # type: ignore[arg-type]


def assert_same_weights(one: nn.Module, two: nn.Module) -> None:
    first, second = one.state_dict(), two.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("precision", ["fp32", "w1a1", "w2a4"])
def test_same_seed_gives_the_same_weights_bit_for_bit(precision: str, few: ImageDataset) -> None:
    models = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # the global random state must not matter
        model = build_model("lenet", precision, width=4, seed=5)
        fit(model, few, short(seed=7))
        models.append(model)
    assert_same_weights(*models)


def test_weight_comparison_sees_another_seed(few: ImageDataset) -> None:
    models = [build_model("lenet", "w4a4", width=4, seed=5) for _ in range(2)]
    for seed, model in enumerate(models):
        fit(model, few, short(seed=seed))
    with pytest.raises(AssertionError):
        assert_same_weights(*models)


def test_progress_reports_every_epoch(few: ImageDataset) -> None:
    seen: list[EpochRecord] = []
    model = build_model("lenet", "w4a4", width=4)
    result = fit(model, few, short(), seen.append)
    assert tuple(seen) == result.epochs
    assert [(record.epoch, record.epochs) for record in seen] == [(1, 2), (2, 2)]
    assert seen[1].loss < seen[0].loss
    assert seen[0].seconds_left == pytest.approx(seen[0].seconds)
    assert seen[1].seconds_left == 0
    assert not model.training


@pytest.mark.parametrize(("precision", "bits"), [("w2a2", 2), ("w4a4", 4)])
def test_alphas_are_moved_by_their_gradients(precision: str, bits: int, few: ImageDataset) -> None:
    # Without the pull of the L2 term only PACT's gradient can move them, and not all by the same amount.
    model = build_model("lenet", precision, width=4)
    fit(model, few, short(alpha_l2=0.0))
    alphas = [alpha.item() for alpha in learned_alphas(model).values()]
    assert len(set(alphas)) == 3
    assert all(abs(alpha - FIRST_ALPHA[bits]) > 1e-3 for alpha in alphas)


def test_l2_pulls_the_alphas_down(few: ImageDataset) -> None:
    sums = []
    for pull in (0.0, 10.0):
        model = build_model("lenet", "w4a4", width=4)
        fit(model, few, short(alpha_l2=pull))
        sums.append(sum(alpha.item() for alpha in learned_alphas(model).values()))
    assert sums[1] < sums[0] - 0.1


@pytest.mark.parametrize(("precision", "least"), [("w4a4", 0.85), ("w1a1", 0.6)])
def test_short_training_is_far_above_chance(precision: str, least: float, digits: SplitDataset) -> None:
    model = build_model("lenet", precision, width=8)
    test = digits.test()
    assert accuracy(model, test.images, test.labels) < 0.3
    fit(model, digits.train(), FitConfig(epochs=3))
    assert accuracy(model, test.images, test.labels) > least


def test_fine_tuning_from_the_twin_starts_ahead(digits: SplitDataset) -> None:
    twin = build_model("lenet", "fp32", width=8)
    fit(twin, digits.train(), FitConfig(epochs=3))
    losses = []
    for from_twin in (False, True):
        model = build_model("lenet", "w2a4", width=8, seed=3)
        if from_twin:
            initialise_from_twin(model, twin.state_dict())
        losses.append(fit(model, digits.train(), FitConfig(epochs=1)).epochs[0].loss)
    assert losses[1] < losses[0] / 2


class _Constant(nn.Module):
    def __init__(self, answer: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        return torch.eye(10)[self.answer].expand(len(x), 10) * self.scale


def test_accuracy_counts(digits: SplitDataset) -> None:
    images, labels = digits.test().images, digits.test().labels
    for answer in range(10):
        assert accuracy(_Constant(answer), images, labels) == (labels == answer).double().mean().item()


@pytest.mark.parametrize("training", [True, False])
def test_accuracy_leaves_the_model_as_it_was(training: bool, digits: SplitDataset) -> None:
    model = build_model("lenet", "w4a4", width=4).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    accuracy(model, digits.test().images[:8], digits.test().labels[:8])
    assert model.training is training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_accuracy_of_nothing_is_refused(digits: SplitDataset) -> None:
    with pytest.raises(BitlensError, match="got 0 images and 0 labels"):
        accuracy(_Constant(0), digits.test().images[:0], digits.test().labels[:0])
    with pytest.raises(BitlensError, match="got 3 images and 2 labels"):
        accuracy(_Constant(0), digits.test().images[:3], digits.test().labels[:2])


def test_fit_to_one_image_is_refused(digits: SplitDataset) -> None:
    with pytest.raises(BitlensError, match="cannot fit to 1 images: give at least 2"):
        fit(build_model("lenet", "w4a4", width=4), digits.train().subset(torch.tensor([0])), short())


def test_diverging_loss_is_refused(few: ImageDataset) -> None:
    model = build_model("lenet", "fp32", width=4)
    with torch.no_grad():
        model.get_parameter("fc.weight").fill_(float("inf"))
    with pytest.raises(BitlensError, match=r"stopped being a number in epoch 1: use a learning rate below 0\.002"):
        fit(model, few, short())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("validation_fraction", 0.0),
        ("validation_fraction", 1.0),
        ("seed", -1),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
        ("distil_weight", 1.5),
        ("distil_temperature", 0.0),
        ("patience", 0),
        ("saliency_guided_weight", -1.0),
        ("saliency_guided_weight", math.inf),
        ("saliency_guided_share", 0.0),
        ("saliency_guided_share", 1.0),
        ("saliency_guided_share", math.nan),
        ("saliency_guided_ranking", "least"),
        ("interpretable_gradient_weight", -1e-3),
        ("interpretable_gradient_weight", math.nan),
    ],
)
def test_impossible_configuration_is_refused(field: str, value: float) -> None:
    with pytest.raises(BitlensError, match=field):
        FitConfig(**{field: value})  # type: ignore[arg-type]


def softened(logits: np.ndarray, temperature: float) -> np.ndarray:
    powers = np.exp(logits / temperature)
    shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return shares


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("weight", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_objective_is_the_formula(smoothing: float, weight: float | None, temperature: float) -> None:
    generator = np.random.default_rng(3)
    logits, teacher = generator.normal(0, 3, (2, 7, 5))
    labels = generator.integers(0, 5, 7)
    target = (1 - smoothing) * np.eye(5)[labels] + smoothing / 5
    expected = -(target * np.log(softened(logits, 1.0))).sum(axis=1).mean()
    if weight is not None:
        p, q = softened(teacher, temperature), softened(logits, temperature)
        apart = (p * np.log(p / q)).sum(axis=1).mean()
        expected = (1 - weight) * expected + weight * temperature**2 * apart
    found = objective(
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        None if weight is None else torch.from_numpy(teacher),
        label_smoothing=smoothing,
        distil_weight=0.5 if weight is None else weight,
        distil_temperature=temperature,
    )
    assert found.item() == pytest.approx(expected, rel=1e-13)  # some dozens of float64 operations


def test_distillation_draws_the_answers_to_the_teachers(few: ImageDataset) -> None:
    teacher = build_model("lenet", "fp32", width=4, seed=1)
    fit(teacher, few, short())
    x = torch.rand(32, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    apart = []
    for weight in (0.0, 1.0):
        model = build_model("lenet", "fp32", width=4, seed=5)
        fit(model, few, FitConfig(epochs=8, batch_size=32, distil_weight=weight), teacher=teacher)
        with torch.no_grad():
            apart.append(objective(model(x), torch.zeros(32, dtype=torch.int64), teacher(x), distil_weight=1.0).item())
    assert apart[1] < apart[0] / 2


def test_distillation_without_a_teacher_is_refused(few: ImageDataset) -> None:
    with pytest.raises(BitlensError, match=r"distil_weight is 0\.5 without a teacher"):
        fit(build_model("lenet", "fp32", width=4), few, short(distil_weight=0.5))


def test_label_smoothing_reaches_the_loss(few: ImageDataset) -> None:
    losses = []
    for smoothing in (0.0, 0.5):
        model = build_model("lenet", "fp32", width=4)
        losses.append(fit(model, few, FitConfig(epochs=6, batch_size=32, label_smoothing=smoothing)).epochs[-1].loss)
    least = -(0.55 * math.log(0.55) + 9 * 0.05 * math.log(0.05))  # the entropy of a smoothed target
    assert losses[0] < least < losses[1]


def test_loss_is_the_mean_of_the_objective_with_the_papers_terms(few: ImageDataset) -> None:
    # One step an epoch: the loss of the first one is that of the fresh network on images this test can make again.
    model = build_model("lenet", "w2a2", width=4, seed=5)
    fresh = copy.deepcopy(model).train()
    config = FitConfig(
        epochs=1,
        batch_size=200,
        label_smoothing=0.1,
        saliency_guided_weight=0.5,
        saliency_guided_share=0.3,
        saliency_guided_ranking="absolute",
        interpretable_gradient_weight=2.0,
    )
    found = fit(model, few, config).epochs[0].loss
    chosen, _ = stratified_split(few.labels, 180, seed=0)
    training = few.subset(chosen)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(180, generator=generator)
    x = network_input(shift_and_rotate(training.images[order], generator))
    labels = training.labels[order]
    noise = torch.rand(x.shape, generator=generator)
    fewer = without_least_salient(fresh, x, labels, noise, share=0.3, ranking="absolute")
    answers = fresh(torch.cat([x, fewer])).detach()
    p, q = answers[:180].softmax(1), answers[180:].softmax(1)
    target = 0.9 * torch.eye(10)[labels] + 0.01
    cosines = agreement(fresh, x, labels, differentiable=False)
    expected = -(target * p.log()).sum(1) + 0.5 * (p * (p / q).log()).sum(1) + 2.0 * (1 - cosines)
    assert found == pytest.approx(expected.mean().item(), rel=1e-5)  # float32


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_without_the_papers_terms_a_fit_is_the_plain_loop_bit_for_bit(precision: str, few: ImageDataset) -> None:
    model = build_model("lenet", precision, width=3, seed=5)
    plain = copy.deepcopy(model).train()
    plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as in `fit`: it decides how sums round
    fit(model, few, FitConfig(epochs=2, seed=7, saliency_guided_share=0.3, saliency_guided_ranking="absolute"))
    chosen, _ = stratified_split(few.labels, 180, seed=7)
    training = few.subset(chosen)
    generator = torch.Generator().manual_seed(7)
    alphas = learned_alphas(plain)
    weights = [parameter for name, parameter in plain.named_parameters() if name not in alphas]
    optimiser = torch.optim.Adam([{"params": weights}, {"params": list(alphas.values()), "lr": 2e-2}], lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=6)
    for _ in range(2):
        for indices in torch.randperm(180, generator=generator).split(64):
            x = network_input(shift_and_rotate(training.images[indices], generator))
            loss = nn.functional.cross_entropy(plain(x), training.labels[indices])
            for alpha in alphas.values():
                loss = loss + 5e-4 / 2 * alpha.square().sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    assert_same_weights(model, plain)


def test_the_papers_terms_change_the_weights(few: ImageDataset) -> None:
    found = []
    for options in ({}, {"saliency_guided_weight": 1.0}, {"interpretable_gradient_weight": 0.1}):
        model = build_model("lenet", "w2a2", width=3, seed=5)
        fit(model, few, FitConfig(epochs=1, seed=7, **options))  # type: ignore[arg-type]
        found.append(model)
    for one, two in ((0, 1), (0, 2), (1, 2)):
        with pytest.raises(AssertionError):
            assert_same_weights(found[one], found[two])


def test_early_stop_keeps_the_best_epoch(few: ImageDataset) -> None:
    weights: list[dict[str, Tensor]] = []
    model = build_model("lenet", "fp32", width=4)

    def remember(record: EpochRecord) -> None:
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

    result = fit(model, few, FitConfig(epochs=60, batch_size=32, learning_rate=0.01, patience=2), remember)
    shares = [record.validation_accuracy for record in result.epochs]
    best = shares.index(max(shares))
    assert len(shares) == best + 3 < 60
    assert all(torch.equal(tensor, weights[best][name]) for name, tensor in model.state_dict().items())
    assert any(not torch.equal(tensor, weights[-1][name]) for name, tensor in model.state_dict().items())
