"""A run that is being made: the folder `checkpoint` inside the run folder, which the finished run replaces as a whole.

It holds `command.json` (the options, from which `--resume` goes on), `state.checkpoint`, `metrics.jsonl` (one line per
epoch), where tensorboard is installed `events`, and with `--watch` the folder `watch`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from bitlens.runtime.atomic_file import write_text_atomically
from bitlens.runtime.errors import BitlensError
from bitlens.train.fit import EpochRecord
from bitlens.train.run_folder import CHECKPOINT_FOLDER, EVENTS_FOLDER
from bitlens.train.watch import WATCH_FOLDER

_COMMAND_FILE = "command.json"
_FORMAT = 1


@dataclass(frozen=True)
class UnfinishedRun:
    """Where the parts of a run that is being made lie.

    Parameters
    ----------
    run : Path
        The run folder.
    """

    run: Path

    @property
    def folder(self) -> Path:
        """What goes when the run is finished."""
        return self.run / CHECKPOINT_FOLDER

    @property
    def command(self) -> Path:
        """The options; the run has begun once this file is there."""
        return self.folder / _COMMAND_FILE

    @property
    def state(self) -> Path:
        """The checkpoint."""
        return self.folder / "state.checkpoint"

    @property
    def metrics(self) -> Path:
        """One JSON object per epoch and line."""
        return self.folder / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """TensorBoard's event files."""
        return self.folder / EVENTS_FOLDER

    @property
    def watch(self) -> Path:
        """What `--watch` writes, see `watch.history`."""
        return self.folder / WATCH_FOLDER


def begin(unfinished: UnfinishedRun, options: Mapping[str, object]) -> None:
    """Note down the options of a run; everything else is made from them.

    Raises
    ------
    BitlensError
        If the place is not writable.
    """
    try:
        unfinished.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BitlensError(f"cannot make {unfinished.folder} ({error.strerror}): choose another place") from error
    content = {"format": _FORMAT, "options": dict(options)}
    write_text_atomically(unfinished.command, json.dumps(content, indent=2) + "\n")


def recorded_options(unfinished: UnfinishedRun) -> dict[str, object]:
    """Read the options that a run was begun with.

    Raises
    ------
    BitlensError
        If there is no unfinished run, or the file is damaged.
    """
    run = unfinished.run
    # A kill between the two renames that put the finished run in place leaves the unfinished one under this name.
    displaced = [] if run.exists() else sorted(run.absolute().parent.glob(f".{run.name}.*.old"))
    if len(displaced) == 1:
        with suppress(OSError):
            displaced[0].rename(run)
    try:
        content = json.loads(unfinished.command.read_bytes())
        if content["format"] != _FORMAT or not isinstance(content["options"], dict):
            raise ValueError("another format")
    except OSError as error:
        raise BitlensError(
            f"{run} holds no unfinished run ({error.strerror}): give the --output of one that was interrupted"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BitlensError(
            f"{unfinished.command} is damaged ({error}): remove {unfinished.folder} and train the run anew"
        ) from error
    options: dict[str, object] = content["options"]
    return options


class EpochLog:
    """Writes each epoch to `metrics.jsonl` and, where tensorboard is installed, to its event files."""

    def __init__(self, unfinished: UnfinishedRun, behind: Sequence[EpochRecord]) -> None:
        # The checkpoint counts: a line that a kill cut short, or one of an epoch that is done again, goes.
        write_text_atomically(unfinished.metrics, "".join(map(_line, behind)))
        self._metrics = unfinished.metrics
        self._events = _event_writer(unfinished.events, len(behind))

    def write(self, record: EpochRecord) -> None:
        """Add an epoch; it is on the disk when this returns."""
        try:
            with self._metrics.open("a", encoding="utf-8") as stream:
                stream.write(_line(record))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise BitlensError(f"cannot write {self._metrics} ({error.strerror}): make room, then --resume") from error
        if self._events is not None:
            self._events.add_scalar("training/loss", record.loss, record.epoch)
            self._events.add_scalar("held_out/accuracy", record.validation_accuracy, record.epoch)
            self._events.flush()

    def close(self) -> None:
        """Close the event files."""
        if self._events is not None:
            self._events.close()


@contextmanager
def epoch_log(unfinished: UnfinishedRun, behind: Sequence[EpochRecord]) -> Iterator[EpochLog]:
    """Open the log of a run with the epochs that lie behind it."""
    log = EpochLog(unfinished, behind)
    try:
        yield log
    finally:
        log.close()


def _line(record: EpochRecord) -> str:
    return json.dumps(asdict(record), allow_nan=False) + "\n"


def _event_writer(folder: Path, epochs: int):  # type: ignore[no-untyped-def]  # torch leaves SummaryWriter untyped
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=epochs + 1 if epochs else None)
