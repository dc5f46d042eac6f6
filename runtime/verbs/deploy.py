"""`bitlens deploy`: bring bitlens and a bundle to boards over SSH, verify it there, and only then use it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from bitlens.runtime.deploy.connection import Connection
from bitlens.runtime.deploy.delivery import delivered, rolled_back, worked_at_once
from bitlens.runtime.deploy.host import parsed_host
from bitlens.runtime.deploy.order import WHEELS, checked_order
from bitlens.runtime.deploy.progress import Progress
from bitlens.runtime.deploy.report import HostReport, report_lines
from bitlens.runtime.deploy.step import Told
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.json_form import to_json
from bitlens.runtime.shipped import SHIPPED, network_path
from bitlens.runtime.verbs.options import add_json

HELP = "bring bitlens and a bundle to boards over SSH, verify it there, and only then use it"
NEEDS = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens deploy`."""
    parser.usage = (
        "bitlens deploy NETWORK HOST [HOST ...] [options]\n       bitlens deploy --rollback HOST [HOST ...] [options]"
    )
    parser.add_argument(
        "network",
        help=f".bitlens file that `bitlens export` wrote, or a network that comes with bitlens: {', '.join(SHIPPED)}; "
        "with --rollback the first board",
    )
    parser.add_argument(
        "hosts",
        nargs="*",
        help="boards, as user@host or user@host:port; keys, aliases and jump hosts are those of your SSH configuration",
    )
    parser.add_argument(
        "--wheel",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"wheel of bitlens; of several each board gets the one that fits (default: those in {WHEELS}/)",
    )
    parser.add_argument("--extras", default="", metavar="NAMES", help="of bitlens, for the boards: onnx,image")
    parser.add_argument("--offline", action="store_true", help="the boards have no network: copy dependencies too")
    parser.add_argument(
        "--wheelhouse", type=Path, metavar="FOLDER", help="take those from this folder, ask no index (means --offline)"
    )
    parser.add_argument(
        "--certificate", type=Path, metavar="FILE.json", help="this machine's, of `bitlens verify`: boards must agree"
    )
    parser.add_argument(
        "--service", action="store_true", help="run `bitlens demo` there from now on, as a systemd unit"
    )
    parser.add_argument(
        "--demo-options", default="", metavar="TEXT", help="of the service's `bitlens demo`, quoted as one word"
    )
    parser.add_argument("--rollback", action="store_true", help="go back to the version before; no bundle is given")
    parser.add_argument("--dry-run", action="store_true", help="look, say what would be done, and change nothing")
    parser.add_argument("--ssh-config", type=Path, metavar="FILE", help="instead of your own, as in `ssh -F`")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Deploy, or roll back, and report; 0 only if every board holds what was asked for."""
    names = [arguments.network, *arguments.hosts] if arguments.rollback else arguments.hosts
    if not names:
        raise BitlensError(f"expected a network and then boards, got only {arguments.network!a}: name a board")
    swapped = [name for name in names if os.path.isfile(network_path(name))]
    if swapped and not os.path.exists(network_path(arguments.network)):
        raise BitlensError(f"{swapped[0]} is a network, expected a board: give the network first, and then the boards")
    hosts = [parsed_host(name) for name in names]
    if len(set(names)) < len(names):
        raise BitlensError("a board is named twice: name each once")
    if arguments.ssh_config is not None and not arguments.ssh_config.is_file():
        raise BitlensError(f"there is no SSH configuration {arguments.ssh_config}: check --ssh-config")
    if arguments.rollback:
        given = [
            name
            for name in ("wheel", "extras", "offline", "wheelhouse", "certificate", "service", "demo_options")
            if getattr(arguments, name)
        ]
        if given:
            raise BitlensError(f"--rollback installs nothing: leave --{given[0].replace('_', '-')} out")

        def work(connection: Connection, told: Told) -> HostReport:
            return rolled_back(connection, told, dry_run=arguments.dry_run)

    else:
        order = checked_order(
            network_path(arguments.network),
            wheels=arguments.wheel,
            extras=[extra for extra in arguments.extras.split(",") if extra],
            is_offline=arguments.offline,
            wheelhouse=arguments.wheelhouse,
            certificate=arguments.certificate,
            has_service=arguments.service,
            demo_options=arguments.demo_options,
        )

        def work(connection: Connection, told: Told) -> HostReport:
            return delivered(connection, told, order, dry_run=arguments.dry_run)

    progress = Progress(hosts, sys.stderr)
    reports = worked_at_once(hosts, work, progress.told, arguments.ssh_config)
    holds = all(report.holds for report in reports)
    if arguments.json:
        print(json.dumps({"holds": holds, "boards": [to_json(report) for report in reports]}))
    else:
        print("\n".join(report_lines(reports)))
    return 0 if holds else 1
