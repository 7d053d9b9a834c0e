"""The doctor: every complaint is raised by the fault that is planted for it, and by nothing else."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from avsync.audio.features import MFCC, LogMel
from avsync.cli import main
from avsync.corpus.banks.bank import ClipBank
from avsync.corpus.clip import Clip, write_clip, write_index
from avsync.corpus.synthetic.talker import SyntheticCorpus, synthetic_clip
from avsync.errors import ArgumentError, ClipTooShortError
from avsync.landmarks.geometry import flip
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pretrained import save_pretrained
from avsync.training.doctor import Examination, Finding, examine, overfit_batch
from avsync.training.doctor.alignment import LagScan, check_alignment, check_distances
from avsync.training.doctor.clip_checks import check_facts
from avsync.training.doctor.clip_facts import clip_facts
from avsync.training.doctor.duplicates import audio_fingerprint, find_duplicates, motion_fingerprint
from avsync.training.doctor.overfit import Overfit, check_overfit
from avsync.training.doctor.tracks import Tracks, clip_tracks


@functools.cache
def corpus() -> tuple[Clip, ...]:
    """Four speakers in two splits, two minutes: enough for the lag scan."""
    return tuple(SyntheticCorpus(speakers=2, clips_per_speaker=3, seconds=10.0))


def changed(clip: Clip, **fields: Any) -> Clip:
    return dataclasses.replace(clip, **fields)


def codes(findings: Any, *severities: str) -> set[str]:
    return {one.code for one in findings if not severities or one.severity in severities}


def find(findings: Any, code: str) -> Finding:
    found = [one for one in findings if one.code == code]
    assert found, f"{code} is not among {[str(one) for one in findings]}"
    return found[0]


def test_a_sound_corpus_gets_no_complaint() -> None:
    examination = examine(corpus())
    assert examination.healthy and codes(examination.findings) == {"aligned"}, [str(one) for one in examination.findings]
    assert (examination.clips, examination.speakers, examination.splits) == (12, 4, {"train": 6, "val": 6})
    assert examination.minutes == pytest.approx(2.0)
    assert set(examination.seconds) >= {"reading", "measuring", "lag scan", "fingerprints"}


def one_complaint(clip: Clip) -> list[Finding]:
    return check_facts([clip_facts(clip, clip_tracks(clip))])


def upside_down(clip: Clip) -> Clip:
    return changed(clip, landmarks=clip.landmarks * np.array([1, -1], np.float32) + np.array([0, 480], np.float32))


def mirrored(clip: Clip) -> Clip:
    return changed(clip, landmarks=clip.landmarks * np.array([-1, 1], np.float32) + np.array([640, 0], np.float32))


def points_swapped(clip: Clip) -> Clip:
    landmarks = clip.landmarks.copy()
    landmarks[:, 36:48] = flip(torch.from_numpy(clip.landmarks)).numpy()[:, 36:48] * [-1, 1]  # the eyes' names only
    return changed(clip, landmarks=landmarks)


def frozen(clip: Clip) -> Clip:
    landmarks = clip.landmarks.copy()
    landmarks[60:100] = landmarks[60]
    return changed(clip, landmarks=landmarks)


def silent_middle(clip: Clip) -> Clip:
    waveform = clip.waveform.copy()
    waveform[50 * 640 : 200 * 640] *= 0.003
    return changed(clip, waveform=waveform)


def still_mouth(clip: Clip) -> Clip:
    landmarks = clip.landmarks.copy()
    landmarks[:, 60:68] = landmarks[:1, 60:68] + landmarks[:, 27:28] - landmarks[:1, 27:28]
    return changed(clip, landmarks=landmarks)


def jumping(clip: Clip) -> Clip:
    landmarks = clip.landmarks.copy()
    landmarks[::40] += 100
    return changed(clip, landmarks=landmarks)


def loud(clip: Clip) -> Clip:
    return changed(clip, waveform=(20 * clip.waveform).clip(-1, 1))


FAULTS: dict[str, tuple[str, Callable[[Clip], Clip]]] = {
    "silent_audio": ("error", lambda clip: changed(clip, waveform=np.zeros_like(clip.waveform))),
    "faint_audio": ("warning", lambda clip: changed(clip, waveform=clip.waveform * np.float32(1e-3))),
    "clipped_audio": ("warning", loud),
    "silence": ("warning", silent_middle),
    "constant_landmarks": ("error", lambda clip: changed(clip, landmarks=np.repeat(clip.landmarks[:1], clip.frames, axis=0))),
    "frozen_landmarks": ("warning", frozen),
    "still_mouth": ("warning", still_mouth),
    "jumps": ("warning", jumping),
    "upside_down": ("error", upside_down),
    "mirrored": ("error", mirrored),
    "axes_swapped": ("error", lambda clip: changed(clip, landmarks=clip.landmarks[..., ::-1].copy())),
    "points_swapped": ("error", points_swapped),
    "normalised_units": ("warning", lambda clip: changed(clip, landmarks=clip.landmarks / np.array([640, 480], np.float32))),
}


def test_a_sound_clip_gets_no_complaint() -> None:
    for clip in corpus():
        assert not one_complaint(clip)
        mirror = flip(torch.from_numpy(clip.landmarks), width=640.0).numpy()
        assert not one_complaint(changed(clip, landmarks=mirror))  # a proper mirror image swaps the indices too
        assert not one_complaint(changed(clip, landmarks=clip.landmarks / 480, frame_size=(0, 0)))


@pytest.mark.parametrize("code", FAULTS)
def test_faults_of_single_clips(code: str) -> None:
    severity, plant = FAULTS[code]
    found = one_complaint(plant(corpus()[0]))
    assert codes(found) == {code}, [str(one) for one in found]
    assert found[0].severity == severity and found[0].clips == (corpus()[0].id,)


def test_turned_by_half_a_turn_is_two_faults() -> None:
    assert codes(one_complaint(upside_down(mirrored(corpus()[0])))) == {"upside_down", "mirrored"}


def test_faults_between_clips() -> None:
    facts = [clip_facts(clip, clip_tracks(clip)) for clip in corpus()[:3]]
    small = changed(corpus()[3], landmarks=corpus()[3].landmarks / 480, frame_size=(0, 0))
    found = find(check_facts([*facts, clip_facts(small, clip_tracks(small))]), "mixed_units")
    assert found.severity == "error" and found.clips == (small.id,)
    other = changed(corpus()[3], landmarks=corpus()[3].landmarks[:, :60])
    others = clip_facts(other, clip_tracks(other))
    assert find(check_facts([*facts, others]), "mixed_shapes").clips == (other.id,)
    assert codes(check_facts([others])) == {"other_points"}
    short = synthetic_clip(seconds=1.0)
    assert codes(check_facts([clip_facts(short, clip_tracks(short))])) == {"short_clips", "all_short"}


@pytest.mark.parametrize("frames", [5, -7])
def test_a_shifted_corpus_is_misaligned(frames: int) -> None:
    """Sound moved to earlier times is early, and early is positive."""
    shifted = [changed(clip, waveform=np.roll(clip.waveform, -640 * frames)) for clip in corpus()]
    examination = examine(shifted)
    found = find(examination.findings, "misaligned")
    assert not examination.healthy and found.severity == "error"
    assert found.numbers["offset_frames"] == pytest.approx(frames, abs=0.5)
    assert ("early" if frames > 0 else "late") in found.message


def test_sound_of_other_clips_is_unrelated() -> None:
    swapped = [
        changed(clip, waveform=other.waveform) for clip, other in zip(corpus(), [*corpus()[1:], corpus()[0]], strict=True)
    ]
    assert "unrelated" in codes(examine(swapped).findings)


def test_a_wrong_rate_is_named() -> None:
    def filmed_at_30(clip: Clip) -> Clip:
        times = np.arange(clip.frames) * 25 / 30
        flat = clip.landmarks.reshape(clip.frames, -1)
        resampled = np.stack([np.interp(times, np.arange(clip.frames), column) for column in flat.T], axis=1)
        return changed(clip, landmarks=resampled.reshape(clip.landmarks.shape).astype(np.float32))

    found = find(examine([filmed_at_30(clip) for clip in corpus()]).findings, "rate")
    assert found.severity == "error" and found.numbers["fps"] == 30.0


def made_tracks(seed: int, lag: int, frames: int = 2000) -> Tracks:
    """Curves in which the motion follows the sound ``lag`` frames later."""
    rng = np.random.default_rng(seed)
    sound = np.abs(rng.normal(size=frames))
    motion = np.roll(sound, lag) + 0.5 * np.abs(rng.normal(size=frames))
    return Tracks(motion, motion, sound, sound, np.zeros((4 * frames, 26)), 100.0)


def test_a_speaker_apart_is_named() -> None:
    scan = LagScan()
    for seed in range(5):
        scan.add(made_tracks(seed, lag=6 if seed == 3 else 0), speaker=f"s{seed}")
    scan.add(made_tracks(9, lag=8, frames=100), speaker="short")
    findings = check_alignment(scan)
    assert codes(findings) == {"aligned", "misaligned_speakers"}
    assert find(findings, "misaligned_speakers").clips == ("s3",)
    assert scan.peak("s3").offset_frames == pytest.approx(6, abs=0.3)
    assert len(scan.lags) == len(scan.curve()) == 81


def test_one_frame_is_a_warning_and_half_a_minute_no_basis() -> None:
    scan = LagScan()
    scan.add(made_tracks(0, lag=1), speaker="a")
    assert find(check_alignment(scan), "misaligned").severity == "warning"
    little = LagScan()
    little.add(made_tracks(0, lag=9, frames=800), speaker="a")
    assert codes(check_alignment(little)) == {"too_short_to_align"}


def distances(offset: int, crops: int, depth: float = 0.4) -> np.ndarray[Any, np.dtype[np.float64]]:
    rows = 1.3 + 0.01 * np.random.default_rng(abs(offset)).normal(size=(crops, 31))
    rows[:, 15 - offset] -= depth
    return rows


def test_trained_syncers_judge_the_whole_and_each_speaker() -> None:
    aligned = check_distances(["a"] * 5 + ["b"] * 5, distances(0, 10))
    assert codes(aligned) == {"aligned"}
    one = np.concatenate([distances(0, 20), distances(4, 5)])
    apart = check_distances(["a"] * 20 + ["b"] * 5, one)
    assert find(apart, "misaligned_speakers").numbers == {"b": 4}
    shifted = find(check_distances(["a"] * 5, distances(-3, 5)), "misaligned")
    assert shifted.severity == "error" and "late by 3.0 frames" in shifted.message
    assert codes(check_distances(["a"] * 5, distances(0, 5, depth=0.0))) == {"syncers_unsure"}
    with pytest.raises(ArgumentError, match="speakers"):
        check_distances(["a"], distances(0, 2))


PYRAMID = SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=8, frame_blocks=1), num_levels=2)


def test_examining_with_syncers() -> None:
    pyramid = SyncerPyramid(config=PYRAMID).eval()
    found = examine(corpus()[:2], syncers=pyramid, features=LogMel()).findings
    judged = [one for one in found if "crops" in one.numbers]
    assert judged and judged[0].numbers["crops"] == 4  # two crops of 80 frames fit in 250 with their margins
    short = examine([synthetic_clip(seconds=2.0)], syncers=pyramid, features=LogMel()).findings
    assert "syncers_unused" in codes(short)


def cut(clip: Clip, begin: int, end: int, **fields: Any) -> Clip:
    pieces = {"landmarks": clip.landmarks[begin:end].copy(), "waveform": clip.waveform[640 * begin : 640 * end].copy()}
    return changed(clip, **{**pieces, **fields})


def test_duplicates_are_found_however_they_are_cut_and_scaled() -> None:
    first, rest = corpus()[0], corpus()[1:]
    copy = cut(first, 70, 170, id="copy")
    copy = changed(copy, landmarks=copy.landmarks * 1.7 + 30, waveform=copy.waveform * np.float32(0.4))
    found = examine([first, *rest, copy]).findings
    assert codes(found, "error", "warning") == {"duplicates"}
    pair = find(found, "duplicates")
    assert pair.severity == "warning" and pair.clips == (first.id, "copy") and "audio and face" in pair.message
    assert pair.numbers["pairs"] == [[first.id, "copy"]]


def test_duplicates_across_splits_are_errors_and_kinds_are_told() -> None:
    first, other = corpus()[0], corpus()[7]
    assert (first.split, other.split) == ("train", "val")
    dubbed = changed(other, waveform=first.waveform)
    found = find(examine([first, dubbed]).findings, "duplicates_across_splits")
    assert (
        found.severity == "error" and "audio, but not the same face" in found.message and "different speakers" in found.message
    )
    filmed = changed(other, landmarks=first.landmarks)
    found = find(examine([first, filmed]).findings, "duplicates_across_splits")
    assert "face, but not the same audio" in found.message


def test_fingerprints_survive_noise_of_16_bits_and_find_nothing_in_silence() -> None:
    clip = corpus()[0]
    rounded = changed(clip, waveform=(np.round(clip.waveform * 16384) / 32768).astype(np.float32))
    prints = [audio_fingerprint(clip_tracks(one)) for one in (clip, rounded)]
    assert len(find_duplicates(prints)) == 1
    still = [changed(clip, landmarks=np.repeat(clip.landmarks[:1], clip.frames, axis=0)) for _ in range(2)]
    assert not find_duplicates([motion_fingerprint(one, clip_tracks(one)) for one in still])
    mute = [changed(clip, waveform=np.zeros_like(clip.waveform)) for _ in range(2)]
    assert not find_duplicates([audio_fingerprint(clip_tracks(one)) for one in mute])
    assert not find_duplicates([])
    tiny = cut(clip, 0, 1)
    assert not len(audio_fingerprint(clip_tracks(tiny)).words) and not len(motion_fingerprint(tiny, clip_tracks(tiny)).words)


def test_leaks_and_names() -> None:
    clips = [changed(corpus()[0], id="a"), changed(corpus()[7], id="b", speaker=corpus()[0].speaker)]
    found = find(examine(clips).findings, "speaker_leakage")
    assert found.severity == "error" and found.clips == (corpus()[0].speaker,)
    assert find(examine([corpus()[0], changed(corpus()[7], id=corpus()[0].id)]).findings, "id_twice").severity == "error"
    assert codes(examine([corpus()[0]]).findings) == {"one_split", "too_short_to_align"}


def test_what_cannot_be_used_is_named_and_the_rest_is_examined() -> None:
    bad = changed(corpus()[1], landmarks=np.full_like(corpus()[1].landmarks, np.nan))
    examination = examine([corpus()[0], bad])
    found = find(examination.findings, "damaged")
    assert found.clips == (bad.id,) and "NaN" in found.message and examination.clips == 1
    assert codes(examine([]).findings) == {"empty"}


@functools.cache
def short_bank(kind: str) -> ClipBank:
    clips = [synthetic_clip(speaker=number, seconds=0.8) for number in range(4)]
    if kind == "alike":
        clips = [changed(clips[0], id=clip.id, speaker=clip.speaker) for clip in clips]
    if kind == "dead":
        still, mute = np.repeat(clips[0].landmarks[:1], clips[0].frames, axis=0), np.zeros_like(clips[0].waveform)
        clips = [changed(clip, landmarks=still, waveform=mute) for clip in clips]
    return ClipBank(clips, features=LogMel())


def test_a_batch_is_learnt_by_heart() -> None:
    state = torch.get_rng_state()
    result = overfit_batch(short_bank("sound"), seconds=1e9, max_steps=200, crops=4)
    assert torch.equal(state, torch.get_rng_state())
    assert result.crops == 4 and len(result.curves) == 3 and max(result.ratios) < 0.1
    assert [one.code for one in check_overfit(result)] == ["overfit"]


def test_what_cannot_be_learnt_by_heart_is_told() -> None:
    alike = check_overfit(overfit_batch(short_bank("alike"), seconds=1e9, max_steps=60, crops=4))
    assert codes(alike) & {"overfit_failed", "overfit_collapse"} and "alike" in " ".join(one.message for one in alike)
    dead = check_overfit(overfit_batch(short_bank("dead"), seconds=1e9, max_steps=60, crops=4))
    assert codes(dead, "error") <= {"overfit_collapse", "overfit_failed"} and codes(dead, "error")
    assert codes(check_overfit(Overfit(4, 60, 1.0, [[1.0, 0.99]], [0.001]))) == {"overfit_collapse"}
    assert codes(check_overfit(Overfit(4, 60, 1.0, [[1.0, 0.3]], [0.9]))) == {"overfit_slow"}
    assert codes(check_overfit(Overfit(4, 5, 9.0, [[1.0, 0.95]], [0.9]))) == {
        "overfit_slow"
    }  # a busy machine is no fault of the data
    assert codes(check_overfit(Overfit(4, 2, 1.0, [[1.0, float("nan")]], [0.9]))) == {"overfit_not_finite"}
    with pytest.raises(ClipTooShortError, match="at least 9 frames, the longest has 5"):
        overfit_batch(ClipBank([synthetic_clip(seconds=0.2)], features=LogMel()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    clips = [clip for clip in corpus() if clip.id.endswith("_000")]
    write_index(folder, [write_clip(clip, folder) for clip in clips])
    return folder


def edited(folder: Path, target: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a corpus whose index is changed behind the writer's back."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    edit(index)
    (target / "index.json").write_text(json.dumps(index), encoding="utf-8")
    return target


def test_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["doctor", str(folder), "--figure", str(tmp_path / "scan.png")]) == 0
    out = capsys.readouterr().out
    assert "4 clips (2 in train, 2 in val), 4 speakers" in out and "no errors" in out
    assert (tmp_path / "scan.png").stat().st_size > 1000
    assert main(["doctor", str(folder), "--json", "--split", "val"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] and told["clips"] == 2 and len(told["lag_scan"]["frames"]) == 81
    assert [one["code"] for one in told["findings"]] == ["too_short_to_align"]
    save_pretrained(SyncerPyramid(config=PYRAMID), tmp_path / "syncers")
    judged = ["--syncers", str(tmp_path / "syncers"), "--features", "log-mel"]
    seconds = iter(range(10_000))
    monkeypatch.setattr("avsync.training.doctor.overfit.time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    main(["doctor", str(folder), "--json", *judged, "--overfit", "2.5"])
    told = json.loads(capsys.readouterr().out)
    assert told["overfit"]["steps"] == 3, "the third step ends after 3 seconds"
    assert any("crops" in one["numbers"] for one in told["findings"])


def test_broken_corpora_end_with_status_1(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def found(path: Path, *options: str) -> set[str]:
        assert main(["doctor", str(path), "--json", *options]) == 1
        return {one["code"] for one in json.loads(capsys.readouterr().out)["findings"]}

    assert found(tmp_path) == {"index"}
    assert found(edited(folder, tmp_path / "fps", lambda index: index.update(fps=30.0))) == {"damaged"}, "clips state 25"
    assert found(edited(folder, tmp_path / "none", lambda index: index.update(fps=0))) == {"rate"}
    assert found(edited(folder, tmp_path / "rate", lambda index: index.update(sample_rate=44100))) == {"rate"}
    assert found(edited(folder, tmp_path / "key", lambda index: index["clips"][0].pop("speaker"))) >= {"index"}
    leak = edited(folder, tmp_path / "leak", lambda index: index["clips"][0].update(speaker=index["clips"][-1]["speaker"]))
    assert "speaker_leakage" in found(leak)
    assert "no_split" in found(folder, "--split", "test")
    cut_off = edited(folder, tmp_path / "cut", lambda index: None)
    name = next(iter(cut_off.glob("*.npz")))
    name.write_bytes(name.read_bytes()[:100])
    assert "damaged" in found(cut_off)


def test_the_command_line_reads_a_training_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["step,name,value"] + [f"{step},loss0,0.999" for step in range(10, 610, 10)] + ["600,spread0,0.001"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert main(["doctor", "--log", str(tmp_path)]) == 1
    assert "error (collapse): level 0 is at chance level after 600 steps" in capsys.readouterr().out
    assert main(["doctor", "--log", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["log"][0]["code"] == "collapse"
    (tmp_path / "metrics.csv").write_text("step,name,value\nx,y,z\n", encoding="utf-8")
    assert main(["doctor", "--log", str(tmp_path)]) == 1
    for arguments in ([], ["--log", str(tmp_path / "nowhere")], [".", "--overfit", "-1"], ["--log", ".", "--figure", "a.png"]):
        assert main(["doctor", *arguments]) == 1
    assert "expected" in capsys.readouterr().err


def test_findings_are_one_line_each() -> None:
    many = Finding("note", "many", "so many", clips=tuple("abcdefgh"))
    assert str(many) == "note (many): so many [a, b, c, d, e and 3 more]"
    with pytest.raises(ArgumentError, match="severity"):
        Finding("fatal", "x", "y")


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["--syncers", "landmarks68-25fps-mfcc"], MFCC),
        (["--syncers", "landmarks68-25fps"], LogMel),
        (["--features", "mfcc"], MFCC),
        ([], LogMel),
    ],
)
def test_syncers_hear_what_they_were_trained_on(
    options: list[str], kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []

    def noting(_: Path, **settings: Any) -> Examination:
        heard.append(settings["features"])
        return Examination(findings=())

    monkeypatch.setattr("avsync.training.doctor.examine", noting)
    assert main(["doctor", str(tmp_path), *options]) == 0
    assert [type(features) for features in heard] == [kind]


def test_other_features_than_the_syncers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path), "--syncers", "landmarks68-25fps", "--features", "mfcc"]) == 1
    assert "`--features`: expected log-mel" in capsys.readouterr().err
