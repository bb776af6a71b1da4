"""Explanations: identities on random data, and planted neurons of every family among decoys and noise."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chi2_contingency

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.settings import validate
from steps.core.stores import Ledger, write_array
from steps.core.tensors import read_tensors
from steps.neurons import explain, merge_explanations, moments, text
from steps.neurons.activations.bins import bin_numbers, count_bins
from steps.neurons.explanations import features, labels
from steps.neurons.explanations import text as explained_text
from steps.neurons.explanations.families import letter
from steps.neurons.explanations.features import WORD_LISTS, Features
from steps.neurons.explanations.first_pass import position_p
from tests.neurons.planted import (
    explanation_parts,
    write_activations,
    write_explanations,
    write_tokenizer,
)

TEXTS = [
    *["", " to", "to", " of", "of", " b", "b", " bed", " box", ",", " (", ")", " 7", " 19", " wal", "king"],
    *[" red", " blue", " sun", "moon", ".", ";", " x", "y", " cat", " dog", "=", "+", " tree", " The", "\n"],
]
TO, OF, B, LATER_B, COMMA, WALK, KING = (1, 2), (3, 4), (5, 6), (7, 8), 9, 14, 15
CONTEXT, ROWS, WIDTH = 16, 320, 24
PLANTED = ["unigram", "alphabet", "previous_token", "position", "syntax", "context", "bos"]
SILENCED = len(PLANTED)
"""A decoy: a neuron that one word silences."""
ALWAYS = SILENCED + 1
"""Another: a neuron whose mean follows the position, but that fires everywhere."""
DECOYS = ALWAYS + 1


def draw_tokens(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of tokens and their sources; ``to`` is four times as common in source 1 (a decoy)."""
    sources = rng.integers(0, 3, ROWS)
    chance = np.ones((3, len(TEXTS)))
    chance[:, 0] = 0
    chance[1, list(TO)] = 4
    chance /= chance.sum(1, keepdims=True)
    tokens = np.stack([rng.choice(len(TEXTS), CONTEXT, p=chance[source]) for source in sources])
    walks = rng.random(tokens.shape) < 0.08  # "walking"; "wal" and "king" occur by themselves too
    walks[:, [0, -1]] = False
    tokens[walks] = WALK
    tokens[np.roll(walks, 1, axis=1)] = KING
    tokens[:, 0] = 0
    return tokens, sources


