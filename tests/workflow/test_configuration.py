"""The configuration: documented, closed, and explained in one line when wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from steps.core.errors import UserError
from steps.core.settings import Settings
from steps.workflow import configuration, neurons
from steps.workflow.generated import read_arrows
from tests.workflow.conftest import EVERYTHING, ROOT, Workspace, snakemake, write_texts


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
    for path in keys(configuration.Config()):
        places = [path, *((*path[:depth], path[-1]) for depth in range(len(path) - 1))]
        here = [place for place in places if place in stated]
        assert here, f"config/default.yaml lacks {'.'.join(path)}"
    assert keys(configuration.configure(default())) == keys(configuration.Config())


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
    """Beside it or above."""
    before = ""
    for line in (ROOT / "config" / "default.yaml").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.strip() and not name.lstrip().startswith("#"):
            assert "#" in value or before.lstrip().startswith("#"), line
        before = line


def merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    """Merge ``values`` as Snakemake does: key by key, lists whole."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def configured(*names: str) -> configuration.Config:
    """The configuration that files of ``config/`` make, given in this order."""
    merged = default()
    for name in names:
        merge(merged, yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text()) or {})
    return configuration.configure(merged)


PRESETS = {
    "paper_small": ("paper",),
    "paper_medium": ("paper", "paper_medium"),
    "paper_pythia": ("paper", "paper_pythia"),
}
"""The studies of the paper that compare models, and their files."""

ALONE = ("ci", "dafny_sample", "default", "own_models", "paper", "paper_pythia_weights", "publish")


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
    "language_models.rows.n_ctx": 512,
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
        "plan": (neurons.plan.layers, neurons.plan.d_mlp, neurons.plan.vocabulary),
        "tiles": neurons.tiles,
        "at_once": neurons.explain.neurons_at_once,
        "entropy_query": neurons.roles.entropy_query,
        "models": len(config.language_models.models),
        "intervene": neurons.intervene.named,
        "attention": neurons.attention.named,
        "excluded": neurons.intervene.exclude_tokens,
        "block_tokens": neurons.dump.block_tokens,
    }
    layers, d_mlp, _ = OWN[study]["plan"]
    for layer, neuron, *head in [*neurons.intervene.named, *neurons.attention.named]:
        assert layer < layers
        assert neuron < d_mlp
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
        ("neurons.plan.d_mlp", 10**400, "neurons.plan.d_mlp: found 1000.*, expected: "),
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
        (
            "fractal.models",
            [{"sides": [8, 3, 1]}],
            r"^configuration: fractal.models.0: found [^;]*: sides of which each [^;]*\(3 does not[^;]*$",
        ),
        (
            "fractal.models",
            [{"name": "a"}, {"name": "b", "sides": [16, 4, 1]}],
            "^fractal.models.1.sides: found sides that begin with 16, expected 8, the side of the images",
        ),
        (
            "fractal.models",
            [{"heads": [4, 5, 4]}],
            r"widths that are multiples of their heads \(96 is none of 5",
        ),
        ("fractal.models", [{"heads": [16, 4, 4]}], r"a multiple of 4, for rotary positions \(96 / 16 is 6"),
        ("fractal.models", [{}, {}], r"^configuration: fractal.models: found .*differ .'ar' is there twice"),
        ("fractal.models", [], "^configuration: fractal.models: found .., expected: .* at least 1 item"),
        ("fractal.seeds", [1, 1], "^configuration: fractal.seeds: found .*differ .1 is there"),
        (
            "fractal.sample.images",
            1438,
            "^fractal.sample.images: found 1438, expected at most 1437, the training images",
        ),
        (
            "fractal.images.test",
            1797,
            "fractal.images.test: found 1797, expected: .*less than or equal to 1795",
        ),
        ("language_models.train.width", 64, "language_models.train.width: renamed, now d_model"),
        ("language_models.rows.context", 64, "language_models.rows.context: renamed, now n_ctx"),
        ("neurons.plan.width", 3072, "neurons.plan.width: renamed, now d_mlp"),
        ("language_models.train.checkpoints", 10**9, "language_models.train.checkpoints: found 1000000000"),
        (
            "skills.seeds",
            [3, 3],
            r"^configuration: skills.seeds: found \[3, 3\], .* differ \(3 is there twice",
        ),
        ("skills.train.lenght", 8, "skills.train.lenght: unknown key .found 8., did you mean 'length'"),
        (
            "skills.train.vic.temperatures.binary",
            0,
            "temperatures.binary: found 0, expected: a number greater",
        ),
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
        configuration.configure(values)


