"""examples/pretrained_models/pretrain.py at a size that takes seconds, and the lags of training clips that it mends."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avsync import SyncerEnsemble, SyncerPyramid, SyncerPyramidConfig, save_pretrained
from avsync.corpus.clip import Clip, write_clip, write_index
from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.errors import ConfigError
from avsync.models.syncer.pyramid import SyncerConfig

EXAMPLE = Path(__file__).parent.parent / "examples" / "pretrained_models"
OWN = ("pretrain", "realign", "curves", "cards", "join")


@pytest.fixture(autouse=True)
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield
    for name in OWN:
        sys.modules.pop(name, None)


@pytest.fixture
def pretrain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, its default so small that it is trained in a moment."""
    import pretrain

    default = pretrain.VARIANTS["landmarks68-25fps"]
    tiny = dataclasses.replace(default, steps=2, batch_size=2, fine_frames=20, width=(12, 8, 8, 8))
    monkeypatch.setitem(pretrain.VARIANTS, "landmarks68-25fps", tiny)
    monkeypatch.setattr(pretrain, "HALF_STEPS", 2)
    monkeypatch.setattr(pretrain, "WARM_START", dataclasses.replace(pretrain.WARM_START, runs=1, steps=1))
    return pretrain


class Shifted(SyncerPyramid):
    """Somebody who knows the lag of every clip: the first coordinate of its landmarks says it."""

    def __init__(self) -> None:
        super().__init__(config=SyncerPyramidConfig(syncer=SyncerConfig(width=4, embed=4), num_levels=1, audio="log-mel"))

    def embed_motion(self, landmarks: Tensor, **_: Any) -> list[Tensor]:
        self.lag = int(landmarks[0, 0, 0, 0])
        return [self.signal(landmarks.shape[1] - 4, 0)]

    def embed_audio(self, audio: Tensor, **_: Any) -> list[Tensor]:
        return [self.signal(audio.shape[1] // 4 - 4, self.lag)]

    @staticmethod
    def signal(windows: int, early: int) -> Tensor:
        told = torch.randn(windows + 20, 16, generator=torch.Generator().manual_seed(0))
        return told[None, 10 + early : 10 + early + windows]


def test_lags_are_those_that_others_hear() -> None:
    import realign

    rng = np.random.default_rng(0)
    clips = [
        Clip(
            f"c{i}",
            f"s{i % 4}",
            "train",
            np.full((120 if i else 60, 68, 2), i % 3 - 1, np.float32),
            rng.normal(0, 0.1, (120 if i else 60) * 640).astype(np.float32),
        )
        for i in range(8)
    ]
    trained: dict[str, set[str]] = {}

    def train(stage: str, some: list[Clip]) -> SyncerPyramid:
        trained[stage] = {clip.speaker for clip in some}
        return Shifted()

    lags = realign.find_lags(clips, train)
    assert [len(trained[stage]) for stage in ("half0", "half1")] == [2, 2] and trained["half0"].isdisjoint(trained["half1"])
    assert set(lags) == {clip.id for clip in clips[1:]}, "a clip of 60 frames is too short to be sure"
    for i in range(1, 8):
        assert lags[f"c{i}"] == pytest.approx(i % 3 - 1, abs=0.3)


@pytest.mark.parametrize("lag", [1.0, -0.5, 0.0])
def test_early_sound_is_delayed(lag: float) -> None:
    import realign

    wave = np.arange(1, 6401, dtype=np.float32) / 6401
    clip = Clip("a", "anna", "train", np.zeros((10, 68, 2), np.float32), wave)
    moved = realign.with_sound_moved(clip, lag).waveform
    shift = round(640 * lag)
    expected = {i: wave[i - shift] if 0 <= i - shift < wave.size else 0.0 for i in (0, 300, 640, 3000, 6399)}
    assert moved.shape == wave.shape and {i: moved[i] for i in expected} == expected


def write_corpus(folder: Path) -> list[Clip]:
    """Four speakers, the last of them in the validation split."""
    splits = ["train", "train", "train", "val"]
    clips = list(SyntheticCorpus(speakers=4, clips_per_speaker=1, seconds=8.0))[:4]
    clips = [dataclasses.replace(clip, split=split) for clip, split in zip(clips, splits, strict=True)]
    write_index(folder, [write_clip(clip, folder) for clip in clips])
    return clips


@pytest.mark.slow
def test_a_variant_from_corpus_to_card(
    pretrain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    clips = write_corpus(corpus)
    command = ["pretrain.py", "--corpus", str(corpus), "--variants", "landmarks68-25fps", "--out", str(tmp_path / "out")]
    command += ["--work", str(tmp_path / "work"), "--accelerator", "cpu", "--no-progress"]
    monkeypatch.setattr(sys, "argv", command)
    pretrain.main()
    work, out = tmp_path / "work" / "landmarks68-25fps", tmp_path / "out" / "landmarks68-25fps"
    assert set(json.loads((tmp_path / "work" / "lags" / "lags.json").read_text())) == {clip.id for clip in clips[:3]}
    shipped = SyncerPyramid.from_pretrained(out)
    assert shipped.config.width == (12, 8, 8, 8) and shipped.config.audio_context == (4, 0, 0, 0)
    numbers = json.loads((work / "numbers.json").read_text())
    assert [row["frames"] for row in numbers["short"]] == [5, 9, 15, 25, 50, 80]
    assert set(numbers["short"][0]) == {"frames", "all", "speech", "windows"}
    assert numbers["short"][0]["speech"] == numbers["short"][0]["windows"], "a clip of 5 frames is one window"
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "12 / 8 / 8 / 8 channels (level by level)" in card and "| 80 |" in card

    before = (work / "model" / "model.safetensors").read_bytes()
    # As if killed while the lags were sought: the trainings of the halves are read again.
    (tmp_path / "work" / "lags" / "lags.json").unlink()
    monkeypatch.setattr(sys, "argv", [*command, "--resume"])
    pretrain.main()
    assert (work / "model" / "model.safetensors").read_bytes() == before, "what is there is not trained again"
    assert capsys.readouterr().out.count("the audio of 3 clips moved") == 2


def test_every_variant_is_trained_with_the_objective_that_it_names() -> None:
    import pretrain

    trained = {name: variant.training().objective for name, variant in pretrain.VARIANTS.items()}
    assert trained == {name: "contrastive" if name.endswith("-judge") else "all_pairs" for name in pretrain.VARIANTS}
    with pytest.raises(ConfigError, match="objective"):
        dataclasses.replace(pretrain.VARIANTS["landmarks68-25fps"], objective="margin").training()


def test_an_ensemble_from_its_members_to_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import join
    import pretrain

    members = {}
    for name, weight in (("landmarks68-25fps", 1.0), ("landmarks68-25fps-mouth", 0.5)):
        tiny = dataclasses.replace(pretrain.VARIANTS[name], width=(8,)).pyramid()
        save_pretrained(SyncerPyramid(config=tiny), tmp_path / name)
        members[str(tmp_path / name)] = weight
    monkeypatch.setattr(join, "ENSEMBLES", {"both": join.Together("For a test.", members)})
    write_corpus(tmp_path / "corpus")
    monkeypatch.setattr(sys, "argv", ["join.py", "--corpus", str(tmp_path / "corpus"), "--out", str(tmp_path / "out")])
    join.main()
    both = SyncerEnsemble.from_pretrained(tmp_path / "out" / "both")
    assert both.config.weights == (1.0, 0.5) and [member.region for member in both.config.members] == ["face", "mouth"]
    card = (tmp_path / "out" / "both" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# both\n\nFor a test.") and "landmarks68-25fps-mouth` | 0.5 |" in card and "| 80 |" in card
