"""The table of the ops that the native engine runs: op -> the rule that lays one of its nodes out."""

from __future__ import annotations

from collections.abc import Callable

from bitlens.runtime.native.builder import Builder
from bitlens.runtime.program import Node
from bitlens.runtime.table import add_row

Rule = Callable[[Builder, Node], None]

RULES: dict[str, Rule] = {}


def register_rule(op: str) -> Callable[[Rule], Rule]:
    """Register the rule of an op.

    A rule is called once for each node, in the program's order. It leaves what the node writes stored or pending, see
    `Builder`.

    Raises
    ------
    ValueError
        If the op has a rule.
    """
    return lambda rule: add_row(RULES, "rule", op, rule)
