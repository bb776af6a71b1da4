"""The configuration: documented, closed, and explained in one line when wrong."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from steps import workflow
from steps.core.errors import UserError
from steps.core.settings import Settings
from tests.workflow.conftest import ROOT, snakemake, write_texts


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


def shown(page: str) -> list[list[str]]:
    """The snakemake commands of a page's blocks, as a shell takes them apart."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("    snakemake ")]


@pytest.mark.parametrize("arguments", shown("README.md"), ids=" ".join)
def test_what_the_readme_shows_works(tmp_path: Path, arguments: list[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"\n    corpus: (.|\n    )+", text)
    assert block is not None
    mine = tmp_path / "mine.yaml"
    mine.write_text(textwrap.dedent(block[0]).replace("path/to/texts", "texts"))
    write_texts(tmp_path / "texts")
    typed = [str(mine) if argument == "mine.yaml" else argument for argument in arguments]
    before = [] if "--list-target-rules" in typed else ["--dry-run"]
    said = snakemake(tmp_path, *before, *typed, config=None)
    assert ("neurons_baseline" if before else "neurons_similarity") in said.stdout + said.stderr


def test_every_setting_of_the_default_file_has_a_comment() -> None:
    for line in (ROOT / "config" / "default.yaml").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.strip() and not name.lstrip().startswith("#"):
            assert "#" in value, line


def merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    """Merge ``values`` as Snakemake does: key by key, lists whole."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def configured(*names: str) -> workflow.Config:
    """The configuration that files of ``config/`` make, given in this order."""
    merged = default()
    for name in names:
        merge(merged, yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text()) or {})
    return workflow.configure(merged)


PRESETS = {
    "paper_small": ("paper",),
    "paper_medium": ("paper", "paper_medium"),
    "paper_pythia": ("paper", "paper_pythia"),
}
"""The studies of the paper that compare models, and their files."""

ALONE = ("ci", "default", "own_models", "paper", "paper_pythia_weights", "publish")


@pytest.mark.parametrize("files", [*((name,) for name in ALONE), *PRESETS.values()], ids="+".join)
def test_every_shipped_configuration_is_valid(files: tuple[str, ...]) -> None:
    configured(*files)


def test_every_shipped_configuration_is_tried() -> None:
    tried = {*ALONE, *(name for files in PRESETS.values() for name in files)}
    assert {path.stem for path in (ROOT / "config").glob("*.yaml")} == tried


PAPER = {
    "neurons.reference": "a",
    "neurons.pairs": "reference",
    "neurons.universal_set": "half",
    "neurons.baseline.threshold": 0.5,
    "neurons.ranges": 16,
    "neurons.dump.source": "model",
    "neurons.dump.dtype": "float16",
    "neurons.dump.tokens": 100_000_000,
    "neurons.dump.exclude_bos": True,
    "neurons.dump.exclude_tokens": ["\n"],
    "neurons.moments.examples": 50,
    "neurons.correlate.top": 50,
    "neurons.histograms.tokens": 10_000_000,
    "neurons.similarity.tokens": 500_000,
    "neurons.explain.tokens": 10_000_000,
    "neurons.explain.minimum_reduction": 0.5,
    "neurons.explain.unigram_variants": 4,
    "neurons.explain.unigram_share": 3000 / 10_000_000,
    "neurons.explain.topic_sets": 63,
    "neurons.explain.top_tokens": 100,
    "neurons.explain.small_norm": True,
    "neurons.explain.code_sources": [],
    "neurons.cosines.tokens": 100,
    "neurons.cosines.neurons": 20,
    "neurons.attention.rows": 512,
    "neurons.attention.positions": (0.5, 1.0),
    "neurons.attention.destinations": 12_288,
    "neurons.intervene.rows": 19_532,
    "neurons.intervene.values": [-0.17, 0, 1, 2, 3, 4, 5, 6],
    "neurons.intervene.controls": 20,
    "neurons.intervene.exclude_bos": True,
    "neurons.plan.hardware": "v100",
    "language_models.rows.context": 512,
    "language_models.rows.separator": None,
    "corpus.documents.source": "hub",
    "corpus.documents.minimum_characters": 50,
    "corpus.documents.held_out": 0.999,
    "corpus.documents.hub.dataset": "monology/pile-uncopyrighted",
    "corpus.documents.hub.split": "test",
    "corpus.documents.hub.label_column": "meta.pile_set_name",
    "corpus.documents.hub.maximum_documents": None,
    "corpus.study": "pile_test",
    "threads": 8,
}
"""The paper's settings that all its studies share."""

OWN = {
    "paper_small": {
        "plan": (12, 3072, 50257),
        "tiles": 2,
        "at_once": 3072,
        "entropy_query": "small",
        "models": 5,
        "intervene": [(11, 3030), (11, 2859)],
        "attention": [],
        "excluded": [],
        "block_tokens": 8192,
    },
    "paper_medium": {
        "plan": (24, 4096, 50257),
        "tiles": 8,
        "at_once": 2 * 4096,
        "entropy_query": "medium",
        "models": 5,
        "intervene": [(23, 945), (22, 2882)],
        "attention": [
            *((4, 3594, 5, 0), (14, 411, 15, 8), (14, 2335, 15, 8)),
            *((14, 1625, 15, 8), (19, 2509, 20, 4), (20, 2114, 22, 7)),
        ],
        "excluded": [],
        "block_tokens": 4096,
    },
    "paper_pythia": {
        "plan": (12, 3072, 50304),
        "tiles": 2,
        "at_once": 3072,
        "entropy_query": "pythia",
        "models": 4,
        "intervene": [(11, 1070), (10, 1205), (10, 2385)],
        "attention": [],
        "excluded": [0, 1],
        "block_tokens": 8192,
    },
}
"""And those of each."""


@pytest.mark.parametrize("study", PRESETS)
def test_presets_hold_the_papers_settings(study: str) -> None:
    config = configured(*PRESETS[study])
    found = {".".join(path): value for path, value in keys(config).items()}
    assert {key: found[key] for key in PAPER} == PAPER
    neurons = config.neurons
    assert neurons.study == study
    assert OWN[study] == {
        "plan": (neurons.plan.layers, neurons.plan.width, neurons.plan.vocabulary),
        "tiles": neurons.tiles,
        "at_once": neurons.explain.neurons_at_once,
        "entropy_query": neurons.roles.entropy_query,
        "models": len(config.language_models.models),
        "intervene": neurons.intervene.named,
        "attention": neurons.attention.named,
        "excluded": neurons.intervene.exclude_tokens,
        "block_tokens": neurons.dump.block_tokens,
    }
    layers, width, _ = OWN[study]["plan"]
    for layer, neuron, *head in [*neurons.intervene.named, *neurons.attention.named]:
        assert layer < layers
        assert neuron < width
        assert not head or layer < head[0] < layers


@pytest.mark.parametrize("name", ["paper_medium", "paper_pythia"])
def test_what_differs_from_the_paper_is_refused_alone(name: str) -> None:
    """Or the study would bear the paper's name and have the laptop's settings."""
    with pytest.raises(UserError, match=r"corpus.documents.hub.dataset: found null, expected a value"):
        configured(name)


def test_larger_models_from_weights_alone() -> None:
    config = configured("paper_pythia_weights")
    assert len(config.language_models.models) == 5
    assert not config.neurons.weights.redundancy
    assert not config.neurons.weights.composition
    assert not config.neurons.roles.activations
    assert config.neurons.roles.entropy_query == "pythia"


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
        (
            "language_models.seeds",
            [10**32 - 1, 2],
            r"seeds.0: found 9+, expected: .* less than 9223372036854775808",
        ),
        ("neurons.plan.layers", 10**400, "neurons.plan.layers: found 1000.*, expected: "),
        ("neurons.plan.width", 10**400, "neurons.plan.width: found 1000.*, expected: "),
        ("neurons.plan.vocabulary", 10**400, "neurons.plan.vocabulary: found 1000.*, expected: "),
        ("neurons.plan.devices", 10**400, "neurons.plan.devices: found 1000.*, expected: "),
        (
            "neurons.clusters.bootstraps",
            True,
            "neurons.clusters.bootstraps: found True, expected: a number, nei",
        ),
        (
            "corpus.study",
            2024,
            "^configuration: corpus.study: found 2024, expected: text; put it in quotes: '2024'$",
        ),
        (
            "language_models",
            None,
            "language_models: found nothing, expected: settings below it, .* or remove",
        ),
        ("device", "gpu", "^configuration: device: found 'gpu', expected: cpu, cuda,"),
        (
            "neurons.dump.device",
            "gpu",
            "^configuration: neurons.dump.device: found 'gpu', expected: cpu, cuda,",
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
        ("language_models={models: [{name: a, path: ~nobody-of-that-name/x}]}", "write the whole path of"),
        ("corpus={documents: {source: files, files: {folder: .}}}", "expected a folder apart from data/raw"),
        ("neurons={parts: 3}", "neurons.parts: found 3, expected at most 2, the number of layers"),
        (
            "neurons={explain: {topics: gone.json}}",
            "neurons.explain.topics: found gone.json, which is",
        ),
        ("neurons={figure: {beside: [gone.parquet]}}", "neurons.figure.beside: found gone.parquet, which is"),
        ("neurons={published: {table: results}}", "neurons.published.table: found results, which is no file"),
        ("neurons={published: {table: <b>.csv}}", "'<b>.csv': found braces, angle brackets or control"),
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


def test_files_of_the_home_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = workflow.configure({"neurons": {"published": {"table": "~/table.csv"}}})
    with pytest.raises(UserError, match="neurons.published.table: found .*/table.csv, which is no file"):
        workflow.user_files(config)
    (tmp_path / "table.csv").write_text("layer,neuron\n0,0\n")
    assert workflow.published_table(config) == [str(tmp_path / "table.csv")]


def test_another_study_is_never_made(tmp_path: Path) -> None:
    """It would be made under this one's settings, over what its own have made."""
    for made in (
        "results/neurons/other/neurons.parquet",
        "results/neurons/other/figures/roles.svg",
        "data/models/other/rows/embedded/ledger.json",
    ):
        said = snakemake(tmp_path, "-n", "--", made, config=None, expect=1)
        assert "MissingRuleException" in said.stdout + said.stderr


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


def test_a_folder_with_a_nul_in_its_name_is_refused() -> None:
    documents = {"source": "files", "files": {"folder": "texts\0"}}
    config = workflow.configure({"corpus": {"documents": documents}})
    with pytest.raises(UserError, match=r"documents\.files\.folder: found .*, expected a path without NUL"):
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


@pytest.mark.parametrize(
    ("at_once", "parts", "most"),
    [
        (None, 2, "1: so many times"),
        (64, 2, None),
        (64, 3, "2, the number of layers"),
        (128, 2, "1: so many"),
    ],
)
def test_more_parts_than_a_model_has_are_refused_before_anything_runs(
    at_once: int | None, parts: int, most: str | None
) -> None:
    values = default()
    values["language_models"]["train"] |= {"layers": 2, "width": 16, "heads": 2}
    values["neurons"]["parts"] = parts
    values["neurons"]["explain"]["neurons_at_once"] = at_once
    config = workflow.configure(values)
    if most is None:
        workflow.require_parts(config)
    else:
        with pytest.raises(UserError, match=f"neurons.parts: found {parts}, expected at most {most}"):
            workflow.require_parts(config)
    values["language_models"]["models"] = [{"name": "a", "path": "a"}, {"name": "b", "path": "b"}]
    workflow.require_parts(workflow.configure(values))  # their size is not known yet


def test_figures_of_weights_alone_are_drawn_without_activations() -> None:
    config = workflow.Config()
    assert set(workflow.single_figures(config)) == {"similarity", "checkpoints"}
    assert workflow.joint_figures(config) == workflow.NEURON_FIGURES
    alone = workflow.configure({"neurons": {"roles": {"activations": False, "entropy_query": "pythia"}}})
    assert set(workflow.single_figures(alone)) == {"similarity", "checkpoints", "roles", "roles_by_depth"}
    assert not {"roles", "roles_by_depth"} & set(workflow.joint_figures(alone))
    assert all(Path(path).parent.name == "default" for path in workflow.single_figures(alone).values())


def test_the_share_of_last_layers_is_of_the_figure() -> None:
    with pytest.raises(UserError, match="roles.last_layers: renamed, now neurons.figure.last_layers"):
        workflow.configure({"neurons": {"roles": {"last_layers": 0.5}}})


def test_every_table_and_figure_that_is_kept_is_asked_for(tmp_path: Path) -> None:
    files = workflow.neuron_files(workflow.Config())
    for name in ("neurons", "examples", "excess", "clusters", "edges", "attention_pairs", "reversals"):
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
    steps = ("dump", "moments", "products", "correlate", "clusters", "roles", "report")
    assert {step for step in steps if "gpu" in workflow.neuron_resources(config, step)} == with_gpu
    assert not any("gpu" in workflow.neuron_resources(workflow.configure({}), step) for step in steps)


def test_a_key_that_is_there_twice_is_one_line_of_its_file(tmp_path: Path) -> None:
    """YAML keeps the second one only: this study would have been made in the folder of the default one."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("neurons:\n  study: mine\nseed: 1\nneurons:\n  q: 0.1\n")
    more = tmp_path / "more.yaml"
    more.write_text("seed: 2\n")
    done = snakemake(tmp_path, "-n", "--configfile", str(mine), str(more), config=None, expect=1)
    said = done.stdout + done.stderr
    assert f"{mine}, line 4: found the key neurons again, which is in line 1, expected it once" in said
    assert "Traceback" not in said
