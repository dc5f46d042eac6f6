"""All looks of a run with their maps: one line and one file per epoch, so that a kill never leaves half of one.

In the folder: `looks.jsonl`; `epoch_00007.npz`, the maps after epoch 7, of the shown images, and in the newest file of
all watched images, with which the next look may be compared; `index.html`, the page. A look counts once its line is
there. A finished run has `maps.npz` in the place of the files per epoch.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bitlens.runtime.array_file import read_arrays
from bitlens.runtime.atomic_file import write_files_atomically
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.program import Array
from bitlens.train.watch.look import Look, look_from_line, look_line
from bitlens.train.watch.model_maps import Float32

WATCH_FOLDER = "watch"
"""In a run folder, and in the folder of a run that is being made."""
PAGE_FILE = "index.html"
LOOKS_FILE = "looks.jsonl"
MAPS_FILE = "maps.npz"
WATCH_FILES = (PAGE_FILE, LOOKS_FILE, MAPS_FILE)
"""What a finished run keeps."""

Maps = Mapping[str, Float32]


@dataclass
class History:
    """The looks so far.

    Parameters
    ----------
    folder : Path
        Where they lie.
    shown : int
        Images whose maps are kept for every epoch.
    looks : list of Look
        First epoch first.
    newest : mapping or None
        Method -> maps (N, H, W) of all watched images at the last look.
    """

    folder: Path
    shown: int
    looks: list[Look] = field(default_factory=list)
    newest: Maps | None = None

    def maps_of(self, epoch: int) -> Maps:
        """Read the maps of the shown images after an epoch; method -> float32 (shown, H, W).

        Raises
        ------
        BitlensError
            If the file is missing or damaged.
        """
        return {method: maps[: self.shown] for method, maps in self._read(epoch).items()}

    def files_with(self, look: Look, maps: Maps) -> dict[Path, bytes]:
        """Give what is to be written, in this order, when a look is added."""
        files = {
            self._file(look.epoch): npz_bytes(maps),
            self.folder / LOOKS_FILE: "".join(map(look_line, [*self.looks, look])).encode(),
        }
        if self.looks and self.newest is not None:
            some = {method: each[: self.shown] for method, each in self.newest.items()}
            files[self._file(self.looks[-1].epoch)] = npz_bytes(some)
        return files

    def add(self, look: Look, maps: Maps) -> None:
        """Note down a look whose files are written."""
        self.looks.append(look)
        self.newest = maps

    def restore(self, epochs: int, methods: Sequence[str]) -> None:
        """Read what an interrupted run has left; looks after more than `epochs` epochs are done again.

        Raises
        ------
        BitlensError
            If a file is damaged or lacking.
        """
        try:
            lines = (self.folder / LOOKS_FILE).read_text("utf-8").splitlines()
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error
        try:
            looks = [look_from_line(line) for line in lines]
            if any(set(look.similarity) - set(methods) for look in looks):
                raise ValueError("maps of another method")
            if [look.epoch for look in looks] != sorted({look.epoch for look in looks}):
                raise ValueError("epochs out of order")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(error) from error
        self.looks = [look for look in looks if look.epoch <= epochs]
        if not self.looks:
            return
        try:
            self.newest = read_arrays(self._file(self.looks[-1].epoch), methods)
        except BitlensError as error:
            raise self._damaged(error) from error

    def write(self, files: Mapping[Path, bytes]) -> None:
        """Write files of this folder, in order.

        Raises
        ------
        BitlensError
            If the place is not writable or the disk is full.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_files_atomically(files)
        except OSError as error:
            raise BitlensError(f"cannot make {self.folder} ({error.strerror}): make room, then --resume") from error
        except BitlensError as error:
            raise BitlensError(f"{error}; no epoch is lost: --resume goes on from here") from error

    def _read(self, epoch: int) -> Maps:
        if self.newest is not None and self.looks and epoch == self.looks[-1].epoch:
            return self.newest
        methods = () if self.newest is None else tuple(self.newest)
        try:
            arrays = read_arrays(self._file(epoch), methods)
        except BitlensError as error:
            raise self._damaged(error) from error
        return {method: np.asarray(maps, np.float32) for method, maps in arrays.items()}

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:05d}.npz"

    def _damaged(self, error: Exception) -> BitlensError:
        return BitlensError(
            f"{self.folder} is damaged ({' '.join(str(error).split())[:200]}): remove that folder, then --resume; the "
            "training goes on, and the page without the earlier epochs"
        )


def npz_bytes(arrays: Mapping[str, Array]) -> bytes:
    """Encode arrays as an `.npz`, uncompressed."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
