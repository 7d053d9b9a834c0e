"""Audio2Head/OSTF-style baseline: head pose first, then the rest of the face with a sync loss of a single scale.

The pose is that of a rigid face in the image plane: rotation, scale and translation (Wang et al. 2021, 2022).
"""

from __future__ import annotations

import torch
from shared import Animate, SpeechLSTM, Task, fit, moved
from torch import Tensor

from avsync import MultiScaleSyncLoss
from avsync.corpus import Batch
from avsync.landmarks import REGIONS, normalise


def head_pose(landmarks: Tensor) -> Tensor:
    """Fit a similarity transform from the first face to every face, by least squares over the points of the head.

    Args:
        landmarks: Normalised faces, (clips, frames, points, 2).

    Returns:
        (clips, frames, 4): cosine and sine times the scale, less those of no motion, and the translation.
    """
    rigid = landmarks[:, :, list(REGIONS["head"])]
    centre = rigid.mean(dim=2, keepdim=True)
    first, now = (rigid - centre)[:, :1], rigid - centre
    size = first.square().sum(dim=(2, 3))
    cosine = (first * now).sum(dim=(2, 3)) / size
    sine = (first[..., 0] * now[..., 1] - first[..., 1] * now[..., 0]).sum(dim=2) / size
    shift = (centre - centre[:, :1]).squeeze(2)
    return torch.cat([(cosine - 1)[..., None], sine[..., None], shift], dim=2)


def posed(face: Tensor, pose: Tensor) -> Tensor:
    """Move a normalised face (clips, points, 2) rigidly: displacement (clips, frames, points, 2) for :func:`head_pose`."""
    centre = face[:, list(REGIONS["head"])].mean(dim=1)[:, None, None]
    x, y = (face[:, None] - centre).unbind(-1)
    cosine, sine = pose[..., 0:1], pose[..., 1:2]
    turned = torch.stack([cosine * x - sine * y, sine * x + cosine * y], dim=-1)
    return turned + pose[..., None, 2:]


def train(task: Task, *, steps: int = 300) -> Animate:
    """Train both models and return the function that animates faces."""
    torch.manual_seed(task.preset.gan.seed)
    points, dims = task.material.crops.landmarks.shape[2:]
    heads = SpeechLSTM(task.material, outputs=4)
    lips = SpeechLSTM(task.material, outputs=points * dims, extra=4)
    weights = [1.0] + [0.0] * (task.guide.num_levels - 1)
    sync_loss = MultiScaleSyncLoss(syncers=task.guide, level_weights=weights)

    def head_loss(batch: Batch) -> Tensor:
        error = heads(batch.landmarks[:, 0], batch.audio) - head_pose(normalise(batch.landmarks).landmarks)
        return error.abs().mean() + 10 * error.diff(dim=1).abs().mean()

    def lip_loss(batch: Batch) -> Tensor:
        faces = normalise(batch.landmarks).landmarks
        first, pose = faces[:, 0], head_pose(faces)
        made = posed(first, pose) + lips(first, batch.audio, pose).unflatten(2, (points, dims))
        error = made - (faces - faces[:, :1])
        clip = first[:, None] + made
        return (
            error.abs().mean()
            + 10 * error.diff(dim=1).abs().mean()
            + 0.01 * sync_loss(clip, batch.audio, reference=first).total
        )

    fit(heads, head_loss, task, steps=steps, name="heads")
    fit(lips, lip_loss, task, steps=steps // 2, name="lips")

    @torch.no_grad()
    def animate(face: Tensor, audio: Tensor, rng: torch.Generator) -> Tensor:
        del rng  # a regression has no seeds
        first = normalise(face[:, None]).landmarks[:, 0]
        pose = heads(face, audio)
        return moved(face, posed(first, pose) + lips(first, audio, pose).unflatten(2, (points, dims)))

    return animate
