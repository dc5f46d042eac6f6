"""Threads of the native engine: the same bits whatever their number, engines side by side, Python not held up."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from small_programs import binary_network, residual_network, small_network, small_twin

from bitlens.runtime.engines import Engine, one_hot, open_engine
from bitlens.runtime.engines.native import LaidOutProgram
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.network import Network
from bitlens.runtime.program import Program

pytest.importorskip("bitlens.runtime._kernels", reason="bitlens was installed without its compiled part")

NETWORKS = {
    "small": small_network(), "residual": residual_network(), "twin": small_twin(), "binary": binary_network(2)
}  # fmt: skip
Answer = list[npt.NDArray[np.generic]]


def opened(program: Program, name: str, threads: int) -> Engine:
    return open_engine(Network(Path("threads"), program), name, threads=threads)


def answer(engine: Engine, batch: int) -> Answer:
    """What an engine says of a batch: logits, gradient, codes."""
    images = np.random.default_rng(batch).integers(0, 256, (batch, *engine.program.image_type.shape)).astype(np.uint8)
    seeds = one_hot(np.arange(batch) % engine.classes, engine.classes)
    traced = engine.traced_gradient(images, seeds)
    return [engine.forward(images), traced.logits, traced.input_gradient, *traced.codes.values()]


def agrees(engine: Engine, batch: int, expected: Answer) -> bool:
    got = answer(engine, batch)
    return len(got) == len(expected) and all(map(np.array_equal, got, expected))


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("engine", ["native", "native-int8"])
def test_any_number_of_threads_gives_the_same_bits(engine: str, name: str) -> None:
    alone = opened(NETWORKS[name], engine, 1)
    expected = {batch: answer(alone, batch) for batch in (1, 7, 33)}
    for threads in (2, 3, 5):
        several = opened(NETWORKS[name], engine, threads)
        for _ in range(2):
            for batch, wanted in expected.items():
                assert agrees(several, batch, wanted), (threads, batch)


def at_once(calls: Sequence[Callable[[], bool]], times: int) -> list[str]:
    """Call each in a thread of its own, again and again; what went wrong."""
    wrong: list[str] = []
    together = threading.Barrier(len(calls))

    def serve(place: int) -> None:
        together.wait()
        for turn in range(times):
            try:
                if not calls[place]():
                    wrong.append(f"thread {place}, turn {turn}: another answer")
            except Exception as error:
                wrong.append(f"thread {place}, turn {turn}: {error!r}")

    workers = [threading.Thread(target=serve, args=(place,)) for place in range(len(calls))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return wrong


@pytest.mark.parametrize("threads", [1, 2])
def test_two_engines_run_at_once(threads: int) -> None:
    calls = []
    for program, batch in ((NETWORKS["small"], 7), (NETWORKS["residual"], 3)):
        expected = answer(opened(program, "native", 1), batch)
        engine = opened(program, "native", threads)
        calls.append(partial(agrees, engine, batch, expected))
    assert at_once(calls, 20) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_one_engine_is_used_from_two_threads(threads: int) -> None:
    alone = opened(NETWORKS["small"], "native", 1)
    engine = opened(NETWORKS["small"], "native", threads)
    expected = {batch: answer(alone, batch) for batch in (1, 7)}
    calls = [partial(agrees, engine, batch, wanted) for batch, wanted in expected.items()]
    assert at_once(calls, 20) == []


def test_a_wrong_answer_of_a_thread_is_found() -> None:
    assert at_once([lambda: True, lambda: False], 1) == ["thread 1, turn 0: another answer"]


def proceeds_during(run: Callable[[], object]) -> bool:
    """Whether another thread gets to run Python code inside `run`: threads are not switched in between."""
    begun, seen = threading.Event(), threading.Event()
    was_seen: list[bool] = []

    def work() -> None:
        begun.set()
        for _ in range(300):
            run()
            if seen.is_set():
                break
        was_seen.append(seen.is_set())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        begun.wait()
        seen.set()
        worker.join()
    finally:
        sys.setswitchinterval(interval)
    return was_seen == [True]


def test_python_proceeds_while_a_plan_runs() -> None:
    laid_out = LaidOutProgram(NETWORKS["small"], 1, int8_gradients=False)
    plan = laid_out.layout(("logits",)).plan
    assert proceeds_during(lambda: plan.run(32, 2))
    assert proceeds_during(lambda: time.sleep(0.001))
    assert not proceeds_during(lambda: sum(range(1000)))


def test_more_threads_than_there_can_be() -> None:
    with pytest.raises(BitlensError, match="threads is 257, expected 1 to 256"):
        opened(NETWORKS["small"], "native", 257)
