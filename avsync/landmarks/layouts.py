"""The 68-point layout: points of jaw, brows, nose, eyes and lips, its regions, and its mirror image."""

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
"""``mirrored[i] = original[FLIP_INDEX[i]]``: the permutation that renames the points of a mirrored face."""

UPPER_INNER_LIP, LOWER_INNER_LIP = 62, 66

_BRIDGE, _EYE_CORNERS = slice(27, 31), slice(36, 46, 3)

REGION_SLICES: dict[str, tuple[slice, ...]] = {
    "face": (slice(0, NUM_POINTS),),
    "mouth": (MOUTH,),
    "head": (slice(0, 17, 16), _BRIDGE, _EYE_CORNERS),
}
"""The regions of :data:`REGIONS` as slices; unlike lists of points, slices need no copy to the device."""

REGIONS: dict[str, tuple[int, ...]] = {
    name: tuple(point for run in slices for point in range(*run.indices(NUM_POINTS))) for name, slices in REGION_SLICES.items()
}
"""Points that a syncer receives, by region: all 68 points, both lips, or the points of the head that speech does not move."""

ANCHORS = (27, 28, 29, 30, 36, 39, 42, 45)
"""Bridge of the nose and corners of the eyes, which define the position, rotation and size of a head."""
