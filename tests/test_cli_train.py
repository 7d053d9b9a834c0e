"""From a corpus to a loss by two commands: ``avsync train``, ``avsync calibrate``, and what uses the result."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("lightning_fabric")

from avsync import MultiScaleSyncLoss, SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.audio import MFCC, LogMel
from avsync.cli import main
from avsync.corpus import ClipBank, Corpus, SyntheticCorpus, write_corpus
from avsync.errors import ArgumentError, ClipTooShortError, ConfigError
from avsync.metrics import load_calibration
from avsync.pretrained import save_pretrained
from avsync.training import SyncerTrainingConfig, make_fabric, syncer_recipe, train_syncers

OPTIONS = ("--levels", "1", "--steps", "20", "--batch-size", "8", "--width", "16", "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "corpus"
    write_corpus(SyntheticCorpus(speakers=4, clips_per_speaker=1, seconds=7.0), folder)
    return folder


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mine"
    assert main(["train", str(corpus), "--out", str(out), *OPTIONS]) == 0
    return out


def test_own_clips_to_own_loss(corpus: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train, save, load, calibrate, use: the loss and the commands accept waveforms, and tell true pairs from others."""
    assert main(["calibrate", str(trained), str(corpus), "--frames", "40", "--quiet"]) == 0
    assert "0.2 s" in capsys.readouterr().out
    loss = MultiScaleSyncLoss.from_pretrained(trained)
    clips = Corpus(corpus, split="val")
    landmarks = torch.stack([torch.from_numpy(clip.landmarks) for clip in clips]).requires_grad_()
    waveform = torch.stack([torch.from_numpy(clip.waveform) for clip in clips])
    own, other = loss(landmarks, waveform).total, loss(landmarks, waveform.roll(1, 0)).total
    own.backward()
    assert own < other - 0.01 and bool(landmarks.grad.abs().sum() > 0)  # type: ignore[union-attr]
    syncers = SyncerPyramid.from_pretrained(trained)
    torch.testing.assert_close(MultiScaleSyncLoss(syncers=syncers)(landmarks, waveform).total, own)
    assert len(load_calibration(trained / "calibration.json", syncers=syncers).levels) == 1
    assert main(["inspect", str(corpus), "--syncers", str(trained), "--quiet"]) == 0


