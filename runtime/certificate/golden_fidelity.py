"""How close a network's maps are to its full-precision twin's, on the few golden images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bootstrap import BootstrapMean, bootstrap_mean
from bitlens.runtime.engines import Engine, open_engine
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.evaluation.candidate import Candidate
from bitlens.runtime.evaluation.measurement import compared_maps, control_maps, method_maps
from bitlens.runtime.evaluation.plan import RANDOM_MAP, RANDOM_WEIGHTS, Row
from bitlens.runtime.fidelity import METRICS
from bitlens.runtime.golden import Golden
from bitlens.runtime.methods import METHODS
from bitlens.runtime.network import Network
from bitlens.runtime.random_weights import with_random_weights

Float32 = npt.NDArray[np.float32]

NETWORK = "network"
SEED = 0


@dataclass(frozen=True)
class MeanFidelity:
    """One mean over the golden images.

    Parameters
    ----------
    method : str
        As it was asked for, with its options.
    of : str
        Whose maps are compared with the twin's: `network`, `random weights` or `random map`.
    metric : str
        A key of `METRICS`.
    mean : BootstrapMean
    """

    method: str
    of: str
    metric: str
    mean: BootstrapMean


@dataclass(frozen=True)
class GoldenFidelity:
    """All of them.

    Parameters
    ----------
    engine : str
        Name and version of the one that made the network's maps; the twin's are the reference engine's.
    images : int
        How many; few.
    seed : int
        Of the random weights and the random maps.
    means : tuple of MeanFidelity
    """

    engine: str
    images: int
    seed: int
    means: tuple[MeanFidelity, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """Titles of the methods, in order."""
        return tuple(dict.fromkeys(one.method for one in self.means))

    def mean(self, method: str, of: str, metric: str) -> BootstrapMean | None:
        """Look one mean up; None if it was not measured."""
        found = (one.mean for one in self.means if (one.method, one.of, one.metric) == (method, of, metric))
        return next(found, None)


@dataclass(frozen=True)
class MapsOfMethod:
    """Maps of the golden images, for a page.

    Parameters
    ----------
    row : Row
        The method with its options.
    network, twin : float32 (N, H, W)
        Channels summed; NaN all over where one is not finite.
    """

    row: Row
    network: Float32
    twin: Float32


def golden_fidelity(
    network: Network, engine: Engine, golden: Golden, rows: Sequence[Row]
) -> tuple[GoldenFidelity, tuple[MapsOfMethod, ...]]:
    """Compare the network's maps with the twin's, beside two baselines; each explains the class the network gives.

    Parameters
    ----------
    network : Network
        With a twin.
    engine : Engine
        That runs it.
    golden : Golden
    rows : sequence of Row
        Methods, at least one.

    Notes
    -----
    Cost: each method once on the engine and twice on the reference engine, for every golden image.

    Raises
    ------
    BitlensError
        If there is no twin, it does not fit the network, or a method does not take the options.
    """
    twin = network.twin()
    if twin is None:
        raise BitlensError(f"{network.source} was exported without its full-precision twin: train it with --twin")
    targets = [int(target) for target in golden.targets]
    height, width = golden.images.shape[2:]
    info = engine.info
    means, maps = [], []
    with context("the twin"):
        twin_engine = open_engine(twin, "reference")
        if twin_engine.classes != engine.classes:
            raise BitlensError(f"it has {twin_engine.classes} classes, the network {engine.classes}: export it again")
        shuffled = Network(Path(twin.source), with_random_weights(twin.program, seed=SEED))
        random_engine = open_engine(shuffled, "reference")
    for row in rows:
        own, others, random = (
            method_maps(row, Candidate("", each, ""), golden.images, targets)
            for each in (engine, twin_engine, random_engine)
        )
        places = np.arange(len(targets), dtype=np.int64)
        noise = control_maps(RANDOM_MAP, places, (height, width), SEED, signed=METHODS[row.method].signed)
        for of, compared in ((NETWORK, own), (RANDOM_WEIGHTS, random), (RANDOM_MAP, noise)):
            for name in METRICS:
                means.append(MeanFidelity(row.title, of, name, bootstrap_mean(compared_maps(name, others, compared))))
        maps.append(MapsOfMethod(row, own, others))
    return GoldenFidelity(f"{info.name} {info.version}", len(targets), SEED, tuple(means)), tuple(maps)
