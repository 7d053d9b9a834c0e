"""Drift of the face, opening of the mouth and spread of samples, against values known in advance."""

from __future__ import annotations

import pytest
import torch

from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.metrics.dynamics import height_drift, mouth_opening_quantile, seed_spread


def test_height_drift_is_the_ratio_of_heights_in_any_unit() -> None:
    face = torch.rand(2, 1, 68, 2, generator=torch.Generator().manual_seed(0))
    scale = torch.cat([torch.ones(20), torch.full((10,), 0.9)])[:, None, None]
    for unit in (1.0, 300.0):
        torch.testing.assert_close(height_drift(unit * face * scale), torch.full((2,), 0.9))
    torch.testing.assert_close(height_drift(face * scale, last=20), torch.full((2,), 0.95))
    with pytest.raises(ClipTooShortError):
        height_drift(face[:, :0])
    for empty in (face[:, :, :0], face[..., :0]):
        with pytest.raises(ShapeError, match="at least one point"):
            height_drift(empty)


def test_quantile_of_the_mouth_opening() -> None:
    faces = torch.zeros(1, 101, 68, 2)
    faces[:, :, 8, 1] = 10.0  # the height
    faces[0, :, 66, 1] = torch.arange(101) / 100
    assert mouth_opening_quantile(faces).item() == pytest.approx(0.095)
    assert mouth_opening_quantile(faces, quantile=0.5).item() == pytest.approx(0.05)
    with pytest.raises(ArgumentError, match="quantile"):
        mouth_opening_quantile(faces, quantile=95)
    with pytest.raises(ShapeError):
        mouth_opening_quantile(faces[:, :, :60])


def test_spread_of_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(3, 1, 68, 2, generator=generator)
    walks = [first + torch.cat([torch.zeros(3, 1, 68, 2), torch.randn(3, 40, 68, 2, generator=generator)], 1) for _ in range(8)]
    # Independent deviations from the first face: the mean over samples holds an n-th of each, which the factor makes up for.
    torch.testing.assert_close(seed_spread(walks), torch.ones(3), atol=0.02, rtol=0)
    torch.testing.assert_close(seed_spread(walks[:2]), torch.ones(3), atol=0.03, rtol=0)
    assert seed_spread([walks[0], walks[0]]).tolist() == [0, 0, 0]
    still = first.expand(-1, 5, -1, -1)
    assert seed_spread([still, still]).tolist() == [0, 0, 0]
    with pytest.raises(ArgumentError, match="at least 2"):
        seed_spread(walks[:1])
    with pytest.raises(ShapeError):
        seed_spread([walks[0], walks[1][:2]])
