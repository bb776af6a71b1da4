"""The planner against the paper's figures, against what small runs write, and against what rules ask for."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.neurons import composition, cosines, dump, plan, similarity
from steps.neurons.activations.store import Activations
from steps.neurons.explanations import first_pass as first_pass_library
from steps.neurons.explanations.features import Features
from steps.neurons.explanations.labels import by_token, previous
from tests.neurons.planted import (
    CONTEXT,
    VOCABULARY,
    correlate_pair,
    write_activations,
    write_model,
    write_rows,
    write_tokenizer,
)

SMALL = {"layers": 12, "width": 3072, "d_model": 768, "heads": 12, "vocabulary": 50257}
MEDIUM = {"layers": 24, "width": 4096, "d_model": 1024, "heads": 16, "vocabulary": 50257}
TINY = {"layers": 2, "width": 64, "d_model": 16, "heads": 2, "vocabulary": VOCABULARY}
"""Of :func:`write_model`."""


def study(shape: dict[str, int] = SMALL, models: int = 2, **changes: Any) -> plan.Study:
    values = {
        "name": "planned",
        "models": [{"name": f"m{k}", **shape} for k in range(models)],
        "pairs": [(0, k) for k in range(1, models)],
        "tiles": 1,
        "ranges": 1,
        "tokens": 100_000_000,
        "context": 512,
        "block_tokens": 8192,
        "source": "dump",
        "dtype": "float16",
        "compute_dtype": "float32",
        "precision": "float32",
        "examples": 20,
        "top": 50,
        "draws": 99,
        "similarity_tokens": 100_000,
        "checkpoint_tokens": 20_000,
        "checkpoint_draws": 99,
        "checkpoints": 0,
        "bootstraps": 200,
        "candidates": 3,
        "histogram_tokens": 1_000_000,
        "page_neurons": 3000,
        "page_examples": 8,
        "snippets": 36,
        **{step: {} for step in ("explain", "weights", "cosines", "attention", "intervene")},
    }
    return plan.Study.model_validate({**values, **changes})


def planned(of: plan.Study, **settings: Any) -> dict[str, Any]:
    return plan.plan(of, plan.Settings.model_validate(settings))


@pytest.mark.parametrize(
    ("shape", "flops", "matrix"), [(SMALL, 2.7e17, 10.9e9), (MEDIUM, 1.9e18, 77e9)], ids=["small", "medium"]
)
def test_figures_of_the_paper(shape: dict[str, int], flops: float, matrix: float) -> None:
    """39 TB for two medium models; FLOPs of a pair; its product matrix in float64."""
    of = study(shape)
    whole = planned(of)
    assert whole["total"]["flops_products"] == pytest.approx(flops, rel=0.02)
    neurons = of.models[0].neurons
    assert plan.product_bytes(neurons, neurons) == pytest.approx(matrix, rel=0.01)
    assert plan.jobs(of, "correlate")[0].held > matrix
    if shape is MEDIUM:
        assert whole["total"]["bytes_of_all_activations"] == pytest.approx(39e12, rel=0.01)
        assert whole["rules"]["dump"]["bytes_written"] == pytest.approx(39e12, rel=0.02)
        per_draw = plan.rotation_flops(1, neurons, of.models[1])
        assert per_draw == pytest.approx(7.9e13, rel=0.05)


def test_forward_passes_of_gpt2_small() -> None:
    """85 million parameters in the blocks, two FLOPs each, and attention to all 512 places."""
    of = study()
    assert of.models[0].parameters == pytest.approx(85e6, rel=0.01)
    attention = 12 * 4 * 512 * 768
    assert of.models[0].forward(512) == pytest.approx(2 * 85e6 + attention, rel=0.01)


@pytest.mark.parametrize("cut", [(1, 1), (2, 1), (1, 4), (3, 5)])
@pytest.mark.parametrize("source", ["dump", "model"])
def test_cutting_moves_work_and_takes_none_away(cut: tuple[int, int], source: str) -> None:
    tiles, ranges = cut
    whole = planned(study(models=3, source=source))["total"]
    parts = planned(study(models=3, source=source, tiles=tiles, ranges=ranges))["total"]
    assert parts["flops_products"] == pytest.approx(whole["flops_products"])
    assert parts["flops_within"] == pytest.approx(whole["flops_within"])
    assert parts["flops_rotations"] >= whole["flops_rotations"]
    each = 8 * study().models[0].neurons ** 2 * 2 * ranges
    more = parts["bytes_temporary"] - whole["bytes_temporary"]
    assert more == pytest.approx(each if ranges > 1 else 0, rel=0.001)
    if source == "model":
        of = study(models=3)
        # moments; both sides of either pair in every tile; clusters; two readings that explain; the rows of
        # the page's examples, whose neurons are all of one model
        tokens = (3 + 2 * 2 * tiles + 3 + 2 * 3) * of.tokens + 3000 * 8 * of.context
        tokens += 3 * (of.histogram_tokens + of.snippets * of.context)
        forward = tokens * of.models[0].forward(512)
        forward += sum(plan.jobs(of, rule)[0].forward for rule in ("attention", "intervene"))
        assert parts["flops_forward"] == pytest.approx(forward)
        assert parts["bytes_written"] < 1e12


def test_jobs_of_every_rule() -> None:
    of = study(models=5, tiles=2, ranges=16, parts=3)
    counts = {rule: row["jobs"] for rule, row in planned(of)["rules"].items()}
    cut = {"dump": 5, "moments": 5 * 16, "products": 4 * 2 * 16, "correlate": 4 * 2}
    cut |= {"composition": 5, "cosines": 5, "histograms": 5 * 3, "explain": 5 * 3}
    single = {*plan.RULES, *plan.ON_REQUEST} - cut.keys() - {"checkpoints"}
    assert counts == cut | dict.fromkeys(single, 1)
    assert "products" not in planned(study())["rules"]
    assert planned(study(checkpoints=7))["rules"]["checkpoints"]["jobs"] == 1


@pytest.mark.parametrize("source", ["dump", "model"])
def test_clusters_hold_their_sums_and_bootstraps(source: str) -> None:
    """Array by array, at the paper's size: reference and four partners."""
    of = study(models=5, source=source)
    (job,) = plan.jobs(of, "clusters")
    count, candidates = 12 * 3072, 2 * 3 * 12 * 3072
    arrays = {
        "buffer and transposed block of each model": 5 * 2 * 4 * 8192 * count,
        "total and square": 5 * 2 * 8 * 256 * count,
        "product": 4 * 8 * 256 * candidates,
        "correlations of bootstraps": 4 * 8 * 200 * candidates,
        "means, norms, covariance of a pair": 6 * 8 * 200 * candidates,
        "computed blocks": (source == "model") * 5 * 2 * 8192 * count,
    }
    assert sum(arrays.values()) < job.held < 2.5 * sum(arrays.values())
    assert (job.forward > 0) == (source == "model")
    # in place of a dump that each reader makes anew
    assert job.forward == (source == "model") * sum(1e8 * model.forward(512) for model in of.models)


