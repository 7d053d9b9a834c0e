"""What syncers see of a face: invariances of shape, regions, channels, and the pyramid that is configured with them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avsync.errors import ArgumentError, ConfigError, ShapeError
from avsync.landmarks.geometry import displacement
from avsync.landmarks.head_frame import head_size, local_shape
from avsync.landmarks.layouts import ANCHORS, REGIONS
from avsync.landmarks.motion_features import MOTIONS, frame_velocity, motion_channels, motion_features
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pretrained import config_from_dict, config_to_dict
from avsync.pyramid import temporal_pyramid


def faces(frames: int = 7, *, batch: int = 2, dims: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    face = torch.rand(batch, 1, 68, dims, generator=generator)
    return face + 0.02 * torch.randn(batch, frames, 68, dims, generator=generator)


@given(angle=st.floats(-3.0, 3.0), scale=st.floats(0.5, 50.0), shift=st.floats(-100.0, 100.0))
def test_shape_knows_neither_place_nor_size_nor_tilt(angle: float, scale: float, shift: float) -> None:
    x = faces().double()
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]).double()
    torch.testing.assert_close(local_shape(scale * x @ turn + shift), local_shape(x), atol=1e-5, rtol=1e-5)


def test_shape_of_a_frame_is_upright_centred_and_of_unit_size() -> None:
    x = faces(1)
    shape = local_shape(x)
    assert shape[..., ANCHORS, :].mean(dim=-2).abs().max() < 1e-5
    eyes = shape[..., (42, 45), :].mean(dim=-2) - shape[..., (36, 39), :].mean(dim=-2)
    assert eyes[..., 1].abs().max() < 1e-5
    assert (eyes[..., 0] > 0).all()
    torch.testing.assert_close(head_size(shape[:, 0]), torch.ones(2), atol=1e-4, rtol=1e-4)


def test_an_open_mouth_that_stays_open_is_seen_in_the_shape_and_not_in_the_displacement() -> None:
    shut = faces(1).expand(2, 5, 68, 2).clone()
    open_ = shut.clone()
    open_[..., 55:60, 1] += 0.3
    assert displacement(open_, reference="mean").abs().max() < 1e-5
    difference = motion_features(open_, motion=("shape",), region="mouth") - motion_features(
        shut, motion=("shape",), region="mouth"
    )
    assert difference.abs().amax() > 0.1


def test_the_parts_come_in_order() -> None:
    x, average = faces(), torch.rand(68, 2)
    features = motion_features(x, motion=MOTIONS, average_shape=average, scale=3.0)
    shape = 3.0 * (local_shape(x) - average)
    torch.testing.assert_close(features[..., :2], displacement(x, reference="mean", scale=3.0))
    torch.testing.assert_close(features[..., 2:4], shape)
    torch.testing.assert_close(features[..., 4:6], 4.0 * frame_velocity(shape))
    torch.testing.assert_close(features[..., 6], 2.0 * (frame_velocity(shape).square().sum(-1) + 1e-4).sqrt())
    assert features.shape[-1] == motion_channels(MOTIONS, 2) == 7


def test_rates_are_those_of_the_displacement_where_no_shape_is_shown() -> None:
    x = faces()
    features = motion_features(x, motion=("displacement", "velocity"), region="head")
    torch.testing.assert_close(features[..., 2:], 4.0 * frame_velocity(features[..., :2]))


def test_a_turning_head_has_no_speed_of_lips() -> None:
    """A face that is turned in the picture's plane: fast by its displacement, at rest in coordinates of the head."""
    angle = torch.linspace(0, 1, 10)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).unflatten(-1, (2, 2))
    turning = (faces(1)[:1] - 0.5) @ turn
    of_shape = motion_features(turning, motion=("shape", "speed"))[..., 2]
    of_place = motion_features(turning, motion=("displacement", "speed"))[..., 2]
    assert of_shape.max() < 0.03
    assert of_place.mean() > 0.2


def test_speed_outlives_the_pyramid() -> None:
    """Lips that open and shut ten times a second: at 3 Hz their place is a constant, their average speed is not."""
    x = faces(1)[:1].expand(1, 80, 68, 2).clone()
    x[..., 55:60, 1] += 0.05 * torch.sin(torch.arange(80.0) * 2.5)[None, :, None]
    place, speed = (
        temporal_pyramid(motion_features(x, motion=("shape", "speed"), region="mouth"), 4)[3][..., channel]
        for channel in (1, 2)
    )
    assert (place - place.mean(dim=1, keepdim=True)).abs().amax() < 0.1 * speed.amax()
    assert speed[..., 7:12].mean() > 3 * speed[..., :5].mean()


def test_a_single_frame_has_no_velocity() -> None:
    assert motion_features(faces(1), motion=("shape", "velocity"))[..., 2:].abs().max() == 0


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_sees_nothing_else(region: str) -> None:
    x = faces().requires_grad_()
    motion_features(
        x, motion=("displacement",), region=region, reference=torch.zeros(2, 68, 2) + torch.rand(68, 2)
    ).sum().backward()
    moved = x.grad.abs().amax(dim=(0, 1, 3)) > 0
    assert moved.nonzero().flatten().tolist() == list(REGIONS[region])


