"""The synthetic talker: the same every time, in the corpus' format, and linked exactly where its knobs say."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
import torch

from avsync import landmarks as lm
from avsync.corpus.clip import Clip, check_clip
from avsync.corpus.synthetic.talker import SyntheticConfig, SyntheticCorpus, synthetic_clip
from avsync.errors import ArgumentError, ConfigError
from avsync.pretrained import config_from_dict, config_to_dict

Floats = npt.NDArray[np.float64]
BANDS = {"lips": (5.0, 11.0), "brows": (1.3, 3.2), "posture": (0.1, 0.75)}
QUIET = {"drift": 0.0, "jitter": 0.0, "blinks": 0.0}


def motion(clip: Clip, knob: str) -> Floats:
    """The track that shows a knob's scale best: opening of the mouth, height of the brows over the eyes, height of the nose."""
    y = clip.landmarks[..., 1].astype(np.float64)
    if knob == "lips":
        return y[:, 66] - y[:, 62]
    return y[:, 36:48].mean(axis=1) - y[:, 19:25].mean(axis=1) if knob == "brows" else -y[:, 30]


def energy(clip: Clip) -> Floats:
    """Log-energy of the sound around every motion frame."""
    sound = np.pad(clip.waveform, 320).astype(np.float64)
    return np.log10([np.mean(sound[640 * k : 640 * k + 640] ** 2) + 1e-8 for k in range(clip.frames)])


def band(track: Floats, knob: str) -> Floats:
    low, high = BANDS[knob]
    frequency = np.fft.rfftfreq(len(track), 1 / 25)
    spectrum = np.fft.rfft((track - track.mean()) * np.hanning(len(track)))
    return np.fft.irfft(spectrum * ((frequency >= low) & (frequency <= high)), len(track))


def coupling(config: SyntheticConfig, knob: str, lags: range = range(-8, 9)) -> Floats:
    """Correlation of sound and motion in a knob's band, pooled over speakers, at lags in frames; positive: the motion is later."""
    products = np.zeros(len(lags))
    corpus = SyntheticCorpus(config, split="train", speakers=16, clips_per_speaker=1, seconds=20.0, cache=False)
    for clip in corpus:
        heard, seen = band(energy(clip), knob), band(motion(clip, knob), knob)
        heard, seen = heard / heard.std(), seen / seen.std()
        products += [np.mean(heard * np.roll(seen, -lag)) for lag in lags]
    return products / len(corpus)


def test_a_clip_keeps_the_format() -> None:
    clip = synthetic_clip(SyntheticConfig(seed=4), speaker=2, clip=1, seconds=3.0)
    check_clip(clip)
    assert clip.landmarks.shape == (75, 68, 2)
    assert clip.waveform.shape == (48000,)
    assert clip.frame_size == (640, 480)
    assert np.abs(clip.waveform).max() <= 1


def test_the_same_numbers_make_the_same_clip_and_others_another() -> None:
    config = SyntheticConfig(seed=4)
    clip, again = (synthetic_clip(config, 2, 1, seconds=2.0) for _ in range(2))
    assert np.array_equal(clip.landmarks, again.landmarks)
    assert np.array_equal(clip.waveform, again.waveform)
    for other in (
        synthetic_clip(config, 3, 1, seconds=2.0),
        synthetic_clip(config, 2, 2, seconds=2.0),
        synthetic_clip(SyntheticConfig(seed=5), 2, 1, seconds=2.0),
    ):
        assert not np.allclose(clip.waveform, other.waveform, atol=1e-3)
        assert not np.allclose(clip.landmarks, other.landmarks, atol=1.0)


def test_global_random_state_is_neither_read_nor_moved() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    synthetic_clip(seconds=1.0)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_knobs_leave_the_sound_alone() -> None:
    clip = synthetic_clip(seconds=2.0)
    other = synthetic_clip(SyntheticConfig(lips=0.0, brows=0.5, posture=0.0, lips_lag=0.1, drift=0.0, jitter=0.0), seconds=2.0)
    assert np.array_equal(clip.waveform, other.waveform)
    noisy = synthetic_clip(SyntheticConfig(snr_db=None), seconds=2.0)
    assert np.array_equal(clip.landmarks, noisy.landmarks)
    assert not np.array_equal(clip.waveform, noisy.waveform)


