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
from steps.core.stores import Folder
from steps.language_models import models
from steps.language_models.sources import Source
from tests.language_models.conftest import Prepared, make_tokenizer, run_step, small_model

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
    opened = models.load(mine.path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor.float()), name
    assert {t.dtype for t in load_file(mine.folder / "model.safetensors").values()} == {dtype}
    assert mine.attributes["tokenizer"] == Folder(prepared.tokenizer, "tokenizer").fingerprint
    assert mine.attributes["source"]["path"] == str(theirs)


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
    opened = models.load(bring(prepared, theirs, tmp_path / "mine").path)
    assert torch.equal(opened.transformer.h[1].mlp.c_fc.weight, model.transformer.h[1].mlp.c_fc.weight)


def test_twice_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    theirs = folder_of(tmp_path / "theirs", small_model())
    ledgers = [bring(prepared, theirs, tmp_path / name).path.read_bytes() for name in ("a", "b")]
    assert ledgers[0] == ledgers[1]


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def without_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()


def of_another_family(folder: Path) -> None:
    configure(folder, model_type="llama")


def quantised(folder: Path) -> None:
    configure(folder, quantization_config={"bits": 4})


def of_fewer_tokens(folder: Path) -> None:
    folder_of(folder, small_model(vocabulary=100))


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
        (of_another_family, "model type 'llama', supported are: gpt2"),
        (quantised, "quantised"),
        (of_fewer_tokens, "the model knows 100 tokens and the tokenizer 284"),
        (of_fewer_positions, "the model takes 8 tokens and rows have 16; lower language_models.rows.context"),
        (truncated, "model.safetensors: cannot be read as weights"),
        (with_a_weight_missing, "1 weights are missing, such as 'transformer.h.1.mlp.c_fc.weight'"),
        (with_a_weight_of_another_shape, "do not fit together"),
        (with_a_weight_that_is_not_finite, "'transformer.wte.weight' is not finite"),
        (with_a_broken_configuration, "config.json: not JSON"),
        (with_a_nonsense_configuration, "not a GPT-2 configuration"),
        (with_another_activation, "do not fit together"),
        (with_an_empty_bin, "pytorch_model.bin: cannot be read as weights"),
        (with_numbers_for_weights, "expected named tensors only"),
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
    with pytest.raises(UserError, match=r"brings another tokenizer.*must share one tokenizer"):
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
        *("import", "--tokenizer", prepared.tokenizer, "--context", "16"),
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
