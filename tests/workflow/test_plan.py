"""What rules ask for: the planner's figures, enough for what jobs really use, and a GPU where one helps."""

from __future__ import annotations

import functools
import glob
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import made
from steps.core import records
from steps.neurons import plan
from steps.neurons.costs.rules import FORMULAS
from steps.workflow import configuration, language_models, neurons
from tests.warm.start import environment
from tests.workflow.conftest import EVERYTHING, LIGHT, ROOT, RULES, TINY, Workspace, snakemake, write_texts
from tests.workflow.test_configuration import default, merge


def configured(*paths: Path, **neurons: Any) -> configuration.Config:
    """The configuration that ``paths``, one after the other, make of the defaults."""
    merged = default()
    for path in paths:
        merge(merged, yaml.safe_load(path.read_text()))
    merge(merged, {"neurons": neurons})
    return configuration.configure(merged)


def test_rules_ask_for_what_the_planner_says() -> None:
    config = configured(ROOT / "config" / "paper.yaml")
    study = neurons.study(config)
    planned = plan.plan(study, config.neurons.plan)["rules"]
    for rule in planned:
        asked = neurons.resources(config, rule)["mem_mb"](None, 1)
        assert asked == pytest.approx(planned[rule]["megabytes"], abs=1)
    assert planned["products"]["jobs"] == 4 * 2 * 16
    assert planned["correlate"]["jobs"] == len(neurons.correlation_files(config))
    assert planned["moments"]["jobs"] == len(neurons.moment_files(config))


def test_rules_that_can_be_heavy_have_a_formula_and_others_run_here() -> None:
    asking = set()
    for rule, body in RULES.items():
        if found := re.search(r"python -m steps\.neurons\.(\w+)", body):
            if f'neurons.resources(settings, "{found[1]}")' in body:
                asking.add(found[1])
            else:
                assert rule in LIGHT
    assert asking == FORMULAS.keys()
    files = neurons.files(configuration.Config())
    on_request = {name for name, formula in FORMULAS.items() if formula.on_request}
    assert not any(f"/{name}" in file for file in files for name in on_request)


def test_the_plan_counts_the_jobs_that_snakemake_runs(tmp_path: Path) -> None:
    """Cut into tiles, ranges and parts."""
    cut = {"tiles": 2, "ranges": 3, "parts": 2, "explain": {"neurons_at_once": 64}}
    planned = plan.plan(neurons.study(config := configured(TINY, **cut)), config.neurons.plan)["rules"]
    (tmp_path / "cut.yaml").write_text(yaml.safe_dump({"neurons": cut}))
    write_texts(tmp_path / "texts")
    done = snakemake(
        tmp_path, "-n", "--configfile", str(TINY), str(tmp_path / "cut.yaml"), "--", *EVERYTHING, config=None
    )
    ran = re.findall(r"^(?:local)?rule (\w+):$", done.stdout + done.stderr, re.MULTILINE)
    found = [re.search(r"python -m steps\.neurons\.(\w+)", RULES.get(rule, "")) for rule in ran]
    counts = Counter(step[1] for step in found if step)
    several = {"composition", "cosines", "figure"}  # of which one is asked for; with those built on request
    assert {step: count for step, count in counts.items() if step in planned.keys() - several} == {
        rule: row["jobs"] for rule, row in planned.items() if rule not in several
    }


def test_the_plan_of_a_training_lists_every_rule() -> None:
    config = configured(TINY)
    planned = plan.plan(neurons.study(config), config.neurons.plan)["rules"]
    assert planned.keys() == FORMULAS.keys()
    assert all(
        row["hours"] > 0 for rule, row in planned.items() if rule not in ("roles", "gallery", "published")
    )


def test_figures_that_the_docs_quote_are_those_of_the_plan() -> None:
    config = configured(ROOT / "config" / "paper.yaml")
    said = plan.table(plan.plan(neurons.study(config), config.neurons.plan)).splitlines()
    rows = {cells[0].rstrip("*"): cells for cells in (re.split(r"  +", line) for line in said)}
    docs = (ROOT / "docs" / "neurons.md").read_text(encoding="utf-8")
    row = r"^  \| `(neurons_\w+)` \| (\S+) \| (.+?) \| (\S+) \| ([^ ,]+)"
    quoted = re.findall(row, docs, re.MULTILINE)
    assert len(quoted) == 7
    for rule, *figures in quoted:
        _, jobs, memory, flops, *_, hours = rows[rule]
        assert figures == [jobs, memory.removesuffix(" (!)"), flops, hours], rule
    *_, flops, _, written, temporary, hours = rows["all but "]
    whole = f"{hours} hours, {flops} FLOPs, {temporary} of temporary files and {written} that stay"
    assert whole in " ".join(docs.split())


