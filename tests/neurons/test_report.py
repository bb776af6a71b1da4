"""The report on planted families, and how rows of a model are shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.stores import Ledger
from steps.neurons import report
from steps.neurons.activations.store import Activations, open_all
from steps.neurons.correlations.pairs import load_pairs
from steps.neurons.explanations.families import FAMILIES
from tests.language_models.tiny_models import keep, tiny_model
from tests.neurons.conftest import SHARED, Study
from tests.neurons.planted import VOCABULARY, write_activations, write_tokenizer


def write(planted: Study, folder: Path, **changes: object) -> tuple[dict, dict]:
    """Run the step; returns metrics and report."""
    figures = [folder / "figures" / f"{name}.svg" for name in ("correlation_summary", "clusters")]
    inputs: dict[str, object] = {
        "tokenizer": write_tokenizer(folder / "tokenizer"),
        "activations": planted.activations,
        "correlations": planted.reference,
        "excess": planted.folder / "excess.parquet",
        "clusters": planted.folder / "clusters.parquet",
        "examples": planted.folder / "examples.parquet",
        "models": planted.models,
        "figures": figures,
        "galleries": [],
        "page": folder / "neurons.html",
        "settings": report.Settings(clusters=4, snippets=2, context=3),
        **changes,
    }
    out, page = Output(folder / "metrics.json"), Output(folder / "report.json")
    given = inputs | planted_inputs(folder, planted) | changes
    report.main(
        study="planted",
        section=json.dumps({"q": 0.05}),
        metrics_out=out,
        report=page,
        **given,  # type: ignore[arg-type]
    )
    return json.loads(out.read_text()), json.loads(page.read_text())


def planted_inputs(folder: Path, study: Study) -> dict[str, object]:
    """Tables of the steps that the planted study has not run."""
    excess = pd.read_parquet(study.folder / "excess.parquet")
    neurons = pd.read_parquet(study.folder / "neurons.parquet")[["model", "layer", "neuron"]]
    universal = np.flatnonzero(excess["privileged_basis"])
    reduction = np.zeros(len(neurons))
    reduction[universal[: len(universal) // 4]] = 0.9
    explained = neurons.assign(variance_reduction_held_out=reduction, family=None)
    explained.to_parquet(folder / "explanations.parquet")
    roles = neurons.assign(role=None, role_width_free=None, entropy_rank=None, entropy=False)
    roles.to_parquet(folder / "roles.parquet")
    (folder / "attention.json").write_text(json.dumps({"attention_score_max": 1.5, "attention_neurons": 3}))
    names = {"explanations": "explanations.parquet", "roles": "roles.parquet", "attention": "attention.json"}
    return {key: folder / file for key, file in names.items()}


@pytest.fixture(scope="module")
def written(planted: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    return write(planted, tmp_path_factory.mktemp("report"))


def test_metrics_are_those_of_the_tables(planted: Study, written: tuple[dict, dict]) -> None:
    numbers = written[0]
    excess = pd.read_parquet(planted.folder / "excess.parquet")
    members = pd.read_parquet(planted.folder / "clusters.parquet")
    same = []
    for pair in load_pairs(planted.reference):
        same += [i // 48 == pair.row_top_index[i, 0] // 48 for i in range(96) if i != 5]
    main_line = {
        "neurons_per_model": 96,
        "models": 3,
        "tokens": Activations(planted.activations[0]).kept,
        "draws": 199,
        "excess_max": excess["excess_corr"].max(),
        "excess_mean": pytest.approx(excess["excess_corr"].mean()),
        "universal_at_half": int((excess["excess_corr"] > 0.5).sum()),
        "universal_calibrated": int((excess["adjusted_p_value"] <= 0.05).sum()),
        "same_layer_match_share": pytest.approx(np.mean(same)),
        "clusters": members["cluster"].nunique(),
        "clustered_neurons": len(members),
    }
    universal = int(excess["privileged_basis"].sum())
    roles = ("prediction", "suppression", "partition")
    assert numbers == main_line | {
        "explained_above_half": universal // 4 / universal,
        **{f"family_count_{family}": 0 for family in FAMILIES},
        **{f"{role}{rule}": 0 for role in roles for rule in ("", "_width_free")},
        "entropy_candidates": 0,
        "entropy_ranked": 0,
        "attention_score_max": 1.5,
        "attention_neurons": 3,
    }
    assert 0.3 < numbers["same_layer_match_share"] < 0.9


def test_explanations_and_roles_of_other_models_do_not_count(planted: Study, tmp_path: Path) -> None:
    """Before and after the reference's rows; the families and roles of others are other ones."""
    planted_inputs(tmp_path, planted)
    explained = pd.read_parquet(tmp_path / "explanations.parquet")
    kept = explained[explained["model"] == "a"]
    kept = kept.assign(family=["bos"] * 3 + ["syntax"] * (len(kept) - 3))
    others = explained.assign(family="unigram", variance_reduction_held_out=0.9)
    b, c = (others[others["model"] == name] for name in "bc")
    pd.concat([b, kept, c]).to_parquet(tmp_path / "several.parquet")

    roles = explained[["model", "layer", "neuron"]].assign(role=None, role_width_free=None, entropy=False)
    roles["entropy_rank"] = np.where(roles["model"] == "a", np.nan, 1.0)
    roles.loc[roles["model"] != "a", ["role", "role_width_free"]] = "prediction"
    roles.loc[roles["model"] != "a", "entropy"] = True
    columns = ["role", "role_width_free", "entropy", "entropy_rank"]
    for number, row in enumerate(
        (
            ("prediction", "partition", True, 1),
            ("prediction", "prediction", False, 2),
            ("suppression", "suppression", False, None),
            ("partition", "partition", False, None),
        )
    ):
        roles.loc[number, columns] = row
    roles.to_parquet(tmp_path / "several-roles.parquet")
    several = {"explanations": tmp_path / "several.parquet", "roles": tmp_path / "several-roles.parquet"}
    numbers, _ = write(planted, tmp_path, **several)
    universal = int(pd.read_parquet(planted.folder / "excess.parquet")["privileged_basis"].sum())
    expected = {
        "explained_above_half": universal // 4 / universal,
        **{f"family_count_{family}": 0 for family in FAMILIES},
        **{"family_count_bos": 3, "family_count_syntax": len(kept) - 3},
        **{"prediction": 2, "suppression": 1, "partition": 1},
        **{"prediction_width_free": 1, "suppression_width_free": 1, "partition_width_free": 2},
        **{"entropy_candidates": 1, "entropy_ranked": 2},
    }
    assert {name: numbers[name] for name in expected} == expected


