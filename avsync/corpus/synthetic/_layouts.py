"""Motion of the synthetic talker in any layout: other points on the same head, or coefficients of the same gestures.

Points that map to the 68 points are one of the meshes in which a detector would find the talker's 68 points. Each other point
follows three points of its region: a point of the mouth follows lips, a point of the head follows the bridge of the nose and
the corners of the eyes. Coefficients of the mouth follow the opening and the spreading of the lips, those of the head the
rotation of the head, and others the brows and the eyelids. Which points and gestures is drawn once per layout; the meaning of a
single vertex or blendshape is not imitated. Source: ours.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from avsync.corpus.media.info import FloatArray
from avsync.corpus.synthetic._face import FILM_LIPS, FILM_REST, FILM_TURNS, Film
from avsync.landmarks.layouts import ANCHORS, LANDMARKS68, NUM_POINTS, REGIONS, Layout
from avsync.landmarks.mapping import map_weights

_STRENGTH = np.float32(0.3)
"""Coefficient of a gesture of strength 1, in units of the layout: about as large as an open mouth in face heights."""
_FOLLOWED = 3
"""Points that a point follows."""


@lru_cache(maxsize=32)
def _point_weights(layout: Layout) -> FloatArray:
    """Return the weights of the 68 points in each point of a layout, (points, 68); each row has the sum 1."""
    rng = np.random.default_rng(layout.points)
    rest = REGIONS["expression"] if layout.mouth else ANCHORS if layout.head else REGIONS["face"]
    weights = np.zeros((layout.points, NUM_POINTS))
    for point, row in enumerate(weights):
        followed = REGIONS["mouth"] if point in layout.mouth else ANCHORS if point in layout.head else rest
        row[rng.choice(followed, _FOLLOWED, replace=False)] = rng.dirichlet(np.ones(_FOLLOWED))
    if layout.to_68:
        to_68 = map_weights(layout).numpy().astype(np.float64)
        weights += np.linalg.pinv(to_68) @ (np.eye(NUM_POINTS) - to_68 @ weights)
    return weights.astype(np.float32)


@lru_cache(maxsize=32)
def _gesture_weights(layout: Layout) -> FloatArray:
    """Return the weights of the gestures of :class:`Film` in each coefficient of a layout, (coefficients, gestures)."""
    rng = np.random.default_rng(layout.points)
    weights = np.zeros((layout.points, len(FILM_LIPS + FILM_REST + FILM_TURNS)), np.float32)
    for point, row in enumerate(weights):
        if point in layout.head:
            row[FILM_TURNS[layout.head.index(point) % len(FILM_TURNS)]] = 1.0
            continue
        followed = FILM_LIPS if point in layout.mouth else FILM_REST if layout.mouth else FILM_LIPS + FILM_REST
        row[list(followed)] = _STRENGTH * rng.dirichlet(np.ones(len(followed)))
    return weights * np.broadcast_to(np.array(layout.size, np.float32), layout.points)[:, None]


def in_layout(film: Film, layout: Layout, dims: int) -> FloatArray:
    """Return the motion of a film in a layout, (frames, points, dims): points in face heights, or coefficients."""
    if layout.is_coefficients:
        return (film.gestures @ _gesture_weights(layout).T)[..., None]
    points = film.points[..., :dims]
    return points if layout == LANDMARKS68 else _point_weights(layout) @ points
