"""What `bitlens verify` certifies here has the desktop's hashes of codes, masks and logit accumulators."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from networks import NETWORKS

from bitlens.runtime import cli
from bitlens.runtime.machine import this_machine

DESKTOP = os.environ.get("BITLENS_CERTIFICATES")
BUNDLES = [path for path in NETWORKS if DESKTOP and (Path(DESKTOP) / f"{path.stem}.json").exists()]

pytestmark = pytest.mark.skipif(
    not BUNDLES, reason="BITLENS_CERTIFICATES names no folder of the desktop's certificates"
)


def verified(path: Path, against: Path, folder: Path) -> tuple[int, dict[str, Any]]:
    place = folder / "here.json"
    options = ["--trust", "--methods", "none", "--output", str(place), "--against", str(against)]
    code = cli.main(["verify", str(path), *options])
    return code, json.loads(place.read_text())


def hashes(facts: dict[str, Any], engine: str) -> dict[str, Any]:
    (found,) = (each for each in facts["engines"] if each["engine"]["name"] == engine)
    return {"all": found["trace_sha256"]} | {f"{t['kind']} {t['name']}": t["sha256"] for t in found["tensors"]}


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_the_desktops_hashes(path: Path, tmp_path: Path) -> None:
    desktop = Path(str(DESKTOP)) / f"{path.stem}.json"
    code, here = verified(path, desktop, tmp_path)
    there = json.loads(desktop.read_text())
    assert code == 0
    assert here["network"] == there["network"]
    assert here["machine"]["board"] == this_machine().board
    assert set(here["board"]) == {"before", "after"}
    if here["network"]["precision"] == "fp32":
        return  # floats need not be the same bits
    wanted = hashes(there, "reference")
    assert "accumulators " in wanted
    for engine in here["engines"]:
        assert engine["holds"], engine["differences"]
        assert (engine["differing_codes"], engine["differing_masks"], engine["differing_accumulators"]) == (0, 0, 0)
        assert engine["engine"]["kernels"]
        assert engine["engine"]["version"]
        assert hashes(here, engine["engine"]["name"]) == wanted


def test_another_hash_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next((path for path in BUNDLES if path.stem != "fp32"), None)
    if path is None:
        pytest.skip("no quantized network")
    facts = json.loads((Path(str(DESKTOP)) / f"{path.stem}.json").read_text())
    for engine in facts["engines"]:
        tensor = engine["tensors"][0]
        tensor["sha256"][1] = "0" * 64
        engine["trace_sha256"] = "1" * 64
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(facts))
    code, _ = verified(path, changed, tmp_path)
    assert code == 1
    assert f"codes of {facts['engines'][0]['tensors'][0]['name']} differ on 1 of" in capsys.readouterr().out
