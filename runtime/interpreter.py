"""Run a program node by node with the NumPy meaning of each op: slow, plain, the definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops import row
from bitlens.runtime.program import Array, Program


def interpret(program: Program, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
    """Compute `outputs` of a checked program.

    Parameters
    ----------
    program : Program
        Checked by `infer_types`.
    feeds : mapping
        Arrays for the inputs, batch first; an input with a default may be left out.
    outputs : sequence of str
        Names of tensors to return; any tensor of the program may be asked for.

    Returns
    -------
    dict
        Name -> array of the tensor's own dtype.

    Raises
    ------
    BitlensError
        If an input without a default is not fed.
    """
    values: dict[str, Array] = {}
    for item in program.inputs:
        fed = feeds.get(item.name, item.default)
        if fed is None:
            raise BitlensError(f"input {item.name!r} was not given")
        values[item.name] = fed
    # Floats overflow and make NaN as IEEE 754 says, without a word, like on every other engine.
    with np.errstate(all="ignore"):
        return _computed(program, values, outputs)


def _computed(program: Program, values: dict[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
    last_use = {name: place for place, node in enumerate(program.nodes) for name in node.inputs}
    for place, node in enumerate(program.nodes):
        results = row(node).run(node, [values[name] for name in node.inputs])
        values.update(zip(node.outputs, results, strict=True))
        for name in node.inputs:
            if last_use[name] == place and name not in outputs:
                values.pop(name, None)
    return {name: values[name] for name in outputs}
