"""Parameters of the head's pose, and motion features made from them."""

from __future__ import annotations

import pytest
import torch

from avsync.errors import ConfigError, ShapeError
from avsync.landmarks.head_pose import POSE_PARAMETERS, head_pose
from avsync.landmarks.layouts import MOUTH, REGIONS
from avsync.landmarks.motion_features import motion_channels, motion_features, region_points
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig

POSE_MOTION = ("displacement", "velocity", "speed")


def face(rng: torch.Generator) -> torch.Tensor:
    points = torch.rand(1, 68, 2, generator=rng, dtype=torch.float64)
    points[:, [36, 39], 0] -= 1.0
    points[:, [42, 45], 0] += 1.0
    return points


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[1.1, 0.0], [0.0, 1.1]], {"growth": 0.2}),
        ([[1.0, -0.1], [0.1, 1.0]], {"roll": 0.2}),
        ([[1.1, 0.0], [0.0, 0.9]], {"stretch": 0.2}),
        ([[1.0, 0.1], [0.1, 1.0]], {"shear": 0.2}),
    ],
)
def test_affine_motions_are_recovered(rng: torch.Generator, matrix: list[list[float]], expected: dict[str, float]) -> None:
    """A head that is moved by a matrix around its own centre has exactly the parameters of the matrix, and no shift."""
    still = face(rng)
    middle = still[:, list(REGIONS["head"])].mean(dim=1, keepdim=True)
    moved = (still - middle) @ torch.tensor(matrix, dtype=torch.float64).T + middle
    pose = head_pose(torch.stack([still, moved], dim=1), reference="first")
    torch.testing.assert_close(pose[:, 0], torch.zeros(1, 8, dtype=torch.float64))
    wanted = torch.tensor([[expected.get(name, 0.0) for name in POSE_PARAMETERS]], dtype=torch.float64)
    torch.testing.assert_close(pose[:, 1], wanted, atol=1e-4, rtol=0)


def test_pose_is_free_of_units_and_of_lips(rng: torch.Generator) -> None:
    """Framing does not change the pose; lips, chin and brows do not, either."""
    clip = face(rng)[:, None] + 0.05 * torch.randn(1, 9, 68, 2, generator=rng, dtype=torch.float64)
    pose = head_pose(clip)
    torch.testing.assert_close(head_pose(50.0 * clip + 300.0), pose, atol=1e-6, rtol=1e-6)
    other = clip.clone()
    other[:, :, MOUTH] += torch.randn(1, 9, 20, 2, generator=rng, dtype=torch.float64)
    other[:, :, 17:27] += 1.0
    torch.testing.assert_close(head_pose(other), pose)


def test_turning_the_nose_is_parallax(rng: torch.Generator) -> None:
    still = face(rng)
    turned = still.clone()
    turned[:, 30, 0] += 0.1
    pose = head_pose(torch.stack([still, turned], dim=1), reference="first")[0, 1]
    assert float(pose[6]) > 5 * float(pose[:6].abs().max()) and abs(float(pose[7])) < 1e-6


def test_gradients_and_lengths(rng: torch.Generator) -> None:
    clip = (face(rng)[:, None] + 0.05 * torch.randn(2, 6, 68, 2, generator=rng, dtype=torch.float64)).requires_grad_()
    torch.autograd.gradcheck(lambda x: head_pose(x, reference="first")[:, 1:3], (clip,), fast_mode=True)
    padded = torch.cat([clip, clip[:, -1:] + 7.0], dim=1)
    torch.testing.assert_close(head_pose(padded, lengths=torch.tensor([6, 6]))[:, :6], head_pose(clip))


def test_motion_features_of_the_pose(rng: torch.Generator) -> None:
    clip = face(rng)[:, None] + 0.05 * torch.randn(1, 9, 68, 2, generator=rng, dtype=torch.float64)
    features = motion_features(clip, motion=POSE_MOTION, region="pose")
    assert features.shape == (1, 9, region_points("pose"), motion_channels(POSE_MOTION, 1)) == (1, 9, 8, 3)
    torch.testing.assert_close(features[..., 0], 8.0 * head_pose(clip))
    torch.testing.assert_close(features[:, 1:, :, 1], 4.0 * features[..., 0].diff(dim=1))
    assert motion_features(clip, motion=("shape",), region="expression").shape == (1, 9, 48, 2)


def test_wrong_arguments(rng: torch.Generator) -> None:
    with pytest.raises(ShapeError, match="68"):
        head_pose(torch.rand(1, 3, 20, 2))
    with pytest.raises(ConfigError, match="no 'shape'"):
        motion_features(torch.rand(1, 3, 68, 2), motion=("shape",), region="pose")
    syncer = SyncerConfig(width=8, embed=4, points=8, motion_channels=3)
    with pytest.raises(ConfigError, match=r"`syncer.motion_channels`: expected 3"):
        SyncerPyramidConfig(syncer=SyncerConfig(points=8, motion_channels=5), motion=POSE_MOTION, region="pose")
    with pytest.raises(ConfigError, match="`remove_lips`"):
        SyncerPyramidConfig(syncer=SyncerConfig(points=20, motion_channels=2), region="mouth", remove_lips=True)
    pyramid = SyncerPyramid(SyncerPyramidConfig(syncer=syncer, motion=POSE_MOTION, region="pose", remove_lips=True))
    assert pyramid.embed_motion(torch.rand(2, 40, 68, 2, generator=rng))[3].shape == (2, 1, 4)
