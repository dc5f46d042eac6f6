"""The disk of an arm64 Debian 13 (trixie) with systemd, sshd and Python 3.13, made from this machine's own mirror.

    python system_tests/board_image.py      # makes it below PI_HOME, prints where

Packages are unpacked, not configured: no root, no foreign programs here. What their scripts would have done (users,
modules' dependencies, compiled Python) is written down here or done by the system itself, started once.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

QEMU = "qemu-system-aarch64"
SUITE = "trixie"
PROGRAMS = {
    QEMU: "qemu-system-arm",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}
PACKAGE_SCRIPT = Path(__file__).parent.parent / ".ci/arm64_packages"
# Essential ones are named: an empty package state asks for nothing by itself.
PACKAGES = (
    "base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils", "findutils", "grep",
    "gzip", "hostname", "init-system-helpers", "libc-bin", "login", "mawk", "mount", "ncurses-base", "passwd",
    "procps", "sed", "tar", "util-linux", "kmod", "libpam-modules", "libpam-runtime", "libpam-systemd",
    "systemd-sysv", "udev", "dbus-user-session", "openssh-server", "rsync", "python3-venv", "libstdc++6",
    "busybox-static", "linux-image-arm64",
)  # fmt: skip
LEFT_OUT = re.compile(
    r"(linux-image|linux-base|initramfs|dracut|klibc|libklibc|perl|debconf|ucf|adduser|dpkg|cpio)[-_]"
)
# Of a board: its disk and network are virtio's, its camera is vivid, the kernel's own test driver.
BOOT_MODULES = ("virtio_mmio", "virtio_blk", "crc32c_generic", "ext4")  # ext4 asks for crc32c without saying so
LATER_MODULES = ("virtio_net", "vivid", "autofs4")
DISK_BYTES = 4 * 2**30
USER, USER_NUMBER = "pi", 1000
MADE = "second stage: done"
SECOND_STAGE_SECONDS = 900


class NoBoardError(Exception):
    """Why there can be no emulated board here."""


@dataclass(frozen=True)
class BoardImage:
    """What a board is started from.

    Parameters
    ----------
    kernel, initrd, disk : Path
    """

    kernel: Path
    initrd: Path
    disk: Path


def image_home() -> Path:
    """Folder of everything that is kept."""
    return Path(os.environ.get("PI_HOME", Path.home() / ".cache/pi")) / "system"


def made_image() -> BoardImage:
    """Make what is missing of the image; some minutes the first time, nothing after that.

    Raises
    ------
    NoBoardError
        If a program is missing, or the package mirror has no such packages.
    """
    require_programs()
    home = image_home()
    # Any change of this file makes another image.
    place = home / hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    image = BoardImage(place / "vmlinuz", place / "initrd", place / "disk.ext4")
    if image.disk.exists():
        return image
    home.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="making-", dir=home))
    try:
        packages = fetched_packages(home / "packages")
        new = BoardImage(work / "vmlinuz", work / "initrd", work / "disk.ext4")
        version = unpack_kernel(packages, work)
        new.initrd.write_bytes(boot_initrd(work / "root", version))
        write_system(work / "root", version)
        make_disk(work / "root", new.disk)
        run_second_stage(new)
        shutil.rmtree(work / "root")
        shutil.rmtree(place, ignore_errors=True)
        work.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return image


def require_programs() -> None:
    """Refuse where a program is missing.

    Raises
    ------
    NoBoardError
        With the packages that bring them.
    """
    missing = sorted({package for program, package in PROGRAMS.items() if _found(program) is None})
    if missing:
        raise NoBoardError(f"no emulated system here: apt install {' '.join(missing)}")


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _run(command: Sequence[str | Path], *, why: str) -> str:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoBoardError(f"{why}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def fetched_packages(place: Path) -> list[Path]:
    """Fetch the packages; they stay in `place` for the next time."""
    told = _run([PACKAGE_SCRIPT, SUITE, place, *PACKAGES], why=f"no packages of {SUITE}")
    return [Path(line) for line in told.splitlines()]


def _unpack(package: Path, root: Path, *choice: str) -> None:
    """Unpack a package, or what is chosen of it."""
    root.mkdir(parents=True, exist_ok=True)
    reading = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    tar = ["tar", "-x", "-C", str(root), "--no-same-owner", "--same-permissions", "--wildcards", *choice]
    done = subprocess.run(tar, stdin=reading.stdout, capture_output=True, text=True, check=False)
    if reading.wait() != 0 or done.returncode != 0:
        raise NoBoardError(f"{package.name} does not unpack: {done.stderr[-300:]}")


def unpack_kernel(packages: Iterable[Path], work: Path) -> str:
    """Unpack everything, of the kernel what is needed; gives its version."""
    every = list(packages)
    first = [each for each in every if each.name.startswith("base-files_")]  # brings the links /bin, /lib and /sbin
    for package in first + [each for each in every if each not in first and not LEFT_OUT.match(each.name)]:
        _unpack(package, work / "root", "--exclude=./usr/share/doc", "--exclude=./usr/share/man",
                "--exclude=./usr/share/locale", "--exclude=./usr/lib/udev/hwdb.d")  # fmt: skip
    (kernel,) = [each for each in every if re.match(r"linux-image-\d", each.name)]
    _unpack(kernel, work / "kernel")
    (modules,) = (work / "kernel/usr/lib/modules").iterdir()
    shutil.move(next((work / "kernel/boot").glob("vmlinuz-*")), work / "vmlinuz")
    place = work / "root/usr/lib/modules" / modules.name
    place.mkdir(parents=True)
    for path in modules.glob("modules.*"):
        shutil.copy(path, place / path.name)
    for path in needed_modules(modules, (*BOOT_MODULES, *LATER_MODULES)):
        (place / path.relative_to(modules)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / path.relative_to(modules))
    shutil.rmtree(work / "kernel")
    return modules.name


def needed_modules(modules: Path, names: Iterable[str]) -> list[Path]:
    """List files of modules, each behind those that it needs."""
    files = {path.name.removesuffix(".ko.xz").replace("-", "_"): path for path in modules.rglob("*.ko.xz")}
    found: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in found or name not in files:  # what is no file is in the kernel itself
            return
        told = re.search(rb"\0depends=([^\0]*)\0", b"\0" + lzma.decompress(files[name].read_bytes()))
        for other in told[1].decode().split(",") if told and told[1] else ():
            add(other.replace("-", "_"))
        found[name] = files[name]

    for name in names:
        add(name)
    return list(found.values())


BOOT_SCRIPT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /system
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for each in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$each || echo "no module $each"; done
for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; /bin/busybox sleep 0.2; done
/bin/busybox mount -t ext4 -o rw,noatime /dev/vda /system
[ -d /overlay ] && /bin/busybox cp -a /overlay/. /system/
begin=/sbin/init
for word in $(/bin/busybox cat /proc/cmdline); do case $word in bitlens.init=*) begin=${word#*=} ;; esac; done
/bin/busybox umount /proc
/bin/busybox mount --move /dev /system/dev
exec /bin/busybox switch_root /system $begin
"""