def test_numbers_in_scientific_notation() -> None:
    values = default()
    values["neurons"]["dump"]["tokens"] = "2e4"
    values["neurons"]["q"] = "1e-2"
    config = configuration.configure(values)
    assert config.neurons.dump.tokens == 20_000
    assert config.neurons.q == config.neurons.baseline.q == config.neurons.clusters.q == 0.01


def test_a_step_may_differ_from_what_stands_above_it() -> None:
    values = default()
    values["seed"] = 5
    values["neurons"]["clusters"]["seed"] = 6
    config = configuration.configure(values)
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
    config = configuration.configure({"neurons": {"published": {"table": "~/table.csv"}}})
    with pytest.raises(UserError, match="neurons.published.table: found .*/table.csv, which is no file"):
        configuration.user_files(config)
    (tmp_path / "table.csv").write_text("layer,neuron\n0,0\n")
    assert neurons.published_table(config) == [str(tmp_path / "table.csv")]


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
        config = configuration.configure({"corpus": {"documents": documents | place}})
        with pytest.raises(UserError, match="expected a folder apart from .*, which the workflow makes"):
            configuration.user_files(config)


def test_a_folder_with_a_nul_in_its_name_is_refused() -> None:
    documents = {"source": "files", "files": {"folder": "texts\0"}}
    config = configuration.configure({"corpus": {"documents": documents}})
    with pytest.raises(UserError, match=r"documents\.files\.folder: found .*, expected a path without NUL"):
        configuration.user_files(config)


def test_the_files_of_a_local_dataset_are_inputs(tmp_path: Path) -> None:
    (tmp_path / "set/data").mkdir(parents=True)
    for name in ("README.md", "data/train.jsonl", ".hidden"):
        (tmp_path / "set" / name).write_text("{}")
    hub = {"source": "hub", "hub": {"dataset": str(tmp_path / "set"), "revision": "1"}}
    found = configuration.user_files(configuration.configure({"corpus": {"documents": hub}}))
    assert found["corpus"]["documents"] == [
        str(tmp_path / "set" / name) for name in ("README.md", "data/train.jsonl")
    ]


def listed(tmp_path: Path, **places: Any) -> dict[str, Any]:
    models = [{"name": name, **place} for name, place in places.items()]
    return {"language_models": {"models": models}}


@pytest.mark.parametrize("kind", ["same", "relative", "link", "hub"])
def test_one_model_under_two_names_is_refused_before_anything_runs(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "link").symlink_to("m")
    first = {"path": str(tmp_path / "m")}
    second = {"same": first, "relative": {"path": "./x/../m"}, "link": {"path": "link"}}.get(kind)
    if second is None:
        first = second = {"hub": "someone/m", "revision": "1"}
    values = listed(tmp_path, a=first, other={"path": "other"}, b=second)
    with pytest.raises(
        UserError, match="language_models.models: found one model under two names, 'a' and 'b'"
    ):
        configuration.configure(values)
    configuration.configure({**values, "neurons": {"allow_self": True}})
    another = {"hub": "someone/m", "revision": "2"} if kind == "hub" else {"path": "n"}
    configuration.configure(listed(tmp_path, a=first, b=another))


