"""Watching a training: the maps against autograd written out anew, the numbers against SciPy, and no trace of it."""

from __future__ import annotations

import argparse
import io
import json
import math
import zipfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from brevitas_oracle import run_brevitas
from numpy.typing import NDArray
from page_reader import Reader, references
from scipy import stats
from skimage.metrics import structural_similarity
from torch import nn
from torch.nn import functional

from bitlens.runtime.atomic_file import write_files_atomically
from bitlens.runtime.errors import BitlensError
from bitlens.train import verb
from bitlens.train.checkpoint import Checkpoints
from bitlens.train.datasets import ImageDataset, SplitDataset
from bitlens.train.datasets import digits as digits_module
from bitlens.train.fit import FitConfig, accuracy, fit, held_out_split
from bitlens.train.models import build_model
from bitlens.train.run_folder import load_run
from bitlens.train.watch import Subject, Watcher, history
from bitlens.train.watch.look import look_from_line, look_line
from bitlens.train.watch.model_maps import cam_layer, model_maps
from bitlens.train.watch.watch_page import shown_epochs
from bitlens.train.watch.watched_images import watched_images

CONFIG = FitConfig(epochs=2, batch_size=60, seed=7)
SUBJECT = Subject("lenet", "w2a2", "digits", False)


@pytest.fixture(scope="module")
def few(digits: SplitDataset) -> ImageDataset:
    return digits.train().subset(torch.arange(200))


@pytest.fixture(scope="module")
def held_out(few: ImageDataset) -> ImageDataset:
    return few.subset(held_out_split(few.labels, CONFIG)[1])


def network(precision: str = "w2a2", seed: int = 5, width: int = 2) -> nn.Module:
    return build_model("lenet", precision, width=width, seed=seed)


def watcher(folder: Path, held_out: ImageDataset, twin: nn.Module | None = None, behind: int = 0) -> Watcher:
    return Watcher(folder, network(), held_out, SUBJECT, seed=7, epochs=2, twin=twin, behind=behind)


def call(*options: str | Path) -> int:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.run(parser.parse_args([str(option) for option in options]))


def looks_in(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "looks.jsonl").read_text().splitlines()]


def arrays_in(path: Path) -> dict[str, NDArray[np.generic]]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def refreshes(page: str) -> list[str | None]:
    return [meta["content"] for meta in Reader(page).all("meta") if meta.get("http-equiv") == "refresh"]


# ------------------------------------------------------------------------------------------------ maps


@pytest.mark.parametrize("precision", ["fp32", "w2a2", "w1a1"])
def test_maps_are_those_of_the_oracle(precision: str, few: ImageDataset) -> None:
    model = network(precision).double()
    assert isinstance(model, nn.Sequential)
    data = few.subset(torch.arange(70))  # more than one batch
    model.eval()
    found = model_maps(model, data, "act2")
    assert set(found.maps) == {"gradient", "grad_cam"}
    for start in range(0, 70, 35):
        some = slice(start, start + 35)
        seed = np.eye(10)[data.labels[some].numpy()]
        oracle = run_brevitas(model, data.images[some].numpy() / 255, seed)
        np.testing.assert_allclose(found.logits[some], oracle.logits, rtol=0, atol=1e-12)
        gradient = oracle.input_gradient.sum(axis=1)
        np.testing.assert_allclose(found.maps["gradient"][some], gradient, rtol=0, atol=1e-6 * np.abs(gradient).max())
        weights = oracle.gradients["act2"].mean(axis=(2, 3))
        cam = np.maximum(np.einsum("nk,nkhw->nhw", weights, oracle.values["act2"]), 0)
        wide = functional.interpolate(torch.tensor(cam[:, None]), size=(28, 28), mode="bilinear", align_corners=False)
        np.testing.assert_allclose(found.maps["grad_cam"][some], wide[:, 0], rtol=0, atol=2e-6 * max(cam.max(), 1e-9))


