"""Mouths in pauses of speech: their speed, and the loss on it."""

from __future__ import annotations

import pytest
import torch

from avsync.errors import ArgumentError, ShapeError
from avsync.landmarks.geometry import face_height, mouth_opening
from avsync.landmarks.pauses import pause_speed, pause_steps
from avsync.losses.silence import REAL_PAUSE_SPEED, SilenceLoss, silence_loss
from avsync.losses.sync import MultiScaleSyncLoss
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig

FRAMES = 40


def talker(rng: torch.Generator, *, speed: float, count: int = 2) -> torch.Tensor:
    """Return faces whose lower inner lip moves up and down by ``speed`` face heights per second."""
    face = torch.rand(count, 1, 68, 2, generator=rng, dtype=torch.float64)
    face[:, :, [62, 66]] = torch.tensor([[0.5, 0.4], [0.5, 0.5]], dtype=torch.float64)
    clips = face.expand(count, FRAMES, 68, 2).clone()
    clips[:, 1::2, 66, 1] += speed / 25 * face_height(clips)[:, None]
    return clips


def half_silent(count: int = 2) -> torch.Tensor:
    return (torch.arange(FRAMES) < FRAMES // 2).expand(count, -1).clone()


def test_steps_next_to_speech_do_not_count() -> None:
    """Twenty frames of pause hold 19 steps; a margin of 4 removes the first four frames and the step to the first one left."""
    steps = pause_steps(half_silent(), margin=4)
    assert steps.shape == (2, FRAMES - 1) and steps[0].nonzero()[:, 0].tolist() == list(range(24, 39))
    assert int(pause_steps(half_silent(), margin=0).sum()) == 2 * 19


@pytest.mark.parametrize("speed", [0.1, 0.4])
def test_speed_in_pauses_is_in_face_heights_per_second(rng: torch.Generator, speed: float) -> None:
    """Framing does not matter, and motion during speech does not count."""
    clips = talker(rng, speed=speed)
    found = pause_speed(clips, half_silent(), reference="first")
    torch.testing.assert_close(found, torch.full((2,), speed, dtype=torch.float64))
    opening = mouth_opening(clips)[:, 24:].diff(dim=1).abs().mean(dim=1) * 25
    torch.testing.assert_close(found, opening)
    wild = 10 * clips + 5
    wild[:, : FRAMES // 2, 66] += torch.rand(2, FRAMES // 2, 2, dtype=torch.float64)
    wild[:, 0] = 10 * clips[:, 0] + 5
    torch.testing.assert_close(pause_speed(wild, half_silent(), reference="first"), found)


def test_loss_is_the_excess_over_real_mouths(rng: torch.Generator) -> None:
    for factor in (0.5, 1.0, 3.0):
        clips = talker(rng, speed=factor * REAL_PAUSE_SPEED)
        loss = silence_loss(clips, half_silent(), reduction="none")
        torch.testing.assert_close(loss, torch.full((2,), max(0.0, factor - 1.0), dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(SilenceLoss(speed=0.1)(clips, half_silent()), silence_loss(clips, half_silent(), speed=0.1))


def test_gradient_stays_in_pauses_and_is_finite_without_one(rng: torch.Generator) -> None:
    clips = talker(rng, speed=1.0).requires_grad_()
    speech = half_silent()
    speech[1] = True
    losses = silence_loss(clips, speech, reduction="none", reference=clips.detach()[:, 0])
    assert float(losses[0].detach()) > 1 and float(losses[1].detach()) == 0
    losses.sum().backward()
    assert clips.grad is not None and bool(clips.grad.isfinite().all())
    assert bool((clips.grad[0, :23] == 0).all()) and bool((clips.grad[1] == 0).all())
    assert float(clips.grad[0, 30, 66].abs().max()) > 0


def test_the_sync_loss_adds_it(rng: torch.Generator) -> None:
    pyramid = SyncerPyramid(SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4)))
    clips, audio = talker(rng, speed=0.5).float(), torch.randn(2, 4 * FRAMES, 26, generator=rng)
    plain = MultiScaleSyncLoss(syncers=pyramid)(clips, audio)
    assert float(plain.silence) == 0
    loss = MultiScaleSyncLoss(syncers=pyramid, silence_weight=0.2)
    speech = half_silent()
    found = loss(clips, audio, speech=speech)
    torch.testing.assert_close(found.silence, silence_loss(clips, speech))
    torch.testing.assert_close(found.total, plain.total + 0.2 * found.silence)
    with pytest.raises(ArgumentError, match="`speech`"):
        loss(clips, audio)
    padded = torch.cat([clips, torch.full((2, 8, 68, 2), torch.nan)], dim=1)
    longer = torch.cat([audio, torch.zeros(2, 32, 26)], dim=1)
    silent = torch.cat([speech, torch.zeros(2, 8, dtype=torch.bool)], dim=1)
    again = loss(padded, longer, speech=silent, lengths=torch.tensor([FRAMES, FRAMES]))
    assert bool(again.total.isfinite())
    # The last frames before the padding are next to it, and do not count.
    torch.testing.assert_close(again.silence, found.silence, rtol=0.2, atol=0)


def test_errors(rng: torch.Generator) -> None:
    with pytest.raises(ShapeError, match="`speech`: expected bool"):
        pause_speed(talker(rng, speed=1.0), torch.zeros(2, FRAMES))
    with pytest.raises(ShapeError, match="68"):
        pause_speed(torch.rand(2, FRAMES, 20, 2), half_silent())
    with pytest.raises(ArgumentError, match="`silence_weight`"):
        MultiScaleSyncLoss(syncers=SyncerPyramid(), silence_weight=-1.0)
