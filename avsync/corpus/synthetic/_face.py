"""Face of the synthetic talker: 68 points in 3D, gestures, head rotation and a camera.

Lengths are in face heights (chin to brows); x points right and y down in the image, z towards the camera. The projection is
orthographic. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from avsync.corpus.media.info import FloatArray

POINTS = 68
_NECK = np.array([0.0, 0.45, -0.55], np.float32)
"""Centre of the head rotation."""
# Size of one unit of the gestures pitch, yaw, roll (radians), lean (magnification) and rise (face heights, up).
_PITCH, _YAW, _ROLL, _LEAN, _RISE = 0.055, 0.045, 0.030, 0.035, 0.035
_DRIFT = np.array([0.020, 0.030, 0.015, 0.012, 0.008, 0.006], np.float32)  # pitch, yaw, roll, x, y, zoom


def _mirrored(left: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    return [(-x, y, z) for x, y, z in reversed(left)]


def _neutral() -> FloatArray:
    angles = np.linspace(0, np.pi, 17)
    across, down = -np.cos(angles), np.sin(angles)
    x = 0.43 * np.sign(across) * np.abs(across) ** 0.85
    jaw = list(zip(x, -0.19 + 0.81 * down**1.05, 0.10 - 0.62 * np.abs(x / 0.43) ** 2.2, strict=True))
    brow = [(-0.37, -0.305, -0.06), (-0.305, -0.355, 0.03), (-0.23, -0.37, 0.08), (-0.155, -0.355, 0.11), (-0.085, -0.33, 0.12)]
    bridge = [(0.0, -0.215, 0.12), (0.0, -0.13, 0.17), (0.0, -0.045, 0.22), (0.0, 0.035, 0.27)]
    nostril = [(-0.09, 0.09, 0.12), (-0.047, 0.105, 0.16)]
    # Outer corner, upper lid, inner corner, lower lid; the right eye starts at its inner corner.
    eye = [(-0.285, -0.2, -0.02), (-0.24, -0.233, 0.03), (-0.18, -0.232, 0.045), (-0.13, -0.193, 0.03), (-0.18, -0.178, 0.04)]
    eye.append((-0.24, -0.178, 0.03))
    right = [(-x, y, z) for x, y, z in (eye[3], eye[2], eye[1], eye[0], eye[5], eye[4])]
    upper = [(-0.17, 0.285, 0.05), (-0.11, 0.25, 0.10), (-0.042, 0.231, 0.135)]
    lower = [(-0.05, 0.348, 0.125), (-0.115, 0.328, 0.095)]
    inner_upper, inner_lower = [(-0.14, 0.284, 0.06), (-0.052, 0.280, 0.115)], [(-0.052, 0.290, 0.11)]
    points = jaw + brow + _mirrored(brow) + bridge + nostril + [(0.0, 0.115, 0.18)] + _mirrored(nostril) + eye + right
    points += [*upper, (0.0, 0.24, 0.14), *_mirrored(upper), *_mirrored(lower), (0.0, 0.354, 0.13), *lower]
    points += [
        *inner_upper,
        (0.0, 0.282, 0.12),
        *_mirrored(inner_upper),
        *_mirrored(inner_lower),
        (0.0, 0.292, 0.115),
        *inner_lower,
    ]
    return np.array(points, np.float32)


NEUTRAL = _neutral()
"""(68, 3): frontal face at rest, with closed lips."""

_JAW, _BROWS, _UPPER_LIDS, _LOWER_LIDS = slice(0, 17), slice(17, 27), [37, 38, 43, 44], [41, 40, 47, 46]
_MOUTH = slice(48, 68)


def _gesture_basis() -> FloatArray:
    """Return the displacement of each point for one unit of opening, spreading and brow raising, (3, 68, 3)."""
    basis = np.zeros((3, POINTS, 3), np.float32)
    x, y, _ = NEUTRAL.T
    opening, spreading, raising = basis
    middle = np.sqrt(np.clip(1 - (x / 0.175) ** 2, 0, 1))
    for point in (55, 56, 57, 58, 59, 65, 66, 67):
        opening[point, 1] = 0.115 * middle[point]
    for point in (49, 50, 51, 52, 53, 61, 62, 63):
        opening[point, 1] = -0.018 * middle[point]
    opening[[48, 60, 54, 64], 1] = 0.03
    opening[_MOUTH, 0] = -0.06 * x[_MOUTH]
    chin = np.exp(-((x[_JAW] / 0.25) ** 2)) * np.clip((y[_JAW] - 0.1) / 0.5, 0, 1)
    opening[_JAW, 1] = 0.10 * chin
    opening[_JAW, 2] = -0.03 * chin
    spreading[_MOUTH, 0] = 0.20 * x[_MOUTH]
    spreading[_MOUTH, 2] = -0.03
    spreading[[48, 60, 54, 64], 1] = -0.012
    for point in (49, 50, 51, 52, 53):
        spreading[point, 1] = 0.008
    for point in (55, 56, 57, 58, 59):
        spreading[point, 1] = -0.010
    raising[_BROWS, 1] = -0.055
    raising[[17, 26], 1] = -0.03
    raising[[37, 38, 43, 44], 1] = -0.008
    return basis


_BASIS = _gesture_basis()


@dataclass(frozen=True, kw_only=True)
class Face:
    """Constants of a speaker's face: shape, amplitudes of the gestures, habitual pose, and blinks per second."""

    shape: FloatArray
    """(68, 3)."""
    lips: float
    brows: float
    posture: float
    pose: FloatArray
    """(3,): habitual pitch, yaw and roll in radians."""
    blink_rate: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Face:
        """Draw a random speaker: proportions of the face, eyes, nose, mouth, brows and jaw."""
        shape = NEUTRAL.copy()
        wide, long_nose, wide_mouth, thick_lips, high_brows, wide_eyes, square_jaw = np.clip(rng.standard_normal(7), -2, 2)
        mouth = shape[_MOUTH]
        mouth[:, 0] *= 1 + 0.09 * wide_mouth
        mouth[:12, 1] += 0.12 * thick_lips * (mouth[:12, 1] - 0.287)
        mouth[:, 1] += 0.012 * long_nose
        shape[27:36, 1] += 0.10 * long_nose * (shape[27:36, 1] + 0.215)
        shape[_BROWS, 1] -= 0.015 * high_brows
        for centre, eye in ((-0.207, slice(36, 42)), (0.207, slice(42, 48))):
            shape[eye, :2] = (shape[eye, :2] - (centre, -0.203)) * (1 + 0.07 * wide_eyes) + (centre, -0.203)
        low = np.clip((shape[_JAW, 1] - 0.1) / 0.5, 0, 1)
        shape[_JAW, 0] *= 1 + 0.07 * square_jaw * low * (1 - low) * 4
        shape[:, 0] *= 1 + 0.06 * wide
        shape[:, 2] *= 1 + 0.1 * float(np.clip(rng.standard_normal(), -2, 2))
        shape += 0.004 * rng.standard_normal(shape.shape, dtype=np.float32)
        return cls(
            shape=shape,
            lips=float(rng.uniform(0.75, 1.25)),
            brows=float(rng.uniform(0.75, 1.25)),
            posture=float(rng.uniform(0.75, 1.25)),
            pose=(np.array([0.05, 0.10, 0.03]) * rng.standard_normal(3)).astype(np.float32),
            blink_rate=float(rng.uniform(0.15, 0.4)),
        )


