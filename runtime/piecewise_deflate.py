"""Deflate with the strategy that suits each piece of a file, in one stream that every unzip reads.

Weights of 2 to 8 bits, stored as bytes, have little to match and are smallest as Huffman codes alone (of 4 bits: 3.7
bits a weight in a small network, not 4.3). Weights of one bit want matches, in small blocks: a Huffman code for two
values and the end of a block takes 1.5 bits a weight, matches 1.26.
"""

from __future__ import annotations

import zlib

_PIECE = 4096
Way = tuple[int, int]  # strategy, and how much memory: less makes smaller blocks

_MATCHES: tuple[Way, ...] = ((zlib.Z_DEFAULT_STRATEGY, 8), (zlib.Z_DEFAULT_STRATEGY, 4))
_HUFFMAN: tuple[Way, ...] = ((zlib.Z_HUFFMAN_ONLY, 8),)


def _compressed(content: bytes, strategy: int, memory: int, flush: int) -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, memory, strategy)
    return engine.compress(content) + engine.flush(flush)


def deflated(content: bytes) -> bytes:
    """Pack `content` as raw deflate; the same content, packed by the same zlib, gives the same bytes.

    Cost: about three times that of one `zlib.compress` at level 9.
    """
    runs: list[tuple[tuple[Way, ...], int]] = []
    for start in range(0, len(content), _PIECE):
        piece = content[start : start + _PIECE]
        sizes = [len(_compressed(piece, *ways[0], zlib.Z_FULL_FLUSH)) for ways in (_MATCHES, _HUFFMAN)]
        ways = _HUFFMAN if sizes[1] < sizes[0] else _MATCHES
        if runs and runs[-1][0] is ways:
            runs[-1] = (ways, start + len(piece))
        else:
            runs.append((ways, start + len(piece)))
    packed, start = [], 0
    for place, (ways, end) in enumerate(runs):
        # A full flush ends on a whole byte and lets nothing behind it look back, so streams can follow one another.
        flush = zlib.Z_FINISH if place == len(runs) - 1 else zlib.Z_FULL_FLUSH
        packed.append(min((_compressed(content[start:end], *way, flush) for way in ways), key=len))
        start = end
    return b"".join(packed) or _compressed(b"", *_MATCHES[0], zlib.Z_FINISH)
