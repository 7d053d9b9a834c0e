"""SyncNet's protocol: every offset is found with the documented sign, and the numbers are those of the pair-by-pair definition."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync.audio.features import log_mel
from avsync.corpus.clip import Clip
from avsync.corpus.synthetic.talker import SyntheticConfig, synthetic_clip
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.evaluation.measures import sync_scores
from avsync.metrics import _band, offset_accuracy
from avsync.metrics.offset import (
    SyncOffset,
    known_offset,
    offset_distances,
    offset_from_distances,
    offset_milliseconds,
    offset_within,
    sync_offset,
    window_distances,
)
from avsync.metrics.report import level_answers
from tests.reference import offset as reference

seeds = st.integers(0, 2**31)


def signal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(
    seeds,
    st.integers(1, 20),
    st.integers(1, 30),
    st.integers(0, 8),
    st.integers(0, 12),
    st.sampled_from(["masked", "legacy"]),
    st.sampled_from([0.01, 1.0, 30.0]),
)
def test_matches_the_protocol(
    seed: int, windows: int, audio_windows: int, max_offset: int, lead: int, edges: str, norm: float
) -> None:
    lead = min(lead, audio_windows - 1)
    motion, audio = norm * signal(seed, 2, windows, 6), norm * signal(seed + 1, 2, audio_windows, 6)
    got = sync_offset(motion, audio, max_offset=max_offset, lead=lead, edges=edges)
    for clip in range(2):
        v, a = motion[clip].double().numpy(), audio[clip].double().numpy()
        curve = reference.offset_distances(v, a, max_offset, lead, edges)
        np.testing.assert_allclose(got.distances[clip].numpy(), curve, rtol=1e-5, atol=1e-5)
        offset, confidence, distance = reference.sync_offset(v, a, max_offset, lead, edges)
        assert got.offset_frames[clip].item() == offset
        assert got.confidence[clip].item() == pytest.approx(confidence, rel=1e-5, abs=1e-5 * norm)
        assert got.distance[clip].item() == pytest.approx(distance, rel=1e-5)
        np.testing.assert_allclose(got.distance_at_zero[clip].item(), curve[max_offset], rtol=1e-5)
        assert got.rank_at_zero[clip].item() == reference.rank_at_zero(v, a, max_offset, lead, edges)


@given(seeds, st.integers(1, 14), st.integers(0, 6), st.integers(0, 8), st.integers(1, 6), st.data())
def test_mean_over_frames(seed: int, windows: int, max_offset: int, lead: int, window: int, data: st.DataObject) -> None:
    motion, audio = signal(seed, 1, windows, 6), signal(seed + 1, 1, windows + lead + 2, 6)
    counted = data.draw(st.lists(st.booleans(), min_size=windows, max_size=windows))
    mask = None if all(counted) else torch.tensor([counted])
    got = offset_distances(motion, audio, max_offset=max_offset, lead=lead, mask=mask, window=window)
    v, a = motion[0].double().numpy(), audio[0].double().numpy()
    expected = reference.frame_mean_distances(v, a, max_offset, lead, window, counted)
    np.testing.assert_allclose(got[0].numpy(), expected, rtol=1e-5, atol=1e-5)
    if window == 1:
        torch.testing.assert_close(
            got, offset_distances(motion, audio, max_offset=max_offset, lead=lead, mask=mask), equal_nan=True
        )
    found = sync_offset(motion, audio, max_offset=max_offset, lead=lead, mask=mask, window=window)
    torch.testing.assert_close(found.distances, got, equal_nan=True)


def test_a_mean_over_frames_hears_the_ends_of_a_clip() -> None:
    """The inner windows of this clip lean a little to the sound of one frame later; its first and its last know better."""
    sound = torch.nn.functional.one_hot(torch.arange(15), 16).float()[None]
    motion = 0.12 * sound[:, 3:14]
    motion[:, [0, 10]] = 0.4 * sound[:, [2, 12]]
    by_window, by_frame = (sync_offset(motion, sound, max_offset=2, lead=2, window=window) for window in (1, 5))
    assert (by_window.offset_frames.item(), by_frame.offset_frames.item()) == (-1, 0)


@pytest.mark.parametrize("window", [0, -1])
def test_windows_have_frames(window: int) -> None:
    with pytest.raises(ArgumentError, match="`window`"):
        sync_offset(signal(0, 1, 5, 4), signal(1, 1, 5, 4), window=window)


@given(seeds, st.integers(1, 60), st.sampled_from([1e-3, 1.0, 30.0]))
def test_legacy_is_the_published_script(seed: int, windows: int, norm: float) -> None:
    motion, audio = norm * signal(seed, 1, windows, 16), norm * signal(seed + 1, 1, windows, 16)
    got = sync_offset(motion, audio, max_offset=10, edges="legacy")
    # The script adds 1e-6 to every coordinate of a difference: together no more than 4e-6 to a distance.
    offset, confidence, distance = reference.published_script(motion[0].double().numpy(), audio[0].double().numpy(), 10)
    # So offsets whose distances are nearer to each other than that may change places.
    tied = got.distances[0, offset + 10] - got.distances[0].min()
    assert got.offset_frames.item() == offset or tied <= 8e-6
    assert got.confidence.item() == pytest.approx(confidence, rel=1e-5, abs=1e-5)
    assert got.distance.item() == pytest.approx(distance, rel=1e-5, abs=1e-5)


@functools.cache
def recording(speaker: int) -> Clip:
    return synthetic_clip(SyntheticConfig(seed=3), speaker=speaker, seconds=14.0)


def talker(speaker: int, shift: int) -> tuple[Tensor, Tensor]:
    """Windows of the mouth's opening and of the sound's level, the sound from ``shift`` frames later: it is early by as many."""
    clip = recording(speaker)
    face, start, frames = torch.from_numpy(clip.landmarks), 20, 300
    opening = (face[:, 66] - face[:, 62]).norm(dim=-1)[start : start + frames]
    sound = torch.from_numpy(clip.waveform)[640 * (start + shift) : 640 * (start + shift + frames)]
    level = log_mel(sound[None])[0, ::4].mean(dim=-1)
    windows = [x.unfold(0, 11, 1) - x.unfold(0, 11, 1).mean(dim=-1, keepdim=True) for x in (opening, level)]
    return tuple(torch.nn.functional.normalize(x, dim=-1)[None] for x in windows)


@pytest.mark.parametrize("edges", ["masked", "legacy"])
def test_every_shift_of_a_talkers_sound_is_recovered(edges: str) -> None:
    for speaker in (0, 3):
        found = {shift: sync_offset(*talker(speaker, shift), max_offset=15, edges=edges) for shift in range(-10, 11)}
        assert {shift: int(result.offset_frames) for shift, result in found.items()} == {shift: shift for shift in found}
        assert all((result.rank_at_zero == 1) == (shift == 0) for shift, result in found.items())


@given(
    seeds,
    st.integers(1, 130),
    st.integers(0, 20),
    st.sampled_from([4, 128, 1024]),
    st.sampled_from([0.0, 1e-5, 1e-3, 0.1, 0.5, 2.0]),
    st.sampled_from([0.01, 1.0, 1.5, 100.0]),
)
def test_distances_keep_their_digits(
    seed: int, windows: int, max_offset: int, embed: int, noise: float, stretch: float
) -> None:
    audio = torch.nn.functional.normalize(signal(seed, 1, windows + 2 * max_offset, embed), dim=-1)
    motion = audio[:, max_offset : max_offset + windows] + noise * embed**-0.5 * signal(seed + 1, 1, windows, embed)
    motion = stretch * motion
    got, counts = window_distances(motion, audio, max_offset=max_offset, lead=max_offset)
    assert counts is None
    around = audio.double().unfold(1, 2 * max_offset + 1, 1).transpose(2, 3)
    exact = (motion.double()[:, :, None] - around).norm(dim=-1)
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)


def test_near_pairs_keep_their_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances of near pairs are computed again from their differences."""
    x = signal(0, 2, 50, 32)
    near = x + 1e-4 * signal(1, 2, 50, 32)
    got = offset_distances(near, x, max_offset=4)
    exact = offset_distances(near.double(), x.double(), max_offset=4)
    torch.testing.assert_close(got.double(), exact, rtol=2e-6, atol=0)
    monkeypatch.setattr(_band, "_CLOSE", 0.0)  # without mending, the same distances lose their digits
    assert (offset_distances(near, x, max_offset=4).double() - exact).abs().max() > 1e-5


