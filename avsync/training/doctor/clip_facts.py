"""Facts that the doctor keeps per clip: a few numbers, so that the facts of a corpus of any length fit in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from avsync.corpus.clip import SAMPLES_PER_FRAME, Clip
from avsync.corpus.speech import clip_speech
from avsync.landmarks.layouts import BROWS, EYES, JAW, NUM_POINTS, OUTER_LIP
from avsync.pyramid import FPS
from avsync.training.doctor.tracks import Tracks

_STILL = 1e-5  # face heights per frame: more than the rounding of a resampled still face, less than any detector's noise
# A crop with a smaller share of frames with speech counts as one without (avsync.corpus.speech.speech_mask).
_SILENT_WINDOW, _SILENT_SHARE = 80, 0.2


@dataclass(frozen=True)
class ClipFacts:
    """Measurements of one clip.

    Attributes:
        id: Name of the clip.
        speaker: Its speaker.
        split: Its split.
        frames: Landmark frames.
        shape: Points and dims.
        frame_size: Width and height of the image, (0, 0) if unknown.
        height: Median height of the face, in the unit of the landmarks.
        still: Longest segment in which no point moves, in seconds.
        mouth: Standard deviation of the opening of the lips, in face heights.
        jumps: Frames in which the face moves by more than a third of its height.
        faults: Faults in the order of the points or the direction of the axes: "upside_down", "mirrored", "axes_swapped",
            "points_swapped".
        level_db: Level of the audio, in decibels of full scale.
        clipped: Share of the samples at full scale.
        silent: Length and start of the longest nearly silent segment, in seconds.
    """

    id: str
    speaker: str
    split: str
    frames: int
    shape: tuple[int, int]
    frame_size: tuple[int, int]
    height: float
    still: float
    mouth: float
    jumps: int
    faults: tuple[str, ...]
    level_db: float
    clipped: float
    silent: tuple[float, float]


def clip_facts(clip: Clip, tracks: Tracks) -> ClipFacts:
    """Measure the facts that the checks of single clips need.

    Args:
        clip: A clip that conforms to the format.
        tracks: Tracks of the same clip.

    Returns:
        The facts.

    Source: ours.
    """
    faces = clip.landmarks.astype(np.float64)
    motion = np.abs(np.diff(faces, axis=0)).max(axis=(1, 2)) / tracks.height if clip.frames > 1 else np.zeros(0)
    centres = np.linalg.norm(np.diff(faces.mean(axis=1), axis=0), axis=1) / tracks.height
    power = float(np.square(clip.waveform, dtype=np.float64).mean())
    begin, length = _longest(_silent_frames(clip))
    known = faces.shape[1] == NUM_POINTS and faces.shape[2] >= 2
    return ClipFacts(
        id=clip.id,
        speaker=clip.speaker,
        split=clip.split,
        frames=clip.frames,
        shape=(faces.shape[1], faces.shape[2]),
        frame_size=clip.frame_size,
        height=tracks.height,
        still=_longest(motion < _STILL)[1] / FPS,
        mouth=float(tracks.opening.std()),
        jumps=int((centres > 1 / 3).sum()),
        faults=_faults(faces.mean(axis=0)[:, :2]) if known else (),
        level_db=10 * np.log10(power + 1e-20),
        clipped=float((np.abs(clip.waveform) > 0.9999).mean()),
        silent=(length / FPS, begin / FPS),
    )


def _silent_frames(clip: Clip) -> npt.NDArray[np.bool_]:
    """Frames that lie in some crop of 80 frames without speech."""
    speech = clip_speech(clip).astype(np.float64)
    if clip.waveform.size // SAMPLES_PER_FRAME < _SILENT_WINDOW:
        return np.zeros(len(speech), dtype=bool)
    share = np.convolve(speech, np.ones(_SILENT_WINDOW) / _SILENT_WINDOW, mode="valid")
    covered = np.convolve((share < _SILENT_SHARE).astype(np.float64), np.ones(_SILENT_WINDOW), mode="full")
    silent: npt.NDArray[np.bool_] = covered > 0.5
    return silent


def _longest(flags: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Beginning and length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    if not len(edges):
        return 0, 0
    begins, lengths = edges[::2], edges[1::2] - edges[::2]
    best = int(lengths.argmax())
    return int(begins[best]), int(lengths[best])


def _faults(face: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """Return the faults of a mean face (68, 2), from the positions of its parts."""
    across, down = face[45] - face[36], face[8] - face[BROWS].mean(axis=0)  # outer corners of the eyes; brows to chin
    if abs(across[1]) > abs(across[0]) and abs(down[0]) > abs(down[1]):
        return ("axes_swapped",)
    faults = []
    if down[1] < 0:
        faults.append("upside_down")
    # Each part's first point lies at the left of the image. If all parts have it on the right, the image is mirrored; if the
    # parts disagree, the indices of some points are exchanged.
    left_first = [
        float(face[last, 0] - face[first, 0]) > 0
        for first, last in (
            (JAW.start, JAW.stop - 1),
            (BROWS.start, BROWS.stop - 1),
            (31, 35),
            (EYES.start, 45),
            (OUTER_LIP.start, 54),
        )
    ]
    if not any(left_first):
        faults.append("mirrored")
    elif not all(left_first):
        faults.append("points_swapped")
    return tuple(faults)
