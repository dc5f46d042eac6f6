"""Verifying the engine from the page while the picture goes on: what it finds, one at a time, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from exported_network import exported_network, replaced_member
from live_place import colour_network_file, wait_for
from tampered_engine import with_codes_off

from bitlens.runtime.engines import ENGINES, Engine, open_engine, present_engines
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.golden import golden_of
from bitlens.runtime.live import open_source, parity_check
from bitlens.runtime.live.live_demo import LiveDemo
from bitlens.runtime.live.parity_badge import commands_to_keep, fresh_badge, parity_badge
from bitlens.runtime.live.parity_check import ParityCheck, one_by_one, why_not_verifiable
from bitlens.runtime.live.session import Session
from bitlens.runtime.live.verification import Verification
from bitlens.runtime.live.window import parity_line
from bitlens.runtime.network import GOLDEN, Network, open_network
from bitlens.runtime.parity import EngineParity, compare_engine
from bitlens.runtime.program import Array
from bitlens.runtime.shipped import FOR_PHOTOGRAPHS, SHIPPED, shipped_bundle


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return open_network(exported_network(tmp_path_factory.mktemp("network")))


def demo_of(network: Network, folder: Path) -> LiveDemo:
    session = Session(network, open_engine(network, "reference"), "gradient", None, None)
    return LiveDemo(session, "x", lambda: open_source("synthetic"), certificate=None, snapshots=folder)


class Told:
    """What was told, and the end of it."""

    def __init__(self) -> None:
        self.states: list[Verification] = []

    def __call__(self, state: Verification) -> None:
        self.states.append(state)

    @property
    def is_over(self) -> bool:
        return bool(self.states) and not self.states[-1].is_running


@pytest.mark.parametrize("name", ["reference", "native"])
def test_images_one_by_one_give_the_same_parity(name: str, network: Network) -> None:
    if name not in present_engines(network):
        pytest.skip(f"no engine {name} here")
    golden = golden_of(network)
    engine, reference = open_engine(network, name), open_engine(network, "reference")
    together = compare_engine(engine, reference, golden)
    apart = compare_engine(one_by_one(engine), one_by_one(reference), golden)
    assert apart.holds
    assert apart.tensors == together.tensors
    assert apart.trace_sha256 == together.trace_sha256
    # The order of sums over a batch may be another one; all that must be equal is.
    assert replace(apart, logit_error=0.0, gradient_error=0.0) == replace(together, logit_error=0.0, gradient_error=0.0)


def test_what_is_found_is_told_with_its_progress(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity_check, "TELL_SECONDS", 0.0)
    told = Told()
    check = ParityCheck(network, 1, told)
    check.begin("reference")
    wait_for(lambda: told.is_over, "the outcome")
    check.stop()
    assert told.states[0] == Verification("reference", is_running=True)
    shares = [state.share for state in told.states]
    assert shares == sorted(shares)
    assert shares[-2] == pytest.approx(1.0, abs=0.06)  # nothing is left out, and nothing counted twice
    assert told.states[-1].outcome.startswith("reference: parity verified, 0 of")
    assert check.found["reference"].holds
    badge = fresh_badge(check.found["reference"], network)
    assert (badge.kind, badge.text) == ("here", "parity verified")
    assert "0 of" in badge.reason
    assert badge.commands == ("bitlens verify network.bitlens --output network.certificate.json",)


def test_an_engine_that_computes_something_else_is_found_out(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ENGINES["reference"]
    opened: list[Engine] = []

    def open_tampered(network: Network, threads: int) -> Engine:
        opened.append(entry.open(network, threads))
        return with_codes_off(opened[-1]) if len(opened) == 1 else opened[-1]  # the second is what it is held to

    monkeypatch.setitem(ENGINES, "reference", replace(entry, open=open_tampered))
    told = Told()
    check = ParityCheck(network, 1, told)
    check.begin("reference")
    wait_for(lambda: told.is_over, "the outcome")
    found = check.found["reference"]
    assert found.differing_codes > 0
    assert not found.holds
    assert "parity does not hold" in told.states[-1].outcome
    badge = fresh_badge(found, network)
    assert (badge.kind, badge.text, badge.commands) == ("failed", "parity does not hold", ())
    assert f"{found.differing_codes:,} of" in badge.reason
    assert "first at image 0" in badge.reason


def test_one_at_a_time_and_the_engine_may_change_meanwhile(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [name for name in present_engines(network) if name != "reference"]
    if not others:
        pytest.skip("there is one engine here")
    goes_on = threading.Event()
    compare = compare_engine

    def waiting(*arguments: object) -> EngineParity:
        goes_on.wait()
        return compare(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(parity_check, "compare_engine", waiting)
    demo = demo_of(network, tmp_path)
    demo.verify()
    running = demo.bulletin.news.verification
    assert running is not None
    assert (running.engine, running.is_running) == ("reference", True)
    assert parity_line(demo, "reference") == "verifying reference, 0%"
    with pytest.raises(BitlensError, match="wait until that is done"):
        demo.verify()
    demo.choose({"engine": others[0]})
    with pytest.raises(BitlensError, match="wait until that is done"):
        demo.verify()
    goes_on.set()

    def outcome() -> str:
        verification = demo.bulletin.news.verification
        return "" if verification is None else verification.outcome

    wait_for(outcome, "the outcome")
    assert outcome().startswith("reference: ")  # of the engine that it was begun for
    assert demo.badge("reference").kind == "here"
    assert demo.badge(others[0]).kind == "none"
    assert parity_line(demo, "reference") == "parity verified"
    demo.verify()
    wait_for(lambda: outcome().startswith(f"{others[0]}: "), "the other engine")
    assert demo.badge(others[0]).kind == "here"
    assert demo.badge("reference").kind == "here"


def test_the_end_does_not_wait_for_a_verification(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity_check, "TELL_SECONDS", 0.0)
    demo = demo_of(network, tmp_path)
    demo.start()
    held = threading.Event()
    original = parity_check.watched

    def slow(engine: Engine, told: object) -> Engine:
        watched = original(engine, told)  # type: ignore[arg-type]

        def run_gradient(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
            held.set()
            threading.Event().wait(0.3)
            return watched.run_gradient(feeds, outputs)

        return replace(watched, run_gradient=run_gradient)

    monkeypatch.setattr(parity_check, "watched", slow)
    demo.verify()
    assert held.wait(60)
    demo.stop()
    assert "parity" not in {thread.name for thread in threading.enumerate()}
    assert demo.badge("reference").kind == "none"  # half of it says nothing
    with pytest.raises(BitlensError):
        demo.verify()


@pytest.mark.parametrize("error", [RuntimeError("kernel trouble"), MemoryError(), BitlensError("a cable is loose")])
def test_what_breaks_down_can_be_asked_for_again(
    error: Exception, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> EngineParity:
        raise error

    told = Told()
    check = ParityCheck(network, 1, told)
    with monkeypatch.context() as patch:
        patch.setattr(parity_check, "compare_engine", break_down)
        check.begin("reference")
        wait_for(lambda: told.is_over, "the outcome")
    assert told.states[-1].outcome.startswith("reference cannot be verified")
    assert str(error) in told.states[-1].outcome
    assert check.found == {}
    check.begin("reference")
    wait_for(lambda: "parity verified" in told.states[-1].outcome, "the second attempt")


def test_damaged_golden_inputs_are_said(tmp_path: Path) -> None:
    path = exported_network(tmp_path)
    replaced_member(path, GOLDEN, b"not at all")
    told = Told()
    check = ParityCheck(open_network(path), 1, told)
    check.begin("reference")
    wait_for(lambda: told.is_over, "the outcome")
    assert f"cannot be verified: network.bitlens/{GOLDEN}" in told.states[-1].outcome  # and not where that lies


def test_what_cannot_be_verified_says_why(network: Network, tmp_path: Path) -> None:
    bare = open_network(colour_network_file(tmp_path))
    assert "no golden inputs" in why_not_verifiable(bare, "reference")
    near = next(name for name, entry in ENGINES.items() if not entry.is_exact)
    assert "by design" in why_not_verifiable(network, near)
    assert why_not_verifiable(network, "reference") == ""
    told = Told()
    with pytest.raises(BitlensError, match="no golden inputs"):
        ParityCheck(bare, 1, told).begin("reference")
    assert told.states == []


def test_a_gradient_in_bytes_that_is_not_near_is_no_wrong_network(network: Network) -> None:
    if "native-int8" not in present_engines(network):
        pytest.skip("no engine native-int8 here")
    parity = compare_engine(open_network_engine(network), open_engine(network, "reference"), golden_of(network))
    assert parity.likeness is not None
    far = replace(parity, gradient_exceptions=parity.images)
    assert fresh_badge(far, network).text == "gradient not near enough"
    assert "It computes the network." in fresh_badge(far, network).reason


def open_network_engine(network: Network) -> Engine:
    return open_engine(network, "native-int8")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_can_be_verified_and_says_how_to_keep_it(name: str) -> None:
    network = open_network(shipped_bundle(name))
    assert why_not_verifiable(network, "reference") == ""
    assert parity_badge(None, network, "reference").kind == "none"
    verify, demo = commands_to_keep(network)
    assert verify == f"bitlens verify {name} --output {name}.certificate.json"
    assert demo == f"bitlens demo {name} --certificate {name}.certificate.json"
    assert FOR_PHOTOGRAPHS in SHIPPED
