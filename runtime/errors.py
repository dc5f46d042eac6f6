"""The one error a user of bitlens sees: what was expected, what came, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class BitlensError(Exception):
    """A refusal that a person can act on; the command line prints it as one line and exits with 1."""


class MissingExtraError(BitlensError):
    """A job needs a package that is not installed; the message names the extra that brings it."""

    def __init__(self, job: str, package: str, extra: str) -> None:
        super().__init__(f"{job} needs {package}, which is not installed: pip install 'bitlens[{extra}]'")


@contextmanager
def context(where: str) -> Iterator[None]:
    """Prefix the message of a `BitlensError` raised inside with `where`; used once, at the API."""
    try:
        yield
    except MissingExtraError:
        raise  # says all there is to say, wherever it happens
    except BitlensError as error:
        raise BitlensError(f"{where}: {error}") from error