def test_the_report_runs_its_rows_only() -> None:
    (dumped,), (anew,) = (plan.jobs(study(source=source), "report") for source in ("dump", "model"))
    assert dumped.forward == 0
    assert anew.forward == 2 * 36 * 512 * study().models[0].forward(512)
    assert anew.held - dumped.held > 2 * 4 * 124e6


def test_hours_follow_hardware_share_and_disk() -> None:
    of = study(draws=1)
    whole = planned(of, hardware="v100", share=1)
    assert whole["rules"]["correlate"]["hours"] == pytest.approx(
        (2.717e17 + plan.rotation_flops(1, 36864, of.models[1])) / 15.7e12 / 3600
        + whole["rules"]["correlate"]["bytes_read"] / 1e9 / 3600
        + sum(job.host for job in plan.jobs(of, "correlate")) / 3600,
        rel=0.01,
    )
    half = planned(of, hardware="v100", share=0.5, disk_gb_per_s=0.5)
    sped = whole["rules"].keys() - {"correlate", "explain", "histograms", "similarity"}  # a core's work too
    for rule in sped:
        assert half["rules"][rule]["hours"] == pytest.approx(2 * whole["rules"][rule]["hours"]), rule
    own = planned(of, hardware="v100", share=1, peak_tflops=15.7)
    assert own["total"]["hours"] == pytest.approx(whole["total"]["hours"])
    fast = planned(
        of.model_copy(update={"precision": "float16"}), hardware="v100", share=1, disk_gb_per_s=1e9
    )
    slow = planned(of, hardware="v100", share=1, disk_gb_per_s=1e9)
    assert slow["rules"]["correlate"]["hours"] > 7 * fast["rules"]["correlate"]["hours"]
    pairs = study(models=5)
    alone, together = planned(pairs, devices=1), planned(pairs, devices=100)
    assert alone["total"]["hours_on_all_devices"] == pytest.approx(alone["total"]["hours"])
    longest = sum(row["hours_longest_job"] for row in together["rules"].values() if not row["on_request"])
    assert together["total"]["hours_on_all_devices"] == pytest.approx(longest)


