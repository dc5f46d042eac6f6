"""LiteRT, formerly TensorFlow Lite, with XNNPACK."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from bench.standard_network import Reals


def open_tflite(model: bytes, image: Reals) -> Callable[[], Reals]:
    """Open a model; a call runs it on the image (C, H, W)."""
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    source, output = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    fed = np.ascontiguousarray(image.transpose(1, 2, 0)[None], np.float32)

    def run() -> Reals:
        interpreter.set_tensor(source, fed)
        interpreter.invoke()
        result: Reals = interpreter.get_tensor(output)[0]
        return result.transpose(2, 0, 1) if result.ndim == 3 else result

    return run
