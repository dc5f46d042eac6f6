"""Networks that can be trained at any precision, each with a full-precision twin of the same module names.

A network is a function that makes an `nn.Module` from a `ModelSpec`; `register_model` puts it under its name into
`MODELS`, and importing this package registers the ones below. The twin's weights load by name: a `QuantConv2d` keeps
its latent weight under the name the twin's `Conv2d` uses.

| name | layers | paper's width | what it is |
|---|---|---|---|
| `lenet` | 4 | 16 | three convolutions and a dense layer |
| `vgg_small` | 7 | 128 | six 3x3 convolutions and a dense layer, the VGG of the binary-network papers |
| `resnet20` | 20 | 16 | the residual network for CIFAR-10; shortcuts around every convolution where it is binary |
| `bireal_resnet18` | 18 | 64 | ResNet-18 with a real-valued shortcut around every 3x3 convolution |
"""

from bitlens.train.models import bireal_resnet18, lenet, resnet20, vgg_small
from bitlens.train.models.first_weights import initialise_from_pretrained, initialise_from_twin
from bitlens.train.models.registry import MODELS, ModelEntry, ModelSpec, build_model, register_model

__all__ = [
    "MODELS",
    "ModelEntry",
    "ModelSpec",
    "bireal_resnet18",
    "build_model",
    "initialise_from_pretrained",
    "initialise_from_twin",
    "lenet",
    "register_model",
    "resnet20",
    "vgg_small",
]
