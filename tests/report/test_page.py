"""The report page: everything that a report holds is on it, escaped, and nothing else runs or loads."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steps.core.errors import UserError
from steps.core.pages import STYLE
from steps.report import page
from steps.workflow import configuration
from tests.warm.start import environment

ROOT = Path(__file__).resolve().parents[2]
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'
HOSTILE = "<script>alert('x')</script>\"'></title></style><!-- --><img src=x onerror=alert(1)>👩‍💻 http://evil.example"
VOID = {"meta", "link", "img", "br"}


class Page(html.parser.HTMLParser):
    """Elements, attributes and text of a page; fails where elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def plant(folder: Path, chapter: str = "neurons", **changes: Any) -> Path:
    """Write a chapter's report and its figure; ``changes`` replace parts of the report."""
    folder = folder / "results" / chapter / "default"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures/one.svg").write_text(SVG)
    (folder / "figures/one.csv").write_text("a,b\n1,2\n")
    report = {
        "chapter": chapter,
        "study": "default",
        "title": f"About {chapter}",
        "summary": "First paragraph.\n\nSecond paragraph.",
        "cards": [
            {
                "name": "Excess",
                "value": 0.123456,
                "unit": "nats",
                "note": "A note.",
                "rule": "neurons_table",
                "records": "logs/neurons/**/*.json",
                "inputs": {"data/input.parquet": "ab" * 32},
                "code": "cd" * 32,
            }
        ],
        "figures": [{"file": "figures/one.svg", "caption": "A caption.", "data": "figures/one.csv"}],
        "tables": [
            {
                "title": "Families",
                "caption": "",
                "columns": ["name", "size", "text"],
                "rows": [["first", 1234567, {"snippet": [["The", 0], [" cat", 1.0], ["\n", 0.5]]}]],
            }
        ],
        "provenance": {
            "settings": {"draws": 20},
            "code": {"neurons.table": "ef" * 32},
            "inputs": {"data/other.parquet": "12" * 32},
            "versions": {"torch": "2.13.0"},
        },
        **changes,
    }
    path = folder / "report.json"
    path.write_text(json.dumps(report))
    return path


def build(*reports: Path, largest: float = 1e6) -> str:
    here = reports[0].parents[3] / "results" / "report"
    return page.page([page.read_part(p, largest, here) for p in reports])


def test_page_shows_all_that_a_report_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    logs = tmp_path / "logs/neurons/table"
    logs.mkdir(parents=True)
    record = {"outcome": "done", "wall_seconds": 70.5, "cpu_seconds": 99.9, "peak_bytes": 104_857_600}
    (logs / "a.json").write_text(json.dumps(record))
    (logs / "b.json").write_text(json.dumps({**record, "wall_seconds": 50.5, "peak_bytes": 1000}))
    (logs / "failed.json").write_text(json.dumps({**record, "outcome": "failed"}))
    (logs / "broken.json").write_bytes(b"{\xff\xfe")
    found = Page(build(plant(tmp_path)))
    for text in (
        *("About neurons", "First paragraph.", "Second paragraph.", "Excess", "0.1235", "nats", "A note."),
        *("neurons_table", "2 min 1 s in 2 jobs, 3 min 20 s of CPU time, peak 104.9 MB"),
        *("data/input.parquet", "ababababab…"),
        *("A caption.", "Data: one.csv, 8 B", "Families", "1,234,567", "The", " cat", "↵"),
        *("ef" * 32, "12" * 32, "torch", "2.13.0", '"draws": 20'),
    ):
        assert text in found.text
    titles = {attributes.get("title") for attributes in found.all("code")}
    assert {"ab" * 32, "cd" * 32} <= titles
    assert [a["class"] for a in found.all("mark")] == ["m9", "m4"]
    (link,) = [a for a in found.all("a") if "download" in a]
    assert base64.b64decode(str(link["href"]).split(",")[1]) == b"a,b\n1,2\n"
    (image,) = found.all("img")
    assert image["alt"] == "A caption."
    assert base64.b64decode(str(image["src"]).split(",")[1]).decode() == SVG


