"""The systemd unit that runs `bitlens demo` of the deployed bundle, and the step that puts it to work."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from bitlens.runtime.deploy.board import UNIT, Board
from bitlens.runtime.deploy.step import Step

WORK = "work"  # where the service may write, in the data folder
UNIT_BEFORE = "unit.before"  # in the data folder while a unit is replaced: whether the old one was enabled; its text
START_SECONDS, STEADY_SECONDS = 120, 6
SERVICE = "service"
NO_LINGERING = "lingering: no"

# What a unit of either kind may say without a namespace of its own, which a user's manager need not be able to make.
_HARDENING = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077
"""
_SYSTEM_HARDENING = """\
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={work}
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
"""


def unit_text(board: Board, demo_options: Sequence[str] = ()) -> str:
    """Write the unit: a user's, or the system's where root deploys. No camera is hidden from it.

    Parameters
    ----------
    board : Board
    demo_options : sequence of str
        Printable. Without any the page listens on loopback alone.
    """
    current, work = f"{board.data}/current", f"{board.data}/{WORK}"
    command = [f"{current}/venv/bin/bitlens", "demo", f"{current}/network.bitlens", *demo_options]
    system = _SYSTEM_HARDENING.format(work=_quoted(work, in_command=False)) if board.is_root else ""
    return (
        "# Written by `bitlens deploy --service`; your own changes: `systemctl edit`.\n"
        "[Unit]\nDescription=bitlens demo: live saliency\nStartLimitIntervalSec=300\nStartLimitBurst=10\n\n"
        # Started is what serves its page: on a slow board it takes longer to fail than anybody watches.
        f"[Service]\nType=notify\nTimeoutStartSec={START_SECONDS}\n"
        f"ExecStart={' '.join(map(_quoted, command))}\n"
        f"WorkingDirectory={work.replace('%', '%%')}\n"
        "Environment=PYTHONUNBUFFERED=1\nUnsetEnvironment=DISPLAY WAYLAND_DISPLAY\n"  # nobody is there to look
        f"Restart=on-failure\nRestartSec=5\nTimeoutStopSec=20\n{_HARDENING}{system}\n"
        f"[Install]\nWantedBy={'multi-user' if board.is_root else 'default'}.target\n"
    )


