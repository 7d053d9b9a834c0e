"""The sync loss with real motion as its target, and the descent of examples/guidance/speak.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from avsync import MultiScaleSyncLoss, SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.errors import ArgumentError, ShapeError

SPEAK = Path(__file__).parent.parent / "examples" / "guidance"


@pytest.fixture
def loss() -> MultiScaleSyncLoss:
    torch.manual_seed(0)
    return MultiScaleSyncLoss(syncers=SyncerPyramid(SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4))))


def test_the_target_itself_is_perfect_and_has_no_gradient(loss: MultiScaleSyncLoss) -> None:
    target = torch.rand(2, 60, 68, 2)
    landmarks = target.clone().requires_grad_()
    found = loss(landmarks, torch.randn(2, 240, 26), target=target)
    torch.testing.assert_close(found.per_level, -torch.ones(4))
    found.total.backward()
    assert landmarks.grad is not None and float(landmarks.grad.abs().max()) < 1e-4


def test_the_target_replaces_the_audio(loss: MultiScaleSyncLoss) -> None:
    landmarks, target = torch.rand(2, 2, 60, 68, 2)
    first, second = (loss(landmarks, torch.randn(2, 240, 26), target=target) for _ in range(2))
    torch.testing.assert_close(first.per_level, second.per_level)
    assert float((first.per_level - loss(landmarks, torch.randn(2, 240, 26)).per_level).abs().max()) > 1e-3


def test_a_share_of_the_target_s_agreement_ends_the_loss(loss: MultiScaleSyncLoss) -> None:
    """A level is the higher of its own loss and the share of the target's, and has a gradient only in the first case."""
    landmarks, target = torch.rand(2, 2, 60, 68, 2)
    landmarks.requires_grad_()
    audio = torch.randn(2, 240, 26)
    own, real = loss(landmarks, audio).per_level, loss(target, audio).per_level
    for share in (0.5, 1.0, 1e-6):
        found = loss(landmarks, audio, target=target, target_share=share)
        torch.testing.assert_close(found.per_level, torch.maximum(own, share * real))
        torch.testing.assert_close(found.total, found.per_level.mean())
    above = (own > real).detach()
    assert bool(above.any()) and not bool(above.all()), "levels of both kinds"
    (gradient,) = torch.autograd.grad(loss(landmarks, audio, target=target, target_share=1.0).total, landmarks)
    (wanted,) = torch.autograd.grad(own[above].sum() / 4, landmarks)
    torch.testing.assert_close(gradient, wanted)


def test_a_share_needs_a_target_and_a_positive_number(loss: MultiScaleSyncLoss) -> None:
    clip = torch.rand(1, 60, 68, 2), torch.randn(1, 240, 26)
    with pytest.raises(ArgumentError, match="`target`: expected real motion with `target_share`, got None"):
        loss(*clip, target_share=0.7)
    with pytest.raises(ArgumentError, match="`target_share`: expected a number above 0, got 0"):
        loss(*clip, target=clip[0], target_share=0.0)


def test_padding_of_the_target_changes_nothing(loss: MultiScaleSyncLoss) -> None:
    landmarks, target = torch.rand(2, 1, 60, 68, 2)
    audio, lengths = torch.randn(1, 240, 26), torch.tensor([52])
    padded = target.clone()
    padded[:, 52:] = torch.nan
    alone = loss(landmarks[:, :52], audio[:, :208], target=target[:, :52])
    torch.testing.assert_close(loss(landmarks, audio, target=padded, lengths=lengths).per_level, alone.per_level)


def test_encoder_pairs_take_a_target(loss: MultiScaleSyncLoss) -> None:
    pyramid = loss.syncers
    pairs = [(level.motion_encoder, level.audio_encoder) for level in pyramid.syncers]  # type: ignore[union-attr]
    own = MultiScaleSyncLoss(syncers=pairs)
    target = torch.rand(1, 60, 68, 2)
    torch.testing.assert_close(own(target, torch.randn(1, 240, 26), target=target).total, torch.tensor(-1.0))


def test_a_target_of_another_shape(loss: MultiScaleSyncLoss) -> None:
    with pytest.raises(
        ShapeError, match=r"`target`: expected the shape of `landmarks`, \(1, 60, 68, 2\), got \(1, 50, 68, 2\)"
    ):
        loss(torch.rand(1, 60, 68, 2), torch.randn(1, 240, 26), target=torch.rand(1, 50, 68, 2))
    with pytest.raises(ShapeError, match=r"`target`.*ndarray"):
        loss(torch.rand(1, 60, 68, 2), torch.randn(1, 240, 26), target=torch.rand(1, 60, 68, 2).numpy())


def test_a_still_face_begins_to_speak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve steps on two clips: the target's lips follow the truth, and the prior holds the tremble down."""
    monkeypatch.syspath_prepend(str(SPEAK))
    import speak

    options = [
        "--clips",
        "2",
        "--steps",
        "12",
        "--rate",
        "0.01",
        "--objectives",
        "loss",
        "views",
        "target",
        "--out",
        str(tmp_path),
    ]
    table = speak.run(speak.parse_arguments(options))
    sys.modules.pop("speak")
    assert table["truth"]["jitter"] == pytest.approx(1) and table["truth"]["lip corr."] == pytest.approx(1, abs=1e-4)
    assert table["target"]["lip corr."] > 0.3  # type: ignore[operator]
    assert table["target"]["jitter"] < table["loss"]["jitter"]  # type: ignore[operator]
    assert table["views"]["jitter"] != table["loss"]["jitter"], "the syncers saw other motion"
    assert set(json.loads((tmp_path / "speak.json").read_text(encoding="utf-8"))["rows"]) == {
        "truth",
        "loss",
        "views",
        "target",
    }
    assert (tmp_path / "speak.png").stat().st_size > 1000 and (tmp_path / "speak.mp4").stat().st_size > 1000