def test_further_pages_are_linked_where_they_lie(tmp_path: Path) -> None:
    hostile = {"file": "neurons?x#y.html", "title": HOSTILE, "note": "Search " + HOSTILE}
    path = plant(tmp_path, pages=[{"file": "neurons.html", "title": "All neurons"}, hostile])
    with pytest.raises(UserError, match="neurons.html: missing, but .*report.json names it"):
        build(path)
    for name in ("neurons.html", "neurons?x#y.html"):
        (path.parent / name).write_text("<!doctype html>")
    found = Page(build(path))
    links = [str(a["href"]) for a in found.all("a") if "download" not in a][1:]
    assert links == ["./../neurons/default/neurons.html", "./../neurons/default/neurons%3Fx%23y.html"]
    assert "Search " + HOSTILE in found.text
    assert not found.all("script")


def test_page_is_whole_in_itself_and_strict(tmp_path: Path) -> None:
    text = build(plant(tmp_path, "language_models"), plant(tmp_path))
    found = Page(text)
    assert found.all("html")[0]["lang"] == "en"
    (policy,) = [a["content"] for a in found.all("meta") if "http-equiv" in a]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert str(policy).startswith("default-src 'none'; img-src data:; style-src 'sha256-" + digest + "';")
    assert "unsafe" not in str(policy)
    for tag, attributes in found.elements:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base", "svg")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href"):
            assert str(attributes.get(name, "#")).startswith(("data:", "#"))
    assert not re.search(r"https?://|@import|url\(", text)
    anchors = [a["href"] for a in found.all("a") if "download" not in a]
    assert anchors == ["#language_models-default", "#neurons-default"]
    ids = [str(a["id"]) for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {str(a)[1:] for a in anchors} <= set(ids)
    headings = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_page_of_its_own_is_small(tmp_path: Path) -> None:
    empty: dict[str, Any] = {"cards": [], "figures": [], "tables": [], "provenance": {}}
    assert len(build(plant(tmp_path, **empty)).encode()) < 20_000


def test_hostile_texts_are_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "figures/\"'><script>alert(2)<&.svg"
    changes: dict[str, Any] = {
        "title": HOSTILE,
        "summary": HOSTILE,
        "cards": [{"name": HOSTILE, "value": HOSTILE, "unit": HOSTILE, "note": HOSTILE, "rule": HOSTILE}],
        "figures": [{"file": name, "caption": HOSTILE, "data": name}],
        "tables": [
            {
                "title": HOSTILE,
                "caption": HOSTILE,
                "columns": [HOSTILE, HOSTILE],
                "rows": [[HOSTILE, {"snippet": [[HOSTILE, 0.5], [HOSTILE, 0]]}]],
            }
        ],
        "provenance": {
            "settings": {HOSTILE: HOSTILE},
            "code": {HOSTILE: HOSTILE},
            "inputs": {HOSTILE: HOSTILE},
            "versions": {HOSTILE: HOSTILE},
        },
    }
    changes["cards"][0] |= {
        "inputs": {HOSTILE: HOSTILE},
        "code": HOSTILE,
        "records": HOSTILE.replace("/", ""),
    }
    report = plant(tmp_path, **changes)
    os.makedirs((report.parent / name).parent, exist_ok=True)
    (report.parent / name).write_text(SVG)
    text = build(report)
    found = Page(text)
    harmless = Page(build(plant(tmp_path / "other", **_mapped(changes, "harmless"), figures=[])))
    assert {tag for tag, _ in found.elements} - {"figure", "img", "figcaption", "a"} <= {
        tag for tag, _ in harmless.elements
    }
    for payload in ("<script", "alert('x')", "<img src=x", "<!--", "</title></style>"):
        assert payload not in text
    assert all("onerror" not in attributes for _, attributes in found.elements)
    # shown as written: the title, summary, five times in the card, ...
    assert found.text.count(HOSTILE) >= 15
    assert [a["alt"] for a in found.all("img")] == [HOSTILE]


def _mapped(value: Any, text: str) -> Any:
    """The same structure with every hostile text replaced."""
    if isinstance(value, dict):
        return {_mapped(k, text): _mapped(v, text) for k, v in value.items() if k != "figures"}
    if isinstance(value, list):
        return [_mapped(item, text) for item in value]
    return text if isinstance(value, str) and "script" in value else value


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("\n", "↵"),
        (" ", "␣"),
        ("\u00a0 ", "␣␣"),
        ("\t", "⇥"),
        (" word", " word"),
        (")\r\n", ")␍↵"),
        ("\x00\x1b", "␀␛"),
        ("a\u202eb\u200b", "a⟨U+202E⟩b⟨U+200B⟩"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("\ud800", "⟨U+D800⟩"),
        ("", ""),
    ],
)
def test_unseen_characters_of_tokens_become_visible(token: str, shown: str) -> None:
    assert page.visible(token) == shown