def test_record_and_logs(corpus: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((trained / "training.json").read_text())
    assert record["speakers"] == 4 and record["settings"]["steps"] == 20
    (level,) = record["accuracy"]
    assert level["within_one"] > 0.5 and level["crops"] > 0  # chance: 3 of 31 offsets
    assert main(["doctor", "--log", str(trained / "logs" / "fine")]) in (0, 1)
    assert main(["train", str(corpus), "--out", str(trained), *OPTIONS, "--resume"]) == 0  # finished: prints the table again
    assert "of unseen speakers" in capsys.readouterr().out
    assert main(["train", "elsewhere", "--out", str(trained), *OPTIONS, "--resume"]) == 1  # the run is not one of that corpus
    assert "`--resume`: expected the corpus of the finished run" in capsys.readouterr().err


def test_a_run_that_was_stopped_is_resumed(
    corpus: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights are those of the run that was not stopped; other settings and other corpora are refused."""
    step, out = ClipBank.sample, str(tmp_path / "run")

    def stops(self: ClipBank, *args: object, **options: object) -> object:
        stops.calls += 1  # type: ignore[attr-defined]
        if stops.calls == 5:  # type: ignore[attr-defined]
            signal.raise_signal(signal.SIGINT)
        return step(self, *args, **options)  # type: ignore[arg-type]

    stops.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(ClipBank, "sample", stops)
    words = ["train", str(corpus), "--out", out, *OPTIONS]
    assert main(words) == 130 and stops.calls == 5  # type: ignore[attr-defined]
    assert not (tmp_path / "run" / "model.safetensors").exists()
    monkeypatch.undo()
    assert main(words) == 1  # without --resume nothing is replaced
    assert main([*words, "--resume", "--seed", "1"]) == 1
    write_corpus([clip for clip in Corpus(corpus) if clip.speaker != Corpus(corpus)[0].speaker], tmp_path / "other")
    assert main(["train", str(tmp_path / "other"), "--out", out, *OPTIONS, "--resume"]) == 1
    assert "`--resume`: expected the corpus of the run in" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    for mine, other in zip(_weights(out), _weights(trained), strict=True):
        assert torch.equal(mine, other)


def _weights(folder: str | Path) -> list[torch.Tensor]:
    return list(SyncerPyramid.from_pretrained(folder).state_dict().values())


@pytest.mark.parametrize("words", [("--steps", "0"), ("--levels", "9"), ("--device", "nothing"), ("--split", "none")])
def test_one_line_for_what_cannot_be(
    corpus: Path, tmp_path: Path, words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(corpus), "--out", str(tmp_path / "x"), *OPTIONS, *words]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_that_cannot_begin_leaves_its_folder_free(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    for _ in range(2):
        assert main(["train", str(corpus), "--out", str(out), *OPTIONS, "--layout", "mediapipe478"]) == 1
        assert "478" in capsys.readouterr().err
    assert not list(out.rglob("*.json"))


def test_calibrate_needs_a_place_and_known_features(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "landmarks68-25fps", str(corpus)]) == 1
    assert "--out" in capsys.readouterr().err
    pyramid = SyncerPyramid(SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4), audio="custom", num_levels=1))
    save_pretrained(pyramid, tmp_path)
    assert main(["calibrate", str(tmp_path), str(corpus)]) == 1
    assert "custom features" in capsys.readouterr().err


def test_features_of_bank_and_config_must_agree() -> None:
    """Syncers that learned from MFCCs would otherwise compute log-mel energies from waveforms, and nobody would notice."""
    bank = ClipBank(SyntheticCorpus(speakers=2, clips_per_speaker=1, seconds=2.0), features=MFCC())
    pyramid = SyncerPyramid(SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4), num_levels=1))
    assert pyramid.speech_features() is not None
    fabric = make_fabric(accelerator="cpu")
    with pytest.raises(ArgumentError, match="`bank`: expected the features 'log-mel'"):
        train_syncers(pyramid, bank, SyncerTrainingConfig(steps=1, frames=40), fabric=fabric, progress=False)
    with pytest.raises(ConfigError, match="`audio`: expected 'custom' for 13 features"):
        SyncerPyramidConfig(syncer=SyncerConfig(audio_features=13))


def test_recipe_fits_the_corpus() -> None:
    clips = list(SyntheticCorpus(speakers=2, clips_per_speaker=1, seconds=1.0))
    bank = ClipBank(clips, features=LogMel())
    assert syncer_recipe(bank, num_levels=2).training.frames == 25
    with pytest.raises(ClipTooShortError, match="`num_levels`: expected fewer than 4 levels for clips of 25 frames"):
        syncer_recipe(bank)
    for clip in clips:
        depth = np.zeros((*clip.landmarks.shape[:2], 1), np.float32)
        object.__setattr__(clip, "landmarks", np.concatenate([clip.landmarks[:, :, :2], depth], axis=2)[:, :30])
    bank = ClipBank(clips, features=LogMel())
    recipe = syncer_recipe(bank, num_levels=2)
    bank.sample(2, recipe.training.frames, augment=recipe.augment)
    assert recipe.pyramid.syncer.points == 30 and recipe.pyramid.landmark_dims == 3
    SyncerPyramid(recipe.pyramid)
    for clip in clips:
        object.__setattr__(clip, "landmarks", np.random.default_rng(0).random((clip.frames, 52, 1), dtype=np.float32))
    bank = ClipBank(clips, features=LogMel())
    recipe = syncer_recipe(bank, num_levels=2, layout="arkit52")
    bank.sample(2, recipe.training.frames, augment=recipe.augment)
