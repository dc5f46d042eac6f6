"""`bitlens bench`: what it measures, how rows are ranked and compared, what it refuses. No test asserts a speed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from command_line import Answer, answered, check_refused, work_in_a_copy
from exported_network import NAME, exported_network
from small_programs import affine, dense, reshape, small_network

from bitlens.runtime import cli
from bitlens.runtime.bench import Bench, BenchRow, Latency, bench_bytes, bench_from_bytes, compared_benches, read_bench
from bitlens.runtime.bench.bench_text import NOTHING, bench_lines, milliseconds
from bitlens.runtime.bench.first_answer import first_answer, first_line, peak_memory_bytes
from bitlens.runtime.bench.result import latency_of, ranked
from bitlens.runtime.bench.rounds import ROUNDS, measured_in_rounds
from bitlens.runtime.board_state import BoardLooks, BoardState
from bitlens.runtime.engines import EngineInfo
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.network import open_network
from bitlens.runtime.program_file import write_program
from bitlens.runtime.verbs import bench as bench_verb

COOL = BoardState(48.0, 0, "ondemand")
QUICK = ("--seconds", "0.01", "--trust")


Run = Callable[..., Answer]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle and a bench of it."""
    place = tmp_path_factory.mktemp("pristine")
    exported_network(place)
    options = ["--methods", "gradient,occlusion", "--engines", "native,reference", "--machine", "bench 3"]
    assert cli.main(["bench", str(place / NAME), *QUICK, *options, "--output", str(place / "there.json")]) == 0
    return place