def test_maps_leave_no_trace_in_the_model(few: ImageDataset) -> None:
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    model_maps(model, few.subset(torch.arange(5)), cam_layer(model, few.images[:1]))
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "shape", "layer"),
    [
        ("lenet", (1, 28, 28), "act2"),  # act3 goes straight into the dense layer
        ("resnet20", (3, 32, 32), "block9.act2"),  # averaged before it
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_layer_of_grad_cam(name: str, shape: tuple[int, int, int], layer: str, precision: str) -> None:
    model = build_model(name, precision, shape, 10, 2)
    assert cam_layer(model, torch.zeros((1, *shape), dtype=torch.uint8)) == layer


def test_a_network_without_a_spatial_activation_has_gradients_only(held_out: ImageDataset, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    assert cam_layer(model, held_out.images[:1]) is None
    one = Watcher(tmp_path / "watch", model, held_out, SUBJECT, seed=7, epochs=1)
    one.look(model, ())
    one.finish(0)
    assert set(arrays_in(tmp_path / "watch" / "maps.npz")) == {"epochs", "images", "labels", "gradient"}


# ------------------------------------------------------------------------------------------------ images


def test_images_are_of_every_class_and_depend_on_the_seed_alone(digits: SplitDataset) -> None:
    data = digits.train()
    chosen = watched_images(data, 3)
    assert len(chosen.data) == 128
    assert chosen.shown == 8
    labels = chosen.data.labels[:8].tolist()
    assert labels == sorted(set(labels))
    counts = torch.bincount(chosen.data.labels, minlength=10)
    assert int(counts.max() - counts.min()) <= 1
    assert torch.equal(watched_images(data, 3).data.images, chosen.data.images)
    assert not torch.equal(watched_images(data, 4).data.images, chosen.data.images)
    pixels = {image.numpy().tobytes() for image in chosen.data.images}
    assert len(pixels) == 128


def test_few_and_impossible_images(held_out: ImageDataset) -> None:
    two = watched_images(held_out.subset(torch.arange(2)), 0)
    assert len(two.data) == 2
    with pytest.raises(BitlensError, match="no held-out image to watch"):
        watched_images(held_out.subset(torch.arange(0)), 0)
    five = ImageDataset(torch.zeros((3, 5, 8, 8), dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), ("a",))
    with pytest.raises(BitlensError, match="1 or 3 channels to show, got 5"):
        watched_images(five, 0)


def test_fit_holds_out_what_is_watched(few: ImageDataset, held_out: ImageDataset, tmp_path: Path) -> None:
    learned: set[bytes] = set()

    def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        learned.update(image.numpy().tobytes() for image in images)
        return images

    fit(network(), few, FitConfig(epochs=1, seed=7), augment=augment)
    watched = {image.numpy().tobytes() for image in watched_images(held_out, 7).data.images}
    assert len(learned) == 180
    assert not watched & learned


# ------------------------------------------------------------------------------------------------ numbers


def oracle_similarity(one: NDArray[np.floating], other: NDArray[np.floating]) -> Mapping[str, list[float]]:
    found: dict[str, list[float]] = {"spearman": [], "top_k_iou": [], "ssim": []}
    for a, b in zip(one.astype(np.float64), other.astype(np.float64), strict=True):
        if not a.any() or not b.any():
            for values in found.values():
                values.append(math.nan)
            continue
        found["spearman"].append(float(stats.spearmanr(a.ravel(), b.ravel()).statistic))
        tops = [
            {place for place in np.lexsort((np.arange(784), -abs(m.ravel())))[:78].tolist() if m.ravel()[place]}
            for m in (a, b)
        ]
        found["top_k_iou"].append(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))
        signed = 2.0 if a.min() < 0 or b.min() < 0 else 1.0
        found["ssim"].append(
            structural_similarity(
                a / abs(a).max(),
                b / abs(b).max(),
                data_range=signed,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )
    return found


@pytest.mark.parametrize("with_twin", [True, False])
def test_numbers_are_those_of_scipy_and_scikit_image(with_twin: bool, held_out: ImageDataset, tmp_path: Path) -> None:
    twin = network("fp32", 9, width=8) if with_twin else None
    one = watcher(tmp_path / "watch", held_out, twin)
    first, second = network(seed=1, width=8), network(seed=2, width=8)
    one.look(first, ())
    before = arrays_in(tmp_path / "watch" / "epoch_00000.npz")
    records = fit(network(), held_out, FitConfig(epochs=1)).epochs
    one.look(second, records)
    newest = arrays_in(tmp_path / "watch" / "epoch_00001.npz")
    look = look_from_line((tmp_path / "watch" / "looks.jsonl").read_text().splitlines()[1])
    chosen = watched_images(held_out, 7)
    reference = before if twin is None else model_maps(twin, chosen.data, "act2").maps
    assert look.compared_with == ("twin" if with_twin else "previous")
    for method in ("gradient", "grad_cam"):
        assert newest[method].dtype == np.float32
        assert newest[method].shape == (20, 28, 28)
        for name, values in oracle_similarity(newest[method], reference[method]).items():  # type: ignore[arg-type]
            mean = look.similarity[method][name]
            known = [value for value in values if not math.isnan(value)]
            assert (mean.images, mean.undefined) == (len(known), 20 - len(known))
            assert len(known) > 2, "maps that show nothing test nothing"
            assert mean.mean == pytest.approx(np.mean(known), abs=1e-12)
            assert mean.low < mean.mean < mean.high
            if name == "spearman":
                assert look.shown_similarity[method] == pytest.approx(values[: chosen.shown], abs=1e-12, nan_ok=True)
    logits = torch.from_numpy(model_maps(second, chosen.data, None).logits)
    assert look.loss == pytest.approx(float(functional.cross_entropy(logits, chosen.data.labels)), abs=1e-12)
    assert look.predicted == tuple(logits[: chosen.shown].argmax(1).tolist())
    assert (look.accuracy, look.training_loss) == (records[0].validation_accuracy, records[0].loss)
    start = look_from_line((tmp_path / "watch" / "looks.jsonl").read_text().splitlines()[0])
    assert start.accuracy == accuracy(first, held_out.images, held_out.labels)
    assert start.compared_with == ("twin" if with_twin else None)
    assert arrays_in(tmp_path / "watch" / "epoch_00000.npz")["gradient"].shape == (chosen.shown, 28, 28)


def test_a_map_that_is_not_finite_is_left_out(held_out: ImageDataset, tmp_path: Path) -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.inner(x)
            # The square root's slope at 0 is infinite; the logits stay as they are.
            return logits + (x[:, 0, :1, 0] - x[:, 0, :1, 0].detach()).sqrt()

    twin = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    one = Watcher(tmp_path / "watch", Breaks(), held_out, SUBJECT, seed=7, epochs=1, twin=twin)
    one.look(Breaks(), ())
    (look,) = looks_in(tmp_path / "watch")
    assert look["similarity"]["gradient"]["spearman"] == {  # type: ignore[index]
        "mean": None,
        "low": None,
        "high": None,
        "images": 0,
        "undefined": 20,
    }
    assert "undefined" in one.page.read_text()


def test_a_look_survives_its_line(held_out: ImageDataset, tmp_path: Path) -> None:
    one = watcher(tmp_path / "watch", held_out)
    one.look(network(), ())
    line = (tmp_path / "watch" / "looks.jsonl").read_text()
    look = look_from_line(line)
    assert math.isnan(look.training_loss)
    assert look_line(look) == line


# ------------------------------------------------------------------------------------------------ page and folder


def test_page_renews_itself_until_the_run_is_finished(held_out: ImageDataset, tmp_path: Path) -> None:
    one = watcher(tmp_path / "watch", held_out, network("fp32", 9))
    one.look(network(), ())
    records = fit(network(), held_out, FitConfig(epochs=1)).epochs
    one.look(network(seed=6), records)
    unfinished = one.page.read_text()
    assert refreshes(unfinished) == ["5"]
    assert "Epoch 1 of 2 is done" in unfinished
    one.finish(0)
    finished = one.page.read_text()
    assert refreshes(finished) == []
    assert "Training is finished" in finished
    assert "The weights that were kept are those after epoch 0." in finished
    for text in (unfinished, finished):
        reader = Reader(text)
        assert reader.wrong == []
        assert references(text) == []
        assert reader.all("script") == []
        assert len(reader.all("svg")) == 3
        shown = watched_images(held_out, 7).shown
        assert len(reader.all("img")) == 2 * shown * (1 + 1 + 2)
        assert "a surrogate, not a derivative" in text
        assert "twin" in text


def test_page_without_a_twin_says_what_it_compares_with(held_out: ImageDataset, tmp_path: Path) -> None:
    subject = Subject("lenet", "fp32", "digits", True)
    one = Watcher(tmp_path / "watch", network("fp32"), held_out, subject, seed=7, epochs=2)
    one.look(network("fp32"), ())
    text = one.page.read_text()
    assert "similarity is that to the epoch before" in text
    assert "surrogate" not in text
    assert Reader(text).all("svg") == []  # nothing to draw a line through yet


def test_columns_are_thinned_out() -> None:
    assert shown_epochs([0, 1, 2]) == [0, 1, 2]
    many = shown_epochs(range(201))
    assert len(many) == 10
    assert (many[0], many[-1]) == (0, 200)
    assert {b - a for a, b in pairwise(many)} <= {22, 23}


# ------------------------------------------------------------------------------------------------ the run


def test_watching_changes_no_weight_and_is_kept_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[int] = []
    original = digits_module._part
    monkeypatch.setattr(digits_module, "_part", lambda index: opened.append(index) or original(index))  # type: ignore[func-returns-value]
    looked: list[list[int]] = []
    monkeypatch.setattr(verb, "_print_progress", lambda record: looked.append(list(opened)))
    few = ["--width", "2", "--epochs", "2", "--patience", "1"]
    twin = tmp_path / "twin"
    assert call("--output", twin, *few, "--precision", "fp32", "--epochs", "1") == 0
    opened.clear()
    looked.clear()
    assert call("--output", tmp_path / "seen", *few, "--precision", "w2a2", "--twin", twin, "--watch") == 0
    assert looked == [[0], [0]]  # the test part is opened after the last look
    assert opened == [0, 1]
    printed = capsys.readouterr().err
    assert f"watch: open {tmp_path / 'seen' / 'checkpoint' / 'watch' / 'index.html'}\n" in printed
    seen = load_run(tmp_path / "seen")
    folder = tmp_path / "seen" / "watch"
    assert set(contents(folder)) == {"index.html", "looks.jsonl", "maps.npz"}
    assert refreshes((folder / "index.html").read_text()) == []
    arrays = arrays_in(folder / "maps.npz")
    assert arrays["epochs"].tolist() == [look["epoch"] for look in looks_in(folder)] == [0, 1, 2]
    assert {name: (array.dtype, array.shape) for name, array in arrays.items() if name != "epochs"} == {
        "images": (np.uint8, (8, 1, 28, 28)),
        "labels": (np.int64, (8,)),
        "gradient": (np.float32, (3, 8, 28, 28)),
        "grad_cam": (np.float32, (3, 8, 28, 28)),
        "twin_gradient": (np.float32, (8, 28, 28)),
        "twin_grad_cam": (np.float32, (8, 28, 28)),
    }
    chosen = ImageDataset(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]), ())
    assert np.array_equal(model_maps(load_run(twin).model, chosen, "act2").maps["gradient"], arrays["twin_gradient"])
    # The same without --watch takes the place of that run.
    assert call("--output", tmp_path / "seen", *few, "--precision", "w2a2", "--twin", twin) == 0
    unseen = load_run(tmp_path / "seen")
    assert not folder.exists()
    assert seen.weights_sha256 == unseen.weights_sha256
    assert [record.loss for record in seen.metrics.epochs] == [record.loss for record in unseen.metrics.epochs]


