"""The configuration: documented, closed, and explained in one line when wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from steps import workflow
from steps.core.errors import UserError
from steps.core.settings import Settings
from tests.workflow.conftest import ROOT, snakemake


def default() -> dict[str, Any]:
    """A fresh copy of ``config/default.yaml``."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "config" / "default.yaml").read_text())
    return loaded


def keys(settings: Settings, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        path = (*above, name)
        found |= keys(value, path) if isinstance(value, Settings) else {path: value}
    return found


def written(values: dict[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for name, value in values.items():
        found |= written(value, (*above, name)) if isinstance(value, dict) else {(*above, name): value}
    return found


def test_the_default_file_holds_every_setting_with_its_default() -> None:
    stated = written(default())
    for path in keys(workflow.Config()):
        places = [path, *((*path[:depth], path[-1]) for depth in range(len(path) - 1))]
        here = [place for place in places if place in stated]
        assert here, f"config/default.yaml lacks {'.'.join(path)}"
    assert keys(workflow.configure(default())) == keys(workflow.Config())


def test_every_setting_of_the_default_file_has_a_comment() -> None:
    for line in (ROOT / "config" / "default.yaml").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.strip() and not name.lstrip().startswith("#"):
            assert "#" in value, line


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    merged = default()

    def merge(into: dict[str, Any], values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict) and isinstance(into.get(key), dict):
                merge(into[key], value)
            else:
                into[key] = value

    merge(merged, yaml.safe_load(path.read_text()) or {})
    workflow.configure(merged)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("neuron", {}, "neuron: unknown key.*did you mean 'neurons'"),
        ("neurons.dump.token", 5, "neurons.dump.token: unknown key .found 5., did you mean 'tokens'"),
        ("neurons.pairs", "some", "neurons.pairs: found 'some', expected: .*'reference' or 'all'"),
        ("neurons.dump.tokens", "many", "neurons.dump.tokens: found 'many', expected: .*integer"),
        ("neurons.dump.tokens", 0, "neurons.dump.tokens: found 0, expected: .*greater than or equal to 1"),
        ("neurons.q", 1.5, "neurons.q: found 1.5"),
        ("neurons.study", "../../etc", "neurons.study: found '../../etc'"),
        ("neurons", 3, "neurons: found 3"),
        ("seed", None, "seed: found None"),
        ("threads", "x", "^configuration: threads: found 'x', expected: [^;]*$"),
        ("threads", 100_000, "^configuration: threads: found 100000, expected: [^;]* 1024$"),
        ("neurons.q", float("nan"), "^configuration: neurons.q: found nan, expected: [^;]*$"),
        (
            "language_models.seeds",
            [1, 1],
            "^configuration: language_models.seeds: found .*differ .1 is there",
        ),
        ("language_models.train.checkpoints", 10**9, "language_models.train.checkpoints: found 1000000000"),
    ],
)
def test_a_wrong_setting_is_explained(path: str, value: Any, message: str) -> None:
    values = default()
    *above, last = path.split(".")
    place = values
    for part in above:
        place = place[part]
    place[last] = value
    with pytest.raises(UserError, match=message):
        workflow.configure(values)


def test_numbers_in_scientific_notation() -> None:
    values = default()
    values["neurons"]["dump"]["tokens"] = "2e4"
    values["neurons"]["q"] = "1e-2"
    config = workflow.configure(values)
    assert config.neurons.dump.tokens == 20_000
    assert config.neurons.q == config.neurons.baseline.q == config.neurons.clusters.q == 0.01


def test_a_step_may_differ_from_what_stands_above_it() -> None:
    values = default()
    values["seed"] = 5
    values["neurons"]["clusters"]["seed"] = 6
    config = workflow.configure(values)
    assert (config.neurons.correlate.seed, config.neurons.clusters.seed) == (5, 6)


def test_a_mistake_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "-n", "--config", "neurons={dump: {token: 5}}", config=None, expect=1)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "unknown key" in line]
    assert len(lines) == 1
    assert "did you mean 'tokens'" in lines[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("neurons={reference: nobody}", "neurons.reference: found 'nobody', expected one of seed-1"),
        ("corpus={documents: {source: files, files: {folder: nowhere}}}", "nowhere does not exist; name a"),
        (f"corpus={{documents: {{source: files, files: {{folder: {'x' * 300}}}}}}}", "File name too long"),
        ("language_models={models: [{name: a, path: gone}]}", "gone: no such folder; list the folder"),
        ("corpus={documents: {source: files, files: {folder: .}}}", "expected a folder apart from data/raw"),
    ],
)
def test_what_is_missing_is_one_line_without_frames_of_ours(tmp_path: Path, setting: str, says: str) -> None:
    (tmp_path / "text.txt").write_text("some text")
    done = snakemake(tmp_path, "-n", "--config", setting, config=None, expect=1)
    said = done.stdout + done.stderr
    assert sum(says in line for line in said.splitlines()) == 1
    assert "steps/" not in said
    assert ".smk" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("folder", [".", "data", "data/models/tiny", "results", "texts/../logs"])
