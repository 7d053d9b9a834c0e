"""References and predictions of an evaluation, read from a corpus or a folder of ``<id>.npz``.

Every clip that cannot be read or compared is reported as a :class:`LeftOut` with its reason.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from avsync._checks import checked
from avsync._files import read_npz, untrusted
from avsync.corpus.banks.bank import clip_readers
from avsync.corpus.clip import (
    FPS,
    INDEX_NAME,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    Clip,
    Corpus,
    check_clip_landmarks,
    is_rate,
    resample_clip,
)
from avsync.corpus.media.files import read_audio
from avsync.corpus.media.info import FloatArray
from avsync.errors import CorpusError
from avsync.resampling import check_fps, resample_frames, resampled_length

AUDIO_SUFFIXES = (".flac", ".wav")
"""Suffixes of the audio next to ``<id>.npz``, in search order."""
_DIGEST = re.compile(r"-[0-9a-f]{8}(?=_\d+$)")
"""Digits that ``avsync extract`` puts between the name of a video and the number of a clip."""

LENGTH_TOLERANCE = 2
"""Frames by which a prediction may be longer or shorter than its reference; both are cut to the shorter one."""


class LeftOut(NamedTuple):
    """Something that an evaluation leaves out."""

    row: str
    """Name of the method, or "refs"."""
    id: str
    """Name of the clip."""
    reason: str
    """Reason in words."""


@dataclass(frozen=True, eq=False)
class Track:
    """A face over time, with its audio if there is one.

    Attributes:
        id: Name of the clip.
        landmarks: (frames, points, dims) float32 in any unit, 25 frames per second.
        waveform: (640 * frames,) float32 at 16 kHz, or None.
        speaker: Name of the speaker, if known.
        has_audio: (frames,) bool, False where the source of the waveform had no audio; None for audio everywhere.
    """

    id: str
    landmarks: FloatArray
    waveform: FloatArray | None = None
    speaker: str | None = None
    has_audio: npt.NDArray[np.bool_] | None = None

    @property
    def frames(self) -> int:
        """Number of landmark frames."""
        return int(self.landmarks.shape[0])

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Mask of the frames with audio, (frames,) bool."""
        return np.ones(self.frames, dtype=bool) if self.has_audio is None else self.has_audio


@checked
def tracks_of_clips(clips: Iterable[Clip], *, row: str = "refs") -> tuple[dict[str, Track], list[LeftOut]]:
    """Convert clips to tracks, and omit clips that cannot be read.

    Args:
        clips: A :class:`avsync.corpus.clip.Corpus` or any clips.
        row: Name of the method, or "refs", for the list of omitted clips.

    Returns:
        Tracks by id, and the omitted clips.

    Example:
        >>> from avsync.corpus.synthetic.talker import synthetic_clip
        >>> tracks, left_out = tracks_of_clips([synthetic_clip(seconds=2.0)])
        >>> [track.frames for track in tracks.values()], left_out
        ([50], [])

    Source: ours.
    """
    tracks: dict[str, Track] = {}
    left_out: list[LeftOut] = []
    for name, read in clip_readers(clips):
        try:
            clip = read()
        except CorpusError as error:
            left_out.append(LeftOut(row, name, str(error)))
            continue
        clip = resample_clip(clip)
        tracks[clip.id] = Track(clip.id, clip.landmarks, clip.waveform, clip.speaker, clip.has_audio)
    return tracks, left_out


@checked
def read_tracks(
    folder: str | os.PathLike[str], *, row: str = "refs", split: str | None = None, fps: float | None = None
) -> tuple[dict[str, Track], list[LeftOut]]:
    """Read a corpus, or a folder of ``<id>.npz`` with ``<id>.flac`` or ``<id>.wav`` next to them if there is audio.

    An ``npz`` holds ``landmarks`` (frames, points, dims) and, if it is not 25, their rate ``fps``. Landmarks of another rate
    are resampled to 25 frames per second (:func:`avsync.corpus.clip.resample_clip`). Audio is 16 kHz and as long as the
    landmarks within one frame; the audio is cut or padded with zeros to the length of the landmarks.

    Args:
        folder: With or without ``index.json``.
        row: Name of the method, or "refs", for the list of omitted clips.
        split: Split of the corpus to read; by default all splits.
        fps: Frames per second of every ``npz`` that does not state its own; 25 by default.

    Returns:
        Tracks by id, and the omitted clips.

    Raises:
        CorpusError: There is no such folder, it holds neither an index nor an ``npz``, or the index is damaged.
        ArgumentError: The corpus has no such split.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(Path(folder, "a.npz"), landmarks=np.ones((50, 68, 2)))
        ...     np.savez(Path(folder, "b.npz"), landmarks=np.full((50, 68, 2), np.nan))
        ...     tracks, left_out = read_tracks(folder)
        >>> list(tracks), [entry.id for entry in left_out]
        (['a'], ['b'])

    Source: ours.
    """
    source = Path(folder)
    if (source / INDEX_NAME).is_file():
        return tracks_of_clips(Corpus(source, split=split, fps=None), row=row)
    if not source.is_dir():
        raise CorpusError(f"{source}: expected a folder, found none")
    files = sorted(source.glob("*.npz"))
    if not files:
        raise CorpusError(f"{source}: expected {INDEX_NAME} or files <id>.npz, found neither")
    tracks: dict[str, Track] = {}
    left_out: list[LeftOut] = []
    for file in files:
        try:
            tracks[file.stem] = _read_track(file, FPS if fps is None else check_fps("fps", fps))
        except CorpusError as error:
            left_out.append(LeftOut(row, file.stem, str(error)))
    return tracks, left_out


