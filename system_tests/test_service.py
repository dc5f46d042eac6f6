"""`bitlens deploy --service` with systemd as process 1: it runs, is started again, and comes back with the board."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployed import SECOND, Deployed, deploy
from emulated_board import PAGE_PORT, ROOT, START_SECONDS, EmulatedBoard, free_port
from page_client import PageClient, is_explained

UNIT = "bitlens.service"


@contextmanager
def page_at_the_desk(board: EmulatedBoard) -> Iterator[PageClient]:
    """The page of a board that listens on its own loopback, by `ssh -L`; without a session of the user's own."""
    port = free_port()
    forward = board.ssh("-q", "-N", "-o", "ExitOnForwardFailure=yes", "-L", f"{port}:127.0.0.1:{PAGE_PORT}", user=ROOT)
    process = subprocess.Popen(forward, stdin=subprocess.DEVNULL)
    try:
        yield PageClient(port)
    finally:
        process.kill()
        process.wait()


def service_process(board: EmulatedBoard, *, other_than: str = "") -> str:
    """Wait for the service's process, as root sees it."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        found = board.tried("pgrep -u pi -f 'bin/bitlens demo'", user=ROOT).stdout.split()
        if found and found[0] != other_than:
            return found[0]
        time.sleep(1)
    raise AssertionError("no service: " + board.tried("journalctl -n 40 --no-pager", user=ROOT).stdout)


def test_the_service(board: EmulatedBoard, second: Deployed, networks: Path, wheel: Path) -> None:
    assert second.code == 0, second.said
    code, report, errors = deploy(
        board, networks / f"{SECOND}.bitlens", board.name, "--wheel", wheel, "--offline", "--extras", "camera,web",
        "--service", "--demo-options", "--source 0",
    )  # fmt: skip
    assert code == 0, f"{report}\n{errors}"
    assert report["version"] == second.report["version"]
    # The board lets nobody linger without an administrator, and deploy says so.
    assert "sudo loginctl enable-linger" in " ".join(report["service"])
    board.run("loginctl enable-linger pi", user=ROOT)
    process = service_process(board)
    with page_at_the_desk(board) as page:
        seen = page.wait_for(is_explained, "the service's page")
        assert seen.facts["source"]["title"] == "camera 0"
        assert board.run(f"systemctl --user is-enabled {UNIT}").strip() == "enabled"

        board.run(f"kill -KILL {process}", user=ROOT)
        after = service_process(board, other_than=process)
        again = page.wait_for(lambda news: is_explained(news) and news.facts["run"] != seen.facts["run"], "a restart")
        assert int(board.run(f"systemctl --user show -p NRestarts --value {UNIT}")) >= 1

    board.reboot()
    service_process(board)
    assert "user" not in board.run("loginctl list-sessions --no-legend", user=ROOT).split()  # nobody has logged in
    with page_at_the_desk(board) as page:
        runs = (seen.facts["run"], again.facts["run"])
        page.wait_for(lambda news: is_explained(news) and news.facts["run"] not in runs, "the page after a reboot")
    assert after != process
    assert board.run("systemctl --failed --no-legend; systemctl --user --failed --no-legend").strip() == ""
