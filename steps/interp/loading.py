"""Language models and tokenizers of Hugging Face's layout: found, read, opened, written.

Only files with known names are looked at, none of them is ever executed: no code that a repository
contains, no pickle beyond the tensors that ``weights_only`` lets through.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.devices import torch_device, torch_dtype
from steps.core.digest import fingerprint
from steps.core.errors import UserError
from steps.core.sources import SETTINGS, Source, fetch
from steps.core.stores import Folder, Ledger, read_json
from steps.interp.architectures import (
    EMBEDDINGS,
    FAMILIES,
    NAMES,
    ROTARY,
    architecture,
    compute_in_float64,
    config_class,
    model_class,
)

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedModel


logger = logging.getLogger("reprise")


def load(
    ledger: Path,
    device: str = "cpu",
    dtype: str = "float32",
    checkpoint: str | None = None,
    kind: str = "language_model",
) -> PreTrainedModel:
    """Open a language model of any family for evaluation, after its files were compared with their hashes.

    Args:
        ledger: the model's ledger (``data/models/STUDY/MODEL/ledger.json``).
        device: where it goes.
        dtype: what its weights are converted to. Always given: transformers would otherwise
            take the type they are stored in. In float64 everything is computed in float64.
        checkpoint: such as ``checkpoints/step-000100``; the finished model by default.
        kind: of the folder.

    Raises:
        UserError: a file is missing or differs from its hash, the model is of an unknown family, or
            there is no such device.
    """
    folder = Folder(ledger, kind)
    prefix = f"{checkpoint}/" if checkpoint else ""
    known = family(read_json(folder.check(f"{prefix}config.json")), folder.path)
    weights = folder.check(f"{prefix}model.safetensors")
    if f"{prefix}generation_config.json" in folder.files:  # transformers reads it
        folder.check(f"{prefix}generation_config.json")
    where = torch_device(device)
    quiet()
    import torch

    model: PreTrainedModel = model_class(known).from_pretrained(
        weights.parent,
        dtype=torch_dtype(dtype),
        attn_implementation="sdpa",
        local_files_only=True,
        use_safetensors=True,
    )
    if dtype == "float64":
        compute_in_float64(model)
    model.eval()
    torch.nn.Module.to(model, where)  # the model's own is typed wrongly
    return model


def config(ledger: Path, checkpoint: str | None = None) -> PreTrainedConfig:
    """The configuration of a model, or of one of its checkpoints, without the weights."""
    name = f"{checkpoint}/config.json" if checkpoint else "config.json"
    content = read_json(Folder(ledger, "language_model").check(name))
    return config_class(family(content, ledger)).from_dict(content)


def skeleton(ledger: Path, checkpoint: str | None = None) -> PreTrainedModel:
    """A model without its weights, on torch's ``meta`` device: its parts and sizes, at no cost of memory."""
    import torch

    described = config(ledger, checkpoint)
    with torch.device("meta"):
        model: PreTrainedModel = model_class(described.model_type)(described)
    return model


def family(config: object, path: Path) -> str:
    """The family of a model, one of ``FAMILIES``.

    Args:
        config: contents of its ``config.json``.
        path: where they are from, for the message.

    Raises:
        UserError: another one.
    """
    found = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(found, str) or found not in FAMILIES:
        raise UserError(f"{path}: found the model type {found!r}, supported are: {', '.join(FAMILIES)}")
    return found


def save(model: PreTrainedModel, ledger: Ledger, folder: str = "") -> None:
    """Write a model in Hugging Face format into ``folder`` of a ledger's folder, in its own dtype."""
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        where = ledger.place(str(Path(folder, name))).parent
    model.save_pretrained(where, max_shard_size="1000TB")  # one file, however large
    (where / "generation_config.json").unlink(missing_ok=True)
    shutil.copymode(where / "config.json", where / "model.safetensors")  # others may read it too
    for name in ("config.json", "model.safetensors"):
        ledger.record(str(Path(folder) / name))


