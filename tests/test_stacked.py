from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from avsync.errors import ArgumentError, ShapeError
from avsync.models.generator.stacked import StackedLinear, StackedPointwiseBlock, deferred, stacked_linear


@given(
    branches=st.integers(1, 5), rows=st.integers(1, 6), width=st.integers(1, 9), out=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_stacked_equals_separate_linears(branches: int, rows: int, width: int, out: int, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    x, weight, bias = (
        torch.randn(*shape, generator=source, dtype=torch.float64)
        for shape in ((branches, rows, width), (branches, out, width), (branches, out))
    )
    separate = torch.stack([F.linear(x[b], weight[b], bias[b]) for b in range(branches)])
    torch.testing.assert_close(stacked_linear(x, weight, bias), separate)
    torch.testing.assert_close(stacked_linear(x, weight), separate - bias[:, None])


def test_a_block_is_independent_between_branches(rng: torch.Generator) -> None:
    block = StackedPointwiseBlock(width=6, branches=3)
    x = torch.randn(3, 2, 6, generator=rng)
    moved = x.clone()
    moved[1] += 1.0 + torch.arange(6)
    changed = (block(moved) - block(x)).abs().amax(dim=(1, 2))
    assert changed[0] == changed[2] == 0
    assert changed[1] > 0


def _rollout(weight: torch.Tensor, terms: torch.Tensor, x: torch.Tensor, *, defer: bool, steps: int) -> torch.Tensor:
    linear = deferred(weight, terms, defer=defer)
    outputs = []
    for step in range(steps):
        x = torch.tanh(linear(x, step))
        if weight.ndim == 3:
            x = x.mean(dim=0, keepdim=True)  # shared by the branches at the next step
        outputs.append(x)
    return torch.stack(outputs)


@pytest.mark.parametrize("branches", [None, 1, 3])
@pytest.mark.parametrize("steps", [1, 4])
def test_deferred_gradients_equal_plain_ones(branches: int | None, steps: int, rng: torch.Generator) -> None:
    lead = () if branches is None else (branches,)
    weight = torch.randn(*lead, 5, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    terms = torch.randn(4, *lead, 2, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    x = torch.randn(*((1, 2, 5) if branches else (2, 5)), generator=rng, dtype=torch.float64, requires_grad=True)
    results = []
    for defer in (True, False):
        out = _rollout(weight, terms, x, defer=defer, steps=steps)
        loss = (out * torch.arange(1.0, out.numel() + 1).view_as(out)).sum()
        results.append((out, *torch.autograd.grad(loss, (weight, terms, x))))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


def test_deferred_gradcheck(rng: torch.Generator) -> None:
    weight = torch.randn(2, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    terms = torch.randn(3, 2, 2, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 2, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *args: _rollout(*args, defer=True, steps=3), (weight, terms, x))


def test_a_second_backward_gives_the_same(rng: torch.Generator) -> None:
    layer = StackedLinear(in_features=3, out_features=3, branches=2)
    linear = layer.unroll(2, 4)
    out = linear(linear(torch.randn(2, 4, 3, generator=rng), 0), 1).sum()
    first = torch.autograd.grad(out, layer.weight, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(out, layer.weight)[0], first)


def test_no_step_taken_means_a_gradient_of_zero() -> None:
    layer = StackedLinear(in_features=3, out_features=3, branches=2)
    terms = torch.zeros(2, 2, 1, 3, requires_grad=True)
    linear = deferred(layer.weight, terms)
    linear._terms[0].sum().backward()  # the term alone, as if the product had not been used
    assert not layer.weight.grad.any()


def test_bad_input() -> None:
    layer = StackedLinear(in_features=3, out_features=5, branches=2)
    with pytest.raises(ShapeError, match=r"`x`: expected .branches=2, rows, in_features=3., got .2, 4, 7."):
        layer(torch.zeros(2, 4, 7))
    with pytest.raises(ShapeError, match="`terms`"):
        deferred(layer.weight, torch.zeros(4, 5))
    with pytest.raises(ArgumentError, match="`branches`"):
        StackedLinear(in_features=3, out_features=5, branches=0)
