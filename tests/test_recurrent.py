"""Recurrent linear maps: derivatives of every order are those of plain automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from avsync.errors import ArgumentError
from avsync.models.generator.model import RecurrentLinear

Linear = Callable[..., Tensor]


def plain(weight: Tensor, bias: Tensor | None = None) -> Linear:
    def apply(x: Tensor, term: Tensor | None = None) -> Tensor:
        product = x @ weight.transpose(-1, -2)
        added = term if bias is None else bias[..., None, :]
        return product if added is None else product + added

    return apply


def rollout(make: Callable[..., Linear], weight: Tensor, bias: Tensor, x: Tensor, terms: Tensor) -> Tensor:
    """A recurrence with a bias, with terms and with neither, and with a step whose result nobody uses."""
    shifted, linear = make(weight, bias), make(weight)
    shifted(x)
    total = torch.zeros_like(x)
    for term in terms:
        x = torch.tanh(linear(torch.sin(shifted(x)), term) + linear(x))
        total = total + x
    return total


def tensors(branches: tuple[int, ...]) -> list[Tensor]:
    source = torch.Generator().manual_seed(0)
    shapes = [(*branches, 3, 3), (*branches, 3), (*branches, 2, 3), (4, *branches, 2, 3)]
    return [torch.randn(shape, generator=source, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("branches", [(), (2,)])
def test_derivatives(branches: tuple[int, ...]) -> None:
    given = tensors(branches)
    ours, theirs = rollout(RecurrentLinear, *given), rollout(plain, *given)
    torch.testing.assert_close(ours, theirs)
    found, expected = (torch.autograd.grad(total.square().sum(), given) for total in (ours, theirs))
    torch.testing.assert_close(found, expected)

    def run(*values: Tensor) -> Tensor:
        return rollout(RecurrentLinear, *values)

    assert torch.autograd.gradcheck(run, given) and torch.autograd.gradgradcheck(run, given)


def test_backward_passes_do_not_mix() -> None:
    """One that leaves the weight out, one that is differentiated itself, and two over the same graph."""
    _, _, x, terms = given = tensors(())
    expected = torch.autograd.grad(rollout(plain, *given).sum(), given)
    total = rollout(RecurrentLinear, *given).sum()
    torch.autograd.grad(total, (x, terms), retain_graph=True)
    torch.autograd.grad(total, given, create_graph=True)
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(total, given, retain_graph=True), expected)


def test_transforms_compilation_and_autocast() -> None:
    weight, bias, x, terms = (value.detach().float() for value in tensors(()))

    def run(weight: Tensor) -> Tensor:
        return rollout(RecurrentLinear, weight, bias, x, terms).sum()

    learned = weight.clone().requires_grad_()
    (expected,) = torch.autograd.grad(rollout(plain, learned, bias, x, terms).sum(), learned)
    torch.testing.assert_close(torch.func.grad(run)(weight), expected)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(run))(weight[None])[0], expected)
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(learned), learned)[0], expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = run(learned)
    torch.testing.assert_close(torch.autograd.grad(half, learned)[0], expected, rtol=0.1, atol=0.3)


def test_one_product_forms_the_gradient_of_all_steps() -> None:
    weight, bias, x, terms = tensors(())
    x = torch.tanh(total := RecurrentLinear(weight, bias)(x.detach()))
    linear = RecurrentLinear(weight, bias)
    for _ in terms:
        x = torch.tanh(total := linear(x))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.autograd.grad(total.sum(), (weight, bias))
    products = sum(event.name == "aten::mm" for event in profile.events())
    # One product per step for the gradient of its input, except the first; and one per map for the gradient of its weight.
    assert products == len(terms) + 2


def test_a_bias_or_a_term() -> None:
    weight, bias, x, terms = tensors(())
    with pytest.raises(ArgumentError, match="`term`: expected None, because the map has a bias"):
        RecurrentLinear(weight, bias)(x, terms[0])