def test_less_precise_products_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = signal(0, 1, 20, 8), signal(1, 1, 20, 8)
    expected = offset_distances(x.double(), y.double(), max_offset=3).float()
    torch.set_float32_matmul_precision("medium")
    try:
        torch.testing.assert_close(offset_distances(x, y, max_offset=3), expected, rtol=1e-6, atol=0)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("edges", ["masked", "legacy"])
@pytest.mark.parametrize("offset", range(-6, 7))
def test_every_offset_is_found(offset: int, edges: str) -> None:
    sound = signal(0, 1, 40, 8)
    # Audio that is early by `offset` frames: what belongs to motion window i is heard at window i - offset.
    motion = sound[:, 10 - offset : 30 - offset]
    got = sync_offset(motion, sound, max_offset=6, lead=10, edges=edges)
    assert got.offset_frames.tolist() == [offset]
    assert got.distance.item() == pytest.approx(0, abs=1e-6)
    bare = sync_offset(motion, sound[:, 10:30], max_offset=6, edges=edges)
    assert bare.offset_frames.tolist() == [offset]


def test_delaying_early_audio_mends_it() -> None:
    sound = signal(1, 1, 40, 8)
    motion, audio = sound[:, 5:25], sound[:, 8:28]  # the audio of motion window i comes at i - 3: three windows early
    offset = int(sync_offset(motion, audio, max_offset=5).offset_frames)
    assert offset == 3
    delayed = torch.cat([torch.zeros(1, offset, 8), audio], dim=1)
    assert int(sync_offset(motion, delayed, max_offset=5).offset_frames) == 0


