"""The whole way, once: train five networks on real handwriting, export, explain outside PyTorch, and compare.

Runs `bitlens train` and `bitlens export` as a user would, explains held-out images through ONNX Runtime, and writes
one self-contained page and one picture:

    python examples/digits_demo.py --output out/demo
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from bitlens.runtime import METHODS, Engine, Network, open_engine, open_network
from bitlens.runtime.atomic_file import write_bytes_atomically, write_text_atomically
from bitlens.runtime.certificate import Certificate, read_certificate
from bitlens.runtime.certificate.golden_fidelity import NETWORK
from bitlens.runtime.evaluation.plan import RANDOM_MAP, RANDOM_WEIGHTS
from bitlens.runtime.evaluation.tables import cell
from bitlens.runtime.golden import record_golden
from bitlens.runtime.methods import SURROGATE
from bitlens.runtime.network import FORWARD_ONNX, GRADIENT_ONNX, NETWORK_PROGRAM
from bitlens.runtime.page import Html, PictureCell, page, paragraph, picture_grid, section, table
from bitlens.runtime.parity import EngineParity, compare_engine
from bitlens.runtime.pictures import (
    Picture,
    colour_map_picture,
    enlarge,
    image_picture,
    overlay,
    png_bytes,
    reduce_channels,
)
from bitlens.runtime.verbs.verify import CERTIFICATE

TWIN = "fp32"
PRECISIONS = {
    TWIN: "full-precision twin",
    "w4a4": "PACT, 4 bit",
    "w2a4": "mixed, 2-bit weights and 4-bit activations",
    "w2a2": "PACT, 2 bit",
    "w1a1": "binary",
}
SHOWN_DIGITS = (3, 5, 8, 2)
# The last map, act3, goes straight into the dense layer, where every position has weights of its own; their mean over
# positions, which GradCAM takes, says little there and makes every other map zero.
METHOD_OPTIONS = {"grad_cam": {"layer": "act2"}}
# examples/method_sheet.py shows them all.
CERTIFIED_METHODS = "gradient,grad_cam:layer=act2"
SHOWN_METHODS = ("gradient", "gradient_x_input", "grad_cam")
ENLARGEMENT = 4
MEMBERS = (NETWORK_PROGRAM, FORWARD_ONNX, GRADIENT_ONNX)
CPUS = 2


@dataclass(frozen=True)
class Exported:
    """A network of the demo, opened and measured on the held-out images."""

    precision: str
    network: Network
    engine: Engine
    accuracy: float
    parity: EngineParity
    certificate: Certificate


def bitlens(*arguments: str, answers: tuple[int, ...] = (0,)) -> None:
    """Run a verb of the command line, one thread; its output is shown if its exit code is none of `answers`."""
    command = [sys.executable, "-m", "bitlens.runtime.cli", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode not in answers:
        raise SystemExit(f"bitlens {' '.join(arguments)} failed:\n{done.stderr}")


def network_file(precision: str, folder: Path) -> Path:
    """Where a network is exported to."""
    return folder / "networks" / f"{precision}.bitlens"


def certificate_folder(precision: str, folder: Path) -> Path:
    """Where its certificate is written to."""
    return folder / "certificates" / precision


def make_network(precision: str, folder: Path, epochs: int) -> None:
    """Train, export and certify one network; every one but the twin starts from the twin."""
    start = time.monotonic()
    run = folder / "runs" / precision
    twin = () if precision == TWIN else ("--twin", str(folder / "runs" / TWIN))
    bitlens("train", "--output", str(run), "--precision", precision, "--epochs", str(epochs), *twin)
    bundle = str(network_file(precision, folder))
    bitlens("export", str(run), "--output", bundle)
    certificate = str(certificate_folder(precision, folder))
    # 1: it was written, and says what does not hold.
    bitlens("verify", bundle, "--trust", "--methods", CERTIFIED_METHODS, "--output", certificate, answers=(0, 1))
    print(f"{precision}: trained, exported and certified in {time.monotonic() - start:.0f} s", flush=True)


def measure(precision: str, folder: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Exported:
    """Accuracy on ONNX Runtime, and its parity with the reference engine, on all held-out images."""
    network = open_network(network_file(precision, folder), trust=True)  # made by this very process
    engine, reference = open_engine(network, "onnxruntime"), open_engine(network, "reference")
    accuracy = float((engine.forward(images).argmax(axis=1) == labels).mean())
    parity = compare_engine(engine, reference, record_golden(reference, images, labels))
    certificate = read_certificate(certificate_folder(precision, folder) / CERTIFICATE)
    return Exported(precision, network, engine, accuracy, parity, certificate)


def shown_images(labels: npt.NDArray[np.int64]) -> list[int]:
    """Pick the first held-out image of each shown digit."""
    return [int(np.flatnonzero(labels == digit)[0]) for digit in SHOWN_DIGITS]


def panel(image: npt.NDArray[np.uint8], values: npt.NDArray[np.float32], signed: bool) -> Picture:
    """Draw a map; GradCAM, which is coarse, over the image."""
    heat = colour_map_picture(reduce_channels(values, "sum"), signed)
    shown = heat if signed else overlay(image_picture(image), heat, 0.6)
    return enlarge(shown, ENLARGEMENT)


def described_options(name: str) -> str:
    """Say which options a method was given."""
    return "".join(f", {option} {value}" for option, value in METHOD_OPTIONS.get(name, {}).items())


def grids(exported: Sequence[Exported], images: npt.NDArray[np.uint8]) -> dict[str, list[list[Picture]]]:
    """Explain the images by each method: a row per image, a column per precision, the predicted class."""
    result = {}
    for method in (METHODS[name] for name in SHOWN_METHODS):
        name = method.name
        maps = [
            method.function(
                item.engine,
                images,
                item.engine.forward(images).argmax(axis=1).tolist(),
                **METHOD_OPTIONS.get(name, {}),
            )
            for item in exported
        ]
        result[name] = [
            [panel(image, column[row], method.signed) for column in maps] for row, image in enumerate(images)
        ]
    return result


def certified_table(exported: Sequence[Exported]) -> list[Html]:
    """Say of each bundle which engines compute it."""
    rows = [
        (
            item.precision,
            item.certificate.network.bundle_sha256[:16],
            ", ".join(f"{each.engine.name} {each.engine.version}" for each in item.certificate.engines),
            "holds" if item.certificate.holds else "DOES NOT HOLD",
        )
        for item in exported
    ]
    machine = exported[0].certificate.machine
    images = exported[0].certificate.engines[0].images
    return [
        table(
            ("network", "SHA-256 of the bundle, begins", "engines", "numerical parity"),
            rows,
            f"bitlens verify on {machine.processor}, {machine.architecture}: {images} golden images",
        ),
        paragraph("The whole certificates, with maps beside the twin's, are the pages in the folder certificates."),
    ]


def fidelity_table(exported: Sequence[Exported]) -> list[Html]:
    """Put the Spearman of each network's maps with the twin's beside its baselines."""
    rows = []
    for item in exported:
        fidelity = item.certificate.fidelity
        if fidelity is None:
            continue
        for method in fidelity.methods:
            means = [fidelity.mean(method, of, "spearman") for of in (NETWORK, RANDOM_WEIGHTS, RANDOM_MAP)]
            rows.append((item.precision, method, *("\u2013" if mean is None else cell(mean) for mean in means)))
    return [
        table(
            ("network", "method", "this network", "random weights", "random map"),
            rows,
            "Spearman with the twin's maps: mean over the golden images, 95 % interval; a dash where maps are zero",
        ),
        paragraph("Few images: enough to see that a map is not noise. bitlens evaluate is the measurement."),
    ]


def written_page(
    exported: Sequence[Exported],
    images: npt.NDArray[np.uint8],
    maps: dict[str, list[list[Picture]]],
    test_images: int,
    seconds: float,
) -> str:
    """Compose the page."""
    accuracy = table(
        ("network", "what", "held-out accuracy", "program, bytes", "forward ONNX, bytes", "gradient ONNX, bytes"),
        [
            (
                item.precision,
                PRECISIONS[item.precision],
                f"{100 * item.accuracy:.2f} %",
                *(
                    f"{item.network.members[name]['bytes']:,}"
                    for name in (NETWORK_PROGRAM, FORWARD_ONNX, GRADIENT_ONNX)
                ),
            )
            for item in exported
        ],
        f"{test_images} held-out images of scikit-learn's digits, enlarged to 28x28, run by ONNX Runtime",
    )
    parity = table(
        (
            "network",
            "codes that differ",
            "mask bits that differ",
            "classes that differ",
            "gradient within 1e-5",
            "largest error",
        ),
        [
            (
                item.precision,
                f"{item.parity.differing_codes:,} of {item.parity.codes:,}" if item.parity.codes else "(float)",
                f"{item.parity.differing_masks:,} of {item.parity.masks:,}" if item.parity.masks else "(float)",
                f"{item.parity.differing_classes} of {item.parity.images}",
                f"{item.parity.images - item.parity.gradient_exceptions} of {item.parity.images}",
                f"{item.parity.gradient_error:.1e}",
            )
            for item in exported
        ],
        "ONNX Runtime against the NumPy reference, all held-out images; gradient error relative to the map's maximum",
    )
    note = (
        "A full-precision network has no codes that could be equal: engines round its sums differently, and where two "
        "pixels of a pool are nearly equal, or a ReLU is nearly zero, the gradient takes another way. Such images are "
        "counted. A quantized network has none."
    )
    parts: list[Html] = [
        section("Accuracy and size", [accuracy]),
        section(
            "Certificates: does each engine compute the network?",
            [*certified_table(exported), parity, paragraph(note)],
        ),
        section("Certificates: are the maps those of the twin?", fidelity_table(exported)),
    ]
    for name, rows in maps.items():
        passes = METHODS[name].passes(exported[0].network.program)
        cells = [
            [
                PictureCell(png_bytes(enlarge(image_picture(image), ENLARGEMENT)), f"the digit {digit}"),
                *(
                    PictureCell(png_bytes(cell), f"{name} map of the digit {digit} on {item.precision}")
                    for cell, item in zip(row, exported, strict=True)
                ),
            ]
            for image, digit, row in zip(images, SHOWN_DIGITS, rows, strict=True)
        ]
        grid = picture_grid(
            [f"digit {digit}" for digit in SHOWN_DIGITS],
            ["image", *(item.precision for item in exported)],
            cells,
            f"{name}{described_options(name)}: {passes} per map. Each map has its own scale.",
        )
        parts.append(section(name, [paragraph(METHODS[name].meaning), grid]))
    parts.append(section("What these maps are", [paragraph(f"On the four quantized networks: {SURROGATE}")]))
    cost = paragraph(f"Trained, exported, explained and compared in {seconds:.0f} s.")
    return page("bitlens: one digit, five precisions", [*parts, section("Cost", [cost])])


def written_sheet(
    exported: Sequence[Exported], images: npt.NDArray[np.uint8], maps: dict[str, list[list[Picture]]]
) -> bytes:
    """Compose the picture of the README: image x precision, one block per method."""
    side, gap, left, top = images.shape[-1] * ENLARGEMENT, 6, 8, 24
    columns = 1 + len(exported)
    block = top + len(images) * (side + gap) + 14
    sheet = Image.new("RGB", (left + columns * (side + gap), len(maps) * block), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for place, (name, rows) in enumerate(maps.items()):
        y = place * block
        headers = (name, *(f"{item.precision}  {100 * item.accuracy:.1f} %" for item in exported))
        for column, header in enumerate(headers):
            draw.text((left + column * (side + gap), y + 4), header, fill="black", font=font)
        for row, (image, cells) in enumerate(zip(images, rows, strict=True)):
            for column, shown in enumerate((enlarge(image_picture(image), ENLARGEMENT), *cells)):
                corner = (left + column * (side + gap), y + top + row * (side + gap))
                sheet.paste(Image.fromarray(shown), corner)
    return png_bytes(np.asarray(sheet))


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description="Train, export, explain and compare five small networks on digits.")
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="per network (default: %(default)s)")
    arguments = parser.parse_args()
    start = time.monotonic()
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    make_network(TWIN, folder, arguments.epochs)
    with ThreadPoolExecutor(CPUS) as pool:  # each thread only waits for its own process
        others = [name for name in PRECISIONS if name != TWIN]
        list(pool.map(lambda precision: make_network(precision, folder, arguments.epochs), others))

    from bitlens.train.datasets import open_dataset

    test = open_dataset("digits").test()
    images, labels = test.images.numpy(), test.labels.numpy()
    exported = [measure(precision, folder, images, labels) for precision in PRECISIONS]
    shown = images[shown_images(labels)]
    maps = grids(exported, shown)
    seconds = time.monotonic() - start
    write_text_atomically(folder / "index.html", written_page(exported, shown, maps, len(images), seconds))
    write_bytes_atomically(folder / "maps.png", written_sheet(exported, shown, maps))
    for item in exported:
        print(f"{item.precision}: {100 * item.accuracy:.2f} % of {len(images)}; {item.parity.summary()}")
    print(f"{folder / 'index.html'} and {folder / 'maps.png'}: {seconds:.0f} s")
    if not all(item.parity.holds and item.certificate.holds for item in exported):
        raise SystemExit("numerical parity does not hold: see the page")


if __name__ == "__main__":
    main()
