"""The training kernels are torch's own functions to rounding, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, gelu

from steps.language_models.learning.kernels import Gelu, next_token_loss


def test_gelu() -> None:
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64, requires_grad=True)
    mine, theirs = Gelu()(x), gelu(x, approximate="tanh")
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    weight = torch.randn(4001, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (mine, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_gelu_of_large_values_is_finite() -> None:
    x = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4], requires_grad=True)
    y = Gelu()(x)
    y.sum().backward()
    assert y.tolist() == [0.0, 0.0, 0.0, 50.0, 1e4]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(("tokens", "vocabulary", "scale"), [(1, 2, 1.0), (700, 512, 1.0), (300, 5000, 30.0)])
def test_loss(tokens: int, vocabulary: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 8, dtype=torch.float64, generator=generator) * scale
    weight = torch.randn(vocabulary, 8, dtype=torch.float64, generator=generator)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    hidden.requires_grad_()
    weight.requires_grad_()
    mine, theirs = next_token_loss(hidden, weight, targets), cross_entropy(hidden @ weight.T, targets)
    torch.testing.assert_close(mine, theirs)
    for a, b in zip(
        *(torch.autograd.grad(3 * loss, (hidden, weight)) for loss in (mine, theirs)), strict=True
    ):
        torch.testing.assert_close(a, b)
