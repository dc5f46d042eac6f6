"""Attributes of an ONNX node, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.window import Window


def attributes_of_node(node: onnx.NodeProto) -> dict[str, object]:
    """Give a node's attributes by name, as Python values."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def whole(value: object) -> int:
    """Give an attribute that must be a whole number.

    Raises
    ------
    BitlensError
        If it is not.
    """
    if not isinstance(value, int):
        raise BitlensError(f"has the attribute {value!r} where a whole number is expected: the file is damaged")
    return value


def number(value: object) -> float:
    """Give an attribute that must be a number.

    Raises
    ------
    BitlensError
        If it is not.
    """
    if not isinstance(value, float):
        raise BitlensError(f"has the attribute {value!r} where a number is expected: the file is damaged")
    return value


def wholes(value: object) -> tuple[int, ...]:
    """Give an attribute that must be whole numbers.

    Raises
    ------
    BitlensError
        If it is not.
    """
    if not isinstance(value, Sequence) or not all(isinstance(item, int) for item in value):
        raise BitlensError(f"has the attribute {value!r} where whole numbers are expected: the file is damaged")
    return tuple(value)


def kernel_window(attributes: Mapping[str, object], kernel: tuple[int, int]) -> Window:
    """Give the window of a convolution or pool with this kernel.

    Raises
    ------
    BitlensError
        For automatic padding, dilation, or anything but two dimensions.
    """
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise BitlensError("auto_pad leaves the padding to the engine: export with explicit pads")
    if any(side != 1 for side in wholes(attributes.get("dilations", (1, 1)))):
        raise BitlensError("dilation is not supported: use a larger kernel or a stride")
    stride = wholes(attributes.get("strides", (1, 1)))
    pads = wholes(attributes.get("pads", (0, 0, 0, 0)))
    if len(kernel) != 2 or len(stride) != 2 or len(pads) != 4:
        raise BitlensError(f"a kernel of {len(kernel)} dimensions, expected 2: only images are supported")
    return Window(kernel, (stride[0], stride[1]), (pads[0], pads[1], pads[2], pads[3]))
