"""What can be chosen, what a snapshot keeps, and what the badge says."""

from __future__ import annotations

import json
import os
import shlex
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exported_network import exported_network
from live_place import LABELS, colour_network_file, scenes, wait_for
from PIL import Image
from small_programs import small_network

from bitlens.runtime import cli
from bitlens.runtime.certificate import Certificate, read_certificate
from bitlens.runtime.engines import ENGINES, open_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.live import open_source
from bitlens.runtime.live import snapshot as snapshot_file
from bitlens.runtime.live.explained_frame import ExplainedFrame
from bitlens.runtime.live.explainer_loop import explained
from bitlens.runtime.live.frame import Frame
from bitlens.runtime.live.live_demo import LiveDemo
from bitlens.runtime.live.page_facts import colour_indices
from bitlens.runtime.live.parity_badge import certificate_beside, named_certificate, parity_badge
from bitlens.runtime.live.session import Session, Settings
from bitlens.runtime.live.snapshot import save_snapshot
from bitlens.runtime.methods.heat_picture import heat_picture
from bitlens.runtime.network import Network, open_network
from bitlens.runtime.pictures import colour_table
from bitlens.runtime.program_file import program_bytes


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return open_network(colour_network_file(tmp_path))


@pytest.fixture
def session(network: Network) -> Session:
    return Session(network, open_engine(network, "reference"), "grad_cam", None, None)


def seen_with(session: Session, **wishes: object) -> ExplainedFrame:
    settings = session.choose(wishes)
    frame = Frame(1, "frame 0", scenes(1)[0])
    return explained(open_engine(session.network, settings.engine), frame, settings)


# What can be chosen.


def test_wishes_are_taken_together(session: Session) -> None:
    chosen = session.choose({"method": "rise", "target": 3, "layer": "act1", "engine": "reference", "frozen": True})
    assert (chosen.method, chosen.target, chosen.layer, chosen.engine, chosen.is_frozen) == (
        "rise", 3, "act1", "reference", True,
    )  # fmt: skip
    assert session.choose({"target": "predicted", "layer": None}).target is None


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"method": "guess"}, "unknown method 'guess'"),
        ({"method": 3}, "method is 3, expected a name"),
        ({"method": "x" * 10_000}, "unknown method"),
        ({"target": len(LABELS)}, "target 6 is no class: expected 0 to 5"),
        ({"target": -1}, "no class"),
        ({"target": True}, "no class"),
        ({"target": 1.0}, "no class"),
        ({"target": "cat"}, "no class"),
        ({"target": None}, "no class"),
        ({"layer": "act9"}, "choose from act1, act2"),
        ({"layer": ["act1"]}, "expected a name"),
        ({"engine": "quantum"}, "cannot run here"),
        ({"engine": "onnxruntime"}, "cannot run here"),  # a bare program has no ONNX files
        ({"engine": {}}, "expected a name"),
        ({"frozen": 1}, "expected true or false"),
        ({"opacity": 1}, "no setting 'opacity'"),
        ({"": 1}, "no setting ''"),
    ],
)
def test_what_does_not_exist_is_not_taken(session: Session, wishes: dict[str, object], message: str) -> None:
    before = session.settings
    with pytest.raises(BitlensError, match=message) as refusal:
        session.choose({"method": "gradient", **wishes})
    assert session.settings == before  # not half of it either
    assert len(str(refusal.value)) < 1000


