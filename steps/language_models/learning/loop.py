"""The training loop of language models, from initial weights to the finished folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from steps.core.devices import Device, torch_device
from steps.core.digest import seed as derive
from steps.core.settings import NO_INFLUENCE
from steps.core.settings import Settings as BaseSettings
from steps.core.statistics import exact
from steps.core.stores import Ledger, read_json, write_json
from steps.core.training import Training, batch_of, cosine, decay_groups, require_finite, set_rate, spaced
from steps.interp.loading import save
from steps.language_models.learning.losses import loss_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel


logger = logging.getLogger("reprise")


STEP = "language_models.train"


REMEDY = "lower language_models.train.rate (or .clip)"


TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")


CURVE = "curve.json"


STATE = ".training.safetensors"


MOST_POINTS = 1000


class Settings(BaseSettings):
    """The model and how it is trained."""

    renamed: ClassVar[dict[str, str]] = {"width": "d_model"}

    layers: int = Field(2, ge=1, le=1024, description="transformer blocks")
    d_model: int = Field(
        64, ge=1, le=1 << 20, description="width of the residual stream; MLPs are four times as wide"
    )
    heads: int = Field(2, ge=1, le=1 << 20, description="attention heads per block; divides d_model")
    activation: Literal["gelu_new", "gelu_pytorch_tanh", "gelu", "relu"] = Field(
        "gelu_pytorch_tanh",
        description="of the MLPs: gelu_pytorch_tanh (GPT-2's gelu_new in one kernel), gelu_new, gelu or relu",
    )
    scale_attention_by_layer: bool = Field(
        False, description="divide attention scores by the block's number (Stanford's GPT-2 models)"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="of embeddings, attention and residuals in training (paper: 0.1)"
    )
    tokens: int = Field(
        3_500_000, ge=1, le=10**13, description="targets seen in training, rounded up to whole steps"
    )
    batch_rows: int = Field(64, ge=1, le=1 << 20, description="rows per step")
    rate: float = Field(
        8e-3,
        gt=0,
        description="peak learning rate of AdamW, after warm-up; then half a cosine down to a tenth",
    )
    weight_decay: float = Field(0.1, ge=0, description="of matrices; vectors have none")
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps until the peak rate")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    checkpoints: int = Field(6, ge=0, le=10_000, description="kept on the way, besides the finished model")
    checkpoint_spacing: Literal["log", "even"] = Field(
        "log", description="of checkpoints in steps: log or even"
    )
    evaluations: int = Field(
        8, ge=1, le=100_000, description="on the held-out side on the way, evenly spaced"
    )
    evaluation_rows: int = Field(128, ge=1, le=10**9, description="held-out rows of each")
    device: Device = Field("cpu", description="where the model is trained")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the arithmetic: float32 or bfloat16; weights are float32"
    )
    threads: int = Field(1, ge=1, le=1024, description="arithmetic threads")
    save_seconds: float = Field(
        30.0,
        ge=0,
        description="seconds between writings of the state that survives a kill; no influence on the result",
        json_schema_extra=NO_INFLUENCE,
    )

    @model_validator(mode="after")
    def _heads_divide_d_model(self) -> Settings:
        if self.d_model % self.heads:
            raise ValueError(f"d_model ({self.d_model}) to be a multiple of heads ({self.heads})")
        return self


def configuration(settings: Settings, vocabulary: int, context: int, bos: int | None) -> GPT2Config:
    """The model's configuration in Hugging Face format."""
    from transformers import GPT2Config

    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=settings.d_model,
        n_layer=settings.layers,
        n_head=settings.heads,
        activation_function=settings.activation,
        scale_attn_by_inverse_layer_idx=settings.scale_attention_by_layer,
        embd_pdrop=settings.dropout,
        attn_pdrop=settings.dropout,
        resid_pdrop=settings.dropout,
        bos_token_id=bos,
        eos_token_id=bos,
        use_cache=False,
    )
    config._attn_implementation = "sdpa"
    return config


def initial_model(config: GPT2Config, seed: int) -> GPT2LMHeadModel:
    """A model with the random weights of ``seed``."""
    import torch
    from transformers import GPT2LMHeadModel

    torch.manual_seed(derive(seed, STEP, "weights"))
    return GPT2LMHeadModel(config)