def test_nothing_unseen_stands_raw_on_the_page(tmp_path: Path) -> None:
    label = "a\x00b\x1bc\u202ed\u200be é\u00a0👩\u200d💻"
    report = page.Report(
        chapter="x",
        study="s",
        title=label,
        summary=label,
        tables=[page.Table(title=label, caption=label, columns=[label], rows=[[label]])],
    )
    text = page.page([page.Part(report, [], [], [], [])])
    assert not set("\x00\x1b\u202e\u200b") & set(text)
    assert text.count("a␀b␛c⟨U+202E⟩d⟨U+200B⟩e é\u00a0👩\u200d💻") >= 5


def test_plain_tokens_are_joined_and_others_kept_apart() -> None:
    tokens = [("a", 0.0), ("b", 0.01), ("c", 1.0), ("d", 1.0), ("e", 0.0)]
    snippet = page.Snippet([page.Token(*token) for token in tokens])
    assert page.runs(snippet) == [(0, "ab"), (9, "c"), (9, "d"), (0, "e")]
    style = STYLE.read_text()
    assert all(f".m{level} " in style for level in range(1, page.LEVELS + 1))
    assert f".m{page.LEVELS + 1} " not in style


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (12345.678, "12,346"),
        (-0.25, "\u22120.25"),
        (0.123456, "0.1235"),
        (1.2e-5, "1.2\u00d710⁻⁵"),
        (3e20, "3\u00d710²⁰"),
        (10**30, "1" + ",000" * 10),
    ],
)
def test_numbers_are_written_for_people(value: float, text: str) -> None:
    assert page.number(value) == text


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([2.7798, 2.7311, 2.7], ["2.780", "2.731", "2.700"]),
        ([9999.9], ["10,000"]),
        ([1.0, 0.97480, -0.5], ["1.000", "0.975", "\u22120.500"]),
        ([53.1, 0.2, 0.0], ["53.1", "0.2", "0.0"]),
        ([1234.5, 2.25], ["1,234", "2.25"]),
        ([0.5, 2.0e-7], ["0.5", "2\u00d710⁻⁷"]),  # evenly it would be 0.0
        ([2.5, 0.0123], ["2.500", "0.012"]),
        ([2.5, 0.00123], ["2.5", "0.00123"]),
        ([1.5, 7, None], ["1.5", "7", "none"]),
        ([3, 12345], ["3", "12,345"]),
        ([123456.7, 2.5], ["123,457", "2.5"]),
    ],
)
def test_a_column_shows_its_numbers_alike_where_that_loses_little(
    tmp_path: Path, values: list[float | None], shown: list[str]
) -> None:
    table = {"title": "Even", "columns": ["name", "x"], "rows": [["a row", value] for value in values]}
    text = build(plant(tmp_path, tables=[table], cards=[]))
    cells = re.findall(r'<td role="cell"(?: class="n")?>(.*?)</td>', text, re.DOTALL)
    assert [re.sub("<.*?>", "", cell).strip() for cell in cells if "a row" not in cell] == shown
    assert all(f'<data value="{value}" title="{value}">' in text for value in values if value is not None)