def test_who_chooses_last_is_told_of_last(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = LiveDemo(session, "x", lambda: open_source("synthetic"), certificate=None, snapshots=tmp_path)
    choose, others_done = session.choose, threading.Event()

    def slow(wishes: Mapping[str, object]) -> Settings:
        settings = choose(wishes)
        if wishes == {"method": "gradient"}:
            others_done.wait(0.3)  # in vain where one waits for the other
        return settings

    monkeypatch.setattr(session, "choose", slow)
    first = threading.Thread(target=demo.choose, args=({"method": "gradient"},))
    first.start()
    wait_for(lambda: session.settings.method == "gradient", "the first choice")
    demo.choose({"method": "rise"})
    others_done.set()
    first.join()
    assert demo.bulletin.news.settings == session.settings


def test_engines_say_why_they_cannot_be_chosen(session: Session) -> None:
    problems = session.engine_problems()
    assert set(problems) == set(ENGINES)
    assert problems["reference"] == ""
    assert problems["onnxruntime"]


def test_a_network_that_takes_no_picture(tmp_path: Path) -> None:
    from small_programs import affine, dense, image_input

    from bitlens.runtime.program import Program

    nodes = (dense("image", "sums", np.ones((2, 4), np.int8)), affine("sums", "logits", [1, 1], [0, 0]))
    path = tmp_path / "flat.program"
    path.write_bytes(program_bytes(Program((image_input((4,)),), nodes, ("logits", "sums"), {})))
    network = open_network(path)
    with pytest.raises(BitlensError, match="no picture"):
        Session(network, open_engine(network, "reference"), "gradient", None, None)


# What is shown.


@pytest.mark.parametrize("method", ["gradient", "grad_cam", "rise"])
def test_the_page_has_the_colours_of_explain(session: Session, method: str) -> None:
    explanation = seen_with(session, method=method).explanation
    assert explanation is not None
    shown = colour_table(explanation.method.signed)[colour_indices(explanation)]
    expected = heat_picture(explanation.method, explanation.values)
    # A table of 255 colours cannot be nearer than half its step, which is widest where a channel is steepest.
    step = np.abs(np.diff(colour_table(explanation.method.signed).astype(int), axis=0)).max()
    assert np.abs(shown.astype(int) - expected).max() <= step
    assert colour_table(True)[127].tolist() == [255, 255, 255]  # nothing, exactly


# Snapshots.


@pytest.mark.parametrize(("method", "layer", "target"), [("grad_cam", "act1", "predicted"), ("smoothgrad", None, 2)])
def test_a_snapshot_is_repeated_by_its_command(
    session: Session, method: str, layer: str | None, target: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = seen_with(session, method=method, layer=layer, target=target)
    folder = save_snapshot(tmp_path / "shots", seen, session.network, "a scene")
    assert sorted(path.name for path in folder.iterdir()) == ["image.png", "map.npy", "picture.png", "snapshot.json"]
    facts = json.loads((folder / "snapshot.json").read_text())
    assert (facts["method"], facts["target"], facts["source"]) == (method, seen.target, "a scene")
    assert facts["classes"][0]["class"] == int(seen.logits.argmax())
    with Image.open(folder / "image.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), seen.frame.pixels)
    again = tmp_path / "again"
    again.mkdir()
    (again / session.network.source.name).write_bytes(session.network.source.read_bytes())
    (again / "image.png").write_bytes((folder / "image.png").read_bytes())
    monkeypatch.chdir(again)
    program, *arguments = shlex.split(facts["command"])
    assert program == "bitlens"
    assert cli.main([*arguments, "--output", "picture.png"]) == 0
    assert (again / "map.npy").read_bytes() == (folder / "map.npy").read_bytes()
    assert (again / "picture.png").read_bytes() == (folder / "picture.png").read_bytes()


def test_a_snapshot_of_the_twin_is_repeated_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = open_network(exported_network(tmp_path)).twin()
    assert twin is not None
    session = Session(twin, open_engine(twin, "reference"), "grad_cam", None, None)
    folder = save_snapshot(tmp_path / "shots", seen_with(session), twin, "")
    command = json.loads((folder / "snapshot.json").read_text())["command"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").write_bytes((folder / "image.png").read_bytes())
    assert cli.main([*shlex.split(command)[1:], "--output", "picture.png"]) == 0
    assert (tmp_path / "map.npy").read_bytes() == (folder / "map.npy").read_bytes()


def test_snapshots_never_take_each_others_place(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = seen_with(session)
    monkeypatch.setattr(snapshot_file.secrets, "token_hex", lambda size: "0" * 8)  # the same name within a second
    first = save_snapshot(tmp_path / "shots", seen, session.network, "")
    content = (first / "snapshot.json").read_bytes()
    monkeypatch.setattr(snapshot_file, "datetime", _Stopped(first.name))
    with pytest.raises(BitlensError, match="cannot write a snapshot"):
        save_snapshot(tmp_path / "shots", seen, session.network, "")
    assert (first / "snapshot.json").read_bytes() == content
    assert list((tmp_path / "shots").iterdir()) == [first]


class _Stopped:
    """A clock that shows the time of a snapshot's name."""

    def __init__(self, name: str) -> None:
        from datetime import datetime, timezone

        self._time = datetime.strptime(name[:15], "%Y%m%d-%H%M%S").replace(tzinfo=timezone.utc)

    def now(self, zone: object) -> object:
        return self._time


def test_a_snapshot_that_cannot_be_written_leaves_nothing(session: Session, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("in the way")
    with pytest.raises(BitlensError, match="--snapshots"):
        save_snapshot(place, seen_with(session), session.network, "")
    assert os.listdir(tmp_path) in (["file", "colour.program"], ["colour.program", "file"])


def test_no_snapshot_without_a_map(session: Session, tmp_path: Path) -> None:
    seen = replace(seen_with(session), explanation=None)
    with pytest.raises(BitlensError, match="no map"):
        save_snapshot(tmp_path / "shots", seen, session.network, "")


# The badge.


@pytest.fixture(scope="module")
def certified_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a certificate of this machine beside it."""
    place = tmp_path_factory.mktemp("certified")
    path = exported_network(place)
    arguments = ["--trust", "--methods", "none", "--output", str(place / "certificate.json")]
    assert cli.main(["verify", str(path), *arguments]) == 0
    return path


def certificate_of(path: Path) -> Certificate:
    return read_certificate(path.with_name("certificate.json"))


def test_verified_here(certified_place: Path) -> None:
    network = open_network(certified_place)
    badge = parity_badge(certificate_beside(network), network, "reference")
    assert (badge.kind, badge.text) == ("here", "parity verified")
    assert "0 of" in badge.reason


def test_not_verified(certified_place: Path, network: Network) -> None:
    assert certificate_beside(network) is None  # a bare program has no hash to be bound by
    assert parity_badge(None, network, "reference").kind == "none"
    bundle = open_network(certified_place)
    certificate = certificate_of(certified_place)
    alone = replace(certificate, engines=certificate.engines[:1])
    assert parity_badge(alone, bundle, "native-int9").text == "not verified here"


def test_verified_elsewhere(certified_place: Path) -> None:
    network, certificate = open_network(certified_place), certificate_of(certified_place)
    board = replace(certificate.machine, processor="Raspberry Pi 5", architecture="aarch64")
    badge = parity_badge(replace(certificate, machine=board), network, "reference")
    assert badge.kind == "elsewhere"
    assert "Raspberry Pi 5" in badge.reason
    assert parity_badge(replace(certificate, bitlens="0.0.1"), network, "reference").kind == "elsewhere"


def test_parity_that_does_not_hold(certified_place: Path) -> None:
    network, certificate = open_network(certified_place), certificate_of(certified_place)
    broken = tuple(replace(each, differing_codes=3) for each in certificate.engines)
    badge = parity_badge(replace(certificate, engines=broken), network, "reference")
    assert badge.kind == "failed"
    assert "3 of" in badge.reason


def test_a_certificate_of_another_bundle(certified_place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.bitlens"
    from exported_network import packed, unpacked

    packed(other, unpacked(certified_place), note="another one")
    content = certified_place.with_name("certificate.json").read_bytes()
    (tmp_path / "certificate.json").write_bytes(content)
    network = open_network(other)
    assert certificate_beside(network) is None
    with pytest.raises(BitlensError, match="another SHA-256"):
        named_certificate(tmp_path / "certificate.json", network)
    (tmp_path / "other.json").write_text("damaged")
    assert certificate_beside(network) is None
    assert certificate_beside(open_network(certified_place)) is not None


def test_the_small_network_is_grey_and_fits(tmp_path: Path) -> None:
    path = tmp_path / "grey.program"
    path.write_bytes(program_bytes(small_network()))
    network = open_network(path)
    session = Session(network, open_engine(network, "reference"), "layer_cam", 1, None)
    seen = explained(open_engine(network, "reference"), Frame(1, "", scenes(1)[0]), session.settings)
    assert seen.image.shape == (1, 8, 8)
    assert seen.target == 1
    assert not seen.is_predicted
