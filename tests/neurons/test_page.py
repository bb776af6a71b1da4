"""The neuron page: what it holds, its limit, its policy, and hostile names and tokens."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html.parser
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer, models

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.stores import Ledger
from steps.core.text import visible
from steps.neurons import dump, page
from steps.neurons.activations.bins import Histograms
from steps.neurons.activations.store import Activations
from tests.neurons.conftest import Study
from tests.neurons.planted import CONTEXT, write_activations, write_model, write_rows, write_tokenizer

FOLDER = Path(__file__).resolve().parents[2] / "steps"
HOSTILE = "</script><script>alert('x')</script>\"'><img src=x onerror=alert(1)>\u2028\u202e"


class Parsed(html.parser.HTMLParser):
    """Elements and the contents of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] += data


def tokenizer(folder: Path) -> Path:
    """Fifty tokens; number 7 is hostile."""
    words = {f"w{number}": number for number in range(50) if number != 7} | {HOSTILE: 7}
    ledger = Ledger(folder / "ledger.json", "tokenizer", {"words": 50})
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    ledger.record("tokenizer.json")
    ledger.finish({})
    return folder / "ledger.json"


def build(planted: Study, folder: Path, study: str = "default", **changes: Any) -> str:
    """The page of the planted study; ``changes`` are settings, or tables as ``logits`` and ``families``.

    ``histograms`` and ``words`` replace the histograms and the tokenizer.
    """
    histograms = changes.pop("histograms", planted.folder / "histograms" / "ledger.json")
    words = changes.pop("words", None) or tokenizer(folder / "tokenizer")
    tables = {name: changes.pop(name, None) for name in ("logits", "families")}
    files: dict[str, list[Path]] = {}
    for name, table in tables.items():
        files[name] = [] if table is None else [folder / f"{name}.parquet"]
        if table is not None:
            table.to_parquet(files[name][0])
    page.main(
        study,
        words,
        planted.activations,
        planted.folder / "neurons.parquet",
        planted.folder / "examples.parquet",
        planted.folder / "edges.parquet",
        histograms,
        files["logits"],
        files["families"],
        page.Settings(**changes),
        Output(folder / "neurons.html"),
    )
    return (folder / "neurons.html").read_text("utf-8")


def held(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Parsed(text).scripts[0])
    return loaded


def test_the_page_holds_what_the_tables_say(planted: Study, tmp_path: Path) -> None:
    settings = {"universal_set": "top_share", "top_share": 0.2, "examples": 3, "context": 4}
    data = held(build(planted, tmp_path, **settings))
    table = pd.read_parquet(planted.folder / "neurons.parquet").set_index(["model", "layer", "neuron"])
    assert (len(data["neurons"]), data["everything"]) == (288, 288)
    assert data["set"] == "19 neurons taken as universal: the 20 % of largest excess"
    assert [flag for *_, flag in data["neurons"]] == [1] * 19 + [0] * 269
    places = {name: at for at, (name, _, _) in enumerate(data["statistics"])}
    for at in (0, 18, 19, 200, 287):
        model, layer, neuron, _ = data["neurons"][at]
        row = table.loc[("abc"[model], layer, neuron)]
        for name in ("mean", "kurt", "activation_frequency"):
            assert data["values"][places[name]][at] == pytest.approx(row[name], rel=1e-3)
        assert data["percentiles"][places["mean"]][at] == round(row["percentile[mean]"])
        assert sum(data["histograms"][at][1]) == 6400
        assert data["by_source"][1][at] is None  # there is no text of the second source
        assert data["by_source"][0][at] == pytest.approx(row["activation_frequency[code]"], rel=1e-3)
    excess = data["values"][places["excess_corr"]]
    assert excess[:19] == sorted(excess[:19], reverse=True)
    assert excess[96:] == [None] * 192


