"""`bitlens evaluate`: whole, in shards, killed and resumed, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import answered
from evaluation_place import IMAGES, write_evaluation_place
from missing_modules import without_kernels
from page_reader import Reader, references
from PIL import Image
from small_programs import LABELS, images_for, small_network, small_twin

from bitlens.runtime import cli
from bitlens.runtime.bootstrap import BootstrapMean, bootstrap_mean
from bitlens.runtime.engines import open_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.evaluation import labelled_images, work
from bitlens.runtime.evaluation.candidate import open_cast
from bitlens.runtime.evaluation.labelled_images import open_labelled_images
from bitlens.runtime.evaluation.measurement import control_maps
from bitlens.runtime.evaluation.merge import read_plan
from bitlens.runtime.evaluation.plan import BLOCK, RANDOM_MAP, UNIFORM_MAP, Plan
from bitlens.runtime.evaluation.work import Shard, duration
from bitlens.runtime.faithfulness import FAITHFULNESS
from bitlens.runtime.fidelity import METRICS
from bitlens.runtime.interval_chart import IntervalRow, interval_chart
from bitlens.runtime.methods import METHODS
from bitlens.runtime.network import Network, open_network
from bitlens.runtime.random_weights import with_random_weights
from bitlens.runtime.stratified import stratified_order
from bitlens.runtime.trust import TRUST_VARIABLE

Evaluate = Callable[..., tuple[int, str, str]]

WHAT = ("--methods", "gradient,grad_cam:layer=act1", "--metrics", "spearman,sign_agreement,insertion,average_drop")
NETWORKS = ("full", "one", "two")
BUNDLES = tuple(f"{name}.bitlens" for name in NETWORKS)
COMMON = (*BUNDLES, "--data", "images.npz", "--other-seed", "other.bitlens", "--engine", "reference", *WHAT)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks and images, and the whole evaluation of them in `whole`."""
    place = tmp_path_factory.mktemp("pristine")
    write_evaluation_place(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert cli.main(["evaluate", *COMMON, "--output", "whole"]) == 0
    return place


@pytest.fixture
def place(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another folder, from which they are in reach by their names."""
    for each in pristine.iterdir():
        if each.name != "whole":
            (tmp_path / each.name).symlink_to(each)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TRUST_VARIABLE, str(tmp_path / "trusted"))  # other tests trust bundles of the same bytes
    return tmp_path


@pytest.fixture
def evaluate(place: Path, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    def run(*arguments: object) -> tuple[int, str, str]:
        answer = answered(capsys, "evaluate", *arguments)
        return answer.code, answer.out, answer.err

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def facts_of(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return facts


def chunk_files(folder: Path) -> list[Path]:
    return sorted((folder / "chunks").iterdir())


def same(fact: dict[str, Any], mean: BootstrapMean) -> bool:
    values = [None if np.isnan(value) else value for value in (mean.mean, mean.low, mean.high)]
    return [fact[name] for name in ("mean", "low", "high")] == values


def test_the_numbers_are_those_of_the_functions(pristine: Path) -> None:
    """Everything once more without blocks, chunks and files."""
    facts = facts_of(pristine / "whole")
    with np.load(pristine / "images.npz") as data:
        images, labels = data["images"], data["labels"]
    order = stratified_order(labels.astype(np.int64), seed=0)
    images, labels = images[order], labels[order]
    engines = {
        "full": open_engine(open_network(pristine / "full.bitlens"), "reference"),
        "one": open_engine(open_network(pristine / "one.bitlens"), "reference"),
        "two": open_engine(open_network(pristine / "two.bitlens"), "reference"),
        "another seed": open_engine(open_network(pristine / "other.bitlens"), "reference"),
        "random weights": open_engine(Network(Path("x"), with_random_weights(small_twin(), seed=0)), "reference"),
    }
    targets = engines["full"].forward(images).argmax(axis=1).tolist()
    options: dict[str, dict[str, str]] = {"gradient": {}, "grad_cam:layer=act1": {"layer": "act1"}}
    for title, given in options.items():
        method = METHODS[title.partition(":")[0]]
        maps = {name: method.function(engine, images, targets, **given)[:, 0] for name, engine in engines.items()}
        maps[RANDOM_MAP] = control_maps(RANDOM_MAP, order, (8, 8), 0, signed=method.signed)
        for metric in ("spearman", "sign_agreement"):
            found = {f["of"]: f for f in facts["fidelity"] if (f["method"], f["metric"]) == (title, metric)}
            assert list(found) == ["one", "two", "another seed", "random weights", "random map"]
            for of, fact in found.items():
                mean = bootstrap_mean(METRICS[metric].batch(maps["full"], maps[of]))
                assert same(fact, mean)
                assert (fact["images"], fact["undefined"]) == (mean.images, mean.undefined)
                assert fact["images"] + fact["undefined"] == IMAGES
        maps[UNIFORM_MAP] = np.ones((IMAGES, 8, 8), np.float32)
        for metric in ("insertion", "average_drop"):
            for name in NETWORKS:
                for kind in (title, RANDOM_MAP, UNIFORM_MAP):
                    own = maps[name] if kind == title else control_maps(kind, order, (8, 8), 0, signed=False)
                    mean = bootstrap_mean(FAITHFULNESS[metric](engines[name], images, own, targets))
                    (fact,) = (
                        f
                        for f in facts["faithfulness"]
                        if (f["network"], f["maps"], f["metric"]) == (name, kind, metric)
                    )
                    assert same(fact, mean)
    for network in facts["networks"]:
        said = engines[network["name"]].forward(images).argmax(axis=1)
        assert network["accuracy"]["mean"] == (said == labels).mean()
        assert network["agreement"]["mean"] == (said == targets).mean()


def test_evaluation_json_has_its_documented_form(pristine: Path) -> None:
    facts = facts_of(pristine / "whole")
    mean = {"mean", "low", "high", "images", "undefined"}
    assert set(facts) == {
        "evaluation_version", "bitlens", "data", "images", "images_sha256", "seed", "target", "confidence",
        "other_seed", "networks", "methods", "metrics", "fidelity", "faithfulness",
    }  # fmt: skip
    assert (facts["evaluation_version"], facts["images"], facts["data"]) == (1, IMAGES, "images.npz")
    assert facts["target"] == "the class that the twin predicts"
    for network in facts["networks"]:
        assert set(network) == {"name", "role", "precision", "sha256", "engine", "accuracy", "agreement"}
        assert set(network["accuracy"]) == set(network["agreement"]) == mean
        assert re.fullmatch("[0-9a-f]{64}", network["sha256"])
    assert [network["role"] for network in facts["networks"]] == ["twin", "network", "network"]
    for method in facts["methods"]:
        assert set(method) == {"title", "method", "options", "meaning"}
    for metric in facts["metrics"]:
        assert set(metric) == {
            "name", "kind", "title", "lowest", "highest", "higher_is_better", "meaning", "undefined"
        }  # fmt: skip
    assert all(set(one) == {"method", "of", "metric"} | mean for one in facts["fidelity"])
    assert all(set(one) == {"network", "maps", "metric"} | mean for one in facts["faithfulness"])
    assert len(facts["fidelity"]) == 2 * 5 * 2
    assert len(facts["faithfulness"]) == 4 * 3 * 2
    for part in (pristine / "whole").rglob("*"):
        assert str(pristine) not in part.name
    assert str(pristine) not in json.dumps(facts)


def test_shards_together_are_the_whole_bit_for_bit(pristine: Path, evaluate: Evaluate, place: Path) -> None:
    for number in (3, 1, 2):
        code, out, err = evaluate(*COMMON, "--shard", f"{number}/3", "--output", f"part{number}")
        assert (code, out) == (0, "")
        assert "this shard is done" in err
        assert not (place / f"part{number}" / "evaluation.json").exists()
    parts = [content(place / f"part{number}") for number in (1, 2, 3)]
    assert not set(parts[0]) & set(parts[1]) - {"plan.json"}
    code, out, err = evaluate("--merge", "part1", "part2", "part3", "--output", "merged")
    assert code == 0
    assert content(place / "merged") == content(pristine / "whole")
    assert "Fidelity" in out


def test_a_missing_shard_is_refused(evaluate: Evaluate) -> None:
    assert evaluate(*COMMON, "--shard", "1/2", "--output", "part1")[0] == 0
    code, out, err = evaluate("--merge", "part1", "--output", "merged")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"bitlens: \d+ of 24 chunks are in none of these folders, the first one .*\n", err)


@pytest.mark.parametrize(
    "other",
    [("--seed", "1"), ("--images", "21"), ("--methods", "gradient"), ("--metrics", "spearman")],
    ids=["seed", "images", "methods", "metrics"],
)
def test_a_foreign_shard_is_refused(other: tuple[str, str], evaluate: Evaluate, pristine: Path, place: Path) -> None:
    quick = ("one.bitlens", "--data", "images.npz", "--engine", "reference", "--methods", "grad_cam:layer=act1")
    assert evaluate(*quick, "--metrics", "pearson", "--images", "20", "--output", "part1")[0] == 0
    arguments = [*quick, "--metrics", "pearson", "--images", "20", *other, "--output", "part2"]
    assert evaluate(*arguments)[0] == 0
    code, out, err = evaluate("--merge", "part1", "part2", "--output", "merged")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"bitlens: part2 is of another evaluation than part1, \w+ differs: .*\n", err)


def test_killed_and_resumed_is_the_whole_bit_for_bit(
    pristine: Path, evaluate: Evaluate, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = work.write_chunk

    def dying(folder: Path, chunk: Any, values: Any) -> None:
        if len(written) == dies_at:
            raise KeyboardInterrupt
        write(folder, chunk, values)
        written.append(chunk.file_name)

    monkeypatch.setattr(work, "write_chunk", dying)
    for dies_at in (5, 17):  # within a group of the same maps of the twin, both
        assert evaluate(*COMMON, "--output", "out")[0] == 130
        assert len(chunk_files(place / "out")) == dies_at
        assert not (place / "out" / "evaluation.json").exists()
    dies_at = 10**6
    assert evaluate(*COMMON, "--output", "out")[0] == 0
    assert len(written) == len(set(written)) == 24  # nothing was done twice
    assert content(place / "out") == content(pristine / "whole")
    code, _, err = evaluate(*COMMON, "--output", "out")
    assert code == 0
    assert "24 of them done before" in err
    assert "to do" not in err


def copy_of_whole(pristine: Path, place: Path) -> Path:
    return Path(shutil.copytree(pristine / "whole", place / "out"))


def npz_with(path: Path, **changes: Any) -> None:
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files} | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


def first_with(folder: Path, name: str) -> Path:
    def holds(path: Path) -> bool:
        with np.load(path) as data:
            return name in data.files

    return next(path for path in chunk_files(folder) if holds(path))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "a bit": lambda path: path.write_bytes(path.read_bytes().replace(b"PK\x03\x04", b"PK\x03\x05", 1)),
    "empty": lambda path: path.write_bytes(b""),
    "another": lambda path: shutil.copy(next(each for each in chunk_files(path.parent.parent) if each != path), path),
    "key": lambda path: npz_with(path, key=np.frombuffer(b"{}", np.uint8)),
    "missing": lambda path: npz_with(path, labels=None),
    "shape": lambda path: npz_with(path, predicted=np.zeros(3, np.int64)),
    "dtype": lambda path: npz_with(path, predicted=np.zeros(BLOCK)),
    "objects": lambda path: npz_with(path, labels=np.array([{}] * BLOCK, object)),
    "infinite": lambda path: npz_with(path, **{"faithfulness.insertion": np.full(BLOCK, np.inf)}),
    "out of range": lambda path: npz_with(path, **{"faithfulness.insertion": np.full(BLOCK, 1.5)}),
    "negative class": lambda path: npz_with(path, predicted=np.full(BLOCK, -1)),
    "not a number in a picture": lambda path: npz_with(path, example_maps=np.full((3, 8, 8), np.nan, np.float32)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_chunk_is_computed_again_and_never_merged(
    name: str, pristine: Path, evaluate: Evaluate, place: Path
) -> None:
    out = copy_of_whole(pristine, place)
    path = first_with(out, "example_maps")
    DAMAGE[name](path)
    code, said, err = evaluate("--merge", "out", "--output", "merged")
    assert (code, said) == (1, "")
    assert err.startswith("bitlens: ")
    assert path.name in err
    assert err.count("\n") == 1
    code, _, err = evaluate(*COMMON, "--output", "out")
    assert code == 0
    assert "computed again" in err
    assert content(out) == content(pristine / "whole")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"{}",
        b'{"plan_version": 2}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_damaged_plan_is_refused(damage: bytes, pristine: Path, evaluate: Evaluate, place: Path) -> None:
    out = copy_of_whole(pristine, place)
    (out / "plan.json").write_bytes(damage)
    code, said, err = evaluate("--merge", "out", "--output", "merged")
    assert (code, said, err.count("\n")) == (1, "", 1)
    assert "plan.json" in err


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": []},
        {"blocks": [{"start": 0, "stop": 10**9, "sha256": ""}]},
        {"blocks": [{"start": 5, "stop": 9, "sha256": ""}]},
        {"fidelity": ["nothing"]},
        {"faithfulness": ["nothing"]},
        {"judged": []},
        {"rows": []},
        {"shape": [1, 10**9, 8]},
        {"data": "\x1b[2J"},
        {"labels": "text\x1b"},
        {"rows": [{"title": "x", "method": "nothing", "options": {}}]},
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    change: dict[str, Any], pristine: Path, evaluate: Evaluate, place: Path
) -> None:
    out = copy_of_whole(pristine, place)
    plan = json.loads((out / "plan.json").read_text()) | change
    (out / "plan.json").write_text(json.dumps(plan))
    code, said, err = evaluate("--merge", "out", "--output", "merged")
    assert (code, said, err.count("\n")) == (1, "", 1)
    assert "\x1b" not in err
    assert "damaged" in err


def plan_with(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, **changes)


def test_a_chunk_of_anything_else_is_never_found(pristine: Path) -> None:
    plan = read_plan(pristine / "whole")
    names = {chunk.file_name for chunk in plan.chunks()}
    assert len(names) == 24 == len(chunk_files(pristine / "whole"))
    stranger = replace(plan.judged[1], sha256="0" * 64)
    slower = replace(plan.judged[1], engine="onnxruntime 1.0")
    seed = plan.other_seed
    assert seed is not None
    rows = (replace(plan.rows[0], options={"layer": "act2"}), *plan.rows[1:])
    blocks = tuple(replace(block, sha256="0" * 64) for block in plan.blocks)

    def kept(**changes: Any) -> int:
        return len(names & {chunk.file_name for chunk in plan_with(plan, **changes).chunks()})

    assert kept(judged=(plan.judged[0], stranger, plan.judged[2])) == kept(judged=(plan.judged[0], slower)) + 8 == 16
    assert kept(judged=(stranger, *plan.judged[1:])) == 0  # targets and fidelity hang on the twin
    assert kept(other_seed=replace(seed, sha256="0" * 64)) == 24 - 4  # the twin's own
    assert kept(rows=rows) == 18
    assert kept(blocks=blocks) == 0
    assert kept(seed=1) == 0
    assert kept(bitlens="9") == 0
    assert kept(fidelity=("spearman",)) == 12  # the controls are compared to nothing
    assert kept(faithfulness=("insertion",)) == 0
    # What something is called changes no number.
    assert kept(judged=tuple(replace(one, name="x", precision="y") for one in plan.judged), data="z") == 24


def test_a_network_that_is_exported_anew_is_measured_anew(evaluate: Evaluate, place: Path) -> None:
    quick = ("--data", "images.npz", "--engine", "reference", "--methods", "gradient", "--metrics", "spearman")
    assert evaluate("full.bitlens", "one.bitlens", *quick, "--output", "out")[0] == 0
    before = facts_of(place / "out")
    link = place / "one.bitlens"
    link.unlink()
    link.symlink_to((place / "two.bitlens").resolve())
    moved = place / "renamed"
    moved.mkdir()
    shutil.copy(place / "two.bitlens", moved / "one.bitlens")
    code, _, err = evaluate("full.bitlens", moved / "one.bitlens", *quick, "--output", "out")
    assert code == 0
    assert "2 of them done before" in err  # the twin's
    after = facts_of(place / "out")
    assert after["fidelity"][0]["mean"] != before["fidelity"][0]["mean"]
    assert after["fidelity"][1:] == before["fidelity"][1:]


def test_more_images_keep_the_blocks_that_are_done(evaluate: Evaluate, place: Path) -> None:
    quick = (
        "one.bitlens",
        "--data",
        "images.npz",
        "--engine",
        "reference",
        "--methods",
        "gradient",
        "--metrics",
        "pearson",
    )
    assert evaluate(*quick, "--images", "20", "--output", "out")[0] == 0
    code, _, err = evaluate(*quick, "--output", "out")
    assert code == 0
    assert "2 of them done before" in err


def test_the_twin_given_by_itself_is_the_one_inside(evaluate: Evaluate, place: Path) -> None:
    quick = ("--data", "images.npz", "--images", "20", "--methods", "gradient", "--metrics", "spearman,insertion")
    numbers = []
    for networks in (("one",), ("one", "full")):
        bundles = [f"{name}.bitlens" for name in networks]
        where = ("--engine", "onnxruntime", "--trust", "--output", "-".join(networks), "--json")
        code, out, _ = evaluate(*bundles, *quick, *where)
        assert code == 0
        facts = json.loads(out)
        assert facts == facts_of(place / "-".join(networks))
        assert facts["networks"][0]["role"] == "twin"
        numbers.append(facts["fidelity"][0]["mean"])
        assert facts["networks"][1]["engine"].startswith("onnxruntime")
    assert facts["networks"][0]["name"] == "full"
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)


def test_the_page_is_one_file_and_says_what_it_shows(pristine: Path) -> None:
    text = (pristine / "whole" / "index.html").read_text()
    reader = Reader(text)
    assert reader.wrong == []
    assert references(text) == []
    assert not reader.all("script")
    assert len(reader.all("svg")) == 4
    assert len(reader.all("img")) == 2 * 3 * 4  # methods, images, columns
    assert all(image["alt"] for image in reader.all("img"))
    shown = " ".join(word for words in reader.words.values() for word in words)
    for told in ("the class that the full-precision twin predicts", "surrogate", "another seed", "random weights"):
        assert told in shown
    for metric in ("spearman", "sign_agreement"):
        assert METRICS[metric].meaning in shown
    for metric in ("insertion", "average_drop"):
        assert FAITHFULNESS[metric].meaning in shown


def test_a_hostile_name_is_shown_as_it_is(evaluate: Evaluate, place: Path) -> None:
    shutil.copy(place / "images.npz", place / "<b>|x.npz")
    quick = ("one.bitlens", "--images", "3", "--methods", "gradient", "--metrics", "pearson", "--output", "out")
    code, _, _ = evaluate(*quick, "--data", "<b>|x.npz")
    assert code == 0
    text = (place / "out" / "index.html").read_text()
    assert "<b>" not in text
    assert "&lt;b&gt;|x.npz" in text
    assert Reader(text).wrong == []


def test_markdown_has_as_many_cells_everywhere(evaluate: Evaluate, pristine: Path) -> None:
    code, out, err = evaluate("--merge", pristine / "whole", "--output", "merged")
    assert code == 0
    parts = [part.splitlines() for part in re.findall(r"(?:^\|.*\n?)+", out, re.MULTILINE)]
    assert [len(part) for part in parts] == [2 + 3, 2 + 10, 2 + 12]
    for part in parts:
        assert len({line.count("|") for line in part}) == 1
    assert err.startswith("written: merged/evaluation.json")


def test_only_one_kind_of_metric(evaluate: Evaluate, place: Path) -> None:
    quick = (
        "one.bitlens",
        "--data",
        "images.npz",
        "--images",
        "3",
        "--methods",
        "gradient",
        "--output",
        "out",
        "--json",
    )
    for metric, kind, other in (("pearson", "fidelity", "faithfulness"), ("deletion", "faithfulness", "fidelity")):
        code, out, _ = evaluate(*quick, "--metrics", metric)
        assert code == 0
        facts = json.loads(out)
        assert facts[kind]
        assert facts[other] == []
        assert Reader((place / "out" / "index.html").read_text()).wrong == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is no network"),
        (("one.bitlens",), "--data is missing"),
        (("one.bitlens", "--data", "nothing"), "--data nothing is no data set"),
        (("one.bitlens", "--data", "nothing.npz"), "cannot read nothing.npz"),
        (("nothing", "--data", "images.npz"), "cannot read nothing"),
        ((".", "--data", "images.npz"), r"is a folder, expected a \.bitlens file"),
        (("one.bitlens", "--data", "images.npz", "--images", "0"), "--images is 0, expected 1 to 23"),
        (("one.bitlens", "--data", "images.npz", "--images", "24"), "--images is 24, expected 1 to 23"),
        (("one.bitlens", "--data", "images.npz", "--seed", "-1"), "--seed is -1"),
        (("one.bitlens", "--data", "images.npz", "--shard", "0/2"), "--shard is '0/2'"),
        (("one.bitlens", "--data", "images.npz", "--shard", "3/2"), "--shard is '3/2'"),
        (("one.bitlens", "--data", "images.npz", "--shard", "x"), "--shard is 'x'"),
        (("one.bitlens", "--data", "images.npz", "--methods", "nothing"), "unknown method 'nothing'"),
        (("one.bitlens", "--data", "images.npz", "--methods", "gradient,gradient"), "given twice"),
        (("one.bitlens", "--data", "images.npz", "--methods", "grad_cam:layer"), "OPTION=VALUE|NAME=VALUE"),
        (("one.bitlens", "--data", "images.npz", "--methods", "gradient:layer=act1"), "option"),
        (
            ("one.bitlens", "--data", "images.npz", "--engine", "reference", "--methods", "grad_cam:layer=nothing"),
            "no feature map named 'nothing'",
        ),
        (("one.bitlens", "--data", "images.npz", "--metrics", "nothing"), "unknown metric 'nothing'"),
        (("one.bitlens", "--data", "images.npz", "--metrics", "ssim,ssim"), "given twice"),
        (("one.bitlens", "--data", "images.npz", "--engine", "nothing"), "unknown engine"),
        (("one.bitlens", "--data", "images.npz", "--engine", "onnxruntime"), "not on your list of trusted networks"),
        (("one.bitlens", "--data", "images.npz", "--threads", "0"), "threads is 0"),
        (("one.bitlens", "one.bitlens", "--data", "images.npz"), "two networks are called 'one'"),
        (("one.bitlens", "stranger.bitlens", "--data", "images.npz"), "another full-precision twin"),
        (("full.bitlens", "other.bitlens", "--data", "images.npz"), "another full-precision twin"),
        (("alone.bitlens", "--data", "images.npz"), "without its full-precision twin"),
        (("one.bitlens", "--data", "images.npz", "--other-seed", "full.bitlens"), "is the twin itself"),
        (("one.bitlens", "--data", "images.npz", "--other-seed", "two.bitlens"), "is the twin itself"),
        (("one.bitlens", "--data", "images.npz", "--engine", "reference", "--output", "images.npz"), "cannot make"),
        (("one.bitlens", "--merge", "one"), "leave the networks"),
        (("--merge", "nothing"), "cannot read nothing/plan.json"),
        (("--merge",), "expected at least one argument"),
    ],
)
def test_refusals_are_one_sentence(arguments: tuple[str, ...], message: str, evaluate: Evaluate) -> None:
    code, out, err = evaluate(*arguments)
    assert (code in (1, 2), out) == (True, "")
    last = err.splitlines()[-1]
    assert last.startswith("bitlens: ")
    assert re.search(message, last), last
    assert all(not line.startswith("bitlens: ") for line in err.splitlines()[:-1])


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 1, 8, 8), np.uint8)}, "labels"),
        ({"images": np.zeros((2, 1, 8, 8)), "labels": np.zeros(2, int)}, "expected uint8 codes"),
        ({"images": np.zeros((0, 1, 8, 8), np.uint8), "labels": np.zeros(0, int)}, "N at least 1"),
        ({"images": np.zeros((2, 1, 8, 8), np.uint8), "labels": np.zeros(3, int)}, "one class number"),
        ({"images": np.zeros((2, 1, 8, 8), np.uint8), "labels": np.array([0, -1])}, "one class number"),
        ({"images": np.zeros((2, 1, 8, 8), np.uint8), "labels": np.zeros(2)}, "one class number"),
        ({"images": np.zeros((2, 1, 8, 9), np.uint8), "labels": np.zeros(2, int)}, "has images of 1x8x9"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = save(tmp_path / "images.npz", **arrays)
    with pytest.raises(BitlensError, match=message):
        open_labelled_images(str(path), (1, 8, 8), LABELS)


def test_a_label_beyond_the_classes_is_refused(evaluate: Evaluate, place: Path) -> None:
    save(place / "far.npz", images=images_for(small_network(), 2), labels=np.array([0, 3]))
    code, _, err = evaluate("one.bitlens", "--data", "far.npz")
    assert code == 1
    assert "has class 3, the network has 0 to 2" in err


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    codes = images_for(small_network(), 3)
    for name, image in zip(("cat", "ant", "cat"), codes, strict=True):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(image[0]).save(tmp_path / name / f"{image.sum()}.png")
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    found = open_labelled_images(str(tmp_path), (1, 8, 8), LABELS)
    assert found.labels.tolist() == [0, 2, 2]
    by_name = sorted((codes[0], codes[2]), key=lambda image: str(image.sum()))
    np.testing.assert_array_equal(found.images, [codes[1], *by_name])
    assert open_labelled_images(str(tmp_path), (1, 8, 8), ()).labels.tolist() == [0, 1, 1]
    with pytest.raises(BitlensError, match="is no class of the network"):
        open_labelled_images(str(tmp_path), (1, 8, 8), ("ant", "bee"))
    with pytest.raises(BitlensError, match="prepared by rule 'later'"):
        open_labelled_images(str(tmp_path), (1, 8, 8), LABELS, rule="later")
    (tmp_path / "none").mkdir()
    with pytest.raises(BitlensError, match="no folder per class"):
        open_labelled_images(str(tmp_path / "none"), (1, 8, 8), LABELS)
    (tmp_path / "none" / "ant").mkdir()
    with pytest.raises(BitlensError, match="holds no picture"):
        open_labelled_images(str(tmp_path / "none"), (1, 8, 8), LABELS)


def test_pictures_of_any_size_are_prepared_as_in_training(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    codes = images_for(small_network(), 2)[:, 0]
    Image.fromarray(codes[0].repeat(3, axis=0).repeat(3, axis=1)).save(tmp_path / "ant" / "1.png")  # 24 x 24
    wide = np.zeros((8, 12), np.uint8)
    wide[:, 2:10] = codes[1]
    Image.fromarray(wide).save(tmp_path / "ant" / "2.png")
    found = open_labelled_images(str(tmp_path), (1, 8, 8), LABELS)
    np.testing.assert_array_equal(found.images[:, 0], codes)


def test_networks_that_are_not_trusted_are_named_once(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    without_kernels(monkeypatch)  # the native engine would be the faster one, and parses nothing
    quick = ("--data", "images.npz", "--images", "3", "--methods", "gradient", "--metrics", "pearson")
    code, out, err = evaluate("one.bitlens", "two.bitlens", *quick, "--output", "out", "--json")
    assert code == 0
    assert {network["engine"].split()[0] for network in json.loads(out)["networks"]} == {"reference"}
    notes = [line for line in err.splitlines() if line.startswith("bitlens: ")]
    assert len(notes) == 1
    assert notes[0].startswith("bitlens: one.bitlens, two.bitlens are not on your list of trusted networks, so onnx")
    code, out, err = evaluate("one.bitlens", "two.bitlens", *quick, "--trust", "--output", "trusted", "--json")
    assert code == 0
    assert [network["engine"].split()[0] for network in json.loads(out)["networks"][1:]] == ["onnxruntime"] * 2
    assert "bitlens: " not in err


def test_a_data_set_by_its_name() -> None:
    found = open_labelled_images("digits", (1, 28, 28), ())
    assert (found.name, len(found), found.images.dtype) == ("digits", 397, np.uint8)  # the test part


def test_a_name_without_what_it_needs_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled_images, "find_spec", lambda name: None)
    with pytest.raises(BitlensError, match=r"bitlens\[train\]"):
        open_labelled_images("digits", (1, 28, 28), ())


def test_images_are_chosen_with_every_class_in_proportion(pristine: Path) -> None:
    whole = open_labelled_images(str(pristine / "images.npz"), (1, 8, 8), LABELS)
    some = whole.chosen(9, 0)
    assert np.bincount(some.labels).tolist() == [3, 3, 3]
    np.testing.assert_array_equal(some.images, whole.images[some.places])
    np.testing.assert_array_equal(whole.chosen(21, 0).places[:9], some.places)
    assert set(whole.chosen(None, 0).places) == set(range(IMAGES))
    assert whole.chosen(9, 1).places.tolist() != some.places.tolist()


def test_random_weights_are_the_same_weights_elsewhere() -> None:
    for program in (small_twin(), small_network()):
        shuffled = with_random_weights(program, seed=3)
        assert [node.name for node in shuffled.nodes] == [node.name for node in program.nodes]
        for before, after in zip(program.nodes, shuffled.nodes, strict=True):
            for name, array in before.arrays.items():
                other = after.arrays[name]
                assert (other.dtype, other.shape) == (array.dtype, array.shape)
                np.testing.assert_array_equal(np.sort(other, axis=None), np.sort(array, axis=None))
                assert np.array_equal(other, array) == (name != "weight")
    one, again, other = (with_random_weights(small_twin(), seed=seed).nodes[0].arrays["weight"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_control_maps_hang_on_seed_and_place_alone() -> None:
    places = np.array([4, 7, 4], np.int64)
    maps = control_maps(RANDOM_MAP, places, (5, 6), 0, signed=False)
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(maps[0], maps[2])
    assert not np.array_equal(maps[0], maps[1])
    assert 0 <= maps.min() < maps.max() <= 1
    assert not np.array_equal(maps, control_maps(RANDOM_MAP, places, (5, 6), 1, signed=False))
    assert control_maps(RANDOM_MAP, places, (5, 6), 0, signed=True).min() < 0
    assert (control_maps(UNIFORM_MAP, places, (5, 6), 0, signed=False) == 1).all()


def test_a_cast_of_a_twin_alone(pristine: Path) -> None:
    cast = open_cast([pristine / "full.bitlens"], other_seed=None, engine="reference", threads=1, seed=0)
    assert (cast.networks, cast.other_seed, cast.labels) == ((), None, LABELS)
    inside = open_cast([pristine / "one.bitlens"], other_seed=None, engine="reference", threads=1, seed=0)
    assert inside.twin.sha256 == cast.twin.sha256
    assert inside.random_weights.sha256 != cast.twin.sha256


def rows(values: Iterable[float]) -> list[IntervalRow]:
    return [IntervalRow(f"group {n // 2}", f"row {n}", value, value - 1, value + 1) for n, value in enumerate(values)]


def test_interval_chart() -> None:
    chart = interval_chart(rows([0.5, np.nan, 2.0]), x_label="<x>", caption="a & b")
    reader = Reader(chart)
    assert reader.wrong == []
    assert len(reader.all("circle")) == 2
    assert "undefined" in reader.words["text"]
    assert "row 0: 0.5" in (reader.all("svg")[0]["aria-label"] or "")
    assert "&lt;x&gt;" in chart
    for bad in ([], rows([np.inf])):
        with pytest.raises(BitlensError, match="finite numbers"):
            interval_chart(bad, x_label="", caption="c")
    assert Reader(interval_chart(rows([np.nan]), x_label="x", caption="c")).wrong == []


def test_shards_cover_every_group_once() -> None:
    assert [Shard.parsed(text) for text in ("1/1", "2/3")] == [Shard(1, 1), Shard(2, 3)]
    assert [duration(seconds) for seconds in (0, 99, 100, 6000)] == ["0 s", "99 s", "2 min", "1.7 h"]
