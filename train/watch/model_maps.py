"""Saliency maps of a Brevitas model by `torch.autograd`: the methods of `bitlens.runtime.methods`, before export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bitlens.runtime.bilinear import resized_bilinear
from bitlens.runtime.engines import FeatureMap
from bitlens.runtime.methods.grad_cam import grad_cam_map
from bitlens.train.datasets import ImageDataset, network_input
from bitlens.train.evaluation_mode import evaluation_mode
from bitlens.train.quantizers import activations

_BATCH = 64

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ModelMaps:
    """What a model says to some images, and why.

    Parameters
    ----------
    logits : float64 array (N, classes)
    maps : mapping of str to float32 array (N, H, W)
        By the name of the method in `METHODS`; not finite where the gradient is not.
    """

    logits: npt.NDArray[np.float64]
    maps: Mapping[str, Float32]


def cam_layer(model: nn.Module, image: Tensor) -> str | None:
    """Name the activation that GradCAM looks at: the last one with a height and a width.

    Where that goes straight into a dense layer, each of its positions has weights of its own, whose mean over positions
    says little; then the one before it.

    Parameters
    ----------
    model : nn.Module
        Its mode is put back afterwards.
    image : Tensor
        uint8 codes (1, C, H, W).

    Returns
    -------
    str or None
        None for a network without such an activation.
    """
    spatial: list[tuple[str, int]] = []

    def seen(name: str, output: Tensor) -> None:
        if output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            spatial.append((name, output[0].numel()))

    dense_inputs = [module.in_features for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: seen(name, output))
        for name, module in activations(model).items()
    ]
    first = next(model.parameters())
    try:
        with evaluation_mode(model), torch.no_grad():
            model(network_input(image.to(first.device), first.dtype))
    finally:
        for handle in handles:
            handle.remove()
    if len(spatial) > 1 and spatial[-1][1] in dense_inputs:
        spatial.pop()
    return spatial[-1][0] if spatial else None


def model_maps(model: nn.Module, data: ImageDataset, layer: str | None) -> ModelMaps:
    """Explain each image for the class of its label, in evaluation mode, in the model's own arithmetic.

    The methods are `gradient`, the sum over the channels of d logit[label] / d x (as `bitlens explain` draws it), and
    `grad_cam` at one layer, resized to the image.

    Parameters
    ----------
    model : nn.Module
        Neither its weights nor their gradients are touched; its mode is put back afterwards.
    data : ImageDataset
        N images.
    layer : str or None
        What `cam_layer` gave; None leaves GradCAM out.

    Returns
    -------
    ModelMaps

    Notes
    -----
    Cost: 1 forward and 1 backward pass per image.
    """
    first = next(model.parameters())
    features: list[Tensor] = []
    handle = None
    if layer is not None:
        handle = model.get_submodule(layer).register_forward_hook(lambda _, __, output: features.append(output))
    logits: list[Tensor] = []
    gradients: list[Float32] = []
    cams: list[Float32] = []
    try:
        with evaluation_mode(model):
            for start in range(0, len(data), _BATCH):
                some = slice(start, start + _BATCH)
                x = network_input(data.images[some].to(first.device), first.dtype).requires_grad_()
                features.clear()
                with torch.enable_grad():
                    answers: Tensor = model(x)
                    score = answers.gather(1, data.labels[some, None].to(first.device)).sum()
                # Of what is asked for alone: no weight gets a gradient, and no hook of several processes is called.
                by_x, *by_feature = torch.autograd.grad(score, [x, *features[-1:]])
                logits.append(answers.detach())
                gradients.append(by_x.double().sum(1).float().cpu().numpy())
                if by_feature:
                    cam = grad_cam_map(FeatureMap(_float32(features[-1]), _float32(by_feature[0])))
                    cams.append(resized_bilinear(cam, *data.input_shape[1:])[:, 0])
    finally:
        if handle is not None:
            handle.remove()
    maps = {"gradient": np.concatenate(gradients)}
    if cams:
        maps["grad_cam"] = np.concatenate(cams)
    return ModelMaps(torch.cat(logits).double().cpu().numpy(), maps)


def _float32(tensor: Tensor) -> Float32:
    values: Float32 = tensor.detach().float().cpu().numpy()
    return values
