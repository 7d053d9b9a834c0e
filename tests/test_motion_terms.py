"""Terms of the generator's loss that compare batches of motion."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from avsync.errors import ShapeError
from avsync.training import liveliness_loss, variety_loss


def swaying(*amplitudes: float, frames: int = 12) -> Tensor:
    """Make clips of one face each, whose points sway apart by the amplitudes and whose centre sways by a fifth of them."""
    rng = torch.Generator().manual_seed(0)
    face, direction = torch.rand(68, 2, generator=rng), torch.randn(68, 2, generator=rng)
    direction = direction - direction.mean(dim=0) + 0.2
    time = torch.sin(torch.arange(frames) / 2)
    return torch.stack([face + 0.01 * amplitude * time[:, None, None] * direction for amplitude in amplitudes])


def test_variety_loss() -> None:
    real = torch.zeros(4, 11, 68, 2)
    real[:, 1:, :, 0] = 2.0
    made = torch.zeros(4, 10, 68, 2)
    made[1::2, :, :, 1] = 0.5  # a quarter of the real displacement
    assert variety_loss(made, real, variety=0.5).item() == pytest.approx(0.0625)
    assert variety_loss(made, real, variety=0.2).item() == 0


def test_liveliness_compares_distributions_and_not_clips() -> None:
    real = swaying(1.0, 2.0, 4.0)
    assert liveliness_loss(real[[2, 0, 1]], real).item() == pytest.approx(0, abs=1e-6)
    assert liveliness_loss(swaying(2.0, 4.0, 8.0), real).item() == pytest.approx(math.log(2), rel=1e-4)
    same = liveliness_loss(swaying(2.0, 2.0, 2.0), real).item()  # the right mean of the logarithms, no spread
    assert same == pytest.approx(2 / 3 * math.log(2), rel=1e-4)


def test_liveliness_has_the_unit_of_no_clip_and_uses_the_last_frames() -> None:
    real, made = swaying(1.0, 3.0, frames=20), swaying(2.0, 2.0, frames=12)
    scale = torch.tensor([100.0, 7.0]).reshape(2, 1, 1, 1)
    expected = liveliness_loss(made, real[:, -12:] - real[:, -12:-11] + real[:, :1])
    torch.testing.assert_close(liveliness_loss(scale * made, scale * real), expected, rtol=1e-4, atol=1e-6)


def test_liveliness_has_finite_gradients_for_still_faces() -> None:
    still = swaying(1.0, 1.0)[:, :1].repeat(1, 12, 1, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(liveliness_loss(still, swaying(1.0, 2.0)), still)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(("made", "real"), [((2, 1), (2, 5)), ((0, 4), (0, 5)), ((2, 6), (2, 5)), ((2, 4), (3, 5))])
def test_liveliness_names_what_is_wrong(made: tuple[int, int], real: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="expected"):
        liveliness_loss(torch.rand(*made, 68, 2), torch.rand(*real, 68, 2))
