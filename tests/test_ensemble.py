"""Pyramids that judge together: their cosine is the mean of the members', and everything that takes one pyramid takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avsync.errors import ArgumentError, CheckpointError, ConfigError
from avsync.losses.sync import MultiScaleSyncLoss
from avsync.metrics import multi_scale_offset
from avsync.models.syncer.ensemble import SyncerEnsemble
from avsync.models.syncer.interface import MultiScaleSyncer, cosine_similarity
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pretrained import from_pretrained, save_pretrained

CONFIG = SyncerPyramidConfig(
    syncer=SyncerConfig(audio_features=3, points=4, width=4, embed=2), num_levels=2, reference="mean", audio="custom"
)
OTHER = replace(CONFIG, syncer=replace(CONFIG.syncer, width=6, embed=3), reference="first")


def pyramid(config: SyncerPyramidConfig = CONFIG, seed: int = 0) -> SyncerPyramid:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SyncerPyramid(config=config).double().eval()


def clips(batch: int = 2, frames: int = 17) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(frames)
    landmarks = torch.rand(batch, frames, 4, 2, dtype=torch.float64, generator=generator)
    return landmarks, torch.rand(batch, 4 * frames, 3, dtype=torch.float64, generator=generator)


@given(weights=st.lists(st.floats(0.1, 10), min_size=1, max_size=3), padded=st.booleans())
def test_the_cosine_is_the_weighted_mean_of_the_members(weights: list[float], padded: bool) -> None:
    members = [pyramid((CONFIG, OTHER)[i % 2], seed=i) for i in range(len(weights))]
    landmarks, audio = clips()
    lengths = torch.tensor([17, 12]) if padded else None
    together = SyncerEnsemble.of(members, weights=weights)(landmarks, audio, lengths=lengths)
    alone = [member(landmarks, audio, lengths=lengths) for member in members]
    for level, found in enumerate(together):
        cosines = [cosine_similarity(parts[level].motion, parts[level].audio) for parts in alone]
        expected = sum(weight * cosine for weight, cosine in zip(weights, cosines, strict=True)) / sum(weights)
        torch.testing.assert_close(cosine_similarity(found.motion, found.audio), expected)
        torch.testing.assert_close(found.audio.norm(dim=-1), torch.ones_like(found.audio[..., 0]))
        assert (found.mask is None) == (not padded)
        assert found.mask is None or torch.equal(found.mask, alone[0][level].mask)


def test_the_loss_and_its_gradient_are_the_weighted_means() -> None:
    members, weights = [pyramid(), pyramid(OTHER, seed=1)], [3.0, 1.0]
    landmarks, audio = clips()

    def of(syncers: MultiScaleSyncer) -> tuple[torch.Tensor, torch.Tensor]:
        moved = landmarks.clone().requires_grad_()
        total = MultiScaleSyncLoss(syncers=syncers)(moved, audio).total
        return total, torch.autograd.grad(total, moved)[0]

    together = of(SyncerEnsemble.of(members, weights=weights))
    for found, first, second in zip(together, *map(of, members), strict=True):
        torch.testing.assert_close(found, 0.75 * first + 0.25 * second)


def test_twice_the_same_pyramid_is_that_pyramid_to_every_metric() -> None:
    one = pyramid()
    landmarks, audio = clips(frames=24)
    once, twice = (multi_scale_offset(syncers, landmarks, audio) for syncers in (one, SyncerEnsemble.of([one, one])))
    for expected, found in zip(once, twice, strict=True):
        torch.testing.assert_close(found.distances, expected.distances, equal_nan=True)


def test_some_levels_only() -> None:
    together = SyncerEnsemble.of([pyramid(), pyramid(OTHER)])
    landmarks, audio = clips(frames=7)
    assert together.shortest_clip() == 9 and together.shortest_clip([0]) == 5
    (found,) = together(landmarks, audio, levels=[0])
    assert found.motion.shape == found.audio.shape == (2, 3, 5)
    with pytest.raises(ArgumentError, match="`levels`"):
        together(landmarks, audio, levels=[2])


def test_members_are_kept_and_the_loss_freezes_copies() -> None:
    members = [pyramid(), pyramid(OTHER)]
    together = SyncerEnsemble.of(members)
    assert list(together.pyramids) == members and not together.training
    together.train()
    assert all(member.training for member in members) and SyncerEnsemble.of(members).training
    loss = MultiScaleSyncLoss(syncers=together).train()
    assert not loss.syncers.training and not any(p.requires_grad for p in loss.syncers.parameters())
    assert all(member.training and all(p.requires_grad for p in member.parameters()) for member in members)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_levels": 3}, "num_levels"),
        ({"audio": "mfcc", "syncer": replace(CONFIG.syncer, audio_features=26)}, "audio"),
        ({"syncer": replace(CONFIG.syncer, window=4)}, "window"),
        ({"syncer": replace(CONFIG.syncer, audio_stride=2)}, "audio_stride"),
        ({"syncer": replace(CONFIG.syncer, audio_features=5)}, "audio_features"),
        ({"syncer": replace(CONFIG.syncer, points=5)}, "landmark_points"),
        ({"syncer": replace(CONFIG.syncer, motion_channels=3), "landmark_dims": 3}, "landmark_dims"),
    ],
)
def test_members_that_do_not_fit_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"`members`: expected pyramids with the same {message}"):
        SyncerEnsemble.of([pyramid(), pyramid(replace(CONFIG, **changes))])  # type: ignore[arg-type]


def test_bad_weights_and_members() -> None:
    with pytest.raises(ConfigError, match="`members`: expected at least one"):
        SyncerEnsemble.of([])
    for weights in ([1.0], [1.0, 0.0], [1.0, float("inf")], [1.0, float("nan")]):
        with pytest.raises((ArgumentError, ConfigError), match=r"`weights`: expected (2 )?finite numbers"):
            SyncerEnsemble.of([pyramid(), pyramid()], weights=weights)
    config = SyncerEnsemble.of([pyramid(), pyramid(OTHER)]).config
    with pytest.raises(ConfigError, match="`pyramids`"):
        SyncerEnsemble(config=config, pyramids=[pyramid(OTHER), pyramid()])


def test_round_trip(tmp_path: Path) -> None:
    """An ensemble is one folder: the weights of its members are in its own file."""
    saved = SyncerEnsemble.of([pyramid(CONFIG).float(), pyramid(OTHER, seed=1).float()], weights=[1.0, 0.5])
    save_pretrained(saved, tmp_path / "both")
    back = from_pretrained(tmp_path / "both")
    assert isinstance(back, SyncerEnsemble) and back.config == saved.config and not back.training
    expected = saved.state_dict()
    assert back.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in back.state_dict().items())
    assert isinstance(MultiScaleSyncer.from_pretrained(tmp_path / "both"), SyncerEnsemble)
    with pytest.raises(CheckpointError, match=r"expected class 'SyncerPyramid' .* got 'SyncerEnsemble'"):
        SyncerPyramid.from_pretrained(tmp_path / "both")
