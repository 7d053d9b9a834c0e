"""Checks of single clips: missing audio, faces that do not move, wrong order of points and wrong units."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from avsync.landmarks.layouts import NUM_POINTS
from avsync.pyramid import FPS
from avsync.training.doctor.clip_facts import ClipFacts
from avsync.training.doctor.findings import Finding

SILENT_SECONDS = 5.0
"""Shortest segment without speech that is reported, in seconds."""
STILL_SECONDS = 1.0
"""Shortest time without motion of any point that is reported as a fault, in seconds."""
_FAINT_DB = -60.0
_CLIPPED_SHARE = 0.02
_STILL_MOUTH = 0.002  # face heights: a detector's noise alone is about this
_FRACTIONS_BELOW, _PIXELS_ABOVE = 4.0, 8.0  # heights of faces: fractions of the image or heights of themselves; pixels

_FAULTS = {
    "upside_down": (
        "y points up: the chin lies above the brows. Landmarks here have y downwards; negate y (and shift it back into "
        "the image)."
    ),
    "mirrored": (
        "left and right are exchanged: the first point of every part is on the right of the image. Either x was negated and "
        "the indices were not swapped (avsync.landmarks.flip does both), or the detector counts from the other side."
    ),
    "axes_swapped": "the face lies on its side: x and y are exchanged, or a phone's rotation was not applied.",
    "points_swapped": "parts of the face disagree about left and right: the indices of some points are exchanged.",
}


def check_facts(facts: Sequence[ClipFacts]) -> list[Finding]:
    """Report the faults of single clips and of the comparison between clips.

    Args:
        facts: Facts of every clip that could be read.

    Returns:
        One finding per kind of fault, each with the ids of its clips.
    """
    findings = []

    def add(severity: str, code: str, bad: Callable[[ClipFacts], bool], words: str) -> None:
        clips = tuple(clip.id for clip in facts if bad(clip))
        if clips:
            what = "1 clip" if len(clips) == 1 else f"{len(clips)} clips"
            findings.append(Finding(severity, code, f"{what}: {words}", clips=clips))

    add(
        "error",
        "silent_audio",
        lambda clip: clip.level_db < -90,
        "the audio is digital silence; nothing can be learned from it.",
    )
    add(
        "warning",
        "faint_audio",
        lambda clip: -90 <= clip.level_db < _FAINT_DB,
        f"the level of the audio is below {_FAINT_DB:g} dB of full scale: most of it is noise of the recorder.",
    )
    add(
        "warning",
        "clipped_audio",
        lambda clip: clip.clipped > _CLIPPED_SHARE,
        f"more than {100 * _CLIPPED_SHARE:g} % of the samples are at full scale: the recording was too loud.",
    )
    findings += _silent(facts)
    add(
        "error",
        "constant_landmarks",
        lambda clip: clip.still >= (clip.frames - 1) / FPS > 0,
        "no point ever moves: the video shows a photograph, or one detection is repeated.",
    )
    add(
        "warning",
        "frozen_landmarks",
        lambda clip: STILL_SECONDS <= clip.still < (clip.frames - 1) / FPS,
        f"no point moves for {STILL_SECONDS:g} s or longer: the detector lost the face and repeated its last result.",
    )
    add(
        "warning",
        "still_mouth",
        lambda clip: clip.shape[0] == NUM_POINTS and clip.mouth < _STILL_MOUTH and clip.still < (clip.frames - 1) / FPS,
        "the lips do not open or close: another person speaks, or the mouth is hidden.",
    )
    add(
        "warning",
        "jumps",
        lambda clip: clip.jumps > max(1, clip.frames // 250),
        (
            "the face jumps by a third of its height or more from one frame to the next: the video has cuts, or the detector "
            "changes faces."
        ),
    )
    for fault, words in _FAULTS.items():
        add("error", fault, lambda clip, fault=fault: fault in clip.faults, words)  # type: ignore[misc]
    return findings + _units(facts) + _shapes(facts)


def _silent(facts: Sequence[ClipFacts]) -> list[Finding]:
    silent = {clip.id: clip.silent for clip in facts if clip.silent[0] >= SILENT_SECONDS and clip.level_db >= _FAINT_DB}
    if not silent:
        return []
    total = sum(length for length, _ in silent.values())
    named = ", ".join(f"{length:.0f} s of {name} from {begin:.0f} s" for name, (length, begin) in list(silent.items())[:5])
    more = f", and {len(silent) - 5} more" if len(silent) > 5 else ""
    share = total / max(sum(clip.frames / FPS for clip in facts), 1e-9)
    words = (
        f"some segments of {SILENT_SECONDS:g} s or more have no speech: {named}{more}. A syncer cannot learn from them, and "
        "their offsets cannot be found; leave them out of an evaluation (Batch.speech_fraction)."
    )
    severity = "warning" if share > 0.05 else "note"
    return [Finding(severity, "silence", words, clips=tuple(silent), numbers={"seconds": total, "share": share})]


def _units(facts: Sequence[ClipFacts]) -> list[Finding]:
    small = tuple(clip.id for clip in facts if clip.height < _FRACTIONS_BELOW)
    large = tuple(clip.id for clip in facts if clip.height >= _PIXELS_ABOVE)
    if small and large:
        few, what = (small, "fractions") if len(small) <= len(large) else (large, "pixels")
        words = (
            f"units are mixed: in {len(small)} clips faces are less than {_FRACTIONS_BELOW:g} units high (fractions of the "
            f"image), in {len(large)} more than {_PIXELS_ABOVE:g} (pixels). The clips listed here are those in {what}."
        )
        return [Finding("error", "mixed_units", words, clips=few)]
    wrong = tuple(clip.id for clip in facts if clip.height < _FRACTIONS_BELOW and min(clip.frame_size) > 1)
    if wrong:
        words = (
            f"{len(wrong)} clips: landmarks are fractions, but frame_size is in pixels. If x was divided by the width and y by "
            "the height, faces are distorted; multiply the coordinates by width and height again."
        )
        return [Finding("warning", "normalised_units", words, clips=wrong)]
    return []


def _shapes(facts: Sequence[ClipFacts]) -> list[Finding]:
    shapes = defaultdict(list)
    for clip in facts:
        shapes[clip.shape].append(clip.id)
    findings = []
    if len(shapes) > 1:
        usual = max(shapes, key=lambda shape: len(shapes[shape]))
        others = tuple(name for shape, names in shapes.items() if shape != usual for name in names)
        words = f"most clips have (points, dims) = {usual}, {len(others)} clips have others; one batch cannot hold both."
        findings.append(Finding("error", "mixed_shapes", words, clips=others))
    if shapes and all(points != NUM_POINTS for points, _ in shapes):
        words = (
            f"the landmarks do not have the {NUM_POINTS} points of the iBUG layout, so lips, axes and indices were not checked."
        )
        findings.append(Finding("note", "other_points", words))
    short = tuple(clip.id for clip in facts if clip.frames < 33)
    if short:
        words = (
            f"{len(short)} clips are shorter than 33 frames (1.3 s), the shortest length that fills a window of the "
            "coarsest of four levels."
        )
        findings.append(Finding("note", "short_clips", words, clips=short))
    if facts:
        lengths = np.array([clip.frames for clip in facts])
        if (lengths >= 33).sum() == 0:
            findings.append(Finding("error", "all_short", "no clip is long enough to train four levels on (33 frames)."))
    return findings
