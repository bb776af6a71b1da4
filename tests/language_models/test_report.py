"""The chapter's results, for trained and for brought models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.stores import Ledger, read_json, write_json
from steps.language_models import report
from steps.report.page import Report
from tests.language_models.conftest import Prepared

NGRAMS = {"rows": 2, "targets": 30, "unigram_loss": 5.0, "bigram_loss": 3.5}
HOSTILE = "<b>code & {docs}</b> $x"


def planted(folder: Path, name: str, loss: float, trained: bool) -> tuple[Path, dict[str, Any]]:
    """A model's ledger and evaluation."""
    ledger = Ledger(folder / name / "ledger.json", "language_model", {"name": name})
    if trained:
        points = [{"tokens": 1000 * k, "held_out_loss": 6.0 - k if k % 2 else None} for k in range(4)]
        write_json(ledger.folder / "curve.json", points)
        ledger.record("curve.json")
    source: dict[str, Any] = {"seed": 1} if trained else {"path": "models/x"}
    ledger.finish({"tokenizer": "t", "source": source})
    evaluation = {
        "held_out_loss": loss,
        "parameters": 100,
        "training_tokens": 3000 if trained else None,
        "by_source": {HOSTILE: {"targets": 30, "held_out_loss": loss}},
    }
    return ledger.folder / "ledger.json", evaluation


def write(folder: Path, prepared: Prepared, trained: bool, models: int = 2) -> dict[str, Path]:
    found = [planted(folder, f"model-{k}", 3.0 + k, trained) for k in range(models)]
    write_json(folder / "ngrams.json", NGRAMS)
    write_json(folder / "evaluations.json", [evaluation for _, evaluation in found])
    outs = {name: folder / "out" / name for name in ("metrics", "loss.svg", "loss.json", "report.json")}
    (folder / "out").mkdir()
    report.main(
        "default",
        json.dumps({"study": "default"}),
        [ledger for ledger, _ in found],
        folder / "evaluations.json",
        folder / "ngrams.json",
        prepared.rows,
        prepared.tokenizer,
        *(Output(path) for path in outs.values()),
    )
    return outs


@pytest.mark.parametrize("trained", [True, False])
def test_metrics(prepared: Prepared, tmp_path: Path, trained: bool) -> None:
    numbers = read_json(write(tmp_path, prepared, trained)["metrics"])
    assert numbers["models"] == 2
    assert numbers["held_out_loss"] == 3.5
    assert (numbers["held_out_loss/model-0"], numbers["held_out_loss/model-1"]) == (3.0, 4.0)
    assert (numbers["unigram_loss"], numbers["bigram_loss"]) == (5.0, 3.5)
    assert numbers["training_tokens"] == (3000 if trained else None)
    assert numbers["context"] == 16
    assert all(not isinstance(value, dict | list) for value in numbers.values())


@pytest.mark.parametrize("trained", [True, False])
def test_the_report_keeps_the_contract_of_the_page(prepared: Prepared, tmp_path: Path, trained: bool) -> None:
    outs = write(tmp_path, prepared, trained)
    page = Report.model_validate(read_json(outs["report.json"]))
    assert page.chapter == "language_models"
    assert page.cards[0].value == 3.5
    assert page.tables[1].rows == [[HOSTILE, 30, 3.0, 4.0]]
    assert ("language_models.train" in page.provenance.code) == trained
    assert ("language_models.import" in page.provenance.code) != trained


@pytest.mark.parametrize(("trained", "models"), [(True, 1), (True, 12), (False, 3)])
def test_the_figure_shows_what_its_data_say(
    prepared: Prepared, tmp_path: Path, trained: bool, models: int
) -> None:
    outs = write(tmp_path, prepared, trained, models)
    data = read_json(outs["loss.json"])
    curve = [{"tokens": 1000, "held_out_loss": 5.0}, {"tokens": 3000, "held_out_loss": 3.0}]
    assert data["models"]["model-0"] == {"held_out_loss": 3.0, "curve": curve if trained else []}
    picture = outs["loss.svg"].read_text()
    assert "held-out loss (nats per token)" in picture
    assert ("training tokens (millions)" in picture) == trained


def test_twice_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    written = write(tmp_path, prepared, trained=True)
    first = {name: path.read_bytes() for name, path in written.items()}
    for path in written.values():
        path.unlink()
    (tmp_path / "out").rmdir()
    assert {
        name: path.read_bytes() for name, path in write(tmp_path, prepared, trained=True).items()
    } == first


@pytest.mark.parametrize("found", [[], [{}], {"a": 1}, 3])
def test_evaluations_of_other_models_are_refused(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Any
) -> None:
    read = report.read_json
    monkeypatch.setattr(report, "read_json", lambda p: found if p.name == "evaluations.json" else read(p))
    with pytest.raises(UserError, match="evaluations.json: found .*, expected a list of one for each of 2"):
        write(tmp_path, prepared, trained=False)