def test_matches_where_all_partner_neurons_are_constant_do_not_count(planted: Study) -> None:
    pairs = load_pairs(planted.reference)
    excess = pd.read_parquet(planted.folder / "excess.parquet")
    members = pd.read_parquet(planted.folder / "clusters.parquet")
    pairs[1].row_top_index[:, 0] = 0  # all in layer 0
    every = report.metrics(excess, members, pairs, 3)["same_layer_match_share"]
    pairs[1].column_constant[:] = 1
    share = report.metrics(excess, members, pairs, 3)["same_layer_match_share"]
    assert share == report.metrics(excess, members, pairs[:1], 3)["same_layer_match_share"] != every
    pairs[0].column_constant[:] = 1
    assert report.metrics(excess, members, pairs, 3)["same_layer_match_share"] == 0


def test_snippets_show_the_strongest_token_and_what_stands_around_it(tmp_path: Path) -> None:
    pre = np.full((32, 4), -1, np.float32)
    pre[[16, 17, 20], 3] = [4, 8, 2]
    source = Activations(write_activations(tmp_path / "a", pre, context=16, layers=2))
    texts = {number: f"<{number}>" for number in range(40) if number != 18}
    assert report.snippet(source, 1, 1, 17, 3, texts) == [
        ["<16>", 0.5],  # the row begins here
        ["<17>", 1.0],
        ["[18]", 0.0],  # not below, where it is negative
        ["<19>", 0.0],
        ["<20>", 0.25],
    ]
    assert [text for text, _ in report.snippet(source, 1, 1, 31, 2, texts)] == ["<29>", "<30>", "<31>"]
    assert report.snippet(source, 0, 0, 5, 1, texts) == [["<4>", 0.0], ["<5>", 0.0], ["<6>", 0.0]]


def test_snippets_of_gated_neurons_are_products(tmp_path: Path) -> None:
    pre, up = np.full((2, 16, 2), 2, np.float32)
    up[:, 0] = np.arange(16) - 8
    source = Activations(write_activations(tmp_path / "a", pre, context=16, layers=1, up=up))
    found = [value for _, value in report.snippet(source, 0, 0, 14, 1, {})]
    assert found == pytest.approx([5 / 7, 6 / 7, 1], abs=1e-3)


