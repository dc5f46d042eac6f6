"""`bitlens deploy` to the emulated board, in a process of its own, as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulated_board import EmulatedBoard

CHECKOUT = Path(__file__).parent.parent
DATA = ".local/share/bitlens"
CURRENT = f"{DATA}/current"
BITLENS = f"{CURRENT}/venv/bin/bitlens"
FIRST, SECOND = "w2a4", "w1a1"


@dataclass(frozen=True)
class Deployed:
    """What one `bitlens deploy` said, and the desktop's certificate that it took along."""

    code: int
    report: dict[str, Any]
    errors: str
    certificate: dict[str, Any]

    @property
    def said(self) -> str:
        return f"{self.report}\n{self.errors}"


def bitlens(*arguments: str | Path, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
    """The desktop's command line, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "bitlens.runtime.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def deploy(board: EmulatedBoard, *arguments: str | Path) -> tuple[int, dict[str, Any], str]:
    done = bitlens("deploy", *arguments, "--ssh-config", board.ssh_config, "--json")
    (report,) = json.loads(done.stdout)["boards"] if done.stdout else ({},)
    return done.returncode, report, done.stderr


def certified(board: EmulatedBoard, network: Path, folder: Path, wheel: Path, *options: str) -> Deployed:
    """Verify a bundle here, and deploy it with that certificate."""
    place = folder / f"{network.stem}.json"
    done = bitlens("verify", network, "--trust", "--methods", "none", "--machine", "desktop", "--output", place)
    assert done.returncode == 0, done.stdout + done.stderr
    code, report, errors = deploy(
        board, network, board.name, "--wheel", wheel, "--offline", "--certificate", place, *options
    )
    return Deployed(code, report, errors, json.loads(place.read_text("utf-8")))
