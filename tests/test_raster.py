"""Drawn landmarks: the right pixel in the right channel, whatever the unit; nothing outside; t-FID's weights."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avsync.corpus.synthetic.talker import synthetic_clip
from avsync.errors import ArgumentError, ShapeError
from avsync.landmarks.raster import rasterise, temporal_image, temporal_weights, to_pixels

seeds = st.integers(0, 2**31)


def faces(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, 68, 2, generator=torch.Generator().manual_seed(seed))


@given(seeds, st.integers(8, 40))
def test_each_point_is_one_pixel_of_its_channel(seed: int, size: int) -> None:
    landmarks = 1.2 * size * faces(seed, 2, 3) - 0.1 * size
    drawn = rasterise(landmarks, size=size, frame_size=(size, size))
    expected = torch.zeros(2, 3, 3, size, size)
    for clip in range(2):
        for frame in range(3):
            for point in range(68):
                x, y = (math.floor(v) for v in landmarks[clip, frame, point].tolist())
                if 0 <= x < size and 0 <= y < size:
                    expected[clip, frame, 0 if point < 17 else 2 if point >= 48 else 1, y, x] = 1.0
    assert torch.equal(drawn, expected)


def test_the_view_follows_the_reference_face_and_nothing_else() -> None:
    landmarks = torch.from_numpy(synthetic_clip(seconds=1.0).landmarks)[None]
    drawn = rasterise(landmarks, size=96)
    assert drawn.sum(dim=(2, 3, 4)).min() > 40, "faces lie inside the picture"
    moved = rasterise(landmarks * 0.5 + torch.tensor([100.0, -30.0]), size=96)
    assert (drawn - moved).abs().mean() < 1e-3, "unit and framing do not matter"
    walked = landmarks + torch.linspace(0, 1, 25)[None, :, None, None] * 60
    assert (rasterise(walked, size=96)[:, -1] - drawn[:, -1]).abs().sum() > 20, "but motion does"
    given_face = rasterise(walked, size=96, reference=landmarks[:, 0])
    assert torch.equal(given_face, rasterise(walked, size=96))


def test_what_lies_outside_or_is_nan_is_not_drawn() -> None:
    landmarks = torch.full((1, 2, 68, 2), 5.0)
    landmarks[0, 0, 0] = torch.nan
    landmarks[0, 0, 17] = -3.0
    landmarks[0, 0, 50] = 1e30
    landmarks[0, 0, 51] = -0.5
    drawn = rasterise(landmarks, size=10, frame_size=(10, 10))
    assert drawn.isfinite().all()
    assert drawn.sum().item() == 6, "the other points of each channel share one pixel"
    landmarks[0, 1] = torch.nan
    assert rasterise(landmarks, size=10, frame_size=(10, 10))[0, 1].sum() == 0


def test_a_picture_keeps_its_proportions() -> None:
    landmarks = torch.tensor([[[0.0, 0.0], [640.0, 480.0]]])
    assert to_pixels(landmarks, size=64, frame_size=(640, 480)).tolist() == [[[0.0, 0.0], [64.0, 48.0]]]


@given(st.integers(1, 90))
def test_temporal_weights(frames: int) -> None:
    weights = temporal_weights(frames)
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    if frames > 1:
        assert (weights[-1] / weights[0]).item() == pytest.approx(4, rel=1e-4)
        assert (weights.diff() > 0).all()


def test_a_temporal_image_tells_the_direction_of_time() -> None:
    drawn = rasterise(10 * faces(0, 2, 12), size=32)
    forwards, backwards = temporal_image(drawn), temporal_image(drawn.flip(1))
    assert (forwards - backwards).abs().max() > 0.01
    torch.testing.assert_close(temporal_image(drawn[:, :1].expand(-1, 12, -1, -1, -1)), drawn[:, 0], atol=1e-5, rtol=0)


def test_errors() -> None:
    with pytest.raises(ShapeError, match="landmarks"):
        rasterise(torch.rand(1, 2, 20, 2))
    with pytest.raises(ShapeError, match="landmarks"):
        rasterise(torch.rand(1, 2, 68, 1))
    with pytest.raises(ArgumentError, match="size"):
        rasterise(faces(0, 1, 2), size=0)
    with pytest.raises(ArgumentError, match="view"):
        rasterise(faces(0, 1, 2), view=0.0)
    with pytest.raises(ArgumentError, match="frame_size"):
        rasterise(faces(0, 1, 2), frame_size=(0, 10))
    with pytest.raises(ShapeError, match="images"):
        temporal_image(torch.rand(2, 3, 8, 8))
