"""One picture: every method in a row, every network in a column, one held-out digit.

The networks are those that `make demo` leaves behind, one bundle per precision:

    python examples/method_sheet.py out/demo/networks --output docs/methods.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bitlens.runtime import METHODS, Engine, open_engine, open_network
from bitlens.runtime.atomic_file import write_bytes_atomically
from bitlens.runtime.lettering import lettering
from bitlens.runtime.methods import Method, Value
from bitlens.runtime.methods.heat_picture import heat_picture
from bitlens.runtime.pictures import Picture, enlarge, image_picture, png_bytes, tile
from bitlens.runtime.program import Array
from bitlens.train.datasets import open_dataset

PRECISIONS = ("fp32", "w4a4", "w2a4", "w2a2", "w1a1")
# The last map of this network goes straight into a dense layer, where a mean over positions says little.
LAYER = {"grad_cam": "act2", "grad_cam_plus_plus": "act2", "layer_cam": "act2"}
ENLARGEMENT, GAP = 4, 6
LABEL_WIDTH = 168


def settings(method: Method) -> dict[str, Value]:
    """Defaults, but for the layer."""
    return {"layer": LAYER[method.name]} if method.name in LAYER else {}


def row(method: Method, engines: list[Engine], image: Array, target: int) -> list[Picture]:
    """Draw one method's map for each engine."""
    maps = [method.function(engine, image[None], [target], **settings(method))[0] for engine in engines]
    print(f"{method.name}: {method.passes(engines[0].program, **settings(method))} each", flush=True)
    return [enlarge(heat_picture(method, values), ENLARGEMENT) for values in maps]


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description="Explain one digit by every method on every network.")
    parser.add_argument("networks", type=Path, help="folder of bundles, one per precision")
    parser.add_argument("--output", type=Path, default=Path("methods.png"), help="picture (default: %(default)s)")
    parser.add_argument("--digit", type=int, default=3, help="which digit, the first held out (default: %(default)s)")
    arguments = parser.parse_args()
    test = open_dataset("digits").test()
    image = test.images.numpy()[int(np.flatnonzero(test.labels.numpy() == arguments.digit)[0])]
    engines = [open_engine(open_network(arguments.networks / f"{precision}.bitlens")) for precision in PRECISIONS]
    shown = enlarge(image_picture(image), ENLARGEMENT)
    height, width = shown.shape[:2]
    head = np.concatenate([lettering("image", LABEL_WIDTH, 1), np.full((height, LABEL_WIDTH, 3), 255, np.uint8)])
    cells = [np.concatenate([lettering(precision, width, 1), shown]) for precision in PRECISIONS]
    rows = [np.concatenate([head, tile([cells], GAP)], axis=1)]
    for method in METHODS.values():
        label = np.full((height, LABEL_WIDTH, 3), 255, np.uint8)
        words = lettering(method.title, LABEL_WIDTH, 3)
        label[: words.shape[0]] = words
        rows.append(np.concatenate([label, tile([row(method, engines, image, arguments.digit)], GAP)], axis=1))
    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    sheet = np.concatenate([part for one in rows for part in (one, gap)])
    write_bytes_atomically(arguments.output, png_bytes(sheet))
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
