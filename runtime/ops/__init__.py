"""The table of ops: importing this package fills `OPS`, one file per op with its gradient beside it."""

from bitlens.runtime.ops import add, affine, conv2d, dense, pad, pool, relu, reshape, threshold
from bitlens.runtime.ops.table import OPS, GradientGraph, Op, register, row

__all__ = [
    "OPS",
    "GradientGraph",
    "Op",
    "add",
    "affine",
    "conv2d",
    "dense",
    "pad",
    "pool",
    "register",
    "relu",
    "reshape",
    "row",
    "threshold",
]
