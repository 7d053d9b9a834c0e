"""The 68-point layout: which points are jaw, brows, nose, eyes and lips, its regions, and its mirror image."""

from __future__ import annotations

NUM_POINTS = 68
"""Number of points of the iBUG layout."""

JAW = slice(0, 17)
"""Contour of the face, from the left of the image over the chin to its right."""
BROWS = slice(17, 27)
"""Both brows, the one on the left of the image first."""
NOSE = slice(27, 36)
"""Ridge (27-30) and base (31-35) of the nose."""
EYES = slice(36, 48)
"""Both eyes, six points each, the one on the left of the image first."""
OUTER_LIP = slice(48, 60)
"""Outer contour of the lips, clockwise in the image from the corner at its left."""
INNER_LIP = slice(60, 68)
"""Inner contour of the lips, clockwise in the image from the corner at its left."""
MOUTH = slice(48, 68)
"""Outer and inner lips."""

_MIRRORED_RUNS = (
    range(16, -1, -1),  # jaw
    range(26, 16, -1),  # brows
    range(27, 31),  # ridge of the nose, its own mirror image
    range(35, 30, -1),  # base of the nose
    (45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes: upper lid, then lower lid
    (54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),  # outer lip
    (64, 63, 62, 61, 60, 67, 66, 65),  # inner lip
)

FLIP_INDEX: tuple[int, ...] = tuple(point for run in _MIRRORED_RUNS for point in run)
"""``mirrored[i] = original[FLIP_INDEX[i]]``: the permutation that gives every point of a mirrored face its proper name."""

UPPER_INNER_LIP, LOWER_INNER_LIP = 62, 66

REGIONS: dict[str, tuple[int, ...]] = {
    "face": tuple(range(68)),
    "mouth": tuple(range(48, 68)),
    "head": (0, 16, 27, 28, 29, 30, 36, 39, 42, 45),
}
"""Points of the 68 that a syncer is shown: all, both lips, or those that speech leaves in their place on the head."""

ANCHORS = (27, 28, 29, 30, 36, 39, 42, 45)
"""Bridge of the nose and corners of the eyes: what defines a head's place, turn and size."""
