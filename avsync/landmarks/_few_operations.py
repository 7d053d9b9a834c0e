"""Motion features in few operations, with gradients written out, for devices that spend their time on launching operations.

The values are those of :mod:`avsync.landmarks.motion_features`. Points of two coordinates are complex numbers here, so that a
turn is one product. Second derivatives are not available.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def noise_of(face: Tensor) -> Tensor:
    """Return the length up to which lengths are rounding noise: (batch, points, dims) to (batch, 1)."""
    return 1e-6 * torch.linalg.vector_norm(face.detach(), math.inf, dim=(-2, -1))[:, None]


class Displacement(torch.autograd.Function):
    """Displacement of points from a face in its heights: :func:`.geometry.displacement`."""

    @staticmethod
    def forward(ctx: Any, landmarks: Tensor, face: Tensor, noise: Tensor, scale: float) -> Tensor:
        y = face[..., 1]
        ends = torch.stack(torch.aminmax(y, dim=-1), dim=1)
        height = ends[:, 1:] - ends[:, :1]
        factor = (scale / torch.where(height > noise, height, 1.0))[..., None, None]
        displaced = (landmarks - face[:, None]) * factor
        ctx.save_for_backward(displaced, y, ends, height, noise, factor)
        return displaced

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        displaced, y, ends, height, noise, factor = ctx.saved_tensors
        of_landmarks = gradient * factor
        if not ctx.needs_input_grad[1]:
            return of_landmarks, None, None, None
        of_face = -of_landmarks.sum(dim=1)
        # The height is that of the highest and the lowest point, or of several points in equal shares.
        extreme = y[:, None] == ends[..., None]
        shares = extreme / extreme.sum(dim=-1, keepdim=True)
        of_height = (gradient * displaced).sum(dim=(1, 2, 3))[:, None] / torch.where(height > noise, height, math.inf)
        of_face[..., 1].addcmul_(shares[:, 0] - shares[:, 1], of_height)
        return of_landmarks, of_face, None, None


class UprightShape(torch.autograd.Function):
    r"""Faces that are centred, turned upright and divided by the size of a head: :func:`.head_frame.upright_shape`, scaled.

    With the points :math:`c` of a face from its anchor, the axis :math:`a` of the eyes and the size :math:`s` of the head, the
    shape is :math:`c \, w` with :math:`w = |a| / (a \, s)`. Only the phase of :math:`a` matters, so its gradient is
    perpendicular to it. A shift of all points has no effect, so no gradient passes through the origin.
    """

    @staticmethod
    def forward(
        ctx: Any,
        landmarks: Tensor,
        face: Tensor,
        noise: Tensor,
        weights: Tensor,
        average: Tensor | None,
        scale: float,
        anchor: int,
    ) -> Tensor:
        origin = face[:, anchor : anchor + 1]
        vectors = weights[1:] @ (face - origin)
        lengths = torch.linalg.vector_norm(vectors, dim=-1)
        some = lengths > noise
        finite = torch.where(some, lengths, math.inf)  # vectors without length have no direction
        size = F.threshold((lengths * some).sum(dim=-1), 0.0, 1.0)[:, None]
        local = landmarks - origin[:, None]
        frame = weights[:2] @ local
        centred = torch.view_as_complex(local - frame[..., :1, :])
        axis = torch.view_as_complex(frame[..., 1, :])
        length = axis.abs()
        some = length > noise
        turn = torch.where(some, length / axis, 1.0) * (scale / size)
        ctx.save_for_backward(weights, vectors / finite[..., None], size, centred, axis, length, some, turn)
        shape = torch.view_as_real(centred * turn[..., None])
        return shape if average is None else shape.sub_(average, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(device_type=gradient.device.type, enabled=False):
            return UprightShape._gradients(ctx, gradient)

    @staticmethod
    def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, directions, size, centred, axis, length, some, turn = ctx.saved_tensors
        of_centred = torch.view_as_complex(gradient.contiguous()) * turn.conj()[..., None]
        # The real part is the gradient of the logarithm of the scale, the imaginary part that of the angle of the axis.
        effect = torch.linalg.vecdot(of_centred, centred)
        angle = effect.imag / torch.where(some, length, math.inf).square()
        of_frame = torch.view_as_real(torch.stack([of_centred.sum(dim=-1), axis * (-1j * angle)], dim=-1))
        points = weights[:2].transpose(0, 1).expand(of_frame[..., 0, 0].numel(), -1, -1)
        of_landmarks = torch.baddbmm(torch.view_as_real(of_centred).flatten(0, 1), points, of_frame.flatten(0, 1), alpha=-1)
        of_size = (effect.real.sum(dim=-1, keepdim=True) / -size)[..., None]
        of_face = weights[1:].transpose(0, 1) @ (directions * of_size) if ctx.needs_input_grad[1] else None
        return of_landmarks.view_as(gradient), of_face, None, None, None, None, None


class JoinedFeatures(torch.autograd.Function):
    """Features that are given, velocity and speed next to each other, (batch, frames, points, channels).

    The rates are those of the last features that are given: see :func:`.motion_features.motion_features`. The memory begins
    with the frames, because the pyramid is then one product for all clips.
    """

    @staticmethod
    def forward(ctx: Any, velocity: float, speed: float, floor: float, *given: Tensor) -> Tensor:
        steps = given[-1][:, 1:] - given[-1][:, :-1]
        rate = torch.cat([steps[:, :1], steps], dim=1)
        pace = torch.hypot(torch.linalg.vector_norm(rate, dim=-1, keepdim=True), rate.new_full((), floor))
        ctx.save_for_backward(rate, pace)
        ctx.velocity, ctx.speed, ctx.sizes = velocity, speed, [x.shape[-1] for x in (*given, rate, pace)]
        parts = (*given, velocity * rate, speed * pace)
        return torch.cat([part.transpose(0, 1) for part in parts], dim=-1).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rate, pace = ctx.saved_tensors
        *given, of_velocity, of_speed = gradient.split(ctx.sizes, dim=-1)
        of_rate = torch.addcmul(of_velocity, of_speed / pace, rate, value=ctx.speed / ctx.velocity)
        of_rate[:, 1].add_(of_rate[:, 0])  # the first frame has the velocity of the second one
        positions = given[-1].clone()
        positions[:, 1:].add_(of_rate[:, 1:], alpha=ctx.velocity)
        positions[:, :-1].sub_(of_rate[:, 1:], alpha=ctx.velocity)
        return None, None, None, *given[:-1], positions
