"""The planner against the paper's figures, and against what small runs write, compute and hold."""

from __future__ import annotations

import json
import logging
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.core.runner import Output
from steps.neurons import (
    clusters,
    composition,
    correlate,
    cosines,
    dump,
    moments,
    plan,
    products,
    similarity,
    weights,
)
from steps.neurons.activations.store import Activations
from steps.neurons.costs import correlations, models
from steps.neurons.costs.rules import FORMULAS
from steps.neurons.costs.study import TOKEN_FEATURES, Job, Study
from steps.neurons.explanations import first_pass as first_pass_library
from steps.neurons.explanations.features import Features, read_word_lists, token_predicates
from steps.neurons.explanations.labels import by_token, previous
from steps.workflow.configuration import configure
from tests.neurons.planted import (
    CONTEXT,
    VOCABULARY,
    correlate_pair,
    write_activations,
    write_model,
    write_rows,
    write_tokenizer,
)

SMALL = {"layers": 12, "d_mlp": 3072, "d_model": 768, "heads": 12, "vocabulary": 50257}
MEDIUM = {"layers": 24, "d_mlp": 4096, "d_model": 1024, "heads": 16, "vocabulary": 50257}
TINY = {"layers": 2, "d_mlp": 64, "d_model": 16, "heads": 2, "vocabulary": VOCABULARY}
"""Of :func:`write_model`."""


def study(
    shape: dict[str, int] = SMALL,
    compared: int = 2,
    context: int = 512,
    checkpoints: int = 0,
    **section: Any,
) -> Study:
    """A large study of models of this shape; ``section`` changes its settings."""
    settings: dict[str, Any] = {
        "dump": {"tokens": 100_000_000, "block_tokens": 8192},
        "correlate": {"draws": 99},
        "similarity": {"tokens": 100_000},
        "checkpoints": {"tokens": 20_000},
        "histograms": {"tokens": 1_000_000},
    }
    for key, value in section.items():
        settings[key] = settings.get(key, {}) | value if isinstance(value, dict) else value
    config = configure({"neurons": settings})
    return Study(
        section=config.neurons.model_dump(mode="json"),
        models=[{"name": f"m{k}", **shape} for k in range(compared)],
        pairs=[(0, k) for k in range(1, compared)],
        n_ctx=context,
        checkpoints=checkpoints,
    )


def jobs(of: Study, rule: str) -> list[Job]:
    return FORMULAS[rule].jobs(of)


def planned(of: Study, **settings: Any) -> dict[str, Any]:
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
    assert correlations.product_bytes(neurons, neurons) == pytest.approx(matrix, rel=0.01)
    assert jobs(of, "correlate")[0].held > matrix
    if shape is MEDIUM:
        assert whole["total"]["bytes_of_all_activations"] == pytest.approx(39e12, rel=0.01)
        assert whole["rules"]["dump"]["bytes_written"] == pytest.approx(39e12, rel=0.02)
        per_draw = correlations.rotation_flops(1, neurons, of.models[1])
        assert per_draw == pytest.approx(7.9e13, rel=0.05)


@pytest.mark.parametrize("cut", [(1, 1), (2, 1), (1, 4), (3, 5)])
@pytest.mark.parametrize("source", ["dump", "model"])
def test_cutting_moves_work_and_takes_none_away(cut: tuple[int, int], source: str) -> None:
    tiles, ranges = cut
    whole = planned(study(compared=3, dump={"source": source}))
    parts = planned(study(compared=3, dump={"source": source}, tiles=tiles, ranges=ranges))
    assert parts["total"]["flops_products"] == pytest.approx(whole["total"]["flops_products"])
    assert parts["total"]["flops_within"] == pytest.approx(whole["total"]["flops_within"])
    assert parts["total"]["flops_rotations"] >= whole["total"]["flops_rotations"]
    each = 8 * study().models[0].neurons ** 2 * 2 * ranges
    more = parts["total"]["bytes_temporary"] - whole["total"]["bytes_temporary"]
    assert more == pytest.approx(each if ranges > 1 else 0, rel=0.001)
    assert parts["total"]["flops_weights"] == whole["total"]["flops_weights"]
    if source == "model":  # every tile runs its models again, and ranges run them once each
        again = whole["rules"]["correlate"]["flops_forward"] * (tiles - 1)
        assert parts["total"]["flops_forward"] == pytest.approx(whole["total"]["flops_forward"] + again)
        assert parts["total"]["bytes_written"] < 1e12


