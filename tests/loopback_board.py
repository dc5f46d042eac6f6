"""Boards on this machine: a real sshd on loopback, an unprivileged user, a home folder and programs of its own.

As root each board is a mount and process namespace of its own, in which there is one more user, so nothing of this
machine changes and nothing is left running. As anybody else it is the same user with another home.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"/usr/sbin:{os.environ.get('PATH', '')}")
IS_ROOT = os.geteuid() == 0
# As root: a user that exists in the boards' namespaces alone. Not `nobody`, whom libnss-systemd locks.
USER, NUMBER = ("board", 61184) if IS_ROOT else (pwd.getpwuid(os.geteuid()).pw_name, os.geteuid())
SITE = f"python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
CHECKOUT = Path(__file__).parent.parent


@dataclass(frozen=True)
class LoopbackBoard:
    """A board that can be deployed to.

    Parameters
    ----------
    name : str
        Its alias in `ssh_config`.
    port : int
    home, programs : Path
        Of its user; `programs` come first on its PATH.
    ssh_config : Path
        Knows the board, its host key and ours.
    """

    name: str
    port: int
    home: Path
    programs: Path
    ssh_config: Path

    @property
    def data(self) -> Path:
        return self.home / ".local/share/bitlens"

    @property
    def units(self) -> Path:
        """The /etc/systemd/system of a board of root's."""
        return self.home.parent / "units"

    @property
    def current(self) -> str:
        """Where the link of the version in use points; empty without one."""
        link = self.data / "current"
        return os.readlink(link) if link.is_symlink() else ""

    @property
    def versions(self) -> list[str]:
        folder = self.data / "versions"
        return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []

    def everything(self) -> list[str]:
        """Every path below the home folder, installed packages aside."""
        found = []
        for folder, folders, files in os.walk(self.home):
            folders[:] = [each for each in folders if each not in ("site-packages", "venv")]
            found += [os.path.relpath(os.path.join(folder, each), self.home) for each in (*folders, *files)]
        return sorted(found)

    def program(self, name: str, script: str) -> None:
        """Put a program of that name before the system's."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        path.chmod(0o755)

    def run(self, command: str) -> str:
        """Run a command there by plain `ssh`, and return what it says; it must succeed."""
        done = subprocess.run(
            ["ssh", "-F", str(self.ssh_config), self.name, command],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def require_sshd() -> None:
    """Skip where there can be no board."""
    if SSHD is None:
        pytest.skip("there is no sshd here: apt install openssh-server")
    if IS_ROOT and not _can_unshare():
        pytest.skip("root may not make namespaces here, and a board's user is to have no rights: run as another user")
    if board_python() is None:
        pytest.skip(f"no Python {sys.version_info[0]}.{sys.version_info[1]} that {USER} may run makes environments")


@functools.cache
def _can_unshare() -> bool:
    probe = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "setpriv", "--clear-groups", "true"]
    return shutil.which("unshare") is not None and subprocess.run(probe, capture_output=True).returncode == 0


def as_user(command: Sequence[str]) -> list[str]:
    """Make a command one of the board's user."""
    if not IS_ROOT:
        return list(command)
    return ["setpriv", f"--reuid={NUMBER}", f"--regid={NUMBER}", "--clear-groups", *command]


