"""How a network starts from its full-precision twin: weights and batch-norm state are copied by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from bitlens.runtime.errors import BitlensError
from bitlens.train.quantizers import ALPHA_NAME


def initialise_from_twin(model: nn.Module, twin: Mapping[str, Tensor]) -> None:
    """Copy the twin's weights and batch-norm state into `model`, in place.

    Only what the quantizers learn, PACT's alphas, keeps its first value.

    Parameters
    ----------
    model : nn.Module
        A network of the twin's architecture and width, at any precision.
    twin : mapping of str to Tensor
        The twin's `state_dict()`.

    Raises
    ------
    BitlensError
        If a tensor is missing, left over, or of another shape; the model is unchanged then.
    """
    own = model.state_dict()
    expected = {name for name in own if not name.endswith(ALPHA_NAME)}
    given = {name for name in twin if not name.endswith(ALPHA_NAME)}
    if expected != given:
        missing = ", ".join(sorted(expected - given)) or "none"
        left_over = ", ".join(sorted(given - expected)) or "none"
        raise BitlensError(
            f"the twin is another network (missing tensors: {missing}; left over: {left_over}): "
            "train a twin of the same model"
        )
    for name in sorted(expected):
        if own[name].shape != twin[name].shape:
            raise BitlensError(
                f"the twin's {name} has shape {tuple(twin[name].shape)}, expected {tuple(own[name].shape)}: "
                "train a twin of the same width, image size and classes"
            )
    # Not strict: the alphas are meant to be missing, and everything else has just been checked.
    model.load_state_dict({name: twin[name] for name in expected}, strict=False)