def move_points(face: Face, gestures: FloatArray, blink: FloatArray) -> FloatArray:
    """Compute the points (frames, 68, 3) for gestures (frames, 8) and eyelids ``blink`` (frames,), 1 if closed."""
    amounts = gestures[:, :3] * np.array([face.lips, face.lips, face.brows], np.float32)
    points = face.shape + np.tensordot(amounts, _BASIS, axes=1)
    gap = points[:, _LOWER_LIDS, 1] - points[:, _UPPER_LIDS, 1]
    points[:, _UPPER_LIDS, 1] += 0.9 * gap * blink[:, None]
    points[:, _LOWER_LIDS, 1] -= 0.1 * gap * blink[:, None]
    return points


def project(points: FloatArray, angles: FloatArray, shift: FloatArray, zoom: FloatArray) -> FloatArray:
    """Turn the head about the neck and project it onto the image plane.

    Args:
        points: (frames, 68, 3).
        angles: (frames, 3): pitch (positive: chin down), yaw (positive: nose to the right of the image) and roll (positive:
            clockwise in the image), in radians.
        shift: (frames, 2): translation in the image, face heights.
        zoom: (frames,): magnification, 1 at rest.

    Returns:
        (frames, 68, 3) in face heights; x and y are those of the image.
    """
    pitch, yaw, roll = angles.T
    zero, one = np.zeros_like(pitch), np.ones_like(pitch)

    def matrix(*rows: list[FloatArray]) -> FloatArray:
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

    c, s = np.cos(pitch), np.sin(pitch)
    nod = matrix([one, zero, zero], [zero, c, s], [zero, -s, c])
    c, s = np.cos(yaw), np.sin(yaw)
    turn = matrix([c, zero, s], [zero, one, zero], [-s, zero, c])
    c, s = np.cos(roll), np.sin(roll)
    tilt = matrix([c, -s, zero], [s, c, zero], [zero, zero, one])
    rotation = tilt @ turn @ nod
    turned = (points - _NECK) @ np.swapaxes(rotation, 1, 2) + _NECK
    zoomed = turned * zoom[:, None, None]
    zoomed[..., :2] += shift[:, None, :]
    return zoomed.astype(np.float32)


