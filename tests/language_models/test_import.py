"""Existing models come in as they are, and what cannot be used is refused in one line."""

from __future__ import annotations

import importlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.sources import Source
from steps.core.stores import Folder
from steps.interp import loading
from tests.language_models.conftest import Prepared, make_tokenizer, run_step, small_model
from tests.language_models.tiny_models import SHAPES, tiny_model

step: Any = importlib.import_module("steps.language_models.import")


def folder_of(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    return folder


def bring(prepared: Prepared, folder: Path, out: Path, context: int = 16) -> Folder:
    ledger = out / "ledger.json"
    step.main(prepared.tokenizer, context, Source(path=str(folder)), Output(ledger))
    return Folder(ledger, "language_model").check_all()


def as_bin(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["safetensors", "bin", "sharded"])
def test_weights_come_in_their_own_dtype_from_every_kind_of_file(
    prepared: Prepared, tmp_path: Path, dtype: torch.dtype, kind: str
) -> None:
    model = small_model().to(dtype)
    theirs = folder_of(tmp_path / "theirs", model)
    if kind == "bin":
        as_bin(theirs)
    elif kind == "sharded":
        (theirs / "model.safetensors").unlink()
        model.save_pretrained(theirs, max_shard_size="10kB")
        assert len(list(theirs.glob("model-*.safetensors"))) > 1
    mine = bring(prepared, theirs, tmp_path / "mine")
    opened = loading.load(mine.path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor.float()), name
    assert {t.dtype for t in load_file(mine.folder / "model.safetensors").values()} == {dtype}
    assert mine.attributes["tokenizer"] == Folder(prepared.tokenizer, "tokenizer").fingerprint
    assert mine.attributes["source"]["path"] == str(theirs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["safetensors", "bin", "sharded bin"])
def test_every_family_comes_from_every_kind_of_file(
    prepared: Prepared, tmp_path: Path, shape: str, kind: str
) -> None:
    model = tiny_model(shape).half()
    theirs = folder_of(tmp_path / "theirs", model)
    if kind != "safetensors":
        as_bin(theirs)
    if kind == "sharded bin":
        weights = torch.load(theirs / "pytorch_model.bin", weights_only=True)
        names = sorted(weights)
        for number, part in enumerate((names[::2], names[1::2])):
            file = theirs / f"pytorch_model-0000{number + 1}-of-00002.bin"
            torch.save({name: weights[name] for name in part}, file)
        (theirs / "pytorch_model.bin").unlink()
    mine = bring(prepared, theirs, tmp_path / "mine")
    opened = loading.load(mine.path, dtype="float16")
    for name, tensor in model.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name
    assert opened.config.model_type == SHAPES[shape][0]


def sharded(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder, max_shard_size="20kB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    return folder


def test_only_the_shards_that_the_index_names_are_read(prepared: Prepared, tmp_path: Path) -> None:
    model = tiny_model("llama")
    theirs = sharded(tmp_path / "theirs", model)
    stale = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    save_file(stale, theirs / "model-00099-of-00099.safetensors")
    opened = loading.load(bring(prepared, theirs, tmp_path / "mine").path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name


def test_a_shard_that_is_missing_or_elsewhere_is_named(prepared: Prepared, tmp_path: Path) -> None:
    theirs = sharded(tmp_path / "theirs", tiny_model("llama"))
    path = theirs / "model.safetensors.index.json"
    sorted(theirs.glob("model-*"))[0].unlink()
    with pytest.raises(UserError, match=r"model-0000.*missing, though model\.safetensors\.index\.json"):
        bring(prepared, theirs, tmp_path / "mine")
    for wrong in ({"weight_map": {"a": "../elsewhere.safetensors"}}, {"weight_map": {}}, []):
        path.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=r"index\.json: not an index of weight files beside it"):
            bring(prepared, theirs, tmp_path / "mine")


def test_pythia_as_its_authors_published_it(prepared: Prepared, tmp_path: Path) -> None:
    """Old names in the configuration, half precision, and masks (infinite ones) among the weights."""
    model = tiny_model("gpt_neox", vocabulary=304).half()
    theirs = folder_of(tmp_path / "theirs", model)
    config = json.loads((theirs / "config.json").read_text())
    del config["rope_parameters"], config["dtype"]
    old = {"rotary_pct": 0.5, "rotary_emb_base": 10_000, "torch_dtype": "float16"}
    (theirs / "config.json").write_text(json.dumps(config | old | {"transformers_version": "4.24.0"}))
    weights = load_file(theirs / "model.safetensors")
    for layer in range(3):
        name = f"gpt_neox.layers.{layer}.attention"
        weights |= {
            f"{name}.bias": torch.ones(1, 1, 16, 16).tril().bool(),
            f"{name}.masked_bias": torch.tensor(-1e9).half(),
            f"{name}.rotary_emb.inv_freq": torch.tensor([1.0, 0.01]),
        }
    (theirs / "model.safetensors").unlink()
    torch.save(weights, theirs / "pytorch_model.bin")
    mine = bring(prepared, theirs, tmp_path / "mine")
    assert {tensor.dtype for tensor in load_file(mine.folder / "model.safetensors").values()} == {
        torch.float16
    }
    expected = tiny_model("gpt_neox", vocabulary=304)
    expected.load_state_dict(model.state_dict())
    opened, ids = loading.load(mine.path), torch.arange(16)[None]
    with torch.inference_mode():
        assert torch.equal(opened(ids).logits, expected(ids).logits)


def test_two_different_matrices_are_not_tied_whatever_the_configuration_says(
    prepared: Prepared, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    theirs = folder_of(tmp_path / "theirs", model)
    configure(theirs, tie_word_embeddings=True)
    opened = loading.load(bring(prepared, theirs, tmp_path / "mine").path)
    assert torch.equal(opened.lm_head.weight, model.lm_head.weight)
    assert not opened.config.tie_word_embeddings


def test_the_dtype_is_that_of_the_weights_whatever_the_configuration_says(
    prepared: Prepared, tmp_path: Path
) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    config = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps({**config, "dtype": "float16", "torch_dtype": "float16"}))
    mine = bring(prepared, theirs, tmp_path / "mine")
    for name, tensor in load_file(theirs / "model.safetensors").items():
        assert torch.equal(load_file(mine.folder / "model.safetensors")[name], tensor)


def test_names_without_prefix_and_old_buffers_are_understood(prepared: Prepared, tmp_path: Path) -> None:
    model = small_model()
    theirs = folder_of(tmp_path / "theirs", model)
    weights = load_file(theirs / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    old |= {
        "h.0.attn.bias": torch.ones(1, 1, 16, 16).tril().bool(),
        "h.0.attn.masked_bias": torch.tensor(-1e4),
    }
    (theirs / "model.safetensors").unlink()
    torch.save(old, theirs / "pytorch_model.bin")
    opened = loading.load(bring(prepared, theirs, tmp_path / "mine").path)
    assert torch.equal(opened.transformer.h[1].mlp.c_fc.weight, model.transformer.h[1].mlp.c_fc.weight)


@pytest.mark.parametrize(
    ("shape", "before"),
    [
        *(("gpt2", prefix) for prefix in ("module.", "_orig_mod.", "model.", "base_model.model.", "any.")),
        *(("llama", prefix) for prefix in ("module.", "model.", "base_model.model.", "_orig_mod.module.")),
        ("gpt_neox_tied", "module.module."),
        ("qwen2", "_forward_module."),
    ],
)
@pytest.mark.parametrize("body", [False, True])
def test_weights_of_a_wrapped_model_are_read(
    prepared: Prepared, tmp_path: Path, shape: str, before: str, body: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(shape, tie_word_embeddings=True)
    theirs = folder_of(tmp_path / "theirs", model)
    without_weights(theirs)
    weights = (model.base_model if body else model).state_dict()
    torch.save({before + name: tensor for name, tensor in weights.items()}, theirs / "pytorch_model.bin")
    with caplog.at_level("INFO", "reprise"):
        opened = loading.load(bring(prepared, theirs, tmp_path / "mine").path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name
    if body and shape in ("llama", "qwen2"):
        before = before.removesuffix("model.")  # the family's own name
    if before:
        assert "of the weights' names, which something wrapped" in caplog.text
        assert repr(before.removeprefix("_orig_mod.") or before) in caplog.text


def test_wrappers_inside_a_model_are_read(prepared: Prepared, tmp_path: Path) -> None:
    model = small_model()
    theirs = folder_of(tmp_path / "theirs", model)
    inside = {"h.1.": "h.1._fsdp_wrapped_module._checkpoint_wrapped_module.", "mlp.": "_orig_mod.mlp."}

    def renamed(name: str) -> str:
        for own, wrapped in inside.items():
            name = name.replace(own, wrapped)
        return name

    bin_of(theirs, lambda weights: {renamed(name): tensor for name, tensor in weights.items()})
    opened = loading.load(bring(prepared, theirs, tmp_path / "mine").path)
    assert torch.equal(opened.transformer.h[1].mlp.c_fc.weight, model.transformer.h[1].mlp.c_fc.weight)


def in_part(weights: dict[str, Any]) -> dict[str, Any]:
    return {("model." if "h.1" not in name else "") + name: tensor for name, tensor in weights.items()}


def two_models(weights: dict[str, Any]) -> dict[str, Any]:
    return {part + name: tensor for name, tensor in weights.items() for part in ("ours.", "theirs.")}


def an_adapter(weights: dict[str, Any]) -> dict[str, Any]:
    return {"base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": torch.ones(2, 2), **weights}


def twice(weights: dict[str, Any]) -> dict[str, Any]:
    return {**weights, **{f"_orig_mod.{name}": tensor for name, tensor in weights.items()}}


def of_other_names(weights: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("wte", "tokens"): tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (
            in_part,
            "found 16 weights whose names begin with 'model.', as no GPT-2 model's do, and 12"
            " without it, such as",
        ),
        (two_models, "found 2 models in one, whose weights' names begin with 'ours.' and 'theirs.'; save"),
        (an_adapter, "found the weights of an adapter, such as 'base_model.model.transformer.h.0.attn.c_at"),
        (twice, "found the weight 'transformer."),
        (
            of_other_names,
            "2 weights are missing, such as 'lm_head.weight' (and 1 left over, such as 'transformer.tokens.w",
        ),
    ],
)
def test_names_that_do_not_fit_are_told(prepared: Prepared, tmp_path: Path, edit: Any, says: str) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    bin_of(theirs, edit)
    with pytest.raises(UserError) as caught:
        bring(prepared, theirs, tmp_path / "mine")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mine").exists()


GENERATION = b'{\n"eos_token_id":  [0, 5], "temperature": 0.6, "do_sample": true}\n'
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>\r\né {{ m.content }}{% endfor %}{{ 1 / 0 }}"


def test_generation_settings_and_chat_template_are_kept_as_they_are(
    prepared: Prepared, tmp_path: Path
) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    (theirs / "generation_config.json").write_bytes(GENERATION)
    (theirs / "chat_template.jinja").write_bytes(TEMPLATE.encode())
    (theirs / "tokenizer_config.json").write_text(json.dumps({"chat_template": "another"}))
    mine = bring(prepared, theirs, tmp_path / "mine")
    assert {path.name for path in loading.model_files(theirs)} >= set(loading.BESIDE) <= mine.files.keys()
    assert (mine.folder / "generation_config.json").read_bytes() == GENERATION
    assert (mine.folder / "chat_template.jinja").read_bytes() == TEMPLATE.encode()
    assert loading.load(mine.path).generation_config.eos_token_id == [0, 5]
    (theirs / "chat_template.jinja").write_text("edited")
    assert bring(prepared, theirs, tmp_path / "again").fingerprint != mine.fingerprint
    (mine.folder / "generation_config.json").write_bytes(GENERATION.replace(b"6", b"7"))
    with pytest.raises(UserError, match=r"generation_config\.json: its contents differ from the hash"):
        loading.load(mine.path)


@pytest.mark.parametrize(
    "kept", ["one", [{"name": "tools", "template": "two"}, {"name": "default", "template": "one"}]]
)
def test_a_chat_template_of_the_old_place_is_kept_too(prepared: Prepared, tmp_path: Path, kept: Any) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    (theirs / "tokenizer_config.json").write_text(json.dumps({"chat_template": kept}))
    mine = bring(prepared, theirs, tmp_path / "mine")
    assert (mine.folder / "chat_template.jinja").read_text() == "one"


@pytest.mark.parametrize("name", loading.BESIDE)
def test_a_model_without_them_has_none(prepared: Prepared, tmp_path: Path, name: str) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    (theirs / "generation_config.json").unlink()
    mine = bring(prepared, theirs, tmp_path / "mine")
    assert name not in mine.files
    assert not (mine.folder / name).exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("generation_config.json", b"[]", "not a generation configuration (found list, expected an object)"),
        ("generation_config.json", b"{", "generation_config.json: not JSON"),
        ("chat_template.jinja", b"\xff", "chat_template.jinja: not text in UTF-8"),
    ],
)
def test_files_beside_a_model_are_what_they_are_called(
    prepared: Prepared, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    (theirs / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        bring(prepared, theirs, tmp_path / "mine")
    assert says in str(caught.value)
    assert not (tmp_path / "mine").exists()


def test_twice_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    ledgers = [bring(prepared, theirs, tmp_path / name).path.read_bytes() for name in ("a", "b")]
    assert ledgers[0] == ledgers[1]


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def without_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()


def of_another_family(folder: Path) -> None:
    configure(folder, model_type="mamba")


def of_a_family_that_is_no_name(folder: Path) -> None:
    configure(folder, model_type=["gpt2"])


def quantised(folder: Path) -> None:
    configure(folder, quantization_config={"bits": 4})


def of_fewer_tokens(folder: Path) -> None:
    folder_of(folder, small_model(vocabulary=100))


def of_many_more_tokens(folder: Path) -> None:
    folder_of(folder, small_model(vocabulary=284 + 1025))


def of_fewer_positions(folder: Path) -> None:
    folder_of(folder, small_model(context=8))


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_a_weight_missing(folder: Path) -> None:
    change(folder, lambda weights: weights.pop("transformer.h.1.mlp.c_fc.weight"))


def with_a_weight_of_another_shape(folder: Path) -> None:
    change(folder, lambda weights: weights.update({"transformer.h.1.mlp.c_fc.weight": torch.ones(2, 2)}))


def with_a_weight_that_is_not_finite(folder: Path) -> None:
    change(folder, lambda weights: weights["transformer.wte.weight"].view(-1)[7].fill_(float("nan")))


def with_a_broken_configuration(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def with_a_nonsense_configuration(folder: Path) -> None:
    configure(folder, n_embd="many")


def with_another_activation(folder: Path) -> None:
    configure(folder, activation_function="nonsense")


def with_an_empty_bin(folder: Path) -> None:
    without_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")


def with_numbers_for_weights(folder: Path) -> None:
    without_weights(folder)
    torch.save({"a": 1}, folder / "pytorch_model.bin")


def with_a_sparse_weight(folder: Path) -> None:
    bin_of(folder, lambda weights: {name: value.to_sparse() for name, value in weights.items()})


def with_numbers_for_names(folder: Path) -> None:
    bin_of(folder, lambda weights: dict(enumerate(weights.values())))


def with_complex_weights(folder: Path) -> None:
    bin_of(
        folder, lambda weights: {n: t.to(torch.complex64) if t.ndim > 1 else t for n, t in weights.items()}
    )


def bin_of(folder: Path, edit: Any) -> None:
    weights = edit(load_file(folder / "model.safetensors"))
    without_weights(folder)
    torch.save(weights, folder / "pytorch_model.bin")


def without_heads(folder: Path) -> None:
    configure(folder, n_head=0)


def without_blocks(folder: Path) -> None:
    configure(folder, n_layer=0)


def with_fewer_blocks(folder: Path) -> None:
    configure(folder, n_layer=1)


def with_very_many_blocks(folder: Path) -> None:
    configure(folder, n_layer=100_000)


def with_the_name_of_a_method(folder: Path) -> None:
    configure(folder, save_pretrained=True)


def with_other_names(folder: Path) -> None:
    configure(folder, attribute_map={})


def with_a_margin_that_is_no_number(folder: Path) -> None:
    configure(folder, layer_norm_epsilon=float("nan"))


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change(folder: Path, edit: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_weights, "found no weights, expected model.safetensors or pytorch_model.bin"),
        (without_configuration, "found no config.json"),
        (of_another_family, "model type 'mamba', supported are: gpt2, gpt_neox, llama, qwen2"),
        (of_a_family_that_is_no_name, "model type ['gpt2'], supported are: gpt2"),
        (quantised, "quantised"),
        (of_fewer_tokens, "the model knows 100 tokens and the tokenizer 284"),
        (of_many_more_tokens, "the model knows 1309 tokens and the tokenizer 284"),
        (of_fewer_positions, "the model takes 8 tokens and rows have 16; lower language_models.rows.n_ctx"),
        (truncated, "model.safetensors: cannot be read as weights"),
        (with_a_weight_missing, "1 weights are missing, such as 'transformer.h.1.mlp.c_fc.weight'"),
        (with_a_weight_of_another_shape, "do not fit together"),
        (with_a_weight_that_is_not_finite, "'transformer.wte.weight' is not finite"),
        (with_a_broken_configuration, "config.json: not JSON (Expecting"),
        (with_a_broken_configuration, "; fix it, or copy it again"),
        (with_very_many_blocks, "config.json says 100000 layers, found 28 weights, expected several for"),
        (with_the_name_of_a_method, "found the key 'save_pretrained', which no GPT-2 configuration has"),
        (with_other_names, "found the key 'attribute_map', which no GPT-2 configuration has; take it out"),
        (with_a_nonsense_configuration, "not a GPT-2 configuration"),
        (with_another_activation, "do not fit together"),
        (with_an_empty_bin, "pytorch_model.bin: cannot be read as weights"),
        (with_numbers_for_weights, "expected named dense tensors only"),
        (with_a_sparse_weight, "expected named dense tensors only"),
        (with_numbers_for_names, "expected named dense tensors only"),
        (with_complex_weights, "torch.complex64"),
        (without_heads, "found num_attention_heads 0, expected a number above 0"),
        (without_blocks, "found num_hidden_layers 0, expected a number above 0"),
        (with_fewer_blocks, "weights have no place in a GPT-2 model of this config.json"),
        (with_a_margin_that_is_no_number, "found layer_norm_epsilon nan, expected a number above 0"),
    ],
)
def test_what_cannot_be_used_is_refused(prepared: Prepared, tmp_path: Path, spoil: Any, says: str) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    spoil(theirs)
    with pytest.raises(UserError) as caught:
        bring(prepared, theirs, tmp_path / "mine")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(theirs) in str(caught.value)
    assert not (tmp_path / "mine").exists()


def with_fewer_positions(folder: Path) -> None:
    configure(folder, max_position_embeddings=8)


def with_unknown_positions(folder: Path) -> None:
    configure(folder, rope_parameters=None, rope_scaling={"type": "magic", "factor": 2.0})


def with_positions_half_told(folder: Path) -> None:
    configure(folder, rope_parameters=None, rope_scaling={"type": "linear"})


def with_heads_that_do_not_fit(folder: Path) -> None:
    configure(folder, num_attention_heads=3)


def with_a_weight_left_over(folder: Path) -> None:
    """Such as a bias that config.json switches off: to drop it would change what the model computes."""
    names = load_file(folder / "model.safetensors")
    norm = next(name for name in names if name.endswith("layers.1.input_layernorm.weight"))
    change(folder, lambda weights: weights.update({norm.replace("weight", "offset"): torch.ones(16)}))


def with_a_block_too_few(folder: Path) -> None:
    configure(folder, num_hidden_layers=4, layer_types=None)


def with_eight_bit_floats(folder: Path) -> None:
    change(folder, lambda weights: weights.update({n: t.to(torch.float8_e4m3fn) for n, t in weights.items()}))


@pytest.mark.parametrize("shape", ["gpt_neox", "llama", "qwen2"])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (quantised, "quantised"),
        (with_eight_bit_floats, "quantised model (torch.float8_e4m3fn)"),
        (with_fewer_positions, "the model takes 8 tokens and rows have 16; lower"),
        (
            with_unknown_positions,
            "found rotary positions of type 'magic', expected one of default, linear",
        ),
        (with_positions_half_told, "not a {name} configuration"),
        (with_heads_that_do_not_fit, "config"),
        (with_a_weight_left_over, "1 weights have no place in a {name} model of this config.json, such as"),
        (with_a_block_too_few, "weights are missing, such as"),
    ],
)
def test_what_cannot_be_used_is_refused_in_every_family(
    prepared: Prepared, tmp_path: Path, shape: str, spoil: Any, says: str
) -> None:
    theirs = folder_of(tmp_path / "theirs", tiny_model(shape))
    spoil(theirs)
    with pytest.raises(UserError) as caught:
        bring(prepared, theirs, tmp_path / "mine")
    name = {"gpt_neox": "GPT-NeoX", "llama": "Llama", "qwen2": "Qwen2"}[shape]
    assert says.format(name=name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(theirs) in str(caught.value)


def with_windows_without_a_length(folder: Path) -> None:
    configure(folder, layer_types=["sliding_attention"] * 3, use_sliding_window=False, sliding_window=4)


def with_chunks(folder: Path) -> None:
    configure(folder, layer_types=["chunked_attention"] * 3)


def turned_in_part(folder: Path) -> None:
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    configure(folder, rope_parameters=scaled)


def turned_beyond_the_head(folder: Path) -> None:
    configure(folder, head_dim=32)


def with_two_bases(folder: Path) -> None:
    configure(folder, rope_parameters=None, rope_theta=77.0, rotary_emb_base=78.0)


def that_looks_ahead(folder: Path) -> None:
    configure(folder, is_causal=False)


@pytest.mark.parametrize(
    ("shape", "spoil", "says"),
    [
        ("qwen2", with_windows_without_a_length, "found layers with sliding_attention and no window"),
        ("qwen2", with_chunks, "found the layer type 'chunked_attention', Qwen2 models have full_attention"),
        ("qwen2", turned_in_part, "rotary positions rotate 2 coordinates of each head, expected all of 4"),
        ("llama", turned_in_part, "rotary positions rotate 2 coordinates of each head, expected all of 4"),
        ("gpt_neox", turned_beyond_the_head, "rotate 16 coordinates of each head, expected at most all of 8"),
        ("gpt_neox", with_two_bases, "found rope_theta 77.0 and, under another name, 78.0"),
        *((shape, that_looks_ahead, "found is_causal false") for shape in ("gpt2", "gpt_neox", "llama")),
    ],
)
def test_what_a_familys_code_cannot_run_is_refused_before_it_runs(
    prepared: Prepared, tmp_path: Path, shape: str, spoil: Any, says: str
) -> None:
    theirs = folder_of(tmp_path / "theirs", tiny_model(shape))
    spoil(theirs)
    with pytest.raises(UserError) as caught:
        bring(prepared, theirs, tmp_path / "mine")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(theirs) in str(caught.value)


@pytest.mark.parametrize(
    ("told", "base", "share"),
    [
        ({"rope_theta": 77.0}, 77.0, 0.25),
        ({"partial_rotary_factor": 0.5}, 1e4, 0.5),
        ({"rope_theta": 77.0, "partial_rotary_factor": 1.0}, 77.0, 1.0),
        ({"rotary_emb_base": 77.0, "rotary_pct": 0.5}, 77.0, 0.5),
        ({"rotary_emb_base": 77.0, "rope_theta": 77.0}, 77.0, 0.25),
        ({"rope_theta": 77.0, "rope_scaling": {"rope_type": "linear", "factor": 1.0}}, 77.0, 0.25),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}, "rope_theta": 77.0}, 77.0, 0.25),
        ({"partial_rotary_factor": 0.5, "rope_parameters": {"rope_theta": 77.0}}, 77.0, 0.5),
    ],
)
def test_rotary_numbers_of_a_neox_are_read_under_each_of_their_names(
    prepared: Prepared, tmp_path: Path, told: dict[str, Any], base: float, share: float
) -> None:
    rotary = {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": share}
    theirs = folder_of(tmp_path / "theirs", tiny_model("gpt_neox", rope_parameters=rotary))
    configure(theirs, **{"rope_parameters": None, **told})
    expected = tiny_model("gpt_neox", rope_parameters=rotary)
    opened = loading.load(bring(prepared, theirs, tmp_path / "mine").path)
    ids = torch.arange(16)[None]
    with torch.inference_mode():
        assert torch.equal(opened(ids).logits, expected(ids).logits)


class Evil:
    """Runs code when it is unpickled by a reader that lets it."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return (Path.touch, (self.victim,))


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_bin_file_is_not_run(prepared: Prepared, tmp_path: Path, writer: Any) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    without_weights(theirs)
    victim = tmp_path / "touched"
    writer({"a": Evil(victim)}, theirs / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: cannot be read as weights"):
        bring(prepared, theirs, tmp_path / "mine")
    assert not victim.exists()


def test_code_beside_a_model_is_not_run(prepared: Prepared, tmp_path: Path) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    victim = tmp_path / "touched"
    for name in ("modeling_gpt2.py", "custom.py"):
        (theirs / name).write_text(f"open({str(victim)!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    configure(theirs, auto_map={"AutoConfig": "custom.Config", "AutoModelForCausalLM": "custom.Model"})
    bring(prepared, theirs, tmp_path / "mine")
    assert not victim.exists()


def test_models_must_share_the_tokenizer(prepared: Prepared, tmp_path: Path) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(prepared.tokenizer.parent / name, theirs)
    bring(prepared, theirs, tmp_path / "mine")
    other = make_tokenizer(tmp_path / "other", prepared.corpus, vocabulary=270)
    shutil.copy(other.parent / "tokenizer.json", theirs)
    with pytest.raises(UserError, match=r"has another tokenizer.*must share one tokenizer"):
        bring(prepared, theirs, tmp_path / "mine again")


def hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Put the hub out of reach, with ``cache`` as its cache."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))


def test_the_hub_out_of_reach_is_one_clear_line(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, tmp_path / "cache")
    source = Source(hub="stanford-crfm/alias-gpt2-small-x21", revision="main")
    with pytest.raises(
        UserError, match=r"hub stanford-crfm/alias-gpt2-small-x21, revision main: not reachable"
    ):
        step.main(prepared.tokenizer, 16, source, Output(tmp_path / "out/ledger.json"))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_what_the_hub_once_gave_is_found_again(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    kept = tmp_path / "cache/models--someone--small/snapshots" / revision
    folder_of(kept, small_model())
    if kind == "bin":
        as_bin(kept)
    hub(monkeypatch, tmp_path / "cache")
    out = tmp_path / "out/ledger.json"
    step.main(prepared.tokenizer, 16, Source(hub="someone/small", revision=revision), Output(out))
    source = Folder(out, "language_model").check_all().attributes["source"]
    assert (source["hub"], source["revision"]) == ("someone/small", revision)


def test_the_step_says_it_in_one_line(prepared: Prepared, tmp_path: Path) -> None:
    message = run_step(
        *("import", "--tokenizer", prepared.tokenizer, "--n-ctx", "16"),
        *(
            "--settings",
            json.dumps({"path": str(tmp_path / "nowhere")}),
            "--out",
            tmp_path / "out/ledger.json",
        ),
        expect=2,
    )
    assert message.count("\n") == 1
    assert "nowhere: no such folder" in message


@pytest.mark.parametrize(
    "habits",
    [
        {"attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "flash_attention_2"},
        {"output_attentions": True, "output_hidden_states": True},
        {"return_dict": False},
        {"use_return_dict": False, "torchscript": True},
    ],
    ids=str,
)
def test_how_somebody_ran_a_model_does_not_matter(
    prepared: Prepared, tmp_path: Path, habits: dict[str, Any]
) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    plain = bring(prepared, theirs, tmp_path / "plain")
    configure(theirs, **habits)
    mine = bring(prepared, theirs, tmp_path / "mine")
    assert (mine.folder / "config.json").read_bytes() == (plain.folder / "config.json").read_bytes()
    assert loading.load(mine.path)(torch.zeros(1, 4, dtype=torch.long)).logits.shape == (1, 4, 300)


def test_a_folder_of_an_unknown_user_is_named(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^~nobody-of-that-name/x: .*; write the whole path of the folder"):
        bring(prepared, Path("~nobody-of-that-name/x"), tmp_path / "mine")


def test_an_index_that_is_no_json_is_to_be_mended(prepared: Prepared, tmp_path: Path) -> None:
    theirs = sharded(tmp_path / "theirs", tiny_model("llama"))
    (theirs / "model.safetensors.index.json").write_text("{")
    with pytest.raises(UserError, match=r"index\.json: not JSON .*; fix it, or copy it again"):
        bring(prepared, theirs, tmp_path / "mine")


def test_a_model_is_not_brought_into_its_own_folder(prepared: Prepared, tmp_path: Path) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    with pytest.raises(UserError, match="is read and would be written, expected two folders"):
        bring(prepared, theirs, theirs)
