"""Files from outside, read whole but never beyond a limit, whatever their size is said to be."""

from __future__ import annotations

import os
from pathlib import Path

from bitlens.runtime.errors import BitlensError

_PIECE = 2**20


def read_at_most(path: Path, most: int, advice: str, *, what: str = "") -> bytes:
    """Read a file of at most `most` bytes.

    Parameters
    ----------
    path : Path
    most : int
        A file that gives more, by its size or because it is a pipe or a device, is refused, not read on.
    advice : str
        What the messages end with: what was expected, or what to do.
    what : str
        What the file is, for the messages: `"the image"`.

    Raises
    ------
    BitlensError
        If it cannot be read, or gives more.
    """
    path = Path(path)
    named = f"{what} {path}" if what else str(path)
    try:
        with path.open("rb") as stream:
            # Not `read(most + 1)` at once, which sets so much memory aside, for the smallest file too.
            pieces = [stream.read(min(os.fstat(stream.fileno()).st_size, most) + 1)]
            size = len(pieces[0])
            while size <= most and (piece := stream.read(_PIECE)):
                pieces.append(piece)
                size += len(piece)
    except OSError as error:
        raise BitlensError(f"cannot read {named} ({error.strerror}): {advice}") from error
    if size > most:
        raise BitlensError(f"{named} has more than {most} bytes: {advice}")
    return b"".join(pieces)
