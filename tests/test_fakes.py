"""examples/guidance/fakes.py: what is spoiled, what is trained, and that it prefers real motion."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from avsync import SyncerPyramid
from avsync.corpus import ClipBank, SyntheticCorpus

EXAMPLE = Path(__file__).parent.parent / "examples" / "guidance"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example, with small batches."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    module = importlib.import_module("fakes")
    for name, value in (("FRAMES", 80), ("BATCH", 2), ("FAKES_OF_DESCENT", 4), ("DESCENT_STEPS", 3)):
        monkeypatch.setattr(module, name, value)
    yield module
    for name in ("fakes", "speak"):
        sys.modules.pop(name, None)


def test_every_kind_of_fake_differs_from_the_motion(fakes: ModuleType) -> None:
    bank = ClipBank(SyntheticCorpus(split="train", speakers=2, clips_per_speaker=1, seconds=4.0), features=torch_features())
    real = bank.windows(40, stride=40).landmarks[:1].repeat(60, 1, 1, 1)
    made = fakes.spoiled(real, torch.Generator().manual_seed(0))
    middle = real.mean(dim=1, keepdim=True)
    gains = (made - middle).flatten(1).norm(dim=1) / (real - middle).flatten(1).norm(dim=1)
    trembles = made.diff(n=2, dim=1).flatten(1).norm(dim=1) / real.diff(n=2, dim=1).flatten(1).norm(dim=1)
    exaggerated = torch.isclose(gains, trembles, rtol=1e-3)  # in proportion
    assert made.shape == real.shape and 8 <= int(exaggerated.sum()) <= 32
    assert bool((gains[exaggerated] > 1.29).all()) and bool((gains[exaggerated] < 2.21).all())
    assert bool((trembles[~exaggerated] > 1).all())


def test_a_run_changes_the_motion_encoders_alone(fakes: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fakes.main(["--rounds", "0", "--out", str(tmp_path)])
    assert "expected at least 1, got 0 and 150" in capsys.readouterr().err and not list(tmp_path.iterdir())
    fakes.main(["--rounds", "2", "--steps", "2", "--out", str(tmp_path)])
    before = SyncerPyramid.from_pretrained(fakes.GUIDE).state_dict()
    after = SyncerPyramid.from_pretrained(tmp_path).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all(".motion_encoder." in name for name in changed)
    assert "round 1" in capsys.readouterr().out


def test_training_sets_real_motion_above_its_fakes(fakes: ModuleType) -> None:
    torch.manual_seed(0)
    pyramid = SyncerPyramid.from_pretrained(fakes.GUIDE)
    bank = ClipBank(SyntheticCorpus(split="train", speakers=4, clips_per_speaker=1, seconds=6.0), features=torch_features())
    crops = bank.windows(80, stride=40)
    spoiled = fakes.spoiled(crops.landmarks, torch.Generator().manual_seed(1))

    @torch.no_grad()
    def loss() -> float:
        return float(fakes.sync_and_fakes(pyramid, crops.landmarks, [spoiled], crops.audio))

    before = loss()
    fakes.train(pyramid, bank, [], steps=12, generator=torch.Generator().manual_seed(0))
    assert loss() < 0.8 * before


def torch_features() -> torch.nn.Module:
    features = SyncerPyramid.from_pretrained("landmarks68-25fps").speech_features()
    assert features is not None
    return features.features
