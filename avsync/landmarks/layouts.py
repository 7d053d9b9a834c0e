"""Layouts of motion: which points or coefficients a face has, their regions, their mirror image and their size.

The first half of this module is the 68-point layout, on which the pretrained models are trained. The second half describes
other representations with :class:`Layout`: MediaPipe's mesh, blendshapes, FLAME, mesh vertices, keypoints and body joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avsync._checks import check_fields, checked
from avsync.errors import ArgumentError, ConfigError

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
    "expression": (slice(0, MOUTH.start),),
}
"""The regions of :data:`REGIONS` as slices; unlike lists of points, slices need no copy to the device."""

REGIONS: dict[str, tuple[int, ...]] = {
    name: tuple(point for run in slices for point in range(*run.indices(NUM_POINTS))) for name, slices in REGION_SLICES.items()
}
"""Points that a syncer receives, by region: all 68 points, both lips, the points of the head that speech does not move, or all
points but the lips."""

ANCHORS = (27, 28, 29, 30, 36, 39, 42, 45)
"""Bridge of the nose and corners of the eyes, which define the position, rotation and size of a head."""


@dataclass(frozen=True)
class Layout:
    """Description of a motion representation: points of a face or a body, or coefficients.

    Coefficients are points with one dim, (batch, frames, coefficients, 1).

    Attributes:
        name: Name for messages.
        points: Number of points or coefficients.
        dims: Admitted numbers of coordinates per point; the first is the default. (1,) for coefficients.
        mouth: Points of the region "mouth"; empty if there are none.
        head: Points of the region "head", which speech does not move; empty if there are none.
        mirror: ``mirrored[i] = original[mirror[i]]``, the permutation that renames the points of a mirrored face; empty if
            unknown.
        mirror_signs: Factor of each coefficient in the mirror image, -1 or 1; empty for 1. For coefficients only: of points, x
            is negated.
        size: Unit of length of coefficients: one number for all, or one per coefficient. Empty for points, whose unit is the
            height of the reference face.
        to_68: For each of the 68 points, the points of this layout whose mean (or weighted mean) it is; empty if the layout
            does not map to 68 points.
        to_68_weights: Weights of ``to_68``, in the same shape, such as barycentric coordinates; empty for equal weights.

    Raises:
        ConfigError: Points, mirror image, size and map do not fit together.

    Example:
        >>> lips = Layout("lips", points=3, dims=(2, 3), mouth=(0, 1, 2), mirror=(2, 1, 0))
        >>> lips.region("mouth"), lips.is_coefficients
        ((0, 1, 2), False)

    Source: ours.
    """

    name: str
    points: int
    dims: tuple[int, ...] = (2, 3)
    mouth: tuple[int, ...] = ()
    head: tuple[int, ...] = ()
    mirror: tuple[int, ...] = ()
    mirror_signs: tuple[float, ...] = ()
    size: tuple[float, ...] = ()
    to_68: tuple[tuple[int, ...], ...] = ()
    to_68_weights: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

        def expect(fits: bool, field: str, expected: str) -> None:
            if not fits:
                text = repr(getattr(self, field))
                raise ConfigError(
                    f"`{field}`: expected {expected} in the layout {self.name!r}, got {text[:80]}{'...' * (len(text) > 80)}"
                )

        expect(self.points >= 1, "points", "at least 1")
        expect(len(self.dims) > 0 and all(1 <= dims <= 3 for dims in self.dims), "dims", "numbers from 1 to 3")
        for field in ("mouth", "head"):
            indices = getattr(self, field)
            valid = len(set(indices)) == len(indices) and all(0 <= point < self.points for point in indices)
            expect(valid, field, f"different points from 0 to {self.points - 1}")
        turned = [self.mirror[point] for point in self.mirror if 0 <= point < len(self.mirror)]
        expect(not self.mirror or turned == list(range(self.points)), "mirror", f"{self.points} points that swap in pairs")
        coefficients = self.is_coefficients
        signs = self.mirror_signs
        valid = not signs or (coefficients and len(signs) == self.points and set(signs) <= {-1.0, 1.0})
        expect(valid, "mirror_signs", "-1 or 1 per coefficient")
        counts = (1, self.points) if coefficients else (0,)
        expect(len(self.size) in counts and all(size > 0 for size in self.size), "size", f"{counts} numbers above 0")
        expect(len(self.to_68) in (0, NUM_POINTS), "to_68", "one entry for each of the 68 points")
        valid = all(entry and all(0 <= point < self.points for point in entry) for entry in self.to_68)
        expect(valid, "to_68", f"points from 0 to {self.points - 1}")
        shape = [len(entry) for entry in self.to_68_weights]
        expect(not shape or shape == [len(entry) for entry in self.to_68], "to_68_weights", "the shape of `to_68`")
        valid = all(abs(sum(entry) - 1) < 1e-4 for entry in self.to_68_weights)
        expect(valid, "to_68_weights", "weights with the sum 1")

    @property
    def is_coefficients(self) -> bool:
        """True if the motion consists of coefficients with one dim rather than of points."""
        return self.dims == (1,)

    @checked
    def region(self, name: str) -> tuple[int, ...]:
        """Return the points of a region.

        Args:
            name: "face" for all points, "mouth", "head", or "expression" for all points but the mouth.

        Raises:
            ArgumentError: The region is unknown, or the layout has no such points.
        """
        others = tuple(point for point in range(self.points) if point not in self.mouth) if self.mouth else ()
        regions = {"face": tuple(range(self.points)), "mouth": self.mouth, "head": self.head, "expression": others}
        if name not in regions or not regions[name]:
            known = ", ".join(repr(region) for region, points in regions.items() if points)
            raise ArgumentError(f"`region`: expected one of {known} for the layout {self.name!r}, got {name!r}")
        return regions[name]

    @checked
    def subset(self, indices: Sequence[int], *, name: str | None = None) -> Layout:
        """Return the layout of some of the points.

        Args:
            indices: The points, in their new order.
            name: Name of the new layout.

        Returns:
            The layout. It has a mirror image if the mirror image of each point is among the points, and maps to the 68 points
            if all points of the map are among them.

        Raises:
            ConfigError: A point does not exist, or is named twice.

        Example:
            >>> find_layout("mediapipe478").subset(range(468)).points
            468
            >>> find_layout("landmarks68").subset(range(48, 68)).mouth[:3]
            (0, 1, 2)
        """
        chosen = tuple(int(index) for index in indices)
        if len(set(chosen)) != len(chosen) or not all(0 <= index < self.points for index in chosen):
            raise ConfigError(
                f"`indices`: expected points from 0 to {self.points - 1}, each at most once, got {str(chosen)[:60]}"
            )
        new = {old: number for number, old in enumerate(chosen)}

        def renamed(entries: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
            whole = all(point in new for entry in entries for point in entry)
            return tuple(tuple(new[point] for point in entry) for entry in entries) if whole else ()

        mirror = renamed((tuple(self.mirror[old] for old in chosen),)) if self.mirror else ()
        to_68 = renamed(self.to_68)
        return Layout(
            name=f"{len(chosen)} points of {self.name}" if name is None else name,
            points=len(chosen),
            dims=self.dims,
            mouth=tuple(new[old] for old in self.mouth if old in new),
            head=tuple(new[old] for old in self.head if old in new),
            mirror=mirror[0] if mirror else (),
            mirror_signs=tuple(self.mirror_signs[old] for old in chosen) if self.mirror_signs else (),
            size=self.size if len(self.size) <= 1 else tuple(self.size[old] for old in chosen),
            to_68=to_68,
            to_68_weights=self.to_68_weights if to_68 else (),
        )


LANDMARKS68 = Layout(
    name="landmarks68",
    points=NUM_POINTS,
    dims=(2, 3),
    mouth=REGIONS["mouth"],
    head=REGIONS["head"],
    mirror=FLIP_INDEX,
    to_68=tuple((point,) for point in range(NUM_POINTS)),
)
"""Layout of the 68 points."""

# Vertices of MediaPipe's canonical face mesh. A point of the 68-point layout without a matching vertex is the midpoint of two
# vertices: left jaw (3, 4), right jaw (12) and upper ridge of the nose (27, 28).
_MESH_JAW = (127, 234, 93, (132, 58), (58, 172), 136, 150, 176, 152, 400, 379, 365, (288, 397), 361, 323, 454, 356)
_MESH_BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
_MESH_NOSE = ((168, 6), (197, 195), 5, 4, 75, 97, 2, 326, 305)
_MESH_EYES = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
_MESH_OUTER_LIP = (61, 39, 37, 0, 267, 269, 291, 321, 314, 17, 84, 91)
_MESH_INNER_LIP = (78, 82, 13, 312, 308, 317, 14, 87)

MESH_TO_68: tuple[tuple[int, int], ...] = tuple(
    vertex if isinstance(vertex, tuple) else (vertex, vertex)
    for vertex in (*_MESH_JAW, *_MESH_BROWS, *_MESH_NOSE, *_MESH_EYES, *_MESH_OUTER_LIP, *_MESH_INNER_LIP)
)
"""Two vertices of MediaPipe's mesh for each of the 68 points, which is their midpoint; usually the same vertex twice."""