@pytest.mark.parametrize("knob", BANDS)
def test_a_knob_at_one_links_its_band_and_at_zero_cuts_it(knob: str) -> None:
    linked = np.abs(coupling(SyntheticConfig(), knob)).max()
    cut = np.abs(coupling(SyntheticConfig(**{knob: 0.0}), knob)).max()
    assert linked > 0.25
    assert cut < 0.12
    assert linked > 3 * cut


@pytest.mark.parametrize("knob", BANDS)
def test_a_knob_rules_its_band_and_no_other(knob: str) -> None:
    full, without = (synthetic_clip(SyntheticConfig(**QUIET, **change), seconds=20.0) for change in ({}, {knob: 0.0}))
    for other in BANDS:
        same = np.corrcoef(band(motion(full, other), other), band(motion(without, other), other))[0, 1]
        if other == knob:
            assert abs(same) < 0.4
        else:
            assert same > 0.98


@pytest.mark.parametrize("knob", BANDS)
def test_a_cut_band_moves_as_much_as_before(knob: str) -> None:
    corpora = [
        SyntheticCorpus(
            SyntheticConfig(**QUIET, **change), split="train", speakers=8, clips_per_speaker=1, seconds=20.0, cache=False
        )
        for change in ({}, {knob: 0.0})
    ]
    full, without = (np.sqrt(np.mean([np.var(band(motion(clip, knob), knob)) for clip in corpus])) for corpus in corpora)
    assert 0.7 < without / full < 1.4


@pytest.mark.parametrize("knob", BANDS)
@pytest.mark.parametrize("lag", [-0.2, 0.12])
def test_a_positive_lag_makes_the_motion_late(knob: str, lag: float) -> None:
    on_time, late = (synthetic_clip(SyntheticConfig(**QUIET, **change), seconds=12.0) for change in ({}, {f"{knob}_lag": lag}))
    shift = round(lag * 25)
    first, second = band(motion(on_time, knob), knob), band(motion(late, knob), knob)
    lags = range(-8, 9)
    scores = [np.dot(first, np.roll(second, -step)) for step in lags]
    assert lags[int(np.argmax(scores))] == shift


def test_sound_and_lips_are_simultaneous() -> None:
    scores = coupling(SyntheticConfig(), "lips", range(-3, 4))
    assert np.argmax(scores) == 3


def test_no_speaker_is_in_both_splits() -> None:
    train, val, both = (
        SyntheticCorpus(split=split, speakers=4, clips_per_speaker=2, seconds=1.0) for split in ("train", "val", None)
    )
    assert not set(train.speakers) & set(val.speakers)
    assert len(both) == len(train) + len(val) == 16
    assert [entry["id"] for entry in both.entries] == [entry["id"] for entry in (*train.entries, *val.entries)]
    assert {clip.split for clip in val} == {"val"}
    assert {clip.speaker for clip in train} == set(train.speakers)


def test_a_corpus_is_a_sequence_that_remembers() -> None:
    corpus = SyntheticCorpus(split="val", speakers=2, clips_per_speaker=2, seconds=1.0)
    assert corpus[-1] is corpus[3]
    assert [clip.id for clip in corpus[1:3]] == ["syn100000_001", "syn100001_000"]
    with pytest.raises(IndexError):
        corpus[4]
    forgetful = SyntheticCorpus(split="val", speakers=2, clips_per_speaker=2, seconds=1.0, cache=False)
    assert forgetful[0] is not forgetful[0]
    assert np.array_equal(forgetful[0].landmarks, corpus[0].landmarks)
    assert all(
        entry["id"] == clip.id and entry["frames"] == clip.frames for entry, clip in zip(corpus.entries, corpus, strict=True)
    )


def test_one_speaker_has_one_face() -> None:
    def proportions(speaker: int, clip: int) -> Floats:
        face = synthetic_clip(SyntheticConfig(lips=1.0, **QUIET), speaker, clip, seconds=8.0).landmarks.mean(axis=0)
        widths = [np.linalg.norm(face[a] - face[b]) for a, b in ((36, 45), (0, 16), (27, 33), (31, 35), (17, 26))]
        return np.array(widths) / widths[1]

    same = np.abs(proportions(1, 0) - proportions(1, 1)).max()
    others = [np.abs(proportions(1, 0) - proportions(other, 0)).max() for other in range(2, 6)]
    assert same < min(others)


