"""What a training run hands to export: its network as QONNX and a few real images, beside its configuration.

Files in a run folder: `network.qonnx` (float64 constants), `samples.npz` (images uint8, labels int64, logits float64 of
the Brevitas model), `config.json` and `metrics.json`, which training describes.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
import onnx

from bitlens.runtime.array_file import read_arrays
from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.network import QONNX_OF_A_RUN

QONNX_FILE = QONNX_OF_A_RUN
SAMPLES_FILE = "samples.npz"
CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.json"
WEIGHTS_FILE = "weights.pt"
RUN_FILES = frozenset({QONNX_FILE, SAMPLES_FILE, CONFIG_FILE, METRICS_FILE, WEIGHTS_FILE})

MAX_QONNX_BYTES = 2**30
MAX_TEXT_BYTES = 16 * 2**20  # a run of a million epochs would still be smaller


@dataclass(frozen=True)
class Samples:
    """A few held-out images.

    Parameters
    ----------
    images : uint8 (N, C, H, W)
    labels : int64 (N,)
    logits : float64 (N, classes), or None
        Of the Brevitas model evaluated in float64; None where only the images are known.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float64] | None


@dataclass(frozen=True)
class HandOver:
    """A training run as export sees it.

    Parameters
    ----------
    qonnx : onnx.ModelProto
    samples : Samples
    metadata : dict
        Labels, precision and where the network comes from: JSON values that travel with the program.
    twin : Path or None
        Run folder of the full-precision twin it was fine-tuned from.
    """

    qonnx: onnx.ModelProto
    samples: Samples
    metadata: dict[str, object]
    twin: Path | None


def write_hand_over(
    folder: Path,
    qonnx: onnx.ModelProto,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    logits: npt.NDArray[np.float64],
) -> None:
    """Write the network and the samples into a run folder that is being made."""
    (folder / QONNX_FILE).write_bytes(qonnx.SerializeToString())
    stream = io.BytesIO()
    np.savez_compressed(stream, images=images, labels=labels, logits=logits)
    (folder / SAMPLES_FILE).write_bytes(stream.getvalue())


def read_qonnx(path: Path) -> onnx.ModelProto:
    """Read a QONNX file.

    Raises
    ------
    BitlensError
        If it is missing or no ONNX model.
    """
    content = read_at_most(path, MAX_QONNX_BYTES, "give a run folder or a QONNX file of a network for a small board")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError has no public home
        raise BitlensError(f"{path} is no ONNX model ({error}): give a run folder or a QONNX file") from error
    if not model.graph.node:
        raise BitlensError(f"{path} holds no graph: give a run folder or a QONNX file")
    return model


def read_run_bytes(path: Path, limit: int) -> bytes:
    """Read a file of a run folder.

    Raises
    ------
    BitlensError
        If it is missing, or larger than `limit` bytes.
    """
    return read_at_most(path, limit, "give the --output of `bitlens train`")


def read_run_json(path: Path) -> dict[str, object]:
    """Read a JSON object of a run folder.

    Raises
    ------
    BitlensError
        If it is missing, too large, or no JSON object.
    """
    content = read_run_bytes(path, MAX_TEXT_BYTES)
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BitlensError(f"{path} is damaged ({error}): copy the run again or train it again") from error
    if not isinstance(parsed, dict):
        raise BitlensError(f"{path} is damaged (no JSON object): copy the run again or train it again")
    return parsed


def read_hand_over(folder: Path) -> HandOver:
    """Read what `bitlens train` left in a run folder.

    Raises
    ------
    BitlensError
        If a file is missing or damaged, or the twin is not the one the run was fine-tuned from.
    """
    folder = Path(folder)
    config, metrics = read_run_json(folder / CONFIG_FILE), read_run_json(folder / METRICS_FILE)
    arrays = read_arrays(folder / SAMPLES_FILE, ("images", "labels", "logits"))
    dtypes = tuple(arrays[name].dtype.name for name in ("images", "labels", "logits"))
    if dtypes != ("uint8", "int64", "float64") or len({len(array) for array in arrays.values()}) != 1:
        raise BitlensError(f"{folder / SAMPLES_FILE} holds {', '.join(dtypes)}: train the run again")
    samples = Samples(arrays["images"], arrays["labels"], arrays["logits"])
    metadata: dict[str, object] = {
        name: config.get(name) for name in ("labels", "precision", "model", "dataset", "width", "fit", "versions")
    }
    # A folder of pictures is known to training by its path, which is nobody's business elsewhere.
    metadata["dataset"] = PurePath(str(config.get("dataset"))).name
    metadata["test_accuracy"] = metrics.get("test_accuracy")
    reference, twin = config.get("twin"), None
    if isinstance(reference, dict):
        metadata["twin_sha256"] = str(reference.get("sha256"))
        twin = (folder.resolve() / str(reference.get("path"))).resolve()
        try:
            found = hashlib.sha256((twin / WEIGHTS_FILE).read_bytes()).hexdigest()
        except OSError as error:
            raise BitlensError(
                f"cannot read the twin {twin} that {folder} was fine-tuned from ({error.strerror}): put it back, or "
                "train the run again"
            ) from error
        if found != reference.get("sha256"):
            raise BitlensError(
                f"the twin {twin} was trained again after {folder} was fine-tuned from it: fine-tune anew"
            )
    return HandOver(read_qonnx(folder / QONNX_FILE), samples, metadata, twin)
