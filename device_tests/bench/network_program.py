"""Our networks with random weights, as programs; made once and kept under build/bench."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bench.shapes import NetworkShape
from bitlens.runtime.program import Program
from bitlens.runtime.program_file import read_program, write_program

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "bench"


def network_program(shape: NetworkShape, precision: str) -> Program:
    """Build a network, or read it where it was built by the same sources.

    Raises
    ------
    ImportError
        If it is not there and 'bitlens[train]' is not installed.
    """
    sources = sorted(path for room in ("train", "export", "runtime") for path in (ROOT / room).rglob("*.py"))
    text = repr((shape.model, shape.image, shape.classes, precision)).encode()
    digest = hashlib.sha256(b"\0".join([text, *(path.read_bytes() for path in (*sources, Path(__file__)))]))
    path = CACHE / f"{shape.model}-{precision}-{digest.hexdigest()[:16]}.program"
    if path.exists():
        return read_program(path)
    program = _built(shape, precision)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_program(program, path)
    return program


def _built(shape: NetworkShape, precision: str) -> Program:
    """Build a network as if it were trained: batch norms with the statistics of its own values, slopes of both signs.

    A fresh one has one threshold for all channels, where sums tie, and alphas that clip nearly nothing.
    """
    import torch
    from torch import nn

    from bitlens.export.lowering import lower
    from bitlens.export.qonnx import qonnx_from_brevitas
    from bitlens.train.models import build_model
    from bitlens.train.quantizers import learned_alphas

    model = build_model(shape.model, precision, shape.image, shape.classes, seed=3).train()
    generator = torch.Generator().manual_seed(1)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    with torch.no_grad():
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the plain mean of what it sees
            norm.weight.copy_(uniform(norm.weight, 0.6, 1.4))
            norm.weight[uniform(norm.weight, 0.0, 1.0) < 0.25] *= -1.0
            norm.bias.copy_(uniform(norm.bias, -0.5, 0.7))
        for alpha in learned_alphas(model).values():
            alpha.mul_(uniform(alpha, 0.7, 1.2))
        model(torch.rand((2, *shape.image), generator=generator))
    return lower(qonnx_from_brevitas(model.eval(), shape.image))