def files_beside(folder: Path) -> dict[str, bytes]:
    """What a model's folder holds of ``BESIDE``; the template of a chat also from ``tokenizer_config.json``.

    Raises:
        UserError: a file is not what its name says.
    """
    from transformers import GenerationConfig

    found: dict[str, bytes] = {}
    generation, template = (folder / name for name in BESIDE)
    if generation.is_file():
        content = read_json(generation, user_supplied=True)
        try:
            if not isinstance(content, dict):
                raise TypeError(f"found {type(content).__name__}, expected an object")
            GenerationConfig.from_dict(content)
        except Exception as error:  # the library validates with exceptions of many kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{generation}: not a generation configuration ({reason}); fix it") from None
        found[generation.name] = generation.read_bytes()
    if template.is_file():
        found[template.name] = template.read_bytes()
    elif (folder / "tokenizer_config.json").is_file():
        content = read_json(folder / "tokenizer_config.json", user_supplied=True)
        text = content.get("chat_template") if isinstance(content, dict) else None
        if isinstance(text, list):  # several, each with a name
            named = [item for item in text if isinstance(item, dict) and item.get("name") == "default"]
            text = named[0].get("template") if named else None
        if isinstance(text, str):
            found[template.name] = text.encode("utf-8", "surrogatepass")
    try:
        found.get(template.name, b"").decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{template}: not text in UTF-8 ({error}); save it again") from None
    return found


def quiet() -> None:
    """Keep transformers from drawing progress bars into logs and warning of what is intended."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_tokenizer(ledger: Path) -> Tokenizer:
    """Open a tokenizer (``data/models/STUDY/tokenizer/ledger.json``).

    Raises:
        UserError: a file is missing or differs from its hash.
    """
    return read_tokenizer(Folder(ledger, "tokenizer").check("tokenizer.json"))


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``, without the truncation and padding that it may ask for.

    Raises:
        UserError: it is missing or holds something else.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise UserError(f"{path}: not a tokenizer in Hugging Face format ({error}); replace it") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")


BESIDE = ("generation_config.json", "chat_template.jinja")
"""What says how a model is used, and is kept with it: JSON and text, which nothing here executes."""


_WEIGHT_NAMES = (
    ("model.safetensors.index.json", "model.safetensors", "model-*-of-*.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model-*-of-*.bin"),
)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a model folder, sorted: safetensors where there are some, else ``.bin``.

    One whole file goes before shards, and of shards those that the index names: others are left from an
    earlier cut.

    Raises:
        UserError: the index is damaged, or names a file that is not there.
    """
    for index, whole, shards in _WEIGHT_NAMES:
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            return _indexed(folder / index)
        found = sorted(folder.glob(shards))
        if found:
            return found
    return []


def _indexed(index: Path) -> list[Path]:
    content = read_json(index, user_supplied=True)
    places = content.get("weight_map") if isinstance(content, dict) else None
    names = set(places.values()) if isinstance(places, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"{index}: not an index of weight files beside it; copy or download it again")
    files = [index.parent / name for name in sorted(names)]
    missing = next((path for path in files if not path.is_file()), None)
    if missing is not None:
        raise UserError(f"{missing}: missing, though {index.name} names it; copy all weight files")
    return files


def model_files(folder: Path) -> list[Path]:
    """The files of a local model folder that decide what is imported, to be declared one by one.

    Raises:
        UserError: there is no such folder, or it holds no model.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; list the folder of a model in Hugging Face format")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: found no config.json, expected a model in Hugging Face format")
    weights = weight_files(folder)
    if not weights:
        raise UserError(
            f"{folder}: found no weights, expected model.safetensors or pytorch_model.bin;"
            " copy them there or list another folder"
        )
    indices = [folder / index for index, *_ in _WEIGHT_NAMES if (folder / index).is_file()]
    beside = [folder / name for name in BESIDE if (folder / name).is_file()]
    return [folder / "config.json", *indices, *weights, *beside, *tokenizer_files(folder)]


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that describe its tokenizer."""
    return [folder / name for name in TOKENIZER if (folder / name).is_file()]


def fetch_model(source: Source) -> Path:
    """A local folder with a model; ``.bin`` files are downloaded only where there is nothing better."""
    common = SETTINGS + BESIDE + TOKENIZER
    folder = fetch(source, (*common, *_WEIGHT_NAMES[0]))
    if source.hub is not None and not weight_files(folder):
        folder = fetch(source, (*common, *_WEIGHT_NAMES[1]))
    model_files(folder)
    return folder


BUFFERS = (".attn.bias", ".attention.bias", ".masked_bias", ".inv_freq")
"""Ends of the names of constants that old files hold besides the weights: masks, rotary frequencies. They
have a dtype of their own, and masks may be infinite; the models' code rebuilds them."""


