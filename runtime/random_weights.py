"""A network that has learned nothing, made from one that has: the weights of every layer in a random order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitlens.runtime.noise import uniform
from bitlens.runtime.program import Node, Program
from bitlens.runtime.type_check import infer_types


def with_random_weights(program: Program, *, seed: int) -> Program:
    """Permute the weights within every layer (compare the randomization test of Adebayo et al., 1810.03292).

    A map that hardly changes when the network forgets what it has learned shows the image, not the network. Permuting
    keeps each layer's distribution of weights, so that activations stay in their range; biases, thresholds and slopes
    stay as they are.

    Parameters
    ----------
    program : Program
    seed : int
        Of `bitlens.runtime.noise`, one stream per layer; not negative.

    Returns
    -------
    Program
        Of the same form, checked.

    Raises
    ------
    BitlensError
        If an integer sum could now reach 2^24, which no float twin has.
    """

    def permuted(place: int, node: Node) -> Node:
        if "weight" not in node.arrays:
            return node
        weight = node.arrays["weight"]
        order = np.argsort(uniform((weight.size,), seed=seed, stream=(place,)), kind="stable")
        shuffled = weight.ravel()[order].reshape(weight.shape)
        return replace(node, arrays={**node.arrays, "weight": shuffled})

    shuffled = replace(program, nodes=tuple(permuted(place, node) for place, node in enumerate(program.nodes)))
    infer_types(shuffled)
    return shuffled
