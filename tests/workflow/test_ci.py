"""The whole workflow for real, at the ``ci`` scale, and what its results must say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.reruns import CPU_SECONDS, cpu_seconds_of_rules
from steps.core import records
from steps.core.provenance import made_with, versions
from steps.core.stores import read_json
from steps.workflow import configuration
from steps.workflow.configuration import Config
from steps.workflow.section import StudySection
from tests.workflow.conftest import ROOT, snakemake

CI = ROOT / "config" / "ci.yaml"
CHAPTERS = {chapter for chapter, section in Config() if isinstance(section, StudySection)}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which ``config/ci.yaml`` ran on the text of this Python."""
    directory = tmp_path_factory.mktemp("ci")
    snakemake(directory, "--cores", "2", config=CI)
    return directory


def read(directory: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "results" / name).read_text())
    return content


def test_models_learn_more_than_counts_of_pairs(ran: Path) -> None:
    metrics = read(ran, "language_models/ci/metrics.json")
    assert metrics["models"] == 3
    assert metrics["held_out_loss"] < metrics["bigram_loss"] < metrics["unigram_loss"]


def test_neurons_of_trained_models_come_back(ran: Path) -> None:
    metrics = read(ran, "neurons/ci/metrics.json")
    assert metrics["neurons_per_model"] == 512
    assert metrics["models"] == 3
    assert 30_000 < metrics["tokens"] < 40_000
    # As measured at three times the training: half of all neurons pass, most in their layer.
    assert metrics["universal_calibrated"] > 50
    assert metrics["same_layer_match_share"] > 0.5
    assert metrics["clusters"] > 20
    assert metrics["universal_at_half"] <= metrics["universal_calibrated"]


def test_metrics_agree_with_the_tables(ran: Path) -> None:
    metrics = read(ran, "neurons/ci/metrics.json")
    table = pd.read_parquet(ran / "results/neurons/ci/neurons.parquet")
    reference = table[table["model"] == "seed-1"]
    assert len(table) == 3 * 512
    assert metrics["excess_max"] == reference["excess_corr"].max()
    assert metrics["universal_at_half"] == (reference["excess_corr"] > 0.5).sum()
    assert metrics["universal_calibrated"] == (reference["adjusted_p_value"] <= 0.05).sum()
    assert metrics["clusters"] == table["cluster"].nunique()
    assert metrics["clustered_neurons"] == table["cluster"].notna().sum()

    def rows(name: str) -> pd.DataFrame:
        made = pd.read_parquet(ran / f"results/neurons/ci/{name}.parquet")
        return made[made["model"] == "seed-1"]

    families = rows("explanations")["family"].value_counts()
    found = {name: count for name, count in metrics.items() if name.startswith("family_count_")}
    assert found == {name: families.get(name.removeprefix("family_count_"), 0) for name in found}
    assert sum(found.values()) > 0
    roles = rows("roles")
    for role in ("prediction", "suppression", "partition"):
        assert metrics[role] == (roles["role"] == role).sum()
    assert metrics["partition"] > 0
    assert metrics["entropy_candidates"] == roles["entropy"].sum()
    assert metrics["attention_score_max"] == rows("attention_heads")["score_max"].max()
    assert metrics["attention_neurons"] == rows("attention_neurons")["attention_neuron"].sum()


def test_fractal_models_learn_more_than_histograms(ran: Path) -> None:
    metrics = read(ran, "fractal/ci/metrics.json")
    assert metrics["bits_per_dim"] < metrics["histogram_bits_per_dim"] < metrics["uniform_bits_per_dim"]
    assert metrics["bits_per_dim_mixture"] < metrics["bits_per_dim_conditional"] + 0.052
    assert metrics["frechet_distance_real"] < metrics["frechet_distance"]
    assert metrics["class_accuracy_real"] > 0.97


