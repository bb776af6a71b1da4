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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks import measure
from benchmarks.reruns import CPU_SECONDS
from steps.dafny.verifier.locate import Verifier, find
from steps.workflow.configuration import Config

ROOT = Path(__file__).resolve().parents[1]
RECORDS = sorted({*(ROOT / "benchmarks" / "records").glob("*.json")} - {CPU_SECONDS})
STUDIES = [record for record in RECORDS if record.stem.endswith("-metrics")]
RUNS = [record for record in RECORDS if record not in STUDIES]
PAGES = sorted(
    page
    for folder in (".", "docs", "benchmarks", "findings", "data")
    for page in (ROOT / folder).glob("*.md")
)
CHAPTERS = sorted({"workflow"} | {path.stem for path in (ROOT / "rules").glob("*.smk")})
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
RATES = ("tokens/s", "steps/s")
"""Units of figures with one side."""

ON_DEVICE = {
    "neurons.device_products_over_matmul": "ratio",
    "neurons.device_products_tokens_per_second": "tokens/s",
    "neurons.device_products_share_of_peak": "share",
    "neurons.device_activations_tokens_per_second": "tokens/s",
}
OF_CHAPTERS = {
    "fractal.lean_uncached_over_ours_b1": "ratio",
    "audit.gateway_overhead_ms": "ms",
    "skills.env_steps_per_cpu_second": "steps/s",
    "dafny.process_over_pool": "ratio",
}
"""Measured with the others, and kept in a record of their own."""
OF_WORKFLOW = {"workflow.rerun_share_of_edits": "share", "workflow.demo_over_before": "ratio"}
"""Kept in a record of their own."""


def assert_well_formed(entries: dict, units: dict[str, str] = UNITS) -> None:
    """Every figure is there, in the layout that the design gives."""
    assert {name: entry["unit"] for name, entry in entries.items()} == units
    for name, entry in entries.items():
        assert set(entry) == {"value", "unit", "spread", "sides", "runs", "machine"}, name
        low, high = entry["spread"]
        least = 0 if name == "workflow.rerun_share_of_edits" else 1e-12  # many edits rerun nothing
        assert least <= low <= entry["value"] <= high, name
        assert all(side >= least for side in entry["sides"].values()), name
        assert len(entry["sides"]) >= (1 if entry["unit"] in RATES else 2), name
        assert entry["machine"]["threads"] == 1, name


def test_every_figure_is_measured_and_printed(tmp_path: Path) -> None:
    out = tmp_path / "results" / "benchmarks.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    share = "workflow.rerun_share_of_edits"
    expected = UNITS | OF_CHAPTERS | {share: OF_WORKFLOW[share]}
    if find(Verifier()) is None:
        del expected["dafny.process_over_pool"]
    assert_well_formed(json.loads(out.read_text()), expected)
    printed = {line.split(" = ")[0] for line in done.stdout.splitlines() if " = " in line}
    assert printed == expected.keys()
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


def test_every_figure_is_on_record() -> None:
    names = {name for record in RUNS for name in json.loads(record.read_text())}
    assert names >= {*UNITS, *ON_DEVICE, *OF_CHAPTERS, *OF_WORKFLOW}


@pytest.mark.parametrize("record", RUNS, ids=lambda record: record.stem)
def test_records_are_whole(record: Path) -> None:
    """A run of some chapters has all their figures."""
    entries = json.loads(record.read_text())
    apart = OF_WORKFLOW | OF_CHAPTERS
    if entries.keys() <= apart.keys():
        assert_well_formed(entries, {name: apart[name] for name in entries})
        return
    on_device = any("accelerator" in entry["machine"] for entry in entries.values())
    units = ON_DEVICE if on_device else UNITS
    chapters = {name.partition(".")[0] for name in entries}
    assert_well_formed(
        entries, {name: unit for name, unit in units.items() if name.partition(".")[0] in chapters}
    )