@pytest.mark.parametrize("key", ["n_positions", "max_position_embeddings"])
def test_rows_too_long_for_a_listed_model_are_refused_before_anything_runs(tmp_path: Path, key: str) -> None:
    for name, longest in (("a", 64), ("b", 32)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(
            json.dumps({"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 50, key: longest})
        )
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    values = listed(tmp_path, a={"path": str(tmp_path / "a")}, b={"path": str(tmp_path / "b")})
    values["language_models"]["rows"] = {"n_ctx": 32}
    found = configuration.user_files(configuration.configure(values))
    assert set(found["language_models"]) == {"a", "b", "tokenizer"}
    values["language_models"]["rows"] = {"n_ctx": 33}
    with pytest.raises(UserError, match="b/config.json: the model takes 32 tokens and rows have 33; lower"):
        configuration.user_files(configuration.configure(values))


def test_one_model_can_be_trained_and_not_compared(tmp_path: Path) -> None:
    one = ("--config", "language_models={seeds: [1]}", "--")
    done = snakemake(tmp_path, "-n", *one, "language_models", config=None)
    assert "language_models_train" in done.stdout + done.stderr
    for arguments in (("-n", *one, "neurons"), ("--cores", "1", *one[:-1])):
        done = snakemake(tmp_path, *arguments, config=None, expect=1)
        said = (done.stdout + done.stderr).splitlines()
        says = "error: language_models: found one model (seed-1), expected at least 2 to compare"
        assert [line for line in said if "found one model" in line] == [says]
        assert not [line for line in said if "Error" in line or "File" in line or "Wildcards" in line]
    assert not any((tmp_path / ".snakemake/locks").iterdir())


@pytest.mark.parametrize(
    ("at_once", "parts", "most"),
    [
        (None, 2, "1, the number of slices"),
        (64, 2, None),
        (64, 3, "2, the number of layers"),
        (128, 2, "1, the number of slices"),
    ],
)
def test_more_parts_than_a_model_has_are_refused_before_anything_runs(
    at_once: int | None, parts: int, most: str | None
) -> None:
    values = default()
    values["language_models"]["train"] |= {"layers": 2, "d_model": 16, "heads": 2}
    values["neurons"]["parts"] = parts
    values["neurons"]["explain"]["neurons_at_once"] = at_once
    config = configuration.configure(values)
    if most is None:
        neurons.require_sizes(config)
    else:
        with pytest.raises(UserError, match=f"neurons.parts: found {parts}, expected at most {most}"):
            neurons.require_sizes(config)
    values["language_models"]["models"] = [{"name": "a", "path": "a"}, {"name": "b", "path": "b"}]
    neurons.require_sizes(configuration.configure(values))  # their size is not known yet


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"intervene": {"named": [[1, 64]]}},
            "intervene.named: found .1, 64., expected .layer, neuron. of a model with 2 layers of 64",
        ),
        ({"intervene": {"named": [[2, 0]]}}, "intervene.named: found .2, 0."),
        ({"intervene": {"named": [[0, -1]]}}, "intervene.named: found .0, -1."),
        (
            {"attention": {"named": [[0, 3, 1, 2]]}},
            "named: found .0, 3, 1, 2., .* of 64 neurons and 2 heads",
        ),
        (
            {"attention": {"named": [[0, 64, 1, 0]]}},
            "attention.named: .* expected .layer, neuron, .* of a model with 2 layers of 64 neurons",
        ),
        ({"attention": {"named": [[1, 3, 1, 0]]}}, "attention.named: .* the head in a later layer"),
        (
            {"attention": {"positions": [0.5, 0.51]}},
            "attention.positions: found .0.5, 0.51., .* of the 32 tokens",
        ),
        ({"tiles": 129}, "neurons.tiles: found 129, expected at most 128"),
        ({"ranges": 4, "dump": {"tokens": 700, "block_tokens": 256}}, "neurons.ranges: found 4, .* most 3"),
    ],
)
def test_what_models_and_rows_do_not_have_is_refused_before_anything_runs(
    changes: dict[str, Any], message: str
) -> None:
    values = default()
    values["language_models"]["train"] |= {"layers": 2, "d_model": 16, "heads": 2}
    values["language_models"]["rows"]["n_ctx"] = 32
    merge(values["neurons"], {"intervene": {"named": [[1, 63]]}, "attention": {"named": [[0, 63, 1, 1]]}})
    neurons.require_sizes(configuration.configure(values))
    merge(values["neurons"], changes)
    config = configuration.configure(values)
    with pytest.raises(UserError, match=message):
        neurons.require_sizes(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"correlate": {"draws": 9}},
            "neurons.correlate.draws: found 9, expected at least 19: .* 0.05; raise",
        ),
        ({"correlate": {"draws": 18}}, "neurons.correlate.draws: found 18"),
        ({"correlate": {"draws": 50}, "clusters": {"q": 0.01}}, "correlate.draws: found 50, .* least 99"),
        ({"checkpoints": {"draws": 18}}, "neurons.checkpoints.draws: found 18, expected at least 19"),
        ({"q": 0.009}, "neurons.checkpoints.draws: found 99, expected at least 111"),
        (
            {"roles": {"activations": False}},
            "neurons.roles: .*activations: true, .* or entropy_query: pythia$",
        ),
    ],
)
def test_settings_that_cannot_work_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        configuration.configure({"neurons": changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"correlate": {"draws": 19}},
        {"q": 0.1, "correlate": {"draws": 9}},  # steps inherit the rate
        {"q": 0.1, "correlate": {"draws": 19}, "clusters": {"q": 0.05}},
        {"roles": {"activations": False, "entropy_query": "pythia"}},
    ],
)
def test_settings_on_the_border_work_together(changes: dict[str, Any]) -> None:
    configuration.configure({"neurons": changes})


