"""`bitlens deploy` to a whole system: real pip, real environments, `bitlens verify` on another architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deployed import BITLENS, CURRENT, DATA, FIRST, SECOND, Deployed, deploy
from emulated_board import EmulatedBoard

STEPS = ["prepare", "copy", "install", "verify", "trust", "swap"]


def place_of(version: Deployed) -> str:
    """Its folder there: other tests may have deployed the other one already."""
    return f"{DATA}/versions/{version.report['version']}"


def certificate_there(board: EmulatedBoard, version: Deployed) -> dict[str, Any]:
    return dict(json.loads(board.run(f"cat {place_of(version)}/certificate/certificate.json")))


def hashes(certificate: dict[str, Any], engine: str) -> dict[str, list[str]]:
    """Hashes over codes, masks and accumulators, by tensor: what must not depend on the machine."""
    (found,) = [each for each in certificate["engines"] if each["engine"]["name"] == engine]
    tensors = {f"{each['kind']} {each['name']}": list(each["sha256"]) for each in found["tensors"]}
    return tensors | {"trace": [found["trace_sha256"]]}


def test_the_first_deploy(board: EmulatedBoard, first: Deployed) -> None:
    assert first.code == 0, first.said
    assert first.report["outcome"] == "deployed"
    assert first.report["previous"] == ""
    assert "Python 3.13" in first.report["board"]
    assert [step["name"] for step in first.report["steps"]][:6] == STEPS
    assert board.run("id -u").strip() == "1000"
    assert board.run(f"{place_of(first)}/venv/bin/bitlens --version").startswith("bitlens ")
    listed = board.run(f"{place_of(first)}/venv/bin/python -m pip list --format=freeze")
    assert sorted(line.partition("=")[0] for line in listed.split()) == ["bitlens", "numpy", "pip"]


def test_the_board_computes_what_the_desktop_does(board: EmulatedBoard, first: Deployed) -> None:
    there = certificate_there(board, first)
    assert there["machine"]["architecture"] == "aarch64"
    assert there["machine"]["python"].startswith("3.13.")
    assert there["network"]["bundle_sha256"] == first.certificate["network"]["bundle_sha256"]
    assert [each["engine"]["name"] for each in there["engines"]] == ["native", "reference", "native-int8"]
    for each in there["engines"]:
        name = each["engine"]["name"]
        assert each["holds"]
        assert each["codes"] > 0
        differing = ("differing_codes", "differing_masks", "differing_accumulators", "differing_classes")
        assert [each[kind] for kind in differing] == [0, 0, 0, 0], name
        assert hashes(there, name) == hashes(first.certificate, name), name
        if name != "reference":
            assert "neon" in each["engine"]["kernels"]
            assert "neondot" not in each["engine"]["kernels"]  # a Cortex-A72 has none


def test_the_second_deploy_and_the_way_back(board: EmulatedBoard, first: Deployed, second: Deployed) -> None:
    assert second.code == 0, second.said
    assert second.report["previous"] == first.report["version"]
    assert board.run(f"readlink {CURRENT}").strip() == f"versions/{second.report['version']}"
    assert FIRST in board.run(f"ls {place_of(first)}/bundle")

    for current, before in ((first, second), (second, first)):
        code, report, errors = deploy(board, "--rollback", board.name)
        assert (code, report["outcome"]) == (0, "rolled back"), errors
        assert report["version"] == current.report["version"]
        assert report["previous"] == before.report["version"]
        assert board.run(f"readlink {CURRENT}").strip() == f"versions/{current.report['version']}"
    assert SECOND in board.run(f"{BITLENS} info {CURRENT}/network.bitlens; ls {CURRENT}/bundle")


def test_a_desktop_that_computes_something_else(board: EmulatedBoard, second: Deployed, work: Path) -> None:
    """The comparison can fail: here one hash of the desktop's is another one."""
    told = json.loads((work / f"{SECOND}.json").read_text("utf-8"))
    for engine in told["engines"]:  # one image of one tensor, and so the hash over all
        engine["trace_sha256"] = engine["trace_sha256"][::-1]
        engine["tensors"][0]["sha256"][0] = engine["tensors"][0]["sha256"][0][::-1]
    spoiled = work / "spoiled.json"
    spoiled.write_text(json.dumps(told), "utf-8")
    for name in (f"{SECOND}.json", "spoiled.json"):
        board.send(work / name, to="/tmp/")
    verify = f"{BITLENS} verify {CURRENT}/network.bitlens --trust --methods none --engine native --against /tmp/"
    assert board.tried(f"{verify}{SECOND}.json").returncode == 0
    done = board.tried(f"{verify}spoiled.json")
    assert done.returncode == 1
    assert "the two machines agree" not in done.stdout