def plant(rng: np.random.Generator, tokens: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Pre-activations ``[tokens, 2 * WIDTH]``: planted neurons, the silenced one, and noise."""
    walking = np.zeros(tokens.shape, bool)
    pairs = (tokens[:, :-1] == WALK) & (tokens[:, 1:] == KING)
    walking[:, :-1] |= pairs
    walking[:, 1:] |= pairs
    before = np.full_like(tokens, -1)
    before[:, 1:] = tokens[:, :-1]
    wave = np.sin(2 * np.pi * np.arange(CONTEXT) / CONTEXT)
    signals = [
        3 * np.isin(tokens, TO),
        3 * np.isin(tokens, B) + 1.0 * np.isin(tokens, LATER_B),
        3 * (before == COMMA),
        np.broadcast_to(1.5 * wave, tokens.shape),
        2.5 * walking,
        np.broadcast_to(2.0 * (sources == 1)[:, None], tokens.shape),
        5 * (tokens == 0),
        -3 * np.isin(tokens, OF),
        np.broadcast_to(9 + 1.5 * wave, tokens.shape),
    ]
    noise = 0.7 * rng.standard_normal((*tokens.shape, 2 * WIDTH))
    noise[..., DECOYS:] += rng.standard_normal((ROWS, 1, 2 * WIDTH - DECOYS))  # alike in a row
    for number, signal in enumerate(signals):
        noise[..., number] += signal
    return noise.reshape(-1, 2 * WIDTH).astype(np.float16)


@dataclasses.dataclass
class Inputs:
    """Files of a planted study."""

    folder: Path
    activations: Path
    moments: Path
    rows: Path
    tokenizer: Path

    def explain(
        self, model: Path | None = None, **settings: object
    ) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray]]:
        chosen = explained_text.Settings.model_validate({"topic_sets": 0, "code_sources": [], **settings})
        models = [model or self.activations]  # opened only where topics are learned
        inputs = [self.activations], [self.moments], models, self.rows, self.tokenizer
        out = write_explanations(self.folder, *inputs, chosen)
        return pd.read_parquet(out[0]), pd.read_parquet(out[1]), read_tensors(out[2])[0]


def write_inputs(
    folder: Path, tokens: np.ndarray, sources: np.ndarray, pre: np.ndarray, **more: object
) -> Inputs:
    from tokenizers import AddedToken, Tokenizer, models

    vocabulary = Tokenizer(
        models.WordLevel({text or "<bos>": n for n, text in enumerate(TEXTS)}, unk_token=".")
    )
    vocabulary.add_special_tokens([AddedToken("<bos>", special=True)])
    words = Ledger(folder / "tokenizer" / "ledger.json", "tokenizer", {})
    vocabulary.save(str(folder / "tokenizer" / "tokenizer.json"))
    words.record("tokenizer.json")
    words.finish({})
    rows = Ledger(folder / "rows" / "ledger.json", "rows", {})
    write_array(rows, "held_out", tokens.astype(np.int32), ("row", "position"))
    write_array(rows, "held_out_source", sources.astype(np.uint16), ("row",))
    facts = {"n_ctx": CONTEXT, "bos": 0, "vocabulary": len(TEXTS), "sources": ["code", "names", "prose"]}
    rows.finish({**facts, "tokenizer": words.fingerprint})
    keep = tokens.reshape(-1) != 0  # explanations count all tokens all the same
    ledger = write_activations(
        folder / "a",
        pre,
        keep=keep,
        block_tokens=40 * CONTEXT,
        context=CONTEXT,
        tokens=tokens.reshape(-1),
        **more,
    )
    moments.main(ledger, 1, 0, moments.Settings(), Output(folder / "moments"))
    return Inputs(
        folder, ledger, folder / "moments", folder / "rows/ledger.json", folder / "tokenizer/ledger.json"
    )


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Inputs, pd.DataFrame]]:
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        tokens, sources = draw_tokens(rng)
        pre = plant(rng, tokens, sources)
        inputs = write_inputs(tmp_path_factory.mktemp(f"seed-{seed}"), tokens, sources, pre)
        found.append((inputs, inputs.explain(minimum_reduction=0.2)[0]))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_planted_families_are_found(studies: list[tuple[Inputs, pd.DataFrame]], seed: int) -> None:
    table = studies[seed][1]
    assert table["family"][: len(PLANTED)].tolist() == PLANTED
    expected = ["unigram 'to'", "unigram 'b'", "unigram ','", "position", None, "source names", "bos"]
    for found, name in zip(table["feature"], expected, strict=False):
        assert name is None or found == name
    assert "progressive" in table["feature"][4]
    assert (table["variance_reduction_held_out"][: len(PLANTED)] > 0.2).all()


def test_a_neuron_that_a_word_silences_is_in_no_family(studies: list[tuple[Inputs, pd.DataFrame]]) -> None:
    for _, table in studies:
        row = table.loc[SILENCED]
        assert row["feature"] == "unigram 'of'"
        assert row["difference"] < -2
        assert row["p_adjusted"] < 1e-6
        assert row["family"] == "none"
        assert "silenced by it" in row["evidence"]


def test_a_neuron_that_always_fires_knows_no_position(studies: list[tuple[Inputs, pd.DataFrame]]) -> None:
    for _, table in studies:
        always, position = table.loc[ALWAYS], table.loc[PLANTED.index("position")]
        assert always["which"] == position["which"] == "position"
        assert always["variance_reduction_held_out"] > 0.5
        assert always["p_adjusted"] < 1e-6
        assert always["position_mi"] == 0
        assert always["position_p"] == always["position_p_adjusted"] == 1
        assert always["family"] == "none"
        assert position["position_p_adjusted"] < 1e-6
        bos = table.loc[PLANTED.index("bos")]  # knows one position only, that of BOS
        assert bos["position_mi"] > 0.02
        assert bos["position_p_adjusted"] > 0.05


@pytest.mark.parametrize("rate", [0.5, 0.03, 0.005, 0.001])
def test_the_test_of_position_keeps_its_level(rate: float) -> None:
    """Firing drawn at one rate, and so many firings put anywhere; also where it is rare."""
    rng = np.random.default_rng(0)
    rows, positions, neurons = 2000, 15, 10_000
    drawn = rng.binomial(rows, rate, (positions, neurons))
    total = round(rate * rows * positions)
    permuted = rng.multivariate_hypergeometric([rows] * positions, total, size=neurons).T
    for fired in (drawn, permuted):
        p = position_p(fired, rows)
        for level in (0.5, 0.1, 0.01):
            assert (p <= level).mean() == pytest.approx(level, rel=0.35)


def test_where_firing_says_nothing_of_the_position_its_p_is_one() -> None:
    """Always, never, the same everywhere; and a planted one is what scipy says."""
    fired = np.array([[10, 0, 4, 9], [10, 0, 4, 2], [10, 0, 4, 1]])
    p = position_p(fired, 10)
    assert p[:3].tolist() == [1, 1, 1]
    assert p[3] == pytest.approx(chi2_contingency([fired[:, 3], 10 - fired[:, 3]]).pvalue, rel=1e-12)
    for positions in (0, 1):
        assert position_p(fired[:positions], 10).tolist() == [1, 1, 1, 1]


def test_noise_is_explained_at_most_at_the_false_discovery_rate(
    studies: list[tuple[Inputs, pd.DataFrame]],
) -> None:
    """Noise that is alike within rows, which a test that took tokens for independent would fail."""
    found = pd.concat([table.iloc[DECOYS:] for _, table in studies])
    discoveries = sum((table["p_adjusted"] <= 0.05).sum() for _, table in studies)
    false = (found["p_adjusted"] <= 0.05).sum()
    assert discoveries >= 20 * DECOYS
    assert false / discoveries <= 0.05
    assert 0.02 < (found["p"] <= 0.05).mean() < 0.08
    assert (found["family"] == "none").all()


def test_explanations_agree_with_numpy_on_the_stored_values(
    studies: list[tuple[Inputs, pd.DataFrame]],
) -> None:
    table = studies[0][1]
    rng = np.random.default_rng(0)
    tokens, sources = draw_tokens(rng)
    v = plant(rng, tokens, sources).astype(float)
    inside = np.arange(ROWS) % 40 < 20  # half of every block of 40 rows
    y = np.isin(tokens, TO).reshape(-1)
    for column, rows in (("variance_reduction", inside), ("variance_reduction_held_out", ~inside)):
        part = np.repeat(rows, CONTEXT)
        labelled, value = y[part], v[part, 0]
        beta = labelled.mean()
        within = (1 - beta) * value[~labelled].var(ddof=1) + beta * value[labelled].var(ddof=1)
        assert table[column][0] == pytest.approx(1 - within / value.var(ddof=1), abs=1e-6)
    part = np.repeat(inside, CONTEXT)
    assert table["difference"][0] == pytest.approx(v[part & y, 0].mean() - v[part & ~y, 0].mean(), abs=1e-6)
    fires = (v.reshape(ROWS, CONTEXT, -1) > 0).mean(0)
    p = fires.mean(0)
    terms = [
        sum(f * math.log(f / q) for f, q in ((s, p[3]), (1 - s, 1 - p[3])) if f > 0) for s in fires[:, 3]
    ]
    assert table["position_mi"][3] == pytest.approx(np.mean(terms), abs=1e-9)
    curve, spread = v.reshape(ROWS, CONTEXT, -1).mean(0), v.reshape(ROWS, CONTEXT, -1).std(0)
    np.testing.assert_allclose(table["position_std"], curve.std(0), atol=1e-5)
    np.testing.assert_allclose(table["within_position_std"], spread.mean(0), atol=1e-5)
    kurt = ((v - v.mean(0)) ** 4).mean(0) / v.var(0) ** 2
    assert (table["position_candidate"] == (kurt < 2)).all()


def test_the_letter_neuron_responds_to_tokens_that_begin_with_it(
    studies: list[tuple[Inputs, pd.DataFrame]],
) -> None:
    for _, table in studies:
        assert 0.3 < table["letter_response"][1] < 1.3  # 3 of b itself are among the rest
        letters = [letter(name, group) for name, group in zip(table["feature"], table["group"], strict=True)]
        about = (table["which"] == "current") & np.array([item is not None for item in letters])
        assert not (table["letter_response"].notna() & ~about).any()


def test_profiles_and_top_tokens(studies: list[tuple[Inputs, pd.DataFrame]]) -> None:
    inputs = studies[0][0]
    rng = np.random.default_rng(0)
    tokens, sources = draw_tokens(rng)
    v = plant(rng, tokens, sources).astype(float)
    table, top, profiles = inputs.explain(top_tokens=3, neurons_at_once=13)
    pd.testing.assert_frame_equal(table, studies[0][1], rtol=1e-6)
    np.testing.assert_allclose(profiles["a.position_mean"], v.reshape(ROWS, CONTEXT, -1).mean(0).T, atol=1e-5)
    assert profiles["a.bins_on"][0].sum() == np.isin(tokens, TO).sum()
    assert profiles["a.bins_on"][3].sum() == 0
    assert len(top) == 2 * WIDTH * 2 * 3
    flat = tokens.reshape(-1)
    for number in (0, 20, 30, 47):
        rows = top[(top["layer"] == number // WIDTH) & (top["neuron"] == number % WIDTH)]
        for by, function in (("mean", np.mean), ("max", np.max)):
            values = {t: function(v[flat == t, number]) for t in np.unique(flat) if (flat == t).sum() >= 5}
            order = sorted(values, key=lambda t: -values[t])[:3]
            mine = rows[rows["by"] == by]
            assert mine["token_id"].tolist() == order
            np.testing.assert_allclose(mine["value"], [values[t] for t in order], atol=1e-4)
            assert mine["text"].tolist() == [TEXTS[t] for t in order]
            assert mine["count"].tolist() == [(flat == t).sum() for t in order]


def test_bins_hold_the_values_of_tokens_with_the_feature(
    studies: list[tuple[Inputs, pd.DataFrame]],
) -> None:
    """With it, and, as what is left of all tokens, without it."""
    inputs = studies[0][0]
    rng = np.random.default_rng(0)
    tokens, sources = draw_tokens(rng)
    v = plant(rng, tokens, sources)
    before = np.full_like(tokens, -1)
    before[:, 1:] = tokens[:, :-1]
    table, _, profiles = inputs.explain()
    every = count_bins(bin_numbers(v))
    # A bin holds its upper edge, numpy's the lower one: so the other way round.
    edges = -np.concatenate([[-np.inf], (25 * np.arange(256) - 2550) / 255, [np.inf]])[::-1]
    holds = {0: np.isin(tokens, TO), 1: np.isin(tokens, B), 2: before == COMMA, 6: tokens == 0}
    holds[SILENCED] = np.isin(tokens, OF)
    for number, on in holds.items():
        values, on = -v[:, number].astype(float), on.reshape(-1)
        bins = profiles["a.bins_on"][number]
        assert table["variance_reduction"][number] > 0.2
        np.testing.assert_array_equal(bins, np.histogram(values[on], edges)[0][::-1])
        np.testing.assert_array_equal(every[number] - bins, np.histogram(values[~on], edges)[0][::-1])


def test_parts_put_together_are_the_same_bytes(tmp_path: Path) -> None:
    """For two models whose slices are of unequal width, in one part after the other and all at once."""
    rng = np.random.default_rng(5)
    tokens, sources = draw_tokens(rng)
    pre = [plant(rng, tokens, sources) for _ in "ab"]
    pre[0][:, 20:30] = 1  # a slice that nothing explains, so that no neuron of it has a role
    inputs = [
        write_inputs(tmp_path / name, tokens, sources, values, name=name, activation="gelu_new")
        for name, values in zip("ab", pre, strict=True)
    ]
    first = inputs[0]
    usual = {"topic_sets": 0, "code_sources": [], "neurons_at_once": 10}
    settings = explained_text.Settings.model_validate(usual)
    ledgers, sums = [one.activations for one in inputs], [one.moments for one in inputs]

    def cut(parts: int) -> list[Path]:
        return explanation_parts(
            tmp_path, ledgers, sums, ledgers, first.rows, first.tokenizer, settings, parts
        )

    def put_together(parts: list[Path]) -> list[bytes]:
        out = [Output(tmp_path / name) for name in ("explanations", "tokens", "profiles")]
        merge_explanations.main(ledgers, parts, settings, *out)
        return [Path(path).read_bytes() for path in out]

    whole = put_together(cut(1))
    roles = pd.read_parquet(tmp_path / "explanations")["role"]
    assert roles[:20].notna().any()
    assert roles[20:30].isna().all()
    for parts in (2, 5):
        files = cut(parts)
        assert put_together(files) == whole
    with pytest.raises(UserError, match=r"0-1-2: begins at neuron 10, expected 0; give every part once"):
        put_together([*files[3:6], *files[:3], *files[6:]])
    with pytest.raises(UserError, match="0-1-0: is not the table that belongs to .*0-0-2"):
        put_together([files[3], *files[1:]])
    with pytest.raises(UserError, match=r"end at neuron 40 of 'a', expected 48"):
        put_together([*files[:12], *files[15:27]])
    with pytest.raises(UserError, match=r"not made from .*a/a/ledger.json"):
        put_together([*files[15:], *files[:15]])
    other = explained_text.Settings.model_validate({**usual, "top_count": 6})
    with pytest.raises(UserError, match="0-0-2: was made with other settings than these"):
        merge_explanations.main(ledgers, files, other, *map(Output, files[:3]))
    with pytest.raises(UserError, match="text: was made with other settings than these"):
        explain.main(ledgers[0], sums[:1], tmp_path / "text", 1, 0, other, *map(Output, files[:3]))


def test_parts_are_whole_slices() -> None:
    assert explain.slices(10, None, 1, 0) == [slice(0, 10)]
    found = [explain.slices(10, 3, 3, part) for part in range(3)]
    assert found == [[slice(0, 3)], [slice(3, 6)], [slice(6, 9), slice(9, 10)]]
    with pytest.raises(UserError, match="found 5, expected at most 4, .* in the 10 of a model"):
        explain.slices(10, 3, 5, 0)
    with pytest.raises(UserError, match="--part 2 of --parts 2: expected a part from 0"):
        explain.slices(10, 3, 2, 2)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_accelerators_find_the_same(
    studies: list[tuple[Inputs, pd.DataFrame]], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """Their path, on the CPU and where there is one on an accelerator."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no accelerator here")
    from steps.neurons.activations.store import PostActivations
    from steps.neurons.explanations.first_pass import SplitReader

    inputs, table = studies[3]
    _, top, profiles = inputs.explain()
    if device == "cpu":
        monkeypatch.setattr(PostActivations, "block", PostActivations._block_on_device)
        monkeypatch.setattr(SplitReader, "on_host", False)
    found, other_top, other_profiles = inputs.explain(device=device)
    words = ["evidence", "p", "p_adjusted"]  # p is tiny: its logarithm moves with the last digits of z
    pd.testing.assert_frame_equal(found.drop(columns=words), table.drop(columns=words), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["p"], table["p"], rtol=1e-2, atol=1e-9)
    pd.testing.assert_frame_equal(other_top, top, rtol=1e-5)
    for name, values in profiles.items():
        np.testing.assert_allclose(other_profiles[name], values, atol=1e-4)
    np.testing.assert_array_equal(other_profiles["a.bins_on"], profiles["a.bins_on"])


