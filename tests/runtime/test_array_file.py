"""Arrays from a stranger: `.npy` and `.npz` that are whole, or a refusal that costs little."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bitlens.runtime import array_file
from bitlens.runtime.array_file import array_from_bytes, arrays_from_bytes, read_arrays
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.program import Array

PEAK_BYTES = 16 * 2**20


def npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(compression: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def with_header(text: str, body: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    header = text.encode("latin1") + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(header)) + header + body


@pytest.mark.parametrize("dtype", ["uint8", "int16", "<f4", ">f4", "float64", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_round_trip(dtype: str, order: str) -> None:
    array = np.asarray(np.random.default_rng(1).integers(0, 2, (3, 4, 5)).astype(dtype), order=order)  # type: ignore[call-overload]
    assert np.array_equal(array_from_bytes(npy(array)), array)
    got = arrays_from_bytes(npz(a=npy(array), b=npy(array[0])), ("b", "a"))
    assert list(got) == ["b", "a"]
    assert np.array_equal(got["a"], array)
    assert np.array_equal(got["b"], array[0])


HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }"

DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "cut short": npy(np.zeros(100))[:-1],
    "too long": npy(np.zeros(100)) + b"\0",
    "a terabyte": with_header(HEADER % "(1099511627776,)", bytes(10)),
    "negative": with_header(HEADER % "(-1, -10)", bytes(10)),
    "beyond 64 bits": with_header(HEADER % "(0, 1000000000000000000000)", b""),
    "no tuple": with_header(HEADER % "10", bytes(10)),
    "no dictionary": with_header("10", bytes(10)),
    "no Python": with_header("{'descr': ", bytes(10)),
    "deep": with_header("(" * 5000, bytes(10)),
    "code": with_header("__import__('os').getpid()", bytes(10)),
    "long header": with_header(HEADER % "(10,)" + " " * 20_000, bytes(10), (2, 0)),
    "pickle": npy(np.array([{"a": 1}], object)),
    "unknown version": b"\x93NUMPY\x09\x00" + bytes(100),
    "an archive": npz(a=npy(np.zeros(3))),
}


def check_small(work: object) -> str:
    """Call it; it refuses in one line and in little memory."""
    assert callable(work)
    tracemalloc.start()
    try:
        with pytest.raises(BitlensError) as caught:
            work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < PEAK_BYTES
    return str(caught.value)


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_array(content: bytes) -> None:
    message = check_small(lambda: array_from_bytes(content))
    assert message.startswith("not a whole .npy array (")
    assert message.endswith("): expected what numpy.save wrote")
    assert check_small(lambda: arrays_from_bytes(npz(a=content), ("a",))).startswith("a: not a whole .npy array")


def test_python_2_header_is_read_without_a_warning() -> None:
    assert array_from_bytes(with_header(HEADER % "(10L,)", bytes(10))).shape == (10,)


def test_damaged_archive() -> None:
    content = npz(a=npy(np.arange(2000)), b=npy(np.zeros(3)))
    for length in range(0, len(content), 7):
        with pytest.raises(BitlensError, match="damaged"):
            arrays_from_bytes(content[:length], ("a", "b"))
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        try:
            got = arrays_from_bytes(bytes(damaged), ("a", "b"))
        except BitlensError:
            continue
        assert np.array_equal(got["a"], np.arange(2000))  # a date or a flag that nobody reads


def test_missing_member() -> None:
    with pytest.raises(BitlensError, match=r"damaged \(There is no item named 'b\.npy' in the archive\)"):
        arrays_from_bytes(npz(a=npy(np.zeros(3))), ("a", "b"))


def test_too_large_an_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    content = npz(a=npy(np.zeros(2**22, np.uint8)))
    assert len(content) < 2**16
    monkeypatch.setattr(array_file, "MAX_ARRAY_BYTES", 2**22)
    assert "unpacks to more than 4194304 bytes" in check_small(lambda: arrays_from_bytes(content, ("a",)))


def test_an_archive_that_understates_its_size() -> None:
    content = npz(a=npy(np.zeros(2**26, np.uint8)))
    true, false = struct.pack("<I", len(npy(np.zeros(2**26, np.uint8)))), struct.pack("<I", 2**10)
    assert content.count(true) == 2
    assert "a" in check_small(lambda: arrays_from_bytes(content.replace(true, false), ("a",)))


def test_another_compression_is_refused() -> None:
    content = npz(zipfile.ZIP_BZIP2, a=npy(np.zeros(3)))
    with pytest.raises(BitlensError, match="compressed in a way that bitlens does not use"):
        arrays_from_bytes(content, ("a",))


def test_file(tmp_path: Path) -> None:
    with pytest.raises(BitlensError, match=r"cannot read .*a\.npz \(No such file or directory\)"):
        read_arrays(tmp_path / "a.npz", ("a",))
    (tmp_path / "a.npz").write_bytes(b"x")
    with pytest.raises(BitlensError, match=r"a\.npz: its arrays are damaged \(File is not a zip file\)"):
        read_arrays(tmp_path / "a.npz", ("a",))
    (tmp_path / "a.npz").write_bytes(npz(a=npy(np.arange(3))))
    assert read_arrays(tmp_path / "a.npz", ("a",))["a"].tolist() == [0, 1, 2]
