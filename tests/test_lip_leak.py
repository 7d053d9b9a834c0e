"""Lip motion that leaks into the points of the head."""

from __future__ import annotations

import pytest
import torch

from avsync.errors import ArgumentError, ConfigError, ShapeError
from avsync.landmarks.layouts import REGIONS
from avsync.landmarks.lip_leak import LEAK_SHAPE, fit_lip_leak, remove_lip_leak
from avsync.landmarks.motion_features import motion_channels
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pretrained import save_pretrained

HEAD = list(REGIONS["head"])
MOTION = ("displacement", "velocity", "speed")


def head_config(**changed: object) -> SyncerPyramidConfig:
    syncer = SyncerConfig(width=8, embed=4, points=len(HEAD), motion_channels=motion_channels(MOTION, 2))
    return SyncerPyramidConfig(**{"syncer": syncer, "motion": MOTION, "region": "head", "reference": "mean", **changed})


def clips(rng: torch.Generator, *, leak: float, count: int = 12, frames: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    """Heads that sway slowly, with lips that open fast; ``leak`` of the opening moves nose and eyes down. Also without the leak."""
    face = torch.rand(68, 2, generator=torch.Generator().manual_seed(1))
    face[[36, 39], 0] -= 1.0
    face[[42, 45], 0] += 1.0
    sway = torch.randn(count, frames, 1, 2, generator=rng).cumsum(dim=1) * 0.01
    opening = 0.1 * torch.randn(count, frames, 1, generator=rng)
    still = (face + sway).clone()
    still[:, :, 55:60, 1] += opening
    still[:, :, 65:68, 1] += opening
    leaking = still.clone()
    leaking[:, :, HEAD, 1] += leak * opening
    return leaking, still


def test_the_leak_is_found_and_removed(rng: torch.Generator) -> None:
    """Fitted on some clips, the weights free others from most of the leak, and keep the sway of the head."""
    weights = fit_lip_leak(clips(rng, leak=0.2)[0])
    leaking, clean = clips(rng, leak=0.2)
    before, after = leaking - clean, remove_lip_leak(leaking, weights) - clean
    step = slice(1, None)
    assert float(after.diff(dim=1)[:, step, HEAD].square().mean()) < 0.1 * float(
        before.diff(dim=1)[:, step, HEAD].square().mean()
    )
    sway = (clean - clean.mean(dim=1, keepdim=True))[:, :, HEAD]
    assert float((after - after.mean(dim=1, keepdim=True))[:, :, HEAD].std()) < 0.2 * float(sway.std())


def test_without_a_leak_nothing_is_taken(rng: torch.Generator) -> None:
    weights = fit_lip_leak(clips(rng, leak=0.0)[0])
    faces, _ = clips(rng, leak=0.0)
    moved = remove_lip_leak(faces, weights) - faces
    assert float(moved.std()) < 0.1 * float((faces - faces.mean(dim=1, keepdim=True))[:, :, HEAD].std())


def test_points_outside_the_head_stay_and_lips_get_no_gradient(rng: torch.Generator) -> None:
    faces, _ = clips(rng, leak=0.2)
    faces = faces[:2].requires_grad_()
    cleaned = remove_lip_leak(faces, fit_lip_leak(faces.detach()))
    rest = [point for point in range(68) if point not in HEAD]
    assert torch.equal(cleaned[:, :, rest], faces[:, :, rest])
    cleaned[:, :, HEAD].square().sum().backward()
    assert faces.grad is not None
    assert float(faces.grad[:, :, 48:].abs().max()) == 0.0 and float(faces.grad[:, :, HEAD].abs().min()) > 0.0


def test_size_place_and_padding_do_not_matter(rng: torch.Generator) -> None:
    faces, _ = clips(rng, leak=0.2)
    weights = fit_lip_leak(faces)
    cleaned = remove_lip_leak(faces, weights)
    torch.testing.assert_close(remove_lip_leak(50.0 * faces + 300.0, weights), 50.0 * cleaned + 300.0, atol=1e-2, rtol=1e-4)
    padded = torch.cat([faces, faces[:, -1:].expand(-1, 30, -1, -1)], dim=1)
    lengths = torch.full((len(faces),), faces.shape[1])
    torch.testing.assert_close(remove_lip_leak(padded, weights, lengths=lengths)[:, : faces.shape[1]], cleaned)


def test_wrong_input_is_named(rng: torch.Generator) -> None:
    faces, _ = clips(rng, leak=0.2, count=2)
    with pytest.raises(ShapeError, match="landmarks"):
        remove_lip_leak(faces[:, :, :60], fit_lip_leak(faces))
    with pytest.raises(ShapeError, match="weights"):
        remove_lip_leak(faces, torch.zeros(4, 40, 68, 2))
    with pytest.raises(ArgumentError, match="components"):
        fit_lip_leak(faces, components=0)


@torch.no_grad()
def test_a_head_pyramid_hears_no_lips(rng: torch.Generator, tmp_path: object) -> None:
    """With the weights that explain the leak, moving the lips and the leak together moves embeddings less; saved and read again, too."""
    leaking, clean = clips(rng, leak=0.2, frames=100)
    pyramid = SyncerPyramid(head_config(num_levels=2, remove_lips=True)).eval()
    before, true = pyramid.embed_motion(leaking), pyramid.embed_motion(clean)
    pyramid.set_lip_leak(fit_lip_leak(leaking))
    for level in range(2):
        untreated = (before[level] - true[level]).square().mean()
        treated = (pyramid.embed_motion(leaking)[level] - true[level]).square().mean()
        assert float(treated) < 0.05 * float(untreated), level
    save_pretrained(pyramid, tmp_path)
    again = SyncerPyramid.from_pretrained(tmp_path)
    assert torch.equal(again.lip_leak, pyramid.lip_leak)
    assert torch.equal(again.embed_motion(leaking)[1], pyramid.embed_motion(leaking)[1])


def test_only_heads_can_be_freed_of_lips() -> None:
    assert SyncerPyramid(head_config()).lip_leak is None
    assert SyncerPyramid(head_config(remove_lips=True)).lip_leak.shape == LEAK_SHAPE
    with pytest.raises(ConfigError, match="remove_lips"):
        SyncerPyramidConfig(remove_lips=True)
    with pytest.raises(ShapeError, match="weights"):
        SyncerPyramid(head_config(remove_lips=True)).set_lip_leak(torch.zeros(3, 40, 68, 2))