def test_long_tokens_and_many_rows_and_lone_surrogates_are_written(tmp_path: Path) -> None:
    rows = [[f"row {i}", {"snippet": [["a" * 5000, 1], ["\ud800", 0]]}] for i in range(50)]
    table = {"title": "\ud83d".encode("utf-16", "surrogatepass").hex(), "columns": ["a", "b"], "rows": rows}
    report = plant(tmp_path, tables=[table])
    found = Page(build(report))
    assert found.text.count("a" * 5000) == 50


def test_large_data_is_named_and_not_carried(tmp_path: Path) -> None:
    found = Page(build(plant(tmp_path), largest=7))
    assert not [a for a in found.all("a") if "download" in a]
    assert "default/figures/one.csv, 8 B" in found.text


def test_missing_timings_and_missing_values_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = {"title": "Nothing", "columns": ["a"], "rows": []}
    found = Page(build(plant(tmp_path, cards=[{"name": "Count", "value": None}], tables=[table])))
    assert "no timings here" in found.text
    assert "none" in found.text
    assert "No rows at this scale." in found.text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"titel": "x"}, r"titel: unknown key .* did you mean 'title'"),
        ({"title": None}, "title: found None"),
        ({"study": "../../x"}, "study: found '../../x'"),
        ({"cards": [{"name": "a", "value": True}]}, "cards.0.value: found True, expected: text, a number"),
        ({"cards": [{"name": "a", "value": float("nan")}]}, "cards.0.value: found nan"),
        (
            {"cards": [{"name": "a", "value": 1, "records": "/etc/*"}]},
            "records: found '/etc/.*relative path",
        ),
        ({"figures": [{"file": "../../x.svg", "caption": ""}]}, "file: found .*relative path without"),
        ({"figures": [{"file": "/etc/passwd", "caption": ""}]}, "file: found .*relative path without"),
        ({"figures": [{"file": "figures", "caption": ""}]}, "figures: missing, but .* names it"),
        ({"figures": [{"file": "no.svg", "caption": ""}]}, "no.svg: missing, but .* names it"),
        (
            {"figures": [{"file": "figures/one.csv", "caption": ""}]},
            "one.csv: found 8 bytes that are not a complete",
        ),
        (
            {"figures": [{"file": "figures/one.svg", "caption": "", "data": "no.csv"}]},
            "no.csv: missing, but .* names it",
        ),
        (
            {"tables": [{"title": "a", "columns": ["b"], "rows": [[1, 2]]}]},
            r"1 cells per row \(row 0 has 2\)",
        ),
        (
            {"tables": [{"title": "a", "columns": ["b"], "rows": [[{"snippet": [["x", 2]]}]]}]},
            "strength from 0 to 1",
        ),
        ({"tables": [{"title": "a", "columns": ["b"], "rows": [[{"html": "x"}]]}]}, "rows.0.0: found"),
    ],
)
def test_reports_that_break_the_contract_get_one_line(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    report = plant(tmp_path, **changes)
    with pytest.raises(UserError, match=expected) as error:
        page.read_part(report, 1e6, report.parent)
    assert "\n" not in str(error.value)
    assert str(report.parent) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x00\xff\x00", b'{"chapter": "neu', b"[]", b"null"])
def test_broken_report_files_get_one_line(tmp_path: Path, content: bytes) -> None:
    report = plant(tmp_path)
    report.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(report))):
        page.read_part(report, 1e6, report.parent)


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
BOMB = '<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">{}]><svg>&e9;</svg>'.format(
    "".join(f'<!ENTITY e{i} "{("&a;" if i == 0 else f"&e{i - 1};") * 100}">' for i in range(10))
)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (SVG.encode(), "image/svg+xml"),
        (
            b'<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x.dtd">\n<svg/>',
            "image/svg+xml",
        ),
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0 jpeg \xff\xd9", "image/jpeg"),
        (SVG.encode()[:-3], None),
        (PNG[:-3], None),
        (b"", None),
        (b"<html><body>no</body></html>", None),
        (BOMB.encode(), None),
    ],
    ids=["svg", "doctype", "png", "jpeg", "cut svg", "cut png", "empty", "html", "bomb"],
)
def test_pictures_are_whole_or_refused(tmp_path: Path, data: bytes, kind: str | None) -> None:
    path = tmp_path / "figure.svg"
    path.write_bytes(data)
    if kind is None:
        with pytest.raises(UserError, match="not a complete SVG, PNG or JPEG"):
            page.picture(path)
    else:
        assert page.picture(path).startswith(f"data:{kind};base64,")


