"""`bitlens deploy` over real SSH, to boards on loopback (`loopback_board`): whole, broken off, refused, damaged."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import command_line
import numpy as np
import pytest
from command_line import Answer
from exported_network import exported_network, replaced_member, unpacked
from loopback_board import (
    CHECKOUT,
    IS_ROOT,
    USER,
    LoopbackBoard,
    built_wheel,
    loopback_board,
    packed_wheel,
    public_folder,
    require_sshd,
    system_packages,
)

from bitlens.runtime import cli
from bitlens.runtime.deploy.board import look
from bitlens.runtime.deploy.connection import answered, opened_connection, sent
from bitlens.runtime.deploy.delivery import _taken_or_undone
from bitlens.runtime.deploy.host import parsed_host
from bitlens.runtime.deploy.lock import held_lock
from bitlens.runtime.deploy.plan import Version, prepare_step, undo_script
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.network import GOLDEN

pytestmark = pytest.mark.long  # minutes: virtual environments are made; `make deploy-tests`

KEPT = CHECKOUT / "tests" / "golden" / "bundle_1.bitlens"
STEPS = ["connect", "look", "prepare", "copy", "install", "verify", "trust", "swap", "drop"]

# A process that deploys and kills itself when a step is told of: nothing of bitlens knows.
KILLED = """
import os, signal, sys
from bitlens.runtime import cli
from bitlens.runtime.deploy.progress import Progress
wanted, heard = tuple(sys.argv[1:3]), Progress.told
def told(self, host, step, state):
    heard(self, host, step, state)
    if (step, state) == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
Progress.told = told
cli.main(sys.argv[3:])
"""


@pytest.fixture(scope="module", autouse=True)
def sockets() -> Iterator[None]:
    """Where connections of killed processes leave their sockets."""
    with public_folder() as folder, pytest.MonkeyPatch.context() as patch:
        folder.chmod(0o700)
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_sshd()
    return built_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def system() -> Iterator[Path]:
    """What the Python of a board sees: NumPy and picamera2, so that an installation takes seconds."""
    require_sshd()
    with public_folder() as folder:
        system_packages(folder)
        yield folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_network(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def board(system: Path) -> Iterator[LoopbackBoard]:
    """One that nothing has been deployed to, and whose home nothing changes; programs put before the system's go."""
    with loopback_board("bare", system=system) as made:
        yield made


@pytest.fixture
def bare(board: LoopbackBoard) -> Iterator[LoopbackBoard]:
    before, python = board.everything(), (board.programs / "python3").read_text("utf-8")
    yield board
    for program in board.programs.iterdir():
        program.unlink()
    board.program("python3", python.partition("\n")[2].strip())
    assert board.everything() == before  # whatever was refused changed nothing


@pytest.fixture(scope="module")
def other_board(system: Path) -> Iterator[LoopbackBoard]:
    with loopback_board("other", system=system) as made:
        yield made


def deploy(capsys: pytest.CaptureFixture[str], board: LoopbackBoard, *arguments: str | Path) -> Answer:
    answer = command_line.answered(capsys, "deploy", *arguments, "--ssh-config", board.ssh_config)
    for text in (answer.out, answer.err):
        assert all(each.isprintable() or each == "\n" for each in text), ascii(text)
    return answer


def works(board: LoopbackBoard) -> bool:
    """Whether the version in use computes its network."""
    return "parity holds" in board.run(
        "cd ~/.local/share/bitlens/current && venv/bin/bitlens verify network.bitlens --methods none"
    )


# The whole way.