def test_sizes_of_trained_and_of_unknown_models() -> None:
    trained = neurons.study(configured(TINY)).models[0]
    assert (trained.layers, trained.d_mlp, trained.d_model) == (2, 64, 16)
    assert (trained.heads, trained.vocabulary) == (2, 300)
    listed = neurons.study(configured(ROOT / "config" / "paper.yaml")).models[0]
    assert (listed.layers, listed.d_mlp, listed.d_model) == (12, 3072, 768)
    assert (listed.heads, listed.vocabulary) == (12, 50257)


def test_sizes_of_local_models_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    for name in ("first", "second"):
        (tmp_path / "models" / name).mkdir()
        shape = {"model_type": "gpt2", "n_layer": 3, "n_embd": 20, "n_head": 5, "vocab_size": 99}
        (tmp_path / "models" / name / "config.json").write_text(json.dumps(shape))
    monkeypatch.chdir(tmp_path)
    config = configured(ROOT / "config" / "own_models.yaml")
    assert [(m.layers, m.d_mlp) for m in neurons.study(config).models] == [(3, 80)] * 2
    assert neurons.local_configurations(config) == [f"models/{n}/config.json" for n in ("first", "second")]

    def asked() -> list[int]:
        steps = ("import", "evaluate")
        return [language_models.resources(config, step)["mem_mb"](None, 1) for step in steps]

    small = asked()
    large = {**shape, "n_layer": 48, "n_embd": 1600, "n_head": 25}  # GPT-2 XL's 1.5 billion parameters
    (tmp_path / "models" / "second" / "config.json").write_text(json.dumps(large))
    assert all(more - less > 4 * 1.4e9 / 1e6 for more, less in zip(asked(), small, strict=True))


def test_a_gpu_is_asked_for_where_the_device_is_one() -> None:
    """Where products are formed on one, or models run: in the dump, or in whoever reads a study without."""
    paper = ROOT / "config" / "paper.yaml"
    for step in ("moments", "products", "correlate", "clusters", "similarity"):
        config = configured(paper, **{step: {"device": "cuda"}})
        assert neurons.resources(config, step)["gpu"] == 1
        assert "gpu" not in neurons.resources(config, "baseline")
        assert "gpu" not in neurons.resources(configured(paper), step)
    for source, uses in (
        ("dump", {"dump", "checkpoints"}),
        ("model", {"moments", "similarity", "checkpoints"}),
    ):
        config = configured(TINY, dump={"device": "cuda", "source": source})
        asked = {
            step
            for step in ("dump", "moments", "similarity", "checkpoints", "table")
            if "gpu" in neurons.resources(config, step)
        }
        assert asked == uses


def test_a_gpu_does_not_shorten_what_the_host_does() -> None:
    paper = ROOT / "config" / "paper.yaml"
    threads = 8  # of the paper's configuration; they share products, and nothing else
    for step, least in (("explain", 25), ("histograms", 4), ("similarity", 30)):
        config = configured(paper, dump={"device": "cuda"})
        job = FORMULAS[step].jobs(neurons.study(config))[-1]
        host = (job.host + job.products / (20e9 * threads)) / 60
        asked = neurons.resources(config, step)["runtime"](None, 1)
        assert 2 * host < asked < neurons.resources(configured(paper), step)["runtime"](None, 1)
        assert host > least
    config = configured(paper, dump={"device": "cuda"}, explain={"device": "cuda"})
    for step, merging in (("explain", "merge_explanations"), ("histograms", "merge_histograms")):
        assert "gpu" in neurons.resources(config, step)
        assert "gpu" not in neurons.resources(config, merging)


