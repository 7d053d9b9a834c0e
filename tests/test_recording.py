"""Offsets of recordings: edges, drift, silence, collapse, untrained syncers, audio tracks, and copies that are confirmed or not written."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

av = pytest.importorskip("av")

from avsync.audio.features import SpeechFeatures
from avsync.cli import main
from avsync.cli._syncers import Syncers
from avsync.corpus.clip import Clip, write_clip, write_index
from avsync.corpus.media.audio_source import AudioSource
from avsync.corpus.synthetic.talker import synthetic_clip
from avsync.errors import CorpusError
from avsync.evaluation.answer import OffsetAnswer, find_offset
from avsync.evaluation.drift import find_drift, fit_drift
from avsync.evaluation.recording import Recording, read_recording, recording_report, with_delayed_audio
from avsync.evaluation.resync import shift_audio
from avsync.metrics import load_calibration
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pretrained import model_folder
from tests.test_cli_offset import DETECTOR, SMALL, Loudness, OpenWhenLoud, activity, bright_mouth, sound_of, talk


def mouth(frames: int) -> npt.NDArray[np.float32]:
    """A mouth that opens whenever :func:`tests.test_cli_offset.activity` has noise."""
    active = activity(frames)[100 : 100 + frames]
    return np.stack([bright_mouth([np.full((4, 4, 3), 255 * on, np.uint8)])[0] for on in active]).astype(np.float32)


def recording(frames: int, shift: int = 0, waveform: npt.NDArray[np.float32] | None = None) -> Recording:
    """A mouth and its audio, early by ``shift`` frames."""
    audio = sound_of(activity(frames), frames, shift) if waveform is None else waveform
    return Recording("a", (Clip("a", "anna", "val", mouth(frames), audio),))


def stretched(clip: Clip, rate: float) -> Clip:
    """The clip with its audio played ``1 + rate`` times as fast."""
    samples = np.arange(clip.waveform.size)
    waveform = np.interp(samples * (1 + rate), samples, clip.waveform, right=0.0).astype(np.float32)
    return replace(clip, waveform=waveform)


@functools.cache
def pretrained() -> dict[str, Any]:
    pyramid = MultiScaleSyncer.from_pretrained("landmarks68-25fps").eval()
    return {"pyramid": pyramid, "audio_transform": pyramid.speech_features()}


def ask(found: Recording, pyramid: Any = None, transform: Any = None, **options: Any) -> tuple[OffsetAnswer, list[str]]:
    pyramid, transform = pyramid or OpenWhenLoud(), transform or Loudness()
    answer, report = find_offset(
        found,
        lambda one: recording_report(one, pyramid, audio_transform=transform, **options),
        drift=lambda one: find_drift(one, pyramid, audio_transform=transform),
    )
    return answer, [level.answers[0] for level in report]


class TestEdge:
    @pytest.mark.parametrize("shift", [45, 60, -45])
    def test_an_offset_beyond_the_search_is_no_answer(self, shift: int) -> None:
        answer, levels = ask(recording(150, shift))
        assert answer.seconds is None, (answer, levels)

    def test_the_best_offset_at_the_edge_is_no_answer(self) -> None:
        """Audio early by 4 frames, searched up to 4, 2 and 1 frames of each level: a better one might lie beyond."""
        answer, levels = ask(recording(150, 4), max_offsets=(4, 2, 1))
        assert levels == ["edge"] * 3 and answer.seconds is None
        answer, levels = ask(recording(150, 4), max_offsets=(5, 3, 2))
        assert levels == ["offset"] * 3 and answer.seconds == pytest.approx(0.16, abs=0.015)

    @pytest.mark.parametrize("shift", [-27, -18, 17, 26])
    def test_a_coarse_answer_that_the_finest_level_confirms(self, shift: int) -> None:
        answer, _ = ask(recording(150, shift))
        assert answer.level == 0 and answer.seconds == pytest.approx(0.04 * shift, abs=0.015)

    def test_a_coarse_answer_that_no_finer_level_confirms(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = OpenWhenLoud.embed_motion

        def deaf_at_level_0(
            self: OpenWhenLoud, landmarks: Tensor, *, levels: Sequence[int] | None = None, **_: Any
        ) -> list[Tensor]:
            found = real(self, landmarks, levels=levels)
            return [torch.ones_like(level) if number < 2 else level for number, level in enumerate(found)]

        monkeypatch.setattr(OpenWhenLoud, "embed_motion", deaf_at_level_0)
        answer, levels = ask(recording(150, 8))
        assert levels[2] == "offset" and "offset" not in levels[:2] and answer.seconds is None


class TestNothingToTell:
    def test_constant_embeddings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("embed_motion", "embed_audio"):
            real = getattr(OpenWhenLoud, name)
            monkeypatch.setattr(
                OpenWhenLoud, name, lambda *args, real=real, **more: [torch.ones_like(x) for x in real(*args, **more)]
            )
        answer, levels = ask(recording(150))
        assert levels == ["unsure"] * 3 and answer.words.startswith("cannot tell")

    def test_silence(self) -> None:
        answer, levels = ask(recording(150, waveform=np.zeros(150 * 640, np.float32)))
        assert levels == ["silent"] * 3 and answer.seconds is None

    def test_untrained_syncers(self) -> None:
        clip = synthetic_clip(seconds=8.0)
        answered = 0
        for seed in range(6):
            torch.manual_seed(seed)
            pyramid = SyncerPyramid(config=SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=8), audio="log-mel"))
            answer, _ = ask(Recording("a", (clip,)), pyramid, SpeechFeatures())
            answered += answer.seconds is not None
        assert answered == 0


class TestDrift:
    @pytest.mark.parametrize("rate", [1.04, 0.96, 1.03])
    def test_another_speed_is_drift(self, rate: float) -> None:
        frames = 300
        audio = sound_of(activity(frames + 20), frames + 20, 0)
        places = np.arange(frames * 640) * rate
        stretched = np.interp(places, np.arange(audio.size), audio).astype(np.float32)
        answer, _ = ask(recording(frames, waveform=stretched))
        assert answer.seconds is None and answer.drift is not None
        # Played `rate` times as fast, what is heard at t belongs to the motion at t * rate: ever earlier.
        assert answer.drift.rate == pytest.approx(rate - 1, abs=0.08 / 12)  # a frame of level 1 over the clip
        assert [at for at, _ in answer.drift.segments] == sorted(at for at, _ in answer.drift.segments)
        for at, offset in answer.drift.segments:
            assert offset == pytest.approx((rate - 1) * at, abs=0.1)
        assert f"by {100 * abs(answer.drift.rate):.1f} %" in answer.words

    @pytest.mark.parametrize("shift", [0, 9, -25])
    def test_one_offset_is_none(self, shift: int) -> None:
        found = recording(300, shift)
        assert find_drift(found, OpenWhenLoud(), audio_transform=Loudness()) is None
        noise = np.random.default_rng(3).normal(0, 0.1, 300 * 640).astype(np.float32)
        assert find_drift(recording(300, waveform=noise), OpenWhenLoud(), audio_transform=Loudness()) is None

    def test_too_short_for_segments(self) -> None:
        for frames in (6, 74, 299):
            assert find_drift(recording(frames), OpenWhenLoud(), audio_transform=Loudness()) is None

    @pytest.mark.parametrize("rate", [0.01, -0.01, 0.02, -0.02, 0.04, -0.04])
    def test_the_synthetic_talker_stretched(self, rate: float) -> None:
        answer, _ = self.ask_pretrained(stretched(synthetic_clip(seconds=15.0), rate))
        assert answer.seconds is None and answer.drift is not None
        assert answer.drift.rate == pytest.approx(rate, abs=0.005)
        for at, offset in answer.drift.segments:
            assert offset == pytest.approx(rate * at, abs=0.06)

    def test_the_synthetic_talker_as_it_is(self) -> None:
        clip = synthetic_clip(seconds=15.0)
        for moved in (clip, with_delayed_audio(Recording("a", (clip,)), -0.2).clips[0]):
            answer, _ = self.ask_pretrained(moved)
            assert answer.drift is None
            assert answer.seconds == pytest.approx(0.0 if moved is clip else 0.2, abs=0.02)

    def test_the_clips_of_a_video_share_a_line(self) -> None:
        """Clips that are too short for a drift of their own show the drift of their video."""
        clip = stretched(synthetic_clip(seconds=15.0), 0.02)
        parts, starts = [], []
        for first in range(0, 375, 75):
            waveform = clip.waveform[640 * first : 640 * (first + 75)]
            parts.append(replace(clip, landmarks=clip.landmarks[first : first + 75], waveform=waveform))
            starts.append(first / 25)
        options = pretrained()
        found = find_drift(Recording("a", tuple(parts), tuple(starts)), **options)
        assert found is not None and found.rate == pytest.approx(0.02, abs=0.005)
        assert find_drift(Recording("a", tuple(parts)), **options) is None

    def test_missing_audio_is_no_segment(self) -> None:
        clip = stretched(synthetic_clip(seconds=18.0), 0.02)
        waveform = clip.waveform.copy()
        waveform[640 * 150 : 640 * 225] = 0
        found = find_drift(Recording("a", (replace(clip, waveform=waveform, missing_audio=((150, 225),)),)), **pretrained())
        assert found is not None and found.rate == pytest.approx(0.02, abs=0.005)
        assert all(not 6.5 < at < 8.5 for at, _ in found.segments)

    @staticmethod
    def ask_pretrained(clip: Clip) -> tuple[OffsetAnswer, list[Any]]:
        options = pretrained()
        calibration = load_calibration(model_folder("landmarks68-25fps") / "calibration.json", syncers=options["pyramid"])
        return find_offset(
            Recording("a", (clip,)),
            lambda one: recording_report(one, **options, calibration=calibration),
            drift=lambda one: find_drift(one, **options),
        )


class TestFitDrift:
    LINE = tuple((1.5 + 3 * k, 0.01 * (1.5 + 3 * k) - 0.3) for k in range(5))

    def test_a_line_with_a_wrong_segment(self) -> None:
        for wrong in range(5):
            segments = [(at, 1.7 if k == wrong else offset) for k, (at, offset) in enumerate(self.LINE)]
            found = fit_drift([segments])
            assert found is not None and found.rate == pytest.approx(0.01, abs=1e-6)
            assert found.segments == tuple(segment for k, segment in enumerate(segments) if k != wrong)

    def test_groups_share_the_slope_alone(self) -> None:
        found = fit_drift([self.LINE, [(at, offset + 0.5) for at, offset in self.LINE[:3]], []])
        assert found is not None and found.rate == pytest.approx(0.01) and len(found.segments) == 8
        twice = fit_drift([[*self.LINE, *self.LINE]])  # two faces at once
        assert twice is not None and twice.rate == pytest.approx(0.01) and len(twice.segments) == 10

    def test_hours_of_segments(self) -> None:
        found = fit_drift([[(3.0 * k, 1e-4 * 3.0 * k - 1.0 + (k % 7 == 0)) for k in range(5000)]])
        assert found is not None and found.rate == pytest.approx(1e-4, rel=1e-3)

    @pytest.mark.parametrize(
        "offsets",
        [
            (),
            (0.0,),
            (0.0, 0.03, 0.06),  # too few segments
            (0.0, 0.01, 0.02, 0.03),  # too small a change
            (0.0, 0.3, 0.6, 0.9),  # faster than any recording
            (0.0, 0.0, 0.4, 0.4, 0.4),  # a step
            (0.0, 1.0, -0.7, 0.3, 1.9),  # no line
        ],
    )
    def test_no_drift(self, offsets: tuple[float, ...]) -> None:
        assert fit_drift([[(1.5 + 3 * k, offset) for k, offset in enumerate(offsets)]]) is None


def test_moved_audio_knows_what_it_lacks() -> None:
    found = recording(50)
    for seconds, missing in ((0.12, ((0, 3),)), (-0.12, ((47, 50),)), (0.0, ()), (3.0, ((0, 50),))):
        [clip] = with_delayed_audio(found, seconds).clips
        assert clip.missing_audio == missing and clip.frames == 50
        shift = round(16000 * seconds)
        start, stop = min(32000, max(0, shift)), min(32000, 32000 + shift)
        source = found.clips[0].waveform[max(0, start - shift) : max(0, stop - shift)]
        np.testing.assert_array_equal(clip.waveform[start:stop], source)
        assert not clip.waveform[:start].any() and not clip.waveform[stop:].any()


class TestFix:
    @pytest.fixture(autouse=True)
    def transparent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("avsync.cli._syncers.load_syncers", lambda args: Syncers(OpenWhenLoud(), Loudness(), None))

    def test_a_copy_that_is_not_confirmed_is_not_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = talk(tmp_path / "a.mp4", shift=4)

        def wrong(path: Path, out: Path, *, seconds: float, **more: Any) -> Any:
            return shift_audio(path, out, seconds=-seconds, **more)

        monkeypatch.setattr("avsync.evaluation.resync.shift_audio", wrong)
        assert main(["offset", str(path), "--detector", DETECTOR, "--fix"]) == 1
        assert "no copy written: not confirmed; of the copy, the audio is early by" in capsys.readouterr().out
        assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]

    def test_no_answer_is_a_failure_and_in_sync_is_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        far, good = talk(tmp_path / "far.mp4", shift=45), talk(tmp_path / "good.mp4")
        assert main(["offset", str(far), "--detector", DETECTOR, "--fix", "--json"]) == 1
        assert json.loads(capsys.readouterr().out)[0]["fix"] == {"written": None, "why": "cannot tell"}
        assert main(["offset", str(far), "--detector", DETECTOR]) == 0  # nothing was asked for that could fail
        assert main(["offset", str(good), "--detector", DETECTOR, "--fix"]) == 0
        assert sorted(file.name for file in tmp_path.iterdir()) == ["far.mp4", "good.mp4"]


def two_tracks(path: Path, first: Path, second: Path) -> Path:
    """The video of a file with its own audio as track 1 and another file's as track 2."""
    with av.open(str(first)) as one, av.open(str(second)) as two, av.open(str(path), "w") as writer:
        sources = [one.streams.video[0], one.streams.audio[0], two.streams.audio[0]]
        made = [writer.add_stream_from_template(stream) for stream in sources]
        for container, chosen in ((one, (0, 1)), (two, (2,))):
            for packet in container.demux([sources[number] for number in chosen]):
                if packet.size:
                    packet.stream = made[next(n for n in chosen if sources[n].index == packet.stream_index)]
                    writer.mux(packet)
    return path


