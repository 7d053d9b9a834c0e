"""Layouts: indices, mirror images, maps to 68 points, and syncers configured by a layout."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from avsync import MultiScaleSyncLoss, SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync import landmarks as lm
from avsync.corpus import synthetic_clip
from avsync.errors import ArgumentError, ConfigError, ShapeError
from avsync.landmarks.layouts import LANDMARKS68, MEDIAPIPE478
from avsync.metrics import multi_scale_offset
from avsync.pretrained import config_from_dict, config_to_dict

NAMES = tuple(lm.LAYOUTS)
SMALL = SyncerConfig(width=8, embed=4)


def motion_of(layout: lm.Layout, *, dims: int | None = None, frames: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, frames, layout.points, layout.dims[0] if dims is None else dims, generator=generator)


@pytest.mark.parametrize("name", NAMES)
def test_mirror_twice_is_the_identity_and_keeps_the_regions(name: str) -> None:
    layout = lm.find_layout(name)
    x = motion_of(layout)
    if not layout.mirror:
        with pytest.raises(ArgumentError, match="a layout with a mirror image"):
            lm.mirror(x, layout)
        return
    torch.testing.assert_close(lm.mirror(lm.mirror(x, name, width=3.0), name, width=3.0), x)
    for region in (layout.mouth, layout.head):
        if layout.points != 478 or region == layout.mouth:  # the map of the mesh to 68 points is not symmetric at the jaw
            assert {layout.mirror[point] for point in region} == set(region)


def test_mirror_of_the_mesh_agrees_with_the_68_points() -> None:
    index = torch.tensor(MEDIAPIPE478.mirror)
    known = {61: 291, 33: 263, 234: 454, 70: 300, 468: 473}
    assert {point: int(index[point]) for point in known} == known
    x = motion_of(MEDIAPIPE478)
    mapped = lm.to_landmarks68(lm.mirror(x, MEDIAPIPE478), MEDIAPIPE478)
    wanted = lm.mirror(lm.to_landmarks68(x, MEDIAPIPE478), LANDMARKS68)
    inside = [point for point in range(68) if point not in (2, 3, 4, 5, 7, 9, 11, 12, 13, 14)]
    torch.testing.assert_close(mapped[..., inside, :], wanted[..., inside, :])


def test_mirror_of_rotations_is_the_rotation_of_the_mirror_image() -> None:
    layout = lm.flame_layout(expressions=0)
    turn = torch.tensor([0.3, -0.4, 0.2])
    mirrored = lm.mirror(torch.cat([turn, turn])[None, :, None], layout)[0, 3:, 0]

    def matrix(vector: Tensor) -> Tensor:
        x, y, z = vector.tolist()
        return torch.linalg.matrix_exp(torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]))

    across = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    torch.testing.assert_close(matrix(mirrored), across @ matrix(turn) @ across)


def test_blendshapes_swap_left_and_right_by_name() -> None:
    assert len(lm.ARKIT_NAMES) == len(set(lm.ARKIT_NAMES)) == len(set(lm.MEDIAPIPE_BLENDSHAPE_NAMES)) == 52
    layout = lm.find_layout("mediapipe52")
    names = lm.MEDIAPIPE_BLENDSHAPE_NAMES
    assert (names[0], names[25]) == ("_neutral", "jawOpen")  # as in MediaPipe's face landmarker
    for number, other in enumerate(layout.mirror):
        assert names[number].replace("Left", "#").replace("Right", "#") == names[other].replace("Left", "#").replace(
            "Right", "#"
        )
    assert not lm.blendshape_layout(["jawOpen", "mouthSmileLeft"]).mirror


def test_a_subset_keeps_what_remains_whole() -> None:
    lips = MEDIAPIPE478.subset(MEDIAPIPE478.mouth)
    assert lips.mouth == tuple(range(40)) and lips.head == () and lips.to_68 == ()
    x = motion_of(MEDIAPIPE478)
    chosen = x[:, :, list(MEDIAPIPE478.mouth)]
    torch.testing.assert_close(lm.mirror(chosen, lips), lm.mirror(x, MEDIAPIPE478)[:, :, list(MEDIAPIPE478.mouth)])
    used = sorted({point for entry in MEDIAPIPE478.to_68 for point in entry})
    few = MEDIAPIPE478.subset(used)
    torch.testing.assert_close(lm.to_landmarks68(x[:, :, used], few), lm.to_landmarks68(x, MEDIAPIPE478))
    assert few.mirror and not MEDIAPIPE478.subset(used[1:]).to_68


def test_weights_of_the_map() -> None:
    corners, shares = [[0, 1, 2]] * 68, [[0.2, 0.3, 0.5]] * 68
    mesh = lm.mesh_layout(10, to_68=corners, to_68_weights=shares)
    x = motion_of(mesh)
    wanted = (x[:, :, :3] * torch.tensor([0.2, 0.3, 0.5])[:, None]).sum(dim=2, keepdim=True).expand(-1, -1, 68, -1)
    torch.testing.assert_close(lm.to_landmarks68(x, mesh), wanted)
    torch.testing.assert_close(lm.to_landmarks68(x, mesh, dims=2), wanted[..., :2])


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"points": 0}, "points"),
        ({"dims": (4,)}, "dims"),
        ({"mouth": (0, 0)}, "mouth"),
        ({"head": (5,)}, "head"),
        ({"mirror": (1, 2, 0, 3)}, "mirror"),
        ({"mirror_signs": (1.0,) * 4}, "mirror_signs"),
        ({"size": (1.0,)}, "size"),
        ({"dims": (1,)}, "size"),
        ({"to_68": ((0,),)}, "to_68"),
        ({"to_68": ((9,),) * 68}, "to_68"),
        ({"to_68": ((0, 1),) * 68, "to_68_weights": ((0.5, 0.6),) * 68}, "to_68_weights"),
    ],
)
def test_layouts_that_do_not_fit_together_are_errors(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=f"`{field}`"):
        lm.Layout(**({"name": "mine", "points": 4} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["arkit53", 3, ["arkit52"]])
def test_a_pyramid_names_the_layouts_that_exist(layout: object) -> None:
    with pytest.raises(ConfigError, match=r"`layout`: expected a Layout or one of .*'arkit52'.*, got "):
        SyncerPyramidConfig(layout=layout)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("region", ["face", "mouth", "head"])
def test_a_pyramid_is_configured_by_a_layout(name: str, region: str) -> None:
    layout = lm.find_layout(name)
    if region != "face" and not getattr(layout, region):
        with pytest.raises(ConfigError, match="`region`: expected one of"):
            SyncerPyramidConfig(layout=name, region=region)  # type: ignore[arg-type]
        return
    motion = ("displacement", "shape", "velocity", "speed")
    arguments: dict[str, Any] = {"landmark_dims": layout.dims[0], "region": region, "motion": motion, "syncer": SMALL}
    config = SyncerPyramidConfig(layout=layout, num_levels=2, reference="mean", **arguments)
    named = SyncerPyramidConfig(layout=name, num_levels=2, reference="mean", **arguments)  # type: ignore[arg-type]
    assert named == config and named.layout is layout
    assert config_from_dict(SyncerPyramidConfig, config_to_dict(config)) == config
    assert config.syncer.points == len(layout.region(region))
    pyramid = SyncerPyramid(config)
    x = motion_of(layout, frames=12).requires_grad_()
    levels = pyramid(x, torch.zeros(2, 48, 26))
    assert [level.motion.shape[1] for level in levels] == [8, 2]
    torch.cat([level.motion.flatten() for level in levels]).square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0
    with pytest.raises(ShapeError, match="landmarks"):
        pyramid(x[:, :, 1:].detach(), torch.zeros(2, 48, 26))


def test_the_size_of_coefficients_is_constant() -> None:
    """A neutral first frame of blendshapes has no height; it must not become the unit of length."""
    x = torch.zeros(1, 10, 52, 1)
    x[:, 5:, 17] = 0.5
    motion = lm.motion_features(x, motion=("displacement",), layout="arkit52", reference="first")
    assert motion.max() == 4.0  # 8 times 0.5
    flame = torch.zeros(1, 10, 56, 1)
    flame[:, 5:] = 1.0
    moved = lm.motion_features(flame, motion=("displacement", "shape"), layout="flame56", reference="first")[0, -1]
    assert moved[0].tolist() == [1.0, 1.0] and moved[-1].tolist() == [8.0, 8.0]


def test_shape_of_a_mesh_ignores_position_and_size() -> None:
    mesh = lm.mesh_layout(30, head=range(10))
    x = motion_of(mesh)
    first = lm.motion_features(x, motion=("shape",), layout=mesh)
    torch.testing.assert_close(lm.motion_features(3 * x + 7, motion=("shape",), layout=mesh), first, atol=1e-4, rtol=0)


def test_shape_of_mediapipe_is_that_of_its_68_points() -> None:
    clip = torch.from_numpy(synthetic_clip(seconds=2.0).landmarks)[None]
    mesh = embedded(clip)
    own = lm.local_shape(mesh, layout="mediapipe478")
    torch.testing.assert_close(
        lm.to_landmarks68(own, "mediapipe478"), lm.local_shape(lm.to_landmarks68(mesh, "mediapipe478")), atol=1e-4, rtol=0
    )


def embedded(landmarks: Tensor) -> Tensor:
    """Return a mesh of 478 points in which a face of 68 points is one of the least-squares solutions."""
    return torch.linalg.pinv(lm.map_weights("mediapipe478")) @ landmarks


@pytest.mark.parametrize("name", ["mediapipe478", "coco_wholebody133", "landmarks68"])
def test_pretrained_models_accept_layouts_that_map_to_theirs(name: str) -> None:
    clip = synthetic_clip(seconds=3.0)
    landmarks, waveform = torch.from_numpy(clip.landmarks)[None], torch.from_numpy(clip.waveform)[None]
    own = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps")
    x = torch.linalg.pinv(lm.map_weights(name)) @ landmarks
    mapped = lm.to_landmarks68(x, name)
    deep = torch.cat([x, torch.randn_like(x[..., :1])], dim=-1).requires_grad_()
    loss = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps", layout=name)
    found = loss(deep, waveform)
    torch.testing.assert_close(found.total, own(mapped, waveform).total)
    face = deep.detach()[:, 0]
    torch.testing.assert_close(loss(deep, waveform, reference=face).total, own(mapped, waveform, reference=mapped[:, 0]).total)
    found.total.backward()
    assert deep.grad is not None and deep.grad[..., :2].abs().sum() > 0 and deep.grad[..., 2].abs().sum() == 0
    syncers = SyncerPyramid.from_pretrained("landmarks68-25fps")
    features = loss.audio_transform(waveform)  # type: ignore[misc]
    ours = multi_scale_offset(syncers.for_layout(name), deep.detach(), features)
    assert [level.offset_frames.item() for level in ours] == [
        level.offset_frames.item() for level in multi_scale_offset(syncers, mapped, features)
    ]


def test_layouts_that_do_not_map_and_points_of_too_many_dims_are_our_errors() -> None:
    with pytest.raises(ArgumentError, match=r"a layout that maps to that of the syncers.*SyncerPyramidConfig"):
        MultiScaleSyncLoss.from_pretrained("landmarks68-25fps", layout="arkit52")
    with pytest.raises(ArgumentError, match="a Layout or one of 'landmarks68'"):
        MultiScaleSyncLoss.from_pretrained("landmarks68-25fps", layout="arkit53")
    loss = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps")
    with pytest.raises(ShapeError, match=r"expected 2 dims.*`landmarks\[\.\.\., :2\]`"):
        loss(torch.rand(1, 40, 68, 3), torch.rand(1, 160, 26))
    pyramid = SyncerPyramid(SyncerPyramidConfig(layout=lm.find_layout("arkit52"), syncer=SMALL))
    with pytest.raises(ShapeError, match="landmarks"):
        pyramid(torch.rand(1, 40, 52), torch.rand(1, 160, 26))
    with pytest.raises(ShapeError, match=r"add an axis: `landmarks\[\.\.\., None\]`"):
        lm.mirror(torch.rand(1, 40, 52), "arkit52")
    flat = dataclasses.replace(LANDMARKS68, name="flat", dims=(2,))
    deep = SyncerPyramid(SyncerPyramidConfig(landmark_dims=3, syncer=SyncerConfig(width=8, embed=4, motion_channels=3)))
    with pytest.raises(ArgumentError, match="at least 3 dims"):
        deep.for_layout(flat)
    with pytest.raises(ConfigError, match="`fps`: expected 25"):
        SyncerPyramidConfig(audio="log-mel", fps=30)
