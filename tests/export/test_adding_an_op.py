"""What docs/adding-an-op.md describes is done here, with the page's own code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from traces import Trace, feeds_of, onnx_trace, reference_trace, tflite_trace

from bitlens.export.lowering import RULES, Lowering, lower, rule
from bitlens.export.lowering.values import Linear, Value, scalar
from bitlens.export.onnx_rules import ONNX_RULES, onnx_rule
from bitlens.export.onnx_writer import onnx_model
from bitlens.export.qonnx import qonnx_from_brevitas
from bitlens.export.tflite_rules import TFLITE_RULES, tflite_rule
from bitlens.export.tflite_writer import tflite_model
from bitlens.runtime.autodiff import gradient_program
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops import OPS, Op, register
from bitlens.runtime.parity import relative_errors
from bitlens.runtime.program import Program
from bitlens.runtime.type_check import infer_types

PAGE = Path(__file__).parents[2] / "docs" / "adding-an-op.md"


@pytest.fixture
def page_code() -> list[str]:
    """The Python blocks of the page: the row, the ONNX cell, and the TFLite cell."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    return blocks


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test adds to a table is gone after it."""
    for module, name, table in (
        ("bitlens.runtime.ops.table", "OPS", OPS),
        ("bitlens.export.onnx_rules", "ONNX_RULES", ONNX_RULES),
        ("bitlens.export.tflite_rules", "TFLITE_RULES", TFLITE_RULES),
        ("bitlens.export.lowering.state", "RULES", RULES),
    ):
        assert isinstance(table, dict), f"{module}.{name}"
        for key in ("negate", "Neg"):
            assert key not in table
            monkeypatch.setitem(table, key, None)  # remembers that it was absent
            del table[key]


def add_row(code: str) -> None:
    exec(compile(code, str(PAGE), "exec"), {"Op": Op, "register": register, "BitlensError": BitlensError})


def add_onnx_cell(code: str) -> None:
    exec(compile(code, str(PAGE), "exec"), {"onnx_rule": onnx_rule})


def add_tflite_cell(code: str) -> None:
    exec(compile(code, str(PAGE), "exec"), {"tflite_rule": tflite_rule})


def add_lowering_rule() -> None:
    @rule("Neg")
    def _neg(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
        value = lowering.linear(inputs[0], name)
        source = lowering.materialize(value, f"{name}.input")
        return Linear(lowering.emit("negate", name, (source,)), scalar(1.0), scalar(0.0))


class Negate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x


def network() -> nn.Sequential:
    torch.manual_seed(3)
    convolution, dense = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 3)
    return nn.Sequential(convolution, Negate(), nn.ReLU(), nn.Flatten(), dense).eval()


def lowered(model: nn.Module) -> Program:
    return lower(qonnx_from_brevitas(model, (1, 8, 8)))


@pytest.mark.usefixtures("tables")
def test_one_row_runs_on_every_engine_and_differentiates(page_code: list[str]) -> None:
    add_row(page_code[0])
    add_onnx_cell(page_code[1])
    add_tflite_cell(page_code[2])
    add_lowering_rule()
    model = network()
    program = lowered(model)
    assert [node.op for node in program.nodes].count("negate") == 1
    gradient = gradient_program(program)
    assert [node.op for node in gradient.nodes].count("negate") == 2  # its gradient is the op itself
    codes = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8))
    seed = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]]
    feeds = feeds_of(gradient, codes, seed)
    image = torch.tensor(feeds["image"], dtype=torch.float64, requires_grad=True)
    logits = model.double()(image)
    (logits * torch.tensor(seed)).sum().backward()
    assert image.grad is not None
    traces: list[Trace] = [
        reference_trace(gradient, feeds),
        onnx_trace(gradient, feeds),
        tflite_trace(gradient, feeds),
    ]
    for trace in traces:
        assert relative_errors(trace["logits"], logits.detach().numpy()).max() <= 1e-6
        assert relative_errors(trace["input_gradient"], image.grad.numpy()).max() <= 1e-6


@pytest.mark.usefixtures("tables")
def test_each_missing_cell_is_a_refusal(page_code: list[str]) -> None:
    with pytest.raises(BitlensError, match=r"node '/1/Neg' \(Neg\): a program has no such op: .*docs/adding-an-op\.md"):
        lowered(network())
    add_lowering_rule()
    with pytest.raises(BitlensError, match=r"uses op 'negate', which this version .* does not know: update bitlens"):
        lowered(network())
    add_row(page_code[0])
    program = lowered(network())
    name = next(node.name for node in program.nodes if node.op == "negate")
    with pytest.raises(BitlensError, match=rf"node '{name}' \(negate\): this op has no ONNX cell: run .* reference"):
        onnx_model(program)
    with pytest.raises(BitlensError, match=rf"node '{name}' \(negate\): this op has no TFLite cell: run .* reference"):
        tflite_model(program)
    OPS["negate"] = Op("negate", OPS["negate"].infer, OPS["negate"].run)
    codes = np.zeros((1, 1, 8, 8), np.int64)
    assert reference_trace(program, feeds_of(program, codes))["logits"].shape == (1, 3)  # forwards it still runs
    with pytest.raises(
        BitlensError, match=rf"node '{name}': op 'negate' has no gradient rule: explain .* forward passes only"
    ):
        gradient_program(program)


@pytest.mark.usefixtures("tables")
def test_the_row_checks_its_input(page_code: list[str]) -> None:
    add_row(page_code[0])
    add_lowering_rule()
    program = lowered(network())
    wrong = Program(
        program.inputs,
        tuple(
            node if node.op != "negate" else type(node)("negate", "wrong", ("image", "image"), node.outputs)
            for node in program.nodes
        ),
        program.outputs,
    )
    with pytest.raises(BitlensError, match=r"node 'wrong' \(negate\): does not have the form of this op"):
        infer_types(wrong)


@pytest.mark.usefixtures("tables")
def test_nothing_is_registered_twice(page_code: list[str]) -> None:
    add_row(page_code[0])
    add_onnx_cell(page_code[1])
    add_lowering_rule()
    with pytest.raises(ValueError, match="op 'negate' is already in the table"):
        add_row(page_code[0])
    with pytest.raises(ValueError, match="ONNX cell of 'negate' is already in the table"):
        add_onnx_cell(page_code[1])
    with pytest.raises(ValueError, match="rule for 'Neg' is already in the table"):
        add_lowering_rule()


def test_tables_are_as_before() -> None:
    assert "negate" not in OPS
    assert "negate" not in ONNX_RULES
    assert "negate" not in TFLITE_RULES
    assert "Neg" not in RULES


def test_every_op_of_the_table_has_an_onnx_and_a_tflite_cell() -> None:
    assert set(ONNX_RULES) == set(TFLITE_RULES) == set(OPS)
