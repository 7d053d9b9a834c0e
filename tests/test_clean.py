"""``avsync clean``: known offsets are found, mended by whole samples and found mended; what is unsure stays as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsync.cli import main
from avsync.cli._syncers import Syncers
from avsync.corpus.clip import Clip, Corpus, write_clip, write_index
from avsync.errors import ArgumentError
from avsync.evaluation.clean import CleanReport, clean_corpus, pools_of, shift_clip
from avsync.metrics.calibration import Calibration, LevelCalibration
from tests.test_evaluate import Loudness, OpenWhenLoud, talker

SURE = Calibration(
    tuple(LevelCalibration(scale=200.0, power=0.5, match_bias=50.0, match_weights=(0.0, 0.0, 0.0)) for _ in range(2))
)
UNSURE = Calibration(
    tuple(LevelCalibration(scale=200.0, power=0.5, match_bias=-50.0, match_weights=(0.0, 0.0, 0.0)) for _ in range(2))
)
SHIFTS = {"a": 0, "b": 2, "c": -3, "d": 7, "e": -10}
"""Frames by which the sound of each clip of the corpus is early."""


def early(clip: Clip, frames: int) -> Clip:
    """The clip with its sound early by so many frames."""
    shifted = shift_clip(clip, -640 * frames)
    assert shifted is not None
    return shifted


def faster(clip: Clip) -> Clip:
    """The clip with its sound played 2 % too fast."""
    samples = np.arange(clip.waveform.size)
    return replace(clip, waveform=np.interp(samples * 1.02, samples, clip.waveform, right=0.0).astype(np.float32))


def write(folder: Path, clips: list[Clip], **extra: Any) -> Path:
    write_index(folder, [{**write_clip(clip, folder), **extra} for clip in clips], made_by="a test")
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    clips = [early(talker(name, seed, frames=220), frames) for seed, (name, frames) in enumerate(SHIFTS.items())]
    return write(tmp_path / "corpus", clips, note="kept", source_start_sec=5.0)


def clean(corpus: Path, out: Path | None = None, *, calibration: Calibration | None = SURE, **options: Any) -> CleanReport:
    return clean_corpus(
        corpus, out, pyramid=OpenWhenLoud(), audio_transform=Loudness(), calibration=calibration, pool="clip", **options
    )


class TestShift:
    @given(frames=st.integers(1, 12), samples=st.integers(-9000, 9000))
    def test_frames_and_samples_stay_aligned(self, frames: int, samples: int) -> None:
        """Every frame and every sample carries its number, so what belongs together can be read off."""
        landmarks = np.broadcast_to(np.arange(frames, dtype=np.float32)[:, None, None], (frames, 68, 2)).copy()
        waveform = (np.arange(640 * frames) / 8192).astype(np.float32)
        found = shift_clip(Clip("a", "anna", "val", landmarks, waveform), samples)
        if found is None:
            assert abs(samples) > 640 * (frames - 1)
            return
        assert found.waveform.size == 640 * found.frames
        assert frames - found.frames == -(-abs(samples) // 640)  # no more is lost than must be
        for k in range(found.frames):
            frame = float(found.landmarks[k, 0, 0])
            assert float(found.waveform[640 * k]) * 8192 == 640 * frame - samples

    def test_and_back(self) -> None:
        clip = talker("a", 0, frames=50)
        moved = shift_clip(clip, 1000)
        back = None if moved is None else shift_clip(moved, -1000)
        assert back is not None
        np.testing.assert_array_equal(back.landmarks, clip.landmarks[2 : 2 + back.frames])
        np.testing.assert_array_equal(back.waveform, clip.waveform[1280 : 1280 + 640 * back.frames])


class TestClean:
    def test_known_offsets_are_found_mended_and_gone(self, corpus: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        report = clean(corpus, out)
        assert not report.bad and report.out == out
        for clip in report.clips:
            frames = SHIFTS[clip.id]
            assert clip.offset_seconds == pytest.approx(0.04 * frames, abs=0.012)
            assert clip.outcome == ("corrected" if frames else "in sync")
            assert clip.shift_samples == pytest.approx(640 * frames, abs=200)
        assert {k: count for k, count in report.histogram().items() if count} == {-10: 1, -3: 1, 0: 1, 2: 1, 7: 1}
        assert report.histogram(after=True) == {0: 5}
        assert report.counts()["corrected"] == 4
        again = clean(out)  # read from the disk
        assert again.counts()["in sync"] == 5

    def test_the_copy_is_a_corpus_that_tells_what_was_done(self, corpus: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        report = clean(corpus, out)
        index = json.loads((out / "index.json").read_text())
        assert index["made_by"] == "a test"
        given_clips, copied = Corpus(corpus), Corpus(out)
        for old, new, entry, found in zip(given_clips, copied, index["clips"], report.clips, strict=True):
            assert (entry["id"], entry["note"], entry["frames"]) == (old.id, "kept", new.frames)
            assert new.frames == old.frames - found.dropped_frames
            assert entry["sync_shift_ms"] == pytest.approx(found.shift_samples / 16)
            first = found.dropped_frames if found.shift_samples > 0 else 0
            assert entry["source_start_sec"] == pytest.approx(5.0 + 0.04 * first)
            np.testing.assert_array_equal(new.landmarks, old.landmarks[first : first + new.frames])
            start = 640 * first - found.shift_samples
            np.testing.assert_array_equal(new.waveform, old.waveform[start : start + new.waveform.size])
        for suffix in ("npz", "flac"):  # what was in sync is copied as it is
            assert (out / f"a.{suffix}").read_bytes() == (corpus / f"a.{suffix}").read_bytes()

    def test_unsure_syncers_change_nothing(self, corpus: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        report = clean(corpus, out, calibration=UNSURE)
        assert report.counts()["cannot tell"] == 5 and report.histogram() == {}
        assert all((out / f"{name}.flac").read_bytes() == (corpus / f"{name}.flac").read_bytes() for name in SHIFTS)

    def test_without_a_calibration_one_has_to_insist(self, corpus: Path) -> None:
        with pytest.raises(ArgumentError, match="`calibration`"):
            clean(corpus, calibration=None)
        assert clean(corpus, calibration=None, uncalibrated=True).counts()["corrected"] == 4

    def test_a_correction_that_is_not_confirmed_is_not_made(
        self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("avsync.evaluation.clean.shift_clip", lambda clip, samples: shift_clip(clip, -samples))
        report = clean(corpus, tmp_path / "out")
        wrong = [clip for clip in report.clips if clip.id in "bcd"]  # twice the shift of "e" lies beyond the finest search
        assert [clip.outcome for clip in wrong] == ["not confirmed"] * 3
        assert all(clip.remaining_seconds == clip.offset_seconds and clip.shift_samples == 0 for clip in wrong)
        assert all((tmp_path / "out" / f"{x}.npz").read_bytes() == (corpus / f"{x}.npz").read_bytes() for x in "bcd")

    def test_short_clips_are_judged_together(self, tmp_path: Path) -> None:
        whole = early(talker("whole", 3, frames=130), 3)
        parts = [
            replace(whole, id=f"p{k}", landmarks=whole.landmarks[40 * k :][:40], waveform=whole.waveform[25600 * k :][:25600])
            for k in range(3)
        ]
        folder = write(tmp_path / "parts", parts, source="talk.mp4")
        options = {"pyramid": OpenWhenLoud(), "audio_transform": Loudness(), "calibration": SURE}
        report = clean_corpus(folder, **options)
        assert {clip.pool for clip in report.clips} == {"source talk.mp4"}
        assert {clip.shift_samples for clip in report.clips} == {report.clips[0].shift_samples}
        assert report.clips[0].offset_seconds == pytest.approx(0.12, abs=0.012)
        assert report.counts()["corrected"] == 3

    def test_pools(self) -> None:
        entries = [
            {"id": "a", "frames": 50, "speaker": "s", "source": "v"},
            {"id": "b", "frames": 900, "speaker": "s", "source": "v"},
            {"id": "c", "frames": 50, "speaker": "s"},
        ]
        names = {pool: {name: [x["id"] for x in found] for name, found in pools_of(entries, pool=pool).items()} for pool in ("auto", "clip", "source", "speaker")}  # fmt: skip
        assert names == {
            "auto": {"source v": ["a"], "b": ["b"], "speaker s": ["c"]},
            "clip": {"a": ["a"], "b": ["b"], "c": ["c"]},
            "source": {"source v": ["a", "b"], "c": ["c"]},
            "speaker": {"speaker s": ["a", "b", "c"]},
        }

    def test_still_and_silent_clips_cannot_be_told(self, tmp_path: Path) -> None:
        still, silent = talker("still", 0, frames=220), talker("silent", 1, frames=220)
        still = replace(still, landmarks=np.repeat(still.landmarks[:1], 220, axis=0))
        silent = replace(silent, waveform=np.zeros_like(silent.waveform))
        report = clean(write(tmp_path / "c", [still, silent]))
        assert [clip.outcome for clip in report.clips] == ["cannot tell"] * 2

    def test_what_exists_is_not_written_over(self, corpus: Path, tmp_path: Path) -> None:
        for out in (corpus, write(tmp_path / "other", [talker("x", 0)])):
            before = {path.name: path.read_bytes() for path in out.iterdir()}
            with pytest.raises(ArgumentError, match="`out`"):
                clean(corpus, out)
            assert {path.name: path.read_bytes() for path in out.iterdir()} == before


class TestDrift:
    """Clips whose audio runs at another speed have their own verdict, and are not moved."""

    @pytest.fixture
    def drifting(self, tmp_path: Path) -> Path:
        clips = [talker("a", 0, frames=375), early(talker("b", 1, frames=385), 10), talker("c", 2, frames=375)]
        return write(tmp_path / "drifting", [faster(clips[0]), *clips[1:]])

    def test_it_is_told_and_left_as_it_is(self, drifting: Path, tmp_path: Path) -> None:
        report = clean(drifting, tmp_path / "out")
        found = {clip.id: clip for clip in report.clips}
        assert [clip.outcome for clip in report.clips] == ["drifts", "corrected", "in sync"]
        assert found["a"].drift == pytest.approx(0.02, abs=0.005) and found["a"].offset_seconds is None
        assert found["b"].drift is None and report.counts()["drifts"] == 1 and report.to_json()["clips"][0]["drift"] is not None
        np.testing.assert_array_equal(Corpus(tmp_path / "out")[0].waveform, Corpus(drifting)[0].waveform)

    def test_the_clips_of_a_video_drift_together(self, tmp_path: Path) -> None:
        whole = faster(talker("a", 0, frames=375))
        entries = []
        for first in range(0, 375, 75):
            waveform = whole.waveform[640 * first : 640 * (first + 75)]
            part = replace(whole, id=f"a{first}", landmarks=whole.landmarks[first : first + 75], waveform=waveform)
            entries.append({**write_clip(part, tmp_path), "source": "a.mp4", "source_start_sec": 3.0 + first / 25})
        write_index(tmp_path, entries)
        options: dict[str, Any] = {"pyramid": OpenWhenLoud(), "audio_transform": Loudness(), "calibration": SURE}
        report = clean_corpus(tmp_path, **options)
        assert report.counts()["drifts"] == 5
        assert all(clip.drift == pytest.approx(0.02, abs=0.005) for clip in report.clips)
        assert clean_corpus(tmp_path, **options, pool="clip").counts()["drifts"] == 0

    def test_the_command(self, drifting: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("avsync.cli._syncers.load_syncers", lambda args: Syncers(OpenWhenLoud(), Loudness(), SURE))
        assert main(["clean", str(drifting), "--quiet"]) == 0
        told = capsys.readouterr().out
        assert "a: drifts by +" in told and "no single offset is right" in told and "drifts: 1" in told


class TestCommand:
    @pytest.fixture(autouse=True)
    def transparent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("avsync.cli._syncers.load_syncers", lambda args: Syncers(OpenWhenLoud(), Loudness(), SURE))

    def test_text_json_and_copy(self, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out, file = tmp_path / "out", tmp_path / "report.json"
        assert main(["clean", str(corpus), "--out", str(out), "--pool", "clip", "--json", str(file)]) == 0
        printed = capsys.readouterr().out
        assert "5 clips; corrected: 4, in sync: 1" in printed
        assert len(Corpus(out)) == 5
        result = json.loads(file.read_text())
        assert result["outcomes"]["corrected"] == 4 and result["histogram_frames_after"] == {"0": 5}
        assert {clip["id"]: clip["outcome"] for clip in result["clips"]}["a"] == "in sync"

    def test_a_dry_run_writes_nothing(self, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        assert main(["clean", str(corpus), "--out", str(out), "--dry-run", "--pool", "clip", "--json"]) == 0
        assert not out.exists()
        assert json.loads(capsys.readouterr().out)["outcomes"]["corrected"] == 4

    def test_bad_clips_are_told_and_left_out(self, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (corpus / "b.flac").write_bytes(b"no sound")
        assert main(["clean", str(corpus), "--out", str(tmp_path / "out"), "--pool", "clip"]) == 1
        assert "left out: b:" in capsys.readouterr().err
        assert [entry["id"] for entry in Corpus(tmp_path / "out").entries] == ["a", "c", "d", "e"]

    @pytest.mark.parametrize("words", [["--threshold", "2"], ["--smallest-ms", "-1"]])
    def test_impossible_options(self, corpus: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["clean", str(corpus), *words]) == 1
        assert "expected" in capsys.readouterr().err


def test_the_command_wants_a_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("avsync.cli._syncers.load_syncers", lambda args: Syncers(OpenWhenLoud(), Loudness(), None))
    assert main(["clean", str(write(tmp_path / "c", [talker("x", 0)]))]) == 1
    assert "--uncalibrated" in capsys.readouterr().err
