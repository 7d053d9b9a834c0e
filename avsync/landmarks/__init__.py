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
from avsync.landmarks.head_frame import head_size, local_shape
from avsync.landmarks.head_pose import POSE_PARAMETERS, head_pose
from avsync.landmarks.layouts import (
    ANCHORS,
    ARKIT_NAMES,
    BROWS,
    EYES,
    FLIP_INDEX,
    INNER_LIP,
    JAW,
    LAYOUTS,
    MEDIAPIPE_BLENDSHAPE_NAMES,
    MOUTH,
    NOSE,
    NUM_POINTS,
    OUTER_LIP,
    REGIONS,
    Layout,
    blendshape_layout,
    find_layout,
    flame_layout,
    mesh_layout,
)
from avsync.landmarks.lip_leak import fit_lip_leak, remove_lip_leak
from avsync.landmarks.mapping import map_weights, mirror, to_landmarks68
from avsync.landmarks.motion_features import (
    MOTION_REGIONS,
    MOTIONS,
    frame_velocity,
    motion_channels,
    motion_features,
    region_points,
)
from avsync.landmarks.pauses import PAUSE_MARGIN, pause_speed, pause_steps
from avsync.landmarks.principal_motions import PrincipalMotions, principal_motions
from avsync.landmarks.raster import rasterise, temporal_image, temporal_weights, to_pixels
from avsync.landmarks.tracking_faults import dropped_frames, held_frames, repeat_frames, smooth_frames, track_roughly

__all__ = [
    "ANCHORS",
    "ARKIT_NAMES",
    "BROWS",
    "EYES",
    "FLIP_INDEX",
    "INNER_LIP",
    "JAW",
    "LAYOUTS",
    "MEDIAPIPE_BLENDSHAPE_NAMES",
    "MOTIONS",
    "MOTION_REGIONS",
    "MOUTH",
    "NOSE",
    "NUM_POINTS",
    "OUTER_LIP",
    "PAUSE_MARGIN",
    "POSE_PARAMETERS",
    "REGIONS",
    "LandmarkAugment",
    "Layout",
    "NormalisedLandmarks",
    "PrincipalMotions",
    "accumulate",
    "augment",
    "blendshape_layout",
    "denormalise",
    "displacement",
    "dropped_frames",
    "face_height",
    "find_layout",
    "fit_lip_leak",
    "flame_layout",
    "flip",
    "frame_velocity",
    "frontalise",
    "head_pose",
    "head_size",
    "held_frames",
    "local_shape",
    "map_weights",
    "mesh_layout",
    "mirror",
    "motion_channels",
    "motion_features",
    "mouth_opening",
    "normalise",
    "pause_speed",
    "pause_steps",
    "principal_motions",
    "rasterise",
    "reference_face",
    "region_points",
    "remove_lip_leak",
    "repeat_frames",
    "smooth_frames",
    "temporal_image",
    "temporal_weights",
    "to_landmarks68",
    "to_pixels",
    "track_roughly",
    "velocity",
]