def step(*reports: Path | str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "steps.report.page", "--reports", *map(str, reports)]
    command += ["--settings", "{}", "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_step_writes_the_same_page_twice(tmp_path: Path) -> None:
    report = plant(tmp_path)
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    assert step(report, out=first).returncode == 0
    assert step(report, out=second).returncode == 0
    assert first.read_bytes() == second.read_bytes()


def test_mistakes_leave_the_old_page(tmp_path: Path) -> None:
    report = plant(tmp_path)
    out = tmp_path / "index.html"
    out.write_text("old")
    (report.parent / "figures/one.svg").write_text(SVG[:20])
    for reports, expected in [
        ((report,), "one.svg: found 20 bytes"),
        ((report.parent,), "found a folder"),
        ((), "--reports: found none"),
        ((tmp_path / "no.json",), "does not exist"),
    ]:
        done = step(*reports, out=out)
        assert done.returncode == 2
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1
    (report.parent / "figures/one.svg").write_text(SVG)
    assert "appears twice" in step(report, report, out=out).stderr
    assert out.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "results"}


CHAPTERS = configuration.reports(configuration.Config())
SNAKEFILE = "\n".join(
    [
        "from steps.workflow import configuration",
        "configuration.prepare_environment()",
        "settings = configuration.Config()",
        "step = configuration.step_params(settings)",
        *(
            f"rule {chapter}:\n    input: {report!r}, {figures if chapter == 'neurons' else []}"
            for chapter, report in CHAPTERS.items()
            for figures in [["results/neurons/default/figures/one.svg"]]
        ),
        'include: "rules/report.smk"\n',
    ]
)


def test_a_changed_figure_alone_rebuilds_the_page(tmp_path: Path) -> None:
    for name in ("steps", "rules"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    for chapter in CHAPTERS.keys() - {"neurons"}:
        plant(tmp_path, chapter)
    report = plant(tmp_path)

    def snakemake() -> str:
        command = [sys.executable, "-m", "snakemake", "report", "--cores", "1"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "localrule report_page:" in snakemake()
    made = tmp_path / "results/report/index.html"
    before = made.read_text()
    assert "About neurons" in before
    (tmp_path / "logs/neurons").mkdir()
    record = {"outcome": "done", "wall_seconds": 1.0, "cpu_seconds": 0.9, "peak_bytes": 2 * 2**20}
    (tmp_path / "logs/neurons/t.json").write_text(json.dumps(record))
    assert "Nothing to be done" in snakemake()
    (report.parent / "figures/one.svg").write_text(SVG.replace("9", "8"))
    snakemake()
    assert made.read_text() != before
    assert "1.0 s, 0.9 s of CPU time, peak 2.1 MB" in made.read_text()