def test_gradients_stay_finite_where_faces_are_degenerate() -> None:
    for x in (torch.zeros(1, 3, 68, 2), torch.ones(1, 3, 68, 2)):
        x.requires_grad_()
        motion_features(x, motion=MOTIONS).square().sum().backward()
        assert torch.isfinite(x.grad).all()


def test_shape_needs_the_layout() -> None:
    with pytest.raises(ShapeError, match=r"points=68"):
        local_shape(torch.rand(1, 3, 20, 2))
    with pytest.raises(ShapeError, match=r"expected 68 points for the region 'mouth', got 20"):
        motion_features(torch.rand(1, 3, 20, 2), motion=("displacement",), region="mouth")


def test_configs_that_do_not_fit_say_what_would() -> None:
    with pytest.raises(ConfigError, match=r"`syncer.points`: expected 20 .* got 68"):
        SyncerPyramidConfig(region="mouth")
    with pytest.raises(ConfigError, match=r"`syncer.motion_channels`: expected 4 .* got 3"):
        SyncerPyramidConfig(motion=("displacement", "shape"), syncer=SyncerConfig(motion_channels=3))


@pytest.mark.parametrize(
    "motion", [(), "shape", ("velocity",), ("shape", "displacement"), ("shape", "shape"), ("shape", "pose")]
)
def test_motions_that_there_are_not(motion: Any) -> None:
    with pytest.raises(ConfigError, match=r"`motion`: expected (some of|tuple)"):
        SyncerPyramidConfig(motion=motion, syncer=SyncerConfig(motion_channels=4))
    with pytest.raises(ArgumentError, match=r"`motion`: expected (some of|Sequence)"):
        motion_features(faces(), motion=motion)


@pytest.mark.parametrize(
    ("motion", "dims", "channels"), [(MOTIONS, 2, 7), (MOTIONS, 3, 10), (("shape", "speed"), 3, 4), (("displacement",), 1, 1)]
)
def test_landmark_dims_and_motion_channels_fit_together(motion: tuple[str, ...], dims: int, channels: int) -> None:
    syncer = SyncerConfig(motion_channels=channels)
    assert SyncerPyramidConfig(motion=motion, landmark_dims=dims, syncer=syncer).interface.landmark_dims == dims
    with pytest.raises(ConfigError, match=f"`syncer.motion_channels`: expected {channels} .* got {channels + 1}"):
        SyncerPyramidConfig(motion=motion, landmark_dims=dims, syncer=SyncerConfig(motion_channels=channels + 1))


def test_configs_of_the_old_form_still_load() -> None:
    config = SyncerPyramidConfig(motion=MOTIONS, syncer=SyncerConfig(motion_channels=7))
    old = config_to_dict(config)
    del old["landmark_dims"]
    old["syncer"]["dims"] = old["syncer"].pop("motion_channels")
    assert config_from_dict(SyncerPyramidConfig, old) == config


@pytest.mark.parametrize(
    ("motion", "region", "channels"),
    [
        (("displacement", "shape"), "face", 4),
        (MOTIONS, "face", 7),
        (("shape", "velocity", "speed"), "mouth", 5),
        (("displacement",), "head", 2),
    ],
)
def test_a_pyramid_of_each_kind_takes_plain_landmarks(motion: tuple[str, ...], region: str, channels: int) -> None:
    config = SyncerPyramidConfig(
        syncer=SyncerConfig(width=8, embed=4, points=len(REGIONS[region]), motion_channels=channels),
        motion=motion,
        region=region,
        num_levels=2,
    )
    pyramid = SyncerPyramid(config=config).eval()
    pyramid.set_average_shape(torch.rand(68, 2))
    x = faces(40).requires_grad_()
    levels = pyramid(x, torch.rand(2, 160, 26))
    assert [level.motion.shape for level in levels] == [(2, 36, 4), (2, 16, 4)]
    sum(level.motion.square().sum() for level in levels).backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0
    # Padding behind a clip changes nothing here either.
    padded = torch.cat([x.detach(), torch.full((2, 8, 68, 2), torch.nan)], dim=1)
    lengths = torch.tensor([40, 40])
    again = pyramid.embed_motion(padded, lengths=lengths)
    torch.testing.assert_close(again[0][:, :36], levels[0].motion)


def test_shape_pyramids_compile_as_one_graph() -> None:
    config = SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4, motion_channels=7), motion=MOTIONS, num_levels=1)
    pyramid = SyncerPyramid(config=config).eval()
    x = faces(12)
    compiled = torch.compile(pyramid.embed_motion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], pyramid.embed_motion(x)[0])


def test_degenerate_faces_have_gradients_like_others() -> None:
    """Faces whose points, or whose eyes, coincide: no direction and no size may be made of rounding noise."""

    def largest(x: torch.Tensor, reference: str) -> float:
        x = x.clone().requires_grad_()
        motion_features(x, motion=MOTIONS, reference=reference).sum().backward()
        return float(x.grad.abs().max())

    usual = faces(3, batch=1)
    eyes_together = usual.clone()
    eyes_together[..., 36:48, :] = 0.5
    for reference in ("first", "mean"):
        for x in (torch.zeros(1, 3, 68, 2), torch.full((1, 3, 68, 2), 300.0), eyes_together):
            assert largest(x, reference) < 100 * largest(usual, reference)