@given(seeds, st.integers(1, 9))
def test_equal_windows_are_at_distance_zero(seed: int, windows: int) -> None:
    x = 10 * signal(seed, 1, windows, 32)
    assert sync_offset(x, x, max_offset=2).distance.item() == pytest.approx(0, abs=1e-5)


@given(seeds, st.integers(3, 12), st.integers(1, 6))
def test_masked_windows_change_nothing(seed: int, windows: int, more: int) -> None:
    motion, audio = signal(seed, 1, windows, 4), signal(seed + 1, 1, windows + 10, 4)
    padded = torch.cat([motion, torch.full((1, more, 4), torch.nan)], dim=1)
    mask = torch.arange(windows + more)[None] < windows
    got = sync_offset(padded, audio, max_offset=3, lead=4, mask=mask)
    torch.testing.assert_close(got, sync_offset(motion, audio, max_offset=3, lead=4), equal_nan=True)


@given(seeds, st.integers(2, 12), st.integers(1, 12), st.sampled_from(["masked", "legacy"]))
def test_clips_of_different_lengths_share_a_batch(seed: int, first: int, second: int, edges: str) -> None:
    longest = max(first, second)
    motion, audio = torch.full((2, longest, 4), torch.nan), torch.full((2, longest + 4, 4), torch.nan)
    for clip, windows in enumerate((first, second)):
        motion[clip, :windows], audio[clip, : windows + 4] = (
            signal(seed + clip, windows, 4),
            signal(seed - clip, windows + 4, 4),
        )
    lengths = torch.tensor([[first], [second]])
    masks = {"mask": torch.arange(longest) < lengths, "audio_mask": torch.arange(longest + 4) < lengths + 4}
    got = sync_offset(motion, audio, max_offset=6, lead=2, edges=edges, **masks)
    for clip, windows in enumerate((first, second)):
        alone = sync_offset(
            motion[clip : clip + 1, :windows], audio[clip : clip + 1, : windows + 4], max_offset=6, lead=2, edges=edges
        )
        for value, expected in zip(got, alone, strict=True):
            torch.testing.assert_close(value[clip : clip + 1], expected, equal_nan=True)


