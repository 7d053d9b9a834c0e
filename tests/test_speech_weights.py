"""Windows that count by their speech: the weights, the losses under them, and the training that uses them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync.audio.features import LogMel
from avsync.corpus.banks.bank import ClipBank
from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.errors import ClipTooShortError, ConfigError, ShapeError
from avsync.losses.all_pairs import all_pairs_info_nce, within_clips_info_nce
from avsync.losses.offsets import offset_info_nce
from avsync.models.syncer.interface import Embeddings
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pyramid import temporal_pyramid
from avsync.training.objectives import LevelObjective, SyncerTrainingConfig, level_losses
from avsync.training.processes import make_fabric
from avsync.training.speech_weights import speech_weights
from avsync.training.syncers import train_syncers

CONFIG = SyncerTrainingConfig(offset_weight=0.7, offset_window=5, temperature=0.3)


def embeddings(clips: int = 3, windows: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    motion, audio = torch.randn(2, clips, windows, 6, generator=torch.Generator().manual_seed(seed))
    return motion.requires_grad_(), audio.requires_grad_()


@given(st.integers(17, 60), st.integers(1, 3), st.integers(1, 5), st.floats(0, 1), st.integers(0, 1000))
def test_a_window_counts_by_its_share_of_speech(frames: int, levels: int, window: int, pause: float, seed: int) -> None:
    speech = torch.rand(2, frames, generator=torch.Generator().manual_seed(seed)) > 0.4
    found = speech_weights(speech, levels, window=window, pause_weight=pause)
    blurred = temporal_pyramid(speech.float(), levels)
    assert len(found) == levels
    for level, weights in enumerate(found):
        assert weights.shape == (2, blurred[level].shape[1] - window + 1)
        for clip in range(2):
            for i in range(weights.shape[1]):
                share = sum(blurred[level][clip, i : i + window].tolist()) / window
                assert weights[clip, i].item() == pytest.approx(pause + (1 - pause) * share, abs=1e-5)


def test_weights_need_a_window_at_every_level() -> None:
    with pytest.raises(ClipTooShortError, match="`speech`: expected at least 17 frames for level 2, got 16"):
        speech_weights(torch.ones(1, 16, dtype=torch.bool), 3, window=5, pause_weight=0.0)
    assert [x.shape[1] for x in speech_weights(torch.ones(1, 17, dtype=torch.bool), 3, window=5, pause_weight=0.0)] == [
        13,
        5,
        1,
    ]
    with pytest.raises(ShapeError, match="`speech`"):
        speech_weights(torch.ones(17, dtype=torch.bool), 1, window=5, pause_weight=0.0)


def objective_loss(weight: Tensor | None, motion: Tensor, audio: Tensor, span: int = 3, **changes: object) -> Tensor:
    objective = LevelObjective(config=dataclasses.replace(CONFIG, **changes))
    return level_losses(
        [objective], [Embeddings(motion, audio)], torch.Generator().manual_seed(0), span=span, weights=[weight]
    )[0]


@pytest.mark.parametrize("objective", ["all_pairs", "info_nce", "contrastive"])
def test_equal_weights_are_no_weights(objective: str) -> None:
    motion, audio = embeddings()
    plain = objective_loss(None, motion, audio, objective=objective)
    torch.testing.assert_close(objective_loss(torch.full((3, 9), 0.3), motion, audio, objective=objective), plain)


@given(st.integers(0, 1000), st.integers(1, 9))
def test_weighted_losses_are_weighted_means(seed: int, span: int) -> None:
    """Of the losses of single windows, and of stretches that weigh what their windows weigh on average."""
    motion, audio = (x.detach() for x in embeddings(seed=seed))
    weight = torch.rand(3, 9, generator=torch.Generator().manual_seed(seed))
    options = {"temperature": 0.3, "reduction": "none"}
    windows = all_pairs_info_nce(motion, audio, **options) + 3.0 * within_clips_info_nce(motion, audio, **options)
    # A segment that is the whole clip has no other offset to be compared with, and no loss.
    stretches = offset_info_nce(motion, audio, span=span, window=5, **options) if span < 9 else torch.zeros(3, 1)
    expected = float((weight * windows).sum() / weight.sum())
    ends = range(span, 10, span)
    shares = torch.stack([weight[:, end - span : end].mean(dim=1) for end in ends], dim=1)
    expected += 0.7 * float((shares * stretches).sum() / shares.sum())
    assert objective_loss(weight, motion, audio, span=span).item() == pytest.approx(expected, rel=1e-4)


def test_silent_windows_are_negatives_and_padding_is_not() -> None:
    motion, audio = embeddings()
    speaking = torch.arange(9).expand(3, -1) < 4
    objective_loss(speaking.float(), motion, audio, offset_weight=0.0).backward()
    assert (audio.grad.abs().sum(dim=2) > 0).all(), "windows of weight zero are pushed away from the motion of the others"
    audio.grad = None
    objective = LevelObjective(config=CONFIG)
    level_losses([objective], [Embeddings(motion, audio, speaking)], torch.Generator(), span=3).sum().backward()
    assert torch.equal(audio.grad.abs().sum(dim=2) > 0, speaking)


def test_a_batch_without_any_weight_loses_nothing() -> None:
    motion, audio = embeddings()
    loss = objective_loss(torch.zeros(3, 9), motion, audio)
    loss.backward()
    assert loss == 0 and not audio.grad.any()


def test_padding_weighs_nothing() -> None:
    """A clip with padded windows is worth as much as the clip alone, stretches that touch the padding left out."""
    motion, audio = embeddings(clips=1)
    padded = [torch.cat([x, torch.randn(1, 4, 6)], dim=1) for x in (motion, audio)]
    mask = torch.arange(13)[None] < 9
    weight = torch.rand(1, 13)
    objectives = [LevelObjective(config=CONFIG)]
    chance = torch.Generator()
    found = level_losses(objectives, [Embeddings(*padded, mask)], chance, span=3, weights=[weight])
    alone = level_losses(objectives, [Embeddings(motion, audio)], chance, span=3, weights=[weight[:, :9]])
    torch.testing.assert_close(found, alone)


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_pause_weight_is_a_share(value: float) -> None:
    with pytest.raises(ConfigError, match="`pause_weight`: expected a number from 0 to 1"):
        SyncerTrainingConfig(pause_weight=value)


@pytest.mark.parametrize("levels", [None, [1]])
def test_training_weighs_windows_level_by_level(levels: list[int] | None) -> None:
    """A bank that never speaks has nothing to learn from, one that always does learns as if nobody had asked."""
    bank = ClipBank(SyntheticCorpus(split="train", speakers=4, clips_per_speaker=1, seconds=4.0), features=LogMel())
    sizes = SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=8, frame_blocks=1, window_blocks=0), num_levels=2)
    # Level 0 sees a part of the crops, so its weights have to be cut; the window share covers its other way to be embedded.
    config = SyncerTrainingConfig(
        steps=2, batch_size=3, frames=32, fine_frames=20, warm_up=1, offset_weight=1.0, window_share=0.5
    )

    def losses(speech: float, pause_weight: float) -> list[float]:
        torch.manual_seed(0)
        bank.speech = torch.full_like(bank.speech, speech)
        changed = dataclasses.replace(config, pause_weight=pause_weight)
        fabric = make_fabric(accelerator="cpu")
        history = train_syncers(SyncerPyramid(config=sizes), bank, changed, fabric=fabric, levels=levels, progress=False)
        return [loss for _, loss in history["loss"]]

    assert set(losses(0.0, 0.0)) == {0.0}
    assert losses(1.0, 0.0) == pytest.approx(losses(0.0, 1.0))
    assert min(losses(0.0, 1.0)) > 1
