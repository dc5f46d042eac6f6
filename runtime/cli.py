"""The command line: `bitlens VERB`. Verbs that need torch or onnx appear only where those are installed."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

from bitlens.runtime.errors import BitlensError, MissingExtraError
from bitlens.runtime.verbs import (
    bench,
    capture,
    demo,
    deploy,
    doctor,
    evaluate,
    explain,
    info,
    predict,
    trust,
    verify,
)

VERB_GROUP = "bitlens.verbs"  # other rooms announce their verbs there, because runtime imports neither

VERBS: dict[str, ModuleType] = {
    "info": info,
    "predict": predict,
    "explain": explain,
    "verify": verify,
    "evaluate": evaluate,
    "demo": demo,
    "capture": capture,
    "bench": bench,
    "deploy": deploy,
    "trust": trust,
    "doctor": doctor,
}


def announced_verbs() -> dict[str, EntryPoint]:
    """Verbs of the other rooms, by name."""
    return {entry.name: entry for entry in entry_points(group=VERB_GROUP)}


def missing_need(verb: ModuleType) -> tuple[str, str] | None:
    """First (package, extra) that a verb needs and this machine lacks, or None."""
    return next((need for need in verb.NEEDS if find_spec(need[0]) is None), None)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, like every other refusal."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bitlens: {message}: see `{self.prog} --help`\n")


class _VerbParser(_Parser):
    """A parser of one verb: options may stand before, between and behind files and boards."""

    _is_mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse all there is, in any order; whoever dispatches to a verb calls this."""
        if self._is_mixing:  # some versions of argparse take two passes, by this very method
            return super().parse_known_args(args, namespace)
        self._is_mixing = True
        try:
            parsed, rest = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_mixing = False
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return parsed, rest


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    """Build the parser, and list the verbs it offers on this machine."""
    announced = {name: entry.load() for name, entry in announced_verbs().items()}
    present = {name: verb for name, verb in announced.items() if missing_need(verb) is None} | VERBS
    parser = _Parser(
        prog="bitlens", description="Run low-bit networks on small boards and show what each decision was based on."
    )
    parser.add_argument("--version", action="version", version=f"bitlens {version('bitlens')}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_VerbParser)
    for name, verb in present.items():
        one = verbs.add_parser(name, help=verb.HELP, description=verb.HELP[0].upper() + verb.HELP[1:] + ".")
        verb.add_arguments(one)
    return parser, present


def _abandon_output() -> None:
    """Keep Python from trying once more at exit to write what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns
    -------
    int
        0 only when what was asked for holds; 1 for a refusal, printed as one line; 130 when interrupted. Options that
        do not parse end the process with 2, also with one line.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a label need not exist in the terminal's encoding
    try:
        parser, verbs = build_parser()
        announced = announced_verbs()
        if given and given[0] in announced and given[0] not in verbs:
            need = missing_need(announced[given[0]].load())
            assert need is not None
            raise MissingExtraError(f"bitlens {given[0]}", *need)
        parsed = parser.parse_args(given)
        code = int(verbs[parsed.verb].run(parsed))
        sys.stdout.flush()  # here, where a full disk or a reader that has gone can still be answered
        return code
    except BitlensError as error:
        print(f"bitlens: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except MemoryError:
        print("bitlens: out of memory: use a smaller image or network, or a machine with more memory", file=sys.stderr)
        return 1
    except BrokenPipeError:
        _abandon_output()  # its reader (`head`, say) has gone
        return 1
    except OSError as error:
        if error.filename is not None:  # a file that no verb expected to fail on: a folder that may not be entered, say
            print(f"bitlens: cannot use {error.filename} ({error.strerror}): choose another place", file=sys.stderr)
            return 1
        _abandon_output()
        print(f"bitlens: cannot write the output ({error.strerror}): send it somewhere else", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bitlens: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