def recorded(record: Path) -> dict[str, float]:
    """The figures of a record by their whole names: those of a run, or the metrics of a study."""
    entries = json.loads(record.read_text())
    if record in STUDIES:
        chapter = record.stem.partition("-")[0]
        flat = {name: value for name, value in entries.items() if not isinstance(value, dict)}
        for name, values in entries.items():
            if isinstance(values, dict):  # by generator
                flat |= {f"{name}/{key}": value for key, value in values.items()}
        return {f"{chapter}.{name}": value for name, value in flat.items()}
    return {name: entry["value"] for name, entry in entries.items()}


@pytest.mark.parametrize("record", STUDIES, ids=lambda record: record.stem)
def test_metrics_of_a_study_are_numbers_or_words(record: Path) -> None:
    """As ``results/CHAPTER/STUDY/metrics.json`` has them; tests/workflow/test_ci.py compares the names."""
    metrics = recorded(record)
    assert len(metrics) > 5
    assert all(type(value) in (int, float, str, type(None)) for value in metrics.values())
    assert sum(type(value) in (int, float) for value in metrics.values()) > 5


NAME = re.compile(rf"`?\b((?:{'|'.join(CHAPTERS)})\.[a-z][\w/-]*)`?")
NUMBER = re.compile(r"(?<![\w.,`/-])(-?(?:\d[\d,]*)?\.?\d+(?:e-?\d+)?)(?![\w`]|[.,]\d)( ?%)?")
LINK = re.compile(r"\((?:\.\./)?(?:benchmarks/)?records/([\w.-]+\.json)\)")


class Quote(NamedTuple):
    """A number that a page gives for a figure, and the record that it links: none is ``""``."""

    record: str
    name: str
    number: str


def passages(page: str) -> Iterator[str]:
    """The paragraphs, list items and tables of a page."""
    lines: list[str] = []
    for line in [*page.splitlines(), ""]:
        starts = re.match(r"\s*([-*] |\d+\. |#)", line) or line.startswith("|") != "".join(
            lines[-1:]
        ).startswith("|")
        if (starts or not line.strip()) and lines:
            yield "\n".join(lines)
            lines = []
        if line.strip():
            lines.append(line)


def in_prose(text: str, is_figure: Callable[[str], bool]) -> Iterator[tuple[int, str, str]]:
    """Where a figure is named in a sentence, its name and its number, if the sentence has one.

    ``1.2 (`x`)`` is the number before; else it is the next one after the name, else the last one before.
    """
    for sentence in re.finditer(r"(?:[^.!?;]|[.!?;](?!\s))+", text):
        words = LINK.sub("", sentence[0])
        names = [match for match in NAME.finditer(words) if is_figure(match[1])]
        numbers = [
            number
            for number in NUMBER.finditer(words)
            if not any(name.start() <= number.start() < name.end() for name in names)
        ]
        taken: set[int] = set()
        for place, name in enumerate(names):
            until = names[place + 1].start() if place + 1 < len(names) else len(words)
            before = [one for one in numbers if one.end() <= name.start() and one.start() not in taken]
            after = [one for one in numbers if name.end() <= one.start() < until]
            if before and re.fullmatch(r"[^()]{0,40}\(", words[before[-1].end() : name.start()]):
                after = []
            found = after[:1] or before[-1:]
            taken |= {one.start() for one in found}
            yield from ((sentence.start(), name[1], one[0]) for one in found)


def in_table(text: str, is_figure: Callable[[str], bool]) -> Iterator[tuple[int, str, str]]:
    """Where a figure is named in a table, its name and its number.

    Numbers begin a cell: the one beside the cell that names figures, as many as it names, or one below it.
    """
    heads: list[str] = []
    start = 0
    for line in text.splitlines(keepends=True):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        heads = heads or cells
        for column, cell in enumerate(cells):
            yield from ((start, name, number) for _, name, number in in_prose(cell, is_figure))
            begins = re.match(NUMBER, cell) is not None
            for other in (cells[column - 1] if column else "", *heads[column : column + 1]):
                names = [name for name in NAME.findall(other) if is_figure(name)]
                numbers = ["".join(number) for number in NUMBER.findall(cell)]
                if begins and other is not cell:
                    yield from ((start, name, number) for name, number in zip(names, numbers, strict=False))
        start += len(line)


