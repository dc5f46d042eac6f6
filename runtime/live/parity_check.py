"""A thread that verifies one engine when it is asked to: the golden inputs once more, beside the live picture."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bitlens.runtime.autodiff import SEED
from bitlens.runtime.engines import ENGINES, Engine, open_engine
from bitlens.runtime.engines.engine import RunGraph
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.golden import golden_of
from bitlens.runtime.live.explainer_loop import AbandonedError, watched
from bitlens.runtime.live.parity_badge import found_by, fresh_badge
from bitlens.runtime.live.verification import Verification
from bitlens.runtime.network import GOLDEN, Network
from bitlens.runtime.parity import EngineParity, compare_engine
from bitlens.runtime.program import Array

TELL_SECONDS = 0.2
JOIN_SECONDS = 10.0
PASSES = 5
"""Of each image: forward and backward on the engine and on the reference, and the engine's accumulators."""

_LOG = logging.getLogger("bitlens")


def why_not_verifiable(network: Network, engine: str) -> str:
    """Say why an engine cannot be verified for a network; empty if it can."""
    if not network.has(GOLDEN):
        return f"{network.source.name} has no golden inputs to replay"
    if not ENGINES[engine].is_exact:
        return f"{engine} is near the network by design, not equal to it"
    return ""


def one_by_one(engine: Engine) -> Engine:
    """Give the same engine, which takes one image at a time: what else runs gets its turn between them."""
    image = engine.program.inputs[0].name

    def apart(run: RunGraph) -> RunGraph:
        def run_each(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
            parts = [
                run({name: feed[[place]] if name in (image, SEED) else feed for name, feed in feeds.items()}, outputs)
                for place in range(len(feeds[image]))
            ]
            return {name: np.concatenate([part[name] for part in parts]) for name in outputs}

        return run_each

    return replace(engine, run_forward=apart(engine.run_forward), run_gradient=apart(engine.run_gradient))


class ParityCheck:
    """Verifies engines, one at a time; what came out is kept for as long as the program runs.

    Parameters
    ----------
    network : Network
    threads : int
    told : callable
        Called with how it stands, by the thread.
    """

    def __init__(self, network: Network, threads: int, told: Callable[[Verification], None]) -> None:
        self._network, self._threads, self._told = network, threads, told
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_running = False
        self.found: Mapping[str, EngineParity] = {}

    def begin(self, engine: str) -> None:
        """Verify an engine, in the background.

        Raises
        ------
        BitlensError
            If one is being verified, or this one cannot be.
        """
        why_not = why_not_verifiable(self._network, engine)
        if why_not:
            raise BitlensError(f"nothing to verify: {why_not}")
        with self._changing:
            if self._is_running or self._stopping.is_set():
                raise BitlensError("an engine is being verified: wait until that is done")
            thread = threading.Thread(target=self._run, args=(engine,), name="parity", daemon=True)
            thread.start()  # which may fail; it cannot end before this block does
            self._thread, self._is_running = thread, True
            self._told(Verification(engine, is_running=True))

    def stop(self) -> None:
        """Give up after the pass that is being computed; waits for it, `JOIN_SECONDS` at most."""
        self._stopping.set()
        with self._changing:
            thread = self._thread
        if thread is not None:
            thread.join(JOIN_SECONDS)

    def _run(self, engine: str) -> None:
        found = self.found
        try:
            parity = self._compared(engine)
            found = {**found, engine: parity}
            outcome = f"{engine}: {fresh_badge(parity, self._network).text}, {found_by(parity)}"
        except AbandonedError:
            return
        except BitlensError as error:
            said = str(error).replace(str(self._network.source), self._network.source.name)  # no folders on a page
            outcome = f"{engine} cannot be verified: {said}"
        except MemoryError:
            outcome = f"{engine} cannot be verified beside the live picture: out of memory; use `bitlens verify`"
        except Exception as error:  # an engine's own
            _LOG.exception("an engine could not be verified")
            outcome = f"{engine} cannot be verified: {type(error).__name__}: {error}"[:200]
        with self._changing:
            self.found = found
            self._is_running = False
            self._told(Verification(engine, share=1.0, outcome=outcome))

    def _compared(self, name: str) -> EngineParity:
        golden = golden_of(self._network)
        of, done, due = PASSES * len(golden.images), 0, 0.0

        def told(images: int) -> None:
            nonlocal done, due
            if self._stopping.is_set():
                raise AbandonedError
            if time.monotonic() >= due:
                due = time.monotonic() + TELL_SECONDS
                self._told(Verification(name, is_running=True, share=done / of))
            done += images

        # Opened for this alone: the thread that explains goes on with its own.
        engine, reference = (open_engine(self._network, each, threads=self._threads) for each in (name, "reference"))
        return compare_engine(one_by_one(watched(engine, told)), one_by_one(watched(reference, told)), golden)