@functools.cache
def board_python() -> str | None:
    """A Python of our own version that the board's user may run, and that makes virtual environments."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    own = os.path.realpath(sys.executable)
    test = f"import ensurepip, sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
    for candidate in (own, f"/usr/bin/python{version}", "/usr/bin/python3", f"/usr/local/bin/python{version}"):
        try:
            # By a shell: setpriv itself may still enter root's folders.
            command = as_user(["sh", "-c", 'exec "$0" "$@"', candidate, "-c", test])
            if subprocess.run(command, capture_output=True, cwd="/").returncode == 0:
                return candidate
        except OSError:
            continue
    return None


@contextmanager
def public_folder() -> Iterator[Path]:
    """Give a folder that every user may enter; pytest's own are private."""
    folder = Path(tempfile.mkdtemp(prefix="bitlens-board-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _packages(names: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Files of installed distributions, with their places below site-packages."""
    for name in names:
        for file in importlib.metadata.files(name) or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                yield Path(str(file.locate())), str(file)


def system_packages(folder: Path) -> None:
    """Copy what a board's system has: NumPy, what a page is served with, and a picamera2."""
    listed = ("numpy", "starlette", "uvicorn", "anyio", "idna", "sniffio", "h11", "click", "typing_extensions")
    for name in listed:
        try:
            files = list(_packages([name]))
        except importlib.metadata.PackageNotFoundError:
            assert name != "numpy"
            continue
        for source, place in files:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / place)
    (folder / "picamera2.py").write_text("", "utf-8")


def packed_wheel(name: str, folder: Path) -> Path:
    """Make a wheel of an installed distribution, as pip would have fetched it."""
    distribution = importlib.metadata.distribution(name)
    told = distribution.read_text("WHEEL") or ""
    tags = [line.partition(":")[2].strip().split("-") for line in told.splitlines() if line.startswith("Tag:")]
    pythons, abis, platforms = ([tag[place] for tag in tags] for place in range(3))
    joined = "-".join(".".join(dict.fromkeys(each)) for each in (pythons, abis, platforms))
    path = folder / f"{name}-{distribution.version}-{joined}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for source, place in _packages([name]):
            if Path(place).name not in ("INSTALLER", "REQUESTED", "direct_url.json"):
                archive.write(source, place)
    return path


def built_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout, without kernels, which is quick."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(CHECKOUT)],
        env={**os.environ, "BITLENS_PURE_PYTHON": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("bitlens-*.whl")
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text("utf-8").strip()


@contextmanager
def loopback_board(
    name: str, *, system: Path | None = None, banner: str = "", with_systemd: bool = False, of_root: bool = False
) -> Iterator[LoopbackBoard]:
    """Start a board, and stop it with everything that runs there.

    Parameters
    ----------
    name : str
    system : Path, optional
        Packages that its Python sees, as `system_packages` makes them.
    banner : str
        What it says before anybody has logged in.
    with_systemd : bool
        Whether a user's systemd runs there, a real one; root alone can do that.
    of_root : bool
        Whether its user is root, with a /root and an /etc/systemd/system of its own, `home` and `units` from outside.
        That user's systemd, which reads units there, stands for the system's: `systemctl` and `journalctl` are told so.
    """
    require_sshd()
    if of_root and not IS_ROOT:
        pytest.skip("root alone can make a board of root's")
    user = "root" if of_root else USER
    with public_folder() as place:
        home, programs, private = place / "home", place / "programs", place / "private"
        for folder in (home, programs, private, place / "run", place / "units"):
            folder.mkdir()
        private.chmod(0o755)
        board_key, own_key = _key(private / "host_key"), _key(place / "own_key")
        (private / "authorized").write_text(f"{own_key}\n", "utf-8")
        (private / "banner").write_text(banner, "utf-8")
        port = _free_port()
        board = LoopbackBoard(name, port, home, programs, place / "ssh_config")
        board.program("python3", f'exec {board_python()} "$@"')
        if of_root:
            for program in ("systemctl", "journalctl"):
                board.program(program, f'exec /usr/bin/{program} --user "$@"')
        if system is not None:
            site = home / ".local/lib" / SITE
            site.parent.mkdir(parents=True)
            if of_root:
                site.mkdir()  # and mounted: a link would lead to /tmp, which the service does not see
            else:
                site.symlink_to(system)
        (private / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {private}/host_key\nAuthorizedKeysFile {private}/authorized\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\n"
            f"MaxStartups 100\nLogLevel ERROR\nSetEnv PATH={programs}:/usr/bin:/bin "
            f"HOME={'/root' if of_root else home}\n" + (f"Banner {private}/banner\n" if banner else ""),
            "utf-8",
        )
        (place / "known_hosts").write_text(f"[127.0.0.1]:{port} {board_key}\n", "utf-8")
        board.ssh_config.write_text(
            f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n  IdentityFile {place}/own_key\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {place}/known_hosts\n  GlobalKnownHostsFile /dev/null\n",
            "utf-8",
        )
        if IS_ROOT and not of_root:
            for folder in (home, private, place / "run"):
                subprocess.run(["chown", "-R", "-h", str(NUMBER), str(folder)], check=True)
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(
                _start(place, programs, with_systemd, system if of_root else None, user),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _await(board, process, place / "log")
            if with_systemd and board.run("ls /run/user/$(id -u)/systemd 2>/dev/null || true") == "":
                pytest.skip("no systemd of a user can run here: " + (place / "log").read_text("utf-8")[-200:])
            yield board
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if with_systemd:
                time.sleep(0.5)
                for root in _control_groups():
                    for folder in sorted(root.rglob("*/"), reverse=True):
                        folder.rmdir() if folder.is_dir() else None
                    root.rmdir()


def _control_groups() -> list[Path]:
    roots = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/systemd")]
    found = [root for root in roots if root.is_dir()] or [Path("/sys/fs/cgroup")]
    return [root / f"bitlens-{os.getpid()}" for root in found]


def _start(place: Path, programs: Path, with_systemd: bool, system: Path | None, user: str) -> list[str]:
    sshd = [str(SSHD), "-D", "-e", "-f", f"{place}/private/sshd_config"]
    if not IS_ROOT:
        if with_systemd:
            pytest.skip("a systemd of a user's own can be started here by root alone")
        return sshd
    number, home, manager, variables = NUMBER, f"{place}/home", ["/lib/systemd/systemd", "--user"], []
    lines = [f"mount --bind {place}/passwd /etc/passwd", "mount -t tmpfs -o mode=755 tmpfs /run", "mkdir /run/sshd"]
    if user == "root":
        number, home, units = 0, "/root", "/etc/systemd/system"
        lines += [f"mount --bind {place}/units {units}", f"mount --bind {place}/home /root"]
        lines += [] if system is None else [f"mount --bind {system} /root/.local/lib/{SITE}"]
        variables = [f"SYSTEMD_UNIT_PATH={units}:/root/.config/systemd/user:/usr/lib/systemd/user"]
    else:
        sshd, manager = as_user(sshd), as_user(manager)
    known = [line for line in Path("/etc/passwd").read_text("utf-8").splitlines() if not line.startswith(f"{user}:")]
    (place / "passwd").write_text("\n".join([f"{user}:x:{number}:{number}::{home}:/bin/sh", *known, ""]), "utf-8")
    if with_systemd:
        run = f"/run/user/{number}"
        lines += [f"mkdir -p /run/systemd/system {run}", f"chown {number} {run}"]
        # What a machine's first process makes, to lay over what a unit may not see.
        special = "mknod -m 0 chr c 0 0; mknod -m 0 blk b 0 0; mkfifo -m 0 fifo; mkdir -m 0 dir; touch reg sock"
        lines.append(f"(mkdir /run/systemd/inaccessible; cd /run/systemd/inaccessible; {special})")
        for group in _control_groups():
            lines += [f"mkdir -p {group}", f"chown -R {number} {group}", f"echo $$ >{group}/cgroup.procs"]
        variables += [f"HOME={home}", f"XDG_RUNTIME_DIR={run}", f"PATH={programs}:/usr/bin:/bin"]
        lines.append(f"{' '.join((*variables, *manager))} &")
    lines.append(f"exec {' '.join(sshd)}")
    script = "set -e\n" + "\n".join(lines)
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]


def _await(board: LoopbackBoard, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", board.port)) == 0:
                return
        assert process.poll() is None, log.read_text("utf-8")
        time.sleep(0.1)
    pytest.fail(f"the board did not come up: {log.read_text('utf-8')}")
