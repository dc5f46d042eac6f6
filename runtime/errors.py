"""The one error a user of bitlens sees: what was expected, what came, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class BitlensError(Exception):
    """A refusal that a person can act on; the command line prints it as one line and exits with 1."""


class MissingExtraError(BitlensError):
    """A job needs a module that is not installed; the message says what brings it."""

    def __init__(self, job: str, module: str, extra: str) -> None:
        super().__init__(f"{job} needs {module}, which is not installed: {how_to_install(extra)}")


def how_to_install(extra: str) -> str:
    """Say how to get what an extra brings; without one, the compiled part of bitlens."""
    if extra:
        return f"pip install 'bitlens[{extra}]'"
    return "it is the compiled part of bitlens, install bitlens with a C++ compiler and without BITLENS_PURE_PYTHON"


@contextmanager
def context(where: str) -> Iterator[None]:
    """Prefix the message of a `BitlensError` raised inside with `where`; used once, at the API."""
    try:
        yield
    except MissingExtraError:
        raise  # says all there is to say, wherever it happens
    except BitlensError as error:
        raise BitlensError(f"{where}: {error}") from error
