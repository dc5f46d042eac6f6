"""`bitlens deploy`, as far as it needs no board: what is said, chosen, refused and written."""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest
from exported_network import exported_network, replaced_member
from packaging.tags import Tag, compatible_tags, cpython_tags

from bitlens.runtime import cli
from bitlens.runtime.board_state import BoardState
from bitlens.runtime.deploy import delivery
from bitlens.runtime.deploy.board import Board, numbers, read_board, require_board, require_space
from bitlens.runtime.deploy.connection import Connection, answered, refusal
from bitlens.runtime.deploy.foreign_text import last_lines, plain_line
from bitlens.runtime.deploy.host import Host, parsed_host
from bitlens.runtime.deploy.lock import unless_locked
from bitlens.runtime.deploy.order import checked_order
from bitlens.runtime.deploy.plan import (
    Version,
    deploy_steps,
    prepare_step,
    return_script,
    rollback_steps,
    service_undo_script,
    undo_script,
    verify_step,
)
from bitlens.runtime.deploy.progress import Progress
from bitlens.runtime.deploy.report import FAILED, HostReport, report_lines
from bitlens.runtime.deploy.service_unit import description, unit_text
from bitlens.runtime.deploy.wheel import Wheel, chosen_wheel, fits, opened_wheel
from bitlens.runtime.deploy.wheelhouse import platforms
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.network import GOLDEN
from bitlens.runtime.shipped import shipped_bundle

