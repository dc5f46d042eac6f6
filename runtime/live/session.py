"""What was chosen: method, class, layer and engine; whoever chooses, nothing that does not exist is taken."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bitlens.runtime.engines import ENGINES, Engine, capable_engines, is_installed, open_engine, present_engines
from bitlens.runtime.errors import BitlensError, how_to_install
from bitlens.runtime.methods import METHODS, Method, Value, method
from bitlens.runtime.network import Network

PREDICTED = "predicted"


@dataclass(frozen=True)
class Settings:
    """A choice.

    Parameters
    ----------
    method : str
    target : int or None
        A class; None for the predicted one.
    layer : str or None
        Feature map for the methods that look at one; None for the last.
    engine : str
    is_frozen : bool
        Whether the frame stays as it is while everything else may change.
    """

    method: str
    target: int | None
    layer: str | None
    engine: str
    is_frozen: bool = False

    def same_map(self, other: Settings) -> bool:
        """Whether the map of one frame is the same for both."""
        return replace(self, is_frozen=False) == replace(other, is_frozen=False)


class Session:
    """A network with what was chosen for it; any thread may choose.

    Parameters
    ----------
    network : Network
    engine : Engine
        Opened already, the one to begin with.
    method : str
    target : int or None
    layer : str or None

    Raises
    ------
    BitlensError
        If the method or the layer does not exist, or the network takes no picture.
    """

    def __init__(self, network: Network, engine: Engine, method: str, target: int | None, layer: str | None) -> None:
        shape = network.program.image_type.shape
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise BitlensError(f"the network takes {'x'.join(map(str, shape))}, which no picture is: choose another")
        self.network = network
        self.labels = tuple(network.label(index) for index in range(engine.classes))
        self.layers = engine.feature_names
        self.threads = engine.info.threads
        self._engines = {engine.info.name: engine}
        self._choosing = threading.Lock()
        self._settings = Settings(METHODS_FIRST, None, None, engine.info.name)
        self.choose({"method": method, "target": PREDICTED if target is None else target, "layer": layer})

    @property
    def settings(self) -> Settings:
        """What is chosen now."""
        return self._settings

    def choose(self, wishes: Mapping[str, object]) -> Settings:
        """Change some of the settings, all that are named or none.

        Parameters
        ----------
        wishes : mapping
            From anywhere: `method`, `engine` (a name), `target` (a class number or "predicted"), `layer` (a name or
            None), `frozen` (bool).

        Raises
        ------
        BitlensError
            If a wish is unknown, of another type, or does not exist here.
        """
        checks = {
            "method": self._checked_method,
            "target": self._checked_target,
            "layer": self._checked_layer,
            "engine": self._checked_engine,
            "frozen": self._checked_frozen,
        }
        with self._choosing:
            chosen = self._settings
            for name, wish in wishes.items():
                if name not in checks:
                    raise BitlensError(f"no setting {ascii(name)[:40]}: choose from {', '.join(checks)}")
                chosen = checks[name](chosen, wish)
            self._settings = chosen
            return chosen

    def _checked_method(self, settings: Settings, wish: object) -> Settings:
        return replace(settings, method=method(_name(wish, "method")).name)

    def _checked_target(self, settings: Settings, wish: object) -> Settings:
        if wish == PREDICTED:
            return replace(settings, target=None)
        if type(wish) is not int or not 0 <= wish < len(self.labels):
            raise BitlensError(f"target {ascii(wish)[:40]} is no class: expected 0 to {len(self.labels) - 1}")
        return replace(settings, target=wish)

    def _checked_layer(self, settings: Settings, wish: object) -> Settings:
        if wish is not None and _name(wish, "layer") not in self.layers:
            known = ", ".join(self.layers) or "none, it has no map with a height and a width"
            raise BitlensError(f"no feature map named {ascii(wish)[:40]}: choose from {known}")
        return replace(settings, layer=None if wish is None else str(wish))

    def _checked_engine(self, settings: Settings, wish: object) -> Settings:
        present = present_engines(self.network)
        if _name(wish, "engine") not in present:
            raise BitlensError(f"engine {ascii(wish)[:40]} cannot run here: choose from {', '.join(present)}")
        return replace(settings, engine=str(wish))

    def _checked_frozen(self, settings: Settings, wish: object) -> Settings:
        if type(wish) is not bool:
            raise BitlensError(f"frozen is {ascii(wish)[:40]}, expected true or false")
        return replace(settings, is_frozen=wish)

    def engine(self, name: str) -> Engine:
        """Open an engine when it is first asked for; only the thread that explains does.

        Raises
        ------
        BitlensError
            If it does not open.
        """
        if name not in self._engines:
            self._engines[name] = open_engine(self.network, name, threads=self.threads)
        return self._engines[name]

    def engine_problems(self) -> dict[str, str]:
        """Say of each engine why it cannot be chosen; empty if it can."""
        capable, present = capable_engines(self.network), present_engines(self.network)
        problems = {}
        for name, entry in ENGINES.items():
            if name in present:
                problems[name] = ""
            elif not is_installed(name):
                problems[name] = f"not installed: {how_to_install(entry.extra)}"
            else:
                problems[name] = "needs `--trust`" if name in capable else "not in this file"
        return problems


METHODS_FIRST = next(iter(METHODS))


def method_settings(chosen: Method, settings: Settings) -> dict[str, Value]:
    """Options with which the chosen method is called: the layer, where it looks at one."""
    names = {option.name for option in chosen.options}
    return {"layer": settings.layer} if settings.layer is not None and "layer" in names else {}


def _name(wish: object, what: str) -> str:
    if not isinstance(wish, str):
        raise BitlensError(f"{what} is {ascii(wish)[:40]}, expected a name")
    return wish[:100]
