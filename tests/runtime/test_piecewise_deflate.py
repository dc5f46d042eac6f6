"""Packed pieces are one deflate stream, and smaller than one strategy for all of them."""

from __future__ import annotations

import io
import zipfile
import zlib

import numpy as np
import pytest

from bitlens.runtime.piecewise_deflate import deflated


def plain(content: bytes) -> int:
    engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return len(engine.compress(content) + engine.flush())


def weights(bits: int, count: int = 40_000) -> bytes:
    random = np.random.default_rng(bits)
    if bits == 1:
        return random.choice([-1, 1], count).astype(np.int8).tobytes()
    high = {2: 1, 4: 7}[bits]
    return np.clip(np.round(random.normal(0, high / 2, count)), -high, high).astype(np.int8).tobytes()


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 20_000])
def test_the_content_comes_back(size: int) -> None:
    content = (weights(4) + bytes(3000) + b"text " * 900)[:size]
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    assert engine.decompress(deflated(content)) + engine.flush() == content
    assert engine.eof
    assert not engine.unused_data


def test_any_unzip_reads_it() -> None:
    content = b"header " * 2000 + weights(4) + bytes(9000) + weights(1) + weights(2)
    packed = deflated(content)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("file", b"")
    # Python's zipfile inflates what a header calls deflated: put our stream behind such a header.
    member = zipfile.ZipInfo("file")
    member.compress_type, member.compress_size, member.file_size = zipfile.ZIP_DEFLATED, len(packed), len(content)
    member.CRC, member.header_offset = zlib.crc32(content), 0
    whole = io.BytesIO(member.FileHeader() + packed)
    with zipfile.ZipFile(archive) as reader:
        reader.fp, reader.filelist, reader.NameToInfo = whole, [member], {"file": member}
        assert reader.read("file") == content


@pytest.mark.parametrize(("bits", "most"), [(1, 1.3), (2, 2.1), (4, 4.1)])
def test_size_follows_bits(bits: int, most: float) -> None:
    content = weights(bits)
    assert 8 * len(deflated(content)) / len(content) <= most
    assert len(deflated(content)) <= plain(content)


def test_pieces_are_packed_apart() -> None:
    content = weights(4) + b"a sentence that repeats. " * 2000
    assert len(deflated(content)) < plain(content)