@pytest.mark.parametrize(
    "fields",
    [{"lips": 1.5}, {"brows": -0.1}, {"posture_lag": 3.0}, {"jitter": -1.0}, {"drift": float("nan")}, {"posture": None}],
)
def test_impossible_configurations_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        SyntheticConfig(**fields)


def test_bad_arguments_are_refused() -> None:
    for arguments in ({"speaker": -1}, {"clip": -1}, {"seconds": 0.0}):
        with pytest.raises(ArgumentError, match=next(iter(arguments))):
            synthetic_clip(**arguments)
    for arguments in ({"split": "test"}, {"speakers": 0}, {"clips_per_speaker": 0}, {"speakers": 200_000}, {"seconds": 0.0}):
        with pytest.raises(ArgumentError, match=next(iter(arguments))):
            SyntheticCorpus(**arguments)


def test_a_configuration_survives_json() -> None:
    config = SyntheticConfig(lips=0.5, snr_db=None)
    assert config_from_dict(SyntheticConfig, json.loads(json.dumps(config_to_dict(config)))) == config


LAYOUTS = [*lm.LAYOUTS.values(), lm.mesh_layout(30, to_68=[[0, 1, 2]] * 34 + [[3, 4]] * 34), lm.flame_layout(expressions=0)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_motion_of_a_layout(layout: lm.Layout) -> None:
    plain, clip = synthetic_clip(seconds=3.0), synthetic_clip(seconds=3.0, layout=layout)
    check_clip(clip)
    assert clip.landmarks.shape == (75, layout.points, layout.dims[0]) and clip.landmarks.dtype == np.float32
    assert np.array_equal(clip.waveform, plain.waveform)
    again = synthetic_clip(seconds=3.0, layout=layout)
    assert np.array_equal(again.landmarks, clip.landmarks)
    size = np.array(layout.size) if layout.is_coefficients else np.ptp(plain.landmarks[0, :, 1])
    moved = clip.landmarks.std(axis=0).max(axis=-1) / size
    assert 0.003 < np.median(moved) < 0.2
    assert np.abs(clip.landmarks).max() < 1000


@pytest.mark.parametrize("name", ["mediapipe478", "coco_wholebody133", "landmarks68"])
def test_layouts_that_map_to_68_points_show_the_same_face(name: str) -> None:
    quiet = SyntheticConfig(**QUIET)
    own = synthetic_clip(quiet, seconds=2.0, layout=name, dims=3)
    mapped = lm.to_landmarks68(torch.from_numpy(own.landmarks), name, dims=2)
    np.testing.assert_allclose(mapped, synthetic_clip(quiet, seconds=2.0).landmarks, atol=0.01)


def test_regions_of_a_layout_move_as_theirs() -> None:
    """Lips that do not follow the audio change the mouth alone; a head that does not, the head as well."""
    free = [
        synthetic_clip(SyntheticConfig(**QUIET, **change), seconds=8.0, layout="flame56").landmarks
        for change in ({}, {"lips": 0.0}, {"posture": 0.0})
    ]
    layout = lm.find_layout("flame56")
    mouth, head = list(layout.mouth), list(layout.head)
    lips, posture = (np.abs(other - free[0]).mean(axis=(0, 2)) for other in free[1:])
    assert (lips[mouth] > 0.01).all() and (posture[head] > 0.01).all()
    assert (lips[head] < posture[head] / 3).all()


def test_dims_and_layouts_that_do_not_exist() -> None:
    assert synthetic_clip(seconds=1.0, dims=3).landmarks.shape == (25, 68, 3)
    assert SyntheticCorpus(layout="mediapipe478", dims=2, seconds=1.0)[0].landmarks.shape == (25, 478, 2)
    for function in (SyntheticCorpus, synthetic_clip):
        with pytest.raises(ArgumentError, match=r"`dims`: expected 1 for the layout 'arkit52', got 2"):
            function(layout="arkit52", dims=2)
        with pytest.raises(ArgumentError, match="a Layout or one of 'landmarks68'"):
            function(layout="arkit53")