def test_texts_where_the_workflow_writes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "a.txt").write_text("some text")
    documents: dict[str, Any] = {"source": "files", "files": {"folder": folder}}
    for place in (
        {"files": {"folder": folder}},
        {"source": "hub", "hub": {"dataset": folder, "revision": "1"}},
    ):
        config = workflow.configure({"corpus": {"documents": documents | place}})
        with pytest.raises(UserError, match="expected a folder apart from .*, which the workflow makes"):
            workflow.user_files(config)


def test_the_files_of_a_local_dataset_are_inputs(tmp_path: Path) -> None:
    (tmp_path / "set/data").mkdir(parents=True)
    for name in ("README.md", "data/train.jsonl", ".hidden"):
        (tmp_path / "set" / name).write_text("{}")
    hub = {"source": "hub", "hub": {"dataset": str(tmp_path / "set"), "revision": "1"}}
    found = workflow.user_files(workflow.configure({"corpus": {"documents": hub}}))
    assert found.corpus == [str(tmp_path / "set" / name) for name in ("README.md", "data/train.jsonl")]


def test_one_model_can_be_trained_and_not_compared(tmp_path: Path) -> None:
    one = ("--config", "language_models={seeds: [1]}", "--")
    done = snakemake(tmp_path, "-n", *one, "language_models", config=None)
    assert "language_models_train" in done.stdout + done.stderr
    done = snakemake(tmp_path, "-n", *one, "neurons", config=None, expect=1)
    says = "language_models: found one model (seed-1), expected at least 2 to compare"
    assert says in done.stdout + done.stderr


def test_every_table_and_figure_that_is_kept_is_asked_for(tmp_path: Path) -> None:
    files = workflow.neuron_files(workflow.Config())
    for name in ("neurons", "examples", "excess", "clusters", "edges"):
        assert f"results/neurons/default/{name}.parquet" in files
    [targets] = re.findall(r"rule all:.*", (ROOT / "Snakefile").read_text(), re.DOTALL)
    assert "rules.corpus.input" in targets
    assert "for chapter in REPORTS" in targets


def test_pairs_and_tiles_name_every_job_once() -> None:
    values = default()
    values["neurons"] |= {"pairs": "reference", "tiles": 3, "reference": "seed-3"}
    config = workflow.configure(values)
    files = workflow.correlation_files(config)
    assert len(files) == len(set(files)) == 4 * 3
    assert all("/correlations/seed-3/" in file for file in files)
    values["neurons"]["pairs"] = "all"
    assert len(workflow.correlation_files(workflow.configure(values))) == 10 * 3


def test_an_unknown_reference_is_named() -> None:
    values = default()
    values["neurons"]["reference"] = "nobody"
    with pytest.raises(UserError, match="neurons.reference: found 'nobody', expected one of seed-1"):
        workflow.configure(values)


def test_memory_grows_with_each_attempt() -> None:
    config = workflow.Config()
    for step in ("dump", "moments", "correlate", "clusters", "similarity", "checkpoints", "report"):
        memory = workflow.neuron_resources(config, step)["mem_mb"]
        assert memory(None, 2) == pytest.approx(2 * memory(None, 1), abs=1)


def arrows(drawing: str) -> set[tuple[str, str]]:
    """The arrows of a mermaid drawing, whose order Snakemake leaves to chance."""
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", drawing))
    return {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", drawing)}


def test_the_drawn_workflow_is_the_real_one(tmp_path: Path) -> None:
    drawn = arrows(snakemake(tmp_path, "--rulegraph", "mermaid-js", config=None).stdout)
    assert ("neurons_dump", "neurons_correlate") in drawn
    assert arrows((ROOT / "docs" / "workflow.md").read_text(encoding="utf-8")) == drawn


@pytest.mark.parametrize(
    ("source", "with_gpu"),
    [
        ("dump", {"dump", "moments", "products", "correlate", "clusters"}),
        ("model", {"moments", "products", "correlate", "clusters", "report"}),
    ],
)
def test_a_gpu_is_asked_for_where_one_is_used(source: str, with_gpu: set[str]) -> None:
    config = workflow.configure({"device": "cuda", "neurons": {"dump": {"source": source}}})
    steps = ("dump", "moments", "products", "correlate", "clusters", "tables", "report")
    assert {step for step in steps if "gpu" in workflow.neuron_resources(config, step)} == with_gpu
    assert not any("gpu" in workflow.neuron_resources(workflow.configure({}), step) for step in steps)
