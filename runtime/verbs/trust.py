"""`bitlens trust`: which bundles' ONNX files may be parsed on this machine."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from bitlens.runtime.bundle_file import is_bundle, open_bundle
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.trust import forget_bundle, trust_bundle, trust_list_path, trusted_bundles
from bitlens.runtime.verbs.options import add_json

HELP = "trust a bundle, so that engines which parse its ONNX files open it"
NEEDS = ()

_SHA256 = re.compile("[0-9a-f]{64}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens trust`."""
    parser.add_argument("bundle", nargs="?", help=".bitlens file; with --remove also a SHA-256")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--list", action="store_true", help="print the bundles that are trusted")
    action.add_argument("--remove", action="store_true", help="trust it no longer")
    add_json(parser)


def _identified(text: str, remove: bool) -> tuple[str, str]:
    """SHA-256 and name of what is meant."""
    if remove and _SHA256.fullmatch(text):
        return text, text[:12]
    path = Path(text)
    if path.is_dir() or not is_bundle(path):
        raise BitlensError(f"{path} is no bundle: give a .bitlens file that `bitlens export` wrote")
    return open_bundle(path).sha256, path.name


def run(arguments: argparse.Namespace) -> int:
    """Change the list, or print it."""
    if arguments.list:
        if arguments.bundle is not None:
            raise BitlensError("--list lists every bundle: leave the file out")
        trusted = trusted_bundles()
        if arguments.json:
            entries = [{"sha256": item.sha256, "date": item.date, "name": item.name} for item in trusted.values()]
            print(json.dumps({"list": str(trust_list_path()), "bundles": entries}))
            return 0
        for item in trusted.values():
            print(f"{item.sha256}  {item.date}  {item.name}")
        if not trusted:
            print(f"no bundle is trusted ({trust_list_path()})")
        return 0
    if arguments.bundle is None:
        raise BitlensError("expected a .bitlens file to trust, or --list")
    sha256, name = _identified(arguments.bundle, arguments.remove)
    if arguments.remove:
        if sha256 not in trusted_bundles():
            raise BitlensError(
                f"{arguments.bundle} is not on the trust list {trust_list_path()}: see `bitlens trust --list`"
            )
        forget_bundle(sha256, name)
    else:
        trust_bundle(sha256, name)
    if arguments.json:
        print(json.dumps({"sha256": sha256, "name": name, "trusted": not arguments.remove}))
    else:
        print(f"{name} is {'no longer trusted' if arguments.remove else 'trusted'}: SHA-256 {sha256}")
    return 0
