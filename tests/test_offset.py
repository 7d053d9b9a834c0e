"""SyncNet's protocol: every offset is found with the documented sign, and the numbers are those of the pair-by-pair definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.metrics.offset import SyncOffset, offset_distances, sync_offset
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


def test_long_recordings_equal_their_pieces() -> None:
    motion, audio = signal(0, 1, 1200, 4), signal(1, 1, 1220, 4)
    whole = offset_distances(motion, audio, max_offset=3, lead=10)
    pieces = [offset_distances(motion[:, i : i + 400], audio[:, i : i + 420], max_offset=3, lead=10) for i in (0, 400, 800)]
    torch.testing.assert_close(whole, torch.stack(pieces).mean(0))


def test_a_clip_without_windows_says_nothing() -> None:
    x = signal(0, 2, 9, 4)
    mask = torch.tensor([[True], [False]]).expand(2, 9)
    got = sync_offset(x, x, max_offset=2, mask=mask)
    assert got.offset_frames.tolist() == [0, 0]
    for name in ("confidence", "distance", "distance_at_zero"):
        values = getattr(got, name)
        assert values[0].isfinite() and values[1].isnan()


def test_constant_embeddings_have_no_confidence() -> None:
    got = sync_offset(torch.ones(1, 9, 4), torch.ones(1, 9, 4), max_offset=3)
    assert got.confidence.item() == 0


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