@pytest.mark.parametrize(("step", "work"), [("explain", "forward"), ("moments", "within")])
def test_work_takes_the_time_of_the_device_that_does_it(step: str, work: str) -> None:
    """Models run on that of the dump, products and sums on the step's own: one GPU hurries one of them."""
    paper = ROOT / "config" / "paper.yaml"
    devices = {
        "forward": {"dump": {"device": "cpu"}, step: {"device": "cuda"}},
        "within": {"dump": {"device": "cuda"}, step: {"device": "cpu"}},
    }
    threads = getattr(configured(paper).neurons, step).threads
    both = configured(paper, dump={"device": "cuda"}, **{step: {"device": "cuda"}})
    fast = neurons.resources(both, step)["runtime"](None, 1)
    config = configured(paper, **devices[work])
    job = FORMULAS[step].jobs(neurons.study(config))[-1]
    slow = 2 * getattr(job, work) / (20e9 * threads) / 60
    asked = neurons.resources(config, step)
    assert asked["gpu"] == 1
    assert fast < slow < asked["runtime"](None, 1) < slow + fast


def test_threads_shorten_the_job_that_has_them() -> None:
    paper = ROOT / "config" / "paper.yaml"
    minutes = {
        (step, threads): neurons.resources(configured(paper, products={"threads": threads}), step)["runtime"](
            None, 1
        )
        for step in ("products", "moments")
        for threads in (1, 8)
    }
    assert minutes["products", 8] - 10 == pytest.approx((minutes["products", 1] - 10) / 8, abs=1)
    assert minutes["moments", 8] == minutes["moments", 1]


def test_dry_run_of_the_paper_on_a_cluster_with_gpus(tmp_path: Path) -> None:
    """The slurm profile without its plugin, which need not be installed."""
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    profile = {key: value for key, value in profile.items() if not key.startswith("slurm-")}
    profile |= {"executor": "local", "jobs": 64}
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/config.yaml").write_text(yaml.safe_dump(profile))
    paper = ROOT / "config" / "paper.yaml"
    done = snakemake(
        tmp_path,
        *("-n", "--workflow-profile", str(tmp_path / "profile")),
        *("--config", "device=cuda", "--", "results/neurons/paper_small/excess.parquet"),
        config=paper,
    )
    rules: dict[str, set[bool]] = {}
    for job in re.split(r"\n(?=(?:local)?rule )", done.stdout + done.stderr):
        name = re.match(r"(?:local)?rule (\w+):", job)
        resources = re.search(r"resources: (.*)", job)
        if name and resources:
            rules.setdefault(name[1], set()).add("gpu=1" in resources[1])
    for step in ("moments", "products", "correlate"):
        assert rules[f"neurons_{step}"] == {True}, step
    assert rules["neurons_baseline"] == {False}


def asked(config: configuration.Config, chapter: str, step: str) -> float:
    """Bytes that the rule of a step asks for at its first attempt."""
    module = importlib.import_module(f"steps.workflow.{chapter}")
    alike = len(inspect.signature(module.resources).parameters) == 1  # for all steps of the chapter
    resources = module.resources(config) if alike else module.resources(config, step)
    return 1e6 * float(resources["mem_mb"](None, 1))


def test_jobs_use_no_more_memory_than_they_ask_for(workspace: Workspace) -> None:
    folder, config, seen = workspace.finished(), configured(TINY), set()
    for log in sorted((folder / "logs").rglob("*.log")):
        chapter, step = log.relative_to(folder / "logs").parts[:2]
        if f"{chapter}_{step}" not in LIGHT:
            (record,) = records.read(glob.escape(str(records.path_of(log))))
            assert record["step"] == f"{chapter}.{step}"
            assert 20e6 < record["peak_bytes"] <= asked(config, chapter, step), log
            seen.add(f"{chapter}.{step}")
    heavy = {body for name, body in RULES.items() if name not in LIGHT}
    steps = {step for body in heavy for step in re.findall(r"python -m steps\.([\w.]+)", body)}
    assert seen == steps - {"language_models.import"}  # the tiny workflow trains its models
    assert seen >= {f"neurons.{step}" for step in FORMULAS}


WIDTHS = (64, 1024, 2048)
"""Neurons per layer, of two layers, in the jobs whose memory is measured."""

BATCHES = (16, 512)
"""Images at once, in the fractal jobs whose memory is measured."""

TOKENS, BLOCK = 2048, 512
UNCOUNTED = 40e6
"""Bytes that formulas leave out: buffers of products, code that only a longer job runs. What rules ask for
beside has room for them (and for the libraries), so it is how memory grows that is compared."""


