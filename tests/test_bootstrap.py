"""Bootstrap intervals: what they cover, what draws them, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from avsync.errors import ArgumentError, ShapeError
from avsync.metrics import bootstrap_interval


def sample(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_agrees_with_scipy() -> None:
    values = sample(0, 60).exp()
    got = bootstrap_interval(values, resamples=20000)
    expected = stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=20000, method="percentile", random_state=np.random.default_rng(0)
    ).confidence_interval
    assert got.estimate.item() == pytest.approx(values.mean().item())
    assert got.low.item() == pytest.approx(expected.low, abs=0.02)
    assert got.high.item() == pytest.approx(expected.high, abs=0.02)


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        found = bootstrap_interval(sample(seed, 40), resamples=300, level=0.9)
        hits += bool(found.low <= 0 <= found.high)
    assert 165 <= hits <= 195  # 180 expected; percentile intervals of 40 values cover a little less


def test_speakers_widen_the_interval() -> None:
    person = sample(0, 12).repeat_interleave(20)
    values = person + 0.1 * sample(1, 240)
    names = [f"speaker {i // 20}" for i in range(240)]
    clips = bootstrap_interval(values)
    people = bootstrap_interval(values, groups=names)
    assert clips.estimate == people.estimate
    assert (people.high - people.low) > 3 * (clips.high - clips.low)
    by_number = bootstrap_interval(values, groups=torch.arange(240) // 20)
    torch.testing.assert_close((by_number.high - by_number.low), (people.high - people.low), rtol=0.1, atol=0)


def test_groups_of_one_are_clips() -> None:
    values = sample(2, 30)
    for statistic in ("mean", "median"):
        torch.testing.assert_close(
            bootstrap_interval(values, statistic=statistic),
            bootstrap_interval(values, statistic=statistic, groups=np.arange(30)),
        )


def test_median_is_that_of_the_resampled_clips() -> None:
    values = sample(3, 9)
    got = bootstrap_interval(values, statistic="median", resamples=501)
    drawn = torch.randint(9, (501, 9), generator=torch.Generator().manual_seed(0))
    medians = values[drawn].median(dim=1).values
    assert got.estimate == values.median()
    assert got.low == medians.quantile(0.025) and got.high == medians.quantile(0.975)


@given(st.integers(0, 2**31), st.integers(1, 20), st.sampled_from(["mean", "median"]))
def test_ends_enclose_the_estimate_and_move_with_the_values(seed: int, clips: int, statistic: str) -> None:
    values = sample(seed, clips, 2)
    got = bootstrap_interval(values, statistic=statistic, resamples=400, level=0.99)
    assert got.estimate.shape == got.low.shape == (2,)
    assert (got.low <= got.estimate + 1e-12).all() and (got.estimate <= got.high + 1e-12).all()
    moved = bootstrap_interval(3 * values + 1, statistic=statistic, resamples=400, level=0.99)
    torch.testing.assert_close(moved.low, 3 * got.low + 1)
    alone = bootstrap_interval(values[:, 1], statistic=statistic, resamples=400, level=0.99)
    torch.testing.assert_close(alone.high, got.high[1])


def test_chance_comes_from_the_generator_alone() -> None:
    values = sample(4, 25)
    state = torch.get_rng_state()
    first = bootstrap_interval(values)
    assert torch.equal(state, torch.get_rng_state())
    assert first == bootstrap_interval(values.numpy())
    other = bootstrap_interval(values, generator=torch.Generator().manual_seed(1))
    assert other.low != first.low


def test_many_resamples_are_drawn_in_pieces() -> None:
    values = sample(5, 3000)
    got = bootstrap_interval(values, resamples=3000)
    assert got.high - got.low == pytest.approx(2 * 1.96 / 3000**0.5, rel=0.1)


def test_one_clip_has_no_width() -> None:
    got = bootstrap_interval(torch.tensor([0.25]))
    assert got.low == got.estimate == got.high == 0.25


@pytest.mark.parametrize(
    ("error", "values", "options"),
    [
        (ShapeError, torch.zeros(0), {}),
        (ShapeError, torch.zeros(2, 2, 2), {}),
        (ShapeError, torch.zeros(3), {"groups": [1, 2]}),
        (ArgumentError, torch.tensor([1.0, float("nan")]), {}),
        (ArgumentError, torch.tensor([1.0, float("inf")]), {}),
        (ArgumentError, torch.zeros(3), {"statistic": "mode"}),
        (ArgumentError, torch.zeros(3), {"level": 95}),
        (ArgumentError, torch.zeros(3), {"level": 0}),
        (ArgumentError, torch.zeros(3), {"resamples": 0}),
    ],
)
def test_errors(error: type[Exception], values: torch.Tensor, options: dict[str, object]) -> None:
    with pytest.raises(error, match="expected"):
        bootstrap_interval(values, **options)
