"""The steps of a deploy and of a rollback, for one board: everything up to the swap leaves the version in use alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitlens.runtime.deploy.board import Board
from bitlens.runtime.deploy.lock import alone
from bitlens.runtime.deploy.order import Order, file_sha256
from bitlens.runtime.deploy.service_unit import (
    UNIT_BEFORE,
    disable_script,
    restart_script,
    restart_step,
    service_step,
    unit_back_script,
)
from bitlens.runtime.deploy.step import Step, Transfer
from bitlens.runtime.deploy.wheel import Wheel

INSTALL_SECONDS = 1800
VERIFY_SECONDS = 1800
SHORT_SECONDS = 300
CERTIFICATE = "desktop-certificate.json"

# Links to a version are made beside and renamed into place, which is one step for the file system.
_FOREIGN = (
    "now=$(readlink current || true)\nnow=${now#versions/}\n"
    'before=$(cat "versions/$now/previous" 2>/dev/null || true)\n'
    'foreign() { [ -e "$1" ] && [ "$1" != "versions/$now" ] && [ "$1" != "versions/$before" ]; }\n'
)
_POINT = 'point() { rm -f current.new; ln -s "versions/$1" current.new; mv -T current.new current; }\n'


@dataclass(frozen=True)
class Version:
    """One installation on a board: a folder of its own, which a link makes the current one.

    Parameters
    ----------
    board : Board
    id : str
    """

    board: Board
    id: str

    @property
    def enter(self) -> str:
        """Script line that goes to the data folder."""
        return f"cd {shlex.quote(self.board.data)} || exit 1\n"

    @property
    def folder(self) -> str:
        """From the data folder; plain characters."""
        return f"versions/{self.id}"

    @property
    def is_current(self) -> str:
        """Script that ends with 0 where it is."""
        return f'[ "$(readlink current)" = {self.folder} ]'


def deploy_steps(
    order: Order, wheel: Wheel, dependencies: Sequence[Path], version: Version, content: str
) -> list[Step]:
    """List the steps that make a new version the current one.

    Parameters
    ----------
    order : Order
    wheel : Wheel
        It fits the board.
    dependencies : sequence of Path
        Wheels to copy too.
    version : Version
    content : str
        Digest that tells this version from others.
    """
    return [
        prepare_step(version, content),
        copy_step(version, files_to_copy(order, wheel, dependencies)),
        install_step(order, wheel, version),
        verify_step(order, version),
        trust_step(order, version),
        swap_step(version),
        *service_steps(order, version),
        drop_step(version),
    ]


def service_steps(order: Order, version: Version) -> list[Step]:
    """List what keeps a service on the current version, if the board has any."""
    board = version.board
    if order.has_service:
        return [service_step(board, version.id, order.demo_options)]
    return [restart_step(board, version.id)] if "systemd" in board.programs else []


def prepare_step(version: Version, content: str) -> Step:
    """Make the new folder, and clear away what other broken-off deploys left."""
    return Step(
        name="prepare",
        purpose=f"make {version.board.data}/{version.folder}",
        check=f"{version.enter}[ -e {version.folder}/content ]",
        script=f"{version.enter}rm -rf incoming {UNIT_BEFORE}\nmkdir -p versions incoming\n{_FOREIGN}"
        'for each in versions/*; do if foreign "$each"; then rm -rf "$each"; fi; done\n'
        f"mkdir {version.folder}\necho {content} >{version.folder}/content.new\n"
        f"mv {version.folder}/content.new {version.folder}/content",
        advice="its data folder cannot be written: see its words below",
        timeout_seconds=SHORT_SECONDS,
    )


def files_to_copy(order: Order, wheel: Wheel, dependencies: Sequence[Path]) -> dict[Path, str]:
    """List what an installation takes, and what it is called there."""
    files = {order.bundle: order.bundle_name} | {path: path.name for path in (wheel.path, *dependencies)}
    return files if order.certificate is None else files | {order.certificate: CERTIFICATE}


def copy_step(version: Version, files: Mapping[Path, str]) -> Step:
    """Copy files; their SHA-256 are compared there."""
    incoming = f"{version.board.data}/incoming"
    transfers = [Transfer(source, f"{incoming}/{name}", file_sha256(source)) for source, name in files.items()]
    listed = "".join(f"{each.sha256}  {each.destination}\n" for each in transfers)
    size = sum(source.stat().st_size for source in files)
    return Step(
        name="copy",
        purpose=f"{size / 1e6:.1f} MB: {', '.join(files.values())}",
        check=f"printf '%s' {shlex.quote(listed)} | sha256sum -c >/dev/null 2>&1",
        script="true",
        advice="what arrived is not what was sent: check the network and the disk there",
        timeout_seconds=SHORT_SECONDS,
        transfers=tuple(transfers),
    )


def install_step(order: Order, wheel: Wheel, version: Version) -> Step:
    """Install into a virtual environment of its own."""
    board, folder = version.board, version.folder
    extras = f"[{','.join(order.extras)}]" if order.extras else ""
    file = shlex.quote(f"incoming/{wheel.path.name}")
    wanted = shlex.quote(f"./incoming/{wheel.path.name}{extras}")
    options = "--disable-pip-version-check --no-input --progress-bar off --quiet --only-binary :all:"
    if order.is_offline:
        options += " --no-index --find-links incoming"
    pip = f"{folder}/venv/bin/python -m pip install {options}"
    installs = f"{pip} {wanted}"
    if board.uses_system_packages:
        # picamera2 is compiled against the NumPy that came with it; a bitlens of the user's own does not count.
        pinned = shlex.quote("numpy==" + board.numpy.partition("+")[0])
        installs = f"{pip} --no-deps --ignore-installed {file}"
        if order.extras:
            installs += f"\necho {pinned} >{folder}/constraints.txt\n"
            installs += f"{pip} --constraint {folder}/constraints.txt {wanted}"
    bundle = shlex.quote(order.bundle_name)
    return Step(
        name="install",
        purpose=f"{wheel.path.name}{extras} into {folder}/venv"
        + (", with the system's packages" if board.uses_system_packages else "")
        + (", without a network" if order.is_offline else ""),
        check=f"{version.enter}[ -e {folder}/network.bitlens ] && {folder}/venv/bin/bitlens --version",
        script=f"{version.enter}unset PIP_USER PIP_TARGET PIP_PREFIX\nrm -rf {folder}/venv {folder}/network.bitlens\n"
        # What `venv` does by itself, but without swallowing what ensurepip says where it fails.
        f"{board.python} -m venv --without-pip "
        f"{'--system-site-packages ' if board.uses_system_packages else ''}{folder}/venv\n"
        f"{folder}/venv/bin/python -I -m ensurepip --upgrade --default-pip >/dev/null\n"
        f"{installs}\n"
        f"mkdir -p {folder}/bundle\ncp incoming/{bundle} {folder}/bundle/\n"
        f"ln -s bundle/{bundle} {folder}/network.bitlens",  # one name for whatever the service runs
        advice="bitlens could not be installed there, and the version in use is as it was: see pip's words below"
        + ("" if order.is_offline else "; a board without a network needs --offline"),
        timeout_seconds=INSTALL_SECONDS,
    )


def verify_step(order: Order, version: Version) -> Step:
    """Replay the golden answers there, and mark the version as verified, and against which certificate."""
    marker = f"{version.folder}/verified"
    against = "" if order.certificate is None else file_sha256(order.certificate)
    return Step(
        name="verify",
        purpose="run `bitlens verify` there"
        + ("" if order.certificate is None else ", against this machine's certificate"),
        # A deploy that was broken off need not have been asked for the same.
        check=version.enter + (f"grep -qx {against} {marker} 2>/dev/null" if against else f"[ -e {marker} ]"),
        script=f"{_verify_script(order, version)}echo '{against}' >verified",
        advice="it does not compute the network as it must, so the version in use is as it was: see its words below",
        timeout_seconds=VERIFY_SECONDS,
    )


def verify_again_step(order: Order, version: Version) -> Step:
    """See whether a version that was verified once still is; there is nothing to be done if not."""
    return Step(
        name="verify",
        purpose=f"run `bitlens verify` on {version.folder}, which is what would be deployed",
        check=f"set -e\n{_verify_script(order, version)}",
        script="false",
        advice="it does not compute the network any more",
        timeout_seconds=VERIFY_SECONDS,
    )


def _verify_script(order: Order, version: Version) -> str:
    against = "" if order.certificate is None else f" --against ../../incoming/{CERTIFICATE}"
    # With `exit`: where this is a check, a command that fails stops nothing by itself.
    return (
        f"{version.enter}cd {version.folder}\n"
        + ("venv/bin/bitlens demo --help >/dev/null || exit 1\n" if order.has_service else "")
        + f"venv/bin/bitlens verify network.bitlens --trust --output certificate{against} || exit 1\n"
        # By this name, beside the bundle, `bitlens demo` finds it: its badge then says what was verified here.
        "cp certificate/certificate.json network.certificate.json\n"
    )


def trust_step(order: Order, version: Version) -> Step:
    """Put the bundle on the list of trusted ones there, now that it is verified."""
    bitlens = f"{version.folder}/venv/bin/bitlens"
    return Step(
        name="trust",
        purpose="put the bundle on the trust list there",
        check=f"{version.enter}{bitlens} trust --list | grep -q ^{order.bundle_sha256}",
        script=f"{version.enter}{bitlens} trust {version.folder}/bundle/{shlex.quote(order.bundle_name)}",
        advice="the bundle could not be put on the trust list there: see its words below",
        timeout_seconds=SHORT_SECONDS,
    )


def swap_step(version: Version) -> Step:
    """Make it the current one; it remembers which was before."""
    return Step(
        name="swap",
        purpose=f"make {version.folder} the current version",
        check=f"{version.enter}{version.is_current}",
        script=f"{version.enter}{_POINT}old=$(readlink current || true)\n"
        f'if [ -n "$old" ]; then echo "${{old#versions/}}" >{version.folder}/previous; fi\n'
        f"sync\npoint {version.id}\nsync",  # a board is often just unplugged
        advice="the current version could not be changed there: see its words below",
        timeout_seconds=SHORT_SECONDS,
    )


def drop_step(version: Version) -> Step:
    """Remove what is neither the current version nor the one before it."""
    return Step(
        name="drop",
        purpose="remove versions older than the one before, and what was copied",
        check=f"{version.enter}{_FOREIGN}[ ! -e incoming ] && [ ! -e {UNIT_BEFORE} ] || exit 1\n"
        'for each in versions/*; do if foreign "$each"; then exit 1; fi; done',
        script=f'{version.enter}{_FOREIGN}[ -n "$now" ]\nrm -rf incoming {UNIT_BEFORE}\n'
        'for each in versions/*; do if foreign "$each"; then rm -rf "$each"; fi; done',
        advice="older versions could not be removed there: see its words below",
        timeout_seconds=SHORT_SECONDS,
    )


def rollback_steps(board: Board) -> list[Step]:
    """List the steps that make the version before the current one; a second rollback goes forward again."""
    version = Version(board, board.previous)
    steps = [
        Step(
            name="check",
            purpose=f"see whether {version.folder} still starts",
            check=f"{version.enter}[ -e {version.folder}/verified ] && {version.folder}/venv/bin/bitlens --version",
            script="false",
            advice="the version before does not start any more, so nothing was changed: deploy again",
            timeout_seconds=SHORT_SECONDS,
        ),
        swap_step(version),
    ]
    return [*steps, restart_step(board, version.id)] if "systemd" in board.programs else steps


def undo_script(version: Version, *, to: str) -> str:
    """Go back to the version that was in use, if any, and its service, and remove the new one.

    Parameters
    ----------
    version : Version
        The new one.
    to : str
        Id of the version that was in use; empty if there was none.
    """
    board = version.board
    back = f"point {to}\n{restart_script(board)}" if to else f"rm -f current\n{disable_script(board)}"
    return alone(
        board,
        f"{version.enter}set -e\n{_POINT}{unit_back_script(board)}if {version.is_current}; then\n{back}\nfi\n"
        f"rm -rf {version.folder} incoming\nrmdir versions 2>/dev/null || true",
    )


def service_undo_script(version: Version) -> str:
    """Give the version in use the service back that it had."""
    board = version.board
    return alone(
        board,
        f"{version.enter}set -e\n[ -e {UNIT_BEFORE} ] || exit 0\n{unit_back_script(board)}{restart_script(board)}",
    )


def return_script(version: Version) -> str:
    """Make a version the current one again after a rollback that failed."""
    board = version.board
    return alone(
        board,
        f"{version.enter}set -e\n{_POINT}if ! {version.is_current}; then\npoint {version.id}\n"
        f"{restart_script(board)}\nfi",
    )
