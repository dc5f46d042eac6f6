from __future__ import annotations

import pytest
import torch

from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets import stratified_split


@pytest.mark.parametrize("first", [0, 1, 7, 20])
def test_split_is_a_partition(first: int) -> None:
    labels = torch.tensor([0] * 10 + [1] * 6 + [2] * 4)
    one, two = stratified_split(labels, first, seed=3)
    assert len(one) == first
    assert sorted([*one.tolist(), *two.tolist()]) == list(range(20))


def test_split_depends_on_its_seed_only() -> None:
    labels = torch.arange(40) % 4
    assert torch.equal(stratified_split(labels, 20, seed=1)[0], stratified_split(labels, 20, seed=1)[0])
    assert not torch.equal(stratified_split(labels, 20, seed=1)[0], stratified_split(labels, 20, seed=2)[0])


def test_split_larger_than_the_data_is_refused() -> None:
    with pytest.raises(BitlensError, match=r"cannot draw 5 of 4 samples: ask for 0\.\.4"):
        stratified_split(torch.zeros(4, dtype=torch.int64), 5, seed=0)
