"""IDX, the file format of MNIST, and the data sets that come in it: `mnist` and `fashion-mnist`."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt
import torch

from bitlens.runtime.data_folder import data_folder
from bitlens.runtime.errors import BitlensError, context
from bitlens.train.datasets.augmentation import Augmentation, shift_and_flip, shift_and_rotate
from bitlens.train.datasets.download import downloaded_folder
from bitlens.train.datasets.image_dataset import ImageDataset
from bitlens.train.datasets.registry import register_dataset
from bitlens.train.datasets.split_dataset import Report, SplitDataset

IMAGE_SIDE = 28
LARGEST_CONTENT = 2**28
"""Bytes of the largest IDX array that is read; MNIST's has 47 million."""
_UNSIGNED_BYTE = 8
_PARTS = {"train": "train", "test": "t10k"}
_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_idx(path: Path, *, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes.

    Parameters
    ----------
    path : Path
        The file; gzip is undone where the name ends in `.gz`.
    dimensions : int
        Dimensions that the array must have.

    Returns
    -------
    array of uint8
        Of the sizes in the header.

    Raises
    ------
    BitlensError
        If the file cannot be read, is not such an IDX file, is shorter or longer than its header says, or declares
        more than `LARGEST_CONTENT` bytes, which are not allocated then.
    """
    path = Path(path)
    with context(str(path)):
        try:
            if path.suffix == ".gz":
                with gzip.open(path) as packed:
                    return _array_from(cast("IO[bytes]", packed), dimensions)
            with path.open("rb") as plain:
                return _array_from(plain, dimensions)
        except EOFError as error:
            raise BitlensError("the gzip stream ends early: copy or download it again") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise BitlensError(f"not a sound gzip file ({error}): copy or download it again") from error
        except OSError as error:
            raise BitlensError(f"cannot be read ({error.strerror}): expected an IDX file") from error


def _array_from(stream: IO[bytes], dimensions: int) -> npt.NDArray[np.uint8]:
    expected = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    magic = stream.read(4)
    if magic != expected:
        raise BitlensError(
            f"the file begins with {magic.hex() or 'nothing'}, expected {expected.hex()}: "
            f"not an IDX file of {dimensions}-dimensional unsigned bytes"
        )
    header = stream.read(4 * dimensions)
    if len(header) != 4 * dimensions:
        raise BitlensError("the file ends within its header: copy or download it again")
    shape = tuple(int(size) for size in np.frombuffer(header, dtype=">u4"))
    total = math.prod(shape)
    if total > LARGEST_CONTENT:
        raise BitlensError(
            f"its header declares {'x'.join(map(str, shape))} bytes, expected at most {LARGEST_CONTENT}: "
            "not a data set of this kind"
        )
    content = stream.read(total)
    if len(content) != total or stream.read(1):
        came = f"only {len(content)}" if len(content) != total else "more"
        raise BitlensError(f"its header declares {total} bytes and {came} follow: copy or download it again")
    return np.frombuffer(bytearray(content), dtype=np.uint8).reshape(shape)


@register_dataset("mnist")
def open_mnist(report: Report) -> SplitDataset:
    """Open MNIST: 60,000 + 10,000 handwritten digits, 28x28 grey, in the order of the published files."""
    return _open_idx("mnist", tuple("0123456789"), shift_and_rotate, report)


@register_dataset("fashion-mnist")
def open_fashion_mnist(report: Report) -> SplitDataset:
    """Open Fashion-MNIST: 60,000 + 10,000 pieces of clothing, 28x28 grey, in the order of the given files."""
    return _open_idx("fashion-mnist", _FASHION_CLASSES, partial(shift_and_flip, pixels=2), report)


def _open_idx(name: str, class_names: tuple[str, ...], augment: Augmentation, report: Report) -> SplitDataset:
    root = data_folder()
    here = root is not None and (root / name).is_dir()
    folder = root / name if root is not None and here else downloaded_folder(name, report)
    files = {
        part: (_found(folder, f"{prefix}-images-idx3-ubyte"), _found(folder, f"{prefix}-labels-idx1-ubyte"))
        for part, prefix in _PARTS.items()
    }
    return SplitDataset(
        name,
        (1, IMAGE_SIDE, IMAGE_SIDE),
        class_names,
        train=partial(_read_part, *files["train"], class_names),
        test=partial(_read_part, *files["test"], class_names),
        augment=augment,
    )


def _found(folder: Path, name: str) -> Path:
    """Find an IDX file, packed or not."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise BitlensError(f"{folder} holds no {name}.gz: copy it there, or remove the folder to have it downloaded")


def _read_part(images_file: Path, labels_file: Path, class_names: Sequence[str]) -> ImageDataset:
    images = read_idx(images_file, dimensions=3)
    labels = read_idx(labels_file, dimensions=1)
    if len(images) != len(labels) or not len(images):
        raise BitlensError(
            f"{images_file} has {len(images)} images and {labels_file} {len(labels)} labels: "
            "expected as many, and at least one"
        )
    if images.shape[1:] != (IMAGE_SIDE, IMAGE_SIDE):
        raise BitlensError(
            f"{images_file} has images of {images.shape[1]}x{images.shape[2]} pixels, "
            f"expected {IMAGE_SIDE}x{IMAGE_SIDE}: it belongs to another data set"
        )
    if labels.max() >= len(class_names):
        raise BitlensError(
            f"{labels_file} has a label {labels.max()}, expected 0..{len(class_names) - 1}: "
            "it belongs to another data set"
        )
    return ImageDataset(
        torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64)), tuple(class_names)
    )
