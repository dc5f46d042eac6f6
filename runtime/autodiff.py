"""The gradient of a program is a program: walk the nodes backwards and let each op's rule append what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops import OPS, row
from bitlens.runtime.program import Array, Attribute, Node, Program, ProgramInput, TensorType
from bitlens.runtime.type_check import infer_types

SEED = "seed"
INPUT_GRADIENT = "input_gradient"

# What a class-activation method may look at: the maps that activations write.
ACTIVATION_OPS = frozenset({"threshold", "relu"})


def gradient_name(tensor: str) -> str:
    """Name, in a gradient program, of the gradient of the score with respect to `tensor`."""
    return f"{tensor}.gradient"


def emitted_name(node: str, op: str) -> str:
    """Name, in a gradient program, of the first `op` that the rule of a forward node appends."""
    return f"{node}.{op}"


def mask_name(quantizer: str) -> str:
    """Name, in a gradient program, of a quantizer's straight-through mask."""
    return emitted_name(quantizer, "ste_mask")


def activations(program: Program) -> tuple[str, ...]:
    """Names of the tensors that activations write, from the input to the output."""
    return tuple(node.outputs[0] for node in program.nodes if node.op in ACTIVATION_OPS)


def spatial_activations(program: Program) -> tuple[str, ...]:
    """Names of the feature maps (C, H, W) that activations write, from the input to the output."""
    types = infer_types(program)
    return tuple(name for name in activations(program) if len(types[name].shape) == 3)


@dataclass
class _Builder:
    """The `GradientGraph` that rules see."""

    types: dict[str, TensorType]
    forward: list[Node]
    inputs: dict[str, ProgramInput] = field(default_factory=dict)
    backward: list[Node] = field(default_factory=list)
    emitted: dict[str, int] = field(default_factory=dict)

    def type_of(self, tensor: str) -> TensorType:
        return self.types[tensor]

    def emit(
        self,
        op: str,
        node: Node,
        inputs: tuple[str, ...],
        attributes: Mapping[str, Attribute] | None = None,
        arrays: Mapping[str, Array] | None = None,
    ) -> str:
        first = emitted_name(node.name, op)
        count = self.emitted.get(first, 0)
        self.emitted[first] = count + 1
        name = f"{first}.{count}" if count else first
        made = Node(op, name, inputs, (name,), attributes or {}, arrays or {})
        (self.types[name],) = OPS[op].infer(made, [self.types[tensor] for tensor in inputs])
        self.backward.append(made)
        return name

    def second_output(self, node: Node) -> str:
        place = next(i for i, other in enumerate(self.forward) if other.name == node.name)
        if len(self.forward[place].outputs) == 1:
            extended = replace(node, outputs=(node.outputs[0], f"{node.name}.index"))
            types = OPS[node.op].infer(extended, [self.types[tensor] for tensor in node.inputs])
            self.forward[place] = extended
            self.types[extended.outputs[1]] = types[1]
        return self.forward[place].outputs[1]

    def input(self, name: str, type: TensorType, default: Array) -> str:
        self.inputs.setdefault(name, ProgramInput(name, type, default))
        self.types[name] = type
        return name


def _per_real_unit(name: str, gradient: str, type: TensorType) -> Node:
    """Turn a gradient per code into one per real unit: a code is worth `scale`.

    For the image this is also where the gradient passes straight through the rounding of x to codes.
    """
    scale = np.full(type.shape[:1], 1.0 / type.scale, np.float32)
    return Node("channel_scale", name, (gradient,), (name,), {}, {"scale": scale})


def gradient_program(program: Program) -> Program:
    """Gradient of a score with respect to the input and to every spatial activation.

    The score is sum_k seed[k] * logits[k]; a one-hot seed chooses a class at run time.

    Parameters
    ----------
    program : Program
        A network whose first output is the logits (classes,).

    Returns
    -------
    Program
        Inputs: the image; `seed` float32 (N, classes); with defaults, `<quantizer>.mask_low` and `.mask_high` (the
        straight-through box of each quantizer, on its accumulator) and `guided_floor` (0 for guided backprop).
        Outputs: the program's own; `input_gradient`, d score / d x, float32, the shape of the image; every activation
        (codes), for a spatial one also `<activation>.gradient`, per real unit; the masks.
        Cost to run: about 3 forward passes.

    Raises
    ------
    BitlensError
        If the first output is not a flat float32, an op on the way has no gradient rule, or the logits depend on the
        image or an activation not at all.
    """
    types = infer_types(program)
    logits = program.outputs[0]
    if len(types[logits].shape) != 1 or types[logits].dtype != "float32":
        raise BitlensError(f"the first output is {types[logits].dtype} of shape {types[logits].shape}, expected logits")
    seed = ProgramInput(SEED, TensorType("float32", types[logits].shape))
    graph = _Builder(dict(types), list(program.nodes))
    graph.types[SEED] = seed.type
    gradients: dict[str, str] = {logits: SEED}
    for node in reversed(program.nodes):
        arriving = gradients.get(node.outputs[0])
        if arriving is None:
            continue
        vjp = row(node).vjp
        if vjp is None:
            raise BitlensError(
                f"node {node.name!r}: op {node.op!r} has no gradient rule: explain this network with a method that "
                "needs forward passes only, or add the rule to its row"
            )
        leaving = vjp(graph, node, arriving)
        for tensor, gradient in zip(node.inputs, leaving, strict=True):
            if gradient is None:
                continue
            if tensor in gradients:
                gradient = graph.emit("add", node, (gradients[tensor], gradient))
            gradients[tensor] = gradient
    image = program.inputs[0]
    if image.name not in gradients:
        raise BitlensError("the logits do not depend on the image: nothing to explain")
    image_gradient = _per_real_unit(INPUT_GRADIENT, gradients[image.name], image.type)
    dead = [name for name in activations(program) if name not in gradients]
    if dead:
        raise BitlensError(f"the logits do not depend on the activation {dead[0]!r}: export the network without it")
    features = spatial_activations(program)
    feature_gradients = [
        _per_real_unit(gradient_name(feature), gradients[feature], types[feature]) for feature in features
    ]
    masks = [node.outputs[0] for node in graph.backward if node.op == "ste_mask"]
    maps = (*activations(program), *(gradient_name(feature) for feature in features))
    outputs = (*program.outputs, INPUT_GRADIENT, *maps, *masks)
    made = Program(
        (*program.inputs, seed, *graph.inputs.values()),
        (*graph.forward, *graph.backward, image_gradient, *feature_gradients),
        tuple(dict.fromkeys(outputs)),
        program.metadata,
    )
    infer_types(made)  # a tensor of the network may have a name that is needed here
    return made
