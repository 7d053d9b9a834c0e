"""Scripts of examples/pretrained_models that train from pretrained weights or measure, at a size that takes seconds."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from avsync import SyncerPyramid
from avsync.audio.features import SpeechFeatures
from avsync.corpus.banks.bank import ClipBank
from avsync.corpus.clip import Clip, write_clip, write_index
from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.training.syncers import lip_leak

EXAMPLE = Path(__file__).parent.parent / "examples" / "pretrained_models"


@pytest.fixture(autouse=True)
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(EXAMPLE)):
            del sys.modules[name]


def talkers(split: str, seconds: float) -> list[Clip]:
    corpus = SyntheticCorpus(split=split, speakers=4, clips_per_speaker=1, seconds=seconds)
    labels = ("spk001", "spk009", "spk180", "spk175")  # of both halves and both collections
    return [dataclasses.replace(corpus[i], speaker=label) for i, label in enumerate(labels)]


def test_impaired_clips_are_impaired_as_they_say() -> None:
    import conditions

    clips = talkers("val", 8.0)
    banks = conditions.impaired(clips, SpeechFeatures().features)
    clean = banks["clean"]
    assert list(banks) == ["clean", "noise 10 dB", "babble 10 dB", "smoothed 5", "held 3"]
    noisy = conditions.mixed(clips[0], np.random.default_rng(0).normal(size=clips[0].waveform.size), 10.0)
    speech = clips[0].waveform - clips[0].waveform.mean()
    assert abs(10 * np.log10(np.square(speech).mean() / np.square(noisy - speech).mean()) - 10.0) < 0.01
    for name, bank in list(banks.items())[1:]:
        heard, seen = not torch.equal(bank.audio, clean.audio), not torch.equal(bank.landmarks, clean.landmarks)
        assert (heard, seen) == (("dB" in name), ("dB" not in name)), name
    steps = banks["held 3"].landmarks.diff(dim=0).abs().amax(dim=(1, 2))
    assert float((steps == 0).float().mean()) > 0.6
    numbers = conditions.found(SyncerPyramid.from_pretrained("landmarks68-25fps").eval(), clean, 80, stride=20)
    assert set(numbers) == {"A", "B", "B studio", "B phone"}
    assert numbers["A"]["clips"] == 2 * numbers["B studio"]["clips"]
    assert numbers["A"]["percent"][0] > 70.0, "the synthetic talker's offsets are found"


def test_the_robust_model_goes_on_from_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import robust

    write_index(tmp_path, [write_clip(dataclasses.replace(clip, split="train"), tmp_path) for clip in talkers("train", 8.0)])
    stages = (robust.Stage((0, 1), 1, 1e-5, 0), robust.Stage((2, 3), 1, 1e-5, 0))
    monkeypatch.setattr(robust, "STAGES", stages)
    monkeypatch.setattr(robust, "FINE_FRAMES", 12)
    small = dataclasses.replace(robust.VARIANTS[robust.START], batch_size=2)
    monkeypatch.setitem(robust.VARIANTS, robust.START, small)
    trained = robust.train(tmp_path, tmp_path / "work", precision="32-true").state_dict()
    start = SyncerPyramid.from_pretrained(robust.START).state_dict()
    for level in range(4):
        key = f"syncers.{level}.motion_encoder.encoder.head.weight"
        change = float((trained[key] - start[key]).abs().max())
        assert 0 < change < 1e-3, level


def test_a_head_model_loses_the_lips_and_is_measured() -> None:
    import head_accuracy
    import heads

    bank = ClipBank(talkers("train", 12.0), features=SpeechFeatures().features)
    start = SyncerPyramid.from_pretrained(heads.START)
    head = heads.without_lips(start, bank)
    torch.testing.assert_close(head.lip_leak, lip_leak(bank))
    weights = head.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in start.state_dict().items())
    versions = head_accuracy.versions(bank, lip_leak(bank))
    still = [point for point in range(68) if point not in head_accuracy.REGIONS["head"]]
    for name in ("without the leak", "the leak alone"):
        assert torch.equal(versions[name].landmarks[:, still], bank.landmarks[:, still])
        assert not torch.equal(versions[name].landmarks, bank.landmarks)
    numbers = head_accuracy.measured(head, bank)["levels 0 to 3, 152 frames"]
    assert numbers["A"]["clips"] > 0 and len(numbers["A"]["within_one"]) == len(numbers["A"]["above_stranger"]) == 4


def test_regions_are_trained_joined_and_measured(tmp_path: Path) -> None:
    """Two steps change the weights, a run goes on from its checkpoint, and every region is measured alone and together."""
    import region_accuracy
    import regions

    bank = ClipBank(talkers("train", 16.0), features=SpeechFeatures(kind="log-mel-prosody").features)
    small = {"width": 8, "steps": 2, "batch_size": 2, "fine_frames": 80}
    recipes = {name: dataclasses.replace(recipe, **small) for name, recipe in regions.RECIPES.items()}
    pyramids = {"mouth": SyncerPyramid.from_pretrained("landmarks68-25fps-mouth")}
    for name, recipe in recipes.items():
        torch.manual_seed(recipe.seed)
        start = SyncerPyramid(recipe.pyramid())
        pyramids[name] = regions.train_region(recipe, bank, tmp_path / name)
        key = "syncers.2.motion_encoder.encoder.head.weight"
        assert not torch.equal(pyramids[name].state_dict()[key], start.state_dict()[key])
        assert not pyramids[name].training and pyramids[name].config.remove_lips
    joined = regions.join(pyramids)
    assert joined.regions == tuple(regions.LEVELS) and joined.num_levels == 5 and joined.shortest_clip() == 65
    assert joined.region_weights == tuple(regions.WEIGHTS.values())
    found = region_accuracy.measured(joined, ClipBank(talkers("val", 20.0), features=bank.features), stride=40)
    assert {name: len(rows["B"]["within_one"]) for name, rows in found.items()} == {"levels 0 to 3, 152 frames": 4} | {
        name: 1 for name in found if "320" in name
    }
    region_accuracy.draw({"mouth": found}, tmp_path / "regions.png")
    assert (tmp_path / "regions.png").stat().st_size > 1000


def test_the_pose_is_trained_against_each_kind_of_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run per kind and seed on clips of both splits; all of them are measured at the levels of the pose and below."""
    import json

    import pose_audio

    train = SyntheticCorpus(split="train", speakers=2, clips_per_speaker=1, seconds=16.0)
    clips = [dataclasses.replace(clip, split="train") for clip in train]
    clips += [dataclasses.replace(clip, split="val") for clip in talkers("val", 20.0)]
    write_index(tmp_path, [write_clip(clip, tmp_path) for clip in clips])
    small = dataclasses.replace(pose_audio.RECIPES["pose"], width=8, batch_size=2, fine_frames=80)
    monkeypatch.setitem(pose_audio.RECIPES, "pose", small)
    monkeypatch.setattr(pose_audio, "measured", functools.partial(pose_audio.measured, stride=60))
    out = tmp_path / "numbers.json"
    kinds = ["prosody", "log-mel"]
    options = ["--corpus", str(tmp_path), "--seeds", "3", "--steps", "1", "--work", str(tmp_path / "work"), "--out", str(out)]
    pose_audio.main([*options, "--kinds", *kinds])
    numbers = json.loads(out.read_text())
    assert list(numbers) == ["prosody, seed 3", "log-mel, seed 3"]
    for found in numbers.values():
        for half in "AB":
            assert len(pose_audio.values(found, half, "within_one")) == 5
    assert numbers["prosody, seed 3"] != numbers["log-mel, seed 3"]


