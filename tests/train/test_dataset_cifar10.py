from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets import ImageDataset, open_dataset
from bitlens.train.datasets.cifar10 import BATCH_ARCHIVE, BATCH_FOLDER, CLASS_NAMES

TRAIN_BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]
PER_CLASS = 2


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BITLENS_DATA", str(tmp_path))
    return tmp_path


def batch(seed: int, records: int = 3) -> tuple[bytes, np.ndarray, np.ndarray]:
    """One file of the binary version, written record by record, with its images (N, 3, 32, 32) and labels."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (records, 3, 32, 32), dtype=np.uint8)
    labels = generator.integers(0, 10, records, dtype=np.uint8)
    content = b""
    for image, label in zip(images, labels, strict=True):
        content += bytes([label])
        for plane in image:  # red, green, blue, each row by row
            content += plane.tobytes()
    return content, images, labels


def batches() -> dict[str, bytes]:
    return {name: batch(seed)[0] for seed, name in enumerate([*TRAIN_BATCHES, "test_batch.bin"])}


def check_batches(train: ImageDataset, test: ImageDataset) -> None:
    expected = [batch(seed) for seed in range(6)]
    np.testing.assert_array_equal(train.images.numpy(), np.concatenate([images for _, images, _ in expected[:5]]))
    assert train.labels.tolist() == np.concatenate([labels for *_, labels in expected[:5]]).tolist()
    np.testing.assert_array_equal(test.images.numpy(), expected[5][1])
    assert test.labels.tolist() == expected[5][2].tolist()


def write_tar(path: Path, members: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if change is not None:
                change(info)
            tar.addfile(info, io.BytesIO(content))


def published_tar() -> dict[str, bytes]:
    """The members of the published archive, in an order of their own."""
    found = {f"{BATCH_FOLDER}/{name}": content for name, content in batches().items()}
    names = [f"{BATCH_FOLDER}/test_batch.bin", *sorted(found, reverse=True)]
    return {f"{BATCH_FOLDER}/readme.html": b"<html>"} | {name: found[name] for name in names}


@pytest.mark.parametrize("place", [BATCH_FOLDER, f"cifar10/{BATCH_FOLDER}", "cifar10"])
def test_binary_version_in_a_folder(place: str, root: Path) -> None:
    (root / place).mkdir(parents=True)
    for name, content in batches().items():
        (root / place / name).write_bytes(content)
    data = open_dataset("cifar10")
    assert data.input_shape == (3, 32, 32)
    assert data.class_names == CLASS_NAMES
    check_batches(data.train(), data.test())


@pytest.mark.parametrize("place", [".", "cifar10"])
def test_binary_version_in_its_archive(place: str, root: Path) -> None:
    (root / place).mkdir(exist_ok=True)
    write_tar(root / place / BATCH_ARCHIVE, published_tar())
    data = open_dataset("cifar10")
    check_batches(data.train(), data.test())
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == [BATCH_ARCHIVE]  # nothing is unpacked


def test_training_part_does_not_need_a_sound_test_part(root: Path) -> None:
    write_tar(root / BATCH_ARCHIVE, published_tar() | {f"{BATCH_FOLDER}/test_batch.bin": b"garbage"})
    data = open_dataset("cifar10")
    assert len(data.train()) == 15
    with pytest.raises(BitlensError, match=r"test_batch\.bin has 7 bytes, expected up to 10000 records of 3073"):
        data.test()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"data_batch_3\.bin has 0 bytes"),
        (bytes(3072), r"data_batch_3\.bin has 3072 bytes, expected up to 10000 records of 3073"),
        (bytes(3073 * 10_001), r"data_batch_3\.bin has more than 30730000 bytes"),
        (b"\x0a" + bytes(3072), r"data_batch_3\.bin has a label 10, expected 0\.\.9"),
    ],
)
def test_damaged_batch_is_refused(content: bytes, message: str, root: Path) -> None:
    (root / BATCH_FOLDER).mkdir()
    for name, sound in batches().items():
        (root / BATCH_FOLDER / name).write_bytes(sound)
    (root / BATCH_FOLDER / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(BitlensError, match=message):
        open_dataset("cifar10").train()
    shutil.rmtree(root / BATCH_FOLDER)
    write_tar(root / BATCH_ARCHIVE, published_tar() | {f"{BATCH_FOLDER}/data_batch_3.bin": content})
    with pytest.raises(BitlensError, match=message):
        open_dataset("cifar10").train()


def test_missing_batch_is_refused(root: Path) -> None:
    (root / BATCH_FOLDER).mkdir()
    with pytest.raises(BitlensError, match=r"cannot read .*data_batch_1\.bin \(No such file"):
        open_dataset("cifar10").train()
    shutil.rmtree(root / BATCH_FOLDER)
    members = published_tar()
    del members[f"{BATCH_FOLDER}/data_batch_2.bin"]
    write_tar(root / BATCH_ARCHIVE, members)
    with pytest.raises(BitlensError, match=r"cifar-10-binary\.tar\.gz holds no data_batch_2\.bin"):
        open_dataset("cifar10").train()


def as_link(kind: bytes) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    return change


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, root: Path) -> None:
    write_tar(root / BATCH_ARCHIVE, {f"{BATCH_FOLDER}/data_batch_1.bin": b""}, as_link(kind))
    with pytest.raises(BitlensError, match=r"data_batch_1\.bin' is a link or a device"):
        open_dataset("cifar10").train()


@pytest.mark.parametrize("name", ["../data_batch_1.bin", "/data_batch_1.bin", "a/../../data_batch_1.bin", "..\\x"])
def test_names_that_leave_the_archive_are_refused(name: str, root: Path) -> None:
    write_tar(root / BATCH_ARCHIVE, {name: batch(0)[0]})
    with pytest.raises(BitlensError, match="points out of the archive"):
        open_dataset("cifar10").train()
    (root / BATCH_ARCHIVE).unlink()
    write_zip(root / "cifar10.zip", small_zip() | {name: b"x"})
    with pytest.raises(BitlensError, match="points out of the archive"):
        open_dataset("cifar10")


def test_a_member_that_comes_twice_is_refused(root: Path) -> None:
    members = published_tar()
    with tarfile.open(root / BATCH_ARCHIVE, "w:gz") as tar:
        for name, content in [*members.items(), *members.items()]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(BitlensError, match="is in it twice"):
        open_dataset("cifar10").train()


def test_damaged_archive_is_refused(root: Path) -> None:
    write_tar(root / BATCH_ARCHIVE, published_tar())
    sound = (root / BATCH_ARCHIVE).read_bytes()
    for content in (b"", b"no gzip at all", sound[: len(sound) // 2], gzip.compress(b"no tar at all" * 100)):
        (root / BATCH_ARCHIVE).write_bytes(content)
        with pytest.raises(BitlensError, match=r"cifar-10-binary\.tar\.gz") as refusal:
            open_dataset("cifar10").train()
        assert "\n" not in str(refusal.value)


def test_a_tar_bomb_is_refused(root: Path) -> None:
    # 300 MB of zeros in 1.3 MB, as one member that would be skipped, and as a header that would be read whole.
    for kind in (tarfile.REGTYPE, tarfile.XHDTYPE):
        info = tarfile.TarInfo("zeros")
        info.size, info.type = 300 * 2**20, kind
        block = gzip.compress(bytes(2**22), compresslevel=9)
        content = gzip.compress(info.tobuf(tarfile.USTAR_FORMAT)) + block * 75
        (root / BATCH_ARCHIVE).write_bytes(content)
        with pytest.raises(BitlensError, match=r"unpacks to more than 245840000 bytes"):
            open_dataset("cifar10").train()


# The zip of pictures.


def picture(label: int, number: int, kind: str = "PNG", size: int = 32, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    pixels = np.random.default_rng([label, number]).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def small_zip() -> dict[str, bytes]:
    return {
        f"cifar10/{part}/{name}/{number:04d}.png": picture(label, number + (part == "test") * 100)
        for label, name in enumerate(CLASS_NAMES)
        for part in ("train", "test")
        for number in reversed(range(PER_CLASS))
    }


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def check_pictures(part: ImageDataset, first: int) -> None:
    assert part.labels.tolist() == [label for label in range(10) for _ in range(PER_CLASS)]
    expected = [
        np.asarray(Image.open(io.BytesIO(picture(label, first + number)))).transpose(2, 0, 1)
        for label in range(10)
        for number in range(PER_CLASS)
    ]
    np.testing.assert_array_equal(part.images.numpy(), np.stack(expected))
    assert part.images.is_contiguous()


def test_zip_of_pictures(root: Path) -> None:
    write_zip(root / "cifar10.zip", small_zip())
    data = open_dataset("cifar10")
    check_pictures(data.train(), 0)
    check_pictures(data.test(), 100)
    assert [path.name for path in root.iterdir()] == ["cifar10.zip"]


def test_folder_of_pictures(root: Path) -> None:
    for name, content in small_zip().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    data = open_dataset("cifar10")
    check_pictures(data.train(), 0)
    check_pictures(data.test(), 100)
    shutil.rmtree(root / "cifar10" / "test" / "frog")
    with pytest.raises(BitlensError, match="test/frog holds no picture, expected some of every class"):
        open_dataset("cifar10")
    shutil.rmtree(root / "cifar10" / "test")
    with pytest.raises(BitlensError, match="cifar10 has no folder test"):
        open_dataset("cifar10")


def test_jpeg_and_grey_pictures_are_decoded(root: Path) -> None:
    jpeg, grey = picture(0, 0, "JPEG"), picture(0, 1, mode="L")
    write_zip(
        root / "cifar10.zip",
        small_zip() | {"cifar10/train/airplane/0000.jpg": jpeg, "cifar10/train/airplane/0001.png": grey},
    )
    images = open_dataset("cifar10").train().images.numpy()
    np.testing.assert_array_equal(images[0].transpose(1, 2, 0), np.asarray(Image.open(io.BytesIO(jpeg))))
    np.testing.assert_array_equal(images[2], np.repeat(np.asarray(Image.open(io.BytesIO(grey)))[None], 3, axis=0))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cifar10/train/camel/1.png", b"", r"it holds 'cifar10/train/camel/1\.png', expected pictures as"),
        ("cifar10/valid/cat/1.png", b"", "it holds 'cifar10/valid/cat"),
        ("cat.png", b"", r"it holds 'cat\.png'"),
        ("cifar10/train/cat/x.pickle", b"", "it holds 'cifar10/train/cat/x.pickle'"),
        ("cifar10/train/cat/1.png", bytes(2**16 + 1), "unpacks to 65537 bytes, expected at most 65536"),
        ("cifar10/train/cat/1.png", bytes(2**24), "unpacks to 16777216 bytes"),
    ],
)
def test_strange_member_of_a_zip_is_refused_when_it_is_opened(
    name: str, content: bytes, message: str, root: Path
) -> None:
    write_zip(root / "cifar10.zip", small_zip() | {name: content})
    with pytest.raises(BitlensError, match=message):
        open_dataset("cifar10")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"zip: cifar10/train/cat/0000\.png: not a picture that can be decoded"),
        (b"GIF89a", "not a picture that can be decoded"),
        (picture(0, 0, size=33), "the picture has 33x33 pixels, expected 32x32"),
        (picture(0, 0)[:-300], "not a picture that can be decoded"),
    ],
)
def test_bad_picture_is_refused_with_its_name(content: bytes, message: str, root: Path) -> None:
    write_zip(root / "cifar10.zip", small_zip() | {"cifar10/train/cat/0000.png": content})
    with pytest.raises(BitlensError, match=message):
        open_dataset("cifar10").train()


def test_damaged_zip_is_refused(root: Path) -> None:
    archive = root / "cifar10.zip"
    write_zip(archive, small_zip(), zipfile.ZIP_STORED)
    sound = archive.read_bytes()
    place = sound.index(picture(3, 0)) + 100
    archive.write_bytes(sound[:place] + bytes([sound[place] ^ 0xFF]) + sound[place + 1 :])
    data = open_dataset("cifar10")
    with pytest.raises(BitlensError, match=r"zip: cifar10/train/cat/0000\.png is damaged \(Bad CRC-32"):
        data.train()
    check_pictures(data.test(), 100)  # the two parts are read apart
    archive.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(BitlensError, match=r"cifar10\.zip: not a sound zip file"):
        open_dataset("cifar10")
    with pytest.raises(BitlensError, match=r"cifar10\.zip is no longer a sound zip file"):
        data.train()


def test_a_member_that_lies_about_its_size_is_refused(root: Path) -> None:
    # The directory says 100 bytes; the stream would give 2^24.
    archive = root / "cifar10.zip"
    write_zip(archive, small_zip() | {"cifar10/train/cat/0000.png": bytes(2**24)})
    content = archive.read_bytes()
    size = (2**24).to_bytes(4, "little")
    assert content.count(size) >= 1
    archive.write_bytes(content.replace(size, (100).to_bytes(4, "little")))
    with pytest.raises(BitlensError, match=r"cifar10/train/cat/0000\.png is damaged"):
        open_dataset("cifar10").train()


def test_encrypted_member_is_refused(root: Path) -> None:
    archive = root / "cifar10.zip"
    write_zip(archive, small_zip())
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.index(signature)
        content[place + offset] |= 1
    archive.write_bytes(content)
    with pytest.raises(BitlensError, match=r"is damaged \(.*password"):
        open_dataset("cifar10").train()


def test_empty_part_of_a_zip_is_refused(root: Path) -> None:
    write_zip(root / "cifar10.zip", {name: content for name, content in small_zip().items() if "/train/" in name})
    with pytest.raises(BitlensError, match=r"it holds 0 pictures to test, expected 1\.\.60000"):
        open_dataset("cifar10")
