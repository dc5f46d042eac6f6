"""A whole board in QEMU's system emulation: its kernel, systemd as process 1, sshd; what it is given goes with it."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from board_image import USER, BoardImage, cpio_archive, machine

PAGE_PORT = 8765
START_SECONDS = 900.0  # of a busy machine; none asserts a time
COMMAND_SECONDS = 1200.0
ROOT = "root"


@dataclass(frozen=True)
class EmulatedBoard:
    """A board that runs.

    Parameters
    ----------
    port, page_port : int
        On this machine's loopback: its sshd, and its port 8765.
    ssh_config, console : Path
    """

    port: int
    page_port: int
    ssh_config: Path
    console: Path

    @property
    def name(self) -> str:
        """What `bitlens deploy` calls it."""
        return f"{USER}@127.0.0.1:{self.port}"

    def ssh(self, *options: str, user: str = USER) -> list[str]:
        """Write the beginning of an `ssh` command."""
        return ["ssh", "-F", str(self.ssh_config), "-p", str(self.port), *options, f"{user}@127.0.0.1"]

    def tried(
        self, command: str, *, user: str = USER, timeout: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there, whatever comes of it."""
        return subprocess.run(
            [*self.ssh(user=user), command], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout,
            check=False,
        )  # fmt: skip

    def run(self, command: str, *, user: str = USER, timeout: float = COMMAND_SECONDS) -> str:
        """Run a command there and give what it prints; it must succeed."""
        done = self.tried(command, user=user, timeout=timeout)
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def send(self, *files: Path, to: str) -> None:
        """Copy files and folders there, as root, for everyone to read."""
        remote = " ".join(self.ssh(user=ROOT)[:-1])
        command = ["rsync", "-r", "--chmod=D755,F644", "-e", remote, *map(str, files), f"{ROOT}@127.0.0.1:{to}"]
        subprocess.run(command, check=True, timeout=COMMAND_SECONDS, stdin=subprocess.DEVNULL)

    def boot_id(self) -> str:
        """Name this start of its kernel; empty while nobody answers."""
        try:
            return self.tried("cat /proc/sys/kernel/random/boot_id", user=ROOT, timeout=90).stdout.strip()
        except subprocess.TimeoutExpired:
            return ""

    def reboot(self) -> None:
        """Start it again, as a person would, and wait until it answers."""
        before = self.boot_id()
        self.tried("systemctl reboot", user=ROOT, timeout=180)
        end = time.monotonic() + START_SECONDS
        while self.boot_id() in ("", before):
            assert time.monotonic() < end, f"it does not come back: {self.last_words()}"
            time.sleep(0.5)

    def last_words(self) -> str:
        """Give the end of what its console shows."""
        return self.console.read_text("utf-8", "replace")[-2000:]


def free_port() -> int:
    """Give a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text("utf-8")


@contextmanager
def emulated_board(image: BoardImage, folder: Path) -> Iterator[EmulatedBoard]:
    """Start a board with keys of its own, and end it with everything that it wrote.

    Parameters
    ----------
    image : BoardImage
        Stays as it is.
    folder : Path
        For keys and the console, private.
    """
    folder.chmod(0o700)
    port, page_port = free_port(), free_port()
    board_key, own_key = _key(folder / "board_key"), _key(folder / "own_key")
    secrets = cpio_archive({
        "overlay/etc/ssh/ssh_host_ed25519_key": (0o600, (folder / "board_key").read_bytes()),
        "overlay/etc/ssh/authorized_keys": (0o644, own_key.encode()),
    })  # fmt: skip
    initrd = folder / "initrd"
    initrd.write_bytes(image.initrd.read_bytes() + gzip.compress(secrets))
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {board_key}", "utf-8")
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder}/own_key\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n"
        "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  BatchMode yes\n  ConnectTimeout 60\n",
        "utf-8",
    )
    board = EmulatedBoard(port, page_port, folder / "ssh_config", folder / "console.log")
    forwards = f"hostfwd=tcp:127.0.0.1:{port}-:22,hostfwd=tcp:127.0.0.1:{page_port}-:{PAGE_PORT}"
    command = machine(image, initrd=initrd, words="systemd.show_status=yes", console=board.console)
    command += [
        # Changes go into a file that has no name. Nothing outside can be reached from there.
        "-drive", f"file={image.disk},if=none,id=disk,format=raw,snapshot=on,cache=unsafe",
        "-netdev", f"user,id=wire,restrict=on,{forwards}", "-device", "virtio-net-device,netdev=wire",
    ]  # fmt: skip
    with (folder / "emulator.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "TMPDIR": str(folder)},
        )  # fmt: skip
    try:
        end = time.monotonic() + START_SECONDS
        while not board.boot_id():
            said = (folder / "emulator.log").read_text("utf-8", "replace")[-2000:]
            assert process.poll() is None, f"{command[0]} ended: {said}"
            assert time.monotonic() < end, f"it does not answer: {board.last_words()}"
            time.sleep(0.5)
        yield board
    finally:
        process.kill()
        process.wait()