class Film(NamedTuple):
    """Motion of a face in front of a camera."""

    points: FloatArray
    """(frames, 68, 3) in face heights, with the neutral face around 0."""
    gestures: FloatArray
    """(frames, 8): opening, spreading and rounding of the lips, brows up, eyelids shut, pitch, yaw, roll. The first five are at
    least 0, and about 1 if strong; the angles are in radians."""


FILM_LIPS, FILM_REST, FILM_TURNS = (0, 1, 2), (3, 4), (5, 6, 7)
"""Gestures of :class:`Film` that move the mouth, the rest of the face, and the head."""


def film(face: Face, gestures: FloatArray, rng: np.random.Generator, *, fps: float, drift: float, blinks: float) -> Film:
    """Draw the motion of a face with these gestures, blinks and drifts.

    Args:
        face: The speaker.
        gestures: (frames, 8), in the order of ``GESTURES`` in ``_voice.py``.
        rng: Random generator of drift, blinks and jitter.
        fps: Frames per second.
        drift: Strength of slow head motion that is independent of the gestures.
        blinks: Factor on the blink rate of the speaker.

    Returns:
        The :class:`Film`.
    """
    frames = len(gestures)
    slow = drift * _DRIFT * _slow_noise(rng, frames, len(_DRIFT), fps)
    pitch, yaw, roll, lean, rise = face.posture * gestures[:, 3:].T
    angles = np.stack([_PITCH * pitch, _YAW * yaw, _ROLL * roll], axis=1) + slow[:, :3] + face.pose
    shift = np.stack([0.25 * _RISE * lean, -_RISE * rise], axis=1) + slow[:, 3:5]
    zoom = 1 + _LEAN * lean + slow[:, 5]
    lids = _eyelids(rng, frames, face.blink_rate * blinks, fps)
    angles = angles.astype(np.float32)
    points = project(move_points(face, gestures, lids), angles, shift.astype(np.float32), zoom.astype(np.float32))
    opening, spreading, raising = gestures[:, :3].T * np.array([[face.lips], [face.lips], [face.brows]], np.float32)
    shown = np.stack([opening, spreading, -spreading, raising, lids], axis=1).clip(min=0)
    return Film(points, np.concatenate([shown, angles], axis=1))


def _slow_noise(rng: np.random.Generator, frames: int, channels: int, fps: float) -> FloatArray:
    """Draw noise (frames, channels) of about unit variance, mostly below 0.3 Hz."""
    length = frames + round(8 * fps)  # longer than the clip, because the inverse FFT is periodic and the ends of a clip are not
    frequency = np.fft.rfftfreq(length, 1 / fps)
    gain = 1 / (1 + (frequency / 0.25) ** 2)
    gain[0] = 0.0
    white = rng.standard_normal((len(gain), channels)) + 1j * rng.standard_normal((len(gain), channels))
    track = np.fft.irfft(gain[:, None] * white, length, axis=0)
    return (track / track.std(axis=0))[:frames].astype(np.float32)


def _eyelids(rng: np.random.Generator, frames: int, rate: float, fps: float) -> FloatArray:
    """Draw eyelids (frames,), 0 if open and 1 if shut, with ``rate`` blinks per second of about 0.2 seconds each."""
    times = np.arange(frames) / fps
    shut = np.zeros(frames)
    for instant in rng.uniform(-0.2, frames / fps + 0.2, rng.poisson(rate * (frames / fps + 0.4))):
        shut = np.maximum(shut, np.clip(1.3 - np.abs(times - instant) / 0.1, 0, 1))
    return shut.astype(np.float32)