# The 40 vertices of both lips, each contour from the left corner of the image over the lower lip and back over the upper lip.
_MESH_LIPS = (
    *(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185),
    *(78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191),
)
_MESH_MIDDLE = {0, 1, 2, *range(4, 7), *range(8, 20), 94, 151, 152, 164, 168, 175, 195, 197, 199, 200}


def _mesh_mirror() -> tuple[int, ...]:
    """Return the mirror image of MediaPipe's 478 points.

    Of the points 0 to 467, those on one side come first and those on the other side follow in the same order. The points of the
    irises follow: centre, then four points around it, which go round in the opposite direction in a mirror image.
    """
    mirror = list(range(478))
    side = [point for point in range(248) if point not in _MESH_MIDDLE]
    pairs = [*zip(side, range(248, 468), strict=True), (468, 473), (469, 476), (470, 475), (471, 474), (472, 477)]
    for left, right in pairs:
        mirror[left], mirror[right] = right, left
    return tuple(mirror)


MEDIAPIPE478 = Layout(
    name="mediapipe478",
    points=478,
    dims=(3, 2),
    mouth=_MESH_LIPS,
    head=tuple(dict.fromkeys(vertex for point in REGIONS["head"] for vertex in MESH_TO_68[point])),
    mirror=_mesh_mirror(),
    to_68=MESH_TO_68,
)
"""Layout of MediaPipe's face mesh with the irises. Multiply x (and z) by the width of the image and y by its height first."""

