from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resized_by_hand import square_by_hand

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.image import read_image
from bitlens.runtime.picture_file import LARGEST_PICTURE, decode_picture
from bitlens.train.datasets import open_dataset

Grid = np.ndarray


def pixels(height: int, width: int, seed: int = 0) -> Grid:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, array: Grid | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(20, 24) if array is None else array).save(path, **options)  # type: ignore[arg-type]
    return path


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of six, sizes all different; no test folder."""
    for label, name in enumerate(("cat", "dog")):
        for index in range(6):
            save(tmp_path / "train" / name / f"{index}.png", pixels(16 + index, 20 - label, 10 * label + index))
    return tmp_path


def test_pictures_of_all_sizes_become_squares_in_the_order_of_class_and_name(folder: Path) -> None:
    save(folder / "test" / "dog" / "x.png", pixels(40, 30, 99))
    data = open_dataset(str(folder), size=8)
    assert data.name == str(folder)
    assert data.class_names == ("cat", "dog")
    assert data.input_shape == (3, 8, 8)
    train, test = data.train(), data.test()
    assert train.labels.tolist() == [0] * 6 + [1] * 6
    assert test.labels.tolist() == [1]
    sources = [pixels(16 + i, 20 - label, 10 * label + i) for label in (0, 1) for i in range(6)] + [pixels(40, 30, 99)]
    for image, source in zip([*train.images, *test.images], sources, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), square_by_hand(source, 8))


def test_training_and_prediction_see_the_same_codes(folder: Path) -> None:
    """Whatever the file: a phone's JPEG on its side, a palette, transparency, 16 bits."""
    source = Image.fromarray(pixels(37, 52, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    place = folder / "test" / "cat"
    place.mkdir(parents=True)
    source.save(place / "a.jpg", exif=exif, quality=80)
    source.quantize(16).save(place / "b.png")
    source.convert("L").save(place / "c.bmp")
    Image.fromarray(np.concatenate([pixels(30, 31), pixels(30, 31)[..., :1]], axis=2)).save(place / "d.png")
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(place / "e.png")
    source.resize((640, 480)).save(place / "f.webp")
    for size in (8, 13, 64):
        seen = open_dataset(str(folder), size=size).test().images.numpy()
        assert len(seen) == 6
        for codes, path in zip(seen, sorted(place.iterdir()), strict=True):
            assert np.array_equal(read_image(path, (3, size, size))[0], codes), path.name


def test_a_picture_of_the_right_size_is_untouched(folder: Path) -> None:
    array = pixels(16, 16, 3)
    save(folder / "train" / "cat" / "0.png", array)
    save(folder / "test" / "cat" / "0.png", array)
    np.testing.assert_array_equal(open_dataset(str(folder), size=16).test().images[0].permute(1, 2, 0), array)


def grey16(values: Grid) -> bytes:
    return encoded(Image.fromarray(values.astype(np.uint16)), "PNG")


def one_pixel(image: Image.Image, kind: str = "PNG", **options: object) -> tuple[int, ...]:
    decoded = decode_picture(encoded(image, kind, **options))
    assert decoded.mode == "RGB"
    return tuple(np.asarray(decoded)[0, 0].tolist())


def test_every_kind_of_picture_becomes_rgb() -> None:
    assert one_pixel(Image.new("L", (2, 2), 77)) == (77, 77, 77)
    assert one_pixel(Image.new("1", (2, 2), 1)) == (255, 255, 255)
    assert one_pixel(Image.new("RGB", (2, 2), (1, 2, 3))) == (1, 2, 3)
    assert one_pixel(Image.new("RGBA", (2, 2), (10, 20, 30, 255))) == (10, 20, 30)
    assert one_pixel(Image.new("RGBA", (2, 2), (10, 20, 30, 0))) == (255, 255, 255)
    assert one_pixel(Image.new("RGBA", (2, 2), (0, 0, 100, 51))) == (204, 204, 224)  # a fifth over white
    assert one_pixel(Image.new("LA", (2, 2), (10, 0))) == (255, 255, 255)
    assert one_pixel(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF") == (255, 0, 0)
    palette = Image.new("RGB", (2, 2), (9, 99, 199)).quantize(4)
    assert palette.mode == "P"
    assert one_pixel(palette) == (9, 99, 199)
    assert one_pixel(palette, "PNG", transparency=0) == (255, 255, 255)
    assert one_pixel(Image.new("RGB", (2, 2), (9, 99, 199)), "WEBP", lossless=True) == (9, 99, 199)


def test_cmyk_jpeg_becomes_rgb() -> None:
    red = one_pixel(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(np.subtract(red, (255, 0, 0))).max() <= 3  # JPEG loses a little


def test_sixteen_bits_become_eight_by_rounding() -> None:
    values = np.array([[0, 128, 129, 257], [385, 386, 65406, 65535]])
    for content in (grey16(values), encoded(Image.fromarray(values.astype(np.uint16)), "TIFF")):
        decoded = np.asarray(decode_picture(content))[:, :, 0]
        np.testing.assert_array_equal(decoded, [[0, 0, 1, 1], [1, 2, 254, 255]])


def test_integers_beyond_sixteen_bits_and_floats_are_refused() -> None:
    wide = Image.fromarray(np.full((2, 2), 70000, dtype=np.int32))
    with pytest.raises(BitlensError, match=r"values from 70000 to 70000, expected 0\.\.65535"):
        decode_picture(encoded(wide, "TIFF"))
    with pytest.raises(BitlensError, match="the picture holds floats"):
        decode_picture(encoded(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_that_a_camera_notes_is_followed(orientation: int) -> None:
    upright = pixels(4, 6)
    # What the sensor saw, by the table of the EXIF standard: where row 0 and column 0 of the picture are.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(decode_picture(content)), upright)


def png_of(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    content = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">2H", height, width)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"bad\.png: not a picture that can be decoded \(of no known format, or damaged\): remove it"),
        (b"not a picture", "not a picture that can be decoded"),
        (encoded(Image.fromarray(pixels(30, 30)), "JPEG")[:-200], r"decoded \(image file is truncated"),
        (encoded(Image.fromarray(pixels(30, 30)), "PNG")[:500], "not a picture that can be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "of no known format"),  # would start Ghostscript
        (png_of(8192, 8193), f"the picture declares 8193x8192 pixels, expected at most {LARGEST_PICTURE}"),
        (png_of(30000, 30000), "not a picture that can be decoded"),  # Pillow's own limit comes first
        (jpeg_of(9000, 9000), "declares 9000x9000 pixels"),
        (jpeg_of(65500, 65500), "not a picture that can be decoded"),
        (png_of(0, 5), "not a picture that can be decoded"),
    ],
)
def test_bad_file_is_refused_with_its_name(content: bytes, message: str, folder: Path) -> None:
    (folder / "train" / "cat" / "bad.png").write_bytes(content)
    save(folder / "test" / "cat" / "0.png")
    data = open_dataset(str(folder))
    with pytest.raises(BitlensError, match=message) as refusal:
        data.train()
    assert str(refusal.value).startswith(str(folder / "train" / "cat" / "bad.png"))
    assert "\n" not in str(refusal.value)


def test_a_bad_test_picture_does_not_hinder_training(folder: Path) -> None:
    (folder / "test" / "cat").mkdir(parents=True)
    (folder / "test" / "cat" / "bad.jpg").write_bytes(b"garbage")
    data = open_dataset(str(folder))
    assert len(data.train()) == 12
    with pytest.raises(BitlensError, match=r"test/cat/bad\.jpg: not a picture"):
        data.test()


def test_a_file_beyond_the_limit_is_refused(folder: Path) -> None:
    path = folder / "train" / "cat" / "huge.png"
    path.touch()
    os.truncate(path, 2**26 + 1)  # a hole: no disk is filled
    save(folder / "test" / "cat" / "0.png")
    with pytest.raises(BitlensError, match=r"huge\.png has more than 67108864 bytes: repair or remove it"):
        open_dataset(str(folder)).train()


def remove_class(folder: Path) -> None:
    shutil.rmtree(folder / "train" / "dog")


def empty_class(folder: Path) -> None:
    (folder / "train" / "emu").mkdir()


def loose_file(folder: Path) -> None:
    save(folder / "train" / "loose.png")


def foreign_file(folder: Path) -> None:
    (folder / "train" / "cat" / "x.heic").touch()


def nested_folder(folder: Path) -> None:
    (folder / "train" / "cat" / "more.png").mkdir()


def new_test_class(folder: Path) -> None:
    save(folder / "test" / "emu" / "0.png")


def empty_test(folder: Path) -> None:
    (folder / "test" / "cat").mkdir(parents=True)


def single_picture(folder: Path) -> None:
    shutil.rmtree(folder / "train")
    for name in "abcdefgh":
        save(folder / "train" / name / "0.png")


def unprintable(folder: Path) -> None:
    save(folder / "train" / "a\nb" / "0.png")


def dangling(folder: Path) -> None:
    (folder / "train" / "cat" / "gone.png").symlink_to(folder / "nowhere.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_class, "train has 1 class folders, expected at least 2: add another class"),
        (empty_class, "train/emu holds no picture: add some, or remove the folder"),
        (loose_file, r"train/loose\.png is not a folder: put pictures into .*train/<class>"),
        (foreign_file, r"cat/x\.heic is not a picture file \(\.bmp \.gif .*\): convert or remove it"),
        (nested_folder, r"cat/more\.png is not a picture file"),
        (new_test_class, "test/emu is a class without training pictures"),
        (empty_test, "test holds no picture: add some, or remove it"),
        (single_picture, "train/[a-h] has too few pictures to hold a test part out"),
        (unprintable, r"has a class folder 'a\\nb': rename it"),
        (dangling, r"gone\.png is not a picture file"),
    ],
)
def test_bad_folder_is_refused_when_it_is_opened(change: Callable[[Path], None], message: str, folder: Path) -> None:
    change(folder)
    with pytest.raises(BitlensError, match=message):
        open_dataset(str(folder))


def test_what_systems_leave_behind_is_passed_over(folder: Path) -> None:
    for place in ("train/.DS_Store", "train/cat/Thumbs.db", "train/cat/._0.png", "train/.cache/x"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).touch()
    assert open_dataset(str(folder)).class_names == ("cat", "dog")


@pytest.mark.parametrize("size", [0, 7, 1025, -64])
def test_bad_size_is_refused(size: int, folder: Path) -> None:
    with pytest.raises(BitlensError, match=rf"the size must lie in 8\.\.1024 pixels, got {size}"):
        open_dataset(str(folder), size=size)


def test_without_a_test_folder_a_part_of_each_class_is_held_out(folder: Path) -> None:
    for index in range(6, 14):
        save(folder / "train" / "dog" / f"{index:02d}.png", pixels(16, 16, 50 + index))
    parts = [(data.train(), data.test()) for data in (open_dataset(str(folder), size=8) for _ in range(2))]
    for train, test in parts:
        assert train.labels.bincount().tolist() == [5, 11]
        assert test.labels.bincount().tolist() == [1, 3]
    (train, test), (train_again, test_again) = parts
    assert (train.images == train_again.images).all()
    assert (test.images == test_again.images).all()
    both = [image.numpy().tobytes() for image in (*train.images, *test.images)]
    assert len(set(both)) == 20  # every picture is in one part only


def test_memory_is_bounded_before_it_is_taken() -> None:
    from bitlens.train.datasets.decoding import decode_pictures

    with pytest.raises(BitlensError, match=r"10000000 images of 64x64 pixels take more than 16 GiB"):
        decode_pictures([], 10_000_000, ("a", "b"), 64, print, resize=True)


def test_long_decoding_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitlens.train.datasets.decoding._REPORT_SECONDS", -1.0)
    save(folder / "test" / "cat" / "0.png")
    lines: list[str] = []
    open_dataset(str(folder), report=lines.append).train()
    assert lines[-1] == "decoded 12 of 12 pictures"
