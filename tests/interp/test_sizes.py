"""Sizes of models from their config.json, and the FLOPs that follow from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steps.core.errors import UserError
from steps.interp.sizes import local_configuration, model_size


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("GPT2", {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257}),
        (
            "GPTNeoX",
            {
                **{"num_hidden_layers": 3, "hidden_size": 96, "intermediate_size": 384},
                **{"num_attention_heads": 4, "vocab_size": 700},
            },
        ),
        (
            "Llama",
            {
                **{"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 172},
                **{"num_attention_heads": 4, "vocab_size": 500},
            },
        ),
    ],
)
def test_forward_passes_are_what_torch_counts(tmp_path: Path, family: str, shape: dict[str, int]) -> None:
    """A model without data: torch counts its products, those of the unembedding on top of ours."""
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    context = 512
    config = getattr(transformers, f"{family}Config")(**shape)
    config.save_pretrained(tmp_path)
    size = model_size("x", tmp_path / "config.json")
    kind = getattr(transformers, "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")
    with torch.device("meta"):
        model = kind(config)
        ids = torch.zeros((1, context), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(ids)
    unembedding = 2.0 * size.vocabulary * size.d_model
    # Rotary models also form their angles as a product.
    assert counter.get_total_flops() == pytest.approx(
        context * (size.forward(context) + unembedding), rel=1e-3
    )
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.ndim == 2}
    of_blocks = sum(count for name, count in matrices.items() if ".h." in name or ".layers." in name)
    assert of_blocks == size.parameters


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
    model = model_size("x", path)
    assert (model.layers, model.d_mlp, model.d_model, model.gated) == expected
    assert (model.heads, model.vocabulary) == (3, 77)
    assert model.read_from == str(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"n_layer": 2}', '{"n_layer": 0, "n_embd": 8}'])
def test_a_broken_config_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json: found no sizes of a model in it"):
        model_size("x", tmp_path / "config.json")


def test_a_local_folder_and_the_cache_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert local_configuration(str(tmp_path), None, None) is None
    (tmp_path / "config.json").write_text("{}")
    assert local_configuration(str(tmp_path), None, None) == tmp_path / "config.json"
    repository = tmp_path / "hub" / "models--somebody--model"
    commit = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    assert local_configuration(None, "somebody/model", "main") is None
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    found = local_configuration(None, "somebody/model", "main")
    assert found is not None
    assert found.read_text() == "{}"
