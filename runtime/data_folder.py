"""Where data sets lie: the folder named by `BITLENS_DATA`, and the cache that downloads go to."""

from __future__ import annotations

import os
from pathlib import Path

from bitlens.runtime.errors import BitlensError

DATA_VARIABLE = "BITLENS_DATA"


def data_folder() -> Path | None:
    """Give the folder that `BITLENS_DATA` names, or None where it is unset or empty.

    Raises
    ------
    BitlensError
        If it names something that is not a folder.
    """
    named = os.environ.get(DATA_VARIABLE, "")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise BitlensError(
            f"{DATA_VARIABLE} names {folder}, which is not a folder: name the folder of the data sets, or unset it"
        )
    return folder


def cache_folder() -> Path:
    """Give the folder of downloaded data sets, `$XDG_CACHE_HOME/bitlens/data`, by default `~/.cache/bitlens/data`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "bitlens" / "data"