PI4 = Board(
    home="/home/pi",
    is_root=False,
    machine="aarch64",
    model="Raspberry Pi 4 Model B Rev 1.4",
    python="python3",
    old_python="",
    python_version=(3, 11),
    architecture="aarch64",
    has_venv=True,
    glibc=(2, 36),
    numpy="1.24.2",
    has_picamera2=True,
    free_bytes=20_000_000_000,
    unwritable="",
    programs=frozenset({"rsync", "flock", "sha256sum", "systemctl", "systemd"}),
    state=BoardState(48.7, 0x50000, "ondemand"),
    current="20260101-120000-0123abcd",
    previous="",
    content="ab" * 32,
    begun=(("20260102-120000-cdcdcdcd", "cd" * 32),),
)
SAID = """\
home\t/home/pi
user_id\t1000
machine\taarch64
model\tRaspberry Pi 4 Model B Rev 1.4
python\tpython3
architecture\taarch64
python_version\t3.11
venv\tyes
glibc\t2.36
picamera2\tyes
numpy\t1.24.2
free_kb\t19531250
writable\tyes
has\trsync
has\tflock
has\tsha256sum
has\tsystemctl
has\tsystemd
temperature\t47200
temperature\t48700
governor\tondemand
throttled\tthrottled=0x50000
current\tversions/20260101-120000-0123abcd
previous\t
content\tabababababababababababababababababababababababababababababababab
found\t20260101-120000-0123abcd abababababababababababababababababababababababababababababababab
found\t20260102-120000-cdcdcdcd cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd
found\tlost+found cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_network(tmp_path_factory.mktemp("network"))


def wheel_named(name: str) -> Wheel:
    pythons, abis, platforms_ = (part.split(".") for part in name.removesuffix(".whl").split("-")[-3:])
    return Wheel(Path(name), name.split("-")[1], tuple(pythons), tuple(abis), tuple(platforms_))


def empty_wheel(folder: Path, name: str) -> Path:
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("bitlens/__init__.py", "")
    return folder / name


# Where.


@pytest.mark.parametrize(
    ("text", "destination", "port"),
    [
        ("pi@raspberrypi.local", "pi@raspberrypi.local", None),
        ("alias", "alias", None),
        ("pi@10.0.0.7:2222", "pi@10.0.0.7", 2222),
        ("[::1]", "::1", None),
        ("pi@[fe80::1%eth0]:22", "pi@fe80::1%eth0", 22),
    ],
)
def test_hosts(text: str, destination: str, port: int | None) -> None:
    host = parsed_host(text)
    assert (host.text, host.destination, host.port) == (text, destination, port)


@pytest.mark.parametrize(
    "text",
    [
        *("", "-oProxyCommand=x", "pi@-oProxyCommand=x", "-l@x", "a b", "a;b", "a$(b)", "a\nb", "pi@", "@x", "a@b@c"),
        *("x:0", "x:65536", "x:", "x:\u0661", "x" * 400, "::1", "\u00e4", "a/b"),
    ],
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(BitlensError, match="expected a board as user@host") as refused:
        parsed_host(text)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200


# What boards say.


def test_words_of_a_board_are_harmless() -> None:
    assert plain_line("\x1b]0;title\x07\x9b2J\u202ealso \u200bthis") == (r"\x1b]0;title\x07\x9b2J\u202ealso \u200bthis")
    assert len(plain_line("x" * 10_000)) == 200
    assert len(plain_line("\x1b" * 10_000)) == 200
    assert last_lines("a\r\n\n  \nb\rc\n" * 50, 3) == ("a", "b", "c")


def test_a_board_is_read() -> None:
    assert read_board(SAID) == PI4
    assert PI4.notes == ("48.7 °C", "slowed down since its start: under-voltage, throttled")
    assert PI4.said_of_it == "Raspberry Pi 4 Model B Rev 1.4, aarch64, Python 3.11, glibc 2.36"


def test_a_board_that_says_little() -> None:
    board = read_board("home\t/root\nuser_id\t0\n")
    assert (board.is_root, board.python, board.glibc, board.free_bytes) == (True, "", None, None)
    assert board.state == BoardState(None, None, "")
    assert board.notes == ()


@pytest.mark.parametrize(
    ("line", "part", "expected"),
    [
        ("model\tPi\x1b[2J", "model", r"Pi\x1b[2J"),
        ("current\tversions/../../etc", "current", ""),
        ("previous\t$(reboot)", "previous", ""),
        ("content\t'; reboot", "content", ""),
        ("numpy\t1.24; reboot", "numpy", ""),
        ("free_kb\t" + "9" * 400, "free_bytes", None),
        ("glibc\t" + "9" * 400, "glibc", None),
        ("python_version\tthree", "python", ""),
    ],
)
def test_a_board_that_says_odd_things(line: str, part: str, expected: object) -> None:
    key = line.partition("\t")[0]
    others = "".join(each for each in SAID.splitlines(keepends=True) if not each.startswith(f"{key}\t"))
    assert getattr(read_board(f"{line}\n{others}"), part) == expected


@pytest.mark.parametrize("said", ["", "home\trelative\nuser_id\t0", "home\t/h\x1b\nuser_id\t1", "home\t/h\nuser_id\tx"])
def test_what_is_no_board(said: str) -> None:
    with pytest.raises(BitlensError, match="expected"):
        read_board(said)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"python": "", "old_python": "Python 3.9.2"}, r"no Python from 3\.10 on \(found: Python 3\.9\.2\)"),
        ({"python": ""}, r"no Python from 3\.10 on \(found: none\)"),
        ({"has_venv": False}, "apt install python3-venv"),
        ({"programs": frozenset({"sha256sum"})}, "has no flock"),
        ({"unwritable": "/home/pi"}, "may not write in /home/pi"),
    ],
)
def test_boards_that_will_not_do(change: dict[str, object], sentence: str) -> None:
    require_board(PI4)
    with pytest.raises(BitlensError, match=sentence):
        require_board(replace(PI4, **change))  # type: ignore[arg-type]


def test_a_disk_that_is_too_full() -> None:
    full = replace(PI4, free_bytes=99_000_000)
    require_space(full, 99_000_000)
    require_space(replace(PI4, free_bytes=None), 10**15)  # it does not say
    with pytest.raises(BitlensError, match="99 MB of free disk, expected at least 100 MB"):
        require_space(full, 100_000_000)


def test_system_packages_are_seen_where_picamera2_needs_them() -> None:
    assert PI4.uses_system_packages
    assert not replace(PI4, has_picamera2=False).uses_system_packages
    assert replace(PI4, has_picamera2=False, architecture="armv7l").uses_system_packages  # no NumPy on the index
    assert not replace(PI4, numpy="1.19.5").uses_system_packages
    assert not replace(PI4, numpy="").uses_system_packages
    assert numbers("1.24.2+rpt1") == (1, 24, 2)


def test_an_exit_code_without_end_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python makes no number of so many digits."""
    (tmp_path / "ssh").write_text(
        '#!/bin/sh\nmark=$(sed -n "s/^echo //p" | head -n 1)\nprintf "%s\\nhello\\n%s %05000d\\n" $mark $mark 7\n',
        "utf-8",
    )
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    answer = answered(Connection(parsed_host("pi"), (), threading.Event()), "true", timeout_seconds=20)
    assert answer.code is None
    assert "hello" in answer.text