def test_clusters_are_listed_by_span_then_stability(planted: Study, written: tuple[dict, dict]) -> None:
    [table] = [one for one in written[1]["tables"] if one["title"].startswith("Clusters")]
    members = pd.read_parquet(planted.folder / "clusters.parquet")
    examples = pd.read_parquet(planted.folder / "examples.parquet")
    source = open_all(planted.activations)["a"]
    assert table["columns"] == ["members", "correlation", "stability", "example 1", "example 2"]
    assert len(table["rows"]) == 4
    order = [(row[2], row[1]) for row in table["rows"]]
    assert order == sorted(order, reverse=True)
    for names, correlation, _, *cells in table["rows"]:
        first = int(names.split(", ")[0].removeprefix("a L0."))
        assert names == f"a L0.{first}, b L0.{first}, c L0.{first}"
        assert first in SHARED
        mine = members[(members["model"] == "a") & (members["layer"] == 0) & (members["neuron"] == first)]
        assert correlation == mine["mean_corr"].item()
        top = examples[(examples["model"] == "a") & (examples["layer"] == 0) & (examples["neuron"] == first)]
        for cell, token in zip(cells, top["token_index"], strict=False):
            strengths = [value for _, value in cell["snippet"]]
            place = min(token % source.n_ctx, 3)
            assert strengths[place] == max(strengths) == 1
            number = source.tokens[token]
            expected = {0: "<bos>", 1: "\n"}.get(number, f"w{number}" if number < 48 else "")
            assert cell["snippet"][place][0] == expected


def test_missing_examples_leave_cells_empty(planted: Study) -> None:
    members = pd.read_parquet(planted.folder / "clusters.parquet")
    examples = pd.read_parquet(planted.folder / "examples.parquet")
    settings = report.Settings(clusters=2, snippets=3)
    few = examples[examples["rank"] == 0]
    table = report.cluster_table(members, few, open_all(planted.activations), {}, settings)
    assert [[cell is None for cell in row[3:]] for row in table["rows"]] == [[False, True, True]] * 2
    assert report.cluster_table(members.iloc[:0], few, {}, {}, settings)["rows"] == []


def test_a_cluster_with_several_neurons_of_a_model_says_so(planted: Study) -> None:
    members = pd.read_parquet(planted.folder / "clusters.parquet")
    one = members[members["cluster"] == 0]
    double = pd.concat([one, one.iloc[:2].assign(neuron=40)])
    table = report.cluster_table(
        double, pd.read_parquet(planted.folder / "examples.parquet").iloc[:0], {}, {}, report.Settings()
    )
    assert table["rows"][0][0].endswith(" and 2 more")


def test_texts_are_those_of_the_tokens_that_occur(tmp_path: Path) -> None:
    found = report.token_texts(write_tokenizer(tmp_path), np.array([3, 0, 1, 3]))
    assert found == {0: "<bos>", 1: "\n", 3: "w3"}


def test_cards_name_the_step_that_computed_them(planted: Study, written: tuple[dict, dict]) -> None:
    numbers, page = written
    cards = {card["name"]: card for card in page["cards"]}
    assert {name: card["rule"] for name, card in cards.items()} == {
        "Universal, excess above 0.5": "neurons_baseline",
        "Privileged basis": "neurons_baseline",
        "Largest excess": "neurons_baseline",
        "Best match in the same layer": "neurons_report",
        "Clusters": "neurons_clusters",
        "Explained above one half": "neurons_explain",
        "Entropy neurons": "neurons_roles",
        "Largest attention score": "neurons_attention",
    }
    assert cards["Explained above one half"]["value"] == round(100 * numbers["explained_above_half"], 1)
    assert "neurons taken as universal: privileged basis" in cards["Explained above one half"]["note"]
    assert cards["Largest attention score"]["value"] == 1.5
    assert cards["Best match in the same layer"]["value"] == round(100 * numbers["same_layer_match_share"], 1)
    assert cards["Clusters"]["value"] == numbers["clusters"]
    assert "the rate is higher" in cards["Privileged basis"]["note"]
    assert set(cards["Largest excess"]["inputs"]) == {path.as_posix() for path in planted.reference}


def test_kinds_of_neurons_are_counted_as_in_the_metrics(written: tuple[dict, dict]) -> None:
    numbers, page = written
    (table,) = [table for table in page["tables"] if table["title"] == "Kinds of neurons"]
    assert [row[0] for row in table["rows"]].count("partition") == 2
    assert table["rows"][-1] == ["attention (de)activation", table["rows"][-1][1], 3, 3.1]  # of 96
    made = {**numbers, "family_count_unigram": 24, "partition_width_free": 12, "attention_neurons": None}
    rows = {(kind, by): rest for kind, by, *rest in report.kinds_table(made)["rows"]}
    assert rows["unigram", "explanation on held-out text"] == [24, 25.0]
    assert rows["partition", "weights, the paper's limits"] == [0, 0.0]
    assert rows["partition", "weights, limits without width"] == [12, 12.5]
    assert rows["attention (de)activation", "weights, test against random directions"] == [None, None]


