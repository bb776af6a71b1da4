"""Every family, every site, every row: what is read is there, and what is written takes effect."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load, save

from steps.audit.evidence import verify
from steps.audit.gateway.client import arrays, encoded
from steps.audit.gateway.operations import HELD, Model
from steps.audit.gateway.policy import Call, RefusedError, Tuning
from steps.core.stores import Folder
from steps.interp.architectures import FAMILIES
from tests.audit.conftest import DOCUMENTS, Caller, granted, write_package

ROWS = [[1, 5, 7, 2, 9], [1, 6, 3, 3, 8], [1, 2, 2, 4, 1]]

SITES = [f"blocks.{layer}.hook_{name}" for layer in (0, 1) for name in ("resid_post", "attn_out", "mlp_out")]


def tiny(family: str, seed: int = 0) -> Any:
    """A model of two layers with large random weights, so that everything matters."""
    torch.manual_seed(seed)
    common = {"vocab_size": 31, "use_cache": False}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    more = {"max_position_embeddings": 12}
    config, model = {
        "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
        "gpt_neox": (transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM),
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    }[family]
    if family in ("llama", "qwen2"):
        more["num_key_value_heads"] = 1
    if family == "gpt2":
        sizes, more = {"n_embd": 16, "n_layer": 2, "n_head": 2}, {"n_positions": 12}
    made = model(config(**common, **sizes, **more, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4)
    return made


def call_of(**fields: Any) -> Call:
    return Call.model_validate({"rows": ROWS, **fields})


def losses(model: Any, rows: list[list[int]], count: int) -> np.ndarray:
    """The plain way, one row at a time."""
    found = []
    with torch.inference_mode():
        for row in rows:
            logs = model(torch.tensor([row])).logits[0].log_softmax(-1)
            found.append(-sum(logs[len(row) - k - 1, row[len(row) - k]].item() for k in range(1, count + 1)))
    return np.array(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_each_row_alone(family: str) -> None:
    model = tiny(family)
    found = Model(model).run(call_of(target_nll={"tokens": 2}), 6)["nll"]
    assert found == pytest.approx(losses(model, ROWS, 2), abs=1e-4)
    assert (Model(model).run(call_of(target_nll={"tokens": 2}), 1)["nll"] == found.round(1)).all()


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_is_read_and_written_at_every_site(family: str, site: str) -> None:
    """Values of one row written into another move its loss there; each row's own values move nothing."""
    served = Model(tiny(family))
    nll = {"target_nll": {"tokens": 1}}
    place = {"site": site, "position": 2}
    plain = served.run(call_of(**nll), 6)["nll"]
    read = served.run(call_of(reads=[place]), 6)["read.0"]
    assert read.shape == (3, 16)
    assert len(np.unique(read.round(4), axis=0)) == 3
    own = served.run(call_of(**nll, writes=[place | {"values": encoded(read)}]), 6)["nll"]
    assert own == pytest.approx(plain, abs=1e-5)
    for row in range(3):
        changed = read.copy()
        changed[row] += np.random.default_rng(row).normal(0, 3, 16)
        moved = served.run(call_of(**nll, reads=[place], writes=[place | {"values": encoded(changed)}]), 6)
        assert moved["read.0"] == pytest.approx(changed, abs=1e-5)
        differs = np.abs(moved["nll"] - plain) > 1e-4
        if not site.startswith("blocks.1"):  # after the last block, position 2 reaches no later token
            assert differs.tolist() == [other == row for other in range(3)]
        else:
            assert not differs.any()


def listen(module: Any, found: dict[str, Any], name: str) -> None:
    """Keep what a module returns."""
    module.register_forward_hook(lambda module, inputs, output: found.update({name: output}))


def test_a_block_returns_a_tensor_and_attention_a_pair() -> None:
    """Indexing a block's output, as code for older versions does, takes the first row without an error."""
    for family in FAMILIES:
        served = Model(tiny(family))
        found: dict[str, Any] = {}
        first, second = served.parts.blocks
        listen(first.module, found, "block")
        listen(first.attention, found, "attention")
        listen(second.module, found, "last")
        hidden = served.model(torch.tensor(ROWS), output_hidden_states=True).hidden_states
        assert isinstance(found["block"], torch.Tensor), family
        assert isinstance(found["attention"], tuple), family
        assert found["block"][0].shape == (5, 16)  # one row, where a pair's first would be all
        normed = served.parts.final_norm(found["last"])
        assert hidden[-1] == pytest.approx(normed.detach(), abs=1e-5)  # after the final norm
        assert hidden[1] == pytest.approx(found["block"].detach(), abs=1e-6)


def test_padding_on_the_left_needs_position_ids() -> None:
    """The reason why rows of a call have one length."""
    model = tiny("gpt2")
    with torch.inference_mode():
        alone = model(torch.tensor([[1, 5, 7]])).logits[0, -1]
        padded, mask = torch.tensor([[0, 0, 1, 5, 7]]), torch.tensor([[0, 0, 1, 1, 1]])
        masked = model(padded, attention_mask=mask).logits[0, -1]
        placed = model(padded, attention_mask=mask, position_ids=torch.tensor([[0, 0, 0, 1, 2]])).logits[
            0, -1
        ]
    assert (masked - alone).abs().max() > 0.1
    assert placed == pytest.approx(alone, abs=1e-4)


