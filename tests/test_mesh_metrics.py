"""Metrics of 3D talking heads on synthetic meshes that are driven by the 68 points of the synthetic talker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avsync import landmarks as lm
from avsync import metrics
from avsync.corpus import synthetic_clip
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError

VERTICES = 200
MIXTURE = torch.softmax(6 * torch.randn(VERTICES, 68, generator=torch.Generator().manual_seed(0)), dim=1)
LIPS = [int(vertex) for vertex in range(VERTICES) if int(MIXTURE[vertex].argmax()) >= 48]
UPPER = [int(vertex) for vertex in range(VERTICES) if 17 <= int(MIXTURE[vertex].argmax()) < 48]


def mesh_of(speaker: int = 0, *, seconds: float = 4.0) -> Tensor:
    """Return a mesh of 200 vertices, (1, frames, 200, 3): weighted means of the 68 points, with a depth that follows y."""
    points = lm.normalise(torch.from_numpy(synthetic_clip(speaker=speaker, seconds=seconds).landmarks)[None]).landmarks
    deep = torch.cat([points, 0.3 * points[..., 1:]], dim=-1)
    return MIXTURE @ deep


def lips_of(mesh: Tensor) -> tuple[int, int]:
    """Return the vertices that are closest to the middle of the upper and of the lower inner lip."""
    return int(MIXTURE[:, 62].argmax()), int(MIXTURE[:, 66].argmax())


def test_errors_of_vertices_equal_a_slow_reference_and_torchmetrics() -> None:
    preds, target = mesh_of(1), mesh_of(0)
    differences = (preds - target)[0].double().numpy()
    squares = (differences**2).sum(axis=2)
    assert metrics.lip_vertex_error(preds, target, lips=LIPS).item() == pytest.approx(
        squares[:, LIPS].max(axis=1).mean(), rel=1e-4
    )
    plain = metrics.lip_vertex_error(preds, target, lips=LIPS, squared=False)
    assert plain.item() == pytest.approx(np.sqrt(squares[:, LIPS].max(axis=1)).mean(), rel=1e-4)
    assert metrics.mean_vertex_error(preds, target).item() == pytest.approx(np.sqrt(squares).mean(), rel=1e-4)
    multimodal = pytest.importorskip("torchmetrics.functional.multimodal")
    if hasattr(multimodal, "lip_vertex_error"):
        wanted = multimodal.lip_vertex_error(preds[0], target[0], LIPS)
        torch.testing.assert_close(metrics.lip_vertex_error(preds, target, lips=LIPS), wanted)


def test_dynamics_of_the_upper_face() -> None:
    target = mesh_of(0)
    template = target[0, 0]
    still = target[:, :1].expand_as(target)
    found = metrics.upper_face_dynamics_deviation(still, target, upper=UPPER, template=template)
    moved = np.linalg.norm((target[0] - template)[:, UPPER].double().numpy(), axis=2)
    assert found.item() == pytest.approx(moved.std(axis=0).mean(), rel=1e-3) and found > 0
    assert metrics.upper_face_dynamics_deviation(target, target, upper=UPPER, template=template) == 0


@pytest.mark.parametrize("late", [0, 1, 2])
def test_misalignment_is_the_delay_of_the_lips(late: int) -> None:
    """The path joins an extremum of the delayed mesh to its own; a few join others, as in the published script."""
    target = mesh_of(0, seconds=6.0)
    upper, lower = lips_of(target)
    preds = torch.cat([target[:, :1].expand(-1, late, -1, -1), target], dim=1)[:, : target.shape[1]]
    found = metrics.mean_temporal_misalignment(preds, target, upper_lip=upper, lower_lip=lower, fps=25)
    assert found.item() == pytest.approx(40 * late, abs=10)
    half = metrics.mean_temporal_misalignment(preds, target, upper_lip=upper, lower_lip=lower, fps=50)
    assert half.item() == pytest.approx(found.item() / 2)


def test_misalignment_of_a_still_face_is_unknown() -> None:
    target = mesh_of(0)
    both, still = torch.cat([target, target]), torch.cat([target, target[:, :1].expand_as(target)])
    options: dict[str, Any] = {"upper_lip": 0, "lower_lip": 1, "fps": 25.0}
    each = metrics.mean_temporal_misalignment(still, both, **options, reduction="none")
    assert each[0] == 0 and each[1].isnan()
    assert metrics.mean_temporal_misalignment(still, both, **options) == 0


def test_intensity_and_its_correlation_with_speech() -> None:
    target = mesh_of(0)
    small = metrics.lip_intensity(target, lips=LIPS)
    large = metrics.lip_intensity(3 * target, lips=LIPS)
    torch.testing.assert_close(large, 3 * small)
    steps = np.linalg.norm(np.diff(target[0].double().numpy()[:, LIPS], axis=0), axis=2).mean(axis=1)
    assert small.item() == pytest.approx(np.sqrt((steps**2).mean()), rel=1e-4)
    speech = torch.tensor([0.1, 0.2, 0.3, 0.5, 0.4, 0.9])
    lips = torch.tensor([1.0, 2.0, 3.0, 5.0, 4.0, 9.0])
    speakers = ["a", "a", "a", "b", "b", "b"]
    assert metrics.speech_lip_intensity_correlation(lips, speech, speakers).item() == pytest.approx(1)
    assert metrics.speech_lip_intensity_correlation(-lips, speech, speakers).item() == pytest.approx(-1)
    louder = speech + torch.tensor([0.0] * 3 + [7.0] * 3)
    assert metrics.speech_lip_intensity_correlation(lips, louder, speakers).item() == pytest.approx(1, abs=1e-5)
    assert metrics.speech_lip_intensity_correlation(lips[:1], speech[:1], ["a"]).isnan()


def test_padding_does_not_count() -> None:
    preds, target = mesh_of(1), mesh_of(0)
    upper, lower = lips_of(target)
    padding = torch.full((1, 20, VERTICES, 3), torch.nan)
    long_preds, long_target = torch.cat([preds, padding], dim=1), torch.cat([target, padding], dim=1)
    lengths = torch.tensor([target.shape[1]])
    pairs: list[tuple[Any, dict[str, Any]]] = [
        (metrics.lip_vertex_error, {"lips": LIPS}),
        (metrics.mean_vertex_error, {}),
        (metrics.upper_face_dynamics_deviation, {"upper": UPPER, "template": target[0, 0]}),
        (metrics.mean_temporal_misalignment, {"upper_lip": upper, "lower_lip": lower, "fps": 25}),
    ]
    for function, options in pairs:
        found = function(long_preds, long_target, lengths=lengths, **options)
        torch.testing.assert_close(found, function(preds, target, **options), equal_nan=True)
    torch.testing.assert_close(
        metrics.lip_intensity(long_target, lips=LIPS, lengths=lengths), metrics.lip_intensity(target, lips=LIPS)
    )


def test_errors() -> None:
    mesh = torch.zeros(1, 5, 10, 3)
    with pytest.raises(ShapeError, match="`preds`"):
        metrics.lip_vertex_error(mesh[:, 1:], mesh, lips=[0])
    with pytest.raises(ArgumentError, match="`lips`"):
        metrics.lip_vertex_error(mesh, mesh, lips=[10])
    with pytest.raises(ShapeError, match="`template`"):
        metrics.upper_face_dynamics_deviation(mesh, mesh, upper=[0], template=mesh)
    with pytest.raises(ClipTooShortError):
        metrics.lip_intensity(mesh[:, :1], lips=[0])
    with pytest.raises(ShapeError, match="`speakers`"):
        metrics.speech_lip_intensity_correlation(torch.zeros(2), torch.zeros(2), ["a"])


def slow_soft_dtw(x: np.ndarray, y: np.ndarray, gamma: float) -> float:
    costs = ((x[:, None] - y[None]) ** 2).sum(axis=3).mean(axis=2)
    total = np.full((len(x) + 1, len(y) + 1), np.inf)
    total[0, 0] = 0
    for i in range(1, len(x) + 1):
        for j in range(1, len(y) + 1):
            steps = np.array([total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]])
            low = steps.min()
            total[i, j] = costs[i - 1, j - 1] + low - gamma * np.log(np.exp(-(steps - low) / gamma).sum())
    return float(total[-1, -1])


@pytest.mark.parametrize(("frames", "others"), [(1, 1), (1, 6), (7, 7), (9, 4), (4, 11)])
@pytest.mark.parametrize("gamma", [0.01, 1.0])
def test_soft_dtw_equals_its_recursion(frames: int, others: int, gamma: float) -> None:
    generator = torch.Generator().manual_seed(frames)
    x = torch.randn(2, frames, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, others, 3, 2, generator=generator, dtype=torch.float64)
    found = metrics.soft_dtw_distance(x, y, gamma=gamma, normalise=False, reduction="none")
    wanted = [slow_soft_dtw(x[n].detach().numpy(), y[n].numpy(), gamma) for n in range(2)]
    torch.testing.assert_close(found.detach(), torch.tensor(wanted, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda value: metrics.soft_dtw_distance(value, y, gamma=gamma), x)


def test_soft_dtw_forgives_time_and_not_shape() -> None:
    clip = lm.normalise(torch.from_numpy(synthetic_clip(seconds=2.0).landmarks)[None]).landmarks
    options: dict[str, Any] = {"gamma": 1e-4}
    assert metrics.soft_dtw_distance(clip, clip, **options).abs() < 1e-5
    late = torch.cat([clip[:, :1].expand(-1, 3, -1, -1), clip[:, :-3]], dim=1)
    other = lm.normalise(torch.from_numpy(synthetic_clip(speaker=1, seconds=2.0).landmarks)[None]).landmarks
    assert 0 <= metrics.soft_dtw_distance(late, clip, **options) < 0.5 * (late - clip).square().sum(-1).mean(2).sum()
    assert metrics.soft_dtw_distance(other, clip, **options) > 10 * metrics.soft_dtw_distance(late, clip, **options)
    with pytest.raises(ShapeError, match="`preds`"):
        metrics.soft_dtw_distance(clip[:, :, 1:], clip)
