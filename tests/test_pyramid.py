"""Equation (5): averages keep what they should, lengths and levels add up, padding stays out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync import pyramid
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from tests.reference import pyramid as reference

seeds = st.integers(0, 2**31)
lengths = st.integers(4, 90)
radii = st.integers(0, 3)


def signal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seeds, lengths, radii)
def test_matches_the_equation(seed: int, frames: int, radius: int) -> None:
    x = signal(seed, 2, frames, 3)
    got = pyramid.blur_downsample(x, radius=radius)
    for clip, expected in zip(got, x, strict=True):
        torch.testing.assert_close(clip, torch.from_numpy(reference.blur_downsample(expected.numpy(), radius)))


@given(lengths, radii, st.floats(-1e3, 1e3))
def test_a_constant_stays(frames: int, radius: int, value: float) -> None:
    x = torch.full((1, frames, 2), value, dtype=torch.float64)
    for level in pyramid.temporal_pyramid(x, 2, radius=radius):
        torch.testing.assert_close(level, torch.full_like(level, value))


@given(seeds, lengths, st.floats(-3, 3), st.floats(-3, 3))
def test_linear(seed: int, frames: int, a: float, b: float) -> None:
    x, y = signal(seed, 2, 1, frames, 2)
    blur = pyramid.blur_downsample
    torch.testing.assert_close(blur(a * x + b * y), a * blur(x) + b * blur(y))


@given(seeds, st.integers(12, 60))
def test_shift_by_two_is_shift_by_one_out(seed: int, frames: int) -> None:
    x = signal(seed, 1, frames + 2, 2)
    late, early = pyramid.blur_downsample(x[:, :-2]), pyramid.blur_downsample(x[:, 2:])
    torch.testing.assert_close(late[:, 3:-2], early[:, 2:-3])


@given(seeds, st.integers(2, 40), radii)
def test_symmetric_under_time_reversal(seed: int, half: int, radius: int) -> None:
    x = signal(seed, 1, 2 * half + 1, 2)
    torch.testing.assert_close(
        pyramid.blur_downsample(x.flip(1), radius=radius), pyramid.blur_downsample(x, radius=radius).flip(1)
    )


@given(st.integers(33, 200), st.integers(1, 4))
def test_lengths(frames: int, num_levels: int) -> None:
    levels = pyramid.temporal_pyramid(torch.zeros(1, frames, 1), num_levels)
    true = torch.tensor([frames])
    for i, level in enumerate(levels):
        assert level.shape[1] == pyramid.level_length(frames, i) == int(pyramid.level_lengths(true, i))
        assert level.shape[1] == -(-frames // 2**i)
    audio = pyramid.temporal_pyramid(torch.zeros(1, 32 * frames, 1), num_levels)
    assert [level.shape[1] for level in audio] == [32 * frames // 2**i for i in range(num_levels)]


@given(st.integers(1, 20), st.integers(0, 5))
def test_shortest_clip_is_the_shortest(window: int, level: int) -> None:
    shortest = pyramid.shortest_clip(window, level)
    assert pyramid.level_length(shortest, level) == window
    assert pyramid.level_length(shortest - 1, level) == window - 1


@given(seeds, st.lists(st.integers(33, 50), min_size=1, max_size=3), st.integers(0, 9))
def test_padding_changes_nothing(seed: int, true: list[int], more: int) -> None:
    x = signal(seed, len(true), max(true) + more, 2)
    for clip, frames in enumerate(true):
        x[clip, frames:] = torch.nan
    padded = pyramid.temporal_pyramid(x, 4, lengths=torch.tensor(true))
    for clip, frames in enumerate(true):
        alone = pyramid.temporal_pyramid(x[clip : clip + 1, :frames], 4)
        for level, expected in zip(padded, alone, strict=True):
            torch.testing.assert_close(level[clip : clip + 1, : expected.shape[1]], expected)


def test_durations_of_the_paper() -> None:
    assert [pyramid.window_seconds(level) for level in range(4)] == [0.2, 0.4, 0.8, 1.6]
    assert [pyramid.level_fps(25.0, level) for level in range(4)] == [25.0, 12.5, 6.25, 3.125]


def test_frame_t_sits_at_frame_2t() -> None:
    x = torch.zeros(1, 41, 1)
    x[0, 20] = 7.0
    y = pyramid.blur_downsample(x)[0, :, 0]
    assert y.nonzero().flatten().tolist() == [9, 10, 11]


def test_gradcheck_and_compile() -> None:
    x = signal(0, 2, 11, 2).requires_grad_()
    true = torch.tensor([11, 8])
    assert torch.autograd.gradcheck(pyramid.blur_downsample, x)
    assert torch.autograd.gradcheck(lambda x: pyramid.blur_downsample(x, lengths=true), x)
    module = pyramid.TemporalPyramid(num_levels=2)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(x, true), module(x, true), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ShapeError, lambda: pyramid.blur_downsample(torch.zeros(5))),
        (ShapeError, lambda: pyramid.blur_downsample(torch.zeros(1, 5, dtype=torch.int64))),
        (ShapeError, lambda: pyramid.blur_downsample(torch.zeros(2, 9), lengths=torch.tensor([9]))),
        (ShapeError, lambda: pyramid.blur_downsample(torch.zeros(1, 9), lengths=torch.tensor([9.0]))),
        (ClipTooShortError, lambda: pyramid.blur_downsample(torch.zeros(1, 3))),
        (ShapeError, lambda: pyramid.temporal_pyramid(torch.zeros(1, 9, 4, 0), 2)),
        (ClipTooShortError, lambda: pyramid.temporal_pyramid(torch.zeros(1, 0, 2), 2)),
        (ArgumentError, lambda: pyramid.temporal_pyramid(torch.zeros(1, 9), 0)),
        (ArgumentError, lambda: pyramid.blur_downsample(torch.zeros(1, 9), radius=-1)),
    ],
)
def test_errors(error: type[Exception], call) -> None:
    with pytest.raises(error, match=r"expected"):
        call()