@pytest.mark.parametrize("changes", [{"train": {"checkpoints": 0}}, {"models": [{"name": "a", "path": "a"}]}])
def test_checkpoints_that_nobody_keeps_are_not_asked_for(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="neurons.checkpoints: found no checkpoints.*trained here"):
        neurons.checkpointed_models(configuration.configure({"language_models": changes}))
    assert len(neurons.checkpointed_models(configuration.Config())) == 5


def test_figures_of_weights_alone_are_drawn_without_activations() -> None:
    config = configuration.Config()
    assert set(neurons.single_figures(config)) == {"similarity", "checkpoints"}
    assert neurons.joint_figures(config) == neurons.NEURON_FIGURES
    alone = configuration.configure({"neurons": {"roles": {"activations": False, "entropy_query": "pythia"}}})
    assert set(neurons.single_figures(alone)) == {"similarity", "checkpoints", "roles", "roles_by_depth"}
    assert not {"roles", "roles_by_depth"} & set(neurons.joint_figures(alone))
    assert all(Path(path).parent.name == "default" for path in neurons.single_figures(alone).values())


def test_the_share_of_last_layers_is_of_the_figure() -> None:
    with pytest.raises(UserError, match="roles.last_layers: renamed, now neurons.figure.last_layers"):
        configuration.configure({"neurons": {"roles": {"last_layers": 0.5}}})


@dataclasses.dataclass(frozen=True)
class Job:
    """A job of a dry run."""

    rule: str
    inputs: frozenset[str]
    outputs: frozenset[str]


def dry_run(directory: Path, *targets: str) -> list[Job]:
    """All jobs that the targets need, made or not."""
    said = snakemake(directory, "--dry-run", "--forceall", "--", *targets).stdout
    jobs = []
    for block in re.split(r"\n(?=(?:local)?rule \w+:\n)", said)[1:]:
        rule = re.match(r"(?:local)?rule (\w+):", block)
        assert rule is not None
        files = dict(re.findall(r"(?m)^    (input|output): (.*)$", block))
        sides = (
            frozenset(files[side].split(", ")) if side in files else frozenset()
            for side in ("input", "output")
        )
        jobs.append(Job(rule[1], *sides))
    return jobs


def is_shown(file: str) -> bool:
    """Whether a result is a table, a figure or its data, a page or the headline figures."""
    path = Path(file)
    drawn = path.parent.name in ("figures", "galleries")
    return (
        drawn or path.suffix in (".parquet", ".svg", ".html") or path.name in ("metrics.json", "report.json")
    )


def left_out(jobs: list[Job], kept: set[str], on_request: set[str]) -> set[str]:
    """What is kept although nothing asks for it, so that it would not come back once it is deleted.

    Tables and figures are asked for by ``all`` and by the target of their chapter; other files may be read by
    another job instead. What neither needs is made by a rule on request, or for one.
    """
    made = {file: job for job in jobs for file in job.outputs}
    targets = {job.rule: job.inputs for job in jobs if not job.outputs}

    def needed(files: set[str]) -> set[Job]:
        found: set[Job] = set()
        waiting = [*files]
        while waiting:
            job = made[waiting.pop()]
            if job not in found:
                found.add(job)
                waiting += job.inputs & made.keys()
        return found

    by_default = needed({*targets["all"]})
    requested = needed(
        {file for job in jobs if job.rule in on_request for file in job.outputs or job.inputs & made.keys()}
    )
    read = {file for job in by_default for file in job.inputs}

    def is_asked_for(file: str) -> bool:
        job = made.get(file)
        if job not in by_default:
            return job in requested
        asking = [name for name in ("all", Path(file).parts[1]) if name in targets]
        return (file in read and not is_shown(file)) or all(file in targets[name] for name in asking)

    return {file for file in kept if not is_asked_for(file)}