def test_bars_end_at_zero(planted: Study, tmp_path: Path) -> None:
    data = held(build(planted, tmp_path))
    first, counts = data["histograms"][0]
    start = data["edge"] + (first - 1) * data["bar"]
    ends = start + data["bar"] * np.arange(1, len(counts) + 1)
    zero = int(np.argmin(np.abs(ends)))
    assert ends[zero] == pytest.approx(0, abs=1e-9)
    whole = Histograms(planted.folder / "histograms/ledger.json").counts("abc"[data["neurons"][0][0]])
    number = data["neurons"][0][1] * 48 + data["neurons"][0][2]
    assert sum(counts[zero + 1 :]) == whole[:, number, 103:].sum()


@pytest.mark.parametrize("gated", [False, True])
def test_strengths_are_post_activations_over_the_largest_shown(tmp_path: Path, gated: bool) -> None:
    pre, up = np.random.default_rng(1).standard_normal((2, 8 * 16, 6)).astype(np.float16)
    kinds = {"activation": "relu", "up": up if gated else None}
    source = Activations(write_activations(tmp_path / "a", pre, block_tokens=48, **kinds))
    number, token = np.array([0, 4, 4, 5]), np.array([20, 0, 50, 127])
    found = page.strengths(source, number, token, 3)
    for n, t, levels in zip(number, token, found, strict=True):
        places = np.arange(t - 3, t + 4)
        inside = places // 16 == t // 16
        post = np.maximum(pre[places[inside], n].astype(float), 0)
        if gated:
            post *= up[places[inside], n]
        np.testing.assert_array_equal(levels[inside], np.rint(9 * (post / max(post.max(), 1e-12)).clip(0, 1)))
        assert (levels[~inside] == -1).all()


def test_a_model_runs_the_rows_of_the_examples_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import GPT2Model

    model, rows = write_model(tmp_path / "a"), write_rows(tmp_path / "rows")
    words = write_tokenizer(tmp_path / "words")
    sources = {}
    for kind in ("dump", "model"):
        settings = dump.Settings(source=kind, dtype="float32", block_tokens=8 * CONTEXT)
        dump.main(model, words, rows, "a", settings, Output(tmp_path / kind / "ledger.json"))
        sources[kind] = Activations(tmp_path / kind / "ledger.json")
    batches: list[tuple[int, ...]] = []
    forward = GPT2Model.forward

    def counting(self: GPT2Model, rows: Any, **others: Any) -> Any:
        batches.append(tuple(rows.shape))
        return forward(self, rows, **others)

    monkeypatch.setattr(GPT2Model, "forward", counting)
    number, token = np.array([3, 70, 9, 100, 5]), np.array([30, 3 * CONTEXT - 1, 31, 220, 0])
    stored, computed = (page.strengths(sources[kind], number, token, 3) for kind in ("dump", "model"))
    np.testing.assert_array_equal(computed, stored)
    assert batches == [(1, CONTEXT)] * 3  # rows 0, 2 and 18, each once for both layers


