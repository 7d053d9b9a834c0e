"""``avsync offset`` and ``avsync score``: signs, words, copies that are in sync, clips of a corpus, and one line for bad input."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from avsync.cli import main
from avsync.cli._syncers import Syncers, level_lines
from avsync.corpus.clip import Clip, write_clip, write_index
from avsync.corpus.media.files import write_video
from avsync.corpus.synthetic.talker import synthetic_clip
from avsync.evaluation.answer import OffsetAnswer, find_offset
from avsync.evaluation.recording import Recording, read_recording, recording_report
from avsync.metrics.calibration import Calibration, LevelCalibration, save_calibration
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pretrained import save_pretrained
from avsync.pyramid import temporal_pyramid

DETECTOR = "tests.test_cli_offset:bright_mouth"
SMALL = SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4), num_levels=2, audio="log-mel")
DOUBT = Calibration(
    tuple(LevelCalibration(scale=20.0, power=0.5, match_bias=-50.0, match_weights=(0.0, 0.0, 0.0)) for _ in range(3))
)
FACE = synthetic_clip(seconds=0.08).landmarks[0] / 2  # of a picture of 320 x 240
LOWER_LIP = [55, 56, 57, 58, 59, 65, 66, 67]


def bright_mouth(images: Sequence[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32] | None]:
    """A face whose mouth is as open as the picture is bright; none in a blue one."""
    faces: list[npt.NDArray[np.float32] | None] = []
    for image in images:
        face = FACE.copy()
        face[LOWER_LIP, 1] += 20.0 * float(image[..., 0].mean()) / 255
        faces.append(None if image[..., 2].mean() > image[..., 0].mean() + 50 else face)
    return faces


class Loudness(nn.Module):
    """1 where there is sound, for each hundredth of a second."""

    def forward(self, waveform: Tensor) -> Tensor:
        return (waveform.unfold(1, 160, 160).abs().amax(dim=2, keepdim=True) > 0.05).float()


class OpenWhenLoud(SyncerPyramid):
    """Syncers that need no training: a window's embedding is how open the mouth is, or how loud the sound, frame by frame."""

    def __init__(self) -> None:
        super().__init__(
            config=SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=5, audio_features=1), num_levels=3, audio="custom")
        )

    def embed_motion(self, landmarks: Tensor, *, levels: Sequence[int] | None = None, **_: Any) -> list[Tensor]:
        opening = landmarks[:, :, 66, 1] - landmarks[:, :, 62, 1]
        opening = (opening > (opening.amax() + opening.amin()) / 2).float()[..., None]
        return self._windows(opening, levels)

    def embed_audio(self, audio: Tensor, *, levels: Sequence[int] | None = None, **_: Any) -> list[Tensor]:
        # Of the four hundredths of a frame the middle two, which sound coded as AAC hardly smears into.
        return self._windows(audio.unflatten(1, (-1, 4))[:, :, 1:3].mean(dim=2), levels)

    def _windows(self, track: Tensor, levels: Sequence[int] | None) -> list[Tensor]:
        chosen = self._chosen(levels)
        tracks = temporal_pyramid(track, max(chosen) + 1)
        return [tracks[level].squeeze(2).unfold(1, 5, 1) - 0.3 for level in chosen]


def activity(frames: int, seed: int = 0) -> npt.NDArray[np.bool_]:
    return np.random.default_rng(seed).random(frames + 200) < 0.3


def sound_of(active: npt.NDArray[np.bool_], frames: int, shift: int) -> npt.NDArray[np.float32]:
    loud = np.repeat(active[100 + shift :][:frames], 640).astype(np.float32)
    return loud * np.random.default_rng(1).uniform(-0.5, 0.5, loud.size).astype(np.float32)


def talk(path: Path, *, frames: int = 90, shift: int = 0, blue: bool = False) -> Path:
    """A mouth that opens whenever there is noise; a shift of k frames makes the sound k frames early."""
    active = activity(frames)

    def image(k: int) -> npt.NDArray[np.uint8]:
        picture = np.full((240, 320, 3), 220 if active[100 + k] else 40, np.uint8)
        picture[..., 2] = 250 if blue else picture[..., 2]
        return picture

    write_video(path, map(image, range(frames)), fps=25, waveform=sound_of(active, frames, shift))
    return path


@pytest.fixture
def transparent(monkeypatch: pytest.MonkeyPatch) -> Callable[[Calibration | None], None]:
    """Let both commands ask syncers that need no training."""

    def use(calibration: Calibration | None = None) -> None:
        monkeypatch.setattr("avsync.cli._syncers.load_syncers", lambda args: Syncers(OpenWhenLoud(), Loudness(), calibration))

    use()
    return use


