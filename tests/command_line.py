"""The command line as tests use it: a folder to run it in, what it answers, and what a refusal looks like."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bitlens.runtime import cli
from bitlens.runtime.trust import TRUST_VARIABLE


@dataclass(frozen=True)
class Answer:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def facts(self) -> dict[str, Any]:
        """What `--json` printed."""
        facts: dict[str, Any] = json.loads(self.out)
        return facts

    @property
    def board(self) -> dict[str, Any]:
        """What `bitlens deploy --json` printed of its only board."""
        (board,) = self.facts["boards"]
        return dict(board)


def answered(capsys: pytest.CaptureFixture[str], *arguments: object) -> Answer:
    """Run `bitlens` with these arguments in this process."""
    capsys.readouterr()
    try:
        code = cli.main(list(map(str, arguments)))
    except SystemExit as leaving:  # --help, and options that do not parse
        code = int(leaving.code or 0)
    captured = capsys.readouterr()
    return Answer(code, captured.out, captured.err)


def check_refused(answer: Answer, message: str = "") -> None:
    """One line on stderr that a person can act on, nothing on stdout, an exit code."""
    assert answer.code in (1, 2)
    assert answer.out == ""
    assert re.fullmatch(r"bitlens: [^\n]+\n", answer.err), answer.err
    assert re.search(message, answer.err), answer.err


def work_in_a_copy(pristine: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a folder's files to a place, go there, and trust nothing yet."""
    shutil.copytree(pristine, place, dirs_exist_ok=True)
    monkeypatch.chdir(place)
    monkeypatch.setenv(TRUST_VARIABLE, str(place / "trusted"))
    return place