def test_what_does_not_fit_is_marked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    big = study(MEDIUM)
    assert not planned(big, hardware="v100")["rules"]["correlate"]["fits_memory"]
    assert planned(big, memory_gb=1000)["rules"]["correlate"]["fits_memory"]
    with caplog.at_level(logging.INFO, "reprise"):
        plan.main(big, plan.Settings(hardware="v100"), Output(tmp_path / "plan.json"))
    (line,) = (line for line in caplog.text.splitlines() if line.startswith("neurons_correlate"))
    assert "GB (!)" in line
    assert "24 layers of 4,096 neurons" in caplog.text
    assert "39.3 TB" in caplog.text
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["rules"]["correlate"]["flops_products"] == pytest.approx(1.93e18, rel=0.01)
    assert written["study"]["tokens"] == 100_000_000


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_bytes_are_those_of_a_small_run(tmp_path: Path, dtype: str) -> None:
    """Within 2 %: dumps without compression, moments, product tiles, summaries."""
    rows, width, layers = 400, 64, 2
    tokenizer, packed = write_tokenizer(tmp_path / "tokenizer"), write_rows(tmp_path / "rows", rows)
    settings = dump.Settings.model_validate(
        {"tokens": rows * CONTEXT, "block_tokens": 100 * CONTEXT, "codec": "none", "dtype": dtype}
    )
    ledgers = []
    for seed, name in enumerate("ab"):
        model = write_model(tmp_path / f"model-{name}", seed)
        ledgers.append(tmp_path / name / "ledger.json")
        dump.main(model, tokenizer, packed, name, settings, Output(ledgers[-1]))
    of = study(
        TINY | {"layers": layers, "width": width},
        tokens=rows * CONTEXT,
        tiles=2,
        ranges=2,
        dtype=dtype,
        draws=30,
        block_tokens=100 * CONTEXT,
    )
    correlated = correlate_pair(tmp_path / "pair", *ledgers, tiles=2, ranges=2, draws=30)
    whole = plan.jobs(of, "dump")[0].written
    assert size_of(ledgers[0].parent) == pytest.approx(whole, rel=0.02)
    for rule, files in (
        ("moments", [tmp_path / "pair" / "a" / f"range-{k}.safetensors" for k in range(2)]),
        ("products", sorted((tmp_path / "pair").glob("products-*"))),
        ("correlate", correlated),
    ):
        jobs = plan.jobs(of, rule)
        expected = [job.written + job.temporary for job in jobs]
        # The header of a file, which does not grow, is a kilobyte or two.
        for path, value in zip(files, expected, strict=False):
            assert value <= path.stat().st_size <= 1.02 * value + 2_500, path


def test_files_of_weights_are_those_of_a_small_run(tmp_path: Path) -> None:
    """Composition and cosines: within 2 % and the header of the file."""
    model = write_model(tmp_path / "model")
    of = study(TINY, cosines={"tokens": 7, "neurons": 5})
    for step, settings in ((composition, composition.Settings()), (cosines, of.cosines)):
        rule = step.__name__.rpartition(".")[2]
        step.main(model, settings, Output(tmp_path / rule))  # type: ignore[arg-type]
        value = plan.jobs(of, rule)[0].written
        assert value <= (tmp_path / rule).stat().st_size <= 1.02 * value + 4_000