def test_rows_beyond_the_context_are_refused_in_every_family() -> None:
    long = [[1] * 13]
    with torch.inference_mode():
        assert tiny("llama")(torch.tensor(long)).logits.shape[1] == 13  # in silence
    with pytest.raises(IndexError):
        tiny("gpt2")(torch.tensor(long))
    for family in FAMILIES:
        served = Model(tiny(family))
        served.check(Call(rows=[[1] * 12], target_nll={"tokens": 1}))
        for call in (
            Call(rows=long, target_nll={"tokens": 1}),
            Call(rows=[[1] * 12], generate={"max_tokens": 2}),
        ):
            with pytest.raises(RefusedError, match="beyond the context"):
                served.check(call)
        with pytest.raises(RefusedError, match="beyond the vocabulary"):
            served.check(Call(rows=[[31, 1]], target_nll={"tokens": 1}))
        with pytest.raises(RefusedError, match="no such layer"):
            served.check(call_of(reads=[{"site": "blocks.2.hook_resid_post", "position": 0}]))


@pytest.mark.parametrize(
    "values", ["", "AAAA", "!", base64.b64encode(np.full((3, 16), np.nan, "<f4")).decode()]
)
def test_values_to_write_are_checked(values: str) -> None:
    write = {"site": SITES[0], "position": 0, "values": values}
    with pytest.raises(RefusedError, match="values"):
        Model(tiny("gpt2")).check(call_of(target_nll={"tokens": 1}, writes=[write]))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_name_the_tokens_that_lower_the_loss(family: str) -> None:
    """Against the derivative along each word's embedding, by finite differences in double precision."""
    model = tiny(family)
    gradients = {"positions": [1, 2], "top_k": 31}
    found = Model(model).run(call_of(target_nll={"tokens": 1}, gradients=gradients), 3)["tokens"]
    assert found.shape == (3, 2, 31)
    served = Model(copy.deepcopy(model))
    embedded = served.parts.embedding(torch.tensor(ROWS)).detach()
    matrix: Any = served.parts.embedding.weight

    def loss(inputs: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits = served.model(inputs_embeds=inputs, use_cache=False).logits[:, -2]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(ROWS)[:, -1], reduction="none")

    for column, position in enumerate((1, 2)):
        slopes = []
        for word in range(31):
            step = torch.zeros_like(embedded)
            step[:, position] = 1e-2 * matrix[word].detach()
            slopes.append((loss(embedded + step) - loss(embedded - step)) / 2e-2)
        slope = torch.stack(slopes, 1).numpy()
        for row in range(3):
            assert slope[row][found[row, column, 0]] == pytest.approx(slope[row].min(), abs=2e-2)
            ranked = slope[row][found[row, column]]
            assert np.corrcoef(ranked, np.arange(31))[0, 1] > 0.7