def test_inputs_of_another_study_are_refused(planted: Study, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    other = write_activations(tmp_path / "b", rng.standard_normal((64, 96)).astype("float16"), name="b")
    a, b, c = planted.activations
    broken = tmp_path / "examples.parquet"
    broken.write_bytes(b"PAR1")
    neurons = pd.read_parquet(planted.folder / "neurons.parquet")
    fewer, wide = tmp_path / "fewer.parquet", tmp_path / "wide.parquet"
    neurons.iloc[:-1].assign(role=None, role_width_free=None, entropy=False, entropy_rank=None).assign(
        family=None, variance_reduction_held_out=0.0, rank=0, token_index=0, value=0.0
    ).to_parquet(fewer)
    members = pd.read_parquet(planted.folder / "clusters.parquet")
    members.assign(neuron=members["neuron"] + 48).to_parquet(wide)
    (tmp_path / "metrics.json").write_text(
        json.dumps({"attention_score_max": 1, "attention_neurons": 0, "x": 1})
    )
    one, two, three = planted.models
    figure = tmp_path / "figures" / "excess.svg"
    for changes, said in (
        ({"models": [one, two]}, "--models: found 2, expected 3, as many as --activations"),
        ({"models": [one, two, three, one]}, "--models: found 4, expected 3"),
        ({"models": [two, one, three]}, "--models: .*b/ledger.json is not the model of .*a/ledger.json"),
        (
            {"tokenizer": write_tokenizer(tmp_path / "t", "t")},
            "t/ledger.json: not the tokenizer that .*models/a",
        ),
        ({"explanations": fewer}, "fewer.parquet: lacks model c, layer 1, neuron 47"),
        ({"examples": fewer}, "fewer.parquet: lacks model c, layer 1, neuron 47"),
        ({"roles": fewer}, "fewer.parquet: lacks model c, layer 1, neuron 47"),
        ({"clusters": wide}, "wide.parquet: holds model a, layer 0"),
        ({"attention": tmp_path / "metrics.json"}, "metrics.json: not the metrics of neurons.attention"),
        ({"figures": [figure, tmp_path / "metrics.json"]}, "metrics.json: no figure of this chapter"),
        ({"figures": [figure.with_name("plan.svg")]}, "plan.svg: no figure of this chapter"),
        ({"galleries": [tmp_path / "other" / "galleries" / "all.svg"]}, "all.svg: not below"),
        ({"page": tmp_path / "metrics.json"}, "--page: found .*metrics.json, expected the HTML file"),
        ({"activations": [a, other, c]}, "--correlations: those of b were not made from"),
        ({"activations": [a, b]}, "--activations: none of c"),
        ({"correlations": planted.correlations}, "expected one"),
        ({"excess": planted.folder / "edges.parquet"}, "edges.parquet: lacks the column"),
        ({"examples": broken}, "examples.parquet: unreadable as a parquet table"),
        ({"explanations": broken}, "examples.parquet: unreadable as a parquet table"),
        ({"roles": broken}, "examples.parquet: unreadable as a parquet table"),
        (
            {"explanations": planted.folder / "examples.parquet"},
            "examples.parquet: lacks the column 'family'",
        ),
        ({"roles": planted.folder / "examples.parquet"}, "examples.parquet: lacks the column 'role'"),
    ):
        with pytest.raises(UserError, match=said):
            write(planted, tmp_path, **changes)


def test_a_tokenizer_without_its_file_is_named(planted: Study, tmp_path: Path) -> None:
    made_from = {"words": VOCABULARY, "name": "planted"}
    Ledger(tmp_path / "none" / "ledger.json", "tokenizer", made_from, contents_named=True).finish({})
    with pytest.raises(UserError, match=r"tokenizer.json: not in .*ledger.json"):
        write(planted, tmp_path, tokenizer=tmp_path / "none" / "ledger.json")


def test_hyperparameters_of_every_family(tmp_path: Path) -> None:
    shapes = ("gpt2_untied", "gpt_neox", "llama_tied")
    ledgers = {shape: keep(tmp_path / shape, tiny_model(shape)) for shape in shapes}
    table = report.model_table(ledgers)
    gpt2, neox, llama = (dict(zip(table["columns"], row, strict=True)) for row in table["rows"])
    assert gpt2 == {
        "model": "gpt2_untied",
        "family": "gpt2",
        "layers": 3,
        "heads": 4,
        "d_model": 16,
        "d_mlp": 24,
        "neurons": 72,
        "vocabulary": 300,
        "n_ctx": 16,
        "activation": "gelu_new",
        "positions": "learned",
        "tied embeddings": "no",
        "precision": "float32",
    }
    assert neox["positions"] == "rotary, 50 % of each head"
    assert (neox["heads"], neox["d_mlp"], neox["activation"]) == (2, 24, "gelu")
    assert (llama["positions"], llama["tied embeddings"], llama["activation"]) == ("rotary", "yes", "silu")


def test_four_times_the_width_where_gpt2_says_nothing(tmp_path: Path) -> None:
    table = report.model_table({"a": keep(tmp_path / "a", tiny_model(n_inner=None))})
    assert dict(zip(table["columns"], table["rows"][0], strict=True))["d_mlp"] == 64