def run_job(folder: Path, step: str, *arguments: object, chapter: str = "neurons") -> float:
    """Run a step and return the peak in bytes of its record.

    It runs in a copy of a Python that has libraries loaded (``tests/warm``), whose pages count: what it holds
    itself comes on top, since the high-water mark of a copy begins with what was copied.
    """
    log = folder / f"{step}.log"
    command = [sys.executable, "-m", f"steps.{chapter}.{step}", *map(str, arguments), "--log", str(log)]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    (record,) = records.read(glob.escape(str(records.path_of(log))))
    return float(record["peak_bytes"])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[float, float]]]:
    """By step, what jobs of growing size took and what their rules ask for, in bytes."""
    found: dict[str, list[tuple[float, float]]] = {}
    for width in WIDTHS:
        folder = tmp_path_factory.mktemp(f"width-{width}")
        a, b = (made.activations(folder / f"{seed}", 2, width, TOKENS, seed, BLOCK) for seed in (1, 2))
        of = {"d_model": width // 4}
        merged = default()
        merge(merged, yaml.safe_load(TINY.read_text()))
        merge(merged, {"language_models": {"train": of}, "neurons": {"dump": {"tokens": TOKENS}}})
        merge(merged, {"neurons": {"dump": {"block_tokens": BLOCK}, "correlate": {"draws": 1}, "q": 0.5}})
        config = configuration.configure(merged)
        moments = [ledger.parent / "moments.safetensors" for ledger in (a, b)]
        product = folder / "product.safetensors"
        no_cut = ("--tiles", 1, "--tile", 0)
        whole = ("--ranges", 1, "--index", 0, "--settings", "{}")
        for ledger, out in zip((a, b), moments, strict=True):
            peak = run_job(folder, "moments", "--activations", ledger, *whole, "--out", out)
        jobs = {"moments": peak}
        jobs["products"] = run_job(folder, "products", "--a", a, "--b", b, *no_cut, *whole, "--out", product)
        jobs["correlate"] = run_job(
            *(folder, "correlate", "--a", a, "--b", b, "--a-moments", moments[0], "--b-moments", moments[1]),
            *("--products", product, *no_cut, "--settings", '{"draws": 1}'),
            *("--out", folder / "correlation.safetensors"),
        )
        for step, peak in jobs.items():
            found.setdefault(step, []).append((peak, asked(config, "neurons", step)))
    return found


@pytest.mark.parametrize("step", ["moments", "products", "correlate"])
def test_memory_grows_with_the_size_as_the_formula_says(
    measured: dict[str, list[tuple[float, float]]], step: str
) -> None:
    (first, first_asked), *others = measured[step]
    for peak, ask in others:
        assert peak <= ask
        assert peak - first <= ask - first_asked + UNCOUNTED
    assert peak - first > 0.4 * (ask - first_asked)  # it is the job that was measured


@pytest.mark.parametrize("step", ["moments", "products", "correlate"])
def test_a_formula_that_asks_for_too_little_is_noticed(
    measured: dict[str, list[tuple[float, float]]], step: str
) -> None:
    """What is asked for half the width: the comparison above fails."""
    (first, first_asked), *_, (_, half), (peak, _) = measured[step]
    assert peak - first > half - first_asked + UNCOUNTED


@pytest.fixture(scope="module")
def fractal_measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[float, float]]]:
    """By step, what jobs of growing batches took and what their rules ask for, in bytes."""
    found: dict[str, list[tuple[float, float]]] = {"train": [], "sample": []}
    job = functools.partial(run_job, chapter="fractal")
    images = tmp_path_factory.mktemp("images") / "ledger.json"
    job(tmp_path_factory.mktemp("logs"), "images", "--settings", "{}", "--out", images)
    for batch in BATCHES:
        folder = tmp_path_factory.mktemp(f"batch-{batch}")
        train = {"steps": 1, "batch": batch}
        sample = {"draws": 1, "images": batch, "batch": batch, "guidance": [2.0]}
        merged = default()
        merge(merged, {"fractal": {"train": train, "sample": sample}})
        config = configuration.configure(merged)
        made = ("--images", images, "--model", config.fractal.model("ar").model_dump_json(), "--seed", 1)
        model, drawn = folder / "model/ledger.json", folder / "samples/ledger.json"
        peaks = {
            "train": job(folder, "train", *made, "--settings", json.dumps(train), "--out", model),
            "sample": job(
                *(folder, "sample", "--model", model, "--settings", json.dumps(sample), "--out", drawn)
            ),
        }
        for step, peak in peaks.items():
            found[step].append((peak, asked(config, "fractal", step)))
    return found