def test_audio_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("avsync.cli._syncers.load_syncers", lambda args: Syncers(OpenWhenLoud(), Loudness(), None))
    both = two_tracks(tmp_path / "both.mkv", talk(tmp_path / "a.mp4", shift=3), talk(tmp_path / "b.mp4", shift=-5))
    with AudioSource(both) as audio:
        assert (audio.track, audio.tracks) == (1, 2) and "audio track 1 of 2 was read" in audio.warnings
    for options, track, shift in (((), 1, 3), (("--audio-track", "1"), 1, 3), (("--audio-track", "2"), 2, -5)):
        assert main(["offset", str(both), "--detector", DETECTOR, *options]) == 0
        assert f"audio track {track} of 2; --audio-track chooses another" in capsys.readouterr().out
        assert main(["offset", str(both), "--detector", DETECTOR, *options, "--json"]) == 0
        [result] = json.loads(capsys.readouterr().out)
        assert result["audio_track"] == track and result["offset_ms"] == pytest.approx(40 * shift, abs=15)
    for wrong in ("3", "0"):
        assert main(["offset", str(both), "--detector", DETECTOR, "--audio-track", wrong]) == 1
    assert main(["extract", str(both), "--detector", DETECTOR, "--out", str(tmp_path / "c"), "--audio-track", "2"]) == 0
    assert json.loads((tmp_path / "c" / "extraction.json").read_text())["audio_track"] == 2