@pytest.fixture
def place(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return work_in_a_copy(pristine, tmp_path, monkeypatch)


@pytest.fixture
def bench(place: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: answered(capsys, "bench", *arguments)


# What it writes.


def test_the_bench_has_its_documented_form(pristine: Path) -> None:
    facts = json.loads((pristine / "there.json").read_text())
    documented = {
        kind: {name for line in kind.__doc__.splitlines() for name in _documented(line)} for kind in (Bench, BenchRow)
    }
    for kind, names in documented.items():
        assert names == {item.name for item in fields(kind)}, "every field is documented"
    assert set(facts) == {"bench_version"} | documented[Bench]
    assert facts["bench_version"] == 1
    assert facts["bundle_bytes"] == (pristine / NAME).stat().st_size
    assert facts["network"]["bundle_sha256"] == open_network(pristine / NAME).sha256
    assert (facts["image"], facts["threads"], facts["seconds"]) == ("golden", 1, 0.01)
    assert facts["machine"]["name"] == "bench 3"
    rows = {(row["task"], row["engine"]["name"]): row for row in facts["rows"]}
    assert set(rows) == {
        (task, name) for task in ("forward", "gradient", "occlusion") for name in ("native", "reference")
    }
    for (task, _), row in rows.items():
        assert set(row) == documented[BenchRow]
        latency = row["latency_ms"]
        assert set(latency) == {"p50", "p95", "smallest", "rounds"}
        assert 0 < latency["smallest"] <= latency["p50"] <= latency["p95"]
        assert 1 <= len(latency["rounds"]) <= ROUNDS <= 5
        assert row["calls"] >= len(latency["rounds"])
        assert row["warm_up_calls"] >= 1
        assert len(row["cold_start_ms"]) == (3 if task == "forward" else 1)
        assert min(row["cold_start_ms"]) > 0
        # Python and NumPy take that much, and a program of this size hardly more.
        assert 15e6 < row["peak_memory_bytes"] < 200e6
        assert set(row["board"]) == {"before", "after"}
        assert row["note"] == ""
    assert (rows["forward", "native"]["forward_passes"], rows["forward", "native"]["backward_passes"]) == (1, 0)
    assert rows["gradient", "native"]["backward_passes"] == 1
    assert rows["occlusion", "native"]["forward_passes"] > 1
    for task in ("forward", "gradient", "occlusion"):
        assert {rows[task, name]["rank"] for name in ("native", "reference")} <= {1, 2, None}


def _documented(line: str) -> list[str]:
    found = re.fullmatch(r"    ((?:\w+, )*\w+) : .*", line)
    return found[1].split(", ") if found else []


def test_it_is_read_back(pristine: Path) -> None:
    found = read_bench(pristine / "there.json")
    assert bench_from_bytes(bench_bytes(found)) == found


def test_a_table_for_a_person(bench: Run) -> None:
    answer = bench(NAME, *QUICK, "--methods", "none", "--output", "out.json")
    assert answer.code == 0
    assert read_bench(Path("out.json")).rows
    table = [line.split() for line in answer.out.splitlines() if line.startswith("forward")]
    assert sorted(row[1] for row in table) == ["native", "native-int8", "onnxruntime", "reference", "tflite"]
    assert "1 thread, about 0.01 s a row in rounds that take turns" in answer.out
    assert f"round {ROUNDS} of {ROUNDS}" in answer.err
    assert all(len(line) <= 200 for line in answer.out.splitlines())


def test_every_method_is_timed_by_default(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_verb, "_starts", lambda *_, **__: ((), ""))
    answer = bench(NAME, *QUICK, "--engines", "native", "--json")
    facts = json.loads(answer.out)
    assert [row["task"] for row in facts["rows"]] == ["forward", *cli.evaluate.METHODS]
    assert answer.code == 0


def test_a_program_without_golden_images_and_maps(bench: Run, place: Path) -> None:
    nodes = (
        reshape("image", "flat", 64),
        dense("flat", "sums", np.arange(-96, 96, dtype=np.int8).reshape(3, 64)),
        affine("sums", "logits", [0.01, 0.02, 0.03], [0.0, 0.0, 0.0]),
    )
    write_program(replace(small_network(), nodes=nodes), place / "flat.program")
    answer = bench("flat.program", *QUICK, "--engines", "reference", "--methods", "grad_cam,gradient", "--json")
    facts = json.loads(answer.out)
    rows = {row["task"]: row for row in facts["rows"]}
    assert facts["image"] == "drawn"
    assert "map" in rows["grad_cam"]["note"]
    assert (rows["grad_cam"]["latency_ms"], rows["grad_cam"]["rank"], rows["grad_cam"]["calls"]) == (None, None, 0)
    assert rows["gradient"]["latency_ms"]["p50"] > 0
    assert answer.code == 1  # it was asked for by name
    assert bench("flat.program", *QUICK, "--engines", "reference", "--methods", "gradient").code == 0


def test_a_map_that_takes_too_long_is_left_out_unless_it_is_named(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_verb, "LONGEST_MAP_SECONDS", 0.0)
    monkeypatch.setattr(bench_verb, "_starts", lambda *_, **__: ((), ""))
    rows = json.loads(bench(NAME, *QUICK, "--engines", "native", "--json").out)["rows"]
    assert rows[0]["task"] == "forward"
    assert rows[0]["latency_ms"] is not None
    assert all(row["note"].startswith("left out, about ") for row in rows[1:])
    named = bench(NAME, *QUICK, "--engines", "native", "--methods", "gradient", "--json")
    assert all(row["latency_ms"] for row in json.loads(named.out)["rows"])


# New processes.


def test_the_first_answer_of_a_process(place: Path) -> None:
    found = first_answer(place / NAME, "native", "gradient", threads=1, trust=False)
    assert found.cold_start_ms > 0
    assert found.peak_memory_bytes is not None
    with pytest.raises(BitlensError, match="warp"):
        first_answer(place / NAME, "warp", "forward", threads=1, trust=False)
    with pytest.raises(BitlensError, match="trusted"):
        first_answer(place / NAME, "onnxruntime", "forward", threads=1, trust=False)


def test_peak_memory_is_that_of_the_process_itself() -> None:
    """Not the largest of its ancestors: this process holds far more than a bare Python."""
    held = np.ones(2**24)
    own = peak_memory_bytes()
    code = "from bitlens.runtime.bench.first_answer import peak_memory_bytes as peak; print(peak())"
    _, line = first_line(["-c", code])
    _, more = first_line(["-c", f"held = bytearray(b'x') * 100_000_000; {code}"])
    assert own is not None
    assert own > held.nbytes > int(line)
    assert 95e6 < int(more) - int(line) < 105e6


def test_a_machine_that_does_not_say_its_memory(tmp_path: Path) -> None:
    assert peak_memory_bytes(tmp_path / "absent") is None
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    1234 kB\n")
    assert peak_memory_bytes(tmp_path / "status") == 1234 * 1024
    (tmp_path / "status").write_text("Name:\tpython\n")
    assert peak_memory_bytes(tmp_path / "status") is None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('bitlens: it is broken')", "^it is broken$"),
        ("import os; os._exit(3)", "ended with 3"),
        ("print('half', end='')", "gave no answer"),
        ("import os, signal; print('x'); os.kill(os.getpid(), signal.SIGKILL)", "ended with -9"),
    ],
)
def test_a_process_that_fails(code: str, said: str) -> None:
    with pytest.raises(BitlensError, match=said):
        first_line(["-c", code])


