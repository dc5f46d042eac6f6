"""`bitlens export`: write a trained network for every engine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bitlens.runtime.errors import BitlensError

if TYPE_CHECKING:
    from bitlens.export.hand_over import Samples

HELP = "write a trained network for every engine into one file: program, ONNX and TFLite graphs, golden answers"
NEEDS = (("onnx", "export"), ("flatbuffers", "export"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens export`."""
    parser.add_argument("source", type=Path, help="run folder that `bitlens train` wrote, or a QONNX file")
    parser.add_argument("--output", type=Path, required=True, metavar="NAME.bitlens", help="the bundle that is written")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FILE.npy",
        help="with a QONNX file: uint8 images (N, C, H, W) for golden answers",
    )
    parser.add_argument(
        "--tflite",
        choices=("exact", "int8"),
        default="exact",
        help="int8: a fast 8-bit forward graph too, near the network but not equal to it; not for networks with "
        "real-valued sums (default: %(default)s)",
    )
    parser.add_argument(
        "--without",
        nargs="+",
        choices=("onnx", "tflite", "twin"),
        default=(),
        metavar="PART",
        help="leave parts out, for a smaller bundle: onnx, tflite (the graphs of those engines), twin (the "
        "full-precision network that fidelity is measured against)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Export as the options say.

    Returns
    -------
    int
        0.

    Raises
    ------
    BitlensError
        If the source is damaged or cannot be represented; nothing is written then.
    """
    from bitlens.export.bundle import EXACT_GRAPHS, INT8_FACTS, check_bundle_place, tflite_int8_graph, write_bundle
    from bitlens.export.hand_over import read_hand_over, read_qonnx
    from bitlens.export.lowering import lower
    from bitlens.runtime.errors import context
    from bitlens.runtime.network import FORWARD_TFLITE_INT8, shown
    from bitlens.runtime.trust import trust_bundle

    left_out = set(arguments.without)
    if arguments.tflite == "int8" and "tflite" in left_out:
        raise BitlensError("--tflite int8 asks for what --without tflite leaves out: give one of them")
    graphs = [write for name, write in EXACT_GRAPHS.items() if name not in left_out]
    if arguments.tflite == "int8":
        graphs.append(tflite_int8_graph)
    check_bundle_place(arguments.output)
    with context(f"cannot export {arguments.source}"):
        if arguments.source.is_dir():
            if arguments.images is not None:
                raise BitlensError("a run folder brings its own images: leave --images out")
            given = read_hand_over(arguments.source)
            twin = None
            if given.twin is not None and "twin" not in left_out:
                origin = read_hand_over(given.twin)
                twin = lower(origin.qonnx, origin.metadata)
            program = lower(given.qonnx, given.metadata)
            written = write_bundle(arguments.output, program, samples=given.samples, twin=twin, graphs=graphs)
        else:
            program = lower(read_qonnx(arguments.source), {"source": arguments.source.name})
            samples = None if arguments.images is None else _samples(arguments.images)
            written = write_bundle(arguments.output, program, samples=samples, graphs=graphs)
    bundle, distrust = written.bundle, None
    try:
        trust_bundle(bundle.sha256, bundle.path.name)
    except BitlensError as error:  # the bundle is written and whole, which is what was asked for
        distrust = str(error)
    if arguments.json:
        result = {
            "network": str(bundle.path),
            "sha256": bundle.sha256,
            "file_bytes": bundle.file_bytes,
            "bytes": dict(written.sizes),
            "logit_error": written.logit_error,
            "tflite_refused": written.tflite_refusal or None,
            "trusted": distrust is None,
        }
        print(json.dumps(result))
    else:
        print(f"{bundle.path}: {bundle.file_bytes:,} bytes, SHA-256 {bundle.sha256}")
        for name, size in written.sizes.items():
            print(f"  {name:16} {size:>10,} bytes, {bundle.places[name].packed_bytes:>10,} in the file")
        if written.tflite_refusal:
            print(f"  no TFLite files: {shown(written.tflite_refusal)}")
        nearness = bundle.manifest.get(INT8_FACTS)
        if isinstance(nearness, dict):
            print(f"  {FORWARD_TFLITE_INT8}: {nearness['missed']} of {nearness['thresholds']} thresholds missed")
        if written.logit_error is not None:
            print(f"  logits within {written.logit_error:.1e} of the trained model evaluated in float64")
    if distrust is not None:
        print(
            f"bitlens: {bundle.path} is written, but not on your list of trusted networks: {distrust}", file=sys.stderr
        )
    return 0


def _samples(path: Path) -> Samples:
    import numpy as np

    from bitlens.export.hand_over import Samples
    from bitlens.runtime.array_file import MAX_ARRAY_BYTES, array_from_bytes
    from bitlens.runtime.bounded_file import read_at_most
    from bitlens.runtime.errors import context

    content = read_at_most(path, MAX_ARRAY_BYTES, "expected what numpy.save wrote", what="the images")
    with context(str(path)):
        images = array_from_bytes(content)
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
        raise BitlensError(f"{path} holds {images.dtype} of shape {images.shape}, expected uint8 (images, C, H, W)")
    return Samples(images, np.full(len(images), -1, np.int64), None)
