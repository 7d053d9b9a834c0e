"""Facial landmarks: layouts, geometry, motion features, principal motions, augmentation and raster images."""

from __future__ import annotations

from avsync.landmarks.augmentation import LandmarkAugment, augment
from avsync.landmarks.frontal import frontalise
from avsync.landmarks.geometry import (
    NormalisedLandmarks,
    accumulate,
    denormalise,
    displacement,
    face_height,
    flip,
    mouth_opening,
    normalise,
    reference_face,
    velocity,
)
from avsync.landmarks.layouts import (
    ANCHORS,
    BROWS,
    EYES,
    FLIP_INDEX,
    INNER_LIP,
    JAW,
    MOUTH,
    NOSE,
    NUM_POINTS,
    OUTER_LIP,
    REGIONS,
)
from avsync.landmarks.lip_leak import fit_lip_leak, remove_lip_leak
from avsync.landmarks.motion_features import MOTIONS, frame_velocity, head_size, local_shape, motion_channels, motion_features
from avsync.landmarks.principal_motions import PrincipalMotions, principal_motions
from avsync.landmarks.raster import rasterise, temporal_image, temporal_weights, to_pixels
from avsync.landmarks.tracking_faults import dropped_frames, held_frames, repeat_frames, smooth_frames, track_roughly

__all__ = [
    "ANCHORS",
    "BROWS",
    "EYES",
    "FLIP_INDEX",
    "INNER_LIP",
    "JAW",
    "MOTIONS",
    "MOUTH",
    "NOSE",
    "NUM_POINTS",
    "OUTER_LIP",
    "REGIONS",
    "LandmarkAugment",
    "NormalisedLandmarks",
    "PrincipalMotions",
    "accumulate",
    "augment",
    "denormalise",
    "displacement",
    "dropped_frames",
    "face_height",
    "fit_lip_leak",
    "flip",
    "frame_velocity",
    "frontalise",
    "head_size",
    "held_frames",
    "local_shape",
    "motion_channels",
    "motion_features",
    "mouth_opening",
    "normalise",
    "principal_motions",
    "rasterise",
    "reference_face",
    "remove_lip_leak",
    "repeat_frames",
    "smooth_frames",
    "temporal_image",
    "temporal_weights",
    "to_pixels",
    "track_roughly",
    "velocity",
]