HABITS = (
    *("attn_implementation", "attn_implementation_internal", "output_attentions", "output_hidden_states"),
    *("return_dict", "use_return_dict", "torchscript"),
)
"""Keys of a configuration that say how somebody ran the model, not what it is. Some ask for packages that
are not here, some change what a pass returns, some cannot be written again."""


PADDING = 1024
"""An embedding may have that many rows, or a twentieth, more than the tokenizer has ids. Trainers round up
for speed: Pythia has 50304 or 50432 rows for 50277 ids. With more it is another vocabulary."""


def read_config(path: Path, vocabulary: int, context: int) -> PreTrainedConfig:
    """Read a model's configuration.

    Args:
        path: its ``config.json``.
        vocabulary: size of the shared tokenizer, which the model must cover; a few rows more are padding.
        context: tokens per row, which the model must take.

    Raises:
        UserError: another family, other rotary positions than the family's code knows, another
            vocabulary, too short a context, or not a configuration.
    """
    content = read_json(path, user_supplied=True)
    kind = family(content, path)
    content = {key: value for key, value in content.items() if key.removeprefix("_") not in HABITS}
    if kind == "gpt_neox":
        content = _under_the_familys_names(content, path)
    ours = config_class(kind)
    odd = next((key for key in content if key == "attribute_map" or callable(getattr(ours, key, None))), None)
    if odd is not None:
        raise UserError(
            f"{path}: found the key {odd!r}, which no {NAMES[kind]} configuration has; take it out"
        )
    if content.get("quantization_config") or content.get("compression_config"):
        raise UserError(f"{path}: found a quantised model; list one whose weights are plain numbers")
    try:
        config: PreTrainedConfig = ours.from_dict(content)
    except Exception as error:  # the library validates with exceptions of many kinds
        raise UserError(f"{path}: not a {NAMES[kind]} configuration ({error}); fix it") from None
    counts = ("num_hidden_layers", "hidden_size", "num_attention_heads")  # GPT-2's answer to these, too
    wrong = {name: getattr(config, name) for name in counts if not _is_count(getattr(config, name))}
    margins = ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps")
    wrong |= {name: getattr(config, name) for name in margins if not 0 <= getattr(config, name, 0) < math.inf}
    if wrong:
        name, value = wrong.popitem()
        raise UserError(f"{path}: found {name} {value!r}, expected a number above 0; fix it")
    if getattr(config, "is_causal", True) is False:
        raise UserError(
            f"{path}: found is_causal false, so that tokens see those after them; list a model that predicts"
            " the next token from those before it"
        )
    _check_windows(config, path)
    rotary = getattr(config, "rope_parameters", None) or {}
    if kind != "gpt2" and rotary.get("rope_type") not in ROTARY:
        raise UserError(
            f"{path}: found rotary positions of type {rotary.get('rope_type')!r}, expected one of"
            f" {', '.join(ROTARY)} for a {NAMES[kind]} model; list another model"
        )
    if not vocabulary <= config.vocab_size <= vocabulary + max(PADDING, vocabulary // 20):
        raise UserError(
            f"{path}: the model knows {config.vocab_size} tokens and the tokenizer {vocabulary}; set"
            " language_models.tokenizer to the tokenizer that the models were trained with"
        )
    _check_context(config.max_position_embeddings, context, path)  # GPT-2's n_positions has this name, too
    return config


def require_context(path: Path, context: int) -> None:
    """Refuse a model that does not take rows of ``context`` tokens, before any library is loaded.

    Raises:
        UserError: it takes fewer, as its ``config.json`` at ``path`` says.
    """
    content = read_json(path, user_supplied=True)
    for key in ("n_positions", "max_position_embeddings"):
        if isinstance(content, dict) and _is_count(content.get(key)):
            _check_context(content[key], context, path)


def _check_context(longest: int, context: int, path: Path) -> None:
    if longest < context:
        raise UserError(
            f"{path}: the model takes {longest} tokens and rows have {context}; lower"
            " language_models.rows.n_ctx"
        )


NEOX_ROTARY = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
"""What GPT-NeoX calls two numbers of rotary positions that other families have under the first names."""


def _under_the_familys_names(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """A GPT-NeoX configuration with the numbers of its rotary positions where transformers looks for them.

    transformers 5.23 reads ``rotary_emb_base`` and ``rotary_pct``, or ``rope_parameters``. The names of
    the other families at top level it passes over without a word, and takes 10000 and 0.25.

    Raises:
        UserError: one number under two names, with two values.
    """
    content = dict(content)
    inside = content.get("rope_parameters") or content.get("rope_scaling") or {}
    for name, own in NEOX_ROTARY.items():
        value = content.pop(name, None)
        if value is None:
            continue
        other = inside.get(name) if isinstance(inside, dict) else None
        other = content.get(own) if other is None else other
        if other is not None and other != value:
            raise UserError(
                f"{path}: found {name} {value!r} and, under another name, {other!r}; leave the value that the"
                " model was trained with"
            )
        content[own] = value
    return content


def _check_windows(config: PreTrainedConfig, path: Path) -> None:
    """Refuse kinds of attention that Qwen2's code has not; the other families' codes read no kinds.

    Raises:
        UserError: there is one, or a window without a length.
    """
    if config.model_type != "qwen2":
        return
    kinds = set(config.layer_types)
    if odd := kinds - {"full_attention", "sliding_attention"}:
        raise UserError(
            f"{path}: found the layer type {min(odd)!r}, Qwen2 models have full_attention and"
            " sliding_attention; fix it"
        )
    if "sliding_attention" in kinds and not _is_count(config.sliding_window):
        raise UserError(
            f"{path}: found layers with sliding_attention and no window (use_sliding_window"
            f" {config.use_sliding_window}, sliding_window {config.sliding_window}); set both, or make the"
            " layer_types full_attention"
        )


def _check_rotary(model: PreTrainedModel, where: Path) -> None:
    """Refuse rotary positions that do not fit the heads, which transformers notices in a pass only.

    Raises:
        UserError: they rotate another number of coordinates than the family's heads have.
    """
    parts = architecture(model)
    if not parts.rotary:
        return
    rotary: Any = model.base_model.rotary_emb
    found = 2 * len(rotary.inv_freq)
    whole = parts.family != "gpt_neox"  # whose heads may be rotated in part
    if found > parts.d_head or (whole and found < parts.d_head):
        expected = "all" if whole else "at most all"
        raise UserError(
            f"{where}: config.json says that rotary positions rotate {found} coordinates of each head,"
            f" expected {expected} of {parts.d_head} in a {NAMES[parts.family]} model; take out"
            " partial_rotary_factor, or fix head_dim"
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def read_weights(files: list[Path]) -> dict[str, torch.Tensor]:
    """Read the weights of weight files, ``BUFFERS`` left out.

    Raises:
        UserError: a file is damaged, or holds more than tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            if path.suffix == ".safetensors":
                content = load_file(path)
            else:
                content = torch.load(path, map_location="cpu", weights_only=True)
        except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise _unreadable(path, error) from None
        except Exception as error:  # pickle.UnpicklingError: weights_only refused what the file asks for
            raise _unreadable(path, error) from None
        if not isinstance(content, dict) or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
            for name, value in content.items()
        ):
            raise UserError(f"{path}: expected named dense tensors only; save the model with save_pretrained")
        tensors |= {name: value for name, value in content.items() if not name.endswith(BUFFERS)}
    return tensors


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UserError(f"{path}: cannot be read as weights ({reason}); copy or download it again")


WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that torch.compile, FSDP and activation checkpointing put anywhere before a module."""


def unwrapped(
    tensors: dict[str, torch.Tensor], config: PreTrainedConfig, where: Path
) -> dict[str, torch.Tensor]:
    """Weights under the family's own names, where something wrapped the model when they were saved.

    What precedes all names is removed (``module.`` of data parallelism, ``model.`` of a trainer,
    ``base_model.model.`` of an adapter), and ``WRAPPERS`` wherever they are.

    Raises:
        UserError: the weights are an adapter's, or something precedes some names only.
    """
    if adapter := next((name for name in tensors if ".lora_" in name or ".base_layer." in name), None):
        raise UserError(
            f"{where}: found the weights of an adapter, such as {adapter!r}; merge them into the model"
            " (merge_and_unload in PEFT), and save it with save_pretrained"
        )
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        own = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if own in found:
            raise UserError(
                f"{where}: found the weight {own!r} twice, once as {name!r}; save the model again"
            )
        found[own] = tensor
    removed = {part for name in tensors for part in name.split(".") if part in WRAPPERS}
    whole, body = EMBEDDINGS[config.model_type]
    prefixes = {name[: -len(whole)] for name in found if f".{name}".endswith(f".{whole}")} or {
        name[: -len(body)] for name in found if f".{name}".endswith(f".{body}")
    }
    if len(prefixes) > 1:
        names = " and ".join(map(repr, sorted(prefixes)[:2]))
        raise UserError(
            f"{where}: found {len(prefixes)} models in one, whose weights' names begin with {names}; save the"
            " language model by itself with save_pretrained"
        )
    prefix = next(iter(prefixes), "")
    if prefix:
        others = [name for name in found if not name.startswith(prefix)]
        if others:
            raise UserError(
                f"{where}: found {len(found) - len(others)} weights whose names begin with {prefix!r}, as no"
                f" {NAMES[config.model_type]} model's do, and {len(others)} without it, such as"
                f" {others[0]!r}; save the language model by itself with save_pretrained"
            )
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    if prefix or removed:
        what = " and ".join(
            map(repr, [*([prefix] if prefix else []), *sorted(f"{part}." for part in removed)])
        )
        logger.info("%s: left out %s of the weights' names, which something wrapped", where, what)
    return found


def build(config: PreTrainedConfig, tensors: dict[str, torch.Tensor], where: Path) -> PreTrainedModel:
    """Put weights into a model of the dtype in which they are stored.

    Raises:
        UserError: weights are missing or left over, have other shapes than the configuration says, are
            not finite, or are quantised.
    """
    import torch

    kinds = {tensor.dtype for tensor in tensors.values()}
    if not kinds:
        raise UserError(f"{where}: the weight files hold no weights; copy or download them again")
    odd = kinds - {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    if odd:
        raise UserError(
            f"{where}: found a quantised model ({odd.pop()}); list one whose weights are plain numbers"
        )
    if config.num_hidden_layers > len(tensors):  # making them all first would take hours
        raise UserError(
            f"{where}: config.json says {config.num_hidden_layers} layers, found {len(tensors)} weights,"
            " expected several for each layer; copy both again"
        )
    tensors = unwrapped(tensors, config, where)
    dtype = functools.reduce(torch.promote_types, kinds)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{where}: the weight {name!r} is not finite; list a model that is whole")
    try:
        loaded: Any = model_class(config.model_type).from_pretrained(
            None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True
        )
    except (RuntimeError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{where}: config.json and the weights do not fit together ({reason}); copy both again"
        ) from None
    model: PreTrainedModel = loaded[0]
    missing, left = sorted(loaded[1]["missing_keys"]), sorted(loaded[1]["unexpected_keys"])
    if missing:
        others = f" (and {len(left)} left over, such as {left[0]!r})" if left else ""
        raise UserError(
            f"{where}: {len(missing)} weights are missing, such as {missing[0]!r}{others}; copy all weight"
            " files, of one model"
        )
    if left:
        raise UserError(
            f"{where}: {len(left)} weights have no place in a {NAMES[config.model_type]} model of this"
            f" config.json, such as {left[0]!r}; copy both again, or list a plain language model"
        )
    _check_rotary(model, where)
    # Where files hold two different matrices, they are not tied, whatever config.json says.
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    model.config.tie_word_embeddings = embedding.weight is unembedding.weight
    return model


def weights_fingerprint(model: Folder) -> str:
    """What identifies a model: the hashes of its configuration and weights."""
    return fingerprint({name: model.files[name]["sha256"] for name in ("config.json", "model.safetensors")})


def weights_digests(weights: Path) -> list[str]:
    """Digests of a model's weights rounded to float16 and to bfloat16.

    Models share one of them where one is the other saved in fewer bits (not where one has the bits of
    float16 and one those of bfloat16), whatever their configuration says.
    """
    import torch
    from safetensors import safe_open

    digests = {dtype: hashlib.sha256() for dtype in (torch.float16, torch.bfloat16)}
    with safe_open(weights, framework="pt") as file:
        for name in sorted(file.keys()):
            values = file.get_tensor(name)
            for dtype, digest in digests.items():
                digest.update(f"{name} {list(values.shape)}".encode())
                digest.update(values.to(dtype).view(torch.int16).numpy())
    return [f"{str(dtype).removeprefix('torch.')} {digest.hexdigest()}" for dtype, digest in digests.items()]
