"""Number of files of avsync that a reader must open to follow a call: all files with a function that the call executes.

Each file counts once, `_checks.py` included. `errors.py` holds only classes and is never executed. Files are counted once their modules
are imported, so that the import of a lazy name is not part of the call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch

import avsync
import avsync.evaluation.syncnet
import avsync.losses
import avsync.models
from avsync import (
    FrameDiscriminator,
    GeneratorConfig,
    MultiScaleGenerator,
    MultiScaleSyncLoss,
    PairDiscriminator,
    SpeechFeatures,
    SyncerConfig,
    SyncerPyramid,
    SyncerPyramidConfig,
    WindowDiscriminator,
    WindowDiscriminatorConfig,
    from_pretrained,
)
from avsync.corpus import ClipBank, SyntheticCorpus
from avsync.training import Discriminators, GanTrainingConfig
from avsync.training.gan import GanSteps

PACKAGE = Path(avsync.__file__).parent


def files_executed(call: Callable[[], object]) -> set[str]:
    """Return the files of avsync, relative to the package, whose functions a call executes."""
    found = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            found.add(Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix())

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return found


@pytest.fixture(scope="module")
def loss() -> MultiScaleSyncLoss:
    return MultiScaleSyncLoss.from_pretrained("landmarks68-25fps")


@pytest.mark.parametrize(
    ("audio", "most"), [(torch.zeros(1, 160, 26), 8), (torch.zeros(1, 40 * 640), 9)], ids=["features", "waveform"]
)
@pytest.mark.parametrize("lengths", [None, torch.tensor([36])], ids=["whole", "padded"])
def test_sync_loss_from_call_to_gradient(
    loss: MultiScaleSyncLoss, audio: torch.Tensor, most: int, lengths: torch.Tensor | None
) -> None:
    """A waveform adds the file of the audio features."""
    landmarks = torch.rand(1, 40, 68, 2, requires_grad=True)

    def step() -> None:
        loss(landmarks, audio, lengths=lengths).total.backward()

    files = files_executed(step)
    assert "losses/sync.py" in files
    assert len(files) <= most, sorted(files)


def test_from_pretrained() -> None:
    files = files_executed(lambda: from_pretrained("landmarks68-25fps"))
    assert "pretrained.py" in files
    assert len(files) <= 7, sorted(files)


def test_training_step_of_the_generator() -> None:
    """From the draw of a batch to the new weights; augmentation adds three files: landmarks, features, and the two of them."""
    from avsync.training.processes import make_fabric

    window = WindowDiscriminator(WindowDiscriminatorConfig(embed=8, hidden=8))
    pair = PairDiscriminator(WindowDiscriminatorConfig(embed=8, hidden=8), embedding=window.embedding)
    steps = GanSteps(
        MultiScaleGenerator(GeneratorConfig(hidden=8, position_embed=8, audio_channels=8, branch_width=8)),
        discriminators=Discriminators(frame=FrameDiscriminator(), window=window, pair=pair),
        bank=ClipBank(
            SyntheticCorpus(speakers=2, clips_per_speaker=1, seconds=4), features=SpeechFeatures(kind="mfcc").features
        ),
        config=GanTrainingConfig(steps=2, batch_size=2),
        sync_loss=MultiScaleSyncLoss(syncers=SyncerPyramid(SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4)))),
        fabric=make_fabric(accelerator="cpu"),
        augment=None,
        cuda_graphs=None,
    )
    files = files_executed(lambda: steps.step(1))
    assert {"training/gan.py", "models/generator/model.py", "losses/sync.py"} <= files
    assert len(files) <= 14, sorted(files)
