"""ncnn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import ncnn
import numpy as np

from bench.ncnn_model import NcnnModel
from bench.standard_network import Reals


def open_ncnn(model: NcnnModel, output: str, image: Reals) -> Callable[[], Reals]:
    """Open a model in float32, Winograd and all; a call runs it on the image (C, H, W)."""
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = False
    for narrow in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        if hasattr(net.opt, f"use_{narrow}"):
            setattr(net.opt, f"use_{narrow}", False)
    with tempfile.TemporaryDirectory() as folder:
        layers, weights = Path(folder, "net.param"), Path(folder, "net.bin")
        layers.write_text(model.layers)
        weights.write_bytes(model.weights)
        if net.load_param(str(layers)) or net.load_model(str(weights)):
            raise RuntimeError("ncnn does not read the model that was written for it")
    fed = np.ascontiguousarray(image, np.float32)

    def run() -> Reals:
        extractor = net.create_extractor()
        extractor.input("image", ncnn.Mat(fed))  # a view
        failed, result = extractor.extract(output)
        if failed:
            raise RuntimeError(f"ncnn cannot compute {output}")
        return np.array(result)

    return run