def test_from_nothing_to_a_third_version_and_back(
    capsys: pytest.CaptureFixture[str], other_board: LoopbackBoard, wheel: Path, bundle: Path, tmp_path: Path
) -> None:
    board = other_board
    certificate = tmp_path / "desktop.json"
    assert cli.main(["verify", str(bundle), "--engine", "reference", "--output", str(certificate)]) == 0
    capsys.readouterr()

    first = deploy(capsys, board, bundle, board.name, "--wheel", wheel, "--certificate", certificate)
    assert first.code == 0, first
    assert f"{board.name}: deployed" in first.out
    assert "numerical parity holds" in first.out or "agree" in first.out
    assert first.err.splitlines() == [f"{board.name}: {step} ..." for step in STEPS] + [f"{board.name}: deployed"]
    one = board.current
    assert board.versions == [one.removeprefix("versions/")]
    assert works(board)
    assert not (board.data / "incoming").exists()
    here = board.run("~/.local/share/bitlens/current/venv/bin/bitlens trust --list")
    assert bundle.name in here
    # The board's own NumPy is seen, and picamera2 with it.
    seen = board.run(
        "~/.local/share/bitlens/current/venv/bin/python -c 'import numpy, picamera2; print(numpy.__file__)'"
    )
    assert "/.local/lib/" in seen
    told = json.loads((board.data / one / "certificate" / "certificate.json").read_text("utf-8"))
    assert json.loads((board.data / one / "network.certificate.json").read_text("utf-8")) == told  # where demo looks
    assert told["machine"]["name"] == ""

    # The same again: verified there, nothing made anew, which takes no room.
    board.program("df", "echo x; echo /dev/root 1000000 999000 1000 99% /")
    again = deploy(capsys, board, bundle, board.name, "--wheel", wheel, "--certificate", certificate, "--json")
    assert (again.code, again.board["outcome"], board.current) == (0, "already there", one)
    assert [step["changed"] for step in again.board["steps"] if step["name"] == "verify"] == [False]
    (board.programs / "df").unlink()
    assert not (board.data / "incoming").exists()

    # Another bundle, and a third: the version before stays, older ones go.
    second = deploy(capsys, board, KEPT, board.name, "--wheel", wheel, "--json")
    assert (second.code, second.board["outcome"], second.board["previous"]) == (0, "deployed", one.split("/")[1])
    two = board.current
    assert len({one, two}) == 2
    third = deploy(capsys, board, bundle, board.name, "--wheel", wheel)
    assert third.code == 0
    three = board.current
    assert board.versions == sorted(each.split("/")[1] for each in (two, three))
    assert works(board)

    for expected in (two, three):  # back, and forward again
        back = deploy(capsys, board, "--rollback", board.name)
        assert (back.code, board.current) == (0, expected), back
        assert works(board)

    # In use, and damaged: what is the same is made anew.
    golden = board.data / three / "network.bitlens"
    golden.write_bytes(golden.read_bytes()[:-100])
    healed = deploy(capsys, board, bundle, board.name, "--wheel", wheel, "--json")
    assert (healed.code, healed.board["outcome"]) == (0, "deployed")
    assert board.current != three
    assert works(board)


def test_two_boards_of_which_one_fails(
    capsys: pytest.CaptureFixture[str], system: Path, bare: LoopbackBoard, wheel: Path, bundle: Path, tmp_path: Path
) -> None:
    bare.program("df", "echo x; echo /dev/root 1000000 999000 1000 99% /")
    before = bare.everything()
    with loopback_board("good", system=system) as good:
        both = tmp_path / "ssh_config"
        both.write_text(good.ssh_config.read_text("utf-8") + bare.ssh_config.read_text("utf-8"), "utf-8")
        board = dataclasses.replace(good, ssh_config=both)
        answer = deploy(capsys, board, bundle, "good", "bare", "--wheel", wheel)
        assert answer.code == 1
        assert "good: deployed" in answer.out
        assert "bare: failed" in answer.out
        assert "it has 1 MB of free disk, expected at least" in answer.out
        assert answer.out.endswith("1 of 2 boards hold what was asked for\n")
        assert works(good)
    assert bare.everything() == before


# Broken off.