def test_what_is_not_cut_is_no_rule_of_the_plan() -> None:
    assert not {"products", "checkpoints"} & planned(study())["rules"].keys()
    rules = planned(study(ranges=2, parts=2, checkpoints=7))["rules"]
    assert rules.keys() == FORMULAS.keys()
    assert rules["checkpoints"]["jobs"] == 1


def test_constants_are_those_of_the_steps() -> None:
    """Formulas import no step."""
    assert correlations.BINS == correlate.BINS
    assert correlations.MOST_RUNS == clusters.MOST_RUNS
    assert models.BINS == cosines.BINS
    assert len(token_predicates(read_word_lists())) == TOKEN_FEATURES


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, dict[str, float]]:
    """A small study, and by step the FLOPs of the products that PyTorch counts in one job of it."""
    from torch.utils.flop_counter import FlopCounterMode

    folder, rows = tmp_path_factory.mktemp("counted"), 400
    dumped = {"tokens": rows * CONTEXT, "block_tokens": 100 * CONTEXT}
    of = study(
        TINY,
        context=CONTEXT,
        tiles=2,
        ranges=2,
        dump=dumped,
        correlate={"draws": 30},
        similarity={"tokens": None},
    )
    found = {}

    def count(step: Any, *arguments: Any) -> None:
        with FlopCounterMode(display=False) as counter:
            step.main(*arguments)
        found[step.__name__.rpartition(".")[2]] = counter.get_total_flops()

    tokenizer, packed = write_tokenizer(folder / "tokenizer"), write_rows(folder / "rows", rows)
    ledgers, summed, networks = [], {}, []
    for seed, name in enumerate("ab"):
        networks.append(write_model(folder / f"model-{name}", seed))
        ledgers.append(folder / name / "ledger.json")
        settings = dump.Settings.model_validate(dumped)
        count(dump, networks[-1], tokenizer, packed, name, settings, Output(ledgers[-1]))
        summed[name] = [folder / f"{name}-{index}.safetensors" for index in range(2)]
        for index, out in enumerate(summed[name]):
            count(moments, ledgers[-1], 2, index, moments.Settings(), Output(out))
    parts = [folder / f"products-{index}.safetensors" for index in range(2)]
    for index, out in enumerate(parts):
        count(products, *ledgers, 2, 0, 2, index, products.Settings(), Output(out))
    chosen, out = correlate.Settings(draws=30), Output(folder / "correlation.safetensors")
    count(correlate, *ledgers, summed["a"], summed["b"], parts, 2, 0, chosen, out)
    count(composition, networks[0], composition.Settings(), Output(folder / "composition"))
    count(similarity, ledgers, similarity.Settings(), Output(folder / "similarity.parquet"))
    return of, found


@pytest.mark.parametrize("rule", ["dump", "moments", "products", "correlate", "composition", "similarity"])
def test_flops_are_those_that_torch_counts(counted: tuple[Study, dict[str, float]], rule: str) -> None:
    """Beside tokens that are left out (one of twelve here), and attention, which the dump forms uncounted."""
    of, found = counted
    planned_flops = jobs(of, rule)[0].flops
    assert 0.85 * planned_flops < found[rule] <= planned_flops