def test_boards_that_wait_for_their_turn_are_not_begun_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    @contextmanager
    def opened(host: Host, stopped: threading.Event, ssh_config: Path | None) -> Iterator[Connection]:
        begun.append(host.text)
        yield Connection(host, (), stopped)

    def work(connection: Connection, told: object) -> HostReport:
        assert connection.stopped.wait(30)
        raise BitlensError("stopped")

    def interrupted(futures: object) -> None:
        while len(begun) < delivery.MAX_AT_ONCE:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(delivery, "opened_connection", opened)
    monkeypatch.setattr(delivery, "wait", interrupted)
    hosts = [parsed_host(f"pi{number}") for number in range(40)]
    with pytest.raises(KeyboardInterrupt):
        delivery.worked_at_once(hosts, work, lambda host, step, state: None)
    assert len(begun) == delivery.MAX_AT_ONCE


# What runs there: the scripts of the steps, in a shell here.


def in_a_shell(script: str) -> int:
    return subprocess.run(["sh", "-s"], input=script, text=True, check=False, capture_output=True).returncode


def test_a_version_is_verified_against_the_certificate_that_is_given(network: Path, tmp_path: Path) -> None:
    """One that was broken off need not have been."""
    wheel, certificate = empty_wheel(tmp_path, "bitlens-0.1.0-py3-none-any.whl"), tmp_path / "desktop.json"
    assert cli.main(["verify", str(network), "--methods", "none", "--output", str(certificate)]) == 0
    alone, beside = (checked_order(network, wheels=[wheel], certificate=each) for each in (None, certificate))
    version = Version(replace(PI4, home=str(tmp_path)), "20260102-120000-cdcdcdcd")
    folder = tmp_path / ".local/share/bitlens" / version.folder
    bitlens = folder / "venv/bin/bitlens"
    bitlens.parent.mkdir(parents=True)
    bitlens.write_text("#!/bin/sh\nmkdir -p certificate && echo '{}' >certificate/certificate.json\n", "utf-8")
    bitlens.chmod(0o755)
    for order in (alone, beside):
        assert in_a_shell(verify_step(order, version).check) != 0
    assert in_a_shell(f"set -e\n{verify_step(alone, version).script}") == 0
    assert in_a_shell(verify_step(alone, version).check) == 0
    assert in_a_shell(verify_step(beside, version).check) != 0
    assert in_a_shell(f"set -e\n{verify_step(beside, version).script}") == 0
    for order in (alone, beside):
        assert in_a_shell(verify_step(order, version).check) == 0


