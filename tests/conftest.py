from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from bitlens.export.lowering import lower
from bitlens.export.qonnx import qonnx_from_brevitas
from bitlens.runtime.program import Program
from bitlens.runtime.trust import TRUST_VARIABLE
from bitlens.train.datasets import SplitDataset, open_dataset
from bitlens.train.fit import FitConfig, fit
from bitlens.train.models import build_model, initialise_from_twin

torch.set_num_threads(1)  # tests share their machine; two threads on a busy core spin instead of working

QUANTIZED = ("w4a4", "w2a4", "w2a2", "w1a1")
SEED = 7


@pytest.fixture(scope="session", autouse=True)
def trust_list(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A trust list of the tests' own: that of whoever runs them stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRUST_VARIABLE, str(tmp_path_factory.mktemp("trust") / "trusted"))
        yield


@pytest.fixture(scope="session")
def digits() -> SplitDataset:
    return open_dataset("digits")


@pytest.fixture(scope="session")
def trained(digits: SplitDataset) -> dict[str, nn.Sequential]:
    """A LeNet at every precision, fine-tuned from the first, its full-precision twin; about half a minute."""
    models: dict[str, nn.Sequential] = {}
    for precision in ("fp32", *QUANTIZED):
        model = build_model("lenet", precision, seed=SEED)
        assert isinstance(model, nn.Sequential)
        if models:
            initialise_from_twin(model, models["fp32"].state_dict())
        fit(model, digits.train(), FitConfig(epochs=4 if models else 6, seed=SEED))
        models[precision] = model
    return models


@pytest.fixture(scope="session")
def programs(trained: dict[str, nn.Sequential]) -> dict[str, Program]:
    return {precision: lower(qonnx_from_brevitas(model, (1, 28, 28))) for precision, model in trained.items()}