def test_explaining_holds_its_sums(tmp_path: Path) -> None:
    """What the sums of so many more neurons really take, and the ranking of tokens beside them."""
    vocabulary, width, tokens = 20_000, 48, 256
    pre = np.random.default_rng(0).standard_normal((tokens, width)).astype("float16")
    ids = np.random.default_rng(1).integers(0, vocabulary, tokens)
    source = Activations(write_activations(tmp_path, pre, layers=1, tokens=ids))
    own = by_token(ids, Features(["odd"], ["number"], np.arange(vocabulary)[:, None] % 2 == 1))
    found = [own, previous(own, source.context)]
    split = first_pass_library.Split(source, tokens, 0.5)

    def held(count: int) -> tuple[int, float]:
        sums = first_pass_library.first_pass(first_pass_library.SplitReader(split, slice(0, count)), found)
        arrays = [*sums.tables, sums.held_table, sums.maxima]
        shape = {"layers": 1, "width": width, "d_model": 12, "heads": 1, "vocabulary": vocabulary}
        of = study(shape, tokens=tokens, block_tokens=64, context=16, explain={"neurons_at_once": count})
        return sum(array.nbytes for array in arrays), plan.jobs(of, "explain")[0].held

    (few, asked_for_few), (all_of_them, asked) = held(width // 2), held(width)
    assert all_of_them - few == pytest.approx(28 * vocabulary * width / 2, rel=0.001)
    assert all_of_them - few < asked - asked_for_few < 2.5 * (all_of_them - few)


def test_explaining_all_neurons_of_gpt2_medium_at_once() -> None:
    """Three sums and a maximum by token id; a layer at a time is enough for a large machine."""
    sums = 24 * 4096 * 50257 * 28
    whole, *_ = plan.jobs(study(MEDIUM, models=5), "explain")
    parts, *_ = plan.jobs(study(MEDIUM, models=5, explain={"neurons_at_once": 4096}), "explain")
    assert sums == pytest.approx(138e9, rel=0.01)
    assert sums < whole.held < 3 * sums
    assert parts.held < sums / 1.5
    anew = [
        plan.jobs(study(MEDIUM, source="model", explain=settings), "explain")[0].forward
        for settings in ({}, {"neurons_at_once": 4096})
    ]
    # Layer by layer, and the model stops after each.
    assert anew[1] == pytest.approx(24 * 25 / 2 * anew[0] / 24)


@pytest.mark.parametrize("source", ["dump", "model"])
def test_parts_of_models_share_the_work(source: str) -> None:
    usual: dict[str, Any] = {"source": source, "models": 3, "explain": {"neurons_at_once": 3072}}
    whole, cut = study(**usual), study(**usual, parts=12)
    for rule, merge in (("explain", "merge_explanations"), ("histograms", "merge_histograms")):
        of_models, parts = plan.jobs(whole, rule), plan.jobs(cut, rule)
        (last,) = plan.jobs(cut, merge)
        assert (len(of_models), len(parts)) == (3, 3 * 12)
        sums = {
            kind: [sum(getattr(job, kind) for job in jobs) for jobs in (of_models, parts)]
            for kind in ("host", "forward", "read", "temporary")
        }
        assert sums["host"][1] == pytest.approx(sums["host"][0])
        assert max(part.held for part in parts) < min(one.held for one in of_models)
        assert last.flops == last.host == 0
        assert sums["temporary"] == pytest.approx([last.read, last.read])
        assert last.written == last.read
        # Histograms of a layer need the layers before it where a model computes them.
        again = 6.5 if (rule, source) == ("histograms", "model") else 1
        assert sums["forward"][1] == pytest.approx(again * sums["forward"][0])
        assert sums["read"][1] == pytest.approx(sums["read"][0])
        if source == "model":
            assert parts[11].forward == pytest.approx(12 * parts[0].forward)
    assert plan.jobs(study(explain={"device": "cuda"}), "explain")[0].host == 0


def test_comparing_all_neurons_of_a_large_model_is_most_of_its_weights() -> None:
    """Pythia 6.9b: each pair of neurons once for three cosines, two vectors of float32 per neuron."""
    large = {"layers": 32, "width": 16384, "d_model": 4096, "heads": 32, "vocabulary": 50432}
    with_it, without = (
        plan.jobs(
            study(large, models=1, weights={"redundancy": redundancy, "composition": False}), "weights"
        )[0]
        for redundancy in (True, False)
    )
    neurons = 32 * 16384
    assert with_it.weights - without.weights == pytest.approx(3 * 2 * 4096 * neurons**2 / 2)
    assert with_it.weights > 10 * without.weights
    assert with_it.held - without.held == 2 * 4 * 4096 * neurons


def test_similarity_holds_a_layer_and_its_sums(tmp_path: Path) -> None:
    tokens, width, layers = 512, 40, 2
    ledgers = []
    for seed, name in enumerate("ab"):
        pre = np.random.default_rng(seed).standard_normal((tokens, layers * width)).astype("float16")
        ledgers.append(write_activations(tmp_path / name, pre, name=name))
    settings = similarity.Settings()
    reference = similarity.BlockReader(Activations(ledgers[0]), settings)
    sums = similarity.layer_sums(reference, Activations(ledgers[1]), 0, settings).values()
    measured = sum(each.product.nbytes + each.both.nbytes for each in sums)
    shape = {"layers": layers, "width": width, "d_model": 10, "heads": 1, "vocabulary": 50}

    def asked(**changes: Any) -> float:
        return plan.jobs(study(shape, **{"tokens": tokens, "block_tokens": 64, **changes}), "similarity")[
            0
        ].held

    # The rest is a block and the tokens.
    assert measured < asked(similarity_tokens=1, block_tokens=1) < 1.5 * measured
    layer = 4 * width * tokens
    assert layer < asked(similarity_tokens=tokens) - asked(similarity_tokens=1) < 1.1 * layer


def test_what_the_host_does_takes_its_time_on_any_device() -> None:
    of = study(source="model", explain={"tokens": 10_000_000})
    slow, fast = (planned(of, hardware=name)["rules"] for name in ("v100", "h100"))
    for rule in ("correlate", "explain", "histograms", "similarity"):
        assert fast[rule]["hours"] > sum(job.host for job in plan.jobs(of, rule)) / 3600 > 0
    many, one = (plan.jobs(study(draws=draws), "correlate")[0].host for draws in (999, 1))
    assert many - one == pytest.approx(998 * 12 * 3072**2 * plan.TURNED)
    assert fast["correlate"]["hours"] < 0.5 * slow["correlate"]["hours"]


@pytest.mark.parametrize("parts", [1, 3])
def test_sums_of_explanations_must_fit_the_device_that_holds_them(parts: int) -> None:
    for device, fits in (("cpu", True), ("cuda", False)):
        of = study(MEDIUM, parts=parts, explain={"device": device, "neurons_at_once": 8 * 4096})
        rules = planned(of, hardware="v100", memory_gb=2)["rules"]
        assert rules["explain"]["megabytes"] > 2000
        assert rules["explain"]["fits_memory"] is fits
        assert rules["merge_explanations"]["fits_memory"]


def test_a_dump_that_keeps_nothing_loads_no_model() -> None:
    kept, computed = (
        [plan.jobs(study(shape, source=source), "dump")[0].held for shape in (SMALL, MEDIUM)]
        for source in ("dump", "model")
    )
    assert kept[0] < kept[1]
    assert computed == [2 * plan.OPENED * 100_000_000] * 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_inner": None}, (12, 3072, 768, False)),
        ({"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_inner": 100}, (2, 100, 64, False)),
        (
            {
                "model_type": "gpt_neox",
                "num_hidden_layers": 6,
                "hidden_size": 512,
                "intermediate_size": 2048,
            },
            (6, 2048, 512, False),
        ),
        (
            {"model_type": "llama", "num_hidden_layers": 3, "hidden_size": 48, "intermediate_size": 128},
            (3, 128, 48, True),
        ),
    ],
    ids=["gpt2", "gpt2-inner", "neox", "llama"],
)
def test_sizes_are_read_from_config_json(tmp_path: Path, config: dict[str, Any], expected: Any) -> None:
    path = tmp_path / "config.json"
    heads = "n_head" if "n_embd" in config else "num_attention_heads"
    path.write_text(json.dumps({**config, heads: 3, "vocab_size": 77}))
    model = plan.model_size("x", path)
    assert (model.layers, model.width, model.d_model, model.gated) == expected
    assert (model.heads, model.vocabulary) == (3, 77)
    assert model.read_from == str(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"n_layer": 2}', '{"n_layer": 0, "n_embd": 8}'])
def test_a_broken_config_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json: found no sizes of a model in it"):
        plan.model_size("x", tmp_path / "config.json")


def test_a_local_folder_and_the_cache_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert plan.local_configuration(str(tmp_path), None, None) is None
    (tmp_path / "config.json").write_text("{}")
    assert plan.local_configuration(str(tmp_path), None, None) == tmp_path / "config.json"
    repository = tmp_path / "hub" / "models--somebody--model"
    commit = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    assert plan.local_configuration(None, "somebody/model", "main") is None
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    found = plan.local_configuration(None, "somebody/model", "main")
    assert found is not None
    assert found.read_text() == "{}"