def _read_track(file: Path, fps: float) -> Track:
    arrays = read_npz(file, error=CorpusError, message=f"{file.name}: expected a whole npz archive without pickles, got")
    if "landmarks" not in arrays:
        raise CorpusError(f"{file.name}: expected an npz archive with an array 'landmarks', got {sorted(arrays)!r:.80}")
    landmarks = arrays["landmarks"]
    with untrusted(CorpusError, f"{file.name}: expected a number as `fps`, got"):
        rate = float(arrays["fps"]) if "fps" in arrays else fps
    if not np.issubdtype(landmarks.dtype, np.number) or np.issubdtype(landmarks.dtype, np.complexfloating):
        raise CorpusError(f"{file.name}: expected numbers as landmarks, got {landmarks.dtype}")
    if not is_rate(rate):
        raise CorpusError(f"{file.name}: expected a rate above 0 as `fps`, got {rate:g}")
    with np.errstate(over="ignore"):
        landmarks = landmarks.astype(np.float32)
    check_clip_landmarks(file.stem, file.name, landmarks)
    seconds = landmarks.shape[0] / rate
    frames = max(1, resampled_length(landmarks.shape[0], rate))
    landmarks = resample_frames(torch.from_numpy(landmarks)[None], fps=rate, frames=frames)[0].numpy()
    audio = next((path for suffix in AUDIO_SUFFIXES if (path := file.with_suffix(suffix)).is_file()), None)
    if audio is None:
        return Track(file.stem, landmarks)
    waveform, sample_rate = read_audio(audio)
    if sample_rate != SAMPLE_RATE:
        raise CorpusError(f"{audio.name}: expected {SAMPLE_RATE} samples per second, got {sample_rate}")
    wanted = SAMPLES_PER_FRAME * frames
    if abs(waveform.size - SAMPLE_RATE * seconds) > SAMPLES_PER_FRAME:
        raise CorpusError(
            f"{audio.name}: expected {seconds:.2f} s for the landmarks ({rate:g} frames per second), got"
            f" {waveform.size / SAMPLE_RATE:.2f} s"
        )
    return Track(file.stem, landmarks, np.pad(waveform[:wanted], (0, max(0, wanted - waveform.size))))


def _without_digest(name: str) -> str:
    """Return a clip's name without the digits of its file: "anna-1203ad76_000" is "anna_000"."""
    return _DIGEST.sub("", name)


def _renamed(preds: dict[str, Track], refs: dict[str, Track]) -> dict[str, Track]:
    """Rename predictions to their references if the names differ only by the digits of the files."""
    plain_refs, plain_preds = (Counter(map(_without_digest, names)) for names in (refs, preds))
    names = {_without_digest(ref): ref for ref in refs}
    renamed = {}
    for name, track in preds.items():
        plain = _without_digest(name)
        alone = plain_refs[plain] == 1 == plain_preds[plain]
        renamed[name if name in refs or not alone else names[plain]] = track
    return renamed


@checked
def match_tracks(
    refs: dict[str, Track], preds: dict[str, Track], *, row: str, cut: bool = False
) -> tuple[dict[str, Track], list[LeftOut]]:
    """Match predictions with their references.

    A prediction belongs to the reference of the same name. ``avsync extract`` puts digits into names that differ from file to
    file (``anna-1203ad76_000``); where no name is the same, they are left out of the comparison, unless that makes two names
    one.

    Args:
        refs: Real clips by id.
        preds: Predictions of a method, by id.
        row: Name of the method.
        cut: Accept predictions of any length, and use the frames that both have. By default lengths may differ by
            ``LENGTH_TOLERANCE`` frames only.

    Returns:
        The predictions that stay, and what was left out: predictions without a reference, references without a prediction, and
        those whose points, dims or lengths do not fit.

    Example:
        >>> face = np.ones((50, 68, 2), np.float32)
        >>> match_tracks({"a": Track("a", face)}, {"a": Track("a", face[:20])}, row="mine")[1][0].reason
        'expected 50 frames as its reference has, within 2, got 20'

    Source: ours.
    """
    preds = _renamed(preds, refs)
    kept: dict[str, Track] = {}
    left_out = [LeftOut(row, name, "no reference has this name") for name in preds if name not in refs]
    for name, ref in refs.items():
        if name not in preds:
            left_out.append(LeftOut(row, name, "no prediction has this name"))
            continue
        pred = preds[name]
        if pred.landmarks.shape[1:] != ref.landmarks.shape[1:]:
            reason = f"expected (points, dims) = {ref.landmarks.shape[1:]} as its reference has, got {pred.landmarks.shape[1:]}"
            left_out.append(LeftOut(row, name, reason))
        elif abs(pred.frames - ref.frames) > LENGTH_TOLERANCE and not cut:
            reason = f"expected {ref.frames} frames as its reference has, within {LENGTH_TOLERANCE}, got {pred.frames}"
            left_out.append(LeftOut(row, name, reason))
        else:
            kept[name] = pred
    return kept, left_out
