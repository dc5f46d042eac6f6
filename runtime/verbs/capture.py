"""`bitlens capture`: frames of a source into a training folder."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from bitlens.runtime.atomic_file import check_place
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.live.default_source import default_source
from bitlens.runtime.live.ending import ending_signals
from bitlens.runtime.live.frame_source import open_source, source_forms, source_kind
from bitlens.runtime.live.recording import Recorded, class_folder, record
from bitlens.runtime.live.source_state import SourceState
from bitlens.runtime.verbs.options import note

HELP = "record frames of a camera into a training folder, one class at a time"
NEEDS = ()

EVERY_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens capture`."""
    parser.add_argument("--class", dest="name", required=True, metavar="NAME", help="what the pictures show")
    parser.add_argument(
        "--source", metavar="SOURCE", help=f"{source_forms()} (default: the first camera that gives a picture)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="pictures go to FOLDER/train/NAME, as `bitlens train --data FOLDER` wants them",
    )
    parser.add_argument(
        "--every",
        type=float,
        default=EVERY_SECONDS,
        metavar="SECONDS",
        help="between two pictures (default: %(default)s)",
    )
    parser.add_argument("--count", type=int, metavar="N", help="stop after so many (default: with Ctrl-C)")


def run(arguments: argparse.Namespace) -> int:
    """Record until there are enough, the source ends, or it is interrupted; 0 if there is a picture."""
    folder = class_folder(arguments.output, arguments.name)
    if not (math.isfinite(arguments.every) and arguments.every >= 0):
        raise BitlensError(f"--every is {arguments.every}, expected seconds from 0 on")
    if arguments.count is not None and arguments.count < 1:
        raise BitlensError(f"--count is {arguments.count}, expected at least 1")
    check_place(folder / "picture.png")
    source = arguments.source
    if source is None:
        source, why = default_source()
        if source == "synthetic":
            raise BitlensError(f"{why}: plug one in, or name a --source")
        note(f"--source {source}: {why}")
    kind = source_kind(source)
    open_source(source).close()  # what is misspelt or missing is said now
    is_terminal = sys.stdout.isatty()
    gone = False

    def told(news: SourceState | Recorded) -> None:
        nonlocal gone
        if isinstance(news, Recorded):
            line = f"{folder}: {news.count}, {news.path.name}"
            print(f"\r{line}" if is_terminal else line, end="" if is_terminal else "\n", flush=True)
        elif news.condition == "gone":
            gone = True
            note(f"{news.message}; trying again")
        elif news.condition == "live" and gone:
            gone = False
            note(f"{news.title} is back")

    with ending_signals() as stopping:
        kept = record(
            kind.name,
            lambda: open_source(source),
            folder,
            every_seconds=arguments.every,
            most=arguments.count,
            told=told,
            stopping=stopping,
        )
    if is_terminal and kept:
        print()
    print(f"{kept} picture{'' if kept == 1 else 's'} of {arguments.name} in {folder}")
    return 0 if kept else 1
