"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime

from bench.onnx_model import IMAGE
from bench.standard_network import Reals


def open_onnx(model: bytes, image: Reals) -> Callable[[], Reals]:
    """Open a model with every optimization; a call runs it on the image (C, H, W)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {IMAGE: image[None].astype(np.float32)}
    return lambda: session.run(None, feeds)[0][0]