@pytest.mark.parametrize("name", ["neurons", "examples", "edges"])
def test_a_damaged_table_is_refused_in_one_line(planted: Study, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    for file in ("neurons", "examples", "edges"):
        shutil.copy(planted.folder / f"{file}.parquet", folder)
    damaged = folder / f"{name}.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    with pytest.raises(UserError, match=rf"{name}.parquet: unreadable as a parquet table"):
        build(dataclasses.replace(planted, folder=folder), tmp_path)


def test_examples_show_their_tokens_with_the_strongest_in_place(planted: Study, tmp_path: Path) -> None:
    data = held(build(planted, tmp_path, examples=2, context=5))
    examples = pd.read_parquet(planted.folder / "examples.parquet")
    source = Activations(planted.activations[0])
    model, layer, neuron, _ = data["neurons"][0]
    mine = examples[(examples["model"] == "abc"[model]) & (examples["layer"] == layer)]
    mine = mine[mine["neuron"] == neuron].sort_values("rank").head(2)
    assert len(data["examples"][0]) == 2
    for (value, strongest, ids, digits), row in zip(data["examples"][0], mine.itertuples(), strict=True):
        assert value == pytest.approx(row.value, rel=1e-3)
        assert ids[strongest] == source.tokens[row.token_index]
        assert digits[strongest] == "9"
        first = row.token_index - strongest
        assert ids == source.tokens[first : first + len(ids)].tolist()
        assert first // 16 == (first + len(ids) - 1) // 16 == row.row


@pytest.mark.parametrize("context", [10**8, 10**21])
def test_no_more_is_shown_than_a_row_holds(planted: Study, tmp_path: Path, context: int) -> None:
    (tmp_path / "all").mkdir()
    row = Activations(planted.activations[0]).n_ctx
    whole = held(build(planted, tmp_path / "all", context=row, examples=2, neurons=20))
    assert {len(ids) for each in whole["examples"] for *_, ids, _ in each} == {row}
    assert held(build(planted, tmp_path, context=context, examples=2, neurons=20)) == whole


def test_partners_are_the_best_matches_and_edges_go_both_ways(planted: Study, tmp_path: Path) -> None:
    data = held(build(planted, tmp_path))
    place = {tuple(key): at for at, (*key, _) in enumerate(data["neurons"])}
    excess = pd.read_parquet(planted.folder / "excess.parquet")
    row = excess.iloc[12]
    partners = {(m, layer, n): corr for m, layer, n, corr, _ in data["partners"][place[0, 0, 12]]}
    assert partners[1, row["layer[b]"], row["neuron[b]"]] == pytest.approx(row["max_corr[b]"], rel=1e-3)
    edges = pd.read_parquet(planted.folder / "edges.parquet")
    assert len(edges) > 20
    for edge in edges.itertuples():
        a = ("abc".index(edge.model_a), edge.layer_a, edge.neuron_a)
        b = ("abc".index(edge.model_b), edge.layer_b, edge.neuron_b)
        for one, other in ((a, b), (b, a)):
            assert [*other, 1] in [[*key, mutual] for *key, _, mutual in data["partners"][place[one]]]


def test_the_limit_keeps_the_best_and_says_how_many_there_are(planted: Study, tmp_path: Path) -> None:
    data = held(build(planted, tmp_path, neurons=10, universal_set="top_share", top_share=0.05))
    assert (len(data["neurons"]), data["everything"]) == (10, 288)
    assert [flag for *_, flag in data["neurons"]] == [1] * 5 + [0] * 5
    best = pd.read_parquet(planted.folder / "excess.parquet").nlargest(10, "excess_corr")
    assert [n for _, _, n, _ in data["neurons"]] == best["neuron"].tolist()
    assert len(data["examples"]) == len(data["partners"]) == len(data["histograms"]) == 10


def test_no_universal_neuron_and_no_optional_table(planted: Study, tmp_path: Path) -> None:
    data = held(build(planted, tmp_path, universal_set="half"))
    assert data["set"] == "no neurons taken as universal: excess correlation above 0.5"
    assert data["logits"] is None
    assert data["families"] is None
    assert "l2_penalty" not in [name for name, _, _ in data["statistics"]]


def test_logit_effects_and_families(planted: Study, tmp_path: Path) -> None:
    key = {"model": "a", "layer": 0, "neuron": 12}
    others = pd.read_parquet(planted.folder / "neurons.parquet")[list(key)]
    others = others[~(others[list(key)] == pd.Series(key)).all(axis=1)]
    logits = pd.DataFrame(
        [
            {**key, "side": side, "rank": rank, "token_id": 10 * rank + len(side), "value": 1.5 - rank}
            for rank in (1, 0)
            for side in ("promoted", "suppressed")
        ]
    )
    logits = pd.concat([logits, others.assign(side="promoted", rank=0, token_id=1, value=0.5)])
    families = pd.DataFrame([{**key, "family": "unigram", "evidence": HOSTILE}])
    families = pd.concat([families, others.assign(family=None, evidence=None)])
    data = held(build(planted, tmp_path, logits=logits, families=families))
    at = [tuple(place[:3]) for place in data["neurons"]].index((0, 0, 12))
    assert data["logits"][at] == [[[8, 1.5], [18, 0.5]], [[10, 1.5], [20, 0.5]]]
    assert data["families"][at] == ["unigram", visible(HOSTILE)]
    assert data["families"].count(None) == 287
    assert {"8", "18", "10", "20"} <= set(data["tokens"])

    told = {
        "feature": "contains_.",
        "which": "current",
        "difference": 1.0,
        "role": "other",
        "role_share": 1.0,
    }
    numbers = ("variance_reduction", "variance_reduction_held_out", "p_adjusted")
    told |= dict.fromkeys((*numbers, "position_mi", "position_p_adjusted"), 0.25)
    whole = families.assign(**told, family="syntax")
    data = held(build(planted, tmp_path, logits=logits, families=whole))
    assert data["families"][at][0] == "syntax"
    assert data["families"][at][1].startswith(
        "Best feature: “contains_.”. Variance reduction 0.25 on held-out"
    )


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({}, "Best feature: “contains_.”. 90 % of its response to the feature falls on later pieces", "Even"),
        ({"role": "other"}, "falls on tokens that are no part of a word.", "others"),
        (
            {"which": "previous", "family": "previous_token"},
            "“contains_.”, of the previous token.",
            "falls on",
        ),
        ({"which": "position", "family": "position"}, "Best feature: the position in the row.", "falls on"),
        ({"family": "none"}, "Even its best feature explains too little of it on held-out tokens", "falls"),
        ({"family": "none", "difference": -1.0}, "Its best feature silences it: “contains_.”.", "too little"),
        ({"family": "none", "which": "position", "difference": -1.0}, "explains too little", "silences"),
        ({"family": "none", "which": "none"}, "It never varies.", "feature"),
    ],
)
def test_what_explains_a_neuron_is_said_in_words(changes: dict[str, Any], said: str, unsaid: str) -> None:
    key = {"model": "a", "layer": 0, "neuron": 12}
    row = {
        **{"which": "current", "feature": "contains_.", "family": "unigram", "evidence": "short"},
        **{"difference": 1.0, "role": "later piece", "role_share": 0.9},
        **{"variance_reduction": 0.31, "variance_reduction_held_out": 0.25, "p_adjusted": 2e-9},
        **{"position_mi": 0.0123, "position_p_adjusted": 0.4},
        **changes,
    }
    other = {**row, "neuron": 13, "role": None, "role_share": np.nan}
    families = pd.DataFrame([{**key, **row}, {**key, **other}])
    (found,) = page.family_lists(families, pd.DataFrame([key]))
    assert found is not None
    assert found[0] == row["family"]
    assert said in found[1]
    assert unsaid not in found[1]
    if row["which"] != "none":
        assert "Variance reduction 0.25 on held-out tokens (adjusted p 2e-09), 0.31 on those" in found[1]
        assert "0.012 nats about the position (adjusted p 0.4)" in found[1]