def test_killed_after_each_step_the_old_version_runs(
    capsys: pytest.CaptureFixture[str], system: Path, wheel: Path, bundle: Path
) -> None:
    with loopback_board("killed", system=system) as board:
        common = [board.name, "--wheel", str(wheel), "--ssh-config", str(board.ssh_config)]
        assert cli.main(["deploy", str(KEPT), *common]) == 0
        old = board.current
        for step in STEPS:
            process = subprocess.run(
                [sys.executable, "-c", KILLED, step, "done", "deploy", str(bundle), *common],
                capture_output=True,
                text=True,
                check=False,
            )
            assert process.returncode == -signal.SIGKILL, (step, process.stdout, process.stderr)
            if step not in ("swap", "drop"):
                assert board.current == old, step
                assert works(board)
            elif step == "swap":
                new = board.current
                assert new != old
                assert len(board.versions) == 2
                assert works(board)
            else:  # this time it was already there
                assert board.current == new
        # What was broken off is cleared away by the next.
        assert deploy(capsys, board, bundle, *common[:3]).code == 0
        assert board.versions == sorted(each.split("/")[1] for each in (old, board.current))
        assert deploy(capsys, board, "--rollback", board.name).code == 0
        assert board.current == old
        assert works(board)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_interrupted_within_a_step(
    capsys: pytest.CaptureFixture[str], other_board: LoopbackBoard, wheel: Path, number: signal.Signals
) -> None:
    # What starts in the background of a shell ignores Ctrl-C; on a terminal nothing does.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from bitlens.runtime import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    board = other_board
    if not board.current:
        assert deploy(capsys, board, KEPT, board.name, "--wheel", wheel).code == 0
    old, versions = board.current, board.versions
    other = wheel.parent / f"{number}.bitlens"  # of another name, so another version
    shutil.copy(KEPT, other)
    options = ["--wheel", str(wheel), "--ssh-config", str(board.ssh_config)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "deploy", str(other), board.name, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(board.data.glob("versions/*/venv/bin")) or len(board.versions) == len(versions):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(1)  # somewhere within the installation
    os.killpg(process.pid, number)  # as the terminal does
    said, _ = process.communicate()
    assert board.current == old
    assert works(board)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert said.endswith("bitlens: interrupted\n")
        assert board.versions == versions  # cleared up behind itself
    answer = deploy(capsys, board, other, board.name, "--wheel", wheel)
    assert answer.code == 0, answer  # nothing of it is in the way
    assert works(board)
    assert len(board.versions) == 2


# Refused: one sentence, nothing changed.


def refused(capsys: pytest.CaptureFixture[str], board: LoopbackBoard, *arguments: str | Path) -> str:
    """The sentence of the one board."""
    before = board.everything()
    answer = deploy(capsys, board, *arguments, "--json")
    assert answer.code == 1
    assert answer.board["outcome"] == "failed"
    assert board.everything() == before
    return str(answer.board["problem"])


def test_a_host_key_that_is_not_the_known_one(
    capsys: pytest.CaptureFixture[str], bare: LoopbackBoard, wheel: Path, bundle: Path, tmp_path: Path
) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    key = (tmp_path / "other.pub").read_text("utf-8")
    config = bare.ssh_config.read_text("utf-8")
    for known, sentence in (
        (f"[127.0.0.1]:{bare.port} {key}", "its host key is not the one you know, so nothing was sent"),
        ("", "its host key is not known here: connect once with `ssh bare`"),
    ):
        (tmp_path / "known").write_text(known, "utf-8")
        # Even where the configuration says that host keys do not matter, and that nothing is to be said.
        lines = [line for line in config.splitlines() if "UserKnownHostsFile" not in line]
        lines += [f"  UserKnownHostsFile {tmp_path}/known", "  StrictHostKeyChecking no", "  LogLevel QUIET"]
        (tmp_path / "config").write_text("\n".join(lines) + "\n", "utf-8")
        board = dataclasses.replace(bare, ssh_config=tmp_path / "config")
        assert sentence in refused(capsys, board, bundle, "bare", "--wheel", wheel)
        assert (tmp_path / "known").read_text("utf-8") == known


def test_no_way_in(
    capsys: pytest.CaptureFixture[str], bare: LoopbackBoard, wheel: Path, bundle: Path, tmp_path: Path
) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    config = bare.ssh_config.read_text("utf-8")
    mine = next(line for line in config.splitlines() if "IdentityFile" in line)
    (tmp_path / "config").write_text(config.replace(mine, f"  IdentityFile {tmp_path}/other"), "utf-8")
    board = dataclasses.replace(bare, ssh_config=tmp_path / "config")
    assert "does not let you in without a password" in refused(capsys, board, bundle, "bare", "--wheel", wheel)
    assert "nothing listens there for SSH" in refused(capsys, bare, bundle, f"{USER}@127.0.0.1:1", "--wheel", wheel)
    assert "there is no host of that name" in refused(capsys, bare, bundle, "pi@nowhere.invalid", "--wheel", wheel)


def test_no_space(capsys: pytest.CaptureFixture[str], bare: LoopbackBoard, wheel: Path, bundle: Path) -> None:
    bare.program("df", "echo x; echo /dev/root 1000000 970000 30000 97% /")
    sentence = refused(capsys, bare, bundle, "bare", "--wheel", wheel)
    assert sentence.startswith("it has 31 MB of free disk, expected at least")


def test_a_disk_that_fills_up(
    capsys: pytest.CaptureFixture[str], bare: LoopbackBoard, wheel: Path, bundle: Path
) -> None:
    bare.program(
        "cat", '[ $# -gt 0 ] && exec /usr/bin/cat "$@"; echo "cat: write error: No space left on device" >&2; exit 1'
    )
    bare.program("rsync", "exit 1")
    answer = deploy(capsys, bare, bundle, "bare", "--wheel", wheel, "--json")
    assert answer.code == 1
    assert "its disk is full" in answer.board["problem"]
    assert any("No space left" in line for line in answer.board["words"])
    assert bare.current == ""
    assert bare.versions == []
    shutil.rmtree(bare.data.parent)  # its locks are left


def test_a_wrong_architecture(
    capsys: pytest.CaptureFixture[str], bare: LoopbackBoard, wheel: Path, bundle: Path, tmp_path: Path
) -> None:
    for name in ("bitlens-0.1.0-cp311-cp311-manylinux_2_34_m68k.whl", "bitlens-0.1.0-cp399-abi3-linux_x86_64.whl"):
        shutil.copy(wheel, tmp_path / name)
        sentence = refused(capsys, bare, bundle, "bare", "--wheel", tmp_path / name)
        assert sentence.startswith("no wheel fits it (")
        assert name in sentence


def test_no_python(capsys: pytest.CaptureFixture[str], bare: LoopbackBoard, wheel: Path, bundle: Path) -> None:
    for name in ("python3", *(f"python3.{minor}" for minor in range(10, 14))):
        bare.program(name, '[ "$1" = --version ] && echo "Python 3.9.2"; exit 1')
    sentence = refused(capsys, bare, bundle, "bare", "--wheel", wheel)
    assert sentence.startswith("it has no Python from 3.10 on (found: Python 3.9.2): install")


def test_no_virtual_environments(
    capsys: pytest.CaptureFixture[str], bare: LoopbackBoard, wheel: Path, bundle: Path
) -> None:
    python = (bare.programs / "python3").read_text("utf-8").splitlines()[1]
    bare.program("python3", f'case "$2" in *ensurepip*) ({python}) | grep -v ^venv; exit 0;; esac\n{python}')
    assert "apt install python3-venv there" in refused(capsys, bare, bundle, "bare", "--wheel", wheel)


def test_a_home_that_may_not_be_written(
    capsys: pytest.CaptureFixture[str], system: Path, wheel: Path, bundle: Path
) -> None:
    with loopback_board("locked", system=system) as board:
        (board.home / ".local").chmod(0o555)
        sentence = refused(capsys, board, bundle, "locked", "--wheel", wheel)
        assert sentence.startswith(f"its user may not write in {board.home}/.local")
        (board.home / ".local").chmod(0o755)


def test_a_service_without_systemd(
    capsys: pytest.CaptureFixture[str], bare: LoopbackBoard, wheel: Path, bundle: Path
) -> None:
    if Path("/run/systemd/system").exists():
        pytest.skip("this machine runs systemd")
    sentence = refused(capsys, bare, bundle, "bare", "--wheel", wheel, "--service")
    assert sentence.startswith("it does not run systemd, so there can be no service: leave --service out")


def test_a_rollback_to_nothing(capsys: pytest.CaptureFixture[str], bare: LoopbackBoard) -> None:
    assert refused(capsys, bare, "--rollback", "bare").startswith("there is no version to go back to")


def test_a_dry_run_changes_nothing(
    capsys: pytest.CaptureFixture[str], bare: LoopbackBoard, wheel: Path, bundle: Path
) -> None:
    before = bare.everything()
    answer = deploy(capsys, bare, bundle, "bare", "--wheel", wheel, "--dry-run", "--offline", "--json")
    assert (answer.code, answer.board["outcome"]) == (0, "would deploy")
    named = [line.partition(":")[0] for line in answer.board["plan"]]
    assert [name for name in named if name != "restart"] == ["fetch", *STEPS[2:]]
    assert bare.everything() == before


def test_one_deploy_at_a_time(capsys: pytest.CaptureFixture[str], system: Path, wheel: Path, bundle: Path) -> None:
    with (
        loopback_board("shared", system=system) as board,
        opened_connection(parsed_host(board.name), threading.Event(), board.ssh_config) as connection,
    ):
        with held_lock(connection, look(connection)) as lock:
            lock.require()
            before = board.everything()
            assert refused(capsys, board, bundle, board.name, "--wheel", wheel).startswith("another deploy is at work")
            assert board.everything() == before
        with held_lock(connection, look(connection)) as lock:  # free again
            lock.process.kill()
            lock.process.wait()
            with pytest.raises(BitlensError, match="the connection broke, and with it the lock"):
                lock.require()

            # Who has lost it undoes nothing while another deploy is at work, perhaps on the very same version.
            seen = look(connection)
            version = Version(seen, "20260102-120000-cdcdcdcd")
            folder = board.data / version.folder
            board.run(f"mkdir -p {folder}")

            def undone() -> None:
                steps, undo = [prepare_step(version, "cd" * 32)], undo_script(version, to="")
                with pytest.raises(BitlensError, match="the connection broke, and with it the lock"):
                    _taken_or_undone(connection, seen, lock, steps, undo, lambda step, state: None)

            with held_lock(connection, seen):
                undone()
                assert folder.is_dir()
            undone()
            assert not folder.exists()


# Damaged and hostile.


def tampered(bundle: Path, place: Path) -> Path:
    """A sound bundle whose golden answers are not those of its network."""
    shutil.copy(bundle, place)
    with zipfile.ZipFile(place) as archive:
        golden = dict(np.load(archive.open(GOLDEN)))
    name = next(key for key in golden if "logits" in key and "twin" not in key)
    golden[name] = golden[name] + 1
    with (place.parent / "golden.npz").open("wb") as stream:
        np.savez(stream, **golden)
    replaced_member(place, GOLDEN, (place.parent / "golden.npz").read_bytes())
    assert GOLDEN in unpacked(place)
    return place


def test_what_does_not_verify_is_not_used(
    capsys: pytest.CaptureFixture[str], other_board: LoopbackBoard, wheel: Path, bundle: Path, tmp_path: Path
) -> None:
    board = other_board
    if not board.current:
        assert deploy(capsys, board, KEPT, board.name, "--wheel", wheel).code == 0
    old, versions = board.current, board.versions
    trusted = board.run("cat ~/.config/bitlens/trusted")
    answer = deploy(capsys, board, tampered(bundle, tmp_path / "wrong.bitlens"), board.name, "--wheel", wheel, "--json")
    assert answer.code == 1
    assert "does not compute the network as it must, so the version in use is as it was" in answer.board["problem"]
    assert answer.board["words"]  # the board's own
    assert (board.current, board.versions) == (old, versions)
    assert board.run("cat ~/.config/bitlens/trusted") == trusted
    assert works(board)


def test_hostile_words(
    capsys: pytest.CaptureFixture[str], system: Path, wheel: Path, bundle: Path, tmp_path: Path
) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\u202e\x9b31m"
    with loopback_board("evil", system=system, banner=f"{evil}welcome\n") as board:
        python = (board.programs / "python3").read_text("utf-8").splitlines()[1]
        board.program("python3", f"[ \"$1\" = -m ] && printf '{evil}no\\n' && exit 3\n{python}")
        board.program("uname", f"printf '{evil}'")
        for options in ((), ("--json",)):  # `deploy` itself looks for what a terminal would obey
            answer = deploy(capsys, board, bundle, board.name, "--wheel", wheel, *options)
            assert answer.code == 1
        assert answer.board["words"][-1].endswith("no")
        assert r"\x1b]0;owned\x07" in answer.board["words"][-1]
        assert board.current == ""
        config = board.ssh_config.read_text("utf-8").replace("own_key", "no_key")
        (tmp_path / "config").write_text(config, "utf-8")
        stranger = dataclasses.replace(board, ssh_config=tmp_path / "config")
        assert "does not let you in" in refused(capsys, stranger, bundle, board.name, "--wheel", wheel)


def test_endless_words(capsys: pytest.CaptureFixture[str], bare: LoopbackBoard, wheel: Path, bundle: Path) -> None:
    bare.program("cat", "exec yes 45000")  # the first that it is asked for are temperatures
    assert "it did not say what it is" in refused(capsys, bare, bundle, "bare", "--wheel", wheel)


def test_files_arrive_whole(bare: LoopbackBoard, tmp_path: Path) -> None:
    source = tmp_path / "a 'b' *.bin"
    source.write_bytes(np.random.default_rng(3).bytes(300_001))
    with opened_connection(parsed_host("bare"), threading.Event(), bare.ssh_config) as connection:
        for with_rsync in (True, False) if shutil.which("rsync") else (False,):
            there = bare.home / f"it's {with_rsync} $HOME"
            assert sent(connection, source, str(there), with_rsync=with_rsync).code == 0
            part = there.with_name(there.name + ".part")
            assert part.read_bytes() == source.read_bytes()
            assert part.stat().st_mode & 0o077 == 0
            part.unlink()
        answer = answered(connection, "echo one; echo two >&2; exit 7", timeout_seconds=20)
        assert (answer.code, answer.text) == (7, "one\ntwo\n")
        assert answered(connection, "sleep 20", timeout_seconds=0.5).code is None


# Without a network.


def test_offline(capsys: pytest.CaptureFixture[str], wheel: Path, bundle: Path, tmp_path: Path) -> None:
    house = tmp_path / "house"
    house.mkdir()
    packed_wheel("numpy", house)
    (house / "bitlens-9.9-py3-none-any.whl").write_bytes(b"not asked for")
    with loopback_board("island") as board:
        # No index can be reached from it.
        (board.home / ".config" / "pip").mkdir(parents=True)
        (board.home / ".config" / "pip" / "pip.conf").write_text(
            "[global]\nindex-url = http://127.0.0.1:9/simple\nretries = 0\ntimeout = 2\n", "utf-8"
        )
        if IS_ROOT:
            subprocess.run(["chown", "-R", "61184", str(board.home / ".config")], check=True)
        online = deploy(capsys, board, bundle, board.name, "--wheel", wheel, "--json")
        assert online.code == 1
        assert "a board without a network needs --offline" in online.board["problem"]
        assert (board.current, board.versions) == ("", [])

        empty = tmp_path / "empty"
        empty.mkdir()
        lacking = deploy(capsys, board, bundle, board.name, "--wheel", wheel, "--wheelhouse", empty, "--json")
        assert lacking.code == 1
        assert "pip here has no wheels for it" in lacking.board["problem"]

        answer = deploy(capsys, board, bundle, board.name, "--wheel", wheel, "--wheelhouse", house, "--json")
        assert answer.code == 0, answer
        assert works(board)
        seen = board.run("~/.local/share/bitlens/current/venv/bin/python -c 'import numpy; print(numpy.__file__)'")
        assert "/current/venv/" in seen  # its own


# The service.


def test_the_service_runs_is_renewed_and_goes_back(
    capsys: pytest.CaptureFixture[str], system: Path, wheel: Path, bundle: Path
) -> None:
    with loopback_board("served", system=system, with_systemd=True) as board:

        def state() -> tuple[str, str]:
            """Whether it is active, and what its process runs."""
            said = board.run(
                "export XDG_RUNTIME_DIR=/run/user/$(id -u); systemctl --user is-active bitlens.service; "
                "p=$(systemctl --user show -p MainPID --value bitlens.service); "
                'tr "\\000" " " </proc/$p/cmdline || true'
            )
            active, _, command = said.partition("\n")
            return active, command

        # A first one that does not stay up leaves no trace.
        gone = ("--wheel", wheel, "--service", "--demo-options", "--source nowhere.mp4", "--json")
        plain = deploy(capsys, board, KEPT, board.name, "--wheel", wheel, "--extras", "web")  # what a service needs
        assert plain.code == 0, plain
        one = board.current
        never = deploy(capsys, board, KEPT, board.name, *gone)
        assert "the service does not stay up there" in never.board["problem"]
        assert any("journal" in line for line in never.board["words"])
        assert board.current == one
        assert not [each for each in board.everything() if ".service" in each or "unit.before" in each]

        drawn = "--source synthetic --port 0 --snapshots 'hello $HOME %h'"
        options = ("--wheel", wheel, "--service", "--demo-options", drawn, "--json")
        first = deploy(capsys, board, KEPT, board.name, *options)
        assert first.code == 0, first
        assert board.current == one
        active, command = state()
        assert active == "active"
        assert one in command
        assert "--snapshots hello $HOME %h" in command
        said = "\n".join(first.board["service"])
        assert "journalctl --user -u bitlens.service" in said
        assert "loginctl enable-linger" in said  # there is no logind to ask
        wants = board.home / ".config/systemd/user/default.target.wants/bitlens.service"
        assert wants.is_symlink()

        # A later deploy that does not ask for it keeps it, on the new version; so does a rollback.
        later = deploy(capsys, board, bundle, board.name, "--wheel", wheel, "--json")
        assert later.code == 0, later
        two = board.current
        assert two != one
        assert two in state()[1]
        assert deploy(capsys, board, "--rollback", board.name).code == 0
        assert board.current == one
        assert one in state()[1]

        # Killed, it comes back.
        main_pid = "XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user show -p MainPID --value bitlens.service"
        board.run(f"kill -9 $({main_pid})")
        deadline = time.monotonic() + 30
        while state()[0] != "active":
            assert time.monotonic() < deadline
            time.sleep(0.5)

        # A service that does not stay up, of a new version and of the one in use: back to what ran before.
        for network in (bundle, KEPT):
            failed = deploy(capsys, board, network, board.name, *gone)
            assert failed.code == 1
            assert "the service does not stay up there" in failed.board["problem"]
            assert any("bitlens.service" in line for line in failed.board["words"])
            assert board.current == one
            assert works(board)
            deadline = time.monotonic() + 30
            while state()[0] != "active":
                assert time.monotonic() < deadline
                time.sleep(0.5)
            assert one in state()[1]
            assert "--snapshots hello $HOME %h" in state()[1]

        # A rollback to a version that cannot serve the page: back to the one that does.
        (packages,) = (board.data / two).glob("venv/lib/python3*/site-packages")
        (packages / "starlette.py").write_text("raise ImportError\n", "utf-8")  # found before the board's own
        failed = deploy(capsys, board, "--rollback", board.name, "--json")
        assert failed.code == 1
        assert "the service does not stay up with this version" in failed.board["problem"]
        assert any("bitlens.service" in line for line in failed.board["words"])  # no journal runs here
        assert board.current == one
        assert state()[0] == "active"
        assert one in state()[1]

        # A version that does not start is not gone back to, and what runs is not disturbed.
        process = board.run(main_pid)
        (board.data / two / "venv/bin/bitlens").unlink()
        back = deploy(capsys, board, "--rollback", board.name)
        assert "does not start any more, so nothing was changed" in back.out
        assert (board.current, board.run(main_pid)) == (one, process)


def test_the_service_of_root_is_a_unit_of_the_system(
    capsys: pytest.CaptureFixture[str], system: Path, wheel: Path, bundle: Path
) -> None:
    with loopback_board("rooted", system=system, with_systemd=True, of_root=True) as board:
        manage = "export XDG_RUNTIME_DIR=/run/user/0; systemctl"
        options = ("--wheel", wheel, "--service", "--demo-options", "--source synthetic --port 0", "--json")
        answer = deploy(capsys, board, bundle, board.name, *options)
        try:
            assert answer.code == 0, answer
            said = "\n".join(answer.board["service"])
            assert "journalctl -u bitlens.service" in said
            assert "--user" not in said
            assert "enable-linger" not in said
            unit = (board.units / "bitlens.service").read_text("utf-8")
            assert 'ExecStart="/root/.local/share/bitlens/current/venv/bin/bitlens" "demo"' in unit
            assert "\nWantedBy=multi-user.target\n" in unit
            assert not (board.home / ".config/systemd/user/bitlens.service").exists()
            assert board.run(f"{manage} is-enabled bitlens.service") == "enabled\n"
            assert board.run(f"{manage} is-active bitlens.service") == "active\n"

            # It is root's, may do nothing that root may, and writes in one place alone.
            process = board.run(f"{manage} show -p MainPID --value bitlens.service").strip()
            assert board.current in board.run(f"tr '\\000' ' ' </proc/{process}/cmdline")
            state = dict(line.split(":\t", 1) for line in board.run(f"cat /proc/{process}/status").splitlines())
            assert state["Uid"].split() == ["0"] * 4
            assert {state[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
            assert state["NoNewPrivs"] == "1"
            mounted = [line.split() for line in board.run(f"cat /proc/{process}/mountinfo").splitlines()]
            rights = {line[4]: line[5].split(",")[0] for line in mounted}
            assert (rights["/"], rights["/root"], rights["/root/.local/share/bitlens/work"]) == ("ro", "ro", "rw")

            # One that fails goes back to what ran, and a deploy without --service keeps it.
            failed = deploy(capsys, board, bundle, board.name, *options[:3], "--demo-options", "--port x", "--json")
            assert "the service does not stay up there" in failed.board["problem"]
            assert (board.units / "bitlens.service").read_text("utf-8") == unit
            later = deploy(capsys, board, KEPT, board.name, "--wheel", wheel, "--json")
            assert later.code == 0, later
            process = board.run(f"{manage} show -p MainPID --value bitlens.service").strip()
            assert board.current in board.run(f"tr '\\000' ' ' </proc/{process}/cmdline")
        finally:
            board.run(f"{manage} stop bitlens.service")  # takes its private /tmp away
