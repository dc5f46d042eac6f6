"""A thread that explains the newest frame, then the next that is the newest by then."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bitlens.runtime.engines import Engine
from bitlens.runtime.engines.engine import Float32
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.explanation import Explanation
from bitlens.runtime.image import prepared
from bitlens.runtime.live.bulletin import Bulletin, Progress
from bitlens.runtime.live.explained_frame import ExplainedFrame
from bitlens.runtime.live.frame import Frame
from bitlens.runtime.live.frame_rate import FrameRate
from bitlens.runtime.live.newest_frame import NewestFrame
from bitlens.runtime.live.session import Session, Settings, method_settings
from bitlens.runtime.methods import METHODS
from bitlens.runtime.program import Array

LOOK_SECONDS = 0.1
"""How long a change of settings may go unnoticed while no frame comes."""
PROGRESS_SECONDS = 0.3
"""A map that takes longer says how far it is."""
JOIN_SECONDS = 10.0

_LOG = logging.getLogger("bitlens")


class AbandonedError(Exception):
    """A map that nobody waits for any more."""


def watched(engine: Engine, told: Callable[[int], None]) -> Engine:
    """Give the same engine, which says before each call how many images go through; `told` may raise to stop it."""
    image = engine.program.inputs[0].name

    def forward(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        told(len(feeds[image]))
        return engine.run_forward(feeds, outputs)

    def gradient(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        told(2 * len(feeds[image]))
        return engine.run_gradient(feeds, outputs)

    run_near = engine.run_near

    def near(base: Array, others: Array) -> Float32:
        told(len(others))
        assert run_near is not None
        return run_near(base, others)

    return replace(engine, run_forward=forward, run_gradient=gradient, run_near=None if run_near is None else near)


def explained(engine: Engine, frame: Frame, settings: Settings, map_engine: Engine | None = None) -> ExplainedFrame:
    """Predict and explain one frame exactly as `bitlens explain` does with its picture.

    Parameters
    ----------
    engine : Engine
    frame : Frame
    settings : Settings
    map_engine : Engine, optional
        The same engine, `watched`, for the map.

    Raises
    ------
    BitlensError
        If the frame does not fit, or the network does not run. A method that refuses is no error: the prediction
        stays.
    """
    began = time.perf_counter()
    image = prepared(frame.pixels, engine.program.image_type.shape)
    ready = time.perf_counter()
    logits = engine.forward(image[None])[0]
    predicted = time.perf_counter()
    target = int(logits.argmax()) if settings.target is None else settings.target
    chosen = METHODS[settings.method]
    options = method_settings(chosen, settings)
    explanation, refusal = None, ""
    try:
        values = chosen.function(map_engine or engine, image[None], [target], **options)[0].astype(np.float32)
        if not np.isfinite(values).all():
            raise BitlensError(f"the map of {chosen.name} holds NaN or infinity: choose another method")
        explanation = Explanation(chosen, options, chosen.passes(engine.program, **options), values, None)
    except BitlensError as error:
        refusal = str(error)
    done = time.perf_counter()
    return ExplainedFrame(
        frame,
        image,
        engine.info,
        logits,
        target,
        settings.target is None,
        explanation,
        refusal,
        preparation_latency_ms=1e3 * (ready - began),
        forward_latency_ms=1e3 * (predicted - ready),
        map_latency_ms=1e3 * (done - predicted),
    )


class ExplainerLoop:
    """Explains what the slot holds as long as it runs; a change of settings ends a map that is being computed.

    Parameters
    ----------
    session : Session
    newest : NewestFrame
    bulletin : Bulletin
        Told of every explained frame, of progress and of problems.
    """

    def __init__(self, session: Session, newest: NewestFrame, bulletin: Bulletin) -> None:
        self._session, self._newest, self._bulletin = session, newest, bulletin
        self._stopping = threading.Event()
        self.rate = FrameRate()
        self._thread = threading.Thread(target=self._run, name="explainer", daemon=True)

    def start(self) -> None:
        """Begin to explain."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the pass that is being computed; waits for it, `JOIN_SECONDS` at most."""
        self._stopping.set()
        self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        frame: Frame | None = None
        done: Settings | None = None
        while not self._stopping.is_set():
            newer = self._newest.newer_than(0 if frame is None else frame.number, LOOK_SECONDS)
            settings = self._session.settings
            if frame is not None and settings.is_frozen:
                newer = None
            if newer is not None:
                frame, done = newer, None
            if frame is None or (done is not None and settings.same_map(done)):
                if settings.is_frozen:  # newer frames are there and do not count: look again a little later
                    self._stopping.wait(LOOK_SECONDS)
                continue
            try:
                self._explain(frame, settings)
            except AbandonedError:
                continue
            except BitlensError as error:
                self._bulletin.tell(problem=str(error), progress=None)
            except MemoryError:
                self._bulletin.tell(problem="out of memory: choose a method of fewer passes", progress=None)
            except Exception as error:  # an engine's own: the next frame or another choice may do
                _LOG.exception("a frame could not be explained")
                self._bulletin.tell(problem=f"{type(error).__name__}: {error}"[:200], progress=None)
            done = settings

    def _explain(self, frame: Frame, settings: Settings) -> None:
        engine = self._session.engine(settings.engine)
        chosen = METHODS[settings.method]
        passes = chosen.passes(engine.program, **method_settings(chosen, settings))
        began, spent = time.monotonic(), 0

        def told(images: int) -> None:
            nonlocal spent
            if self._stopping.is_set() or not self._session.settings.same_map(settings):
                self._bulletin.tell(progress=None)
                raise AbandonedError
            if time.monotonic() - began > PROGRESS_SECONDS:
                of = passes.forward + passes.backward
                # A step for each hundredth, so that a method of thousands of passes is not thousands of news.
                self._bulletin.tell(progress=Progress(spent * 100 // max(1, of) * of // 100, of))
            spent += images

        result = explained(engine, frame, settings, watched(engine, told))
        self.rate.tick(time.monotonic())
        self._bulletin.tell(explained=result, progress=None, problem="")