class TestMessages:
    def test_a_missing_file_comes_before_the_detector(self, tmp_path: Path) -> None:
        for make in (
            lambda path: read_recording(path, detector="no.such.module:detector"),
            lambda path: read_recording(path / "a.mp4", detector="no.such.module:detector"),
        ):
            with pytest.raises(CorpusError, match="nothing there"):
                make(tmp_path / "missing.mp4")

    def test_a_detector_next_to_the_caller(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("avsync.cli._syncers.load_syncers", lambda args: Syncers(OpenWhenLoud(), Loudness(), None))
        monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
        monkeypatch.chdir(tmp_path)
        Path("my_own_detector.py").write_text("from tests.test_cli_offset import bright_mouth as find\n")
        assert (
            main(["offset", str(talk(Path("interview: part 1.mp4"), shift=3)), "--detector", "my_own_detector:find", "--fix"])
            == 0
        )
        told = capsys.readouterr().out
        assert Path("interview: part 1.synced.mp4").is_file() and "'./interview: part 1.synced.mp4'" in told

    def test_what_the_user_typed_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        clip = synthetic_clip(seconds=4.0)
        write_index(tmp_path / "corpus", [write_clip(clip, tmp_path / "corpus")])
        corpus, target = str(tmp_path / "corpus"), str(tmp_path / "corpus" / clip.id)
        (tmp_path / "damaged").mkdir()
        (tmp_path / "damaged" / "config.json").write_text('{"format": [], "class": 7}')
        (tmp_path / "calibration.json").write_text("{}")
        (tmp_path / "metrics.csv").write_bytes(b"step,name,value\n\x00,\xff\n")
        cases: dict[str, Sequence[str]] = {
            "`--syncers`": ("offset", target, "--syncers", str(tmp_path / "damaged")),
            "`--calibration`": ("offset", target, "--calibration", str(tmp_path / "calibration.json")),
            "`--figure`": ("inspect", corpus, "--figure", str(tmp_path / "a.xyz")),
            "`--min-speech`": ("evaluate", "--refs", corpus, "--no-sync", "--min-speech", "2"),
            "`--stride`": ("evaluate", "--refs", corpus, "--no-sync", "--stride", "-1"),
            "`--history`": (
                "evaluate", "--refs", corpus, "--no-sync", "--history", str(tmp_path), "--out", str(tmp_path / "out")
            ),
            "metrics.csv": ("doctor", "--log", str(tmp_path)),
            "`--threshold`": ("clean", corpus, "--threshold", "2"),
        }  # fmt: skip
        for name, words in cases.items():
            assert main(list(words)) == 1, words
            error = capsys.readouterr().err
            assert name in error and "Traceback" not in error and len(error.strip().splitlines()) == 1, (words, error)


def test_the_command_line_with_names_that_are_no_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = synthetic_clip(seconds=2.0)
    name = b"\xff\xfe.npz".decode("utf-8", "surrogateescape")
    (tmp_path / "refs").mkdir()
    np.savez(tmp_path / "refs" / name, landmarks=clip.landmarks)
    assert main(["evaluate", "--refs", str(tmp_path / "refs"), "--no-sync"]) == 1
    assert "Traceback" not in capfd.readouterr().err
    assert SMALL.num_levels == 2
