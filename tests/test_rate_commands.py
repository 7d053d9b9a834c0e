"""Commands on corpora of other frame rates: a known offset is found in milliseconds and in frames of the corpus."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")

from avsync.cli import main
from avsync.corpus import Clip, Corpus, synthetic_clip, write_corpus
from avsync.corpus.clip import check_clip, resample_clip
from avsync.evaluation.clean import shift_clip
from avsync.training.doctor import examine

EARLY = 0.16  # seconds
RATES = [24, 30, 50, 60]


def clip_at(fps: float, *, speaker: int, seconds: float, early: float = EARLY, split: str = "train") -> Clip:
    clip = synthetic_clip(speaker=speaker, seconds=seconds)
    name = f"{split}{speaker}"
    moved = np.roll(clip.waveform, -round(16000 * early))
    return resample_clip(replace(clip, id=name, speaker=name, split=split, waveform=moved), fps=fps)


@pytest.fixture(scope="module", params=RATES)
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rates") / f"at{request.param}"
    clips = [clip_at(request.param, speaker=0, seconds=24.0), clip_at(request.param, speaker=1, seconds=48.0, split="val")]
    write_corpus(clips, folder)
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) in (0, 1)
    return json.loads(capsys.readouterr().out)


def test_every_command_finds_the_offset(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fps = Corpus(corpus, fps=None).fps
    syncers = ("--syncers", "landmarks68-25fps")
    (row,) = told(capsys, "score", str(corpus / "train0"), *syncers)
    assert row["fps"] == fps and row["levels"][0]["offset_ms"] == 160
    assert row["levels"][0]["input_frames"] == pytest.approx(EARLY * fps)
    assert main(["score", str(corpus / "train0"), *syncers]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "by level in frames" in line)
    assert f"{fps:g} per second: {EARLY * fps:+.1f}," in line

    level = told(capsys, "inspect", str(corpus), *syncers)["offsets"][0]
    assert level["median_ms"] == 160 and level["frame_ms"] == 40 and level["counts"] == {"4": 2}
    assert level["median_frames"] == pytest.approx(EARLY * fps, abs=1e-3)

    examination = told(capsys, "doctor", str(corpus), *syncers)
    misaligned = [one["numbers"] for one in examination["findings"] if one["code"] == "misaligned"]
    assert len(misaligned) == 2 and not examination["healthy"] and examination["minutes"] == 1.2
    for numbers in misaligned:  # the scan without a model, and the syncers
        assert numbers["offset_ms"] == pytest.approx(160, abs=25)
        assert numbers["offset_frames"] == pytest.approx(numbers["offset_ms"] * fps / 1000)

    report = told(capsys, "clean", str(corpus), "--out", str(tmp_path / "mended"), "--quiet")
    assert report["fps"] == fps and report["outcomes"]["corrected"] == 2
    for clip in report["clips"]:
        assert clip["offset_seconds"] == pytest.approx(EARLY, abs=0.01)
        assert clip["offset_frames"] == pytest.approx(clip["offset_seconds"] * fps)
    assert report["histogram_frames_before"] == {str(round(EARLY * fps)): 2} and report["histogram_frames_after"] == {"0": 2}
    mended = Corpus(tmp_path / "mended", fps=None)
    assert mended.fps == fps and all(clip.fps == fps for clip in mended)
    after = told(capsys, "inspect", str(tmp_path / "mended"), *syncers)["offsets"][0]
    assert after["counts"] == {"0": 2}


@pytest.mark.parametrize("fps", [24.0, 25.0, 30000 / 1001, 60.0])
@pytest.mark.parametrize("samples", [-5000, -641, -1, 1, 534, 1920])
def test_a_shifted_clip_of_any_rate_keeps_frames_and_samples_together(fps: float, samples: int) -> None:
    """Landmarks hold the time of their frame, and the audio holds the time of its sample."""
    frames = 100
    size = round(frames * 16000 / fps)
    landmarks = np.broadcast_to(np.arange(frames, dtype=np.float32)[:, None, None] / np.float32(fps), (frames, 68, 2)).copy()
    waveform = (np.arange(size) / 160000).astype(np.float32)
    shifted = shift_clip(Clip("a", "anna", "val", landmarks, waveform, fps=fps, missing_audio=((40, 50),)), samples)
    assert shifted is not None
    check_clip(shifted)
    first = shifted.landmarks[0, 0, 0]  # seconds
    assert 10 * shifted.waveform[0] == pytest.approx(first - samples / 16000, abs=2 / 16000)
    assert sum(stop - start for start, stop in shifted.missing_audio) in (9, 10, 11)
    assert frames - shifted.frames == int(np.ceil(abs(samples) * fps / 16000))


def test_the_doctor_notices_a_corpus_with_a_wrong_rate() -> None:
    """Clips of 25 frames per second that claim to have 30, with as much of their audio as fits."""
    clips = [synthetic_clip(speaker=number, seconds=40.0) for number in (0, 1)]
    wrong = [replace(clip, fps=30.0, waveform=clip.waveform[: round(clip.frames * 16000 / 30)]) for clip in clips]
    (finding,) = [one for one in examine(wrong).findings if one.code == "rate"]
    assert finding.severity == "error" and "25 frames per second than at 30" in finding.message
    right = examine([resample_clip(clip, fps=30.0) for clip in clips])
    assert [one.code for one in right.findings if one.severity == "error"] == []


def test_a_still_face_of_another_rate_is_still() -> None:
    clip = synthetic_clip(seconds=4.0)
    still = resample_clip(replace(clip, landmarks=np.repeat(clip.landmarks[:1], clip.frames, axis=0)), fps=30.0)
    assert "constant_landmarks" in [one.code for one in examine([still]).findings]


def test_a_corpus_at_30_trains_and_calibrates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning_fabric")
    clips = [
        clip_at(30, speaker=number, seconds=7.0, early=0.0, split=split)
        for split, numbers in (("train", range(4)), ("val", range(4, 8)))
        for number in numbers
    ]
    folder = tmp_path / "at30"
    write_corpus(clips, folder)
    small = ("--levels", "1", "--steps", "20", "--batch-size", "8", "--width", "16", "--device", "cpu", "--quiet")
    assert main(["train", str(folder), "--out", str(tmp_path / "mine"), *small]) == 0
    assert main(["calibrate", str(tmp_path / "mine"), str(folder), "--frames", "40", "--quiet"]) == 0
    assert (tmp_path / "mine" / "calibration.json").is_file()
    report = tmp_path / "report.json"
    out = ("--out", str(tmp_path / "calibration.json"), "--report", str(report), "--frames", "40", "--quiet")
    assert main(["calibrate", "landmarks68-25fps", str(folder), *out]) == 0
    (own,) = [row for row in json.loads(report.read_text())["rows"] if row["level"] == 0 and row["kind"] == "own"]
    assert own["right"] > 0.9
    capsys.readouterr()