def test_names_of_statistics_need_no_neighbour() -> None:
    assert not [name for name in page.STATISTICS.values() if name.startswith(("the same", "its "))]
    assert len(set(page.STATISTICS.values())) == len(page.STATISTICS)


def test_hostile_texts_stay_texts_and_only_our_script_may_run(planted: Study, tmp_path: Path) -> None:
    families = pd.read_parquet(planted.folder / "neurons.parquet")[["model", "layer", "neuron"]]
    families = families.assign(family=HOSTILE, evidence=HOSTILE)
    text = build(planted, tmp_path, study=HOSTILE, families=families)
    found = Parsed(text)
    scripts = [attributes for tag, attributes in found.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    assert "</script><script>" in json.loads(found.scripts[0])["tokens"]["7"]
    assert not re.search(r"[<>&\u2028\u2029]", found.scripts[0])
    (policy,) = [a["content"] for tag, a in found.elements if tag == "meta" and "http-equiv" in a]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    for kind, content in (("script", found.scripts[1]), ("style", style[1])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none';")
    assert "unsafe" not in str(policy)
    for tag, attributes in found.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert str(attributes.get("href", "data:")).startswith("data:")
    assert text.count("</script") == 2
    assert "<img" not in text


def test_the_script_writes_texts_as_texts() -> None:
    script = (FOLDER / "neurons/page.js").read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert word not in script
    # the only address is the namespace of SVG, which is fetched by nobody
    assert re.findall(r"https?://[^\"']+", script) == ["http://www.w3.org/2000/svg"]


def test_twice_the_same_bytes(planted: Study, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    assert build(planted, tmp_path) == build(planted, tmp_path / "again")


SIDES = {"logits": {"side": "promoted", "rank": 0, "token_id": 1, "value": 0.5}}
SIDES["families"] = {"family": "unigram", "evidence": "e"}


@pytest.mark.parametrize("name", ["neurons", "examples", "edges", "logits", "families"])
@pytest.mark.parametrize("change", ["column", "model", "neuron"])
def test_a_table_of_another_kind_or_study_is_refused(
    planted: Study, tmp_path: Path, name: str, change: str
) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    for file in ("neurons", "examples", "edges"):
        shutil.copy(planted.folder / f"{file}.parquet", folder)
    keys = pd.read_parquet(planted.folder / "neurons.parquet")[["model", "layer", "neuron"]]
    table = keys.assign(**SIDES[name]) if name in SIDES else pd.read_parquet(folder / f"{name}.parquet")
    ends = "_b" if name == "edges" else ""
    if change == "column":
        needed = {"edges": "corr", "neurons": "excess_corr", "families": "evidence"}.get(name, "value")
        table, said = table.drop(columns=needed), f"lacks the column '{needed}'"
    elif change == "model":
        table, said = table.replace({f"model{ends}": {"c": "z"}}), "holds model z, layer 0"
    elif name == "edges":
        table, said = table.assign(neuron_b=table["neuron_b"] + 48), "holds model b, layer 0"
    else:
        table = table[~((table["model"] == "b") & (table["layer"] == 1) & (table["neuron"] == 4))]
        said = "lacks model b, layer 1, neuron 4, expected exactly the 288 rows of the activations"
    given = {name: table} if name in SIDES else {}
    table.to_parquet(folder / f"{name}.parquet")
    study = dataclasses.replace(planted, folder=folder)
    with pytest.raises(UserError, match=rf"{name}.parquet: {said}"):
        build(study, tmp_path, histograms=planted.folder / "histograms" / "ledger.json", **given)


def test_activations_histograms_and_tokens_of_another_study_are_refused(
    planted: Study, tmp_path: Path
) -> None:
    a, b, c = planted.activations
    with pytest.raises(UserError, match=r"neurons.parquet: holds model c"):
        build(dataclasses.replace(planted, activations=[a, b]), tmp_path)
    with pytest.raises(UserError, match="both of model 'a'; give every model once"):
        build(dataclasses.replace(planted, activations=[a, b, c, a]), tmp_path)
    other = tmp_path / "h" / "ledger.json"
    origins = [Activations(path).store.fingerprint for path in (a, b)]
    Ledger(other, "histograms", {"activations": [*origins, "x"]}).finish({"sources": [], "tokens": []})
    with pytest.raises(UserError, match=r"h/ledger.json: not made from .*c/ledger.json as it is now"):
        build(planted, tmp_path, histograms=other)
    words = write_tokenizer(tmp_path / "words")  # of 48; tokens go up to 49
    with pytest.raises(UserError, match=r"words/ledger.json: lacks token 49 of .*a/ledger.json"):
        build(planted, tmp_path, words=words)
    examples = pd.read_parquet(planted.folder / "examples.parquet")
    folder = tmp_path / "study"
    folder.mkdir()
    shutil.copy(planted.folder / "neurons.parquet", folder)
    examples.assign(token_index=examples["token_index"] + 3200).to_parquet(folder / "examples.parquet")
    with pytest.raises(UserError, match=r"examples.parquet: names token \d+, expected one of the 6400"):
        build(dataclasses.replace(planted, folder=folder), tmp_path)


def test_the_tokenizer_is_that_of_the_models(tmp_path: Path) -> None:
    model, rows = write_model(tmp_path / "a"), write_rows(tmp_path / "rows")
    own, other = (write_tokenizer(tmp_path / name, name) for name in ("planted", "other"))
    dump.main(model, own, rows, "a", dump.Settings(), Output(tmp_path / "dump" / "ledger.json"))
    sources = {"a": Activations(tmp_path / "dump" / "ledger.json")}
    page.require_tokenizer(own, sources)
    with pytest.raises(
        UserError, match=r"other/ledger.json: not the tokenizer that .*/a/ledger.json was made"
    ):
        page.require_tokenizer(other, sources)