def told(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.usefixtures("transparent")
class TestOffset:
    @pytest.mark.parametrize(("shift", "name"), [(3, "a.mp4"), (-4, "b.mp4"), (20, "c.mp4")])
    def test_found_mended_and_found_in_sync(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], shift: int, name: str
    ) -> None:
        path, out = talk(tmp_path / name, shift=shift), tmp_path / "out" / name
        status, text, _ = told("offset", str(path), "--detector", DETECTOR, "--fix", str(out), "--json", capsys=capsys)
        [result] = json.loads(text)
        assert status == 0
        assert result["offset_ms"] == pytest.approx(40 * shift, abs=15)
        assert result["level"] == 0
        if abs(shift) <= 15:
            assert result["levels"][0]["offset_frames"] == shift
        assert ("early" if shift > 0 else "late") in result["words"]
        fix = result["fix"]
        assert fix["delay_ms"] == pytest.approx(40 * shift, abs=15) and not fix["encoded"]
        assert abs(fix["offset_ms_after"]) < 15
        assert f"setts=pts=PTS{fix['delay_ms'] / 1000:+.6g}/TB" in fix["command"]
        status, text, _ = told("offset", str(out), "--detector", DETECTOR, "--json", capsys=capsys)
        assert status == 0 and abs(json.loads(text)[0]["offset_ms"]) < 15

    def test_words(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = talk(tmp_path / "a.mp4", shift=3)
        status, text, _ = told("offset", str(path), "--detector", DETECTOR, "--fix", capsys=capsys)
        assert status == 0
        assert "a.mp4: 1 clip, 3.6 s of a face" in text
        assert "0      0.2 s   +3 frames (+120 ms)" in text
        assert "the audio is early by 1" in text and "delay it by that" in text
        assert f"written: {tmp_path / 'a.synced.mp4'}, audio delayed by 1" in text
        assert "the copy: in sync" in text and "the same as a command: ffmpeg -i" in text
        assert (tmp_path / "a.synced.mp4").is_file()

    def test_in_sync_or_unsure_no_copy_is_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], transparent: Callable[[Calibration | None], None]
    ) -> None:
        path, late = talk(tmp_path / "a.mp4"), talk(tmp_path / "b.mp4", shift=-4)
        _, text, _ = told("offset", str(path), "--detector", DETECTOR, "--fix", capsys=capsys)
        assert "in sync: the audio is" in text and "no copy written: in sync" in text
        transparent(DOUBT)
        _, text, _ = told("offset", str(late), "--detector", DETECTOR, "--fix", capsys=capsys)
        assert text.count("cannot tell") == 5 and "no copy written: cannot tell" in text
        assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]

    def test_a_clip_of_a_corpus(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        active = activity(90)
        landmarks = np.stack([bright_mouth([np.full((4, 4, 3), 255 * on, np.uint8)])[0] for on in active[100:190]])
        clip = Clip("talk", "anna", "val", landmarks.astype(np.float32), sound_of(active, 90, 18))
        write_index(tmp_path / "corpus", [write_clip(clip, tmp_path / "corpus")])
        status, text, _ = told("offset", str(tmp_path / "corpus" / "talk"), "--json", capsys=capsys)
        assert status == 0 and json.loads(text)[0]["offset_ms"] == pytest.approx(720, abs=15)
        status, text, error = told("offset", str(tmp_path / "corpus" / "talk"), "--fix", capsys=capsys)
        assert status == 1 and "`--fix`: expected a video" in error
        status, _, error = told("offset", str(tmp_path / "corpus" / "other"), capsys=capsys)
        assert status == 1 and "expected a clip 'other', got 1 clips of other names" in error
        status, _, error = told("offset", str(tmp_path / "corpus"), capsys=capsys)
        assert status == 1 and "or CORPUS/ID" in error

    def test_bad_videos_end_as_lines_and_the_others_are_done(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        good, faceless = talk(tmp_path / "a.mp4", frames=60), talk(tmp_path / "blue.mp4", frames=60, blue=True)
        silent, empty = tmp_path / "silent.mp4", tmp_path / "empty.mp4"
        write_video(silent, (np.zeros((64, 64, 3), np.uint8) for _ in range(60)), fps=25)
        empty.write_bytes(b"")
        targets = [str(tmp_path / "no.mp4"), str(faceless), str(silent), str(empty), str(good)]
        status, text, error = told("offset", *targets, "--detector", DETECTOR, "--json", capsys=capsys)
        results = json.loads(text)
        assert status == 1 and [("error" in result) for result in results] == [True, True, True, True, False]
        assert "no face" in results[1]["error"] and "got only video" in results[2]["error"]
        assert len(error.strip().splitlines()) == 4 and "Traceback" not in error
        status, _, error = told("offset", str(good), str(faceless), "--fix", str(silent), capsys=capsys)
        assert status == 1 and "expected a folder for the copies" in error


def test_silence_and_stillness_cannot_tell() -> None:
    active = activity(90)
    landmarks = np.stack([bright_mouth([np.full((4, 4, 3), 255 * on, np.uint8)])[0] for on in active[100:190]]).astype(
        np.float32
    )
    still, silent = np.repeat(landmarks[:1], 90, axis=0), np.zeros(90 * 640, np.float32)
    waveform = sound_of(active, 90, 0)

    def answers(landmarks: npt.NDArray[np.float32], waveform: npt.NDArray[np.float32]) -> tuple[list[str], OffsetAnswer]:
        recording = Recording("a", (Clip("a", "anna", "val", landmarks, waveform),))
        answer, report = find_offset(
            recording, lambda recording: recording_report(recording, OpenWhenLoud(), audio_transform=Loudness())
        )
        return [level.answers[0] for level in report], answer

    assert answers(landmarks, waveform)[0] == ["offset"] * 3
    for kind, arguments in (("silent", (landmarks, silent)), ("still", (still, waveform))):
        found, answer = answers(*arguments)
        assert found == [kind] * 3 and answer == OffsetAnswer(None)
    # Six frames fill no window of the second level.
    assert answers(landmarks[:6], waveform[: 6 * 640])[0] == ["unsure", "nothing", "nothing"]


@pytest.mark.parametrize("name", ["landmarks68-25fps", "landmarks68-25fps-ensemble"])
@pytest.mark.parametrize(("frames", "heard"), [(4, 0), (6, 1), (20, 3), (33, 4)])
def test_short_recordings_by_the_shipped_syncers(name: str, frames: int, heard: int) -> None:
    """Levels whose windows are longer than the clip say nothing; the others, whose sizes differ, say what they hear."""
    clip = synthetic_clip(seconds=4.0)
    short = Clip("short", "anna", "val", clip.landmarks[:frames], clip.waveform[: 640 * frames])
    syncers = MultiScaleSyncer.from_pretrained(name)
    report = recording_report(Recording("short", (short,)), syncers, audio_transform=syncers.speech_features())
    assert [not bool(level.sync.distance.isnan()) for level in report] == [True] * heard + [False] * (4 - heard)
    whole = syncers.embed_motion(torch.from_numpy(short.landmarks)[None], levels=[0]) if heard else []
    assert int(report[0].windows) == sum(level.shape[1] for level in whole)


def test_clips_of_a_video_are_pooled(tmp_path: Path) -> None:
    """Two stretches of a face count as one recording: its distances are the means over the windows of both."""
    active = activity(120)
    landmarks = np.stack([bright_mouth([np.full((4, 4, 3), 255 * on, np.uint8)])[0] for on in active[100:220]]).astype(
        np.float32
    )
    waveform = sound_of(active, 120, 2)
    clips = [
        Clip(name, "anna", "val", landmarks[low:high], waveform[640 * low : 640 * high])
        for name, low, high in (("a", 0, 50), ("b", 50, 120))
    ]
    ask = {"pyramid": OpenWhenLoud(), "audio_transform": Loudness(), "max_offsets": (3, 3, 3)}
    single = [recording_report(Recording(clip.id, (clip,)), **ask)[0] for clip in clips]
    both = recording_report(Recording("both", tuple(clips)), **ask)[0]
    assert int(both.windows) == 46 + 66 and int(both.sync.offset_frames) == 2
    for j in range(7):
        counts = torch.tensor([46 - abs(j - 3), 66 - abs(j - 3)])
        curves = torch.stack([level.sync.distances[0, j] for level in single])
        torch.testing.assert_close(both.sync.distances[0, j], (curves * counts).sum() / counts.sum())


class TestSyncers:
    def test_from_a_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        clip = synthetic_clip(seconds=4.0)
        write_index(tmp_path / "corpus", [write_clip(clip, tmp_path / "corpus")])
        target, folder = str(tmp_path / "corpus" / clip.id), tmp_path / "syncers"
        save_pretrained(SyncerPyramid(config=SMALL), folder)
        status, text, _ = told("score", target, "--syncers", str(folder), "--json", capsys=capsys)
        assert status == 0 and [row["probability"] for row in json.loads(text)[0]["levels"]] == [None, None]
        save_calibration(DOUBT, folder / "calibration.json")
        status, text, _ = told("offset", target, "--syncers", str(folder), "--json", capsys=capsys)
        [result] = json.loads(text)
        assert status == 0 and [row["answer"] for row in result["levels"]] == ["unsure", "unsure"]
        assert result["offset_ms"] is None and result["words"].startswith("cannot tell")
        assert level_lines(
            recording_report(
                read_recording(target),
                SyncerPyramid(config=SMALL),
                audio_transform=SyncerPyramid(config=SMALL).speech_features(),
            )
        )[1].startswith("  0      0.2 s")
        status, _, error = told("offset", target, "--syncers", str(folder), "--features", "mfcc", capsys=capsys)
        assert status == 1 and "`--features`: expected log-mel" in error
        status, _, error = told("offset", target, "--syncers", str(folder), "--device", "toaster", capsys=capsys)
        assert status == 1 and "`--device`: expected a device of this machine, got 'toaster'" in error
        status, _, error = told("offset", target, "--syncers", str(tmp_path / "none"), capsys=capsys)
        assert status == 1 and error.startswith("avsync offset: error:")

    def test_score_needs_a_network(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        status, _, error = told("score", "a.mp4", capsys=capsys)
        assert status == 1 and "`--syncnet`, `--syncers`: expected at least one of the two" in error
        (tmp_path / "syncnet_v2.model").write_bytes(b"no weights")
        status, _, error = told("score", "a.mp4", "--syncnet", str(tmp_path / "syncnet_v2.model"), capsys=capsys)
        assert status == 1 and "cannot be read safely" in error and len(error.strip().splitlines()) == 1


@pytest.mark.usefixtures("transparent")
def test_score_of_both_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.test_evaluation_video import LoudAndBright

    monkeypatch.setattr("avsync.evaluation.syncnet.network.SyncNet.from_file", lambda path: LoudAndBright())
    paths = [str(talk(tmp_path / f"{shift}.mp4", shift=shift, frames=60)) for shift in (3, -2)]
    options = ("--syncnet", "any", "--syncers", "any", "--detector", DETECTOR)
    status, text, _ = told("score", *paths, *options, "--json", capsys=capsys)
    results = json.loads(text)
    assert status == 0
    assert [result["syncnet"][0]["offset_frames"] for result in results] == [3, -2]
    assert [result["levels"][0]["offset_frames"] for result in results] == [3, -2]
    status, text, _ = told("score", *paths, *options, capsys=capsys)
    assert status == 0 and "mean of 2 tracks: LSE-C" in text and "+3 frames (+120 ms)" in text


@pytest.mark.usefixtures("transparent")
def test_outputs_of_published_systems_become_a_corpus_that_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/published-systems.md has it: videos of their rates and sizes, extracted, then scored clip by clip."""
    active = activity(160)
    # MakeItTalk's rate and the middle third of its picture, Audio2Head's, and a Wav2Lip of a 30-fps video.
    for name, fps, size in (("makeittalk", 62.5, (256, 256)), ("audio2head", 25, (256, 256)), ("wav2lip", 30, (240, 320))):
        frames = int(4 * fps)
        pictures = (
            np.full((*size, 3), 220 if active[100 + round(k * 25 / fps - 0.01)] else 40, np.uint8) for k in range(frames)
        )
        write_video(tmp_path / "videos" / f"{name}.mp4", pictures, fps=fps, waveform=sound_of(active, 100, 0))
    corpus = tmp_path / "corpus"
    status, _, _ = told("extract", str(tmp_path / "videos"), "--out", str(corpus), "--detector", DETECTOR, capsys=capsys)
    assert status == 0
    names = sorted(entry["id"] for entry in json.loads((corpus / "index.json").read_text())["clips"])
    assert [name.partition("-")[0] for name in names] == ["audio2head", "makeittalk", "wav2lip"]
    status, text, _ = told("score", *(str(corpus / name) for name in names), "--syncers", "any", "--json", capsys=capsys)
    results = json.loads(text)
    assert status == 0
    for result in results:
        assert abs(result["levels"][0]["offset_frames"]) <= 1
        assert result["levels"][0]["confidence"] > 0.2
