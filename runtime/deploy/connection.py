"""One OpenSSH connection to a board, shared by everything that is asked of it.

The system's own `ssh` does all of it, so that keys, aliases, jump hosts and known hosts are those of the user. Scripts
go to a POSIX shell over standard input: the login shell there, whatever it is, sees constant commands and quoted paths.
"""

from __future__ import annotations

import os
import re
import secrets
import selectors
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bitlens.runtime.deploy.foreign_text import last_lines
from bitlens.runtime.deploy.host import Host
from bitlens.runtime.errors import BitlensError

CONNECT_SECONDS = 15
PERSIST_SECONDS = 60  # a killed deploy leaves its connection open that long
MAX_ANSWER_BYTES = 2**20
SEND_SECONDS = 1800
LOST = 255  # ssh's own exit code
_LONGEST_PLACE = 60

_OPTIONS = (
    "BatchMode=yes",  # asks nothing: many boards are spoken to at once
    "StrictHostKeyChecking=yes",  # whatever the user's configuration says
    f"ConnectTimeout={CONNECT_SECONDS}",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "LogLevel=ERROR",  # why it fails is read from what it says, and a banner is not that
)
_EXIT_CODE = re.compile(r"[0-9]{1,3}")


@dataclass(frozen=True)
class Connection:
    """An open connection.

    Parameters
    ----------
    host : Host
    options : tuple of str
        Of `ssh`, the shared socket among them.
    stopped : threading.Event
        Once it is set, what runs is given up.
    """

    host: Host
    options: tuple[str, ...]
    stopped: threading.Event

    def command(self, *remote: str) -> list[str]:
        """Arguments that run a remote command; its parts are quoted for the shell there."""
        return ["ssh", *self.options, "--", self.host.destination, shlex.join(remote)]


@dataclass(frozen=True)
class Answer:
    """What came back.

    Parameters
    ----------
    code : int
        Exit code of the script; None where the connection broke or time ran out.
    text : str
        What the script wrote on both streams; what ssh said where `code` is None. Not fit to be shown as it is.
    """

    code: int | None
    text: str


class StoppedError(BitlensError):
    """The person at the desktop wants no more of it."""


@contextmanager
def opened_connection(host: Host, stopped: threading.Event, ssh_config: Path | None = None) -> Iterator[Connection]:
    """Connect, and disconnect at the end.

    Parameters
    ----------
    host : Host
    stopped : threading.Event
        Once it is set, what runs is given up.
    ssh_config : Path, optional
        Instead of the user's own.

    Raises
    ------
    BitlensError
        If there is no `ssh` here, nobody answers, the host key is not the known one, or no key opens the door.
    """
    if shutil.which("ssh") is None:
        raise BitlensError("deploy needs the OpenSSH client, and there is no `ssh` here: apt install openssh-client")
    # Not in $TMPDIR: a socket's path is at most 107 bytes long.
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    place = own if 0 < len(own) <= _LONGEST_PLACE and os.access(own, os.W_OK) else "/tmp"
    with tempfile.TemporaryDirectory(prefix="bitlens-", dir=place, ignore_cleanup_errors=True) as folder:
        options = [part for option in _OPTIONS for part in ("-o", option)]
        options += ["-o", f"ControlPath={folder.replace('%', '%%')}/socket"]
        options += [] if ssh_config is None else ["-F", str(ssh_config)]
        options += [] if host.port is None else ["-p", str(host.port)]
        connection = Connection(host, tuple(options), stopped)
        said = Path(folder, "said")
        master = ["-o", "ControlMaster=yes", "-o", f"ControlPersist={PERSIST_SECONDS}", "-N", "-f"]
        with said.open("wb") as stream:  # not a pipe: the connection keeps it open
            try:
                code = subprocess.run(
                    ["ssh", *options, *master, "--", host.destination],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stream,
                    check=False,
                    timeout=4 * CONNECT_SECONDS,
                ).returncode
            except subprocess.TimeoutExpired:
                code = LOST
        if code != 0:
            with said.open("rb") as stream:
                raise BitlensError(refusal(host, stream.read(MAX_ANSWER_BYTES).decode(errors="replace")))
        try:
            yield connection
        finally:
            with suppress(subprocess.TimeoutExpired):  # it ends by itself, then
                subprocess.run(
                    ["ssh", *options, "-O", "exit", "--", host.destination],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    check=False,
                    timeout=CONNECT_SECONDS,
                )