def test_focused_skills_leave_alone_what_is_not_theirs_and_cover_more_than_chance(ran: Path) -> None:
    metrics = read(ran, "skills/ci/metrics.json")
    assert metrics["seeds"] == 1
    chance = metrics["fourrooms_random_auc"]
    assert 0.8 < chance < 1
    for base, more in (("vic", 0.05), ("diayn", 0.3)):
        assert metrics[f"fourrooms_{base}_side_effects_focused"] <= 0.05
        assert metrics[f"fourrooms_{base}_side_effects_worst"] <= 0.15
        assert metrics[f"fourrooms_{base}_auc_focused"] > chance + more
        found = read(ran, f"skills/ci/fourrooms/{base}-focused/seed-1/evaluate.json")
        control = [row[index] for index, row in enumerate(found["home"]["control"])]
        assert control[0] >= 0.3
        # In so few rounds VIC, rewarded at the end alone, has not fetched the farthest object.
        assert min(control[1], *control[2 if base == "diayn" else 3 :]) >= 0.8


def test_audits_find_what_is_planted_and_nothing_in_the_twin(ran: Path) -> None:
    metrics = read(ran, "audit/ci/metrics.json")
    assert (metrics["organisms"], metrics["questions"]) == (1, 6)
    assert (metrics["chains_verified"], metrics["tampering_detected"]) == (1, 1)
    assert metrics["floor_q1_clean"] == 0
    assert metrics["floor_q1_random_plain"] >= 6
    assert metrics["floor_q2_control"] <= 0.2 < 0.5 <= metrics["floor_q2_tuning"]
    assert metrics["floor_q3_bits"] >= 10
    assert metrics["floor_q4_found"] == 1
    assert metrics["q6_precision"] == 1
    scores = read(ran, "audit/ci/scores.json")
    by = {(entry["model"], entry["question"], entry["arm"]): entry["score"] for entry in scores["graded"]}
    assert by["amber", "q7", "B"] == 0 < by["amber", "q7", "W"]
    denied = {(row["arm"], row["scope"]) for row in scores["access"]["amber"] if row["denied"]}
    assert denied == {("B", "logprobs"), ("O", "logprobs")}


def test_metrics_on_record_have_the_names_of_today(ran: Path) -> None:
    """Pages quote ``benchmarks/records/CHAPTER-STUDY-metrics.json``: a renamed figure is not left there."""
    records = sorted((ROOT / "benchmarks" / "records").glob("*-metrics.json"))
    assert {record.name.partition("-")[0] for record in records} == configuration.reports(Config()).keys()
    for record in records:
        today = read(ran, f"{record.name.partition('-')[0]}/ci/metrics.json")
        kept = json.loads(record.read_text())
        # `held_out_loss/seed-4`: other studies have other models
        assert {name.partition("/")[0] for name in kept} == {name.partition("/")[0] for name in today}, record


def test_the_prover_solves_programs_that_need_hints(ran: Path) -> None:
    metrics = read(ran, "dafny/ci/metrics.json")
    assert metrics["programs"] == 12
    assert metrics["needing_hints"] >= 6
    assert metrics["ground_truth_share"] == 1
    assert metrics["solved_share_strict"]["prover"] > metrics["bare_share"]
    assert metrics["solved_share_strict"].keys() == {"prover", "by_hand"}
    assert metrics["verdicts"] in ("live", "recorded")


def test_the_page_shows_the_headline_and_needs_no_network(ran: Path) -> None:
    page = (ran / "results/report/index.html").read_text()
    assert "Universal neurons" in page
    assert "Clusters and what they fire on" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_every_job_left_a_log_and_a_record(ran: Path) -> None:
    logs = sorted(path.with_suffix(".json") for path in (ran / "logs").rglob("*.log"))
    assert logs == sorted((ran / "logs").rglob("*.json"))
    steps = {record["step"] for record in records.read(str(ran / "logs" / "**" / "*.json"))}
    assert len(steps) > 40
    assert {step.partition(".")[0] for step in steps} == CHAPTERS | {"report"}


def test_the_seconds_on_record_are_of_all_rules_that_run_by_default(ran: Path) -> None:
    """By them, ``workflow.rerun_share_of_edits`` weighs what an edit reruns."""
    assert read_json(CPU_SECONDS).keys() == cpu_seconds_of_rules(ran / "logs").keys()


