"""Missing audio is missing: masked in clips, in speech masks and in reports, never counted as silence that was recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch

from avsync.audio.features import LogMel
from avsync.cli import main
from avsync.corpus.banks.bank import ClipBank
from avsync.corpus.banks.shards import build_shards
from avsync.corpus.clip import Clip, Corpus, missing_ranges, write_corpus
from avsync.corpus.extraction.batch import extract_corpus
from avsync.corpus.inspect import inspect_corpus
from avsync.corpus.media import AudioSource, read_audio
from avsync.corpus.speech import clip_speech, speech_mask
from avsync.corpus.synthetic.talker import synthetic_clip
from avsync.errors import ArgumentError, CorpusError, ShapeError
from avsync.evaluation.answer import find_offset
from avsync.evaluation.clean import clean_corpus
from avsync.evaluation.methods import Evaluation, Networks, evaluate
from avsync.evaluation.recording import Recording, recording_report, with_delayed_audio
from avsync.evaluation.sources import tracks_of_clips
from avsync.evaluation.syncnet.scoring import score_video
from avsync.evaluation.track import offset_track, speaking_face
from avsync.landmarks.pauses import pause_steps
from avsync.metrics import load_calibration
from avsync.metrics.beat_align import audio_onsets
from avsync.metrics.lse import distance_at_zero, lse_confidence
from avsync.metrics.multi_scale import fill_missing_audio, frames_to_windows, multi_scale_embeddings
from avsync.metrics.offset import window_distances
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.pretrained import model_folder
from tests.test_evaluation_video import LoudAndBright, box

SECONDS = 4.0
Spans = tuple[tuple[float, float], ...]
FACE = np.array([[20, 20], [40, 20], [30, 44]], np.float32)


DETECTOR = f"{__name__}:find_face"


def find_face(images: Sequence[Any]) -> list[Any]:
    return [FACE] * len(images)


def film(
    path: Path,
    *,
    audio: Spans = ((0.0, SECONDS),),
    shown: tuple[float, float] = (0.0, SECONDS),
    sides: tuple[float, float] = (1.0, 1.0),
    active: npt.NDArray[np.bool_] | None = None,
) -> Path:
    """The seconds ``shown`` of a video of four seconds, whose audio, noise in stereo, exists in the seconds ``audio``.

    With ``active``, the images are bright and the noise is loud in these frames alone.
    """
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, round(SECONDS * 16000)).astype(np.float32)
    active = np.zeros(round(SECONDS * 25), bool) if active is None else active
    noise *= np.repeat(active, 640) if active.any() else 1.0
    with av.open(str(path), "w", format="matroska") as output:
        video = output.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        stream = output.add_stream("pcm_s16le", rate=16000, layout="stereo")
        packets: list[tuple[float, Any]] = []
        for number, frame in enumerate(range(round(shown[0] * 25), round(shown[1] * 25))):
            image = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 220 if active[frame] else 40, np.uint8), format="rgb24")
            image.pts = number
            packets += [(number / 25, packet) for packet in video.encode(image)]
        packets += [(shown[1] - shown[0], packet) for packet in video.encode(None)]
        samples = np.stack([side * noise for side in sides]).T
        for start, end in audio:
            for first in range(round(start * 16000), round(end * 16000), 640):
                block = np.ascontiguousarray((samples[first : first + 640] * 32767).astype(np.int16).reshape(1, -1))
                part = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo")
                part.sample_rate, part.pts = 16000, first - round(shown[0] * 16000)
                packets += [(part.pts / 16000, packet) for packet in stream.encode(part)]
        packets += [(SECONDS, packet) for packet in stream.encode(None)]
        for _, packet in sorted(packets, key=lambda pair: pair[0]):
            output.mux(packet)
    return path


@pytest.mark.parametrize(
    ("where", "missing"),
    [
        (((0.0, 4.0),), ()),
        (((0.0, 2.0),), ((50, 100),)),
        (((1.0, 4.0),), ((0, 25),)),
        (((1.0, 3.0),), ((0, 25), (75, 100))),
        (((0.0, 1.2), (2.8, 4.0)), ((30, 70),)),
    ],
)
def test_extraction_keeps_and_reports_it(tmp_path: Path, where: Spans, missing: tuple[tuple[int, int], ...]) -> None:
    report = extract_corpus([film(tmp_path / "talk.mkv", audio=where)], tmp_path / "corpus", detector=find_face)
    [clip] = Corpus(tmp_path / "corpus")
    assert clip.frames == 100 and clip.missing_audio == missing
    there = 100 - sum(stop - first for first, stop in missing)
    assert report.videos[0].clips[0].audio_seconds == pytest.approx(there / 25)
    assert report.to_json()["totals"]["seconds_without_audio"] == pytest.approx((100 - there) / 25)
    assert any("no audio in the file" in warning for warning in report.videos[0].warnings) == bool(missing)
    assert ("no audio in the file" in report.summary()) == bool(missing)
    assert not clip.waveform[~np.repeat(clip.has_audio, 640)][800:-800].any()
    assert report.videos[0].clips[0].rms_db == pytest.approx(20 * np.log10(0.5 / 3**0.5), abs=0.2)
    # All of the noise that is there is as loud as speech, and nothing else counts.
    assert np.array_equal(clip_speech(clip), clip.has_audio)
    bank = ClipBank([clip], features=LogMel())
    assert len(bank.speech) == there and bool(bank.speech.all())


def test_channels_that_cancel_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = film(tmp_path / "opposite.mkv", sides=(1.0, -1.0))
    report = extract_corpus([path], tmp_path / "corpus", detector=find_face)
    assert any("cancel" in warning for warning in report.videos[0].warnings) and "cancel" in report.summary()
    assert main(["extract", str(path), "--out", str(tmp_path / "again"), "--detector", DETECTOR, "--quiet"]) == 0
    assert "cancel" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="cancel"):
        read_audio(path)
    for sides in ((1.0, 1.0), (1.0, 0.0), (1.0, -0.2), (0.0, 0.0)):
        with AudioSource(film(tmp_path / "fine.mkv", sides=sides)) as source:
            source.read(0.0, 64000)
            assert not any("cancel" in warning for warning in source.warnings), sides


def test_a_frame_with_less_than_half_of_its_audio_has_none() -> None:
    present: npt.NDArray[np.bool_] = np.ones(640 * 6, dtype=bool)
    present[640 : 640 + 321] = False
    present[1280 : 1280 + 319] = False
    present[-1] = False
    assert missing_ranges(present, 6) == ((1, 2),)
    assert missing_ranges(~np.ones(26667, bool), 50, 30.0) == ((0, 50),)
    assert missing_ranges(np.ones(26667, bool), 50, 30.0) == ()


def test_the_speech_of_the_rest_is_judged_without_the_missing_frames() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 640 * 40).astype(np.float32)
    present = np.arange(40) < 2
    noise[640 * 2 :] = 0.5  # a constant that no recording has; were it heard, it would be the loudest
    assert speech_mask(noise, present=present).tolist() == [True] * 2 + [False] * 38
    assert not speech_mask(noise, present=np.zeros(40, bool)).any()
    for wrong in (np.ones(39, bool), np.ones(40), "all"):
        with pytest.raises(ShapeError, match="`present`"):
            speech_mask(noise, present=wrong)  # type: ignore[arg-type]
    clip = Clip("a", "s", "train", np.ones((40, 68, 2), np.float32), noise, missing_audio=((2, 40),))
    assert clip_speech(clip).sum() == 2


# --- the figures of a clip that lacks audio are those of the clip that is cropped to its audio -----------------------------------

FRAMES = 208
KINDS = {"ends early": ((104, 208),), "starts late": ((0, 104),), "a hole": ((64, 136),)}


def lacking(clip: Clip, kind: str) -> Clip:
    """The clip without the audio of some frames."""
    waveform = clip.waveform.copy()
    for first, stop in KINDS[kind]:
        waveform[640 * first : 640 * stop] = 0
    return replace(clip, waveform=waveform, missing_audio=KINDS[kind])


def crops(clip: Clip, kind: str) -> list[Clip]:
    """The parts of the clip that have audio."""
    edges = [0, *KINDS[kind][0], clip.frames]
    return [
        replace(
            clip, id=f"{clip.id}{first}", landmarks=clip.landmarks[first:stop], waveform=clip.waveform[640 * first : 640 * stop]
        )
        for first, stop in zip(edges[::2], edges[1::2], strict=True)
        if stop > first
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_banks_hold_the_parts_with_audio(kind: str, talker: Clip, tmp_path: Path) -> None:
    """A training takes no hole for silence, and learns from the rest as from a crop."""
    wanted = ClipBank(crops(talker, kind), features=LogMel())
    for bank in (
        ClipBank([lacking(talker, kind)], features=LogMel()),
        build_shards([lacking(talker, kind)], tmp_path, features=LogMel()),
    ):
        assert bank.lengths.tolist() == wanted.lengths.tolist() and len(set(bank.ids)) == len(bank)
        for found, expected in zip(
            vars(bank.windows(20, stride=7)).values(), vars(wanted.windows(20, stride=7)).values(), strict=True
        ):
            torch.testing.assert_close(found, expected)


def test_a_clip_without_audio_is_a_bad_clip_for_a_bank(talker: Clip) -> None:
    silent = replace(talker, id="mute", missing_audio=((0, 103), (106, FRAMES)))
    with pytest.raises(CorpusError, match="'mute': expected frames with audio"):
        ClipBank([talker, silent], features=LogMel())
    bank = ClipBank([talker, silent], features=LogMel(), skip_bad=True)
    assert bank.ids == (talker.id,) and [name for name, _ in bank.bad] == ["mute"]


def delayed(clip: Clip, frames: int) -> Clip:
    return with_delayed_audio(Recording("a", (clip,)), 0.04 * frames).clips[0]


@pytest.fixture(scope="module")
def syncers() -> dict[str, Any]:
    pyramid = MultiScaleSyncer.from_pretrained("landmarks68-25fps").eval()
    return {"pyramid": pyramid, "audio_transform": pyramid.speech_features()}


@pytest.fixture(scope="module")
def talker() -> Clip:
    return synthetic_clip(seconds=FRAMES / 25)


@pytest.mark.parametrize("kind", KINDS)
class TestLikeTheCrop:
    def test_recordings(self, syncers: dict[str, Any], talker: Clip, kind: str) -> None:
        found, wanted = (
            recording_report(Recording("a", tuple(clips)), **syncers)
            for clips in ([lacking(talker, kind)], crops(talker, kind))
        )
        silent = recording_report(Recording("a", (replace(lacking(talker, kind), missing_audio=()),)), **syncers)
        for level in range(3):  # windows of the coarsest level lie on another grid than those of the crop
            ours, theirs = found[level], wanted[level]
            assert abs(int(ours.windows) - int(theirs.windows)) <= 1 and ours.answers == theirs.answers
            assert int(ours.sync.offset_frames) == int(theirs.sync.offset_frames)
            assert float(ours.sync.confidence) == pytest.approx(float(theirs.sync.confidence), abs=0.03)
            assert float(ours.sync.distance_at_zero) == pytest.approx(float(theirs.sync.distance_at_zero), abs=0.03)
        # The same samples that are taken for a silence give other figures, so that the comparison can fail.
        assert abs(float(silent[0].sync.confidence) - float(wanted[0].sync.confidence)) > 0.06

    def test_offsets_over_time(self, syncers: dict[str, Any], talker: Clip, kind: str) -> None:
        def measure(one: Recording) -> list[Any]:
            return recording_report(one, **syncers)

        clip = lacking(delayed(talker, -4), kind)
        points = offset_track(Recording("a", (clip,)), measure, seconds=2.0, every=1.04)
        for point in points:
            first = round((point.seconds - 1.0) * 25)
            there = clip.has_audio[first : first + 50]
            if there.all():
                assert point.offset == pytest.approx(0.16, abs=0.03)
            elif not there.any():
                assert point.offset is None and np.isnan(point.confidence)

    def test_methods(self, syncers: dict[str, Any], talker: Clip, kind: str) -> None:
        def measured(clips: list[Clip]) -> Evaluation:
            networks = Networks(syncers=syncers["pyramid"])
            return evaluate(tracks_of_clips(clips)[0], networks=networks, frames=min(clip.frames for clip in clips), stride=8)

        found = measured([lacking(talker, kind)])
        wanted = measured([part for part in crops(talker, kind) if part.frames >= 72][-1:])
        assert any("no audio in" in note for note in found.notes) and not any("no audio" in note for note in wanted.notes)
        if kind == "a hole":  # two crops, of which one segment is evaluated
            assert float(found.values("ground truth", "abs_offset", 0).mean()) == 0
            return
        for key in ("confidence", "distance_at_zero"):
            ours, theirs = (float(one.values("ground truth", key, 0)[0]) for one in (found, wanted))
            assert ours == pytest.approx(theirs, abs=0.03)
        for key in ("pause_speed", "beat_audio_to_motion", "beat_motion_to_audio"):
            ours, theirs = (float(one.values("ground truth", key)[0]) for one in (found, wanted))
            assert ours == pytest.approx(theirs, abs=0.05, nan_ok=True), key

    def test_statistics(self, tmp_path: Path, syncers: dict[str, Any], talker: Clip, kind: str) -> None:
        def statistics(name: str, clips: list[Clip]) -> Any:
            write_corpus(clips, tmp_path / name)
            pyramid = syncers["pyramid"]
            return inspect_corpus(tmp_path / name, syncers=pyramid, features=syncers["audio_transform"].features)

        found, wanted = statistics("found", [lacking(talker, kind)]), statistics("wanted", crops(talker, kind))
        assert found.audio_seconds.sum() == pytest.approx(wanted.seconds.sum())
        missing = found.to_json()["seconds_without_audio"]
        assert missing == pytest.approx(sum(stop - first for first, stop in KINDS[kind]) / 25)
        assert f"no audio for {missing:.2f} s of 1 clips" in found.summary() and "no audio for" not in wanted.summary()
        shares = wanted.seconds / wanted.seconds.sum()
        assert found.speech[0] == pytest.approx((wanted.speech * shares).sum(), abs=0.03)
        assert 10 ** (found.rms_db[0] / 10) == pytest.approx((10 ** (wanted.rms_db / 10) * shares).sum(), rel=1e-3)
        assert found.offsets[0][0] == 0
        assert found.confidences[0][0] == pytest.approx(wanted.confidences[0].mean(), abs=0.06)

    def test_lse_of_any_embeddings(self, syncers: dict[str, Any], talker: Clip, kind: str) -> None:
        """Embeddings of the whole clip, of which the masks hide what has no audio; exact, because nothing else changes."""
        landmarks = torch.from_numpy(talker.landmarks)[None]
        audio = syncers["audio_transform"](torch.from_numpy(talker.waveform)[None])
        whole = multi_scale_embeddings(syncers["pyramid"], landmarks, audio)[0]
        mask = frames_to_windows(torch.from_numpy(lacking(talker, kind).has_audio)[None])
        edges = [0, *KINDS[kind][0], FRAMES]
        parts = [slice(first, stop - 4) for first, stop in zip(edges[::2], edges[1::2], strict=True) if stop > first]
        assert torch.equal(mask[0].nonzero()[:, 0], torch.cat([torch.arange(FRAMES)[part] for part in parts]))
        sums, counts = torch.zeros(2, 31, dtype=torch.float64)
        for part in parts:
            distances, some = window_distances(whole.motion[:, part], whole.audio[:, part], max_offset=15)
            sums += (distances * some).sum((0, 1))
            counts += some.expand_as(distances).sum((0, 1))
        mean = sums / counts
        if len(parts) == 1:  # over a hole, offsets also compare one side of the hole with the other
            torch.testing.assert_close(
                lse_confidence(whole.motion, whole.audio, mask=mask, audio_mask=mask).double(),
                mean.median() - mean.min(),
                atol=1e-5,
                rtol=0,
            )
        torch.testing.assert_close(
            distance_at_zero(whole.motion, whole.audio, mask=mask, audio_mask=mask).double(), mean[15], atol=1e-5, rtol=0
        )

    def test_cleaning(self, tmp_path: Path, syncers: dict[str, Any], talker: Clip, kind: str) -> None:
        calibration = load_calibration(model_folder("landmarks68-25fps") / "calibration.json", syncers=syncers["pyramid"])
        late = delayed(talker, 4)
        write_corpus([lacking(late, kind)], tmp_path / "corpus")
        [found] = clean_corpus(
            tmp_path / "corpus", tmp_path / "out", **syncers, calibration=calibration, pool="clip", threshold=0.5
        ).clips
        assert found.outcome == "corrected" and found.offset_seconds == pytest.approx(-0.16, abs=0.02)
        [moved] = Corpus(tmp_path / "out")
        assert sum(stop - first for first, stop in moved.missing_audio) == pytest.approx(
            sum(stop - first for first, stop in KINDS[kind]), abs=4
        )

    def test_faces_that_speak(self, syncers: dict[str, Any], talker: Clip, kind: str) -> None:
        calibration = load_calibration(model_folder("landmarks68-25fps") / "calibration.json", syncers=syncers["pyramid"])
        other = replace(lacking(talker, kind), landmarks=synthetic_clip(seconds=FRAMES / 25, speaker=5).landmarks)
        faces = {"a": Recording("a", (lacking(talker, kind),)), "b": Recording("b", (other,))}
        found = speaking_face(faces, lambda one: recording_report(one, **syncers, calibration=calibration))
        assert found.person == "a" and found.probabilities["a"] > 0.8

    def test_syncnet(self, tmp_path: Path, kind: str) -> None:
        spans = {"ends early": ((0.0, 2.0),), "starts late": ((2.0, 4.0),), "a hole": ((0.0, 1.2), (2.8, 4.0))}[kind]
        active = np.random.default_rng(0).random(100) < 0.3
        options: dict[str, Any] = {"syncnet": LoudAndBright(), "detector": box, "min_seconds": 1.0, "max_offset": 9}
        [found] = score_video(film(tmp_path / "a.mkv", audio=spans, active=active), **options)
        parts = [
            score_video(film(tmp_path / "b.mkv", audio=(span,), shown=span, active=active), **options)[0] for span in spans
        ]
        assert found.offset_frames == 0 and found.windows == sum(part.windows for part in parts)
        mean = sum(part.windows * part.distance_at_zero for part in parts) / found.windows
        assert found.distance_at_zero == pytest.approx(mean, abs=1e-5)
        assert int(np.isfinite(found.framewise).sum()) == found.windows
        if len(parts) == 1:
            assert found.confidence == pytest.approx(parts[0].confidence, abs=1e-5)


def test_a_clip_without_audio_has_no_figures(syncers: dict[str, Any], talker: Clip) -> None:
    clip = replace(talker, waveform=np.zeros_like(talker.waveform), missing_audio=((0, FRAMES),))
    answer, report = find_offset(Recording("a", (clip,)), lambda one: recording_report(one, **syncers))
    assert answer.seconds is None and {level.answers for level in report} == {("nothing",)}
    assert all(int(level.windows) == 0 for level in report)


def test_the_terminal_tells(tmp_path: Path, talker: Clip, capsys: pytest.CaptureFixture[str]) -> None:
    write_corpus([lacking(talker, "a hole")], tmp_path / "corpus")
    for command in ("offset", "score"):
        assert main([command, str(tmp_path / "corpus" / talker.id), "--syncers", "landmarks68-25fps", "--quiet"]) == 0
        assert "no audio for 2.88 s of the face; measured in the other 5.44 s" in capsys.readouterr().out
    assert main(["offset", str(tmp_path / "corpus" / talker.id), "--track", "--json", "--quiet"]) == 0
    [told] = json.loads(capsys.readouterr().out)
    assert told["audio_seconds"] == pytest.approx(5.44) and told["warnings"] == []


def test_masks_are_checked() -> None:
    with pytest.raises(ShapeError, match="`frame_mask`: expected bool"):
        frames_to_windows(torch.ones(1, 20))
    with pytest.raises(ArgumentError, match="`share`"):
        frames_to_windows(torch.ones(1, 20, dtype=torch.bool), share=2.0)
    assert frames_to_windows(torch.ones(1, 4, dtype=torch.bool)).shape == (1, 0)
    with pytest.raises(ShapeError, match="`has_audio`"):
        fill_missing_audio(torch.ones(1, 20, 2), torch.ones(1, 7, dtype=torch.bool))


def test_gaps_are_no_beats_and_no_pauses() -> None:
    """Where the audio of a steady noise begins again there is no onset, and a mouth that moves there is not in a pause."""
    noise = 0.1 * torch.randn(1, 32000, generator=torch.Generator().manual_seed(0))
    there = torch.ones(1, 200, dtype=torch.bool)
    there[:, 80:120] = False
    gap = noise.clone()
    gap[:, 12800:19200] = 0
    assert audio_onsets(gap)[:, 118:124].any() and not audio_onsets(gap, has_audio=there)[:, 78:124].any()
    speech = torch.zeros(1, 50, dtype=torch.bool)
    has_audio = torch.arange(50)[None] < 25
    assert pause_steps(speech, has_audio=has_audio).sum() == 24