def test_where_no_process_can_be_started(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under QEMU's user-mode emulation: the other figures are there all the same."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    answer = bench(NAME, *QUICK, "--engines", "native", "--methods", "none", "--json")
    (row,) = json.loads(answer.out)["rows"]
    assert answer.code == 0
    assert (row["cold_start_ms"], row["peak_memory_bytes"]) == ([], None)
    assert row["note"].startswith("no process can be started here")
    assert row["latency_ms"] is not None


# Rounds.


def test_calls_take_turns_after_their_warm_up() -> None:
    said: list[str] = []
    visits = measured_in_rounds([lambda: said.append("a"), lambda: said.append("b")], 1e-9, lambda: COOL)
    assert said == ["a", "b", "a", "b"]  # the warm-up; then one visit each, which spends all there is
    assert [visit.warm_up_calls for visit in visits] == [1, 1]
    assert [len(visit.rounds_ms) for visit in visits] == [1, 1]


def test_rounds_visit_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitlens.runtime.bench.rounds.timed_ms", lambda call: call() or 10.0)
    said: list[str] = []
    done: list[int] = []
    visits = measured_in_rounds(
        [lambda: said.append("a"), lambda: said.append("b")], 0.1, lambda: COOL, done.append
    )  # 20 ms in each of 5 rounds, 10 ms a call; a fifth of 100 ms to warm up
    assert said == ["a"] * 2 + ["b"] * 2 + (["a"] * 2 + ["b"] * 2) * ROUNDS
    assert done == [1, 2, 3, 4, 5]
    assert [visit.rounds_ms for visit in visits] == [[[10.0, 10.0]] * ROUNDS] * 2


def test_a_slow_call_is_not_visited_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitlens.runtime.bench.rounds.timed_ms", lambda call: call() or 60.0)
    (visit,) = measured_in_rounds([lambda: None], 0.1, lambda: COOL)
    assert visit.rounds_ms == [[60.0], [60.0]]


def test_a_row_knows_when_the_board_was_slowed_down() -> None:
    looks: Iterator[BoardState] = iter([COOL, COOL, replace(COOL, throttle_bits=0x40000), *[COOL] * 50])
    visits = measured_in_rounds([lambda: None] * 3, 1e-9, lambda: next(looks))
    assert [visit.slowed_by for visit in visits] == [(), ("throttled",), ()]


# Figures.


def test_latency_of_known_times() -> None:
    found = latency_of([[1.0, 2.0, 3.0], [4.0, 100.0]])
    assert (found.p50, found.smallest, found.rounds) == (3.0, 1.0, (2.0, 52.0))
    assert found.p95 == pytest.approx(4 + 0.8 * 96)  # the place 0.95 * 4 between the last two


def made_row(task: str, engine: str, p50: float | None, *slowed_by: str) -> BenchRow:
    latency = None if p50 is None else Latency(p50, 2 * p50, p50, (p50,))
    info = EngineInfo(engine, "1", 1, "scalar")
    board = BoardLooks(COOL, COOL)
    return BenchRow(task, info, 1, 0, latency, 1, 1, (200.0, 100.0, 300.0), 42_000_000, board, slowed_by, None, "")


def test_ranks_leave_out_what_was_slowed_down() -> None:
    rows = ranked(
        [
            made_row("forward", "slow", 3.0),
            made_row("forward", "hot", 1.0, "throttled"),
            made_row("forward", "fast", 2.0),
            made_row("forward", "none", None),
            made_row("gradient", "slow", 9.0),
        ]
    )
    assert [row.rank for row in rows] == [2, None, 1, None, 1]


def test_a_slowed_row_is_marked(pristine: Path) -> None:
    rows = ranked([made_row("forward", "hot", 1.0, "throttled", "under-voltage"), made_row("forward", "cool", 2.0)])
    lines = bench_lines(replace(read_bench(pristine / "there.json"), rows=rows))
    (cool, hot) = (line for line in lines if line.startswith("forward"))
    assert cool.split()[1:] == ["cool", "2.00", "4.00", "1", "200", "42.0", "1"]
    assert hot.split()[1:6] == ["hot", "1.00", "2.00", NOTHING, "200"]
    assert hot.endswith("SLOWED: throttled, under-voltage")
    assert "has no rank" in lines[-1]


def test_what_the_firmware_remembers_from_before_hides_what_comes(pristine: Path) -> None:
    found = replace(read_bench(pristine / "there.json"), rows=(made_row("forward", "a", 1.0),))
    before = replace(COOL, throttle_bits=0x50000)
    for state, said in ((COOL, False), (before, True)):
        lines = bench_lines(replace(found, board=BoardLooks(state, state)))
        assert ("had slowed down since its start already (under-voltage, throttled)" in "\n".join(lines)) == said


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0361, "0.036"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12346")]
)
def test_milliseconds(value: float, shown: str) -> None:
    assert milliseconds(value) == shown


