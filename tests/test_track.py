"""The offset of a recording over time, and which of several faces speaks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from avsync.cli import main
from avsync.cli._syncers import Syncers
from avsync.corpus.clip import Clip
from avsync.errors import ArgumentError
from avsync.evaluation import Recording, offset_track, persons_of, recording_report, speaking_face
from avsync.metrics.calibration import Calibration, LevelCalibration
from tests.test_cli_offset import DETECTOR, FACE, LOWER_LIP, Loudness, OpenWhenLoud, activity, bright_mouth, sound_of, talk

# A curve whose minimum lies far below its median is a match.
CLEAR = Calibration(
    tuple(LevelCalibration(scale=20.0, power=0.5, match_bias=-8.0, match_weights=(0.0, 0.0, 1.0)) for _ in range(3))
)


def clip_of(frames: int, *, shift: int = 0, seed: int = 0, speaker: str = "p0") -> Clip:
    """A mouth that opens with the activity of a seed, and noise with that of seed 0, ``shift`` frames early."""
    landmarks = np.repeat(FACE[None], frames, axis=0).astype(np.float32)
    landmarks[:, LOWER_LIP, 1] += 20.0 * activity(frames, seed)[100 : 100 + frames, None]
    waveform = sound_of(activity(frames), frames, shift)
    return Clip(
        id=speaker, speaker=speaker, split="train", landmarks=landmarks, waveform=waveform, fps=25.0, frame_size=(320, 240)
    )


def measure(recording: Recording, calibration: Calibration | None = CLEAR) -> Any:
    return recording_report(recording, OpenWhenLoud(), audio_transform=Loudness(), calibration=calibration)


def test_a_step_in_the_audio_shows_in_the_track() -> None:
    clip = clip_of(250)
    late = clip_of(250, shift=-6)
    waveform = np.concatenate([clip.waveform[: 125 * 640], late.waveform[125 * 640 :]])
    recording = Recording("step", (replace(clip, waveform=waveform),), (2.0,))
    points = offset_track(recording, measure)
    assert [round(point.seconds, 2) for point in points] == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    offsets = [point.offset for point in points]
    assert offsets[0] == pytest.approx(0.0, abs=0.01) and offsets[-1] == pytest.approx(-0.24, abs=0.01)
    assert all(point.probability is not None and point.confidence > 0 for point in (points[0], points[-1]))


def test_short_clips_and_clips_without_speech_are_points_too() -> None:
    silent = replace(clip_of(120), waveform=np.zeros(120 * 640, np.float32))
    points = offset_track(Recording("two", (clip_of(60), silent)), measure)
    assert [point.offset is None for point in points] == [False, True] and points[1].probability is None
    with pytest.raises(ArgumentError, match="`every`"):
        offset_track(Recording("two", (clip_of(60),)), measure, every=0)


def test_the_face_that_agrees_with_the_audio_speaks() -> None:
    everybody = Recording(
        "panel", tuple(clip_of(250, seed=seed, speaker=f"p{seed}") for seed in (1, 0, 2)), starts=(0.0, 1.0, 2.0)
    )
    persons = persons_of(everybody)
    assert list(persons) == ["p1", "p0", "p2"] and persons["p0"].starts == (1.0,)
    found = speaking_face(persons, measure)
    assert found.person == "p0" and found.probabilities["p0"] > 0.9
    assert sum(found.probabilities.values()) + found.nobody == pytest.approx(1.0)
    others = {name: persons[name] for name in ("p1", "p2")}
    nobody = speaking_face(others, measure)
    assert nobody.person is None and nobody.nobody > 0.5


def test_odds_are_those_of_the_match_at_the_finest_level() -> None:
    def report(match: float, answer: str) -> list[Any]:
        # The coarser level, and how sure the offset is, do not count.
        return [
            SimpleNamespace(answers=(answer,), posterior=SimpleNamespace(match=match, probability=0.1)),
            SimpleNamespace(answers=("offset",), posterior=SimpleNamespace(match=0.99, probability=0.99)),
        ]

    reports = {"a": report(0.8, "edge"), "b": report(0.5, "unsure"), "c": report(0.9, "still"), "d": report(0.9, "silent")}
    persons = {name: Recording(name, (clip_of(60),)) for name in reports}
    found = speaking_face(persons, lambda recording: reports[recording.name])
    assert found.person == "a" and found.nobody == pytest.approx(1 / 6)
    assert found.probabilities == pytest.approx({"a": 4 / 6, "b": 1 / 6, "c": 0.0, "d": 0.0})


def test_two_clips_of_one_person_are_one_recording() -> None:
    recording = Recording("a", (clip_of(60), clip_of(70, speaker="p1"), clip_of(80)))
    assert [clip.frames for clip in persons_of(recording)["p0"].clips] == [60, 80]
    with pytest.raises(ArgumentError, match="`persons`"):
        speaking_face({}, measure)
    with pytest.raises(ArgumentError, match="calibration"):
        speaking_face(persons_of(recording), lambda some: measure(some, None))


def speaker_and_listener(images: Sequence[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
    """A larger face that moves its mouth at other times, and next to it the face of :func:`bright_mouth`."""
    rng = np.random.default_rng(7)
    faces = []
    for face in bright_mouth(images):
        other = 1.4 * FACE
        other[LOWER_LIP, 1] += 28.0 * float(rng.random() < 0.3)
        assert face is not None
        faces.append(np.stack([other, 0.5 * face + np.array([200, 20], np.float32)]))
    return faces


@pytest.fixture
def transparent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avsync.cli._syncers.load_syncers", lambda args: Syncers(OpenWhenLoud(), Loudness(), CLEAR))


@pytest.mark.usefixtures("transparent")
def test_track_and_figure_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = talk(tmp_path / "a.mp4", frames=140, shift=3)
    figure = tmp_path / "track.png"
    status = main(["offset", str(video), "--detector", DETECTOR, "--track", "--figure", str(figure), "--json"])
    [result] = json.loads(capsys.readouterr().out)
    assert status == 0 and figure.stat().st_size > 1000 and result["speaker"] is None
    assert [round(point["at"]) for point in result["track"]] == [2, 3]
    assert all(point["offset_ms"] == pytest.approx(120, abs=15) for point in result["track"])
    assert main(["offset", str(video), "--detector", DETECTOR, "--figure", str(figure)]) == 1
    assert "`--figure`: expected one video and --track" in capsys.readouterr().err


@pytest.mark.usefixtures("transparent")
def test_speaker_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = talk(tmp_path / "a.mp4", frames=140, shift=3)
    arguments = ["offset", str(video), "--detector", "tests.test_track:speaker_and_listener", "--speaker"]
    assert main([*arguments, "--json"]) == 0
    [result] = json.loads(capsys.readouterr().out)
    assert result["speaker"]["person"] == "a_p1" and result["speaker"]["probabilities"]["a_p1"] > 0.8
    assert result["offset_ms"] == pytest.approx(120, abs=15)
    assert main(arguments) == 0
    assert "the face that speaks: a_p1 (nobody: " in capsys.readouterr().out
