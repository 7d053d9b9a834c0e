"""Clips and the folders that hold them: a landmark track, its sound, and an index; everything is checked, nothing is unpickled.

A corpus is a folder with ``index.json`` and two files a clip:

* ``<id>.npz``: ``landmarks`` float32 (frames, points, dims), ``fps``, ``frame_size`` = [width, height];
* ``<id>.flac``: 16 kHz, mono, 16 bits; frame ``k`` is the instant of sample ``round(16000 k / fps)``, and the sound ends where the
  frame after the last would be: at 25 frames a second exactly 640 samples a frame.

``index.json`` holds ``fps``, ``sample_rate`` and ``clips``, each with at least ``id``, ``frames``, ``speaker`` and ``split``. All clips
of a corpus have one rate. Syncers, trainings and metrics are made for 25 frames a second, so readers here refuse other rates unless
they are told to take them.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from avsync._files import replacing, write_json
from avsync.corpus._clip_checks import (
    FPS,
    INDEX_NAME,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    Entry,
    check_clip_landmarks,
    check_entry,
    check_waveform,
    expect,
    is_rate,
    sample_of_frame,
)
from avsync.corpus.media.files import read_audio, write_audio
from avsync.errors import ArgumentError, CorpusError

__all__ = [
    "FPS",
    "INDEX_NAME",
    "SAMPLES_PER_FRAME",
    "SAMPLE_RATE",
    "Clip",
    "Corpus",
    "Entry",
    "check_clip",
    "read_clip",
    "sample_of_frame",
    "write_clip",
    "write_index",
]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Clip:
    """One recording of one speaker: landmarks and sound that start at the same instant.

    Attributes:
        id: Name of the clip; also the stem of its files, so letters, digits and ``_ . + -`` only.
        speaker: Label of the person; a person is in one split only.
        split: "train", "val" or any other name.
        landmarks: (frames, points, dims) float32, in any unit; pixels of the source in a real corpus.
        waveform: (samples,) float32 in [-1, 1]; ``sample_of_frame(frames, fps)`` of them, 640 a frame at 25 frames a second.
        fps: Frames a second; 25 for everything that trains or judges.
        sample_rate: Samples a second, 16000.
        frame_size: Width and height of the source image, in the unit of ``landmarks``.

    Example:
        >>> clip = Clip("a", "anna", "train", np.ones((50, 68, 2), np.float32), np.zeros(32000, np.float32))
        >>> clip.frames, clip.seconds
        (50, 2.0)

    Source: ours.
    """

    id: str
    speaker: str
    split: str
    landmarks: FloatArray
    waveform: FloatArray
    fps: float = FPS
    sample_rate: int = SAMPLE_RATE
    frame_size: tuple[int, int] = (0, 0)

    @property
    def frames(self) -> int:
        """Number of landmark frames."""
        return int(self.landmarks.shape[0])

    @property
    def seconds(self) -> float:
        """Duration, in seconds."""
        return self.frames / self.fps


def check_clip(clip: Clip) -> None:
    """Raise unless a clip keeps every promise of the format.

    Args:
        clip: From any source.

    Raises:
        CorpusError: Names the clip, what was expected and what came: a wrong rank, dtype, rate or number of samples, no frames,
            NaN or infinity, an impossible id.

    Example:
        >>> check_clip(Clip("a", "anna", "train", np.ones((2, 68, 2), np.float32), np.zeros(1280, np.float32)))

    Source: ours.
    """
    check_clip_landmarks(clip.id, "landmarks", clip.landmarks)
    check_entry({"id": clip.id, "frames": clip.frames, "speaker": clip.speaker, "split": clip.split})
    expect(is_rate(clip.fps), clip.id, "fps", "a rate above 0", clip.fps)
    expect(clip.sample_rate == SAMPLE_RATE, clip.id, "sample_rate", f"{SAMPLE_RATE} samples a second", clip.sample_rate)
    expect(len(clip.frame_size) == 2, clip.id, "frame_size", "(width, height)", clip.frame_size)
    check_waveform(clip.id, "waveform", clip.waveform, clip.frames, clip.fps)


def read_clip(folder: str | os.PathLike[str], entry: Entry, *, fps: float | None = FPS) -> Clip:
    """Read one clip and check it against its entry of the index.

    Args:
        folder: The corpus.
        entry: An element of the index' ``clips``: at least ``id``, ``frames``, ``speaker`` and ``split``.
        fps: The rate that the clip must have; None takes any.

    Returns:
        The clip.

    Raises:
        CorpusError: A file is missing, truncated or damaged, or breaks a promise of the format.
        MissingExtraError: PyAV is not installed.

    Example:
        >>> import tempfile
        >>> clip = Clip("a", "anna", "train", np.ones((2, 68, 2), np.float32), np.zeros(1280, np.float32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     read_clip(folder, write_clip(clip, folder)).landmarks.shape
        (2, 68, 2)

    Source: ours.
    """
    entry = check_entry(entry)
    name, frames = str(entry["id"]), int(entry["frames"])
    track = Path(folder, f"{name}.npz")
    expect(track.is_file(), name, track.name, "a file", "none")
    try:
        # The file is opened here, because numpy leaves it open when the archive is damaged.
        with track.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            fits = isinstance(archive, np.lib.npyio.NpzFile)
            expect(fits, name, track.name, "an npz archive", "a single array")
            missing = {"landmarks", "fps", "frame_size"} - set(archive.files)
            expect(not missing, name, track.name, "arrays landmarks, fps and frame_size", sorted(archive.files))
            landmarks, stored, size = archive["landmarks"], archive["fps"], archive["frame_size"]
    except CorpusError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise CorpusError(
            f"clip {name!r}, {track.name}: expected a whole npz archive without pickles, got {type(error).__name__}: {error}"
        ) from error
    check_clip_landmarks(name, track.name, landmarks)
    expect(landmarks.shape[0] == frames, name, track.name, f"{frames} frames as in the index", landmarks.shape[0])
    fits = stored.size == 1 and np.issubdtype(stored.dtype, np.number) and is_rate(rate := stored.item())
    fits = fits and (fps is None or rate == fps)
    expect(fits, name, track.name, "one rate as fps" if fps is None else f"fps = {fps:g}", stored.tolist())
    fits = size.shape == (2,) and np.issubdtype(size.dtype, np.integer)
    expect(fits, name, track.name, "frame_size as two integers", size.tolist())
    sound = Path(folder, f"{name}.flac")
    try:
        waveform, sample_rate = read_audio(sound)
    except CorpusError as error:
        raise CorpusError(f"clip {name!r}, {sound.name}: expected whole audio, got {error}") from error
    expect(sample_rate == SAMPLE_RATE, name, sound.name, f"{SAMPLE_RATE} samples a second", sample_rate)
    check_waveform(name, sound.name, waveform, frames, rate)
    shape = (int(size[0]), int(size[1]))
    return Clip(name, entry["speaker"], entry["split"], landmarks, waveform, fps=float(rate), frame_size=shape)


def write_clip(clip: Clip, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Write the two files of a clip, each whole or not at all; the index is :func:`write_index`'s.

    Args:
        clip: Checked before anything is written.
        folder: The corpus; created when missing.

    Returns:
        The clip's entry for the index.

    Raises:
        CorpusError: The clip breaks a promise of the format.
        ArgumentError: The waveform leaves [-1, 1].
        MissingExtraError: PyAV is not installed.

    Example:
        >>> import tempfile
        >>> clip = Clip("a", "anna", "train", np.ones((2, 68, 2), np.float32), np.zeros(1280, np.float32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_clip(clip, folder)
        {'id': 'a', 'seconds': 0.08, 'frames': 2, 'speaker': 'anna', 'split': 'train'}

    Source: ours.
    """
    check_clip(clip)
    with replacing(Path(folder, f"{clip.id}.npz")) as part, part.open("wb") as file:
        np.savez_compressed(
            file, landmarks=clip.landmarks, fps=np.float64(clip.fps), frame_size=np.array(clip.frame_size, np.int32)
        )
    write_audio(Path(folder, f"{clip.id}.flac"), clip.waveform, sample_rate=clip.sample_rate)
    return {"id": clip.id, "seconds": clip.seconds, "frames": clip.frames, "speaker": clip.speaker, "split": clip.split}


def write_index(folder: str | os.PathLike[str], entries: Iterable[Entry], /, *, fps: float = FPS, **extra: Any) -> None:
    """Write ``index.json``, whole or not at all; write it last, and a corpus never names clips that are not there.

    Args:
        folder: The corpus; created when missing.
        entries: What :func:`write_clip` returned, with any further keys.
        fps: Frames a second of all clips.
        **extra: Further keys of the index.

    Raises:
        CorpusError: An entry lacks a key, an id comes twice, or a speaker is in two splits.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_index(folder, [{"id": "a", "frames": 2, "speaker": "anna", "split": "train"}])

    Source: ours.
    """
    clips = [dict(entry) for entry in entries]
    _select(clips, skip_bad=False)
    write_json(Path(folder, INDEX_NAME), {"fps": fps, "sample_rate": SAMPLE_RATE, **extra, "clips": clips})


def _select(entries: Iterable[object], *, skip_bad: bool) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Entries that are sound by themselves and beside the others, and (id, reason) of the rest."""
    good: list[Entry] = []
    bad: list[tuple[str, str]] = []
    ids: set[str] = set()
    splits: dict[str, str] = {}
    for entry in entries:
        try:
            checked = check_entry(entry)
            name, speaker, split = checked["id"], checked["speaker"], checked["split"]
            expect(name not in ids, name, INDEX_NAME, "every id once", "it a second time")
            first = splits.setdefault(speaker, split)
            expect(first == split, name, INDEX_NAME, f"speaker {speaker!r} in one split, {first!r}", f"split {split!r}")
        except CorpusError as error:
            if not skip_bad:
                raise
            bad.append((str(entry.get("id")) if isinstance(entry, Mapping) else "None", str(error)))
        else:
            ids.add(name)
            good.append(checked)
    return good, bad


class Corpus(Sequence[Clip]):
    """A corpus folder as a sequence of clips, each read and checked when it is asked for.

    The index is checked at once and as a whole. With ``skip_bad`` every clip is read once at the start (about 3 s for 90 minutes)
    and bad ones are left out and listed; without it the first bad clip raises when it is read. An index that cannot be read, or
    that promises other rates, always raises. Of a speaker found in two splits, the clips in the split that came first are kept.

    Args:
        folder: The corpus.
        split: Keep the clips of this split only; None keeps all.
        skip_bad: Leave bad clips out instead of raising.
        fps: The rate that the corpus must have, 25 for trainings and metrics; None takes any.

    Attributes:
        fps: Frames a second.
        entries: Entries of the index, one a clip.
        speakers: Labels of the speakers, sorted.
        bad: (id, reason) of every clip left out.

    Raises:
        CorpusError: The index is missing or damaged, or a clip is bad and ``skip_bad`` is off.
        ArgumentError: No clip is in ``split``.

    Example:
        >>> import tempfile
        >>> clip = Clip("a", "anna", "train", np.ones((2, 68, 2), np.float32), np.zeros(1280, np.float32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_index(folder, [write_clip(clip, folder)])
        ...     corpus = Corpus(folder, split="train")
        ...     len(corpus), corpus.speakers, corpus[0].frames
        (1, ('anna',), 2)

    Source: ours.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, split: str | None = None, skip_bad: bool = False, fps: float | None = FPS
    ) -> None:
        self.folder = Path(folder)
        index = self._read_index(fps)
        self.fps = float(index["fps"])
        good, bad = _select(index["clips"], skip_bad=skip_bad)
        splits = sorted({entry["split"] for entry in good})
        if split is not None and split not in splits:
            raise ArgumentError(f"`split`: expected one of {splits}, got {split!r}")
        chosen = [entry for entry in good if split is None or entry["split"] == split]
        if skip_bad:
            chosen = [entry for entry in chosen if self._is_good(entry, bad)]
        self.entries: tuple[Entry, ...] = tuple(chosen)
        self.bad: tuple[tuple[str, str], ...] = tuple(bad)
        self.speakers: tuple[str, ...] = tuple(sorted({entry["speaker"] for entry in chosen}))

    def _read_index(self, fps: float | None) -> Entry:
        path = self.folder / INDEX_NAME
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CorpusError(f"{path}: expected the index of a corpus, found no file") from error
        except (OSError, ValueError) as error:
            raise CorpusError(f"{path}: expected an index in JSON, got {type(error).__name__}: {error}") from error
        if not isinstance(index, dict) or not isinstance(index.get("clips"), list):
            keys = sorted(index) if isinstance(index, dict) else type(index).__name__
            raise CorpusError(f"{path}: expected an object with a list 'clips', got {keys}")
        for key, value in (("fps", fps), ("sample_rate", SAMPLE_RATE)):
            if not is_rate(index.get(key)) or (value is not None and index[key] != value):
                expected = "a rate above 0" if value is None else f"{value:g}"
                raise CorpusError(f"{path}: expected {key!r} = {expected}, got {index.get(key)!r}")
        return index

    def _is_good(self, entry: Entry, bad: list[tuple[str, str]]) -> bool:
        try:
            read_clip(self.folder, entry, fps=self.fps)
        except CorpusError as error:
            bad.append((entry["id"], str(error)))
            return False
        return True

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Clip: ...

    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...

    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        """Read one clip, or the list of those in a slice."""
        if isinstance(index, slice):
            return [read_clip(self.folder, entry, fps=self.fps) for entry in self.entries[index]]
        return read_clip(self.folder, self.entries[index], fps=self.fps)

    def __repr__(self) -> str:
        """Folder and sizes."""
        return f"Corpus({str(self.folder)!r}: {len(self)} clips, {len(self.speakers)} speakers, {len(self.bad)} bad)"