# Comparison.


def test_compared_with_another_machine(bench: Run, place: Path) -> None:
    facts = json.loads((place / "there.json").read_text())
    facts["machine"] |= {"board": "Raspberry Pi 4 Model B Rev 1.5", "processor": "Raspberry Pi 4 Model B Rev 1.5"}
    facts["rows"][0]["latency_ms"] |= {"p50": 1e6, "p95": 1e6}
    (place / "other.json").write_text(json.dumps(facts))
    options = (*QUICK, "--engines", "native", "--methods", "none", "--compare", "other.json")
    answer = bench(NAME, *options)
    assert answer.code == 0
    assert "Beside other.json: ANOTHER MACHINE" in answer.out
    assert "Raspberry Pi 4 Model B Rev 1.5" in answer.out
    assert re.search(r"^  forward +native +[\d.]+ +1000000 +0\.00$", answer.out, re.MULTILINE)
    assert "only there" in answer.out
    compared = json.loads(bench(NAME, *options, "--json").out)["compared"]
    ratios = {(row["task"], row["engine"]): row["ratio"] for row in compared["rows"]}
    assert 0 < ratios.pop(("forward", "native")) < 1
    assert set(ratios.values()) == {None}


def test_ratios_of_known_benches(pristine: Path) -> None:
    base = read_bench(pristine / "there.json")
    here = replace(base, rows=(made_row("forward", "a", 1.0), made_row("forward", "hot", 1.0, "throttled")))
    there = replace(base, threads=2, rows=(made_row("forward", "a", 4.0), made_row("forward", "hot", 4.0)))
    found = compared_benches(here, there)
    assert [(row.ratio, row.note) for row in found.rows] == [
        (0.25, ""),
        (None, "the board slowed itself down here"),
    ]
    assert found.same_machine
    assert ("threads", "1", "2") in found.differing
    for change in ({"processor": "x"}, {"name": "bench 4"}):
        assert not compared_benches(replace(here, machine=replace(here.machine, **change)), there).same_machine
    unnamed = compared_benches(replace(here, machine=replace(here.machine, name="")), there)
    assert unnamed.same_machine  # --machine was left out
    assert ("name", "", "bench 3") in unnamed.differing


