r"""Pose of the head, from the points that speech does not move.

The pose is the affine map from a reference head to the head of each frame, plus the parallax of the nose. In two dimensions a
turn and a nod show as a stretch of the head and as a shift of the nose against the eyes, so that these numbers replace angles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avsync._checks import checked
from avsync.landmarks.geometry import check_landmarks, reference_face
from avsync.landmarks.head_frame import head_size
from avsync.landmarks.layouts import NUM_POINTS, REGION_SLICES

POSE_PARAMETERS = ("shift x", "shift y", "roll", "growth", "stretch", "shear", "parallax x", "parallax y")
"""Parameters of :func:`head_pose`, in order."""
_NOSE = 5  # tip of the bridge (point 30) among the points of the region "head"
_UNITS = (1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 18.0, 18.0)
_EPS = 1e-6


@checked
def head_pose(landmarks: Tensor, *, reference: str | Tensor = "mean", lengths: Tensor | None = None) -> Tensor:
    r"""Compute the pose of the head in every frame, relative to a reference face.

    With :math:`q_i` the points of the region "head" of the reference face, centred and in sizes of its head, and :math:`d_i`
    their displacements in the same unit, the pose is the least-squares fit :math:`d_i \approx t + A q_i`. Its parameters are
    the shift
    :math:`t`; roll :math:`(A_{21} - A_{12}) / 2`, growth :math:`(A_{11} + A_{22}) / 2`, stretch :math:`(A_{11} - A_{22}) / 2`
    and shear
    :math:`(A_{12} + A_{21}) / 2`, each times 2; and the residual of the tip of the nose, times 18. The factors bring all
    parameters to about the same magnitude in real clips.

    Args:
        landmarks: (batch, frames, points=68, dims), any unit; dims after the second are ignored.
        reference: The face that the pose is relative to: "first", "mean", or a face (batch, points, dims).
        lengths: (batch,), number of valid frames; only "mean" needs it.

    Returns:
        (batch, frames, 8), in the order of :data:`POSE_PARAMETERS`; zeros for the reference face.

    Raises:
        ShapeError: Not 68 points, or fewer than two dims.

    Example:
        >>> face = torch.rand(1, 1, 68, 2)
        >>> pose = head_pose(torch.cat([face, 1.1 * face], dim=1), reference="first")
        >>> round(pose[0, 1, 3].item(), 3)  # growth, times 2
        0.2

    Source: ours.
    """
    check_landmarks(landmarks, min_dims=2, points=NUM_POINTS)
    face = reference_face(landmarks, reference, lengths=lengths)
    size = head_size(face)[:, None, None]
    base = torch.cat([face[:, run] for run in REGION_SLICES["head"]], dim=1)[..., :2]
    moved = torch.cat([landmarks[:, :, run] for run in REGION_SLICES["head"]], dim=2)[..., :2]
    displaced = (moved - base[:, None]) / size[:, None]
    base = (base - base.mean(dim=1, keepdim=True)) / size
    shift = displaced.mean(dim=2)
    with torch.autocast(device_type=landmarks.device.type, enabled=False):
        # The normal equations of a centred base separate into the shift and a 2 x 2 system, which is inverted by hand.
        moment = base.transpose(1, 2) @ base
        (xx, xy), (_, yy) = (row.unbind(-1) for row in moment.unbind(-2))
        determinant = (xx * yy - xy * xy).clamp_min(_EPS)
        inverse = torch.stack([torch.stack([yy, -xy], -1), torch.stack([-xy, xx], -1)], -2) / determinant[:, None, None]
        matrix = displaced.transpose(2, 3) @ (base @ inverse)[:, None]
        residual = displaced[:, :, _NOSE] - shift - (matrix @ base[:, None, _NOSE, :, None])[..., 0]
    (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
    x, y = residual.unbind(-1)
    parameters = (*shift.unbind(-1), (c - b) / 2, (a + d) / 2, (a - d) / 2, (b + c) / 2, x, y)
    return torch.stack([unit * value for unit, value in zip(_UNITS, parameters, strict=True)], dim=-1)
