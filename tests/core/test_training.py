"""The training loop: interrupted anywhere and started again, it ends with the same bits."""

from __future__ import annotations

import fcntl
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steps.core.errors import UserError
from steps.core.training import Training, batch_of, cosine, decay_groups, require_finite, set_rate, spaced

TOTAL = 12


class Killed(Exception):  # noqa: N818
    """Stands for a kill."""


def train(
    state: Path, seed: int = 1, stop: int | None = None, save_seconds: float = 0.0, made_from: Any = "x"
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """A training with all that has to survive: dropout, a buffer, tied weights, two optimizers, a tensor."""
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8))
    head = nn.Linear(8, 8)
    head.weight = body[3].weight
    modules = nn.ModuleDict({"body": body, "head": head})
    memory = torch.zeros(3)
    adam = torch.optim.AdamW(body.parameters(), lr=0.1, fused=True)
    momentum = torch.optim.SGD([head.bias], lr=0.1, momentum=0.9)
    training = Training(
        state, made_from, modules, {"adam": adam, "momentum": momentum}, {"memory": memory}, save_seconds
    )
    for step in training.steps(TOTAL, seed, "steps"):
        if step == stop:
            raise Killed
        set_rate(adam, 0.1 * cosine(step, TOTAL, 2))
        loss = head(body(torch.randn(6, 4) + memory.sum())).square().mean()
        loss.backward()
        for optimizer in (adam, momentum):
            optimizer.step()
            optimizer.zero_grad()
        memory[step % 3] = loss.detach()
        training.curve.append({"step": step, "loss": loss.item()})
    values = {name: tensor.clone() for name, tensor in modules.state_dict().items()} | {"memory": memory}
    training.finish()
    return values, training.curve


def same(a: tuple[dict[str, torch.Tensor], Any], b: tuple[dict[str, torch.Tensor], Any]) -> bool:
    return a[1] == b[1] and all(torch.equal(x, b[0][name]) for name, x in a[0].items())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(tmp_path_factory.mktemp("training") / "state", save_seconds=1e9)


@pytest.mark.parametrize("stop", range(TOTAL))
def test_one_that_was_stopped_ends_with_the_same_bits(tmp_path: Path, undisturbed: Any, stop: int) -> None:
    state = tmp_path / "state"
    with pytest.raises(Killed):
        train(state, stop=stop)
    assert same(train(state), undisturbed)
    assert not state.exists()


def test_stopped_again_and_again(tmp_path: Path, undisturbed: Any) -> None:
    for stop in (3, 4, 9, 11):
        with pytest.raises(Killed):
            train(tmp_path / "state", stop=stop)
    assert same(train(tmp_path / "state"), undisturbed)


def test_a_finished_training_whose_results_were_not_written_is_not_repeated(
    tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Training, "finish", lambda self: None)
    train(tmp_path / "state", save_seconds=1e9)
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: pytest.fail("a step was done again"))
    assert same(train(tmp_path / "state"), undisturbed)


def test_seeds_differ(tmp_path: Path, undisturbed: Any) -> None:
    assert not same(train(tmp_path / "state", seed=2), undisturbed)


def test_the_state_of_other_settings_is_not_used(
    tmp_path: Path, undisturbed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "state", seed=2, stop=6, made_from="y")
    with caplog.at_level("INFO"):
        assert same(train(tmp_path / "state"), undisturbed)
    assert "other settings" in caplog.text


def _damaged(whole: bytes) -> Iterator[bytes]:
    for share in (0.0, 0.01, 0.5, 0.99):
        yield whole[: int(len(whole) * share)]
    middle = len(whole) * 3 // 4
    yield whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    yield b"\x80\x04pickle" * 9
    yield whole.replace(b'\\"step\\": 6', b'\\"step\\": 7')


@pytest.mark.parametrize("kind", range(7))
def test_a_damaged_state_is_noticed_and_training_starts_from_its_beginning(
    tmp_path: Path, undisturbed: Any, kind: int, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    with pytest.raises(Killed):
        train(state, stop=6)
    whole = state.read_bytes()
    broken = next(itertools.islice(_damaged(whole), kind, None))
    assert broken != whole
    state.write_bytes(broken)
    assert same(train(state), undisturbed)
    assert "damaged" in caplog.text


def test_a_state_that_was_being_written_is_no_state(tmp_path: Path, undisturbed: Any) -> None:
    state = tmp_path / "state"
    state.with_name("state.part").write_bytes(b"half of it")
    assert same(train(state), undisturbed)
    assert list(tmp_path.iterdir()) == []


def test_the_state_leaves_nothing_half_written_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    with pytest.raises(Killed):
        train(state, stop=3)
    before = state.read_bytes()

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        train(state)
    assert list(tmp_path.iterdir()) == [state]
    assert state.read_bytes() == before


def test_the_schedule_climbs_to_its_peak_and_falls_to_its_floor() -> None:
    rates = [cosine(step, 100, 10, floor=0.1) for step in range(100)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] > 0
    assert rates[10] == 1.0
    assert 0.1 < rates[-1] < 0.11
    assert cosine(0, 1, 0) == 1.0


def test_a_training_locks_its_state_until_it_ends(tmp_path: Path) -> None:
    training = Training(tmp_path / ".state", "x", {}, {})
    with (tmp_path / ".state.lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    training.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("batch", [1, 7, 10, 25])
def test_every_epoch_is_a_permutation_of_its_own(batch: int) -> None:
    def numbers(step: int, batch: int, seed: int = 1, name: str = "a.train") -> list[int]:
        return batch_of(step, 10, batch, seed, name).tolist()

    taken = [number for step in range(-(-30 // batch)) for number in numbers(step, batch)]
    epochs = [taken[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert taken[:10] == numbers(0, 10)
    assert numbers(0, 10) != numbers(0, 10, seed=2)
    assert numbers(0, 10) != numbers(0, 10, name="another.train")


def test_checkpoints_are_spaced_as_asked() -> None:
    assert spaced(1000, 3, "log") == [1, 10, 100]
    assert spaced(100, 3, "even") == [25, 50, 75]
    assert spaced(100, 0, "log") == spaced(1, 5, "even") == []
    assert spaced(3, 50, "log") == [1, 2]


def test_matrices_decay_and_vectors_do_not() -> None:
    module = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2), nn.LayerNorm(2))
    decaying, others = decay_groups(module.parameters(), 0.1)
    assert [tuple(p.shape) for p in decaying["params"]] == [(5, 3), (2, 3)]
    assert [tuple(p.shape) for p in others["params"]] == [(2,)] * 3
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_training_that_diverged_is_one_line(loss: float) -> None:
    require_finite(3.5, "training", 3, 9, "lower it")
    with pytest.raises(
        UserError, match=f"^step 3 of 9: found a held-out loss of {loss}, .* diverged; lower it$"
    ):
        require_finite(loss, "held-out", 3, 9, "lower it")
