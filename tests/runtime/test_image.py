"""Images from outside: exact codes, or one sentence."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from small_programs import conv2d, image_input, small_network, small_twin

from bitlens.runtime import image as image_module
from bitlens.runtime.errors import BitlensError, MissingExtraError
from bitlens.runtime.image import program_input, read_image
from bitlens.runtime.program import Program

NETWORK, TWIN = small_network(), small_twin()


def filled(value: float, dtype: str = "float64") -> npt.NDArray[np.generic]:
    return np.full((1, 1, 8, 8), value).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "uint16", "uint64"])
def test_codes_are_taken_as_they_are(dtype: str) -> None:
    codes = np.arange(64).reshape(1, 1, 8, 8).astype(dtype)
    got = program_input(NETWORK, codes)
    assert got.dtype == np.int16
    assert np.array_equal(got, codes)


# x = k / 510 is code k / 2: halves go to the even neighbour. Below 0 and above 1 nothing is clipped.
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_round_half_to_even_and_are_never_clipped(dtype: str) -> None:
    halves = np.arange(-1024, 1535)
    x = (halves / 510).astype(dtype)
    codes = x.astype(np.float64) * 255.0
    whole = np.floor(codes)
    rest = codes - whole
    expected = np.where(rest > 0.5, whole + 1, np.where(rest < 0.5, whole, whole + whole % 2))
    assert (rest == 0.5).sum() >= 5, "no tie is tried"  # in float32 only the halves of x themselves
    for start in range(0, len(x) - 64, 64):
        part = slice(start, start + 64)
        got = program_input(NETWORK, x[part].reshape(1, 1, 8, 8))
        assert np.array_equal(got.ravel(), expected[part])
    assert expected.min() == -512
    assert expected.max() == 767


def test_the_twin_takes_x_itself() -> None:
    codes = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8)
    got = program_input(TWIN, codes)
    assert got.dtype == np.float32
    assert np.array_equal(got, (codes / 255.0).astype(np.float32))
    x = np.random.default_rng(1).normal(size=(1, 1, 8, 8))
    assert np.array_equal(program_input(TWIN, x), x.astype(np.float32))


def test_an_empty_batch_is_refused() -> None:
    # Engines would disagree on what to do with it.
    with pytest.raises(BitlensError, match="there are no images: expected at least one"):
        program_input(NETWORK, np.zeros((0, 1, 8, 8), np.uint8))


REFUSED: dict[str, tuple[Program, npt.NDArray[np.generic], str]] = {
    "NaN": (NETWORK, filled(np.nan), "holds NaN or infinite pixels"),
    "infinite": (NETWORK, filled(np.inf), "holds NaN or infinite pixels"),
    "NaN for the twin": (TWIN, filled(np.nan), "holds NaN or infinite pixels"),
    "beyond float32": (TWIN, filled(1e300), "pixels beyond the range of float32"),
    "huge": (NETWORK, filled(1e308), r"codes from inf to inf, expected -512 to 767: give floats from 0 to 1"),
    "codes as floats": (NETWORK, filled(255.0), "codes from 65025 to 65025, expected -512 to 767"),
    "code too large": (NETWORK, filled(768, "int16"), "codes from 768 to 768"),
    "code too small": (NETWORK, filled(-513, "int64"), "codes from -513 to -513"),
    "huge code": (NETWORK, np.full((1, 1, 8, 8), 2**63, np.uint64), "expected -512 to 767"),
    "bool": (NETWORK, filled(1, "bool"), "the image holds bool, expected whole codes 0..255 or floats 0..1"),
    "complex": (NETWORK, filled(1, "complex64"), "the image holds complex64"),
    "words": (NETWORK, filled(1, "str"), "the image holds <U"),
    "colour for grey": (NETWORK, np.zeros((1, 3, 8, 8), np.uint8), "convert it to grey"),
    "wrong size": (NETWORK, np.zeros((1, 1, 9, 8), np.uint8), r"shape \(1, 1, 9, 8\).*resize it to 8x8 pixels"),
    "no batch": (NETWORK, np.zeros((1, 8, 8), np.uint8), "add the missing dimensions"),
    "a number": (NETWORK, np.zeros((), np.uint8), "add the missing dimensions"),
}


@pytest.mark.parametrize(("program", "image", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(program: Program, image: npt.NDArray[np.generic], message: str) -> None:
    with pytest.raises(BitlensError, match=message):
        program_input(program, image)


def test_grey_for_colour() -> None:
    colour = Program((image_input((3, 8, 8)),), (conv2d("image", "out", np.ones((1, 3, 1, 1), np.int8)),), ("out",))
    with pytest.raises(BitlensError, match="convert it to colour"):
        program_input(colour, np.zeros((1, 1, 8, 8), np.uint8))


# Files.


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (1, 1, 8, 8)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_npy(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 256, shape).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    got = read_image(tmp_path / "a.npy", (1, 8, 8))
    assert got.shape == (1, 1, 8, 8)
    assert got.dtype == values.dtype
    assert np.array_equal(got.reshape(shape), values)


def png(mode: str, size: tuple[int, int] = (8, 6), kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_picture_is_converted_to_the_colours_of_the_network(mode: str, channels: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    picture.save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png", (channels, 6, 8))
    assert got.shape == (1, channels, 6, 8)
    assert got.dtype == np.uint8
    expected = np.asarray(picture.convert("L" if channels == 1 else "RGB")).reshape(6, 8, channels)
    assert np.array_equal(got[0].transpose(1, 2, 0), expected)


def refusal(path: Path, content: bytes | None = None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BitlensError) as caught:
        read_image(path, (1, 6, 8))
    return str(caught.value)


def test_picture_of_another_size_is_made_to_fit_and_said(tmp_path: Path) -> None:
    lines: list[str] = []
    for size, said in {
        (6, 8): "6x8 pixels, cropped to the central 6x4, resized to 8x6",
        (16, 12): "16x12 pixels, resized to 8x6",
        (8, 9): "8x9 pixels, cropped to the central 8x6",
    }.items():
        (tmp_path / "a.png").write_bytes(png("L", size))
        assert read_image(tmp_path / "a.png", (1, 6, 8), report=lines.append).shape == (1, 1, 6, 8)
        assert lines.pop() == f"{tmp_path / 'a.png'}: {said}"
    (tmp_path / "a.png").write_bytes(png("L", (8, 6)))
    read_image(tmp_path / "a.png", (1, 6, 8), report=lines.append)
    assert lines == []


def test_a_network_that_takes_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("L"))
    with pytest.raises(BitlensError, match=r"the network takes 2x6x8, which no picture is: give a \.npy"):
        read_image(tmp_path / "a.png", (2, 6, 8))


def test_pixels_are_those_that_training_saw(tmp_path: Path) -> None:
    """Upright, on white where it is transparent, 16 bits scaled to 8: as a folder of pictures is read for training."""
    wide = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1390
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert np.array_equal(read_image(tmp_path / "wide.png", (1, 6, 8))[0, 0], np.rint(wide / 257))
    clear = np.zeros((6, 8, 4), np.uint8)
    clear[:3, :, 3] = 255  # black above, nothing below
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", (3, 6, 8))[0, :, :, 0].tolist() == [[0, 0, 0, 255, 255, 255]] * 3
    turned = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(8, 6))
    orientation = turned.getexif()
    orientation[0x0112] = 6  # the camera was held on its side: turn a quarter to the right
    turned.save(tmp_path / "turned.png", exif=orientation)
    expected = np.rot90(np.arange(48).reshape(8, 6), -1)
    assert np.array_equal(read_image(tmp_path / "turned.png", (1, 6, 8))[0, 0], expected)
    assert "holds floats" in refusal(tmp_path / "a.tiff", png("F", kind="TIFF"))


def test_a_picture_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for side in (12_000, 100_000):
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        bomb += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        message = refusal(tmp_path / "a.png", bomb)
        assert "declares 12000x12000 pixels" in message or "not a picture that can be decoded" in message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_damaged_pictures_are_refused_or_read(kind: str, tmp_path: Path) -> None:
    path, content = tmp_path / "a.picture", png("L", kind=kind)
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        try:
            read_image(path, (1, 6, 8))
        except BitlensError as error:
            assert "\n" not in str(error)  # noqa: PT017 - a decoder may mend what is cut off
    for place in range(0, len(content), 2):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read_image(path, (1, 6, 8))
        except BitlensError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_not_an_image(tmp_path: Path) -> None:
    assert "not a picture that can be decoded" in refusal(tmp_path / "a.png", b"")
    assert "not a picture that can be decoded" in refusal(tmp_path / "a.jpg", b"hello")
    assert "cannot read the image" in refusal(tmp_path / "missing.png")
    assert "(No such file or directory)" in refusal(tmp_path / "missing.npy")
    (tmp_path / "folder.npy").mkdir()
    assert "(Is a directory)" in refusal(tmp_path / "folder.npy")
    assert "(Is a directory)" in refusal(tmp_path)


def test_too_large_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "MAX_IMAGE_BYTES", 10)
    assert "has more than 10 bytes: expected one image" in refusal(tmp_path / "a.png", bytes(11))


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png("L"))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(
        MissingExtraError, match=r"needs Pillow, which is not installed: pip install 'bitlens\[image\]'"
    ):
        read_image(tmp_path / "a.png", (1, 6, 8))
