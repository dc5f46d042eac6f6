from __future__ import annotations

import pytest
import torch

from bitlens.train.datasets import SplitDataset, open_dataset

torch.set_num_threads(1)  # tests share their machine; two threads on a busy core spin instead of working


@pytest.fixture(scope="session")
def digits() -> SplitDataset:
    return open_dataset("digits")
