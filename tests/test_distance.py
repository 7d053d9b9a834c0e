"""LMD, LMD-f and their relatives: the values of the definition, what they must not see, padding, and errors."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync.corpus.synthetic.talker import synthetic_clip
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.landmarks.frontal import FRONTAL_ASPECT, frontalise
from avsync.landmarks.geometry import face_height
from avsync.metrics.distance import landmark_distance, landmark_error, mouth_opening_correlation, velocity_error
from tests.reference import distance as reference

seeds = st.integers(0, 2**31)
Metric = Callable[..., Tensor]
ALL: tuple[Metric, ...] = (landmark_distance, landmark_error, velocity_error, mouth_opening_correlation)


def pair(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shape = shape or (3, 9, 68, 2)
    return 100 * torch.rand(shape, generator=rng, dtype=torch.float64), 100 * torch.rand(
        shape, generator=rng, dtype=torch.float64
    )


def real_face() -> Tensor:
    return torch.from_numpy(synthetic_clip(seconds=2.0).landmarks)[None].double()


@given(seeds, st.sampled_from([2, 3]), st.sampled_from(["mean", "sum"]))
def test_the_values_of_the_definitions(seed: int, dims: int, over_points: str) -> None:
    preds, target = pair(seed, 3, 7, 68, dims)
    clips = list(zip(preds.numpy(), target.numpy(), strict=True))
    heights = face_height(target).numpy()
    for got, of_clip in (
        (
            landmark_distance(preds, target, over_points=over_points, reduction="none"),
            lambda p, t: reference.lmd(p, t, over_points=over_points),
        ),
        (landmark_error(preds, target, reduction="none"), reference.error),
        (velocity_error(preds, target, reduction="none"), reference.velocity_error),
        (mouth_opening_correlation(preds, target, reduction="none"), reference.opening_correlation),
    ):
        np.testing.assert_allclose(got.numpy(), [of_clip(p, t) for p, t in clips], rtol=1e-9)
    np.testing.assert_allclose(
        landmark_distance(preds, target, unit="face", over_points=over_points, reduction="none").numpy() * heights,
        [reference.lmd(p, t, over_points=over_points) for p, t in clips],
        rtol=1e-9,
    )


@pytest.mark.parametrize("metric", ALL)
def test_reductions(metric: Metric) -> None:
    preds, target = pair(0)
    each = metric(preds, target, reduction="none")
    assert each.shape == (3,)
    torch.testing.assert_close(metric(preds, target), each.mean())
    torch.testing.assert_close(metric(preds, target, reduction="sum"), each.sum())


@pytest.mark.parametrize("metric", ALL)
@given(seed=seeds)
def test_padding_does_not_count(metric: Metric, seed: int) -> None:
    preds, target = pair(seed)
    lengths = torch.tensor([9, 4, 2])
    got = metric(preds, target, lengths=lengths, reduction="none")
    expected = [metric(p[None, :n], t[None, :n]) for p, t, n in zip(preds, target, lengths.tolist(), strict=True)]
    torch.testing.assert_close(got, torch.stack(expected))


def test_where_the_mouth_is_does_not_count_but_its_shape_does() -> None:
    target = real_face()
    shifted = target + torch.linspace(0, 30, target.shape[1], dtype=torch.float64)[None, :, None, None]
    assert landmark_distance(shifted, target).item() == pytest.approx(0, abs=1e-9)
    assert landmark_error(shifted, target).item() == pytest.approx(15 * math.sqrt(2), rel=1e-6)
    assert landmark_distance(target[:, :1].expand_as(target), target).item() > 0.1


@pytest.mark.parametrize("unit", ["input", "face"])
def test_units(unit: str) -> None:
    preds, target = pair(1)
    for metric in (landmark_distance, landmark_error, velocity_error):
        factor = 4.0 if unit == "input" else 1.0
        torch.testing.assert_close(metric(4 * preds, 4 * target, unit=unit), factor * metric(preds, target, unit=unit))


def turned(landmarks: Tensor, *, yaw: float = 0.0, roll: float = 0.0) -> Tensor:
    """Turn 3D faces by angles (frames,) about the vertical axis, then in the image plane."""
    x, y, z = (landmarks - landmarks.mean(dim=-2, keepdim=True)).unbind(-1)
    frames = landmarks.shape[-3]
    yaws = yaw * torch.sin(torch.arange(frames, dtype=x.dtype))[:, None]
    rolls = roll * torch.cos(torch.arange(frames, dtype=x.dtype))[:, None]
    x, z = yaws.cos() * x + yaws.sin() * z, yaws.cos() * z - yaws.sin() * x
    return torch.stack([rolls.cos() * x - rolls.sin() * y, rolls.sin() * x + rolls.cos() * y, z], dim=-1)


def talking_3d() -> Tensor:
    """A frontal, symmetric-eyed 3D talker whose lips move."""
    face = real_face()[0]
    middle = (face[:, 36] + face[:, 45]) / 2
    face = (face - middle[:, None])[:1] + 0.0 * face
    face[:, 36, 1] = face[:, 45, 1] = 0.0  # level eyes
    x, y = face.unbind(-1)
    lips = torch.zeros_like(y)
    lips[:, 56:60] += 3 * torch.sin(torch.arange(len(face), dtype=y.dtype))[:, None] ** 2
    return torch.stack([x, y + lips, 0.004 * (x - x.mean()) ** 2], dim=-1)[None]


def test_lmd_f_does_not_see_yaw_in_3d() -> None:
    target = talking_3d()
    assert target[0, 0, 36, 2] != target[0, 0, 45, 2], (
        "eyes of unequal depth: frontalising has something to do for the target too"
    )
    preds = turned(target, yaw=0.6)
    assert landmark_distance(preds, target).item() > 1.0
    assert landmark_distance(preds, target, frontal=True).item() < 1e-9
    still = target[:, :1].expand_as(target)
    assert landmark_distance(turned(still, yaw=0.6), target, frontal=True).item() == pytest.approx(
        landmark_distance(still, target, frontal=True).item()
    ), "what the lips do not do still counts"


@given(st.floats(-1.0, 1.0), st.floats(0.4, 1.0))
def test_lmd_f_does_not_see_roll_and_foreshortening_in_2d(roll: float, shortened: float) -> None:
    target = talking_3d()[..., :2]
    squeezed = target * torch.tensor([shortened, 1.0], dtype=torch.float64)
    preds = turned(torch.nn.functional.pad(squeezed, (0, 1)), roll=roll)[..., :2]
    assert landmark_distance(preds, target, frontal=True).item() == pytest.approx(0, abs=1e-9)
    if abs(roll) > 0.1 or shortened < 0.9:
        assert landmark_distance(preds, target).item() > 0.1


def test_a_frontal_face_has_the_aspect_asked_for() -> None:
    face = frontalise(real_face())[0]
    across = face[:, 45] - face[:, 36]
    torch.testing.assert_close(across[:, 1], torch.zeros_like(across[:, 1]), atol=1e-9, rtol=0)
    below = face[:, 33, 1] - (face[:, 36, 1] + face[:, 45, 1]) / 2
    torch.testing.assert_close(across[:, 0] / below, torch.full_like(below, FRONTAL_ASPECT))
    other = frontalise(real_face(), aspect=torch.tensor([1.7]))[0]
    torch.testing.assert_close((other[:, 45, 0] - other[:, 36, 0]) / below, torch.full_like(below, 1.7))


def test_faces_in_one_point_stay_finite() -> None:
    for dims in (2, 3):
        assert frontalise(torch.zeros(1, 2, 68, dims)).isfinite().all()
        assert landmark_distance(torch.zeros(1, 2, 68, dims), torch.rand(1, 2, 68, dims), frontal=True).isfinite()


def test_correlation_of_what_does_not_move_is_left_out() -> None:
    preds, target = (x.float() for x in pair(3))
    preds[1] = preds[1, :1] + torch.rand(9, 1, 2) * 500  # a rigid face that wanders: still lips, but for rounding
    got = mouth_opening_correlation(preds, target, reduction="none")
    assert got.isnan().tolist() == [False, True, False]
    assert mouth_opening_correlation(preds, target).item() == pytest.approx(got[[0, 2]].mean().item())
    still = target[:, :1].expand_as(target)
    assert mouth_opening_correlation(still, target).isnan()
    assert mouth_opening_correlation(2 - target, 7 + target).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("metric", ALL)
def test_nan_is_not_hidden(metric: Metric) -> None:
    preds, target = pair(4)
    preds[1, 3, 62] = torch.nan
    assert metric(preds, target, reduction="none").isnan().tolist() == [False, True, False]
    assert metric(preds, target).isnan()
    assert metric(target, preds).isnan()


@pytest.mark.parametrize("metric", ALL)
def test_gradients_and_compilation(metric: Metric) -> None:
    preds, target = pair(5)
    assert torch.autograd.gradcheck(lambda x: metric(x, target[:, :3]), preds[:, :3].clone().requires_grad_(), fast_mode=True)
    explained = torch._dynamo.explain(metric)(preds, target)
    assert explained.graph_break_count == 0


@pytest.mark.parametrize("metric", ALL)
def test_errors(metric: Metric) -> None:
    preds, target = pair(0)
    with pytest.raises(ShapeError, match="`preds`: expected the shape of `target`"):
        metric(preds[:, :-1], target)
    with pytest.raises(ShapeError, match="`target`"):
        metric(preds[0], target[0])
    with pytest.raises(ShapeError, match="lengths"):
        metric(preds, target, lengths=torch.tensor([1, 2]))
    with pytest.raises(ArgumentError, match="reduction"):
        metric(preds, target, reduction="max")
    with pytest.raises(ShapeError, match="floating"):
        metric(preds.long(), target.long())
    if metric in (velocity_error, mouth_opening_correlation):
        with pytest.raises(ClipTooShortError):
            metric(preds[:, :1], target[:, :1])
    if metric is not mouth_opening_correlation:
        with pytest.raises(ArgumentError, match="unit"):
            metric(preds, target, unit="pixels")


def test_more_errors() -> None:
    preds, target = pair(0)
    with pytest.raises(ArgumentError, match="over_points"):
        landmark_distance(preds, target, over_points="median")
    with pytest.raises(ShapeError, match="points=68"):
        landmark_distance(preds[:, :, :20], target[:, :, :20])
    with pytest.raises(ArgumentError, match="max_stretch"):
        frontalise(preds, max_stretch=0.0)