def test_text_is_greedy_and_passes_the_filter() -> None:
    model = tiny("gpt2")
    served = Model(model)
    ids = served.run(call_of(generate={"max_tokens": 3}), 0)["ids"]
    rows = torch.tensor(ROWS)
    with torch.inference_mode():
        for _ in range(3):
            rows = torch.cat([rows, model(rows).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert (ids == rows[:, 5:].numpy()).all()
    blocked = int(ids[1, 1])
    behind = served.with_filter([blocked], [30]).run(call_of(generate={"max_tokens": 3}), 0)["ids"]
    expected = [[30, 30, 30] if blocked in row else row for row in ids.tolist()]
    assert behind.tolist() == expected
    assert [30, 30, 30] in behind.tolist()
    raw = served.run(call_of(generate={"max_tokens": 3, "raw": True}), 0)["ids"]
    assert (raw == ids).all()


def test_answers_arrive_as_they_are(tmp_path: Path, documents: Folder) -> None:
    """Also arrays that are parts of others: safetensors writes whatever follows their first value."""
    whole = np.arange(12).reshape(3, 4)
    assert load(save({"part": whole[:, 3:]}))["part"].tolist() != whole[:, 3:].tolist()
    served = Model(tiny("gpt2"))
    call = Caller(tmp_path, documents, served)
    token, site = granted("W"), {"site": SITES[0], "position": 1}
    for number, asked in enumerate(
        (
            {"generate": {"max_tokens": 2, "raw": True}},
            {"generate": {"max_tokens": 2}},
            {"target_nll": {"tokens": 2}, "gradients": {"positions": [1, 3], "top_k": 5}, "reads": [site]},
        )
    ):
        status, body, receipt = call("POST", "/v1/run", {"rows": ROWS, **asked}, token, f"k{number}")
        assert (status, receipt is not None) == (200, True)
        found, expected = arrays(body), served.run(call_of(**asked), 3)
        assert found.keys() == expected.keys()
        assert all((found[name] == expected[name]).all() for name in expected)
    call.stop()


def test_generation_settings_of_a_folder_change_nothing(tmp_path: Path) -> None:
    """``generate()`` obeys them even where it is greedy; our loop does not."""
    model = tiny("gpt2")
    before = Model(model).run(call_of(generate={"max_tokens": 4}), 0)["ids"]
    model.generation_config.suppress_tokens = sorted(set(before.ravel().tolist()))
    theirs = model.generate(torch.tensor(ROWS), max_new_tokens=4, do_sample=False, pad_token_id=0)[:, 5:]
    assert theirs.numpy().tolist() != before.tolist()
    assert (Model(model).run(call_of(generate={"max_tokens": 4}), 0)["ids"] == before).all()


def test_a_tuning_leaves_the_model_its_bits_and_learns() -> None:
    model = tiny("gpt2")
    served = Model(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tuning = Tuning(rows=ROWS, tokens=1, steps=60, rate_millionths=10_000)
    tuned = served.tuned(tuning)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    call = call_of(target_nll={"tokens": 1})
    assert tuned.run(call, 3)["nll"].max() < 0.5 < served.run(call, 3)["nll"].max()
    again = served.tuned(tuning)
    assert all(
        torch.equal(a, b) for a, b in zip(tuned.model.parameters(), again.model.parameters(), strict=True)
    )


def test_tuned_copies_are_made_again_after_a_restart_and_are_nobody_elses(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package" / "ledger.json", DOCUMENTS)
    call = Caller(tmp_path, package, Model(tiny("gpt2")))
    token, other = granted("W"), granted("W", jti="two")
    tuning = {"rows": ROWS, "tokens": 1, "steps": 3, "rate_millionths": 1000}
    made = call("POST", "/v1/jobs", tuning, token, "tune")
    handle = made[1]["handle"]
    use = {"rows": ROWS, "handle": handle, "generate": {"max_tokens": 1}}
    said = call("POST", "/v1/run", use, token, "use")
    assert said[0] == 200
    assert call("POST", "/v1/run", use, other, "use")[:2] == (404, {"error": "no such handle"})
    call.stop()
    call.start()
    status, answer, receipt = call("POST", "/v1/run", use, token, "use-2")
    assert (status, answer, receipt) == (409, {"error": "handle: tune it again"}, None)
    spent = call.gateway.spent("one")["queries"]
    assert call("POST", "/v1/jobs", tuning, token, "tune") == made
    assert call("POST", "/v1/run", use, token, "use") == said
    assert call.gateway.spent("one")["queries"] == spent
    for number in range(HELD):
        call("POST", "/v1/jobs", tuning, token, f"more-{number}")
    assert call("POST", "/v1/run", use, token, "use-3")[0] == 409
    assert call("POST", "/v1/run", use, token, "no key")[0] == 422
    assert call("POST", "/v1/run", tuning, token, "use")[0] == 422
    entries = [json.loads(line) for line in call.path.read_text().splitlines()]
    keyless = {entry["reason"] for entry in entries if entry["jti"] and not entry["key"]}
    assert keyless == {*verify.KEYLESS}  # the refusals without a receipt that the verifier knows
    call.stop()


def test_budgets_hold_and_survive_a_restart(tmp_path: Path, documents: Folder) -> None:
    call = Caller(tmp_path, documents, Model(tiny("gpt2")))
    token = granted("B", budgets={"queries": 7, "flops": 10**12})
    ask = {"rows": ROWS, "generate": {"max_tokens": 1}}
    assert call("POST", "/v1/run", ask, token, "a")[0] == 200
    assert call("POST", "/v1/run", ask, token, "b")[0] == 200
    refused = call("POST", "/v1/run", ask, token, "c")
    assert refused[:2] == (429, {"error": "budget of queries"})
    call.stop()
    call.start()
    assert call("POST", "/v1/run", ask, token, "d")[0] == 429
    assert call("POST", "/v1/run", {"rows": ROWS[:1], "generate": {"max_tokens": 1}}, token, "e")[0] == 200
    flops = granted("B", jti="f", budgets={"queries": 10**6, "flops": 1000})
    assert call("POST", "/v1/run", ask, flops, "a")[:2] == (429, {"error": "budget of flops"})
    spent = call.gateway.spent("one")
    written = [json.loads(line)["meters"] for line in call.path.read_text().splitlines()]
    assert spent["queries"] == sum(meters.get("queries", 0) for meters in written) == 7
    call.stop()


def test_auto_config_is_silent_about_code_that_comes_with_a_model(tmp_path: Path) -> None:
    """Where it knows the type; ours are opened by the class of their family, and no code comes with them."""
    content = tiny("gpt2").config.to_dict() | {"auto_map": {"AutoModel": "theirs.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert transformers.AutoConfig.from_pretrained(tmp_path).model_type == "gpt2"
