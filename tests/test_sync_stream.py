"""The streaming scorer against the report of the same seconds at once, and its memory."""

from __future__ import annotations

import pytest
import torch

from avsync.audio import SpeechFeatures
from avsync.errors import ArgumentError, ShapeError
from avsync.metrics import StreamSync, SyncStream, sync_report
from avsync.models import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.resampling import resample_frames


@pytest.fixture(scope="module")
def pyramid() -> SyncerPyramid:
    torch.manual_seed(0)
    sizes = SyncerConfig(width=8, embed=4, frame_blocks=1)
    return SyncerPyramid(SyncerPyramidConfig(syncer=sizes, num_levels=3, audio="log-mel", mean_normalisation=True)).eval()


def recording(frames: int, fps: float = 25.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = round(frames * fps / 25)
    return torch.rand(images, 68, 2, generator=generator), torch.randn(640 * frames, generator=generator)


@pytest.mark.parametrize(("margin", "fps"), [(0, 25.0), (16, 25.0), (16, 24.0), (0, 30.0), (16, 60.0)])
def test_equals_the_report_of_the_same_crop(pyramid: SyncerPyramid, margin: int, fps: float) -> None:
    landmarks, waveform = recording(260, fps)
    stream = SyncStream(pyramid, seconds=3.0, every=1.0, margin=margin, fps=fps)
    found: list[StreamSync] = []
    frame = sample = 0
    generator = torch.Generator().manual_seed(2)
    while frame < len(landmarks) or sample < len(waveform):  # uneven chunks; audio and landmarks run apart
        frames, samples = (int(torch.randint(0, most, (), generator=generator)) for most in (9, 7000))
        found += stream.push(landmarks[frame : frame + frames], waveform[sample : sample + samples])
        frame, sample = frame + frames, sample + samples
    assert [round(one.start * 25) for one in found] == list(range(margin, 260 - 75 - margin + 1, 25))
    transform, landmarks = SpeechFeatures(kind="log-mel"), resample_frames(landmarks[None], fps=fps)[0]
    for one in found:
        first = round(one.start * 25)
        part = waveform[640 * (first - margin) : 640 * (first + 75 + margin)]
        whole = sync_report(pyramid, landmarks[None, first : first + 75], transform(part[None]), margin=margin)
        assert len(one.report) == len(whole) == 3 and one.end == pytest.approx(one.start + 3)
        for streamed, batch in zip(one.report, whole, strict=True):
            torch.testing.assert_close(streamed.sync.distances, batch.sync.distances, rtol=0, atol=1e-5)
            torch.testing.assert_close(streamed.sync.confidence, batch.sync.confidence, rtol=0, atol=1e-5)
            assert torch.equal(streamed.offset_ms, batch.offset_ms) and streamed.answers == batch.answers
            torch.testing.assert_close(streamed.input_frames, batch.offset_ms * fps / 1000)


@pytest.mark.parametrize("fps", [25.0, 30.0])
def test_memory_does_not_grow(pyramid: SyncerPyramid, fps: float) -> None:
    landmarks, waveform = recording(25, fps)
    stream = SyncStream(pyramid, seconds=2.0, margin=8, fps=fps)
    sizes = []
    for _ in range(90):
        stream.push(landmarks, waveform)
        sizes.append(stream.kept)
    assert set(sizes[5:]) == {sizes[-1]}
    assert sizes[-1][0] <= (50 + 25 + 8) * fps / 25 + 6 and sizes[-1][1] <= 640 * (50 + 25 + 2 * 8)
    assert sum(part.untyped_storage().nbytes() for part in (*stream._landmarks, *stream._waveform)) < 4 * (
        136 * 110 + 640 * 100
    )


def test_bad_arguments(pyramid: SyncerPyramid) -> None:
    with pytest.raises(ArgumentError, match=r"`margin`: expected a multiple of 4 frames, got 6"):
        SyncStream(pyramid, margin=6)
    with pytest.raises(ArgumentError, match="`fps`"):
        SyncStream(pyramid, fps=0.0)
    with pytest.raises(ArgumentError, match=r"`seconds`: expected at least 0\.68 s, got 0\.5"):
        SyncStream(pyramid, seconds=0.5)
    fast = SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4, frame_blocks=1), audio="custom", fps=30.0)
    with pytest.raises(ArgumentError, match=r"`pyramid`: expected syncers of 25 frames per second, got 30"):
        SyncStream(SyncerPyramid(fast))
    custom = SyncerPyramid(SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4, frame_blocks=1), audio="custom"))
    with pytest.raises(ArgumentError, match="`audio_transform`"):
        SyncStream(custom)
    with pytest.raises(ShapeError, match="`landmarks`"):
        SyncStream(pyramid).push(torch.rand(1, 25, 68, 2), torch.zeros(16000))
    with pytest.raises(ShapeError, match="`audio`"):
        SyncStream(pyramid).push(torch.rand(25, 68, 2), torch.zeros(1, 16000))
