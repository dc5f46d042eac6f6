"""The networks that come with bitlens run right after installation, and are as good as their cards say."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from bitlens.runtime.certificate import read_certificate
from bitlens.runtime.cli import main
from bitlens.runtime.engines import open_engine
from bitlens.runtime.network import open_network
from bitlens.runtime.pictures import png_bytes
from bitlens.runtime.shipped import FOR_PHOTOGRAPHS, SHIPPED, model_card_of, network_path, shipped_bundle
from bitlens.train.datasets import open_dataset

MAX_BYTES = 600_000


def test_what_is_shipped() -> None:
    assert SHIPPED == ("cifar10-resnet20-w4a4", "fashion-mnist-lenet-w4a4")
    assert FOR_PHOTOGRAPHS in SHIPPED
    for name in SHIPPED:
        assert shipped_bundle(name).stat().st_size <= MAX_BYTES
        assert model_card_of(name).startswith("# ")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_verifies_and_says_nothing_of_a_machine(name: str, tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    assert main(["verify", name, "--output", str(path)]) == 0
    # Each engine's own verdict: that of an int8 gradient does not decide the whole beside exact ones.
    engines = read_certificate(path).engines
    assert all(parity.holds for parity in engines)
    # That gradient is near, not equal, and holds on terms of its own.
    assert [parity.engine.name for parity in engines if parity.gradient_error > 1e-5] == ["native-int8"]
    manifest = json.dumps(dict(open_network(shipped_bundle(name)).manifest))
    for text in (manifest, model_card_of(name)):
        assert not re.search(r"/(home|root|tmp|work|usr)/", text)


@pytest.mark.parametrize("name", SHIPPED)
def test_its_card_says_how_good_it_is(name: str) -> None:
    if not Path(os.environ.get("BITLENS_DATA", "nowhere")).is_dir():
        pytest.skip("BITLENS_DATA names no folder with the data sets")
    data = open_dataset(name.split("-lenet")[0].split("-resnet")[0]).test()
    engine = open_engine(open_network(shipped_bundle(name)))
    said = re.search(r"\| right \| ([\d.]+) % of (\d+) test images", model_card_of(name))
    assert said is not None
    images, labels = data.images.numpy(), data.labels.numpy()
    assert len(images) == int(said[2])
    right = sum(
        int((engine.forward(images[at : at + 500]).argmax(axis=1) == labels[at : at + 500]).sum())
        for at in range(0, len(images), 500)
    )
    # The card's figure is the trainer's, in float32 on real-valued sums: a few images may fall to the other side.
    assert abs(100 * right / len(images) - float(said[1])) <= 0.1


def test_a_photograph_needs_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph = tmp_path / "photo.png"
    photograph.write_bytes(png_bytes(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)))
    assert main(["predict", str(photograph), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert main(["predict", FOR_PHOTOGRAPHS, str(photograph), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == alone
    labels = {each["label"] for each in alone["classes"]}
    assert labels <= set(open_network(shipped_bundle(FOR_PHOTOGRAPHS)).labels)
    assert main(["explain", str(photograph), "--output", str(tmp_path / "map.png")]) == 0
    assert (tmp_path / "map.png").exists()


def test_a_file_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert network_path(FOR_PHOTOGRAPHS) == shipped_bundle(FOR_PHOTOGRAPHS)
    Path(FOR_PHOTOGRAPHS).write_bytes(b"mine")
    assert network_path(FOR_PHOTOGRAPHS) == Path(FOR_PHOTOGRAPHS)
