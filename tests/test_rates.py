"""Other frame rates than 25: clips, banks, evaluations, metrics and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avsync import SyncerPyramid
from avsync.cli import main
from avsync.corpus import Clip, ClipBank, synthetic_clip
from avsync.corpus.clip import check_clip, resample_clip, sample_of_frame, write_clip, write_index
from avsync.corpus.media.files import write_audio
from avsync.evaluation import read_tracks
from avsync.metrics import multi_scale_offset, report_rows, sync_report
from avsync.resampling import resample_frames


def clip_at(fps: float, *, speaker: int = 0, seconds: float = 6.0, shift: int = 0) -> Clip:
    """Return a clip of the synthetic talker at another rate, its audio early by ``shift`` samples."""
    clip = synthetic_clip(speaker=speaker, seconds=seconds)
    other = resample_clip(replace(clip, waveform=np.roll(clip.waveform, -shift)), fps=fps)
    check_clip(other)
    return other


@pytest.mark.parametrize("fps", [12.5, 24, 30000 / 1001, 30, 50, 60])
def test_clips_come_back_from_another_rate(fps: float) -> None:
    clip = synthetic_clip(seconds=4.0)
    other = resample_clip(clip, fps=fps)
    check_clip(other)
    assert other.frames == round(4 * fps) and other.waveform.size == sample_of_frame(other.frames, fps)
    back = resample_clip(other)
    check_clip(back)
    assert back.frames == 100 and resample_clip(back) is back
    height = np.ptp(clip.landmarks[0, :, 1])
    if fps > 20:
        assert np.abs(back.landmarks - clip.landmarks)[3:-3].mean() < 0.004 * height


def test_missing_audio_stays_at_its_instants() -> None:
    clip = resample_clip(replace(synthetic_clip(seconds=4.0), missing_audio=((0, 10), (50, 100))), fps=50)
    assert clip.missing_audio in (((0, 20), (100, 200)), ((0, 19), (99, 200)))
    assert resample_clip(clip).has_audio.sum() == 40


def test_banks_hold_clips_of_all_rates_at_25() -> None:
    features = SyncerPyramid.from_pretrained("landmarks68-25fps").speech_features()
    assert features is not None
    clips = [replace(clip_at(fps, seconds=3.0), id=f"at{fps}") for fps in (24, 25, 30, 50)]
    bank = ClipBank(clips, features=features.features)
    assert bank.lengths.tolist() == [75] * 4
    batch = bank.windows(75, stride=75)
    difference = (batch.landmarks - batch.landmarks[1])[:, 3:-3].abs().mean(dim=(1, 2, 3))
    assert difference.max() < 0.004 * np.ptp(clips[1].landmarks[0, :, 1])


def test_evaluations_read_other_rates(tmp_path: Path) -> None:
    for fps in (25, 30):
        clip = clip_at(fps, seconds=2.0)
        np.savez(tmp_path / f"at{fps}.npz", landmarks=clip.landmarks, fps=fps)
        write_audio(tmp_path / f"at{fps}.flac", clip.waveform, sample_rate=16000)
    np.savez(tmp_path / "unnamed.npz", landmarks=clip.landmarks)
    tracks, left_out = read_tracks(tmp_path, fps=30)
    assert not left_out and {name: track.frames for name, track in tracks.items()} == {"at25": 50, "at30": 50, "unnamed": 50}
    np.testing.assert_array_equal(tracks["at30"].landmarks, tracks["unnamed"].landmarks)
    write_index(tmp_path / "c", [write_clip(replace(clip, id="x"), tmp_path / "c")], fps=30.0)
    tracks, left_out = read_tracks(tmp_path / "c")
    assert not left_out and tracks["x"].frames == 50


@pytest.mark.parametrize("fps", [24, 30, 60])
def test_offsets_are_reported_in_milliseconds_and_in_frames_of_the_given_rate(fps: float) -> None:
    """The audio is early by 160 ms, which is 4 frames at 25 per second."""
    syncers = SyncerPyramid.from_pretrained("landmarks68-25fps")
    clip = clip_at(fps, shift=4 * 640)
    features = syncers.speech_features()(torch.from_numpy(clip.waveform)[None])  # type: ignore[misc]
    landmarks = torch.from_numpy(clip.landmarks)[None]
    found = multi_scale_offset(syncers, landmarks, features, fps=fps)[0]
    assert found.offset_frames.item() == 4
    (level, *_) = sync_report(syncers, landmarks, features, fps=fps)
    assert level.offset_ms.item() == pytest.approx(160) and level.frame_ms == 40
    assert level.input_frames.item() == pytest.approx(0.16 * fps)
    assert report_rows([level])[0]["input_frames"] == pytest.approx(0.16 * fps)
    lengths = torch.tensor([clip.frames])
    padded = torch.cat([landmarks, torch.full_like(landmarks[:, :7], torch.nan)], dim=1)
    audio = torch.nn.functional.pad(features, (0, 0, 0, round(700 / fps)))
    mask = torch.ones(1, padded.shape[1], dtype=torch.bool)
    again = multi_scale_offset(syncers, padded, audio, fps=fps, lengths=lengths, frame_mask=mask)[0]
    torch.testing.assert_close(again.distances, found.distances, atol=5e-3, rtol=0)


def test_the_command_line_takes_a_clip_at_30(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = replace(clip_at(30, shift=4 * 640, seconds=8.0), id="a")
    write_index(tmp_path, [write_clip(clip, tmp_path)], fps=30.0)
    assert main(["offset", str(tmp_path / "a"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["fps"] == 30 and found["offset_ms"] == pytest.approx(160, abs=20)
    assert found["offset_frames"] == pytest.approx(found["offset_ms"] * 0.03)
    assert main(["offset", str(tmp_path / "a")]) == 0
    assert "frames of this recording, 30 per second" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path), "--syncers", "landmarks68-25fps"]) == 0


def test_a_pyramid_of_50_frames_per_second() -> None:
    """Its landmarks are not resampled at their own rate, and those of 25 frames per second are."""
    from avsync import SyncerConfig, SyncerPyramidConfig

    sizes = SyncerConfig(width=8, embed=4, audio_stride=2)
    pyramid = SyncerPyramid(SyncerPyramidConfig(syncer=sizes, audio="log-mel", fps=50.0, num_levels=2))
    x = torch.rand(1, 100, 68, 2)
    audio = torch.rand(1, 200, 26)
    own = multi_scale_offset(pyramid, x, audio)
    assert torch.equal(own[0].distances, multi_scale_offset(pyramid, x, audio, fps=50)[0].distances)
    slow = resample_frames(x, fps=50, to_fps=25)
    assert multi_scale_offset(pyramid, slow, audio, fps=25)[0].distances.shape == own[0].distances.shape
    assert sync_report(pyramid, x, audio, max_offsets=(15, 8))[1].frame_ms == 40


def test_the_example_interpolates_and_the_bank_resamples_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples" / "pretrained_models"))
    import frame_rates

    clip = synthetic_clip(seconds=3.0)
    for fps in frame_rates.RATES:
        other = frame_rates.at_rate(clip, fps)
        check_clip(other)
        bank = frame_rates.bank_at([clip], fps)
        assert abs(int(bank.lengths) - 75) <= 1
        moved = np.abs(bank.windows(70, stride=70).landmarks[0].numpy() - clip.landmarks[:70])[2:-2].mean()
        assert moved < 0.008 * np.ptp(clip.landmarks[0, :, 1])