def quoted(page: str, is_figure: Callable[[str], bool]) -> Iterator[Quote]:
    """The figures that a page quotes, with the record that it links in the same passage, or before."""
    earlier = ""
    for passage in passages(page):
        links = [(link.start(), link[1]) for link in LINK.finditer(passage)]
        find = in_table if passage.startswith("|") else in_prose
        for start, name, number in find(passage, is_figure):
            here = [record for place, record in links if place < start] or [record for _, record in links[:1]]
            yield Quote(here[-1] if here else earlier, name, number)
        earlier = links[-1][1] if links else earlier


def agrees(quote: str, value: float) -> bool:
    """Whether ``quote`` is ``value``, rounded to the places it has (or, whole, to two digits or more)."""
    number = quote.replace(",", "")
    if number.endswith("%"):
        number, value = number.rstrip("% "), 100 * value
    places = len(number.partition(".")[2])
    digits = len(number.lstrip("-").rstrip("0")) if not places else 0
    return float(number) == (round(value, places) if places else float(f"{value:.{max(2, digits)}g}"))


def fault(quote: Quote, records: dict[str, dict[str, float]]) -> str:
    """What is wrong with a quote, in a line: nothing is an empty one."""
    if not quote.record:
        return f"{quote.name} = {quote.number} follows no link to a record"
    kept = records.get(quote.record, {}).get(quote.name)
    if kept is None:
        return f"{quote.record} has no {quote.name}"
    return "" if agrees(quote.number, kept) else f"{quote.name}: {quote.number} is quoted, {kept} recorded"


def is_setting(name: str) -> bool:
    """Whether ``name`` is a dotted key of the configuration."""
    model: Any = Config
    for key in name.split("."):
        fields = getattr(model, "model_fields", {})
        if key not in fields:
            return False
        model = fields[key].annotation
    return True


FIGURES = {record.name: recorded(record) for record in RECORDS}
RECORDED = {name for figures in FIGURES.values() for name in figures}


def is_a_figure(name: str) -> bool:
    """Whether a dotted name can be no setting and no file; a misspelt figure is one, too."""
    file = name.rpartition(".")[2] in ("json", "parquet", "html", "svg", "smk", "yaml", "md", "py")
    return name in RECORDED or not (file or is_setting(name))


QUOTES = {
    page.relative_to(ROOT).as_posix(): list(quoted(page.read_text(encoding="utf-8"), is_a_figure))
    for page in PAGES
}


@pytest.mark.parametrize("page", [page for page in QUOTES if QUOTES[page]])
def test_what_pages_quote_is_on_record(page: str) -> None:
    """Pages that quote nothing are no tests; which ones quote something is seen below."""
    assert [found for quote in QUOTES[page] if (found := fault(quote, FIGURES))] == []


@pytest.mark.parametrize("record", STUDIES, ids=lambda record: record.stem)
def test_every_study_on_record_is_quoted(record: Path) -> None:
    """By its chapter's page, with names of figures, so that the search finds what is to be compared."""
    quotes = QUOTES[f"docs/{record.stem.partition('-')[0]}.md"]
    assert len({quote.name for quote in quotes if quote.record == record.name}) >= 5