@pytest.mark.parametrize("is_root", [False, True])
@pytest.mark.parametrize("has_systemd", [False, True])
def test_every_script_is_one_of_a_posix_shell(network: Path, tmp_path: Path, is_root: bool, has_systemd: bool) -> None:
    wheel = empty_wheel(tmp_path, "bitlens-0.1.0-py3-none-any.whl")
    programs = PI4.programs if has_systemd else PI4.programs - {"systemd"}
    board = replace(PI4, home="/home/it's $HOME", is_root=is_root, programs=programs, previous=PI4.current)
    version = Version(board, "20260102-120000-cdcdcdcd")
    order = checked_order(network, wheels=[wheel], has_service=has_systemd, extras=["image"])
    steps = [*deploy_steps(order, order.wheels[0], (), version, "cd" * 32), *rollback_steps(board)]
    scripts = [script for step in steps for script in (step.check, step.script)]
    scripts += [undo_script(version, to=to) for to in ("", PI4.current)]
    scripts += [service_undo_script(version), return_script(version), unless_locked(board, undo_script(version, to=""))]
    for script in [*scripts, "if true; then\n\nfi"]:
        done = subprocess.run(["sh", "-n", "-s"], input=f"(\n{script}\n)", text=True, check=False, capture_output=True)
        assert (done.returncode == 0) == (script in scripts), script + done.stderr


def test_what_another_deploy_copied_is_not_installed_from(tmp_path: Path) -> None:
    version = Version(replace(PI4, home=str(tmp_path)), "20260102-120000-cdcdcdcd")
    stale = Path(version.board.data.replace(PI4.home, str(tmp_path))) / "incoming" / "numpy-9.9-py3-none-any.whl"
    stale.parent.mkdir(parents=True)
    stale.touch()
    step = prepare_step(version, "cd" * 32)
    assert in_a_shell(f"set -e\n{step.script}") == in_a_shell(step.check) == 0
    assert list(stale.parent.iterdir()) == []


# Which wheel.

NAMES = [
    f"bitlens-0.1.0-{tags}.whl"
    for tags in (
        "py3-none-any",
        "py2-none-any",
        "py2.py3-none-any",
        "py312-none-any",
        "cp311-cp311-manylinux_2_34_aarch64",
        "cp311-cp311-manylinux_2_37_aarch64",
        "cp313-cp313-manylinux_2_34_aarch64",
        "cp311-cp311-manylinux_2_34_x86_64",
        "cp311-cp311-manylinux2014_aarch64",
        "cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64",
        "cp311-cp311-manylinux_2_34_armv7l",
        "cp311-cp311-linux_armv7l",
        "cp311-cp311-musllinux_1_2_aarch64",
        "cp312-abi3-manylinux_2_34_aarch64",
        "cp310-abi3-manylinux_2_34_aarch64",
        "cp39-none-any",
        "cp311-none-any",
        "pp310-pypy310_pp73-manylinux_2_34_aarch64",
    )
]


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12), (3, 13)])
@pytest.mark.parametrize("architecture", ["aarch64", "armv7l", "x86_64"])
@pytest.mark.parametrize("glibc", [(2, 28), (2, 36), (2, 41), None])
def test_what_fits_is_what_packaging_says(
    version: tuple[int, int], architecture: str, glibc: tuple[int, int] | None
) -> None:
    board = replace(PI4, python_version=version, architecture=architecture, glibc=glibc)
    tags = [f"linux_{architecture}"]
    if glibc is not None:
        tags += [f"manylinux_2_{minor}_{architecture}" for minor in range(17, glibc[1] + 1)]
        tags += [f"manylinux2014_{architecture}"]
    abi = f"cp{version[0]}{version[1]}"
    accepted = {*cpython_tags(version, [abi], tags), *compatible_tags(version, abi, tags)}
    for name in NAMES:
        wheel = wheel_named(name)
        own = {Tag(*each) for each in itertools.product(wheel.pythons, wheel.abis, wheel.platforms)}
        assert fits(wheel, board) == bool(own & accepted), name
    # What pip is told to fetch is what the board takes.
    assert set(platforms(board)) >= set(tags)