def test_constant_neurons_and_few_tokens(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens, sources = draw_tokens(rng)
    pre = plant(rng, tokens, sources)
    pre[:, 9] = 0.3
    inputs = write_inputs(tmp_path, tokens, sources, pre, activation="gelu_new")
    table = inputs.explain(tokens=1000)[0]  # two blocks
    assert table["feature"][9] == "none"
    assert table["family"][9] == "none"
    assert table["p"][9] == 1
    assert table["variance_reduction"][9] == 0
    assert table.drop(columns=["letter_response", "role", "role_share"]).notna().all().all()
    assert len(table) == 2 * WIDTH


def test_counts_larger_than_any_text_are_refused() -> None:
    for name in ("top_count", "minimum_tokens"):
        with pytest.raises(
            UserError, match=f"{name}: found 1000000000000000000000000000, expected: .*2147483"
        ):
            validate(explained_text.Settings, {name: 10**27}, "--settings")


def test_roles_are_of_features_of_the_token_itself(studies: list[tuple[Inputs, pd.DataFrame]]) -> None:
    table = studies[0][1]
    assert table["role"][0] in ("whole word", "later piece", "first piece")
    assert 0.25 < table["role_share"][0] <= 1
    assert table["role"].isna()[2]
    assert math.isnan(table["role_share"][2])


def test_roles_are_those_of_the_response_not_of_the_tokens(tmp_path: Path) -> None:
    """A neuron for each role of one word, a mixture, and one that the word silences."""
    rng = np.random.default_rng(0)
    tokens, sources = draw_tokens(rng)
    starts, ends = (np.array([text[at].isalpha() for text in (t or "." for t in TEXTS)]) for at in (0, -1))
    goes_on, inside = np.zeros((2, *tokens.shape), bool)
    goes_on[:, :-1] = starts[tokens[:, 1:]]
    inside[:, 1:] = ends[tokens[:, :-1]]
    word = np.isin(tokens, B)
    later = (tokens == B[1]) & inside  # the piece without a space
    roles = np.stack([word & ~later & ~goes_on, word & ~later & goes_on, later], -1)
    assert roles[..., 0][(tokens == B[0]) & ~goes_on].all()
    levels = np.array([[3, 0, 0], [0, 3, 0], [0, 0, 3], [1, 2, 4], [-3, 0, -2]])
    elsewhere = 0.5 * (rng.random(tokens.shape) < 0.4) * ~word  # a response is what is above the mean there
    pre = rng.standard_normal((*tokens.shape, 2 * WIDTH)).astype(np.float16)
    pre[..., :5] = 1 + roles @ levels.T + elsewhere[..., None]
    table = write_inputs(tmp_path, tokens, sources, pre.reshape(-1, 2 * WIDTH)).explain()[0]
    assert table["feature"][:5].tolist() == ["unigram 'b'"] * 5
    response = (levels - elsewhere[~word].mean()) * roles.sum((0, 1)) * np.array([[1], [1], [1], [1], [-1]])
    share = response.clip(0) / response.clip(0).sum(1, keepdims=True)
    assert (share[:3] == np.eye(3)).all()
    names = ["whole word", "first piece", "later piece"]
    assert table["role"][:5].tolist() == [*names, names[2], names[0]]
    assert table["role_share"][:5].tolist() == pytest.approx(share.max(1), abs=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_variance_reduction_is_the_squared_point_biserial_correlation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, neurons, codes, count = 500, 7, 40, 6
    code = rng.integers(0, codes, tokens)
    matrix = rng.random((codes, count)) < 0.3
    matrix[:, 0], matrix[:, 1] = False, True
    v = rng.gamma(1.0, size=(tokens, neurons)) * rng.random(neurons)
    v[:, 6] = 2.0
    sums = torch.zeros((codes, neurons), dtype=torch.float64)
    labels.add_by_code(sums, torch.from_numpy(v), code)
    counts = np.bincount(code, minlength=codes)
    centred = torch.from_numpy(((v - v.mean(0)) ** 2).sum(0)) * torch.tensor([1.0] * 6 + [0.0])
    squares, difference = labels.squared_correlations(
        sums, counts, matrix, torch.from_numpy(v.sum(0)), centred
    )
    y = matrix[code]
    for f in range(2, count):
        label = y[:, f]
        for i in range(6):
            r = np.corrcoef(label, v[:, i])[0, 1]
            assert squares[f, i] == pytest.approx(r**2, abs=1e-12)
            beta, value = label.mean(), v[:, i]
            population = (1 - beta) * value[~label].var() + beta * value[label].var()
            assert squares[f, i] == pytest.approx(1 - population / value.var(), abs=1e-10)
            sample = (1 - beta) * value[~label].var(ddof=1) + beta * value[label].var(ddof=1)
            found = labels.variance_reduction(
                *(np.array([x]) for x in (label.sum(), value[label].sum(), (value[label] ** 2).sum())),
                tokens,
                *(np.array([x]) for x in (value.sum(), (value**2).sum())),
            )
            assert found[0] == pytest.approx(1 - sample / value.var(ddof=1), abs=1e-10)
            assert abs(found[0] - r**2) < 5 / min(label.sum(), (~label).sum())
            assert difference[f, i] == pytest.approx(value[label].mean() - value[~label].mean(), abs=1e-10)
    assert (squares[:2] == 0).all()
    assert (squares[:, 6] == 0).all()


def test_previous_labels_stay_in_their_row() -> None:
    tokens = np.array([0, 1, 2, 0, 2, 1])
    own = labels.by_token(
        tokens, Features(["one", "bos"], ["x", "bos"], np.array([[0, 1], [1, 0], [0, 0]], bool))
    )
    before = labels.previous(own, 3, without=("bos",))
    assert before.features.names == ["one"]
    assert before.features.matrix[before.codes][:, 0].tolist() == [False, False, True, False, False, False]


def test_combinations_of_labels_become_codes() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.random((300, 20)) < 0.1
    matrix[:, 4] = False
    names = [str(number) for number in range(20)]
    found = labels.by_combination(matrix, names, names)
    assert found.features.names == [name for name in names if name != "4"]
    kept = [number for number in range(20) if number != 4]
    np.testing.assert_array_equal(found.features.matrix[found.codes], matrix[:, kept])


def test_other_rows_and_other_tokens_are_refused(
    studies: list[tuple[Inputs, pd.DataFrame]], tmp_path: Path
) -> None:
    rng = np.random.default_rng(99)
    tokens, sources = draw_tokens(rng)
    other = write_inputs(tmp_path, tokens, sources, plant(rng, tokens, sources))
    with pytest.raises(UserError, match="not made from"):
        dataclasses.replace(other, rows=studies[0][0].rows).explain()
    words = write_tokenizer(tmp_path / "words")
    with pytest.raises(UserError, match=r"words/ledger.json: not the tokenizer that .*rows/ledger.json was"):
        dataclasses.replace(other, tokenizer=words).explain()
    inputs = studies[0][0]
    both = [inputs.activations, other.activations]
    settings = explained_text.Settings(topic_sets=0)
    with pytest.raises(UserError, match="other tokens"):
        text.main(both, both, inputs.rows, inputs.tokenizer, settings, Output(tmp_path / "x"))
    text.main(both[:1], both[:1], inputs.rows, inputs.tokenizer, settings, Output(tmp_path / "x"))
    out = [Output(tmp_path / name) for name in ("explanations", "tokens", "profiles")]
    with pytest.raises(UserError, match="x: is of other tokens than .*a/ledger.json"):
        explain.main(other.activations, [other.moments], tmp_path / "x", 1, 0, settings, *out)


def test_the_split_holds_out_the_last_rows_of_every_block(studies: list[tuple[Inputs, pd.DataFrame]]) -> None:
    from steps.neurons.activations.store import Activations
    from steps.neurons.explanations.first_pass import Split

    source = Activations(studies[0][0].activations)
    split = Split(source, len(source.tokens), 0.25)
    assert split.blocks == 8
    assert split.parts(0) == (slice(0, 30 * CONTEXT), slice(30 * CONTEXT, 40 * CONTEXT))
    assert split.source.keep.all()
    assert not source.keep.all()  # the original is as it was


TOPICS = {"home": [" cat", " red", " tree", "moon"], "away": [" dog", " blue", " sun", " wal"]}
"""Planted topics: no other feature holds for all words of one of them and for none else."""


@pytest.fixture(scope="module")
def topical(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Inputs, Path]]:
    """Studies where neuron 10 fires on the first topic and neuron 11 is silenced by the second; a model whose
    embedding knows both."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.neurons.planted import save_model

    found = []
    members = [np.isin(TEXTS, words) for words in TOPICS.values()]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        tokens, sources = draw_tokens(rng)
        pre = plant(rng, tokens, sources)
        pre[:, 10] += 3 * members[0][tokens.reshape(-1)]
        pre[:, 11] -= 3 * members[1][tokens.reshape(-1)]
        folder = tmp_path_factory.mktemp(f"topics-{seed}")
        inputs = write_inputs(folder, tokens, sources, pre)
        shape = {"n_positions": CONTEXT, "n_embd": 16, "n_layer": 1, "n_head": 2}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(TEXTS), **shape))
        embedding = 0.3 * rng.standard_normal((len(TEXTS), 16))
        embedding[:, 3] += 3 * members[0]
        embedding[:, 8] -= 3 * members[1]
        with torch.no_grad():
            model.transformer.wte.weight.copy_(torch.from_numpy(embedding))
        found.append((inputs, save_model(folder / "model", model, {"seed": seed})))
    return found


@pytest.mark.parametrize("learned", [True, False])
def test_planted_topics_are_found(topical: list[tuple[Inputs, Path]], tmp_path: Path, learned: bool) -> None:
    """Where topics are learned and where a file lists them."""
    listed = tmp_path / "topics.json"
    listed.write_text(json.dumps(TOPICS))
    for inputs, model in topical:
        settings = {"topic_sets": 4, "topic_tokens": 4} if learned else {"topics": listed}
        table = inputs.explain(model if learned else None, **settings)[0]
        for number, words, family in zip((10, 11), TOPICS.values(), ("context", "none"), strict=True):
            row = table.loc[number]
            assert row["group"] == "topic"
            if learned:  # three of the words are its name
                shown = row["feature"].partition("(")[2].rstrip(")").split()
                assert set(shown) <= {word.strip() for word in words}
            assert row["p_adjusted"] < 1e-6
            assert row["family"] == family
        assert table.loc[[10, 11], "feature"].nunique() == 2
        assert (table["family"][: len(PLANTED)] == PLANTED).all()
        noise = table.drop(index=[10, 11])[DECOYS:]
        assert (noise["family"] == "none").all()


def test_learned_topics_need_the_embedding_of_each_model(tmp_path: Path) -> None:
    from tests.neurons.planted import write_model

    model = write_model(tmp_path / "model")
    embedding = text.embedding_matrix(model, 48)
    assert embedding.shape == (48, 16)
    np.testing.assert_allclose(embedding.mean(1), 0, atol=1e-6)  # as weights are looked at everywhere
    with pytest.raises(UserError, match="embeds 48 tokens"):
        text.embedding_matrix(model, 49)


def test_features_of_an_embedding_are_topics_and_small_norms(
    studies: list[tuple[Inputs, pd.DataFrame]],
) -> None:
    from steps.neurons.activations.store import Activations

    inputs = studies[0][0]
    settings = explained_text.Settings(topic_sets=4, topic_tokens=3, small_norm=True, code_sources=["code"])
    labelled = explained_text.read_text(
        Activations(inputs.activations), inputs.rows, inputs.tokenizer, settings
    )
    assert any(name.startswith("python ") for name in labelled.surroundings.features.names)
    embedding = np.random.default_rng(0).standard_normal((len(TEXTS), 8))
    embedding[5] = 0.1
    small, topics = explained_text.model_features(labelled, embedding, settings)
    assert np.flatnonzero(small.matrix).tolist() == [5]
    assert topics.matrix.sum(0).tolist() == [3] * 4
    found = explained_text.labellings(
        labelled, features.join([explained_text.shared_features(labelled, settings), small, topics])
    )
    assert [labelling.which for labelling in found] == ["current", "current", "previous", "previous"]
    assert "bos" in found[0].features.groups
    assert "topic" in found[2].features.groups
    assert not {"bos", "source"} & {*found[2].features.groups, *found[3].features.groups}
    without = explained_text.shared_features(dataclasses.replace(labelled, bos=None), settings)
    assert without.names == explained_text.shared_features(labelled, settings).names[1:]
    assert "bos" not in without.groups


def test_word_lists_are_those_shipped() -> None:
    assert WORD_LISTS.name == "word_lists.json"
    assert features.read_word_lists(WORD_LISTS)["syntax_words"]["article"] == ["a", "an", "the"]