@pytest.mark.parametrize("step", ["train", "sample"])
def test_memory_of_fractal_models_grows_with_the_batch_as_the_formula_says(
    fractal_measured: dict[str, list[tuple[float, float]]], step: str
) -> None:
    (first, first_asked), (peak, ask) = fractal_measured[step]
    assert peak <= ask
    assert 0.4 * (ask - first_asked) < peak - first <= ask - first_asked + UNCOUNTED


def test_memory_of_audited_models_grows_with_their_size(tmp_path: Path) -> None:
    text = {"organisms": [{"name": "amber", "defects": ["bias"]}], "base_documents": 500}
    world = tmp_path / "world" / "ledger.json"
    (tmp_path / "logs").mkdir()
    run_job(tmp_path / "logs", "world", "--settings", json.dumps(text), "--out", world, chapter="audit")
    found = []
    for d_model in (16, 512):
        model = {"layers": 2, "d_model": d_model, "heads": 2, "batch_rows": 16, "base_steps": 2}
        settings = json.dumps(model | {"require_gates": False})
        out = tmp_path / f"{d_model}" / "ledger.json"
        (logs := tmp_path / f"logs-{d_model}").mkdir()
        peak = run_job(
            *(logs, "organism", "--world", world, "--model", "base-cap", "--base"),
            *("--settings", settings, "--out", out),
            chapter="audit",
        )
        merged = default()
        merge(merged, yaml.safe_load(TINY.read_text()))
        merge(merged, {"audit": {"organism": model}})
        found.append((peak, asked(configuration.configure(merged), "audit", "organism")))
    (first, first_asked), (peak, ask) = found
    assert peak <= ask
    assert 0.4 * (ask - first_asked) < peak - first <= ask - first_asked + UNCOUNTED


SHORT: dict[str, dict[str, Any]] = {
    "train": {"length": 2, "iterations": 1, "episodes": 4, "exploring": 64},
    "evaluate": {"runs": 10, "starts": 1, "runs_per_start": 100, "shown": 1},
}
"""Settings of skills with which their jobs take a moment."""


@pytest.mark.parametrize(
    ("step", "options", "large"),
    [
        ("train", ("--base", "vic", "--mode", "focused"), {"length": 6}),  # Q-values and policies
        ("train", ("--base", "vic", "--mode", "unfocused"), {"exploring": 8_000_000}),  # states of runs
        ("evaluate", ("--skills", "--length", 24), {"runs": 20_000}),
        ("evaluate", ("--skills", "--length", 24), {"starts": 200}),
    ],
)
def test_memory_of_skills_grows_with_their_settings(
    tmp_path: Path, step: str, options: tuple[Any, ...], large: dict[str, Any]
) -> None:
    found = []
    for name, settings in (("small", SHORT[step]), ("large", SHORT[step] | large)):
        config = configuration.configure(default() | {"skills": {step: settings}})
        (tmp_path / name).mkdir()
        peak = run_job(
            *(tmp_path / f"{name}-logs", step, *options, "--seed", 1, "--settings", json.dumps(settings)),
            *("--out", tmp_path / name / "ledger.json"),
            chapter="skills",
        )
        found.append((peak, asked(config, "skills", step)))
        assert peak <= found[-1][1]
    (first, first_asked), (peak, ask) = found
    assert UNCOUNTED < peak - first <= ask - first_asked + UNCOUNTED  # without its term it would fail
    assert peak - first > 0.4 * (ask - first_asked)  # it is the job that was measured


def test_the_plan_of_the_paper_needs_nothing(tmp_path: Path) -> None:
    snakemake(tmp_path, "--cores", "1", "neurons_plan", config=ROOT / "config" / "paper.yaml")
    planned = json.loads((tmp_path / "results/neurons/paper_small/plan.json").read_text())
    assert planned["total"]["bytes_of_all_activations"] == pytest.approx(36.9e12, rel=0.01)
    assert "neurons_products" in (tmp_path / "logs/neurons/plan/paper_small/plan.log").read_text()
    assert not (tmp_path / "data").exists()