def test_the_readme_quotes_what_was_measured() -> None:
    """Every figure of its two tables, which the search must find."""
    rows = re.findall(r"(?m)^\| `([\w.]+)` \| [\d.,]+ \|", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(rows) >= 12
    assert set(rows) <= {quote.name for quote in QUOTES["README.md"]}


PLANTED = {
    "x.json": {"neurons.tokens_slope": 0.9761, "neurons.pairs_slope": 1.2, "language_models.rate": 51_234.5},
    "neurons-default-metrics.json": {"neurons.excess_max": 0.4658, "neurons.partition": 512},
}
LINKED = "See [x](benchmarks/records/x.json).\n\n"
METRICS = "See [them](../benchmarks/records/neurons-default-metrics.json).\n\n"


@pytest.mark.parametrize(
    "page",
    [
        LINKED + "| `neurons.tokens_slope` | 0.98 | over a factor of 16 |",
        LINKED + "| what | value |\n| --- | --- |\n| time, `neurons.tokens_slope` | 0.98 | of 3 |",
        LINKED + "| `neurons.tokens_slope`, `neurons.pairs_slope` | 0.98, 1.2 |",
        LINKED
        + "| machine | `neurons.pairs_slope` | `neurons.tokens_slope` |\n|---|---|---|\n| 1 | 1.2 | 0.98 |",
        LINKED + "Text first. `neurons.tokens_slope` is 0.98, and\n`neurons.pairs_slope` is 1.2 for 4 pairs.",
        LINKED + "- Time grows by 0.98 (`neurons.tokens_slope`) and\n  1.2 (`neurons.pairs_slope`).",
        LINKED + "An exponent of 0.98 is\n`neurons.tokens_slope`; that of 2 models differs.",
        LINKED + "neurons.tokens_slope = 0.98, over 5 runs.",
        "`neurons.tokens_slope` was 0.98 ([record](records/x.json)).",
        LINKED + "It trains 51,000 tokens a second (`language_models.rate`), `neurons.tokens_slope`: 98 %.",
        METRICS + "The largest excess, `neurons.excess_max`, is 0.466, and `neurons.partition` is 512.",
        METRICS + "Of all neurons 46.6 % (`neurons.excess_max`) and `neurons.partition` 620.",
    ],
)
def test_a_quote_is_found_wherever_it_stands(page: str) -> None:
    """Every planted page is right (but for the last number of the last) and wrong once a digit changes."""
    quotes = list(quoted(page, lambda name: any(name in figures for figures in PLANTED.values())))
    stated = {"0.98", "1.2", "51,000", "98 %", "0.466", "46.6 %", "512", "620"}
    assert {quote.number for quote in quotes} == {one for one in stated if re.search(rf"(?<!\d){one}", page)}
    for quote in quotes:
        assert (fault(quote, PLANTED) == "") == (quote.number != "620"), quote
        wrong = quote._replace(
            number=re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), quote.number)
        )
        assert f"{quote.name}: {wrong.number} is quoted" in fault(wrong, PLANTED)


def test_a_quote_needs_a_record_that_has_it() -> None:
    [quote] = quoted("`neurons.tokens_slope` is 0.98.", is_a_figure)
    assert "follows no link to a record" in fault(quote, PLANTED)
    [quote] = quoted(METRICS + "`neurons.tokens_slope` is 0.98.", is_a_figure)
    assert fault(quote, PLANTED) == "neurons-default-metrics.json has no neurons.tokens_slope"
    [quote] = quoted(LINKED + "| `neurons.token_slope` | 0.98 |", is_a_figure)  # misspelt
    assert fault(quote, PLANTED) == "x.json has no neurons.token_slope"
    [quote] = quoted("[y](records/y.json): `neurons.tokens_slope` is 0.98.", is_a_figure)
    assert fault(quote, PLANTED) == "y.json has no neurons.tokens_slope"


def test_settings_and_files_are_no_figures() -> None:
    page = "`neurons.tiles` is 4, `neurons.correlate.draws` 9 and `neurons.parquet` has 12 columns."
    assert list(quoted(page, is_a_figure)) == []


def test_numbers_agree_when_rounded() -> None:
    assert agrees("0.98", 0.9761)
    assert not agrees("0.98", 0.9861)
    assert agrees("51,000", 51_234.5)
    assert not agrees("51,000", 52_234.5)
    assert agrees("-0.1", -0.098)
    assert agrees("12.6 %", 0.1257)
    assert not agrees("12.6%", 0.1267)
