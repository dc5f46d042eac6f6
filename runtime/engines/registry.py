"""Which engines there are, and how to open one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from bitlens.runtime.engines.engine import Engine
from bitlens.runtime.errors import BitlensError, MissingExtraError, how_to_install
from bitlens.runtime.network import Network
from bitlens.runtime.table import add_row, row_of

AUTO = "auto"

OpenEngine = Callable[[Network, int], Engine]


@dataclass(frozen=True)
class EngineEntry:
    """A row of the engine table.

    Parameters
    ----------
    open : callable
        (network, threads) -> Engine.
    speed : int
        `auto` takes the present engine with the largest one.
    modules : tuple of str
        Python modules of which it needs one; none for an engine that needs nothing.
    extra : str
        What brings the first of them; empty for our own compiled part.
    load : callable, optional
        Loads what it needs, and raises where that does not work; without it the module is imported.
    files : tuple of str
        Members it needs besides the program. Whoever reads them is not made for hostile files, so only those of a
        trusted network are opened.
    is_exact : bool
        Whether its codes are the program's. One whose codes are near is not verified.
    export_option : str
        Option of `bitlens export` that has its files written; empty if they always are.
    """

    open: OpenEngine
    speed: int
    modules: tuple[str, ...] = ()
    extra: str = ""
    files: tuple[str, ...] = ()
    load: Callable[[], object] | None = None
    is_exact: bool = True
    export_option: str = ""


ENGINES: dict[str, EngineEntry] = {}


def register_engine(
    name: str,
    *,
    speed: int,
    modules: tuple[str, ...] = (),
    extra: str = "",
    files: tuple[str, ...] = (),
    load: Callable[[], object] | None = None,
    is_exact: bool = True,
    export_option: str = "",
) -> Callable[[OpenEngine], OpenEngine]:
    """Put the decorated opener into `ENGINES`.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def register(open: OpenEngine) -> OpenEngine:
        add_row(ENGINES, "engine", name, EngineEntry(open, speed, modules, extra, files, load, is_exact, export_option))
        return open

    return register


def has_module(name: str) -> bool:
    """Whether a module is installed here."""
    return find_spec(name) is not None


def is_installed(name: str) -> bool:
    """Whether this machine has what the engine needs."""
    modules = ENGINES[name].modules
    return not modules or any(map(has_module, modules))


def capable_engines(network: Network) -> tuple[str, ...]:
    """Engines that could open this network on this machine if it were trusted, the fastest first."""
    usable = [
        name for name, entry in ENGINES.items() if is_installed(name) and all(network.has(file) for file in entry.files)
    ]
    return tuple(sorted(usable, key=lambda name: -ENGINES[name].speed))


def present_engines(network: Network) -> tuple[str, ...]:
    """Engines that can open this network on this machine, the fastest first."""
    return tuple(name for name in capable_engines(network) if network.trusted or not ENGINES[name].files)


def open_engine(network: Network, name: str = AUTO, *, threads: int = 1) -> Engine:
    """Open a network on an engine.

    Parameters
    ----------
    network : Network
        From `open_network`.
    name : str
        A key of `ENGINES`, or `auto` for the fastest one present.
    threads : int
        Threads the engine may use, at least 1.

    Raises
    ------
    BitlensError
        If the engine is unknown, not installed (the message names the extra), the network lacks what it needs, or is
        not trusted and the engine would parse its files.
    """
    if threads < 1:
        raise BitlensError(f"threads is {threads}, expected at least 1")
    if name == AUTO:
        name = present_engines(network)[0]
    entry = row_of(ENGINES, "engine", name, also=(AUTO,))
    if not is_installed(name):
        raise MissingExtraError(f"engine {name!r}", entry.modules[0], entry.extra)
    missing = [file for file in entry.files if not network.has(file)]
    if missing:
        again = f"export the network again {entry.export_option}".strip()
        raise BitlensError(
            f"engine {name!r} needs {missing[0]}, which {network.source} does not have: {again}, or use --engine "
            "reference"
        )
    if entry.files and not network.trusted:
        raise BitlensError(
            f"engine {name!r} parses files of {network.source}, which is not on your list of trusted networks: if you "
            f"know who made it, run `bitlens trust {network.source}` or add --trust, or use --engine reference"
        )
    try:
        return entry.open(network, threads)
    except ImportError as error:
        raise BitlensError(
            f"engine {name!r} is installed but does not load ({error}): {how_to_install(entry.extra)}, or use --engine "
            "reference"
        ) from error
