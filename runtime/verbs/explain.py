"""`bitlens explain`: a picture of what the decision was based on."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np

from bitlens.runtime.atomic_file import write_files_atomically
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.image import CODES_PER_UNIT
from bitlens.runtime.methods import METHODS, method
from bitlens.runtime.pictures import (
    Picture,
    colour_bar,
    colour_map_picture,
    enlarge,
    image_picture,
    overlay,
    png_bytes,
    reduce_channels,
    tile,
)
from bitlens.runtime.program import Array
from bitlens.runtime.verbs.options import (
    add_engine,
    add_image,
    add_json,
    add_network,
    chosen_target,
    opened_engine,
    opened_image,
)

HELP = "show what a decision was based on"
NEEDS = ()

SMALLEST_SIDE = 224  # pixels of one panel, at least
OPACITY = 0.6
GAP = 8  # pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens explain`."""
    add_network(parser)
    add_image(parser)
    parser.add_argument("--method", default="gradient", help=f"{', '.join(METHODS)} (default: %(default)s)")
    parser.add_argument(
        "--target", default="predicted", help="'predicted', a class number or a label (default: %(default)s)"
    )
    parser.add_argument(
        "--layer", help="for grad_cam: a feature map, by the name `bitlens info` lists (default: the last one)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="picture (default: IMAGE.METHOD.png here)")
    parser.add_argument("--map", type=Path, metavar="FILE.npy", help="also write the map itself, float32 (C, H, W)")
    add_engine(parser)
    add_json(parser)


def explanation_picture(image: Array, values: Array, signed: bool) -> Picture:
    """Image, heat map, overlay and colour bar side by side.

    Parameters
    ----------
    image : (C, H, W)
        Codes, or x.
    values : float32 (C or 1, H, W)
        The map.
    signed : bool
        Whether its sign has a meaning.
    """
    codes = image if np.issubdtype(image.dtype, np.integer) else np.rint(image * CODES_PER_UNIT)
    shown = image_picture(np.clip(codes, 0, 255).astype(np.uint8))
    heat = colour_map_picture(reduce_channels(values, "sum"), signed)
    factor = max(1, -(-SMALLEST_SIDE // min(shown.shape[:2])))
    panels = tile([[enlarge(panel, factor) for panel in (shown, heat, overlay(shown, heat, OPACITY))]], GAP)
    gap = np.full((panels.shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([panels, gap, colour_bar(panels.shape[0], 2 * GAP, signed)], axis=1)


def run(arguments: argparse.Namespace) -> int:
    """Write the picture, and say what it shows."""
    chosen = method(arguments.method)
    if arguments.layer is not None and "layer" not in chosen.options:
        raise BitlensError(f"{arguments.method} looks at no layer: leave --layer out, or use --method grad_cam")
    network, engine = opened_engine(arguments)
    image = opened_image(arguments, network)
    logits = engine.forward(image)[0]
    target = chosen_target(arguments.target, network, int(logits.argmax()), len(logits))
    options = {} if arguments.layer is None else {"layer": arguments.layer}
    values = chosen.function(engine, image, [target], **options)[0]
    output = arguments.output or Path(f"{arguments.image.stem}.{arguments.method}.png")
    if arguments.map == output:
        raise BitlensError(f"--output and --map are both {output}: give each its own file")
    files = {output: png_bytes(explanation_picture(image[0], values, chosen.signed))}
    if arguments.map is not None:
        stream = io.BytesIO()
        np.save(stream, values.astype(np.float32), allow_pickle=False)
        files[arguments.map] = stream.getvalue()
    write_files_atomically(files)
    if arguments.json:
        result = {
            "engine": engine.info.name,
            "method": arguments.method,
            "target": target,
            "label": network.label(target),
            "logit": float(logits[target]),
            "forward_passes": chosen.forward_passes,
            "backward_passes": chosen.backward_passes,
            "meaning": chosen.meaning_for(network.program),
            "picture": str(output),
            "map": None if arguments.map is None else str(arguments.map),
        }
        print(json.dumps(result))
        return 0
    print(f"{output}: {arguments.method} for {network.label(target)!r} (logit {logits[target]:+.3f})")
    print(f"engine {engine.info.name}, {chosen.cost} pass; left to right: image, map, both")
    print(chosen.meaning_for(network.program))
    if not values.any():
        other = "--layer or --method" if chosen.options else "--method"
        print(f"This map is zero everywhere: the method found nothing that moves this class; try another {other}.")
    return 0