def test_large_batches_equal_their_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    motion, audio = signal(0, 7, 90, 4), signal(1, 7, 90, 4)
    whole = offset_distances(motion, audio, max_offset=3)
    monkeypatch.setattr(_band, "_ROWS", 64)  # a piece at a time
    torch.testing.assert_close(offset_distances(motion, audio, max_offset=3), whole)


def test_no_clips_are_an_error_that_says_so() -> None:
    with pytest.raises(ShapeError, match=r"`motion`: expected at least 1 clip, got 0"):
        sync_offset(torch.zeros(0, 5, 4), torch.zeros(0, 5, 4), max_offset=2)


def test_many_short_clips_equal_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    motion, audio = torch.randn(2, 7, 12, 8).unbind(0)
    whole = offset_distances(motion, audio, max_offset=3)
    monkeypatch.setattr(_band, "_ROWS", 24)  # two clips at a time, and one that is left
    taken = []
    product = _band._distances
    monkeypatch.setattr(_band, "_distances", lambda *args: taken.append(len(args[0])) or product(*args))
    torch.testing.assert_close(offset_distances(motion, audio, max_offset=3), whole)
    assert taken == [2, 2, 2, 1]


def test_long_recordings_equal_their_pieces() -> None:
    motion, audio = signal(0, 1, 12000, 4), signal(1, 1, 12020, 4)
    whole = offset_distances(motion, audio, max_offset=3, lead=10)
    pieces = [offset_distances(motion[:, i : i + 4000], audio[:, i : i + 4020], max_offset=3, lead=10) for i in (0, 4000, 8000)]
    torch.testing.assert_close(whole, torch.stack(pieces).mean(0))


def test_a_clip_without_windows_says_nothing() -> None:
    x = signal(0, 2, 9, 4)
    mask = torch.tensor([[True], [False]]).expand(2, 9)
    got = sync_offset(x, x, max_offset=2, mask=mask)
    assert got.offset_frames.tolist() == [0, 0]
    for name in ("confidence", "distance", "distance_at_zero"):
        values = getattr(got, name)
        assert values[0].isfinite() and values[1].isnan()
    assert got.rank_at_zero.tolist()[1] == 0 and got.rank_at_zero.tolist()[0] > 0


