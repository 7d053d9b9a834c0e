"""Right calls of the functions of landmarks."""

from __future__ import annotations

import torch

from avsync import landmarks as room
from tests.right_calls import Call

FACES = torch.rand(2, 12, 68, 2)
FACE = FACES[:, 0]
LENGTHS = torch.tensor([12, 9])
LAYOUT = room.find_layout("landmarks68")
SPEECH = torch.zeros(2, 12, dtype=torch.bool)
NORMALISED = room.normalise(FACES)

CALLS = {
    "Layout": Call(room.Layout, {"name": "two", "points": 2}),
    "Layout.region": Call(LAYOUT.region, {"name": "mouth"}),
    "Layout.subset": Call(LAYOUT.subset, {"indices": [0, 1, 2]}),
    "blendshape_layout": Call(room.blendshape_layout, {"names": ["jawOpen", "mouthLeft", "mouthRight"]}),
    "find_layout": Call(room.find_layout, {"layout": "landmarks68"}),
    "flame_layout": Call(room.flame_layout, {}),
    "mesh_layout": Call(room.mesh_layout, {"vertices": 70, "mouth": [1, 2], "to_68": [[k] for k in range(68)]}),
    "region_points": Call(room.region_points, {"region": "mouth"}),
    "map_weights": Call(room.map_weights, {"layout": "landmarks68"}),
    "mirror": Call(room.mirror, {"landmarks": FACES, "layout": "landmarks68"}),
    "to_landmarks68": Call(room.to_landmarks68, {"landmarks": FACES, "layout": "landmarks68"}),
    "head_pose": Call(room.head_pose, {"landmarks": FACES, "lengths": LENGTHS}),
    "pause_speed": Call(room.pause_speed, {"landmarks": FACES, "speech": SPEECH}),
    "pause_steps": Call(room.pause_steps, {"speech": SPEECH, "has_audio": SPEECH}),
    "LandmarkAugment": Call(room.LandmarkAugment, {}),
    "LandmarkAugment.forward": Call(room.LandmarkAugment().forward, {"landmarks": FACES}),
    "accumulate": Call(room.accumulate, {"first": FACE, "velocity": FACES}),
    "augment": Call(room.augment, {"landmarks": FACES}),
    "denormalise": Call(room.denormalise, NORMALISED._asdict()),
    "displacement": Call(room.displacement, {"landmarks": FACES, "lengths": LENGTHS}),
    "dropped_frames": Call(room.dropped_frames, {"kept": torch.tensor([[True, False, True]])}),
    "face_height": Call(room.face_height, {"landmarks": FACES, "lengths": LENGTHS}),
    "fit_lip_leak": Call(room.fit_lip_leak, {"landmarks": torch.rand(2, 60, 68, 2)}),
    "flip": Call(room.flip, {"landmarks": FACES}),
    "frame_velocity": Call(room.frame_velocity, {"positions": FACES}),
    "frontalise": Call(room.frontalise, {"landmarks": FACES}),
    "head_size": Call(room.head_size, {"face": FACE}),
    "held_frames": Call(room.held_frames, {"frames": 12, "every": torch.tensor([2, 3]), "phase": torch.tensor([0, 1])}),
    "local_shape": Call(room.local_shape, {"landmarks": FACES, "lengths": LENGTHS}),
    "motion_channels": Call(room.motion_channels, {"motion": ("displacement", "shape"), "dims": 2}),
    "motion_features": Call(room.motion_features, {"landmarks": FACES, "lengths": LENGTHS}),
    "mouth_opening": Call(room.mouth_opening, {"landmarks": FACES}),
    "normalise": Call(room.normalise, {"landmarks": FACES, "lengths": LENGTHS}),
    "principal_motions": Call(room.principal_motions, {"landmarks": FACES, "components": 3}),
    "rasterise": Call(room.rasterise, {"landmarks": FACES, "size": 8, "frame_size": (2.0, 2.0)}),
    "reference_face": Call(room.reference_face, {"landmarks": FACES, "lengths": LENGTHS}),
    "remove_lip_leak": Call(
        room.remove_lip_leak, {"landmarks": FACES, "weights": room.fit_lip_leak(torch.rand(2, 60, 68, 2)), "lengths": LENGTHS}
    ),
    "repeat_frames": Call(room.repeat_frames, {"landmarks": FACES, "newest": torch.arange(12).expand(2, 12)}),
    "smooth_frames": Call(room.smooth_frames, {"landmarks": FACES, "kernel": [0.25, 0.5, 0.25]}),
    "temporal_image": Call(room.temporal_image, {"images": torch.rand(1, 4, 3, 8, 8)}),
    "temporal_weights": Call(room.temporal_weights, {"frames": 4}),
    "to_pixels": Call(room.to_pixels, {"landmarks": FACES, "size": 8, "frame_size": (2.0, 2.0)}),
    "track_roughly": Call(room.track_roughly, {"landmarks": FACES}),
    "velocity": Call(room.velocity, {"landmarks": FACES}),
}
