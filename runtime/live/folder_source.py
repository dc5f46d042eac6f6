"""A folder of pictures, one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.image import MAX_IMAGE_BYTES
from bitlens.runtime.live.frame_source import FrameSource, register_source
from bitlens.runtime.network import shown
from bitlens.runtime.picture_file import decode_picture
from bitlens.runtime.resize import Codes

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
SECONDS_EACH = 2.0


@register_source(
    "folder",
    form="a folder of pictures",
    fits=lambda text: text != "" and Path(text).is_dir(),
    module="PIL",
    extra="image",
)
def open_folder(text: str) -> FrameSource:
    """Open a folder: its pictures in the order of their names, each for `SECONDS_EACH`; subfolders are not entered.

    Raises
    ------
    BitlensError
        If it cannot be listed or holds no picture. One that cannot be read is passed over, and named with the next.
    """
    folder = Path(text)
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise BitlensError(f"cannot look into {folder} ({error.strerror}): make it readable") from error
    if not paths:
        raise BitlensError(f"{folder} holds no picture ({' '.join(sorted(SUFFIXES))}): choose another folder")
    left = iter(paths)

    def read() -> tuple[Codes, str] | None:
        passed_over = ""
        for path in left:
            name = shown(path.name)
            try:
                content = read_at_most(path, MAX_IMAGE_BYTES, "remove it, or make it readable", what="the picture")
                return np.asarray(decode_picture(content)), f"{name}{passed_over}"
            except BitlensError:
                passed_over = f" ({name} cannot be read)"
        return None

    return FrameSource(f"pictures in {shown(folder.resolve().name)}", read, lambda: None, SECONDS_EACH)