def boot_initrd(root: Path, version: str) -> bytes:
    """Pack what mounts the disk: busybox, a script, and the modules for that."""
    files: dict[str, tuple[int, bytes]] = {
        "init": (0o755, BOOT_SCRIPT.encode()),
        "bin/busybox": (0o755, (root / "usr/bin/busybox").read_bytes()),
    }
    needed = needed_modules(root / "usr/lib/modules" / version, BOOT_MODULES)
    names = [path.name.removesuffix(".xz") for path in needed]
    for path, name in zip(needed, names, strict=True):
        files[f"modules/{name}"] = (0o644, lzma.decompress(path.read_bytes()))
    files["modules/order"] = (0o644, "\n".join(names).encode())
    return gzip.compress(cpio_archive(files), compresslevel=1)


def cpio_archive(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """Pack files of root's as the kernel wants them: newc.

    Parameters
    ----------
    files : mapping
        Path without a leading slash -> permissions, content. Folders above are made, mode 755.
    """
    folders = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in sorted(folders)]
    entries += [(name, stat.S_IFREG | mode, content) for name, (mode, content) in files.items()]
    entries.append(("TRAILER!!!", 0, b""))
    packed = bytearray()
    for number, (name, mode, content) in enumerate(entries, start=1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        packed += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        packed += bytes(-len(packed) % 4) + content
        packed += bytes(-len(packed) % 4)
    return bytes(packed + bytes(-len(packed) % 512))


# Files that packages' scripts, or whoever installs a system, would have written. Nothing secret: keys come at a start.
SYSTEM_FILES = {
    "etc/hostname": "board\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 board\n",
    "etc/fstab": "# / is mounted by the initrd\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
    "etc/locale.conf": "LANG=C.UTF-8\n",
    "etc/pam.d/common-auth": "auth required pam_unix.so\n",
    "etc/pam.d/common-account": "account required pam_unix.so\n",
    "etc/pam.d/common-password": "password required pam_unix.so\n",
    # Root's commands here need no manager of their own, whose start takes seconds.
    "etc/pam.d/common-session": "session required pam_unix.so\nsession [success=1 default=ignore] pam_succeed_if.so "
    "quiet uid = 0\nsession optional pam_systemd.so\nsession optional pam_permit.so\n",
    "etc/pam.d/common-session-noninteractive": "session required pam_unix.so\n",
    "etc/ssh/sshd_config": "HostKey /etc/ssh/ssh_host_ed25519_key\nAuthorizedKeysFile /etc/ssh/authorized_keys\n"
    "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM yes\nAcceptEnv LANG LC_*\n"
    "Subsystem sftp /usr/lib/openssh/sftp-server\n",
    "etc/systemd/network/80-wire.network": "[Match]\nName=eth0\n\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
    "IPv6AcceptRA=no\nLinkLocalAddressing=no\n",
    "etc/modules-load.d/board.conf": "virtio_net\nvivid\n",
    # One camera and nothing else: no radio, no overlay, no second one.
    "etc/modprobe.d/vivid.conf": "options vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0x0\n",
    # Minutes of an emulated processor: every module compiled, and not those alone that are imported.
    "etc/pip.conf": "[install]\nno-compile = true\n",
    "etc/systemd/journald.conf.d/board.conf": "[Journal]\nStorage=volatile\n",
}
# In place of what would be found in hardware that there is none of.
UNUSED_UNITS = (
    "systemd-hwdb-update.service", "systemd-journal-catalog-update.service", "ldconfig.service", "getty.target",
    "systemd-firstboot.service", "systemd-timesyncd.service", "apt-daily.timer", "apt-daily-upgrade.timer",
    "systemd-networkd-wait-online.service", "serial-getty@ttyAMA0.service", "sshd-keygen.service",
    "systemd-pcrextend.socket", "e2scrub_all.timer", "e2scrub_reap.service", "proc-sys-fs-binfmt_misc.automount",
)  # fmt: skip
ENABLED_UNITS = {
    "multi-user.target.wants/ssh.service": "/usr/lib/systemd/system/ssh.service",
    "multi-user.target.wants/systemd-networkd.service": "/usr/lib/systemd/system/systemd-networkd.service",
    "default.target": "/usr/lib/systemd/system/multi-user.target",
}

# Run by the system itself, as process 1.
SECOND_STAGE = f"""\
#!/bin/sh
set -e
export PATH=/usr/sbin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
systemd-sysusers
chown -R {USER}:{USER} /home/{USER}
chown root:messagebus /usr/lib/dbus-1.0/dbus-daemon-launch-helper
chmod 4754 /usr/lib/dbus-1.0/dbus-daemon-launch-helper
chmod 640 /etc/shadow /etc/gshadow
depmod VERSION
ldconfig
python3 -m compileall -q -j 2 /usr/lib/python3.13
touch /etc/.updated /var/.updated
sync
mount -o remount,ro /
echo '{MADE}'
busybox poweroff -f
"""


def write_system(root: Path, version: str) -> None:
    """Write what unpacking alone leaves out."""
    for name, text in SYSTEM_FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    master = root / "usr/share/base-passwd"
    users = (master / "passwd.master").read_text("utf-8")
    groups = (master / "group.master").read_text("utf-8")
    users += f"{USER}:x:{USER_NUMBER}:{USER_NUMBER}::/home/{USER}:/bin/bash\n"
    users = users.replace("root:*:", "root:x:").replace(":*:", ":x:")
    groups = re.sub(r"^(video:.*:)$", rf"\1{USER}", groups, flags=re.MULTILINE) + f"{USER}:x:{USER_NUMBER}:\n"
    (root / "etc/passwd").write_text(users, "utf-8")
    (root / "etc/group").write_text(groups, "utf-8")
    # `*`: nobody logs in with a password; a `!` would lock the account for keys too.
    names = [line.partition(":")[0] for line in users.splitlines()]
    (root / "etc/shadow").write_text("".join(f"{name}:*:20000:0:99999:7:::\n" for name in names), "utf-8")
    groups_named = [line.partition(":")[0] for line in groups.splitlines()]
    (root / "etc/gshadow").write_text("".join(f"{name}:*::\n" for name in groups_named), "utf-8")
    (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n", "utf-8")
    (root / "home" / USER).mkdir(parents=True)
    (root / "usr/bin/awk").symlink_to("mawk")
    authorities = sorted(
        (root / "usr/share/ca-certificates").rglob("*.crt")
    )  # pip reads them even where it asks nobody
    (root / "etc/ssl/certs/ca-certificates.crt").write_text("".join(each.read_text("utf-8") for each in authorities))
    units = root / "etc/systemd/system"
    for unit in UNUSED_UNITS:
        (units / unit).symlink_to("/dev/null")
    for name, target in ENABLED_UNITS.items():
        (units / name).parent.mkdir(parents=True, exist_ok=True)
        (units / name).symlink_to(target)
    second = root / "second-stage"
    second.write_text(SECOND_STAGE.replace("VERSION", version), "utf-8")
    second.chmod(0o755)


def make_disk(root: Path, disk: Path) -> None:
    """Make a file system of the folder, everything in it root's."""
    with disk.open("wb") as stream:
        stream.truncate(DISK_BYTES)
    made = [str(_found("mke2fs")), "-q", "-F", "-t", "ext4", "-d", str(root), "-E", "root_owner=0:0", str(disk)]
    if os.geteuid() != 0:
        made = ["unshare", "--map-root-user", *made]  # files of whoever makes it count as root's
    _run(made, why="the disk cannot be made")


def machine(image: BoardImage, *, initrd: Path, words: str, console: Path) -> list[str]:
    """Write the command of the emulated machine: a Cortex-A72 as in a Raspberry Pi 4, two of its four cores."""
    return [
        QEMU, "-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "2048", "-display", "none", "-monitor", "none",
        "-accel", "tcg,thread=multi", "-serial", f"file:{console}", "-kernel", str(image.kernel),
        "-initrd", str(initrd),
        # Page tables of the kernel's own would empty the emulator's at every system call, for no one's protection.
        "-append", f"console=ttyAMA0 net.ifnames=0 nokaslr kpti=0 mitigations=off {words}",
        "-device", "virtio-blk-device,drive=disk",
    ]  # fmt: skip


def run_second_stage(image: BoardImage) -> None:
    """Let the system finish its own disk."""
    console = image.disk.with_name("second-stage.log")
    command = machine(image, initrd=image.initrd, words="quiet panic=-1 bitlens.init=/second-stage", console=console)
    command += ["-drive", f"file={image.disk},if=none,id=disk,format=raw,cache=unsafe", "-nic", "none", "-no-reboot"]
    try:
        subprocess.run(command, check=False, timeout=SECOND_STAGE_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise NoBoardError(f"the new system did not finish its disk within {SECOND_STAGE_SECONDS} s") from error
    said = console.read_text("utf-8", "replace")
    if MADE not in said:
        raise NoBoardError(f"the new system did not finish its disk: {said[-600:]}")


def main() -> int:
    """Make the image, say where it is."""
    start = time.monotonic()
    try:
        image = made_image()
    except NoBoardError as error:
        print(f"emulated system: skipped, {error}")
        return 0
    print(f"{image.disk.parent}, {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