def test_flops_of_comparing_all_neurons_are_those_that_torch_counts(tmp_path: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    tokenizer, shape = write_tokenizer(tmp_path / "tokenizer"), TINY | {"d_model": 64, "d_mlp": 256}
    model = write_model(tmp_path / "model", n_embd=64)
    taken, planned_flops = [], []
    for redundancy in (True, False):
        values = {"redundancy": redundancy, "composition": False}
        settings = weights.Settings.model_validate(values)
        with FlopCounterMode(display=False) as counter:
            weights.main(
                [model], tokenizer, settings, Output(tmp_path / "w.parquet"), Output(tmp_path / "e.parquet")
            )
        taken.append(counter.get_total_flops())
        planned_flops.append(jobs(study(shape, compared=1, weights=values), "weights")[0].weights)
    asked = planned_flops[0] - planned_flops[1]
    assert asked / 2 < taken[0] - taken[1] < 2 * asked  # blocks on the diagonal are formed whole


def test_clusters_hold_their_sums_and_bootstraps(tmp_path: Path) -> None:
    """The arrays of a small run, which are most of what formulas ask for beside blocks of activations."""
    tokens, width, layers, bootstraps = 2048, 40, 2, 300
    opened = {}
    for seed, name in enumerate("ab"):
        pre = np.random.default_rng(seed).standard_normal((tokens, layers * width)).astype("float16")
        opened[name] = Activations(write_activations(tmp_path / name, pre, name=name, block_tokens=8))
    count = layers * width
    wanted = np.tile(np.arange(count), 6), np.random.default_rng(2).integers(0, count, 6 * count)
    sums = clusters.BlockSums(opened, {("a", "b"): wanted}, "float32")
    runs = np.random.default_rng(3).integers(0, 3, (bootstraps, len(sums.count))).astype(float)
    tracemalloc.start()
    kept = sums.correlations(runs, ("a", "b"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = peak + sum(
        array.nbytes for kind in (sums.total, sums.square, sums.product) for array in kind.values()
    )
    assert kept.nbytes < peak
    shape = {"layers": layers, "d_mlp": width, "d_model": 10, "heads": 1, "vocabulary": 50}
    dumped = {"tokens": tokens, "block_tokens": 8}
    (job,) = jobs(
        study(
            shape, dump=dumped, correlate={"top": 1, "draws": 1}, clusters={"bootstraps": bootstraps}, q=0.5
        ),
        "clusters",
    )
    blocks = 2 * 2 * 4 * 8 * count
    assert held < job.held - blocks < 1.5 * held


def test_hours_follow_hardware_share_and_disk() -> None:
    of = study(correlate={"draws": 1}, q=0.5)
    whole = planned(of, hardware="v100", share=1)
    half = planned(of, hardware="v100", share=0.5, disk_gb_per_s=0.5)
    sped = whole["rules"].keys() - {"correlate", "explain", "histograms", "similarity"}  # a core's work too
    for rule in sped:
        assert half["rules"][rule]["hours"] == pytest.approx(2 * whole["rules"][rule]["hours"]), rule
    own = planned(of, hardware="v100", share=1, peak_tflops=15.7)
    assert own["total"]["hours"] == pytest.approx(whole["total"]["hours"])
    narrow = study(correlate={"draws": 1}, q=0.5, precision="float16")
    fast = planned(narrow, hardware="v100", share=1, disk_gb_per_s=1e9)
    slow = planned(of, hardware="v100", share=1, disk_gb_per_s=1e9)
    assert slow["rules"]["correlate"]["hours"] > 7 * fast["rules"]["correlate"]["hours"]
    pairs = study(compared=5)
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
    assert written["study"]["section"]["dump"]["tokens"] == 100_000_000


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
        TINY | {"layers": layers, "d_mlp": width},
        tiles=2,
        ranges=2,
        dump={"tokens": rows * CONTEXT, "block_tokens": 100 * CONTEXT, "dtype": dtype},
        correlate={"draws": 30},
    )
    correlated = correlate_pair(tmp_path / "pair", *ledgers, tiles=2, ranges=2, draws=30)
    whole = jobs(of, "dump")[0].written
    assert size_of(ledgers[0].parent) == pytest.approx(whole, rel=0.02)
    for rule, files in (
        ("moments", [tmp_path / "pair" / "a" / f"range-{k}.safetensors" for k in range(2)]),
        ("products", sorted((tmp_path / "pair").glob("products-*"))),
        ("correlate", correlated),
    ):
        expected = [job.written + job.temporary for job in jobs(of, rule)]
        # The header of a file, which does not grow, is a kilobyte or two.
        for path, value in zip(files, expected, strict=False):
            assert value <= path.stat().st_size <= 1.02 * value + 2_500, path


def test_files_of_weights_are_those_of_a_small_run(tmp_path: Path) -> None:
    """Composition and cosines: within 2 % and the header of the file."""
    model = write_model(tmp_path / "model")
    of = study(TINY, cosines={"tokens": 7, "neurons": 5})
    chosen = cosines.Settings.model_validate(of.section["cosines"])
    for step, settings in ((composition, composition.Settings()), (cosines, chosen)):
        rule = step.__name__.rpartition(".")[2]
        step.main(model, settings, Output(tmp_path / rule))  # type: ignore[arg-type]
        value = jobs(of, rule)[0].written
        assert value <= (tmp_path / rule).stat().st_size <= 1.02 * value + 4_000


def test_explaining_holds_its_sums(tmp_path: Path) -> None:
    """What the sums of so many more neurons really take, and the ranking of tokens beside them."""
    vocabulary, width, tokens = 20_000, 48, 256
    pre = np.random.default_rng(0).standard_normal((tokens, width)).astype("float16")
    ids = np.random.default_rng(1).integers(0, vocabulary, tokens)
    source = Activations(write_activations(tmp_path, pre, layers=1, tokens=ids))
    own = by_token(ids, Features(["odd"], ["number"], np.arange(vocabulary)[:, None] % 2 == 1))
    found = [own, previous(own, source.n_ctx)]
    split = first_pass_library.Split(source, tokens, 0.5)

    def held(count: int) -> tuple[int, float]:
        sums = first_pass_library.first_pass(first_pass_library.SplitReader(split, slice(0, count)), found)
        arrays = [*sums.tables, sums.held_table, sums.maxima]
        shape = {"layers": 1, "d_mlp": width, "d_model": 12, "heads": 1, "vocabulary": vocabulary}
        dumped = {"tokens": tokens, "block_tokens": 64}
        of = study(shape, context=16, dump=dumped, explain={"neurons_at_once": count})
        return sum(array.nbytes for array in arrays), jobs(of, "explain")[0].held

    (few, asked_for_few), (all_of_them, asked) = held(width // 2), held(width)
    assert all_of_them - few == pytest.approx(28 * vocabulary * width / 2, rel=0.001)
    assert all_of_them - few < asked - asked_for_few < 2.5 * (all_of_them - few)


def test_explaining_all_neurons_of_gpt2_medium_at_once() -> None:
    """Three sums and a maximum by token id; a layer at a time is enough for a large machine."""
    sums = 24 * 4096 * 50257 * 28
    whole, *_ = jobs(study(MEDIUM, compared=5), "explain")
    parts, *_ = jobs(study(MEDIUM, compared=5, explain={"neurons_at_once": 4096}), "explain")
    assert sums == pytest.approx(138e9, rel=0.01)
    assert sums < whole.held < 3 * sums
    assert parts.held < sums / 1.5
    anew = [
        jobs(study(MEDIUM, dump={"source": "model"}, explain=settings), "explain")[0].forward
        for settings in ({}, {"neurons_at_once": 4096})
    ]
    # Layer by layer, and the model stops after each.
    assert anew[1] == pytest.approx(24 * 25 / 2 * anew[0] / 24)


@pytest.mark.parametrize("source", ["dump", "model"])
def test_parts_of_models_share_the_work(source: str) -> None:
    usual: dict[str, Any] = {"dump": {"source": source}, "compared": 3, "explain": {"neurons_at_once": 3072}}
    whole, cut = study(**usual), study(**usual, parts=12)
    for rule, merge in (("explain", "merge_explanations"), ("histograms", "merge_histograms")):
        of_models, parts = jobs(whole, rule), jobs(cut, rule)
        (last,) = jobs(cut, merge)
        assert (len(of_models), len(parts)) == (3, 3 * 12)
        sums = {
            kind: [sum(getattr(job, kind) for job in cut_in) for cut_in in (of_models, parts)]
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
    assert jobs(study(explain={"device": "cuda"}), "explain")[0].host == 0


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
    shape = {"layers": layers, "d_mlp": width, "d_model": 10, "heads": 1, "vocabulary": 50}

    def asked(tokens_compared: int, block_tokens: int = 64) -> float:
        dumped = {"tokens": tokens, "block_tokens": block_tokens}
        return jobs(study(shape, dump=dumped, similarity={"tokens": tokens_compared}), "similarity")[0].held

    # The rest is a block and the tokens.
    assert measured < asked(1, block_tokens=1) < 1.5 * measured
    layer = 4 * width * tokens
    assert layer < asked(tokens) - asked(1) < 1.1 * layer


def test_what_the_host_does_takes_its_time_on_any_device() -> None:
    of = study(dump={"source": "model"}, explain={"tokens": 10_000_000})
    slow, fast = (planned(of, hardware=name)["rules"] for name in ("v100", "h100"))
    for rule in ("correlate", "explain", "histograms", "similarity"):
        assert fast[rule]["hours"] > sum(job.host for job in jobs(of, rule)) / 3600 > 0
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
        [jobs(study(shape, dump={"source": source}), "dump")[0].held for shape in (SMALL, MEDIUM)]
        for source in ("dump", "model")
    )
    assert kept[0] < kept[1]
    assert computed[0] == computed[1] < kept[0]