def test_loss_of_a_region_is_lowest_in_sync(rng: torch.Generator) -> None:
    import regions

    audio = torch.randn(4, 110, 8, generator=rng)
    scales = torch.full((4,), 3.0)
    losses = [float(regions.level_loss(audio.roll(shift, 1), audio, 0, scales)) for shift in (0, 1, 4)]
    assert losses[0] <= losses[1] < losses[2]
    strangers = float(regions.level_loss(audio.roll(1, 0), audio, 0, scales))
    assert strangers > losses[0] + 3


def test_curve_by_clip_length() -> None:
    """Longer clips are found more often; the mask of the published protocol leaves out offsets without audio."""
    import length_curve

    bank = ClipBank(talkers("val", 8.0), features=SpeechFeatures().features)
    table = length_curve.measure(SyncerPyramid.from_pretrained("landmarks68-25fps"), bank)
    for protocol in ("published", "around"):
        shares = table[protocol]["B"]
        assert len(shares) == len(length_curve.LENGTHS) and shares[-1] > shares[0] > 10
    motion = torch.nn.functional.normalize(torch.randn(1, 46, 4), dim=-1)
    distances, exists = length_curve.distances_at_offsets(motion, motion)
    assert int(distances[0, 20].argmin()) == 15 and exists[0, 0].tolist() == [0.0] * 15 + [1.0] * 16


def test_robustness_falls_with_the_strength_of_noise(tmp_path: Path) -> None:
    """Every condition is measured by the command, which draws the curves; strong noise costs more than weak noise."""
    import robustness

    clips = list(talkers("val", 8.0))
    bank = ClipBank(clips, features=SpeechFeatures().features)
    clean = robustness.crops_of(bank)
    noisy = {
        f"white noise {strength}": robustness.crops_of(
            ClipBank(robustness.noisy(clips, "white noise", strength), features=bank.features)
        ).audio[: len(clean)]
        for strength in (20, -30)
    }
    table = robustness.measure("landmarks68-25fps", clean, noisy, {})
    assert len(table["clean"]) == 4 and table["clean"][0] > 90
    assert table["white noise -30"][0] < table["white noise 20"][0]
    faces = clean.landmarks[:1]
    moved = {kind: robustness.impair(kind, values[-1])(faces) for kind, (_, values) in robustness.MOTION_CURVES.items()}
    assert all(motion.shape == faces.shape for motion in moved.values())
    turned = moved["rotation"]
    torch.testing.assert_close(turned.diff(dim=2).norm(dim=-1), faces.diff(dim=2).norm(dim=-1), rtol=1e-4, atol=1e-4)
    held = moved["held frames"].diff(dim=1).abs().amax(dim=(0, 2, 3))
    assert int((held > 0).sum()) <= faces.shape[1] // 5
    curves = {**robustness.AUDIO_CURVES, **robustness.MOTION_CURVES}
    names = ["clean", *(f"{kind} {strength:g}" for kind, (_, strengths) in curves.items() for strength in strengths)]
    robustness.draw({"landmarks68-25fps": {name: [100.0, 99.0, 98.0, 90.0] for name in names}}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