@pytest.mark.parametrize("where", ["motion", "audio"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_spoil_their_clip_and_no_other(where: str, value: float) -> None:
    x, y = signal(0, 2, 9, 4), signal(1, 2, 9, 4)
    clean = sync_offset(x, y, max_offset=3)
    (x if where == "motion" else y)[1, 8, 2] = value
    got = sync_offset(x, y, max_offset=3)
    torch.testing.assert_close(got.distances[0], clean.distances[0])
    assert got.distances[1].isnan().all() and got.confidence[1].isnan() and got.distance[1].isnan()
    assert got.offset_frames[1] == 0 and got.rank_at_zero[1] == 0
    # Sound beyond the farthest offset is not looked at.
    far = torch.cat([y[:1], torch.full((1, 3, 4), torch.nan)], dim=1)
    torch.testing.assert_close(
        sync_offset(x[:1, :6], far, max_offset=3).distances, sync_offset(x[:1, :6], y[:1], max_offset=3).distances
    )


@given(seeds, st.integers(2, 200), st.sampled_from(["masked", "legacy"]))
def test_constant_embeddings_have_no_confidence(seed: int, windows: int, edges: str) -> None:
    motion, audio = signal(seed, 1, 1, 24).expand(1, windows, 24), signal(seed + 1, 1, 1, 24).expand(1, windows + 6, 24)
    got = sync_offset(motion, audio, max_offset=3, lead=3, edges=edges)
    assert got.confidence.item() == 0 and got.offset_frames.item() == 0 and got.rank_at_zero.item() == 7
    for twin in (motion, motion.double()):  # at distance 0 everywhere
        same = sync_offset(twin, twin, max_offset=1)
        assert same.confidence.item() == 0 and same.offset_frames.item() == 0 and same.distance.item() == 0


def test_rank_counts_ties_against_offset_zero() -> None:
    curves = torch.tensor([[3.0, 2.0, 1.0, 2.0, 3.0], [1.0, 2.0, 1.0, 0.5, 3.0], [1.0, 2.0, torch.nan, 0.5, torch.nan]])
    got = offset_from_distances(curves)
    assert got.rank_at_zero.tolist() == [1, 3, 0]
    assert got.offset_frames.tolist() == [0, -1, -1]
    np.testing.assert_allclose(got.confidence.numpy(), [1.0, 0.5, 0.5])
    with pytest.raises(ShapeError, match="odd number"):
        offset_from_distances(torch.zeros(1, 4))


def test_milliseconds() -> None:
    assert offset_milliseconds(torch.tensor([-2, 0, 3])).tolist() == [-80.0, 0.0, 120.0]
    assert offset_milliseconds(torch.tensor([0.5]), level=3).tolist() == [160.0]
    assert offset_milliseconds(torch.tensor([1]), level=1, fps=50.0).tolist() == [40.0]
    with pytest.raises(ArgumentError, match="`level`"):
        offset_milliseconds(torch.tensor([1]), level=-1)
    with pytest.raises(ArgumentError, match="`fps`"):
        offset_milliseconds(torch.tensor([1]), fps=0)


def test_gradients_reach_both() -> None:
    motion, audio = signal(0, 1, 5, 3).double().requires_grad_(), signal(1, 1, 5, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v, a: offset_distances(v, a, max_offset=2), (motion, audio))


def test_types_and_precision() -> None:
    x = signal(0, 1, 20, 8)
    exact = sync_offset(x.double(), x.roll(1, 1).double(), max_offset=3)
    assert exact.distances.dtype == torch.float64 and exact.offset_frames.dtype == torch.int64
    assert isinstance(exact, SyncOffset)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(sync_offset(x, x.roll(1, 1), max_offset=3).distances, exact.distances.float())
    assert sync_offset(x.bfloat16(), x.bfloat16(), max_offset=3).distances.dtype == torch.float32


def test_compiles() -> None:
    x, y = signal(0, 2, 12, 4), signal(1, 2, 12, 4)
    compiled = torch.compile(sync_offset, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y, max_offset=3), sync_offset(x, y, max_offset=3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda() -> None:
    x, y = signal(0, 2, 40, 8), signal(1, 2, 40, 8)
    got = sync_offset(x.cuda(), y.cuda(), max_offset=5)
    for value, expected in zip(got, sync_offset(x, y, max_offset=5), strict=True):
        torch.testing.assert_close(value.cpu(), expected)


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ShapeError, {"motion": torch.zeros(2, 9)}),
        (ShapeError, {"audio": torch.zeros(3, 9, 4)}),
        (ShapeError, {"audio": torch.zeros(2, 9, 5)}),
        (ShapeError, {"mask": torch.ones(2, 8, dtype=torch.bool)}),
        (ShapeError, {"mask": torch.ones(2, 9)}),
        (ShapeError, {"audio_mask": torch.ones(2, 9)}),
        (ShapeError, {"audio_mask": torch.ones(2, 8, dtype=torch.bool)}),
        (ShapeError, {"motion": torch.zeros(2, 9, 4, dtype=torch.int64)}),
        (ShapeError, {"audio": torch.zeros(2, 9, 4, dtype=torch.int64)}),
        (ArgumentError, {"edges": "wrapped"}),
        (ArgumentError, {"max_offset": -1}),
        (ArgumentError, {"lead": -1}),
        (ClipTooShortError, {"motion": torch.zeros(2, 0, 4)}),
        (ClipTooShortError, {"audio": torch.zeros(2, 0, 4)}),
        (ClipTooShortError, {"lead": 9}),
    ],
)
def test_errors(error: type[Exception], options: dict[str, object]) -> None:
    arguments = {"motion": torch.zeros(2, 9, 4), "audio": torch.zeros(2, 9, 4), **options}
    with pytest.raises(error, match="expected"):
        sync_offset(arguments.pop("motion"), arguments.pop("audio"), **arguments)