def step_function(
    model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer, clip: float, dtype: str = "float32"
) -> Callable[..., torch.Tensor]:
    """What one step does: rows ``[batch, context]`` of token ids in, their mean loss in nats out.

    A second argument, ``bool [batch, context]``, says which tokens count as targets; by default all do, but
    for the first of a row.
    """
    import torch

    parameters = list(model.parameters())
    device = parameters[0].device
    own_kernels = device.type == "cpu" and dtype == "float32"
    if own_kernels:
        from steps.language_models.learning.kernels import Gelu, next_token_loss

        if model.config.activation_function in TANH_GELU:
            blocks: Any = model.transformer.h
            for block in blocks:
                block.mlp.act = Gelu()
    precision = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")

    def step(rows: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
        inputs, targets = rows[:, :-1], rows[:, 1:].reshape(-1)
        with precision:
            hidden = model.transformer(inputs, use_cache=False).last_hidden_state.flatten(0, 1)
            if counted is not None:
                chosen = counted[:, 1:].reshape(-1)
                hidden, targets = hidden[chosen], targets[chosen]
            if own_kernels:
                loss = next_token_loss(hidden, model.lm_head.weight, targets)
            else:
                loss = torch.nn.functional.cross_entropy(model.lm_head(hidden).float(), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def new_optimizer(model: GPT2LMHeadModel, settings: Settings) -> torch.optim.Optimizer:
    """AdamW that lets matrices decay and leaves vectors alone."""
    import torch

    groups = decay_groups(model.parameters(), settings.weight_decay)
    return torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.95), fused=True)


def train(
    train_rows: np.ndarray,
    held_out_rows: np.ndarray,
    config: GPT2Config,
    seed: int,
    settings: Settings,
    ledger: Ledger,
    initial: GPT2LMHeadModel | None = None,
    counted: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Train a model and write it, its checkpoints and its curve; the ledger is left to the caller.

    Where all of these are whole already, nothing is trained.

    Args:
        train_rows: token ids, ``int32 [rows, context]``, BOS first.
        held_out_rows: the same, for evaluations on the way.
        config: the model's configuration.
        seed: of weights and order.
        settings: the step's settings.
        ledger: of the folder to write into.
        initial: a model to start from, which is changed; by default random weights.
        counted: which tokens of ``train_rows`` count as targets, ``bool [rows, context]``; by default all.
            Held-out losses, and the targets that the curve counts, are of whole rows.

    Returns:
        the curve.

    Raises:
        UserError: there is no such device, or the loss is not finite.
    """
    import torch

    count, context = train_rows.shape
    targets = settings.batch_rows * (context - 1)
    total = -(-settings.tokens // targets)
    device = torch_device(settings.device)
    kept = set(spaced(total, settings.checkpoints, settings.checkpoint_spacing))
    folders = ["", *(f"{checkpoint_name(step)}/" for step in kept)]
    whole = {f"{folder}{file}" for folder in folders for file in ("config.json", "model.safetensors")}
    if whole | {CURVE} <= ledger.files.keys():
        (ledger.folder / STATE).unlink(missing_ok=True)  # killed between the last file and its removal
        curve: list[dict[str, Any]] = read_json(ledger.folder / CURVE)
        return curve
    model = (initial if initial is not None else initial_model(config, seed)).train()
    torch.nn.Module.to(model, device)  # the model's own is typed wrongly
    optimizer = new_optimizer(model, settings)
    one_step = step_function(model, optimizer, settings.clip, settings.dtype)
    evaluated = {round(total * (k + 1) / settings.evaluations) for k in range(settings.evaluations)}
    every = max(1, total // MOST_POINTS)
    data = torch.from_numpy(train_rows)
    mask = None if counted is None else torch.from_numpy(counted)

    training = Training(
        ledger.folder / STATE,
        ledger.fingerprint,
        {"model": model},
        {"adamw": optimizer},
        save_seconds=settings.save_seconds,
    )
    for step in training.steps(total, seed, f"steps of seed {seed}"):
        rate = settings.rate * cosine(step, total, round(exact(settings.warmup) * total))
        set_rate(optimizer, rate)
        numbers = batch_of(step, count, settings.batch_rows, seed, STEP)
        batch = data[numbers].long().to(device)
        loss = one_step(batch) if mask is None else one_step(batch, mask[numbers].to(device))
        done = step + 1
        if done in kept:
            save(model, ledger, checkpoint_name(done))
        if done in evaluated or done % every == 0 or done == total:
            point = {"step": done, "tokens": done * targets, "rate": rate, "training_loss": loss.item()}
            require_finite(point["training_loss"], "training", done, total, REMEDY)
            if done in evaluated:
                model.eval()
                held_out = loss_of(model, held_out_rows[: settings.evaluation_rows]).mean
                model.train()
                require_finite(held_out, "held-out", done, total, REMEDY)
                logger.info("step %d of %d: held-out loss %.3f nats", done, total, held_out)
            training.curve.append({**point, "held_out_loss": held_out if done in evaluated else None})
    save(model, ledger)
    write_json(ledger.place(CURVE), training.curve)
    ledger.record(CURVE)
    training.finish()
    return training.curve


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint after a number of steps."""
    return f"checkpoints/step-{step:06d}"