def test_the_best_wheel_is_chosen() -> None:
    wheels = [wheel_named(name) for name in NAMES]
    assert not chosen_wheel(wheels, PI4).is_pure
    assert chosen_wheel(wheels, replace(PI4, architecture="riscv64")).is_pure
    newer = wheel_named("bitlens-0.10.0-py3-none-any.whl")
    assert chosen_wheel([*wheels, newer], PI4) == newer  # 0.10 is newer than 0.1
    with pytest.raises(BitlensError, match=r"no wheel fits it \(aarch64, Python 3.11, glibc 2.36\): got bitlens-0.1"):
        chosen_wheel([wheel_named(NAMES[7])], PI4)


@pytest.mark.parametrize("name", ["numpy-2.0-py3-none-any.whl", "bitlens.whl", "bitlens-0.1.0-py3-none-any.zip"])
def test_what_is_no_wheel_of_bitlens(tmp_path: Path, name: str) -> None:
    with pytest.raises(BitlensError, match="no wheel of bitlens by its name"):
        opened_wheel(empty_wheel(tmp_path, name))


def test_a_wheel_that_is_missing_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "bitlens-0.1.0-py3-none-any.whl"
    with pytest.raises(BitlensError, match="there is no such file"):
        opened_wheel(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(BitlensError, match="is damaged: build it again"):
        opened_wheel(path)


# What is refused before any board is spoken to.


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    assert cli.main(["deploy", *arguments]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_bad_command_lines(capsys: pytest.CaptureFixture[str], network: Path, tmp_path: Path) -> None:
    wheel = str(empty_wheel(tmp_path, "bitlens-0.1.0-py3-none-any.whl"))
    bundle = str(network)
    assert "name a board" in refused(capsys, bundle)
    assert "expected a board as user@host" in refused(capsys, bundle, "pi @x")
    assert "give the network first" in refused(capsys, "pi@x", NET)
    assert "give the network first" in refused(capsys, "--rollback", "pi@x", bundle)
    assert "named twice" in refused(capsys, bundle, "pi@x", "pi@x")
    assert "no wheel of bitlens" in refused(capsys, bundle, "pi@x", "--wheel", bundle)
    assert "cannot read" in refused(capsys, str(tmp_path / "none.bitlens"), "pi@x")
    assert "no bundle" in refused(capsys, "pyproject.toml", "pi@x")
    assert "--rollback installs nothing: leave --wheel out" in refused(capsys, "--rollback", "pi@x", "--wheel", wheel)
    for odd in ("[evil]", "onxn"):
        assert f"--extras names '{odd}', expected some of train, " in refused(
            capsys, bundle, "pi@x", "--wheel", wheel, "--extras", f"onnx,{odd}"
        )
    assert "give --service too" in refused(capsys, bundle, "pi@x", "--wheel", wheel, "--demo-options", "--source 0")
    options = ("--service", "--demo-options", "'")
    assert "check the quotes" in refused(capsys, bundle, "pi@x", "--wheel", wheel, *options)
    options = ("--service", "--demo-options", "'a\nb'")
    assert "not printable" in refused(capsys, bundle, "pi@x", "--wheel", wheel, *options)
    assert "is no folder" in refused(capsys, bundle, "pi@x", "--wheel", wheel, "--wheelhouse", wheel)
    assert "no SSH configuration" in refused(capsys, bundle, "pi@x", "--wheel", wheel, "--ssh-config", "/nowhere")


NET, A, B, OFFLINE = "cifar10-resnet20-w4a4", "pi@a", "pi@b:2222", "--offline"


def test_options_may_stand_anywhere() -> None:
    parser, _ = cli.build_parser()
    for order in itertools.permutations(([NET], [OFFLINE], [A], ["--wheel", "w.whl"], [B])):
        words = list(itertools.chain(*order))
        given = parser.parse_args(["deploy", *words])
        assert [given.network, *given.hosts] == [word for word in words if word in (NET, A, B)], words
        assert (given.offline, given.wheel) == (True, [Path("w.whl")]), words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "the following arguments are required: network, hosts: see `bitlens deploy --help`"),
        ((NET, A, "--wheel"), "argument --wheel: expected one argument: see `bitlens deploy --help`"),
        ((NET, "--offlin=3", A), "argument --offline: ignored explicit argument '3': see `bitlens deploy --help`"),
        ((NET, A, "--color", "red"), "unrecognized arguments: --color red: see `bitlens deploy --help`"),
        ((NET, "--color=red", A), "unrecognized arguments: --color=red"),
        ((NET, OFFLINE, "--", "-oProxyCommand=x"), "expected a board as user@host"),
    ],
)
def test_what_the_parser_says(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):
        cli.main(["deploy", *words])
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_network_that_comes_with_bitlens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, as everywhere, unless a file is called so."""
    wheel, taken = str(empty_wheel(tmp_path, "bitlens-0.1.0-py3-none-any.whl")), []
    monkeypatch.setattr(
        "bitlens.runtime.verbs.deploy.worked_at_once", lambda hosts, work, told, ssh_config: taken.append(work) or []
    )
    monkeypatch.setattr("bitlens.runtime.verbs.deploy.delivered", lambda connection, told, order, dry_run: order.bundle)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["deploy", NET, OFFLINE, A, "--wheel", wheel]) == 0
    assert taken.pop()(None, None) == shipped_bundle(NET)
    shutil.copy(shipped_bundle(NET), tmp_path / NET)
    assert cli.main(["deploy", NET, A, "--wheel", wheel]) == 0
    assert taken.pop()(None, None) == Path(NET)


def test_without_a_wheel_it_says_how_to_make_one(
    capsys: pytest.CaptureFixture[str], network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, str(network), "pi@x")
    assert "no wheel of bitlens" in said
    assert "`make wheels`" in said
    (tmp_path / "dist").mkdir()
    empty_wheel(tmp_path / "dist", "bitlens-0.0.1-py3-none-any.whl")  # of another bitlens
    assert "no wheel of bitlens" in refused(capsys, str(network), "pi@x")


def test_a_bundle_that_could_not_be_verified_there(network: Path, tmp_path: Path) -> None:
    wheel = empty_wheel(tmp_path, "bitlens-0.1.0-py3-none-any.whl")
    bare = tmp_path / "bare.bitlens"
    shutil.copy(network, bare)
    replaced_member(bare, GOLDEN, None)
    with pytest.raises(BitlensError, match="has no golden inputs"):
        checked_order(bare, wheels=[wheel])


def test_a_certificate_of_another_bundle(network: Path, tmp_path: Path) -> None:
    wheel = empty_wheel(tmp_path, "bitlens-0.1.0-py3-none-any.whl")
    other = Path(__file__).parent.parent / "golden" / "bundle_1.bitlens"
    certificate = tmp_path / "other.json"
    assert cli.main(["verify", str(other), "--methods", "none", "--output", str(certificate)]) == 0
    with pytest.raises(BitlensError, match=r"other\.json"):
        checked_order(network, wheels=[wheel], certificate=certificate)
    checked_order(other, wheels=[wheel], certificate=certificate)


def test_no_ssh_here(
    capsys: pytest.CaptureFixture[str], network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = str(empty_wheel(tmp_path, "bitlens-0.1.0-py3-none-any.whl"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["deploy", str(network), "pi@x", "--wheel", wheel]) == 1
    assert "apt install openssh-client" in capsys.readouterr().out


def test_names_of_bundles_there(network: Path, tmp_path: Path) -> None:
    wheel = empty_wheel(tmp_path, "bitlens-0.1.0-py3-none-any.whl")
    for name, there in {
        "a b;c.bitlens": "a_b_c.bitlens",
        "--x.bitlens": "x.bitlens",
        "..bitlens": "bundle.bitlens",
    }.items():
        shutil.copy(network, tmp_path / name)
        assert checked_order(tmp_path / name, wheels=[wheel]).bundle_name == there


# The service.


def analyzed(folder: Path, text: str, *, of_system: bool) -> subprocess.CompletedProcess[str]:
    program = folder / "venv" / "bin" / "bitlens"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("#!/bin/sh\n", "utf-8")
    program.chmod(0o755)
    unit = folder / "bitlens.service"
    unit.write_text(text, "utf-8")
    scope = [] if of_system else ["--user"]
    return subprocess.run(
        ["systemd-analyze", *scope, "--recursive-errors=no", "--man=no", "verify", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)},
    )


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here: apt install systemd"
)
@pytest.mark.parametrize("is_root", [False, True])
@pytest.mark.parametrize("place", ["plain", "with space and 50%"])
def test_systemd_takes_the_unit(tmp_path: Path, is_root: bool, place: str) -> None:
    home = tmp_path / place
    board = replace(PI4, home=str(home), is_root=is_root)
    text = unit_text(board, ["--source", "a 'b' \"c\" \\d %h $HOME", "--x=\u00e9"])
    program = Path(board.data) / "current"
    done = analyzed(program, text, of_system=is_root)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    broken = analyzed(program, text.replace("Restart=on-failure", "Restart=perhaps"), of_system=is_root)
    assert "restart specifier" in broken.stdout + broken.stderr  # the check can fail


def test_what_the_unit_says() -> None:
    text = unit_text(PI4, ["--source", "50% $x"])
    command = '"/home/pi/.local/share/bitlens/current/venv/bin/bitlens" "demo" '
    command += '"/home/pi/.local/share/bitlens/current/network.bitlens" "--source" "50%% $$x"'
    assert f"ExecStart={command}\n" in text
    for line in ("Type=notify", "NoNewPrivileges=yes", "Restart=on-failure", "WantedBy=default.target"):
        assert f"\n{line}\n" in text
    assert "ProtectSystem" not in text  # a user's manager need not be able to
    assert "\nProtectSystem=strict\n" in unit_text(replace(PI4, is_root=True))
    assert "PrivateDevices" not in unit_text(replace(PI4, is_root=True))  # the camera


def test_the_service_is_described() -> None:
    said = "\n".join(description(PI4, has_lingering=False))
    for part in ("journalctl --user -u", "systemctl --user stop", "sudo loginctl enable-linger", "on the board alone"):
        assert part in said
    assert "enable-linger" not in "\n".join(description(PI4, has_lingering=True))
    assert "--user" not in "\n".join(description(replace(PI4, is_root=True), has_lingering=False))


# What a person sees.


@contextmanager
def terminal(lines: int, columns: int) -> Iterator[tuple[TextIO, Callable[[], str]]]:
    """A real terminal of that size: where to write, and what has arrived there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    with os.fdopen(theirs, "w") as stream, os.fdopen(ours, "rb", buffering=0):

        def shown() -> str:
            print("<end>", end="", file=stream, flush=True)  # what was written before need not be there at once
            said = b""
            while not said.endswith(b"<end>"):
                said += os.read(ours, 2**16)
            return said.removesuffix(b"<end>").decode().replace("\r\n", "\n")

        yield stream, shown