COLLAPSED = torch.ones(3, 40, 8)


def silence(clips: int = 3, windows: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Motion that differs from window to window, and audio embeddings that are all alike."""
    motion = torch.nn.functional.normalize(torch.randn(clips, windows, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    return motion, torch.nn.functional.normalize(torch.ones(clips, windows, 8), dim=-1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("window", [1, 5])
def test_silence_and_collapse_have_no_offset(masked: bool, window: int) -> None:
    """The means over other windows at every offset differ; that is no evidence of an offset."""
    mask = torch.arange(40)[None].expand(3, -1) < torch.tensor([40, 30, 20])[:, None] if masked else None
    for motion, audio in (silence(), (COLLAPSED, COLLAPSED)):
        found = sync_offset(motion, audio, mask=mask, audio_mask=mask, window=window)
        assert found.offset_frames.tolist() == [0, 0, 0] and found.confidence.tolist() == [0.0, 0.0, 0.0]
        assert not found.within(15).any()
        assert known_offset(found.offset_frames, found.confidence).isnan().all()


def test_one_rule_for_what_counts_as_right() -> None:
    nan = float("nan")
    offsets, confidences = (
        torch.tensor([[0, 1, -1, 2], [0, 0, -2, 1]]),
        torch.tensor([[0.3, 0.1, 0.0, 0.9], [nan, 0.0, 0.2, 1e-9]]),
    )
    assert offset_within(offsets, confidences).tolist() == [[True, True, False, False], [False, False, False, True]]
    assert offset_within(offsets, confidences, 2).tolist() == [[True, True, False, True], [False, False, True, True]]
    assert known_offset(offsets, confidences).nan_to_num(99).tolist() == [[0, 1, 99, 2], [99, 99, -2, 1]]


def test_every_count_of_right_offsets_uses_the_rule() -> None:
    """Scores of the evaluation, figures, reports of training and the corpus's statistics: constant embeddings are 0 % right."""
    found = sync_offset(COLLAPSED, COLLAPSED)
    scores = sync_scores([found])
    rows = {measure.key: row for measure, row in zip(scores.measures, scores.values, strict=True)}
    assert rows["within_one"].tolist() == [0.0, 0.0, 0.0] and rows["offset"].isnan().all()
    figures = pytest.importorskip("avsync.figures")
    pytest.importorskip("matplotlib")
    known = known_offset(found.offset_frames, found.confidence)
    assert figures.offset_histogram([known]).axes[0].get_title() == "level 0: 0 % within 1 frame"
    assert float(offset_accuracy(COLLAPSED, COLLAPSED)) == 0.0
    assert level_answers(found, speed=torch.ones(3)) == ("unsure",) * 3


@pytest.mark.parametrize(
    ("speed", "speech", "offsets", "expected"),
    [
        (0.3, 0.9, "found", "offset"),
        (0.3, None, "found", "offset"),
        (0.3, 0.1, "found", "silent"),
        (0.01, 0.1, "found", "silent"),
        (0.01, 0.9, "found", "still"),
        (0.3, 0.9, "alike", "unsure"),
        (0.3, 0.9, "none", "nothing"),
    ],
)
def test_one_decision_for_the_answer(speed: float, speech: float | None, offsets: str, expected: str) -> None:
    distances = {"found": [1.0, 0.2, 1.0], "alike": [1.0, 1.0, 1.0], "none": [float("nan")] * 3}[offsets]
    found = offset_from_distances(torch.tensor([distances]))
    speech_fraction = None if speech is None else torch.tensor([speech])
    assert level_answers(found, speed=torch.tensor([speed]), speech_fraction=speech_fraction) == (expected,)