class _Killed(Exception):  # noqa: N818  (no error: what a kill is to the test)
    pass


def watched_fit(folder: Path, few: ImageDataset, held_out: ImageDataset, behind: int = 0) -> nn.Module:
    folder.mkdir(exist_ok=True)
    model = network()
    one = watcher(folder / "watch", held_out, behind=behind)
    fit(model, few, CONFIG, checkpoints=Checkpoints(folder / "state"), watch=one.look)
    one.finish(2)
    return model


@pytest.fixture(scope="module")
def unbroken(few: ImageDataset, held_out: ImageDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    torch.save(watched_fit(folder, few, held_out).state_dict(), folder / "weights")
    return folder


# Files are written in this order: the maps, the line, the thinned maps of the epoch before, the page.
@pytest.mark.parametrize(("epoch", "written"), [(0, 1), (1, 1), (1, 2), (2, 0), (2, 3)])
def test_a_kill_while_a_look_is_written_is_made_up_for(
    epoch: int,
    written: int,
    unbroken: Path,
    few: ImageDataset,
    held_out: ImageDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = [0]

    def dying(files: Mapping[Path, bytes]) -> None:
        calls[0] += 1
        if calls[0] == epoch + 1:
            write_files_atomically(dict(list(files.items())[:written]))
            raise _Killed
        write_files_atomically(files)

    monkeypatch.setattr(history, "write_files_atomically", dying)
    with pytest.raises(_Killed):
        watched_fit(tmp_path / "killed", few, held_out)
    monkeypatch.undo()
    resumed = watched_fit(tmp_path / "killed", few, held_out, behind=epoch)
    weights = torch.load(unbroken / "weights", weights_only=True)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in resumed.state_dict().items())
    found, expected = contents(tmp_path / "killed" / "watch"), contents(unbroken / "watch")
    assert found.keys() == expected.keys()
    for name in ("looks.jsonl", "maps.npz", "index.html"):
        assert found[name] == expected[name], name


def test_looks_beyond_the_checkpoint_are_taken_again(held_out: ImageDataset, few: ImageDataset, tmp_path: Path) -> None:
    watched_fit(tmp_path / "run", few, held_out)
    again = watcher(tmp_path / "run" / "watch", held_out, behind=0)
    records = fit(network(), held_out, FitConfig(epochs=1)).epochs
    again.look(network(seed=6), records)
    looks = looks_in(tmp_path / "run" / "watch")
    assert [(look["epoch"], look["compared_with"]) for look in looks] == [(0, None), (1, None)]


def test_a_full_disk_loses_no_epoch(
    few: ImageDataset, held_out: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(files: Mapping[Path, bytes]) -> None:
        if any(path.name == "epoch_00001.npz" for path in files):
            raise BitlensError("cannot write x (No space left on device): make room or choose another place")
        write_files_atomically(files)

    monkeypatch.setattr(history, "write_files_atomically", full)
    with pytest.raises(BitlensError, match="no epoch is lost: --resume goes on from here") as caught:
        watched_fit(tmp_path / "run", few, held_out)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    steps: list[int] = []
    one = watcher(tmp_path / "run" / "watch", held_out, behind=1)
    fit(
        network(),
        few,
        CONFIG,
        checkpoints=Checkpoints(tmp_path / "run" / "state"),
        watch=lambda model, records: (steps.append(len(records)), one.look(model, records))[0],
    )
    assert steps == [1, 2]  # the first epoch is not trained again
    assert [look["epoch"] for look in looks_in(tmp_path / "run" / "watch")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("looks.jsonl", b"{"),
        ("looks.jsonl", b"\xff\xfe"),
        ("looks.jsonl", b"[]\n"),
        ("looks.jsonl", b'{"epoch": true}\n'),
        ("epoch_00001.npz", b"PK"),
        ("epoch_00001.npz", None),
    ],
)
def test_a_damaged_history_is_refused_and_can_be_removed(
    name: str, damage: bytes | None, held_out: ImageDataset, tmp_path: Path
) -> None:
    folder = tmp_path / "watch"
    one = watcher(folder, held_out)
    one.look(network(), ())
    records = fit(network(), held_out, FitConfig(epochs=1)).epochs
    one.look(network(), records)
    if damage is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(damage)
    with pytest.raises(BitlensError, match=r"is damaged .*remove that folder, then --resume") as caught:
        watcher(folder, held_out, behind=1)
    assert "\n" not in str(caught.value)
    for file in folder.iterdir():
        file.unlink()
    without = watcher(folder, held_out, behind=1)
    without.look(network(), records)
    without.finish(1)
    assert [look["epoch"] for look in looks_in(folder)] == [1]


def test_maps_are_stored_without_compression_or_pickle(held_out: ImageDataset, tmp_path: Path) -> None:
    one = watcher(tmp_path / "watch", held_out)
    one.look(network(), ())
    with zipfile.ZipFile(io.BytesIO((tmp_path / "watch" / "epoch_00000.npz").read_bytes())) as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


def test_options_contradicting_the_recorded_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(record: object) -> None:
        raise _Killed

    monkeypatch.setattr(verb, "_print_progress", killed)
    with pytest.raises(_Killed):
        call("--output", tmp_path / "run", "--width", "2", "--epochs", "1")
    with pytest.raises(BitlensError, match="--watch True contradicts the run"):
        call("--resume", tmp_path / "run", "--watch")
