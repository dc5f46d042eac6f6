from __future__ import annotations

import pytest
import torch

from bitlens.train.digits import SplitDataset, load_dataset

torch.set_num_threads(1)  # tests share their machine; two threads on a busy core spin instead of working


@pytest.fixture(scope="session")
def digits() -> SplitDataset:
    return load_dataset("digits")
