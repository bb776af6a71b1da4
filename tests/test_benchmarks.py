"""The benchmarks run and say what they promise, and what we quote of them is on record.

How fast anything is does not matter here.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks import measure

ROOT = Path(__file__).resolve().parents[1]
RECORDS = sorted((ROOT / "benchmarks" / "records").glob("*.json"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
UNITS = {
    "neurons.dump_over_forward": "ratio",
    "neurons.dump_over_forward_default": "ratio",
    "neurons.correlate_over_matmul": "ratio",
    "neurons.correlate_with_moments_over_matmul": "ratio",
    "neurons.tokens_slope": "exponent",
    "neurons.pairs_slope": "exponent",
    "neurons.two_pass_over_ours": "ratio",
    "neurons.two_pass_over_ours_with_moments": "ratio",
    "neurons.two_pass_over_ours_20_draws": "ratio",
    "neurons.dense_labels_over_ours": "ratio",
    "neurons.groupby_over_ours": "ratio",
    "neurons.two_pass_over_ours_20_draws_with_moments": "ratio",
    "neurons.correlate_memory_ratio": "ratio",
    "neurons.correlate_memory_ratio_2000": "ratio",
    "neurons.correlate_memory_ratio_20000": "ratio",
    "language_models.tokens_per_cpu_second": "tokens/s",
}
ON_DEVICE = {
    "neurons.device_products_over_matmul": "ratio",
    "neurons.device_products_tokens_per_second": "tokens/s",
    "neurons.device_products_share_of_peak": "share",
    "neurons.device_activations_tokens_per_second": "tokens/s",
}


def assert_well_formed(entries: dict, units: dict[str, str] = UNITS) -> None:
    """Every figure is there, in the layout that the design gives."""
    assert {name: entry["unit"] for name, entry in entries.items()} == units
    for name, entry in entries.items():
        assert set(entry) == {"value", "unit", "spread", "sides", "runs", "machine"}, name
        low, high = entry["spread"]
        assert 0 < low <= entry["value"] <= high, name
        assert all(side > 0 for side in entry["sides"].values()), name
        assert len(entry["sides"]) >= (1 if entry["unit"] == "tokens/s" else 2), name
        assert entry["machine"]["threads"] == 1, name


def test_every_figure_is_measured_and_printed(tmp_path: Path) -> None:
    out = tmp_path / "results" / "benchmarks.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_well_formed(json.loads(out.read_text()))
    printed = {line.split(" = ")[0] for line in done.stdout.splitlines() if " = " in line}
    assert printed == set(UNITS)
    differences = re.findall(r"maxima differ by at most (\S+)", done.stdout)
    assert len(differences) == 2
    assert all(float(difference) < 1e-4 for difference in differences)


def test_the_accelerator_s_figures_are_measured(tmp_path: Path) -> None:
    out = tmp_path / "benchmarks.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "device", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert_well_formed(json.loads(out.read_text()), ON_DEVICE)


def test_an_unknown_part_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks", "--only", "corelate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "corelate" in done.stderr
    assert "correlate" in done.stderr


def test_ratios_are_of_runs_that_follow_each_other() -> None:
    figure = measure.ratio("x", {"a": [2.0, 30.0, 8.0], "b": [1.0, 10.0, 2.0]}, "at most 1")
    assert (figure.value, figure.spread, figure.runs) == (3.0, (2.0, 4.0), 3)
    assert figure.sides == {"a": 8.0, "b": 2.0}


def test_sides_are_measured_in_turn_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    sides = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = measure.in_turn(sides, 2, before=lambda: calls.append("-"))
    assert "".join(calls) == "-a-b-a-b-a-b"
    assert [len(seconds[side]) for side in "ab"] == [2, 2]


def test_more_than_two_sides_are_measured_in_turn() -> None:
    calls: list[str] = []
    sides = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = measure.in_turn(sides, 3, uncounted=0)
    assert "".join(calls) == "abc" * 3
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_one_of_several_sides_over_another() -> None:
    seconds = {"a": [6.0, 8.0, 10.0], "b": [1.0, 1.0, 1.0], "c": [2.0, 2.0, 2.0]}
    figure = measure.ratio("x", seconds, "", of=("a", "c"))
    assert (figure.value, figure.spread) == (4.0, (3.0, 5.0))
    assert figure.sides == {"a": 8.0, "b": 1.0, "c": 2.0}
    with pytest.raises(ValueError, match="too many values"):
        measure.ratio("x", seconds, "")


def test_cpu_time_counts_threads_and_processes_and_no_waiting() -> None:
    def compute() -> None:
        start = time.thread_time()
        while time.thread_time() - start < 0.2:
            pass

    def threads() -> None:
        both = [threading.Thread(target=compute) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()

    code = "import time\nwhile time.process_time() < 0.3: pass"
    sides = {
        "waits": lambda: time.sleep(0.3),
        "threads": threads,
        "process": lambda: subprocess.run([sys.executable, "-c", code], check=True),
    }
    seconds = measure.in_turn(sides, 1, clock=measure.cpu_seconds, uncounted=0)
    assert seconds["waits"][0] < 0.15
    assert seconds["threads"][0] >= 0.4
    assert seconds["process"][0] >= 0.3


def test_a_side_is_stopped_at_its_cap() -> None:
    tidied: list[str] = []

    def endless() -> None:
        try:
            while True:
                try:
                    sum(range(100))
                except Exception:
                    tidied.append("held up")
        finally:
            tidied.append("tidied")

    sides = {"endless": endless, "waits": lambda: time.sleep(0.4), "quick": lambda: None}
    earlier = signal.getsignal(signal.SIGALRM)
    seconds = measure.in_turn(
        sides, 2, clock=measure.cpu_seconds, caps={"endless": 0.2, "waits": 0.2, "quick": 0.2}
    )
    assert tidied == ["tidied"] * 3
    assert [type(taken) for taken in seconds["endless"]] == [measure.Capped] * 2
    assert all(taken > 0.2 for taken in seconds["endless"])
    assert {type(taken) for side in ("waits", "quick") for taken in seconds[side]} == {float}
    assert signal.getsignal(signal.SIGALRM) == earlier
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    figure = measure.ratio("x", seconds, "", of=("endless", "waits"))
    assert figure.capped == figure.entry()["capped"] == {"endless": 2}
    assert "endless stopped at its cap 2 times" in figure.line()
    assert "capped" not in measure.ratio("x", {"a": [1.0], "b": [2.0]}, "").entry()


def test_a_program_is_killed_at_the_cap_of_its_side(tmp_path: Path) -> None:
    code = "import time; time.sleep(0.5); open('ended', 'w')"

    def program() -> None:
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)

    start = time.perf_counter()
    (taken,) = measure.in_turn({"program": program}, 1, caps={"program": 0.1}, uncounted=0)["program"]
    assert isinstance(taken, measure.Capped)
    assert 0.1 < taken < time.perf_counter() - start
    time.sleep(1)
    assert not (tmp_path / "ended").exists()


def test_slopes_are_those_of_powers() -> None:
    seconds = {size: [size**0.5, 3 * size**1.5] for size in (1, 4, 16)}
    figure = measure.slope("x", seconds, "")
    assert figure.spread == pytest.approx((0.5, 1.5))
    assert figure.value == pytest.approx(1.0)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_records_are_whole(record: Path) -> None:
    entries = json.loads(record.read_text())
    on_device = any("accelerator" in entry["machine"] for entry in entries.values())
    assert_well_formed(entries, ON_DEVICE if on_device else UNITS)


def quoted(page: str) -> list[tuple[str, str, str]]:
    """Figures that a page quotes: record, name and value of every table row that begins with a name.

    Rows look like ``| `neurons.tokens_slope` | 0.98 | ...``; the record is the last one linked before.
    """
    found, record = [], ""
    for line in page.splitlines():
        record = (re.findall(r"\((?:\.\./)?(?:benchmarks/)?(records/[\w.-]+\.json)\)", line) or [record])[-1]
        row = re.match(r"\| `([a-z_]+\.[a-z0-9_]+)` \| ([\d.,]+) ", line)
        if row and row[1] in UNITS | ON_DEVICE:
            found.append((record, row[1], row[2]))
    return found


def agrees(quote: str, value: float) -> bool:
    """Whether ``quote`` is ``value``, rounded to the places it has (or, whole, to two digits or more)."""
    number = quote.replace(",", "")
    places = len(number.partition(".")[2])
    digits = len(number.rstrip("0")) if not places else 0
    return float(number) == (round(value, places) if places else float(f"{value:.{max(2, digits)}g}"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_pages_quote_is_on_record(page: Path) -> None:
    for record, name, value in quoted(page.read_text(encoding="utf-8")):
        assert record, f"{page.name}: {name} = {value} follows no link to a record"
        kept = json.loads((ROOT / "benchmarks" / record).read_text())[name]["value"]
        assert agrees(value, kept), f"{page.name}: {name} is quoted as {value}, recorded as {kept}"


def test_a_wrong_quote_is_noticed() -> None:
    page = "See [x](benchmarks/records/x.json).\n| `neurons.tokens_slope` | 0.98 | more |\n"
    assert quoted(page) == [("records/x.json", "neurons.tokens_slope", "0.98")]
    assert agrees("0.98", 0.9761)
    assert not agrees("0.98", 0.9861)
    assert agrees("51,000", 51_234.5)
    assert not agrees("51,000", 52_234.5)
