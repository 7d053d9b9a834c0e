from __future__ import annotations

import pytest
import torch
from torch import Tensor

from avsync.models.discriminators import WindowLSTM, _InPlaceLoop, _loop, window_plan

SHAPES = [(3, 40), (2, 11), (20, 45), (3, 2)]


def inputs(observed: int, frames: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(frames)
    gates = torch.randn(observed + frames, 2, 12, generator=rng, dtype=torch.float64)
    recurrent = torch.randn(12, 3, generator=rng, dtype=torch.float64)
    return gates.requires_grad_(), recurrent.requires_grad_()


def squares(states: list[Tensor] | tuple[Tensor, ...], read: range) -> Tensor:
    return torch.stack([states[index].pow(index + 2).sum() for index in read]).sum()


@pytest.mark.parametrize(("observed", "frames"), SHAPES)
@pytest.mark.parametrize("learned", [(True, True), (True, False), (False, True)])
def test_the_loop_in_place_is_the_plain_loop(observed: int, frames: int, learned: tuple[bool, bool]) -> None:
    segments = tuple(window_plan(observed, frames, (5, 10, 20, 40)).segments)
    given = [x.detach().requires_grad_(wanted) for x, wanted in zip(inputs(observed, frames), learned, strict=True)]
    wanted = [x for x in given if x.requires_grad]
    found, expected = _InPlaceLoop.apply(*given, segments), _loop(*given, segments)
    torch.testing.assert_close(list(found), expected)
    # All states, and only some, whose others have no gradient.
    for read in (range(len(segments)), range(len(segments) // 2, len(segments)), range(1)):
        gradients = [torch.autograd.grad(squares(x, read), wanted, retain_graph=True) for x in (found, expected)]
        torch.testing.assert_close(*gradients)


def test_second_derivatives_of_the_loop_in_place() -> None:
    segments = tuple(window_plan(2, 6, (5, 10)).segments)
    given = inputs(2, 6)
    assert torch.autograd.gradgradcheck(lambda *x: _InPlaceLoop.apply(*x, segments), given)
    # A penalty on the gradient with respect to the input, trained through the weight.
    penalties = []
    for loop in (_InPlaceLoop.apply, _loop):
        (gradient,) = torch.autograd.grad(squares(loop(*given, segments), range(1)), given[0], create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().sum(), given))
    torch.testing.assert_close(*penalties)


def test_the_loop_runs_in_place_only_where_its_derivatives_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm, segments = WindowLSTM(in_features=4, hidden=3), window_plan(3, 12, (5, 10)).segments
    calls: list[torch.dtype] = []

    def counted(gates: Tensor, recurrent: Tensor, segments: object) -> list[Tensor]:
        calls.append(gates.dtype)
        return _loop(gates, recurrent, segments)

    lstm.reset_parameters()
    embedded = torch.randn(15, 2, 4)
    plain = lstm(embedded, segments)
    monkeypatch.setattr("avsync.models.discriminators._loop", counted)
    torch.testing.assert_close(lstm(embedded, segments), plain)
    assert not calls
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(lstm(embedded, segments), plain, atol=0.02, rtol=0.02)
    torch.testing.assert_close(torch.func.vmap(lambda x: lstm(x, segments)[0])(embedded[None])[0], plain[0])
    assert calls == [torch.bfloat16, torch.float32]