def test_every_table_and_figure_that_is_kept_is_asked_for(workspace: Workspace) -> None:
    """All that the tiny workflow leaves under results/, by the graph of its jobs."""
    folder = workspace.finished()
    chapters = [name for name in configuration.Config().sections() if name != "report"]
    jobs = dry_run(folder, *EVERYTHING, *chapters)
    files = {path for path in (folder / "results").rglob("*") if path.is_file()}
    stores = {path.parent for path in files if path.name == "ledger.json"}  # which names all in its folder
    files = {path for path in files if path.name == "ledger.json" or not stores & {*path.parents}}
    kept = {path.relative_to(folder).as_posix() for path in files}
    by_default = {job.rule for job in dry_run(folder, "all")} | {*chapters, "report"}
    on_request = {job.rule for job in jobs} - by_default
    assert not left_out(jobs, kept, on_request)
    asked = {file for job in jobs if job.rule == "all" for file in job.inputs if file.startswith("results/")}
    assert asked <= kept
    listed = {line.split()[0] for line in snakemake(folder, "--list-rules").stdout.splitlines()}
    assert listed - {job.rule for job in jobs} == {"corpus_freeze"}  # the text of Python

    # Each file that the targets forgot would be noticed, and so would one that no rule declares.
    assert len(asked) > 50
    asking = ("all", *chapters, "report_page")  # the page is made from what the chapters' targets ask for
    for file in asked:
        forgetful = [
            dataclasses.replace(job, inputs=job.inputs - {file}) if job.rule in asking else job
            for job in jobs
        ]
        assert left_out(forgetful, kept, on_request) == {file}
    more = "results/neurons/tiny/more.parquet"
    assert left_out(jobs, kept | {more}, on_request) == {more}


def test_pairs_and_tiles_name_every_job_once() -> None:
    values = default()
    values["neurons"] |= {"pairs": "reference", "tiles": 3, "reference": "seed-3"}
    config = configuration.configure(values)
    files = neurons.correlation_files(config)
    assert len(files) == len(set(files)) == 4 * 3
    assert all("/correlations/seed-3/" in file for file in files)
    values["neurons"]["pairs"] = "all"
    assert len(neurons.correlation_files(configuration.configure(values))) == 10 * 3


def test_an_unknown_reference_is_named() -> None:
    values = default()
    values["neurons"]["reference"] = "nobody"
    with pytest.raises(UserError, match="neurons.reference: found 'nobody', expected one of seed-1"):
        configuration.configure(values)


def test_memory_grows_with_each_attempt() -> None:
    config = configuration.Config()
    for step in ("dump", "moments", "correlate", "clusters", "similarity", "checkpoints", "report"):
        memory = neurons.resources(config, step)["mem_mb"]
        assert memory(None, 2) == pytest.approx(2 * memory(None, 1), abs=1)


def test_the_drawn_workflow_is_the_real_one(tmp_path: Path) -> None:
    drawn = read_arrows(snakemake(tmp_path, "--rulegraph", "mermaid-js", config=None).stdout)
    assert ("neurons_dump", "neurons_correlate") in drawn
    assert read_arrows((ROOT / "docs" / "workflow.md").read_text(encoding="utf-8")) == drawn


@pytest.mark.parametrize(
    ("source", "with_gpu"),
    [
        ("dump", {"dump", "moments", "products", "correlate", "clusters"}),
        ("model", {"moments", "products", "correlate", "clusters", "report"}),
    ],
)
def test_a_gpu_is_asked_for_where_one_is_used(source: str, with_gpu: set[str]) -> None:
    config = configuration.configure({"device": "cuda", "neurons": {"dump": {"source": source}}})
    steps = ("dump", "moments", "products", "correlate", "clusters", "roles", "report")
    assert {step for step in steps if "gpu" in neurons.resources(config, step)} == with_gpu
    assert not any("gpu" in neurons.resources(configuration.configure({}), step) for step in steps)


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
