"""Resampling of tracks: an exact grid, inside the track, that moves nothing in time."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsync.corpus.extraction.retime import resample_track
from avsync.errors import ArgumentError, ShapeError

RATES = [Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(50), Fraction(60), Fraction(12)]


def line(times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Two points at constant speeds: what an interpolation in time must give back exactly."""
    return np.stack([np.stack([times, 3 - times], -1), np.stack([100 * times, 0 * times + 7], -1)], axis=1)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("shift", [0.0, 0.0123, 7199.98])
def test_motion_at_constant_speed_is_kept_at_any_rate(rate: Fraction, shift: float) -> None:
    times = np.array([float(k / rate) for k in range(100)]) + shift
    start, landmarks = resample_track(times, line(times - shift), start=0.0)
    instants = start + np.arange(len(landmarks)) / 25
    np.testing.assert_allclose(landmarks, line(np.clip(instants, times[0], times[-1]) - shift), atol=2e-5)
    # Every instant of the grid inside the track, and no other.
    assert start == pytest.approx(np.ceil((shift - 1e-3) * 25) / 25, abs=1e-9)
    assert instants[-1] <= times[-1] + 1.001e-3 < instants[-1] + 1 / 25 + 2e-3


def test_images_on_the_grid_pass_unchanged() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 5, 2)).astype(np.float32)
    start, landmarks = resample_track(np.arange(300) / 25, points)
    assert start == 0.0
    np.testing.assert_array_equal(landmarks, points)
    # Timestamps in whole milliseconds, as in Matroska, must not cost a frame at either end.
    for shift in range(9):
        times = np.round((np.arange(300) + shift) * 1000 / 24) / 1000
        start, landmarks = resample_track(times, points, fps=24.0, start=0.0)
        assert start == pytest.approx(shift / 24) and len(landmarks) == 300
        assert np.abs(landmarks - points).max() < 0.2


@given(
    steps=st.lists(st.floats(0.004, 0.4), min_size=1, max_size=30),
    offset=st.floats(-50, 5000),
    start=st.floats(-10, 10),
    fps=st.sampled_from([24.0, 25.0, 30.0]),
)
def test_grid_of_variable_rates(steps: list[float], offset: float, start: float, fps: float) -> None:
    times = offset + np.cumsum([0.0, *steps])
    first, landmarks = resample_track(times, line(times - offset), fps=fps, start=start)
    k = (first - start) * fps
    assert k == pytest.approx(round(k), abs=1e-5)
    instants = first + np.arange(len(landmarks)) / fps
    tolerance = 1.001e-3
    assert ((instants >= times[0] - tolerance) & (instants <= times[-1] + tolerance)).all()
    assert first - 1 / fps < times[0] + tolerance and first + len(landmarks) / fps > times[-1] - tolerance
    np.testing.assert_allclose(landmarks, line(np.clip(instants, times[0], times[-1]) - offset), atol=1e-3)


def test_equals_numpys_interpolation() -> None:
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.uniform(0.01, 0.08, 200))
    points = rng.normal(size=(200, 3, 2))
    start, landmarks = resample_track(times, points, start=0.0)
    instants = start + np.arange(len(landmarks)) / 25
    for p in range(3):
        for d in range(2):
            np.testing.assert_allclose(landmarks[:, p, d], np.interp(instants, times, points[:, p, d]), atol=1e-6)


def test_short_tracks() -> None:
    face = np.ones((1, 4, 2))
    start, landmarks = resample_track([2.0], face)
    assert start == 2.0 and landmarks.shape == (1, 4, 2) and landmarks.dtype == np.float32
    assert resample_track([2.01], face, start=0.0)[1].shape == (0, 4, 2)
    assert resample_track([2.01, 2.03], face.repeat(2, axis=0), start=0.0)[1].shape == (0, 4, 2)


@pytest.mark.parametrize(
    ("times", "points", "options", "error", "message"),
    [
        ([], np.zeros((0, 1, 2)), {}, ShapeError, "`times`"),
        ([[0.0]], np.zeros((1, 1, 2)), {}, ShapeError, "`times`"),
        ([0.0, 1.0], np.zeros((3, 1, 2)), {}, ShapeError, r"`points`: expected \(frames=2, points, dims\), got \(3, 1, 2\)"),
        ([0.0, 0.0], np.zeros((2, 1, 2)), {}, ArgumentError, "increase"),
        ([0.0, np.nan], np.zeros((2, 1, 2)), {}, ArgumentError, "finite"),
        ([0.0], np.zeros((1, 1, 2)), {"fps": 0.0}, ArgumentError, "`fps`"),
        ([0.0], np.zeros((1, 1, 2)), {"fps": float("nan")}, ArgumentError, "`fps`"),
        ([0.0], np.zeros((1, 1, 2)), {"start": float("inf")}, ArgumentError, "`start`"),
    ],
)
def test_bad_input(
    times: object, points: npt.NDArray[np.float64], options: dict[str, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        resample_track(times, points, **options)  # type: ignore[arg-type]