def test_what_is_kept_says_which_versions_made_it(ran: Path) -> None:
    """But for text, whose ledger names its contents."""
    current, seen = versions(), set()
    for path in sorted([*(ran / "data").rglob("*"), *(ran / "results").rglob("*")]):
        if path.name == "ledger.json" or path.suffix in (".safetensors", ".parquet"):
            if path.name in ("model.safetensors", "documents.parquet", "stdlib.parquet"):
                continue  # of a folder whose ledger says it; text
            made = dict(made_with(path))
            assert made.items() <= current.items(), path
            assert {"python", "numpy", "torch", "transformers"} & made.keys() > {"python"}, path
            seen.add(path.suffix)
    assert seen == {".json", ".safetensors", ".parquet"}
    for path in sorted(ran.glob("results/*/ci/report.json")):
        found = json.loads(path.read_text())["provenance"]["versions"]
        assert {"python", "numpy"} <= found.keys(), path
        assert found.items() - {("dafny", "4.11.0"), ("z3", "4.12.1")} <= current.items(), path


def test_a_second_call_has_nothing_to_do(ran: Path) -> None:
    assert "Nothing to be done" in snakemake(ran, "--cores", "2", config=CI).stderr


def test_a_changed_setting_reruns_exactly_what_depends_on_it(ran: Path) -> None:
    done = snakemake(ran, "-n", "--config", "neurons={report: {snippets: 2}}", config=CI)
    text = done.stdout + done.stderr
    assert "neurons_report" in text
    for rule in ("neurons_table", "neurons_correlate", "neurons_dump", "language_models_train"):
        assert rule not in text
    done = snakemake(ran, "-n", "--config", "neurons={correlate: {draws: 200}}", config=CI)
    text = done.stdout + done.stderr
    assert "neurons_correlate" in text
    for rule in ("neurons_moments", "neurons_dump", "language_models_train"):
        assert rule not in text
    weight = "skills={train: {diayn: {weight: 9}}}"
    done = snakemake(ran, "-n", "--config", weight, "--", "skills", config=CI)
    text = done.stdout + done.stderr
    trained = set(re.findall(r"output: data/skills/ci/fourrooms/(\w+)-", text))
    assert trained == {"diayn"}


def test_few_files(ran: Path) -> None:
    """Many small files are slow to version: the count per study stays small."""
    for chapter in CHAPTERS:
        found = (ran / "results" / chapter).rglob("*")
        assert len([path for path in found if path.is_file() and "pre" not in path.parts]) < 150, chapter


def test_every_store_opens_as_a_zarr_group_and_with_xarray(ran: Path) -> None:
    """By those who know nothing of ledgers; every array says what its axes and values are."""
    import xarray
    import zarr

    kinds = set()
    for path in [*(ran / "data").rglob("ledger.json"), *(ran / "results").rglob("ledger.json")]:
        ledger = json.loads(path.read_text())
        if any(name.endswith("zarr.json") for name in ledger["files"]):
            group = zarr.open_group(str(path.parent), mode="r")
            assert group.attrs["fingerprint"] == ledger["fingerprint"]
            arrays = [node for _, node in group.members(max_depth=None) if isinstance(node, zarr.Array)]
            assert arrays
            tree = xarray.open_datatree(path.parent, engine="zarr", chunks=None)
            for array in arrays:
                assert {"units", "description"} <= array.attrs.keys()
                seen = tree[array.path.strip("/")]
                assert seen.dims == array.metadata.dimension_names
                assert seen.shape == array.shape
            kinds.add(ledger["kind"])
    assert kinds >= {"rows", "activations", "histograms"}
    stores = list((ran / "results").rglob("activations/*/ledger.json"))
    assert stores
    for path in stores:
        store = xarray.open_zarr(path.parent, chunks=None)
        assert store["pre"].dims == ("layer", "token", "neuron")
        assert store["tokens"].dims == ("token",)