def test_progress_in_a_file_is_plain_lines() -> None:
    hosts, stream = [parsed_host("pi@a"), parsed_host("b")], io.StringIO()
    progress = Progress(hosts, stream)
    for host, step, state in ((hosts[0], "look", "begins"), (hosts[0], "look", "done"), (hosts[1], "failed", "ends")):
        progress.told(host, step, state)
    assert stream.getvalue() == "pi@a: look ...\nb: failed\n"


def test_progress_on_a_terminal_is_one_table() -> None:
    hosts = [parsed_host("pi@a"), parsed_host("b")]
    with terminal(24, 80) as (stream, shown):
        progress = Progress(hosts, stream)
        for step, state in (("look", "begins"), ("look", "done"), ("copy", "begins")):
            progress.told(hosts[0], step, state)
        drawings = shown().split("\x1b[2A")
    assert len(drawings) == 2  # drawn over itself
    assert [line.removeprefix("\r\x1b[2K") for line in drawings[1].split("\n")] == [
        "pi@a  look > copy ...",
        "b     waits",
        "",
    ]


@pytest.mark.parametrize("columns", [80, 40, 20, 3])
def test_a_table_never_takes_more_lines_than_it_has_rows(columns: int) -> None:
    """A line that the terminal breaks could not be drawn over."""
    hosts = [parsed_host("pi@raspberrypi.local"), parsed_host("b")]
    names = ("connect", "look", "prepare", "copy", "install", "verify", "trust", "swap", "service", "drop")
    with terminal(24, columns) as (stream, shown):
        progress = Progress(hosts, stream)
        for name in names:
            progress.told(hosts[0], name, "begins")
            progress.told(hosts[0], name, "done")
        lines = [line.removeprefix("\r\x1b[2K") for line in shown().split("\x1b[2A")[-1].split("\n")]
    assert max(map(len, lines)) < columns
    if columns == 80:
        assert lines[0].startswith("pi@raspberrypi.local  ...")
        assert lines[0].endswith(" > swap > service > drop ...")


