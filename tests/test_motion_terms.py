"""Terms of the generator's loss that compare batches of motion."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from avsync.errors import ArgumentError, ShapeError
from avsync.training import liveliness_loss, opening_loss, variety_loss


def swaying(*amplitudes: float, frames: int = 13) -> Tensor:
    """Make clips of one face each, whose points sway apart by the amplitudes and whose centre sways by a fifth of them.

    The frames after the first are as much on the one side as on the other.
    """
    rng = torch.Generator().manual_seed(0)
    face, direction = torch.rand(68, 2, generator=rng), torch.randn(68, 2, generator=rng)
    direction = direction - direction.mean(dim=0) + 0.2
    time = torch.cat([torch.zeros(1), torch.sin(torch.arange(1, frames) * 2 * math.pi / (frames - 1))])
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
    assert liveliness_loss(real[[2, 0, 1], 1:], real).item() == pytest.approx(0, abs=1e-4)
    assert liveliness_loss(swaying(2.0, 4.0, 8.0)[:, 1:], real).item() == pytest.approx(math.log(2), rel=1e-3)
    same = liveliness_loss(swaying(2.0, 2.0, 2.0)[:, 1:], real).item()  # the right mean of the logarithms, no spread
    assert same == pytest.approx(2 / 3 * math.log(2), rel=1e-3)


def test_liveliness_notices_faces_that_drift() -> None:
    """All faces stand beside their places by the extent of the real centre: one of 69 parts is one extent off, at both axes."""
    real = swaying(1.0, 2.0, 4.0)
    extent = real[:, 1:].mean(dim=2).std(dim=1, correction=0).norm(dim=-1).mean()
    assert liveliness_loss(real[:, 1:] + extent, real).item() == pytest.approx(1 / 69, rel=1e-3)


def test_liveliness_is_without_a_unit_and_uses_the_last_frames() -> None:
    real, made = swaying(1.0, 3.0, frames=21), swaying(2.0, 2.0)[:, 1:]
    scale = torch.tensor([100.0, 7.0]).reshape(2, 1, 1, 1)
    short = torch.cat([real[:, :1], real[:, -12:]], dim=1)
    expected = liveliness_loss(made, short)
    torch.testing.assert_close(liveliness_loss(scale * made, scale * real), expected, rtol=1e-4, atol=1e-5)


def test_liveliness_has_finite_gradients_for_still_faces() -> None:
    still = swaying(1.0, 1.0)[:, :1].repeat(1, 12, 1, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(liveliness_loss(still, swaying(1.0, 2.0)), still)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(("made", "real"), [((2, 1), (2, 5)), ((0, 4), (0, 5)), ((2, 6), (2, 5)), ((2, 4), (3, 5))])
def test_liveliness_names_what_is_wrong(made: tuple[int, int], real: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="expected"):
        liveliness_loss(torch.rand(*made, 68, 2), torch.rand(*real, 68, 2))


def test_clips_on_two_devices_are_refused() -> None:
    made, real = torch.rand(2, 4, 68, 2), torch.rand(2, 5, 68, 2, device="meta")
    with pytest.raises(ArgumentError, match="meta"):
        liveliness_loss(made, real)
    with pytest.raises(ArgumentError, match="meta"):
        variety_loss(made, real, variety=0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_liveliness_takes_other_dtypes(dtype: torch.dtype) -> None:
    real = swaying(1.0, 4.0)
    found = liveliness_loss(swaying(2.0, 2.0)[:, 1:].to(dtype), real.to(dtype))
    assert bool(found.isfinite()) and found.dtype == (dtype if dtype == torch.float64 else torch.float32)


def speaking(*openings: list[float]) -> Tensor:
    """Make clips whose inner lips are apart by these shares of the face's height, from a first face with closed lips on."""
    faces = torch.zeros(len(openings), 1 + len(openings[0]), 68, 2)
    faces[:, :, 8, 1] = 10.0  # the chin, and with it the height of the face
    faces[:, 1:, 66, 1] = 10.0 * torch.tensor(openings)
    return faces


def test_opening_compares_how_far_and_not_when() -> None:
    real = speaking([0.0, 0.1, 0.2], [0.0, 0.2, 0.4])
    assert opening_loss(real[:, [3, 1, 2]], real).item() == pytest.approx(0, abs=1e-6)
    deviation = math.sqrt(2 / 3) * 0.15
    wider = speaking([0.03, 0.13, 0.23], [0.0, 0.2, 0.4])[:, 1:]
    assert opening_loss(wider, real).item() == pytest.approx(0.015 / deviation, rel=1e-4)
    # Lips of two people who swap clips: as a batch they open as far as before, but not clip by clip.
    assert opening_loss(real[[1, 0], 1:], real).item() == pytest.approx(0.1 / deviation, rel=1e-4)


def test_opening_is_without_a_unit_and_uses_the_last_frames() -> None:
    real, made = speaking([0.5, 0.5, 0.0, 0.1, 0.2]), speaking([0.1, 0.1, 0.2])[:, 1:]
    expected = 0.1 / 3 / (math.sqrt(2 / 3) * 0.1)
    assert opening_loss(made, real).item() == pytest.approx(expected, rel=1e-4)
    assert opening_loss(7 * made, 7 * real).item() == pytest.approx(expected, rel=1e-4)


def test_opening_has_finite_gradients_for_closed_lips() -> None:
    closed = speaking([0.0, 0.0])[:, 1:].requires_grad_()
    (gradient,) = torch.autograd.grad(opening_loss(closed, speaking([0.0, 0.0])), closed)
    assert gradient.isfinite().all()
