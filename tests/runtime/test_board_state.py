"""What Linux and the firmware say of a board, and what they leave out."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitlens.runtime.board_state import BoardLooks, BoardState, board_state


def made_system(place: Path) -> Path:
    for number, text in enumerate(("48250\n", "61000\n", "broken", "--5", "9" * 5000)):
        folder = place / "class" / "thermal" / f"thermal_zone{number}"
        folder.mkdir(parents=True)
        (folder / "temp").write_text(text)
    governor = place / "devices" / "system" / "cpu" / "cpu0" / "cpufreq"
    governor.mkdir(parents=True)
    (governor / "scaling_governor").write_text("ondemand\n")
    return place


def made_command(place: Path, script: str) -> str:
    path = place / "vcgencmd"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_board_that_says_everything(tmp_path: Path) -> None:
    command = made_command(tmp_path, 'test "$1" = get_throttled && echo throttled=0x50005')
    state = board_state(made_system(tmp_path / "sys"), command)
    assert state == BoardState(61.0, 0x50005, "ondemand")
    assert state.slowed_by == ("under-voltage", "throttled")
    assert state.slowed_since_start == ("under-voltage", "throttled")


def test_what_was_is_told_from_what_is() -> None:
    state = BoardState(40.0, 0x80002, "")
    assert state.slowed_by == ("clock capped",)
    assert state.slowed_since_start == ("soft temperature limit",)


@pytest.mark.parametrize("script", ["echo nonsense", "exit 1", "echo throttled="])
def test_a_machine_that_says_nothing(tmp_path: Path, script: str) -> None:
    state = board_state(tmp_path / "nothing", made_command(tmp_path, script))
    assert state == BoardState(None, None, "")
    assert state.slowed_by == state.slowed_since_start == ()
    assert board_state(tmp_path, str(tmp_path / "absent")).throttle_bits is None


@pytest.mark.parametrize(
    ("before", "after", "slowed_by"),
    [
        (0x0, 0x0, ()),
        (0x4, 0x40000, ("throttled",)),  # it was, at the first look
        (0x0, 0x40000, ("throttled",)),  # between them, which the board remembers
        (0x40000, 0x40000, ()),  # before both
        (0x20000, 0x50003, ("under-voltage", "clock capped", "throttled")),
        (None, None, ()),
    ],
)
def test_what_slowed_a_board_between_two_looks(
    before: int | None, after: int | None, slowed_by: tuple[str, ...]
) -> None:
    looks = BoardLooks(BoardState(50.0, before, ""), BoardState(61.25, after, "performance"))
    assert looks.slowed_by == slowed_by
    words = str(looks)
    assert words.startswith("50.0 to 61.2 \N{DEGREE SIGN}C, governor performance")
    assert words.endswith(
        ", governor performance" if before is None else slowed_by[-1] + ")" if slowed_by else "not slowed down"
    )
    assert str(BoardLooks(BoardState(None, None, ""), BoardState(None, None, ""))) == ""
