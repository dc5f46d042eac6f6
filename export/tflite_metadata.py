"""What tools read from a TFLite file beside its graph: how to feed it, what its outputs are, and the labels.

The slots are those of TensorFlow Lite Support's `metadata_schema.fbs` (file identifier M001); the label file travels in
a zip behind the model, where those tools look for it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import flatbuffers
import numpy as np

from bitlens.export.flatbuffer_vectors import numbers_vector, table, tables_vector
from bitlens.runtime.autodiff import INPUT_GRADIENT, SEED
from bitlens.runtime.program import Program, TensorType

METADATA = "TFLITE_METADATA"
LABEL_FILE = "labels.txt"

_IDENTIFIER = b"M001"
_PARSER = "1.0.0"

# Members of unions and enumerations.
_FEATURE, _IMAGE = 1, 2
_NORMALIZATION = 1
_AXIS_LABELS = 2
_COLOURS = {3: 1, 1: 2}  # RGB, greyscale

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can say: the same content gives the same bytes


def labels_of(program: Program) -> tuple[str, ...]:
    """Name of each class, if the program says."""
    labels = program.metadata.get("labels")
    return tuple(str(label) for label in labels) if isinstance(labels, list) else ()


def with_label_file(model: bytes, labels: Sequence[str]) -> bytes:
    """Append a zip with the labels, one a line, to a model; the interpreter reads the model as before.

    Line breaks of a label become spaces, and what no UTF-8 can say (the name of a folder may be any bytes) a question
    mark.
    """
    if not labels:
        return model
    whole = io.BytesIO(model)
    with zipfile.ZipFile(whole, "a") as archive:
        lines = "".join(f"{' '.join(label.splitlines())}\n" for label in labels)
        archive.writestr(zipfile.ZipInfo(LABEL_FILE, _EPOCH), lines.encode("utf-8", "replace"))
    return whole.getvalue()


def tflite_metadata(
    program: Program, types: dict[str, TensorType], inputs: Sequence[str], outputs: Sequence[str]
) -> bytes:
    """Describe inputs and outputs in the order of the file's.

    A tool that prepares a picture computes (pixel - mean) / std from the normalisation given here: whole codes for a
    quantized network, x = code / 255 for a full-precision one.
    """
    builder = flatbuffers.Builder(1024)

    def described(builder: flatbuffers.Builder, name: str) -> int:
        return _tensor(builder, program, types[name], name)

    first = tables_vector(builder, inputs, described)
    second = tables_vector(builder, outputs, described)
    subgraph = table(builder, {2: first, 3: second})
    subgraphs = tables_vector(builder, [subgraph], lambda _, offset: offset)
    name, parser = builder.CreateString("bitlens network"), builder.CreateString(_PARSER)
    precision = builder.CreateString(str(program.metadata.get("precision", "")))
    builder.Finish(table(builder, {0: name, 1: precision, 3: subgraphs, 7: parser}), _IDENTIFIER)
    return bytes(builder.Output())


def _description(program: Program, type: TensorType, name: str) -> str:
    if name == program.inputs[0].name:
        return "codes 0..255 of a picture" if type.is_integer else "x = code / 255 of a picture"
    known = {
        SEED: "weight of each logit in the score that is differentiated: 1 for the class to explain, else 0",
        program.outputs[0]: "logits",
        INPUT_GRADIENT: "d score / d x",
    }
    if name in known:
        return known[name]
    if type.dtype == "bool":
        return "straight-through mask, 0 or 1"
    return "whole numbers" if type.is_integer else "real values"


def _tensor(builder: flatbuffers.Builder, program: Program, type: TensorType, name: str) -> int:
    text, title = builder.CreateString(_description(program, type, name)), builder.CreateString(name)
    slots = {0: title, 1: text}
    if name == program.inputs[0].name:
        slots |= {3: _image_content(builder, type), 4: _normalisation(builder, type), 5: _range(builder, type)}
    else:
        slots[3] = table(builder, {1: table(builder, {0: 0})}, numbers={0: _FEATURE})
    if name == program.outputs[0] and labels_of(program):
        file = builder.CreateString(LABEL_FILE)
        slots[6] = tables_vector(builder, [file], lambda _, at: table(builder, {0: at}, numbers={2: _AXIS_LABELS}))
    return table(builder, slots)


def _image_content(builder: flatbuffers.Builder, type: TensorType) -> int:
    channels, height, width = type.shape
    builder.StartObject(2)
    builder.PrependUint32Slot(0, width, 0)
    builder.PrependUint32Slot(1, height, 0)
    size = builder.EndObject()
    image = table(builder, {1: size}, numbers={0: _COLOURS.get(channels, 0)})
    return table(builder, {1: image}, numbers={0: _IMAGE})


def _normalisation(builder: flatbuffers.Builder, type: TensorType) -> int:
    mean = numbers_vector(builder, [0.0], np.float32)
    deviation = numbers_vector(builder, [1.0 if type.is_integer else 255.0], np.float32)
    options = table(builder, {0: mean, 1: deviation})
    unit = table(builder, {1: options}, numbers={0: _NORMALIZATION})
    return tables_vector(builder, [unit], lambda _, offset: offset)


def _range(builder: flatbuffers.Builder, type: TensorType) -> int:
    highest = numbers_vector(builder, [255.0 if type.is_integer else 1.0], np.float32)
    lowest = numbers_vector(builder, [0.0], np.float32)
    return table(builder, {0: highest, 1: lowest})