def _quoted(word: str, *, in_command: bool = True) -> str:
    """Quote a word for systemd, which knows escapes, specifiers and, in commands, variables."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{word.replace("$", "$$") if in_command else word}"'


def systemctl(board: Board) -> str:
    """Name the manager of the unit, as a person types it."""
    return "systemctl" if board.is_root else "systemctl --user"


def _setting(board: Board, version_id: str) -> str:
    """Shell functions: `manage`; whether the unit `runs` this very version, has `settled`, and `stays`."""
    return (
        'export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"\n'
        f'manage() {{ {systemctl(board)} --no-ask-password "$@"; }}\n'
        "main_pid() { manage show -p MainPID --value " + UNIT + " 2>/dev/null; }\n"
        f'runs() {{ p=$(main_pid) && [ "${{p:-0}}" -gt 0 ] && tr "\\000" "\\n" </proc/$p/cmdline | '
        f"grep -q versions/{version_id}/; }}\n"
        # Long enough for one that only comes and goes to be gone again.
        f"settled() {{ t=$(manage show -p ActiveEnterTimestampMonotonic --value {UNIT}); "
        "up=$(cut -d. -f1 /proc/uptime); "
        f"runs && [ $((up - ${{t:-0}} / 1000000)) -ge {STEADY_SECONDS - 1} ]; }}\n"
        f"stays() {{ for i in 1 2 3 4 5 6 7 8 9 10; do runs && break; sleep 1; done; was=$(main_pid); "
        f'sleep {STEADY_SECONDS}; settled && [ "$was" = "$(main_pid)" ]; }}\n'
    )


def _failure(board: Board) -> str:
    log = "journalctl -u" if board.is_root else "journalctl --user -u"
    # The status of a unit that failed is an error too.
    return f"{{ manage --no-pager --lines 20 status {UNIT} || true; {log} {UNIT} -n 20 --no-pager; exit 1; }} 2>&1"


def _restart(board: Board) -> str:
    """Script: restart the unit, also if it was started too often of late, and see that it stays."""
    return f"manage reset-failed {UNIT} 2>/dev/null || true\nmanage restart {UNIT} && stays || {_failure(board)}"


def _folder(board: Board) -> str:
    return "/etc/systemd/system" if board.is_root else f"{board.home}/.config/systemd/user"


def service_step(board: Board, version_id: str, demo_options: Sequence[str]) -> Step:
    """Write, enable and start the unit; what was there before is kept until all is done."""
    folder, before = _folder(board), shlex.quote(f"{board.data}/{UNIT_BEFORE}")
    setting, text = _setting(board, version_id), unit_text(board, demo_options)
    place = shlex.quote(f"{folder}/{UNIT}")
    keep = (
        f"if [ ! -e {before} ]; then\n"
        f'{{ echo "$(manage is-enabled {UNIT} 2>/dev/null)"; cat {place} 2>/dev/null || true; }} >{before}.new\n'
        f"mv {before}.new {before}\nfi\n"
    )
    lingers = f'[ -e "/var/lib/systemd/linger/$(id -un)" ] || echo "{NO_LINGERING}"'
    linger = f"loginctl --no-ask-password enable-linger >/dev/null 2>&1 || true\n{lingers}\n"
    return Step(
        name=SERVICE,
        purpose=f"write {folder}/{UNIT}, enable and start it",
        check=f'{setting}[ "$(cat {place} 2>/dev/null)" = {shlex.quote(text.rstrip())} ] '
        f"&& manage is-enabled --quiet {UNIT} && settled && {{ {lingers}; }}",
        script=f"{setting}mkdir -p {shlex.quote(folder)} {shlex.quote(board.data + '/' + WORK)}\n{keep}"
        f"printf '%s' {shlex.quote(text)} >{place}.new\nmv -f {place}.new {place}\nmanage daemon-reload\n"
        f"manage enable --quiet {UNIT}\n{'' if board.is_root else linger}{_restart(board)}",
        advice="the service does not stay up there: see its words below, and `bitlens doctor` there",
        timeout_seconds=180,
    )


def restart_step(board: Board, version_id: str) -> Step:
    """Let a unit of an earlier deploy, if it runs, go on with this version."""
    return Step(
        name="restart",
        purpose=f"restart {UNIT} if it runs",
        check=f"{_setting(board, version_id)}manage is-active --quiet {UNIT} || exit 0; settled",
        script=f"{_setting(board, version_id)}{_restart(board)}",
        advice="the service does not stay up with this version: see its words below",
        timeout_seconds=180,
    )


def restart_script(board: Board) -> str:
    """Restart the unit if it is to run, whatever comes of it."""
    return _if_enabled(board, f"manage reset-failed {UNIT} 2>/dev/null; manage restart {UNIT}")


def disable_script(board: Board) -> str:
    """Stop the unit for good, if there is one."""
    return _if_enabled(board, f"manage disable --now {UNIT}")


def unit_back_script(board: Board) -> str:
    """Put the unit back that a service step of this deploy replaced; where there was none, there is none again."""
    if "systemd" not in board.programs:
        return ""
    before, place = shlex.quote(f"{board.data}/{UNIT_BEFORE}"), shlex.quote(f"{_folder(board)}/{UNIT}")
    return (
        f"if [ -e {before} ]; then\n{_setting(board, '')}"
        f'if [ "$(head -n 1 {before})" != enabled ]; then manage disable --quiet --now {UNIT} || true; fi\n'
        f"tail -n +2 {before} >{place}.new\n"
        f"if [ -s {place}.new ]; then mv -f {place}.new {place}; else rm -f {place}.new {place}; fi\n"
        f"manage daemon-reload || true\nrm -f {before}\nfi\n"
    )


def _if_enabled(board: Board, script: str) -> str:
    if "systemd" not in board.programs:
        return ""
    return f"{_setting(board, '')}if manage is-enabled --quiet {UNIT} 2>/dev/null; then {script} || true; fi"


def description(board: Board, *, has_lingering: bool) -> tuple[str, ...]:
    """Say to a person how the service is looked at, changed and stopped."""
    control = systemctl(board)
    log = "journalctl -u" if board.is_root else "journalctl --user -u"
    lines = [
        f"service {UNIT}: runs `bitlens demo` of the current version; look with `{control} status {UNIT}`",
        f"  its log, with the address of its page: `{log} {UNIT} -f`",
        f"  stop it: `{control} stop {UNIT}`; for good: `{control} disable --now {UNIT}`",
        "  its page listens on the board alone: `ssh -L PORT:localhost:PORT` brings it here, --demo-options changes it",
    ]
    if not board.is_root and not has_lingering:
        lines.append(
            "  it starts when that user logs in and stops when the last session ends; `sudo loginctl enable-linger` "
            "there, once, lets it start with the board"
        )
    return tuple(lines)
