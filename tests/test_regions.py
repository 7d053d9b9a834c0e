"""Syncers of several regions, and the loss that reports them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from avsync.errors import ArgumentError, ClipTooShortError, ConfigError
from avsync.landmarks.layouts import MOUTH
from avsync.landmarks.motion_features import motion_channels, region_points
from avsync.losses.sync import MultiScaleSyncLoss, level_sync_loss
from avsync.metrics.multi_scale import multi_scale_offset
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.models.syncer.regions import SyncerRegion, SyncerRegions, SyncerRegionsConfig
from avsync.pretrained import save_pretrained

LEVELS = {"mouth": (0, 1), "head": (1, 2)}
FRAMES = 48


def config(region: str, *, audio: str, levels: int, embed: int) -> SyncerPyramidConfig:
    motion = ("displacement", "speed") if region == "pose" else ("shape",)
    syncer = SyncerConfig(
        audio_features=30 if audio == "log-mel-prosody" else 26,
        points=region_points(region),
        motion_channels=motion_channels(motion, 1 if region == "pose" else 2),
        width=8,
        embed=embed,
    )
    return SyncerPyramidConfig(syncer=syncer, num_levels=levels, audio=audio, motion=motion, region=region, reference="mean")


def build(weights: dict[str, float] | None = None) -> SyncerRegions:
    torch.manual_seed(0)
    pyramids = {
        "mouth": SyncerPyramid(config("mouth", audio="log-mel", levels=2, embed=4)),
        "head": SyncerPyramid(config("pose", audio="log-mel-prosody", levels=3, embed=6)),
    }
    return SyncerRegions.of(pyramids, levels=LEVELS, weights=weights).eval()


@pytest.fixture
def clips(rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(2, FRAMES, 68, 2, generator=rng), torch.randn(2, 4 * FRAMES, 30, generator=rng)


def test_cosines_are_weighted_means_of_the_regions(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    syncers = build({"mouth": 3.0})
    landmarks, audio = clips
    joined = syncers(landmarks, audio)
    assert [level.motion.shape[-1] for level in joined] == [4, 10, 6]
    mouth = syncers.region("mouth")(landmarks, audio[..., :26])
    head = syncers.region("head")(landmarks, audio)
    cosine = torch.cosine_similarity
    alone = [[cosine(level.motion, level.audio, dim=-1) for level in part] for part in (mouth, head)]
    wanted = [alone[0][0], (3 * alone[0][1] + alone[1][1]) / 4, alone[1][2]]
    for level, expected in zip(joined, wanted, strict=True):
        torch.testing.assert_close(cosine(level.motion, level.audio, dim=-1), expected)


def test_columns_hold_the_regions(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    syncers = build()
    assert syncers.regions == ("mouth", "head") and syncers.num_levels == 3
    assert [syncers.columns(level) for level in range(3)] == [
        (slice(0, 4), None),
        (slice(0, 4), slice(4, 10)),
        (None, slice(0, 6)),
    ]
    head = syncers.region("head").embed_motion(clips[0], levels=[1])[0]
    found = syncers.embed_motion(clips[0], levels=[1])[0][..., 4:10]
    torch.testing.assert_close(torch.nn.functional.normalize(found, dim=-1), torch.nn.functional.normalize(head, dim=-1))
    with pytest.raises(ArgumentError, match="`levels`"):
        syncers.columns(3)


def test_loss_reports_levels_and_regions(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    syncers = build({"mouth": 3.0})
    loss = MultiScaleSyncLoss(syncers=syncers, level_weights=[1.0, 2.0, 1.0])
    total, per_level, per_region, _ = loss(*clips)
    assert loss.regions == ("mouth", "head") and per_region.shape == (2, 3)
    parts = {
        "mouth": syncers.region("mouth")(clips[0], clips[1][..., :26]),
        "head": syncers.region("head")(*clips),
    }
    for (row, name), level in itertools.product(enumerate(parts), range(3)):
        if level in LEVELS[name]:
            part = parts[name][level]
            torch.testing.assert_close(per_region[row, level], level_sync_loss(part.motion, part.audio))
        else:
            assert float(per_region[row, level]) == 0
    torch.testing.assert_close(per_level[1], (3 * per_region[0, 1] + per_region[1, 1]) / 4)
    torch.testing.assert_close(total, (per_level[0] + 2 * per_level[1] + per_level[2]) / 4)


def test_region_weights_choose_regions(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    """A region of weight 0 is reported and not counted; a level without a counted region is left out of the total."""
    landmarks = clips[0].clone().requires_grad_()
    loss = MultiScaleSyncLoss(syncers=build(), region_weights={"mouth": 1.0, "head": 0.0})
    total, per_level, per_region, _ = loss(landmarks, clips[1])
    torch.testing.assert_close(per_level, torch.stack([per_region[0, 0], per_region[0, 1], torch.tensor(0.0)]))
    torch.testing.assert_close(total, per_region[0, :2].mean())
    assert float(per_region[1, 0].detach()) == 0 and float(per_region[1, 2].detach().abs()) > 0
    total.backward()
    assert landmarks.grad is not None and bool((landmarks.grad[:, :, 17:27] == 0).all())
    only_head = MultiScaleSyncLoss(syncers=build(), region_weights={"mouth": 0.0, "head": 1.0})
    moved = clips[0].clone()
    moved[:, :, MOUTH] += torch.rand(2, FRAMES, 20, 2)
    torch.testing.assert_close(only_head(moved, clips[1]).total, only_head(*clips).total)


def test_target_short_clips_and_lengths(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    loss = MultiScaleSyncLoss(syncers=build(), skip_short=True)
    torch.testing.assert_close(loss(*clips, target=clips[0]).total, torch.tensor(-1.0))
    short = loss(clips[0][:, :10], clips[1][:, :40])
    assert short.per_region.shape == (2, 3) and bool((short.per_region[:, 2] == 0).all()) and float(short.per_level[1]) != 0
    with pytest.raises(ClipTooShortError, match="17 frames"):
        MultiScaleSyncLoss(syncers=build())(clips[0][:, :10], clips[1][:, :40])
    alone = loss(clips[0][:1, :24], clips[1][:1, :96])
    padded = loss(clips[0][:1], clips[1][:1], lengths=torch.tensor([24]))
    torch.testing.assert_close(padded.per_region[0], alone.per_region[0], atol=1e-5, rtol=1e-5)


def test_weights_stay_float32_and_the_loss_compiles(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    loss = MultiScaleSyncLoss(syncers=build()).double()
    assert loss.region_shares.dtype == loss.level_weights.dtype == torch.float32
    loss = MultiScaleSyncLoss(syncers=build())
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*clips).per_region, loss(*clips).per_region)


def test_metrics_accept_regions(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    syncers = build()
    offsets = multi_scale_offset(syncers, clips[0], clips[1], max_offsets=(3, 2, 1))
    assert len(offsets) == 3 and offsets[0].offset_frames.shape == (2,)
    assert syncers.speech_features().kind == "log-mel-prosody"  # type: ignore[union-attr]


def test_saved_and_read(clips: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    syncers = build({"head": 0.5})
    save_pretrained(syncers, tmp_path / "model")
    loaded = MultiScaleSyncer.from_pretrained(tmp_path / "model")
    assert isinstance(loaded, SyncerRegions) and loaded.config == syncers.config
    torch.testing.assert_close(loaded.embed_motion(clips[0])[1], syncers.embed_motion(clips[0])[1])


def test_errors() -> None:
    mouth, head = build().config.regions
    with pytest.raises(ConfigError, match="different names"):
        SyncerRegionsConfig((mouth, SyncerRegion("mouth", head.pyramid, head.levels)))
    with pytest.raises(ConfigError, match="every level"):
        SyncerRegionsConfig((SyncerRegion("mouth", mouth.pyramid, (0,)), SyncerRegion("head", head.pyramid, (2,))))
    with pytest.raises(ConfigError, match="audio features that one kind holds"):
        SyncerRegionsConfig((mouth, SyncerRegion("face", config("mouth", audio="mfcc", levels=2, embed=4), (0,))))
    with pytest.raises(ConfigError, match="`levels`"):
        SyncerRegion("mouth", mouth.pyramid, (0, 2))
    with pytest.raises(ConfigError, match="`weight`"):
        SyncerRegion("mouth", mouth.pyramid, (0,), 0.0)
    with pytest.raises(ArgumentError, match=r"`weights`: expected some of the regions \['head', 'mouth'\]"):
        build({"lips": 1.0})
    with pytest.raises(ArgumentError, match="`region_weights`: expected one number for each of the regions"):
        MultiScaleSyncLoss(syncers=build(), region_weights={"mouth": 1.0})
    with pytest.raises(ArgumentError, match="`region_weights`: expected 2 weights"):
        MultiScaleSyncLoss(syncers=build(), region_weights={"mouth": 1.0, "head": -1.0})
    with pytest.raises(ArgumentError, match="`region_weights`: expected a region with a weight above 0"):
        MultiScaleSyncLoss(syncers=build(), level_weights=[0, 0, 1], region_weights={"mouth": 1.0, "head": 0.0})