def refusal(host: Host, said: str) -> str:
    """Say in one sentence why `ssh` did not connect, from what it said."""
    known = host.name if host.port is None else f"[{host.name}]:{host.port}"
    by_hand = shlex.join(["ssh", *([] if host.port is None else ["-p", str(host.port)]), host.destination])
    reasons = {
        "IDENTIFICATION HAS CHANGED": "its host key is not the one you know, so nothing was sent: if the board was set "
        f"up anew, remove the old key with `ssh-keygen -R '{known}'`, connect once with `{by_hand}` and compare the "
        "fingerprint",
        "Host key verification failed": f"its host key is not known here: connect once with `{by_hand}`, compare the "
        "fingerprint, and deploy again",
        "Permission denied": "it does not let you in without a password: put your key there with "
        f"`{by_hand.replace('ssh', 'ssh-copy-id', 1)}`, or load it with ssh-add",
        "Could not resolve": "there is no host of that name: check its spelling and the network",
        "Connection refused": "nothing listens there for SSH: switch it on (raspi-config), or give user@host:port",
        "Bad configuration": "the SSH configuration is damaged: see `ssh -G` on that host",
        "Can't open user config file": "there is no such SSH configuration: check --ssh-config",
    }
    for sign, sentence in reasons.items():
        if sign in said:
            return sentence
    if not said.strip() or "timed out" in said or "No route" in said or "unreachable" in said:
        return "it does not answer: check that it is on, and in the same network"
    return f"ssh could not connect ({last_lines(said, 1)[0]}): try `{by_hand}`"


def answered(connection: Connection, script: str, *, timeout_seconds: float) -> Answer:
    """Run a POSIX shell script on the board.

    Parameters
    ----------
    connection : Connection
    script : str
        Values in it are quoted with `shlex.quote`. It reads nothing, and both its streams come back.
    timeout_seconds : float
        After that it counts as lost.

    Raises
    ------
    StoppedError
        If the person at the desktop stopped it.
    """
    mark = secrets.token_hex(16)  # a login shell may greet before and after
    framed = (
        "LC_ALL=C; PYTHONUTF8=1; export LC_ALL PYTHONUTF8; unset PYTHONPATH PYTHONHOME; umask 077\n"
        f"echo {mark}\n(\n{script}\n) </dev/null 2>&1\ncode=$?\nprintf '\\n%s %s\\n' {mark} $code\nexit 0\n"
    )
    _, said = _exchanged(connection, connection.command("exec", "sh", "-s"), framed.encode(), timeout_seconds)
    text = said.decode(errors="replace")
    _, found, rest = text.partition(f"{mark}\n")
    body, ended, end = rest.rpartition(f"\n{mark} ")
    code = _EXIT_CODE.fullmatch(end.split()[0]) if end.split() else None
    if not found or not ended or code is None:
        return Answer(None, text)
    return Answer(int(code[0]), body)


def sent(connection: Connection, source: Path, destination: str, *, with_rsync: bool) -> Answer:
    """Copy a file to an absolute path there, through a neighbour of that name with `.part` behind it.

    Parameters
    ----------
    connection : Connection
    source : Path
    destination : str
    with_rsync : bool
        Whether both sides have it: a copy that broke off goes on then.

    Raises
    ------
    BitlensError
        If the file cannot be read.
    """
    part = f"{destination}.part"
    if with_rsync:
        shell = shlex.join(["ssh", *connection.options])
        name = connection.host.name
        there = f"[{name}]" if ":" in name else name
        user = f"{connection.host.user}@" if connection.host.user else ""
        command = ["rsync", "--inplace", "--protect-args", "--perms", "--chmod=F600", "--rsh", shell, "--"]
        command += [str(source.resolve()), f"{user}{there}:{part}"]
        code, said = _exchanged(connection, command, b"", SEND_SECONDS)
    else:
        command = connection.command("exec", "sh", "-c", 'umask 077; exec cat > "$1"', "sh", part)
        code, said = _exchanged(connection, command, source, SEND_SECONDS)
    return Answer(None if code in (LOST, None) else code, said.decode(errors="replace"))


def _exchanged(
    connection: Connection, command: Sequence[str], given: bytes | Path, timeout_seconds: float
) -> tuple[int | None, bytes]:
    """Exit code, None if time ran out or too much was said, and both streams of a local command."""
    with tempfile.TemporaryFile() as own:
        try:
            stream = given.open("rb") if isinstance(given, Path) else own
        except OSError as error:
            raise BitlensError(f"cannot read {given!s} ({error.strerror})") from error
        with stream:
            if isinstance(given, bytes):
                own.write(given)
                own.seek(0)
            # A session of its own: the terminal's Ctrl-C is for us, who clear up.
            process = subprocess.Popen(
                command, stdin=stream, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            code, said = _listened(process, connection.stopped, time.monotonic() + timeout_seconds)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    return code, said


def _listened(process: subprocess.Popen[bytes], stopped: threading.Event, deadline: float) -> tuple[int | None, bytes]:
    assert process.stdout is not None
    said = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if stopped.is_set():
                raise StoppedError("stopped")
            if not selector.select(0.2):
                continue
            piece = os.read(process.stdout.fileno(), 2**16)
            if not piece:
                return process.wait(), bytes(said)
            said += piece
            if len(said) > MAX_ANSWER_BYTES:
                return None, bytes(said) + b"\n(it said more than bitlens listens to)"
    return None, bytes(said) + b"\n(time ran out)"
