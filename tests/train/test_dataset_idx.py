from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets import open_dataset
from bitlens.train.datasets.idx import LARGEST_CONTENT, read_idx

NAMES = {
    part: tuple(f"{prefix}-{what}" for what in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    for part, prefix in (("train", "train"), ("test", "t10k"))
}


def idx(*shape: int, content: bytes, kind: int = 8) -> bytes:
    """Write the format by hand: two zeros, the kind, the dimensions, their sizes in big-endian order, the bytes."""
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape) + content


def write(folder: Path, part: str, images: np.ndarray, labels: list[int], packed: bool = True) -> None:
    contents = (idx(*images.shape, content=images.tobytes()), idx(len(labels), content=bytes(labels)))
    for name, content in zip(NAMES[part], contents, strict=True):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def pixels(count: int, seed: int, side: int = 28) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BITLENS_DATA", str(tmp_path))
    for name in ("mnist", "fashion-mnist"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "train", pixels(6, 1), [3, 1, 4, 1, 5, 9])
        write(tmp_path / name, "test", pixels(2, 2), [2, 6])
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_images_and_labels_are_those_of_the_files(root: Path, name: str, packed: bool) -> None:
    if not packed:
        for file in (root / name).iterdir():
            file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
            file.unlink()
    data = open_dataset(name)
    assert data.input_shape == (1, 28, 28)
    assert len(data.class_names) == 10
    train, test = data.train(), data.test()
    np.testing.assert_array_equal(train.images[:, 0].numpy(), pixels(6, 1))
    np.testing.assert_array_equal(test.images[:, 0].numpy(), pixels(2, 2))
    assert train.labels.tolist() == [3, 1, 4, 1, 5, 9]
    assert test.labels.tolist() == [2, 6]
    assert train.class_names == test.class_names == data.class_names


def test_the_test_files_are_not_read_before_they_are_asked_for(root: Path) -> None:
    for name in NAMES["test"]:
        (root / "mnist" / f"{name}.gz").write_bytes(b"garbage")
    data = open_dataset("mnist")
    assert len(data.train()) == 6
    with pytest.raises(BitlensError, match=r"t10k-images-idx3-ubyte\.gz: not a sound gzip file"):
        data.test()


def test_an_image_set_can_be_written_to(root: Path) -> None:
    # torch warns of a tensor over memory that may not be written.
    open_dataset("mnist").train().images[0] = 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing, expected 00000803"),
        (b"\x00\x00\x08\x01" + bytes(8), "begins with 00000801, expected 00000803: not an IDX file of 3-dim"),
        (idx(1, 1, 1, content=b"x", kind=13), "begins with 00000d03"),
        (idx(1, 1, 1, content=b"")[:9], "ends within its header"),
        (idx(2, 3, 4, content=bytes(23)), "declares 24 bytes and only 23 follow"),
        (idx(2, 3, 4, content=bytes(25)), "declares 24 bytes and more follow"),
        (idx(0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, content=b""), f"expected at most {LARGEST_CONTENT}"),
        (idx(60000, 28, 6000, content=b""), "declares 60000x28x6000 bytes"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_hostile_file_is_refused(content: bytes, message: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / ("x.gz" if packed else "x")
    path.write_bytes(gzip.compress(content) if packed else content)
    tracemalloc.start()
    try:
        with pytest.raises(BitlensError, match=message) as refusal:
            read_idx(path, dimensions=3)
        assert tracemalloc.get_traced_memory()[1] < 2**22  # nothing was allocated for what the header declares
    finally:
        tracemalloc.stop()
    assert str(refusal.value).startswith(f"{path}: ")


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx(1, 1, 1, content=bytes(2**26)), compresslevel=1))
    tracemalloc.start()
    try:
        with pytest.raises(BitlensError, match="declares 1 bytes and more follow"):
            read_idx(path, dimensions=3)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    sound = gzip.compress(idx(50, 28, 28, content=pixels(50, 0).tobytes()))
    path = tmp_path / "x.gz"
    path.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(BitlensError, match=r"x\.gz: the gzip stream ends early"):
        read_idx(path, dimensions=3)
    for place in (len(sound) // 2, len(sound) - 6):  # within the content, and within its checksum
        flipped = bytearray(sound)
        flipped[place] ^= 0xFF
        path.write_bytes(flipped)
        with pytest.raises(BitlensError, match=r"x\.gz: (not a sound gzip file|its header declares)"):
            read_idx(path, dimensions=3)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BitlensError, match=r"x\.gz: cannot be read \(No such file"):
        read_idx(tmp_path / "x.gz", dimensions=3)
    with pytest.raises(BitlensError, match=r"cannot be read \(Is a directory\)"):
        read_idx(tmp_path, dimensions=3)


def test_files_that_do_not_belong_together_are_refused(root: Path) -> None:
    write(root / "mnist", "train", pixels(3, 0), [1, 2])
    with pytest.raises(BitlensError, match=r"has 3 images and .*train-labels-idx1-ubyte\.gz 2 labels"):
        open_dataset("mnist").train()
    write(root / "mnist", "train", pixels(3, 0), [1, 2, 10])
    with pytest.raises(BitlensError, match=r"has a label 10, expected 0\.\.9"):
        open_dataset("mnist").train()
    write(root / "mnist", "train", pixels(3, 0, side=32), [1, 2, 3])
    with pytest.raises(BitlensError, match=r"has images of 32x32 pixels, expected 28x28"):
        open_dataset("mnist").train()
    write(root / "mnist", "train", pixels(0, 0), [])
    with pytest.raises(BitlensError, match=r"has 0 images"):
        open_dataset("mnist").train()


def test_a_missing_file_is_named_when_the_set_is_opened(root: Path) -> None:
    (root / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(BitlensError, match=r"mnist holds no t10k-labels-idx1-ubyte\.gz: copy it there"):
        open_dataset("mnist")


def test_a_data_variable_that_names_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITLENS_DATA", "/nowhere")
    with pytest.raises(BitlensError, match="BITLENS_DATA names /nowhere, which is not a folder"):
        open_dataset("mnist")
