"""Where a network's first weights come from: its full-precision twin, or a run on other images; copied by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from bitlens.runtime.errors import BitlensError
from bitlens.train.quantizers import ALPHA_NAME

CLASSIFIER = "fc."
"""How the names of the last layer's tensors begin, in every network."""


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
    _take_over(
        model,
        twin,
        lambda name: not name.endswith(ALPHA_NAME),
        whose="the twin",
        remedy=("train a twin of the same model", "train a twin of the same width, image size and classes"),
    )


def initialise_from_pretrained(model: nn.Module, pretrained: Mapping[str, Tensor]) -> None:
    """Copy the weights, batch-norm state and alphas of a network for other classes into `model`, in place.

    What a small folder of pictures lacks is examples to learn edges and textures from; a run on a larger set has them.
    The last layer, whose classes are others, keeps its fresh weights.

    Parameters
    ----------
    model : nn.Module
        A network of the same architecture, width and precision.
    pretrained : mapping of str to Tensor
        The other network's `state_dict()`.

    Raises
    ------
    BitlensError
        If a tensor before the classifier is missing, left over, or of another shape; the model is unchanged then.
    """
    _take_over(
        model,
        pretrained,
        lambda name: not name.startswith(CLASSIFIER),
        whose="the run to start from",
        remedy=("give one of the same model and precision", "give one of the same width and number of colours"),
    )


def _take_over(
    model: nn.Module,
    source: Mapping[str, Tensor],
    is_taken: Callable[[str], bool],
    *,
    whose: str,
    remedy: tuple[str, str],
) -> None:
    own = {name: tensor for name, tensor in model.state_dict().items() if is_taken(name)}
    given = {name: tensor for name, tensor in source.items() if is_taken(name)}
    if own.keys() != given.keys():
        missing = ", ".join(sorted(own.keys() - given.keys())) or "none"
        left_over = ", ".join(sorted(given.keys() - own.keys())) or "none"
        raise BitlensError(
            f"{whose} is another network (missing tensors: {missing}; left over: {left_over}): {remedy[0]}"
        )
    for name, tensor in own.items():
        if tensor.shape != given[name].shape:
            raise BitlensError(
                f"{name} of {whose} has shape {tuple(given[name].shape)}, expected {tuple(tensor.shape)}: {remedy[1]}"
            )
    # Not strict: what is not taken over is meant to be missing, and everything else has just been checked.
    model.load_state_dict(given, strict=False)