def test_differences_come_in_the_order_of_the_rows(pristine: Path) -> None:
    names = ["f", "b", "e", "a", "d", "c"]
    here = replace(read_bench(pristine / "there.json"), rows=tuple(made_row("forward", name, 1.0) for name in names))
    rows = tuple(replace(row, engine=replace(row.engine, version="2")) for row in reversed(here.rows))
    found = compared_benches(here, replace(here, rows=rows)).differing
    assert [what for what, _, _ in found] == [f"{name}: version" for name in names]


def test_the_same_program_in_another_bundle_is_compared(pristine: Path) -> None:
    base = read_bench(pristine / "there.json")
    other = replace(base, network=replace(base.network, bundle_sha256="f" * 64))
    assert [what for what, _, _ in compared_benches(base, other).differing] == ["bundle"]


# What it refuses, before any work.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.bitlens",), "absent.bitlens"),
        ((NAME, "--seconds", "0"), "--seconds is 0, expected more than 0"),
        ((NAME, "--seconds", "nan"), "--seconds is nan"),
        ((NAME, "--threads", "0"), "threads is 0"),
        ((NAME, "--methods", "magic"), "magic"),
        ((NAME, "--methods", "gradient,gradient"), "given twice"),
        ((NAME, "--engines", "warp"), "warp"),
        ((NAME, "--engines", "native,native"), "given twice"),
        ((NAME, "--engines", "onnxruntime"), "list of trusted networks"),
        ((NAME, "--machine", "\x1b[2J"), "printable"),
        ((NAME, "--output", "folder.json"), r"cannot write folder\.json \(Is a directory\)"),
        ((NAME, "--output", "missing/out.json"), r"cannot write missing/out\.json \(No such file or directory\)"),
        ((NAME, "--compare", "absent.json"), "absent.json"),
        ((NAME, "--compare", "other.json"), "it is of another network"),
        ((NAME, "--compare", "newer.json"), "version 2, this bitlens reads 1 to 1"),
        ((NAME, "--compare", "list.json"), "it is no bench"),
        ((NAME, "--compare", "cut.json"), "it is damaged"),
        ((NAME, "--compare", "nothing.json"), "takes no time"),
        ((NAME, "--compare", "twice.json"), "each task once"),
    ],
)
def test_refused(arguments: tuple[str, ...], message: str, bench: Run, place: Path) -> None:
    text = (place / "there.json").read_text()
    facts = json.loads(text)
    (place / "folder.json").mkdir()
    (place / "list.json").write_text("[]")
    (place / "cut.json").write_text(text[:-40])
    (place / "newer.json").write_text(json.dumps(facts | {"bench_version": 2}))
    (place / "twice.json").write_text(json.dumps(facts | {"rows": facts["rows"] * 2}))
    network = facts["network"] | {"program_sha256": "0" * 64}
    (place / "other.json").write_text(json.dumps(facts | {"network": network}))
    facts["rows"][0]["latency_ms"]["p50"] = 0
    (place / "nothing.json").write_text(json.dumps(facts))
    check_refused(bench(*arguments), message)


def test_interrupted(place: Path) -> None:
    """Ctrl-C leaves no process and no half file behind."""
    import signal
    import time

    command = [sys.executable, "-m", "bitlens.runtime.cli", "bench", NAME, "--trust", "--output", "out.json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place)
    assert process.stderr is not None
    process.stderr.readline()  # it has begun
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.endswith("bitlens: interrupted\n")
    assert not (place / "out.json").exists()