def test_more_boards_than_a_terminal_has_lines_are_plain_lines() -> None:
    hosts = [parsed_host(f"pi{number}") for number in range(24)]
    with terminal(24, 80) as (stream, shown):
        Progress(hosts, stream).told(hosts[3], "look", "begins")
        assert shown() == "pi3: look ...\n"


def test_nobody_listens_to_the_progress() -> None:
    """`bitlens deploy ... 2>&1 | head -1` is no reason to break off a deploy."""
    reader, writer = os.pipe()
    os.close(reader)
    hosts = [parsed_host("pi@a")]
    stream = os.fdopen(writer, "w")
    Progress(hosts, stream).told(hosts[0], "look", "begins")
    with suppress(BrokenPipeError):
        stream.close()


def test_the_report() -> None:
    good = HostReport(
        "pi@a",
        "deployed",
        board="a board",
        version="v2",
        previous="v1",
        command="/x/bitlens",
        network="/x/n",
        seconds=3.2,
    )
    bad = HostReport("pi@b", FAILED, problem="it is full: make room", words=("no space",))
    assert report_lines([good, bad]) == [
        "pi@a: deployed v2 (3 s)",
        "  a board",
        "  the command there: /x/bitlens",
        "  the network there: /x/n",
        "  back to v1: bitlens deploy --rollback pi@a",
        "pi@b: failed (0 s)",
        "  it is full: make room",
        "  | no space",
        "1 of 2 boards hold what was asked for",
    ]
    planned = HostReport(
        "pi@a", "would deploy", version="v2", previous="v1", plan=("swap: make v3 the current version",)
    )
    assert report_lines([planned]) == [
        "pi@a: would deploy, in use is v2 (0 s)",
        "  swap: make v3 the current version",
    ]


def test_what_ssh_says_becomes_a_sentence() -> None:
    host = parsed_host("pi@board:2222")
    assert "ssh-keygen -R '[board]:2222'" in refusal(host, "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key")
    assert "connect once with `ssh -p 2222 pi@board`" in refusal(host, "Host key verification failed.")
    assert "ssh-copy-id -p 2222 pi@board" in refusal(host, "pi@board: Permission denied (publickey,password).")
    assert "no host of that name" in refusal(host, "ssh: Could not resolve hostname board")
    assert "does not answer" in refusal(host, "ssh: connect to host board port 22: Connection timed out")
    assert "does not answer" in refusal(host, "")
    assert r"\x1b[2J" in refusal(host, "something \x1b[2J new")


def test_the_module_needs_no_other_package() -> None:
    code = "import bitlens.runtime.verbs.deploy, sys; print('numpy' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False"
