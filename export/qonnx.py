"""A trained Brevitas model becomes a QONNX graph in float64: the interchange form that keeps bits, scales and masks."""

from __future__ import annotations

import copy
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from bitlens.runtime.errors import BitlensError, MissingExtraError

if TYPE_CHECKING:
    from torch import nn

OPSET = 17

# QONNX's Quant has no field for the straight-through gradient it was trained with; it travels on the node.
SURROGATE_KEY = "bitlens.surrogate"
ALPHA_KEY = "bitlens.alpha"


def qonnx_from_brevitas(model: nn.Module, input_shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Export a Brevitas (or plain PyTorch) model to QONNX, every constant in float64.

    The model itself is left as it is: a failed export would corrupt it, so a copy is exported.

    Parameters
    ----------
    model : nn.Module
        Maps x = code / 255 of shape (N, C, H, W) to logits (N, classes). Activation modules carry `surrogate`, the
        name of their straight-through gradient, where it is not Brevitas' own, and PACT's its `alpha`.
    input_shape : tuple of int
        (C, H, W).

    Returns
    -------
    onnx.ModelProto
        Opset 17 plus `qonnx.custom_op.general`.

    Raises
    ------
    BitlensError
        If PyTorch cannot export the model.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Brevitas tells at import which optional kernels it lacks
            import torch
            from brevitas.export import export_qonnx
    except ImportError as error:
        raise MissingExtraError("exporting a trained model", "brevitas", "train") from error
    exported = copy.deepcopy(model).eval().double()
    for module in exported.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            # ONNX stores epsilon in float32; the variance takes over what that rounding loses.
            module.running_var += module.eps - float(np.float32(module.eps))
    example = torch.zeros(1, *input_shape, dtype=torch.float64)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The legacy exporter is the one that takes binary networks; it announces its age on every call.
        warnings.simplefilter("ignore")
        path = Path(folder) / "network.onnx"
        # PyTorch's own exporter for a model without quantizers, for which QONNX's complains about its unused domain.
        quantized = any(type(module).__module__.startswith("brevitas.") for module in exported.modules())
        options: dict[str, Any] = {"dynamo": False, "opset_version": OPSET, "input_names": ["x"]}
        try:
            if quantized:
                export_qonnx(exported, args=example, export_path=str(path), **options)
            else:
                torch.onnx.export(exported, (example,), str(path), **options)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BitlensError(
                f"PyTorch could not export the model ({reason}): use layers that ONNX opset {OPSET} has"
            ) from error
        graph_model = onnx.load(str(path))
    for name, module in exported.named_modules():
        if not isinstance(getattr(module, "surrogate", None), str):
            continue
        properties = {SURROGATE_KEY: module.surrogate}
        if hasattr(module, "alpha"):
            properties[ALPHA_KEY] = repr(float(module.alpha()))
        for node in graph_model.graph.node:
            inside = node.name.startswith(f"/{name.replace('.', '/')}/") and "weight_quant" not in node.name
            if inside and node.op_type in ("Quant", "BipolarQuant"):
                for key, value in properties.items():
                    node.metadata_props.add(key=key, value=str(value))
    return graph_model