ARKIT_NAMES: tuple[str, ...] = (
    *(f"eye{part}Left" for part in ("Blink", "LookDown", "LookIn", "LookOut", "LookUp", "Squint", "Wide")),
    *(f"eye{part}Right" for part in ("Blink", "LookDown", "LookIn", "LookOut", "LookUp", "Squint", "Wide")),
    *("jawForward", "jawRight", "jawLeft", "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthRight", "mouthLeft"),
    *(f"mouth{part}{side}" for part in ("Smile", "Frown", "Dimple", "Stretch") for side in ("Left", "Right")),
    *("mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
    *(f"mouth{part}{side}" for part in ("Press", "LowerDown", "UpperUp") for side in ("Left", "Right")),
    *("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    *("cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut"),
)
"""Names of ARKit's 52 blendshapes, in the order of Live Link Face."""
MEDIAPIPE_BLENDSHAPE_NAMES: tuple[str, ...] = ("_neutral", *sorted(set(ARKIT_NAMES) - {"tongueOut"}))
"""Names of MediaPipe's 52 blendshapes, in the order of its face landmarker: ``_neutral`` first, and no tongue."""


@checked
def blendshape_layout(names: Sequence[str], *, name: str | None = None) -> Layout:
    """Return the layout of blendshape coefficients in any order.

    Args:
        names: Names of the coefficients, in their order. Names that begin with jaw, mouth or tongue (in any case) are the
            region "mouth"; Left and Right in a name are swapped in the mirror image.
        name: Name of the layout.

    Returns:
        The layout, with the unit 1 for all coefficients. It has no mirror image if a side is missing.

    Raises:
        ConfigError: A name occurs twice, or there is none.

    Example:
        >>> layout = blendshape_layout(["jawOpen", "mouthSmileLeft", "mouthSmileRight", "browInnerUp"])
        >>> layout.mouth, layout.mirror
        ((0, 1, 2), (0, 2, 1, 3))

    Source: ours.
    """
    known = {entry: number for number, entry in enumerate(names)}
    if not known or len(known) != len(names):
        raise ConfigError(f"`names`: expected different names, at least one, got {list(names)!r:.80}")
    swap = {"Left": "Right", "Right": "Left"}
    other = [next((entry.replace(side, swap[side]) for side in swap if side in entry), entry) for entry in names]
    return Layout(
        name=f"{len(known)} blendshapes" if name is None else name,
        points=len(known),
        dims=(1,),
        mouth=tuple(n for entry, n in known.items() if entry.lower().startswith(("jaw", "mouth", "tongue"))),
        mirror=tuple(known[entry] for entry in other) if set(other) == set(known) else (),
        size=(1.0,),
    )


ARKIT52 = blendshape_layout(ARKIT_NAMES, name="arkit52")
"""Layout of ARKit's 52 blendshapes in the order of Live Link Face."""
MEDIAPIPE52 = blendshape_layout(MEDIAPIPE_BLENDSHAPE_NAMES, name="mediapipe52")
"""Layout of MediaPipe's 52 blendshapes."""


@checked
def flame_layout(*, expressions: int = 50, jaw: int = 3, pose: int = 3) -> Layout:
    """Return the layout of FLAME coefficients: expression, then jaw rotation, then head rotation.

    The expression coefficients are in standard deviations (their unit is 8, so that motion of one standard deviation is about
    as large as a talking mouth in face heights), the rotations are axis-angle vectors in radians. Expressions and jaw are the
    region "mouth", the head rotation is the region "head". There is a mirror image only without expressions, because the mirror
    image of FLAME's expression space is not known.

    Args:
        expressions: Number of expression coefficients.
        jaw: 3 for the rotation of the jaw, 1 for its opening angle alone, 0 for none.
        pose: 3 for the rotation of the head, 0 for none.

    Returns:
        The layout.

    Raises:
        ConfigError: A number is not as described.

    Example:
        >>> flame_layout(expressions=50).points
        56

    Source: ours.
    """
    if expressions < 0 or jaw not in (0, 1, 3) or pose not in (0, 3) or expressions + jaw + pose == 0:
        raise ConfigError(
            "`expressions`, `jaw`, `pose`: expected at least 0, one of (0, 1, 3) and one of (0, 3), not all 0,"
            f" got {(expressions, jaw, pose)}"
        )
    moved = expressions + jaw
    points = moved + pose
    turns = (1.0, -1.0, -1.0)  # a rotation about x is its own mirror image
    return Layout(
        name=f"flame{points}",
        points=points,
        dims=(1,),
        mouth=tuple(range(moved)),
        head=tuple(range(moved, points)),
        mirror=() if expressions else tuple(range(points)),
        mirror_signs=() if expressions else (*turns[:jaw], *turns[:pose]),
        size=(8.0,) * expressions + (1.0,) * (jaw + pose),
    )


FLAME56 = flame_layout()
"""Layout of 50 FLAME expressions, jaw and head rotation."""
FLAME5023 = Layout(name="flame5023", points=5023, dims=(3,))
"""Layout of FLAME's vertices. Its regions and its map to 68 points are part of FLAME, see ``mesh_layout``."""


@checked
def mesh_layout(
    vertices: int,
    *,
    mouth: Sequence[int] = (),
    head: Sequence[int] = (),
    mirror: Sequence[int] = (),
    to_68: Sequence[Sequence[int]] = (),
    to_68_weights: Sequence[Sequence[float]] = (),
    name: str | None = None,
) -> Layout:
    """Return the layout of the vertices of a 3D mesh; arguments as in :class:`Layout`.

    Args:
        vertices: Number of vertices.
        mouth: Vertices of the lips, such as the ``lips`` of FLAME's vertex masks.
        head: Vertices that speech does not move.
        mirror: Mirror image.
        to_68: Vertices whose weighted mean is each of the 68 points. For FLAME, these are the three corners of the triangle
            that its landmark embedding states for the point.
        to_68_weights: Barycentric coordinates of the landmarks.
        name: Name of the layout.

    Returns:
        The layout.

    Raises:
        ConfigError: The arguments do not fit together.

    Example:
        >>> mesh_layout(5023, mouth=range(100)).subset(range(50)).mouth[-1]
        49

    Source: ours.
    """
    return Layout(
        name=f"mesh{vertices}" if name is None else name,
        points=vertices,
        dims=(3,),
        mouth=tuple(int(vertex) for vertex in mouth),
        head=tuple(int(vertex) for vertex in head),
        mirror=tuple(int(vertex) for vertex in mirror),
        to_68=tuple(tuple(int(vertex) for vertex in corners) for corners in to_68),
        to_68_weights=tuple(tuple(float(weight) for weight in corners) for corners in to_68_weights),
    )


LIVEPORTRAIT21 = Layout(name="liveportrait21", points=21, dims=(3, 2), mouth=(6, 12, 14, 17, 19, 20))
"""Layout of LivePortrait's 21 implicit keypoints; the mouth is the region that LivePortrait animates as "lip"."""
FOMM10 = Layout(name="fomm10", points=10, dims=(2,))
"""Layout of the 10 keypoints of the First Order Motion Model, which have no meaning that is known in advance."""

_COCO_MIRROR = (0, *(point for left in range(1, 17, 2) for point in (left + 1, left)))
COCO17 = Layout(name="coco17", points=17, dims=(2, 3), head=tuple(range(5)), mirror=_COCO_MIRROR)
"""Layout of COCO's 17 body joints; the head is the nose, the eyes and the ears."""
_COCO_FACE, _COCO_HANDS = 23, 91
COCO_WHOLEBODY133 = Layout(
    name="coco_wholebody133",
    points=133,
    dims=(2, 3),
    mouth=tuple(_COCO_FACE + point for point in REGIONS["mouth"]),
    head=tuple(_COCO_FACE + point for point in REGIONS["head"]),
    mirror=(
        *_COCO_MIRROR,
        *(20, 21, 22, 17, 18, 19),
        *(_COCO_FACE + point for point in FLIP_INDEX),
        *range(_COCO_HANDS + 21, 133),
        *range(_COCO_HANDS, _COCO_HANDS + 21),
    ),
    to_68=tuple((_COCO_FACE + point,) for point in range(NUM_POINTS)),
)
"""Layout of COCO-WholeBody: 17 body joints, 6 points of the feet, the 68 points of the face, and two hands of 21 points."""

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        LANDMARKS68,
        MEDIAPIPE478,
        MEDIAPIPE478.subset(range(468), name="mediapipe468"),
        ARKIT52,
        MEDIAPIPE52,
        FLAME56,
        FLAME5023,
        LIVEPORTRAIT21,
        FOMM10,
        COCO17,
        COCO_WHOLEBODY133,
    )
}
"""Layouts by name."""


def find_layout(layout: str | Layout) -> Layout:
    """Return a layout by its name; a :class:`Layout` is returned as it is.

    Raises:
        ArgumentError: The name is unknown.

    Example:
        >>> find_layout("arkit52").points
        52
    """
    if isinstance(layout, Layout):
        return layout
    if not isinstance(layout, str) or layout not in LAYOUTS:
        known = ", ".join(repr(name) for name in LAYOUTS)
        raise ArgumentError(f"`layout`: expected a Layout or one of {known}, got {layout!r}")
    return LAYOUTS[layout]
