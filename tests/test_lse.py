"""Scores of sets of clips, and confidence window by window, against the slow definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import medfilt
from torch import Tensor

from avsync.errors import ArgumentError, ShapeError
from avsync.metrics import (
    distance_at_zero,
    framewise_confidence,
    lse_confidence,
    lse_distance,
    offset_accuracy,
    rank_at_zero,
    sync_offset,
)
from tests.reference import offset as reference

SCORES = (lse_distance, lse_confidence, distance_at_zero, rank_at_zero, offset_accuracy)


def signal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 2**31), st.integers(1, 15), st.integers(0, 5), st.integers(0, 6), st.sampled_from(["masked", "legacy"]))
def test_scores_are_means_of_the_definition(seed: int, windows: int, max_offset: int, lead: int, edges: str) -> None:
    motion, audio = signal(seed, 3, windows, 6), signal(seed + 1, 3, windows + 6, 6)
    curves = [
        reference.offset_distances(v.double().numpy(), a.double().numpy(), max_offset, lead, edges)
        for v, a in zip(motion, audio, strict=True)
    ]
    expected = {
        "lse_distance": np.mean([np.nanmin(m) for m in curves]),
        "lse_confidence": np.mean([np.nanmedian(m) - np.nanmin(m) for m in curves]),
        "distance_at_zero": np.mean([m[max_offset] for m in curves]),
        "rank_at_zero": np.mean([np.sum(m <= m[max_offset] * (1 + 1e-6)) for m in curves]),
        # Where only one offset can be tried, nothing has been told apart.
        "offset_accuracy": np.mean([abs(max_offset - np.nanargmin(m)) <= 1 and np.nanmedian(m) > np.nanmin(m) for m in curves]),
    }
    for score in SCORES:
        got = score(motion, audio, max_offset=max_offset, lead=lead, edges=edges).item()
        assert got == pytest.approx(expected[score.__name__], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("score", SCORES)
def test_reductions(score: object) -> None:
    motion, audio = signal(0, 4, 9, 6), signal(1, 4, 9, 6)
    each = score(motion, audio, max_offset=3, reduction="none")
    assert each.shape == (4,)
    torch.testing.assert_close(score(motion, audio, max_offset=3), each.mean())
    torch.testing.assert_close(score(motion, audio, max_offset=3, reduction="sum"), each.sum())
    with pytest.raises(ArgumentError, match="`reduction`"):
        score(motion, audio, max_offset=3, reduction="avg")


@pytest.mark.parametrize("score", SCORES)
def test_a_clip_without_a_score_is_never_dropped_silently(score: object) -> None:
    motion, audio = signal(0, 2, 9, 6), signal(1, 2, 9, 6)
    mask = torch.tensor([[True], [False]]).expand(2, 9)
    each = score(motion, audio, max_offset=3, mask=mask, reduction="none")
    assert each[0].isfinite() and each[1].isnan()
    assert score(motion, audio, max_offset=3, mask=mask).isnan()
    broken = motion.clone()
    broken[1, 4, 2] = torch.nan
    assert score(broken, audio, max_offset=3, reduction="none").isnan().tolist() == [False, True]


def test_accuracy_counts_within_the_tolerance() -> None:
    sound = signal(0, 1, 60, 8)
    motions = torch.cat([sound[:, 20 - offset : 40 - offset] for offset in (-3, -2, -1, 0, 1, 2, 3)])
    sounds = sound.expand(7, -1, -1)
    for tolerance, expected in ((0, 1 / 7), (1, 3 / 7), (2, 5 / 7), (3, 1)):
        got = offset_accuracy(motions, sounds, max_offset=5, lead=20, tolerance=tolerance)
        assert got.item() == pytest.approx(expected)
    with pytest.raises(ArgumentError, match="`tolerance`"):
        offset_accuracy(motions, sounds, lead=20, tolerance=-1)


@pytest.mark.parametrize(("width", "edges"), [(1, "masked"), (9, "legacy"), (3, "legacy")])
def test_framewise_is_the_published_curve(width: int, edges: str) -> None:
    motion, audio = signal(0, 2, 30, 6), signal(1, 2, 30, 6)
    got = framewise_confidence(motion, audio, max_offset=5, edges=edges, filter_windows=width)
    for clip in range(2):
        v, a = motion[clip].double().numpy(), audio[clip].double().numpy()
        curve, distance = reference.framewise(v, a, 5, 0, edges)
        if width > 1:
            curve = medfilt(curve, width)
        np.testing.assert_allclose(got.confidence[clip].numpy(), curve, atol=1e-5)
        np.testing.assert_allclose(got.distance[clip].numpy(), distance, atol=1e-5)


def test_framewise_mean_is_the_confidence_and_shows_where_synchrony_breaks() -> None:
    sound = signal(0, 1, 80, 8)
    motion = sound[:, 10:70].clone()
    motion[:, 40:] = signal(1, 1, 20, 8)
    whole = sync_offset(motion, sound, max_offset=5, lead=10)
    plain = framewise_confidence(motion, sound, max_offset=5, lead=10, filter_windows=1)
    torch.testing.assert_close(plain.confidence.mean(1), whole.confidence)
    smooth = framewise_confidence(motion, sound, max_offset=5, lead=10).confidence[0]
    assert smooth[:36].min() > smooth[45:].max() + 1
    torch.testing.assert_close(smooth[0], plain.confidence[0, :5].median())  # the end takes what there is


def test_framewise_at_a_given_offset_and_with_masks() -> None:
    motion, audio = signal(0, 2, 12, 6), signal(1, 2, 12, 6)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    got = framewise_confidence(motion, audio, max_offset=3, mask=mask, offset_frames=torch.tensor([0, 2]), filter_windows=1)
    torch.testing.assert_close(got.distance[0], (motion[0] - audio[0]).norm(dim=-1))
    torch.testing.assert_close(got.distance[1, 2:7], (motion[1, 2:7] - audio[1, :5]).norm(dim=-1))
    assert got.confidence[1].isnan().tolist() == [True, True] + 5 * [False] + 5 * [True]
    filtered = framewise_confidence(
        motion, audio, max_offset=3, mask=mask, offset_frames=torch.tensor([0, 2]), filter_windows=3
    )
    assert filtered.confidence[1].isnan().tolist() == got.confidence[1].isnan().tolist()
    torch.testing.assert_close(filtered.confidence[1, 2], got.confidence[1, 2:4].mean())


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ArgumentError, {"filter_windows": 4}),
        (ArgumentError, {"filter_windows": 0}),
        (ArgumentError, {"offset_frames": torch.tensor([0, 6])}),
        (ShapeError, {"offset_frames": torch.tensor([0])}),
        (ShapeError, {"offset_frames": torch.tensor([0.0, 1.0])}),
    ],
)
def test_framewise_errors(error: type[Exception], options: dict[str, object]) -> None:
    with pytest.raises(error, match="expected"):
        framewise_confidence(torch.zeros(2, 9, 4), torch.zeros(2, 9, 4), max_offset=5, **options)


def test_a_collapsed_network_is_never_right() -> None:
    alike = torch.ones(2, 9, 4)
    assert sync_offset(alike, alike, max_offset=2).offset_frames.tolist() == [0, 0]
    assert offset_accuracy(alike, alike, max_offset=2).item() == 0
    assert not sync_offset(alike, alike, max_offset=2).within(2).any()
