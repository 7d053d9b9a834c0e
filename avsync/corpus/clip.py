"""Clips and corpus folders: landmarks, audio and an index. All files are checked, and none is unpickled.

A corpus is a folder with ``index.json`` and two files per clip:

* ``<id>.npz``: ``landmarks`` float32 (frames, points, dims), ``fps``, ``frame_size`` = [width, height];
* ``<id>.flac``: 16 kHz, mono, 16 bits. Frame ``k`` is at the time of sample ``round(16000 k / fps)``, and the audio ends at the
  time of the frame after the last one. At 25 frames per second a clip has exactly 640 samples per frame.

``index.json`` holds ``fps``, ``sample_rate`` and ``clips``, each with at least ``id``, ``frames``, ``speaker`` and ``split``.
The optional key ``missing_audio`` of a clip lists ranges ``[first, stop]`` of frames without audio in the source, where the
waveform is silent. All clips of a corpus have the same frame rate. Syncers, training and metrics need 25 frames per second, so
the readers in this module reject other rates unless ``fps`` permits them.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch

from avsync._checks import check_path, check_type, checked
from avsync._files import check_regular, read_json, read_npz, replacing, untrusted, write_json
from avsync.corpus.media.files import read_audio, write_audio
from avsync.corpus.media.info import FloatArray
from avsync.errors import ArgumentError, CorpusError, ShapeError
from avsync.pyramid import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from avsync.resampling import resample_frames, resampled_length

__all__ = [
    "FPS",
    "INDEX_NAME",
    "SAMPLES_PER_FRAME",
    "SAMPLE_RATE",
    "Clip",
    "Corpus",
    "Entry",
    "FloatArray",
    "check_clip",
    "check_clip_landmarks",
    "landmark_shape",
    "missing_ranges",
    "read_clip",
    "sample_of_frame",
    "write_clip",
    "write_corpus",
    "write_index",
]

BoolArray = npt.NDArray[np.bool_]
FrameRanges = tuple[tuple[int, int], ...]
Entry = Mapping[str, Any]

INDEX_NAME = "index.json"
"""Name of the index inside a corpus folder."""

_ENTRY_TYPES: dict[str, type] = {"id": str, "frames": int, "speaker": str, "split": str}
_PLAIN_NAME = re.compile(r"\w[\w.+-]*")
# Bounds on the numbers in an index, so that impossible sizes are never allocated: 4.6 days, and the largest mesh.
_MAX_FRAMES = 10_000_000
_MAX_POINTS = 1 << 16
_RATES = (1e-3, 1e6)
_MAX_INDEX_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class Clip:
    """Recording of one speaker: landmarks and audio that start at the same time.

    Attributes:
        id: Name of the clip and stem of its files: only letters, digits and ``_ . + -``.
        speaker: Label of the speaker; all clips of a speaker are in one split.
        split: "train", "val" or any other name.
        landmarks: (frames, points, dims) float32, in any unit; pixels of the source in a real corpus.
        waveform: (samples,) float32 in [-1, 1], with ``sample_of_frame(frames, fps)`` samples: 640 per frame at 25 fps.
        fps: Landmark frames per second; 25 for training and metrics.
        sample_rate: Samples per second, 16000.
        frame_size: Width and height of the source image, in the unit of ``landmarks``.
        missing_audio: Ranges (first, stop) of frames without audio in the source, in order; the waveform is silent there.

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
    missing_audio: FrameRanges = ()

    @property
    def frames(self) -> int:
        """Number of landmark frames."""
        return int(self.landmarks.shape[0])

    @property
    def has_audio(self) -> BoolArray:
        """Mask of the frames with audio in the source, (frames,), bool."""
        mask = np.ones(self.frames, dtype=bool)
        for first, stop in self.missing_audio:
            mask[first:stop] = False
        return mask

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.fps


def check_clip(clip: Clip) -> None:
    """Raise an error unless a clip has a valid format.

    Args:
        clip: The clip.

    Raises:
        ArgumentError: ``clip`` is not a :class:`Clip`.
        CorpusError: The clip has a wrong rank, dtype, rate or number of samples, no frames, NaN or infinity, or an impossible
            id.

    Example:
        >>> check_clip(Clip("a", "anna", "train", np.ones((2, 68, 2), np.float32), np.zeros(1280, np.float32)))

    Source: ours.
    """
    if not isinstance(clip, Clip):
        raise ArgumentError(f"`clip`: expected a Clip, got {type(clip).__name__}")
    check_clip_landmarks(clip.id, "landmarks", clip.landmarks)
    expect(is_rate(clip.fps), clip.id, "fps", "a rate above 0", clip.fps)
    check_entry(_entry(clip))
    expect(clip.sample_rate == SAMPLE_RATE, clip.id, "sample_rate", f"{SAMPLE_RATE} samples per second", clip.sample_rate)
    fits = isinstance(clip.frame_size, Sequence) and len(clip.frame_size) == 2
    expect(fits, clip.id, "frame_size", "(width, height)", clip.frame_size)
    check_waveform(clip.id, "waveform", clip.waveform, clip.frames, clip.fps)


def read_clip(folder: str | os.PathLike[str], entry: Entry, *, fps: float | None = FPS) -> Clip:
    """Read one clip and compare it with its entry in the index.

    Args:
        folder: The corpus folder.
        entry: Element of ``clips`` in the index, with at least ``id``, ``frames``, ``speaker`` and ``split``.
        fps: Required frame rate; None accepts any.

    Returns:
        The clip.

    Raises:
        CorpusError: A file is missing, truncated or damaged, or violates the format.
        MissingExtraError: PyAV is not installed.

    Example:
        >>> import tempfile
        >>> clip = Clip("a", "anna", "train", np.ones((2, 68, 2), np.float32), np.zeros(1280, np.float32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     read_clip(folder, write_clip(clip, folder)).landmarks.shape
        (2, 68, 2)

    Source: ours.
    """
    check_path("folder", folder)
    _check_rate(fps)
    entry = check_entry(entry)
    name, frames = str(entry["id"]), int(entry["frames"])
    file = Path(folder, f"{name}.npz")
    expect(file.is_file(), name, file.name, "a file", "none")
    message = f"clip {name!r}, {file.name}: expected a whole npz archive without pickles, got"
    # The index bounds the unpacked size: frames of the largest mesh in float64, and two small arrays.
    most = min(1 << 31, 65536 + 24 * _MAX_POINTS * frames)
    arrays = read_npz(file, error=CorpusError, message=message, most_bytes=most)
    missing = {"landmarks", "fps", "frame_size"} - set(arrays)
    expect(not missing, name, file.name, "arrays landmarks, fps and frame_size", sorted(arrays))
    landmarks, stored, size = arrays["landmarks"], arrays["fps"], arrays["frame_size"]
    check_clip_landmarks(name, file.name, landmarks)
    expect(landmarks.shape[0] == frames, name, file.name, f"{frames} frames as in the index", landmarks.shape[0])
    fits = stored.size == 1 and np.issubdtype(stored.dtype, np.number) and is_rate(rate := stored.item())
    fits = fits and (fps is None or rate == fps)
    expect(fits, name, file.name, "one rate as fps" if fps is None else f"fps = {fps:g}", stored.tolist())
    fits = size.shape == (2,) and np.issubdtype(size.dtype, np.integer)
    expect(fits, name, file.name, "frame_size as two integers", size.tolist())
    flac = Path(folder, f"{name}.flac")
    samples = sample_of_frame(frames, rate)
    try:
        waveform, sample_rate = read_audio(flac, max_samples=samples + SAMPLE_RATE)
    except CorpusError as error:
        raise CorpusError(f"clip {name!r}, {flac.name}: expected whole audio, got {error}") from error
    expect(sample_rate == SAMPLE_RATE, name, flac.name, f"{SAMPLE_RATE} samples per second", sample_rate)
    check_waveform(name, flac.name, waveform, frames, rate)
    return Clip(
        name,
        entry["speaker"],
        entry["split"],
        landmarks,
        waveform,
        fps=float(rate),
        frame_size=(int(size[0]), int(size[1])),
        missing_audio=tuple((first, stop) for first, stop in entry.get("missing_audio", ())),
    )


def landmark_shape(folder: str | os.PathLike[str], entry: Entry) -> tuple[int, ...] | None:
    """Return the shape of the landmarks of a clip from the header of the file; None if the file is damaged."""
    path = Path(folder, f"{entry['id']}.npz")
    try:
        with untrusted(CorpusError, "header"):
            check_regular(path)
        with untrusted(CorpusError, "header"), zipfile.ZipFile(path) as archive, archive.open("landmarks.npy") as file:
            np.lib.format.read_magic(file)
            shape: tuple[int, ...] = np.lib.format.read_array_header_1_0(file)[0]
            return shape
    except CorpusError:
        return None


def write_clip(clip: Clip, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Write the two files of a clip, each completely or not at all; :func:`write_index` writes the index.

    Args:
        clip: The clip, which is checked first.
        folder: The corpus folder; created if missing.

    Returns:
        The entry of the clip for the index.

    Raises:
        CorpusError: The clip violates the format.
        ArgumentError: A sample of the waveform is outside [-1, 1].
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
    check_path("folder", folder)
    with replacing(Path(folder, f"{clip.id}.npz")) as part, part.open("wb") as file:
        np.savez_compressed(
            file, landmarks=clip.landmarks, fps=np.float64(clip.fps), frame_size=np.array(clip.frame_size, np.int32)
        )
    write_audio(Path(folder, f"{clip.id}.flac"), clip.waveform, sample_rate=clip.sample_rate)
    return _entry(clip)


def _entry(clip: Clip) -> dict[str, Any]:
    entry = {"id": clip.id, "seconds": clip.seconds, "frames": clip.frames, "speaker": clip.speaker, "split": clip.split}
    if clip.missing_audio:
        fits = isinstance(clip.missing_audio, tuple | list) and all(
            isinstance(part, tuple | list) for part in clip.missing_audio
        )
        expect(fits, clip.id, "missing_audio", "ranges (first, stop)", clip.missing_audio)
        entry["missing_audio"] = [list(part) for part in clip.missing_audio]
    return entry


def write_index(folder: str | os.PathLike[str], entries: Iterable[Entry], /, *, fps: float = FPS, **extra: Any) -> None:
    """Write ``index.json``, completely or not at all.

    Write the index after all clips, so that it never lists missing files.

    Args:
        folder: The corpus folder; created if missing.
        entries: Results of :func:`write_clip`, with any additional keys.
        fps: Frames per second of all clips.
        **extra: Additional keys of the index.

    Raises:
        CorpusError: An entry lacks a key, an id occurs twice, or a speaker is in two splits.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_index(folder, [{"id": "a", "frames": 2, "speaker": "anna", "split": "train"}])

    Source: ours.
    """
    check_path("folder", folder)
    if not is_rate(fps):
        raise ArgumentError(f"`fps`: expected a rate above 0, got {fps!r}")
    clips = [dict(check_entry(entry)) for entry in entries]
    _select(clips, skip_bad=False)
    write_json(Path(folder, INDEX_NAME), {"fps": fps, "sample_rate": SAMPLE_RATE, **extra, "clips": clips})


def write_corpus(clips: Iterable[Clip], folder: str | os.PathLike[str]) -> Corpus:
    """Write clips and their index to a folder, as a corpus that every command and :class:`Corpus` can read.

    Args:
        clips: Clips with the same frame rate, such as landmarks and audio of your own, or the synthetic talker's.
        folder: A new folder, or one without clips.

    Returns:
        The corpus.

    Raises:
        ArgumentError: The folder has an index, or there is no clip.
        CorpusError: A clip violates the format, an id occurs twice, a speaker is in two splits, or the rates differ.
        MissingExtraError: PyAV is not installed (extra "media").

    Example:
        >>> import tempfile
        >>> clip = Clip("a", "anna", "train", np.ones((2, 68, 2), np.float32), np.zeros(1280, np.float32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_corpus([clip], folder).speakers
        ('anna',)

    Source: ours.
    """
    check_path("folder", folder)
    if Path(folder, INDEX_NAME).exists():
        raise ArgumentError(f"`folder`: expected a folder without {INDEX_NAME}, got {os.fspath(folder)!r}")
    entries, rates = [], list[float]()
    check_type("clips", clips, Iterable)
    for clip in clips:
        check_type("clips", clip, Clip)
        rates.append(clip.fps)
        expect(clip.fps == rates[0], clip.id, "the clip", f"{rates[0]:g} frames per second as the first clip", f"{clip.fps:g}")
        entries.append(write_clip(clip, folder))
    if not entries:
        raise ArgumentError("`clips`: expected at least one clip, got none")
    write_index(folder, entries, fps=rates[0])
    return Corpus(folder, fps=None)


def _select(entries: Sequence[object], *, skip_bad: bool) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Return the entries that are valid and consistent with each other, and (id, reason) of the others."""
    good: list[Entry] = []
    bad: list[tuple[str, str]] = []
    ids: set[str] = set()
    splits = _splits(entries)
    for entry in entries:
        try:
            checked = check_entry(entry)
            name, speaker, split = checked["id"], checked["speaker"], checked["split"]
            expect(name not in ids, name, INDEX_NAME, "every id once", "it a second time")
            usual = splits[speaker]
            expect(usual == split, name, INDEX_NAME, f"speaker {speaker!r} in one split, {usual!r}", f"split {split!r}")
        except CorpusError as error:
            if not skip_bad:
                raise
            bad.append((str(entry.get("id")) if isinstance(entry, Mapping) else "None", str(error)))
        else:
            ids.add(name)
            good.append(checked)
    return good, bad


def _splits(entries: Sequence[object]) -> dict[str, str]:
    """Return the split with the most clips of each speaker; the first one if several are equal."""
    counts: dict[str, Counter[str]] = {}
    for entry in entries:
        if isinstance(entry, Mapping) and isinstance(entry.get("speaker"), str) and isinstance(entry.get("split"), str):
            counts.setdefault(entry["speaker"], Counter())[entry["split"]] += 1
    return {speaker: count.most_common(1)[0][0] for speaker, count in counts.items()}


class Corpus(Sequence[Clip]):
    """Corpus folder as a sequence of clips; each clip is read and checked on access.

    The whole index is checked first. With ``skip_bad`` all clips are read once at the start (about 3 s for 90 minutes), and bad
    clips are excluded and listed. Without ``skip_bad`` a bad clip raises an error when it is read. An index that cannot be
    read, or that has another frame rate, always raises an error. With ``skip_bad``, a speaker in two splits keeps only the
    clips of the split with more clips.

    Args:
        folder: The corpus folder.
        split: Name of the split to keep; None keeps all.
        skip_bad: Exclude bad clips instead of raising.
        fps: Required frame rate, 25 for training and metrics; None accepts any.

    Attributes:
        fps: Frames per second.
        entries: Entries of the index, one per clip.
        speakers: Labels of the speakers, sorted.
        bad: (id, reason) of each excluded clip.

    Raises:
        CorpusError: The index is missing or damaged, or a clip is bad and ``skip_bad`` is False, or no clip remains.
        ArgumentError: No clip is in ``split``, or an argument has the wrong type.

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
        self.folder = Path(check_path("folder", folder))
        check_type("split", split, str, optional=True)
        check_type("skip_bad", skip_bad, bool)
        _check_rate(fps)
        index = self._read_index(fps)
        self.fps = float(index["fps"])
        good, bad = _select(index["clips"], skip_bad=skip_bad)
        splits = sorted({entry["split"] for entry in good})
        if split is not None and split not in splits:
            raise ArgumentError(f"`split`: expected one of {splits}, got {split!r}")
        chosen = [entry for entry in good if split is None or entry["split"] == split]
        if skip_bad:
            chosen = [entry for entry in chosen if self._is_good(entry, bad)]
        if not chosen:
            why = f"{len(bad)} bad ones, the first: {bad[0][1]}" if bad else "none"
            raise CorpusError(f"{self.folder}: expected at least one clip, got {why}")
        self.entries: tuple[Entry, ...] = tuple(chosen)
        self.bad: tuple[tuple[str, str], ...] = tuple(bad)
        self.speakers: tuple[str, ...] = tuple(sorted({entry["speaker"] for entry in chosen}))

    def _read_index(self, fps: float | None) -> Entry:
        path = self.folder / INDEX_NAME
        if not path.exists():
            raise CorpusError(f"{path}: expected the index of a corpus, found no file")
        message = f"{path}: expected an index in JSON, got"
        index = read_json(path, error=CorpusError, message=message, most_bytes=_MAX_INDEX_BYTES)
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
        """Return the number of clips."""
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Clip: ...

    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...

    @checked
    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        """Read one clip, or the list of the clips in a slice."""
        if isinstance(index, slice):
            return [read_clip(self.folder, entry, fps=self.fps) for entry in self.entries[index]]
        return read_clip(self.folder, self.entries[index], fps=self.fps)

    def __repr__(self) -> str:
        """Return the folder and the sizes."""
        return f"Corpus({str(self.folder)!r}: {len(self)} clips, {len(self.speakers)} speakers, {len(self.bad)} bad)"


@checked
def resample_clip(clip: Clip, *, fps: float = FPS) -> Clip:
    """Return a clip at another frame rate: landmarks on the same clock, and the audio of their duration.

    Args:
        clip: Clip at any constant rate.
        fps: Frames per second of the result.

    Returns:
        The clip with ``round(frames * fps / clip.fps)`` frames, at least 1 (:func:`avsync.resampling.resample_frames`);
        ``clip`` itself if it has this rate. Its audio is cut or padded with silence, by at most half a frame, to the duration
        of the frames. A frame counts as without audio if the nearest frame of ``clip`` has none.

    Raises:
        ArgumentError: ``fps`` is not above 0.

    Example:
        >>> clip = Clip("a", "anna", "train", np.ones((60, 68, 2), np.float32), np.zeros(32000, np.float32), fps=30.0)
        >>> resample_clip(clip).landmarks.shape
        (50, 68, 2)

    Source: ours.
    """
    if not is_rate(fps):
        raise ArgumentError(f"`fps`: expected a rate above 0, got {fps!r}")
    if clip.fps == fps:
        return clip
    frames = max(1, resampled_length(clip.frames, clip.fps, fps))
    landmarks = resample_frames(torch.from_numpy(clip.landmarks)[None], fps=clip.fps, to_fps=fps, frames=frames)[0].numpy()
    samples = sample_of_frame(frames, fps)
    waveform = np.pad(clip.waveform[:samples], (0, max(0, samples - clip.waveform.size)))
    missing: FrameRanges = ()
    if clip.missing_audio:
        nearest = np.minimum(np.floor(np.arange(frames) * clip.fps / fps + 0.5).astype(np.int64), clip.frames - 1)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], ~clip.has_audio[nearest], [False]])))
        missing = tuple((int(first), int(stop)) for first, stop in edges.reshape(-1, 2))
    return replace(clip, landmarks=landmarks, waveform=waveform, fps=float(fps), missing_audio=missing)


@checked
def speaker_half(speaker: str) -> str:
    """Return one of two halves of the speakers, "A" or "B", by a hash of the label.

    If one half of the validation speakers chooses a model and the other half reports it, no result is chosen on its own data.
    The half of a speaker stays the same when speakers are added.

    Args:
        speaker: The label, ``Clip.speaker``.

    Raises:
        ArgumentError: ``speaker`` is no text.

    Example:
        >>> speaker_half("spk001"), speaker_half("spk009")
        ('A', 'B')

    Source: ours.
    """
    return "AB"[int(hashlib.sha256(speaker.encode()).hexdigest(), 16) % 2]


def sample_of_frame(frame: int, fps: float = FPS) -> int:
    """Return the number of the sample at the time of a landmark frame.

    Args:
        frame: Number of the frame, from 0. For the number of frames of a clip, the result is the number of samples.
        fps: Frames per second.

    Returns:
        ``round(16000 * frame / fps)``, at most half a sample (31 microseconds) from the exact time.

    Example:
        >>> sample_of_frame(50), sample_of_frame(50, 30.0)
        (32000, 26667)

    Source: ours.
    """
    check_type("frame", frame, int, np.integer)
    if not is_rate(fps):
        raise ArgumentError(f"`fps`: expected a rate above 0, got {fps!r}")
    return round(int(frame) * SAMPLE_RATE / fps)


def expect(fits: bool, clip: str, source: str, expected: str, got: object) -> None:
    if not fits:
        raise CorpusError(f"clip {clip!r}, {source}: expected {expected}, got {got}")


def check_clip_landmarks(clip: str, source: str, landmarks: Any) -> None:
    """Raise an error unless landmarks are (frames, points, dims) of finite float32."""
    fits = isinstance(landmarks, np.ndarray) and landmarks.ndim == 3 and landmarks.dtype == np.float32
    shape = f"shape {landmarks.shape} of {landmarks.dtype}" if isinstance(landmarks, np.ndarray) else type(landmarks).__name__
    expect(fits, clip, source, "landmarks (frames, points, dims) of float32", shape)
    expect(0 not in landmarks.shape, clip, source, "at least one frame, point and dim", f"shape {landmarks.shape}")
    expect(landmarks.shape[2] <= 3, clip, source, "at most 3 dims", f"shape {landmarks.shape}")
    bad = ~np.isfinite(landmarks).all(axis=(1, 2))
    expect(not bad.any(), clip, source, "finite landmarks", f"NaN or infinity in {bad.sum()} frames, first {bad.argmax()}")


def check_waveform(clip: str, source: str, waveform: Any, frames: int, fps: float) -> None:
    fits = isinstance(waveform, np.ndarray) and waveform.ndim == 1 and waveform.dtype == np.float32
    shape = f"shape {waveform.shape} of {waveform.dtype}" if isinstance(waveform, np.ndarray) else type(waveform).__name__
    expect(fits, clip, source, "a waveform (samples,) of float32", shape)
    samples = sample_of_frame(frames, fps)
    expect(waveform.size == samples, clip, source, f"{samples} samples for {frames} frames", waveform.size)
    bad = ~np.isfinite(waveform)
    expect(not bad.any(), clip, source, "a finite waveform", f"NaN or infinity in {bad.sum()} samples")


def check_entry(entry: object) -> Entry:
    name = entry.get("id") if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping):
        raise CorpusError(f"clip None, {INDEX_NAME}: expected an object, got {type(entry).__name__}")
    for key, kind in _ENTRY_TYPES.items():
        got = entry.get(key)
        expected = f"a key {key!r} of type {kind.__name__}"
        expect(key in entry, str(name), INDEX_NAME, expected, f"keys {sorted(map(str, entry))}")
        fits = isinstance(got, kind) and not isinstance(got, bool)
        expect(fits, str(name), INDEX_NAME, expected, repr(got))
    # The id becomes a path, which must stay inside the folder.
    plain = _PLAIN_NAME.fullmatch(entry["id"]) is not None
    expect(plain, str(name), INDEX_NAME, "an id of letters, digits and _ . + -", repr(name))
    expect(entry["frames"] > 0, str(name), INDEX_NAME, "at least one frame", entry["frames"])
    expect(entry["frames"] <= _MAX_FRAMES, str(name), INDEX_NAME, f"at most {_MAX_FRAMES} frames", entry["frames"])
    _check_missing_audio(str(name), entry)
    return entry


def _check_missing_audio(name: str, entry: Entry) -> None:
    ranges = entry.get("missing_audio", ())
    reached = 0
    for part in ranges if isinstance(ranges, list | tuple) else (None,):
        fits = isinstance(part, list | tuple) and len(part) == 2 and all(type(edge) is int for edge in part)
        expected = f"missing_audio as ranges [first, stop] of its {entry['frames']} frames, in order"
        expect(fits and reached <= part[0] < part[1] <= entry["frames"], name, INDEX_NAME, expected, repr(ranges)[:100])
        reached = part[1]


def parts_with_audio(clip: Clip, *, least: int = 5) -> list[Clip]:
    """Return the parts of a clip whose frames have audio; the clip itself if all frames do.

    Args:
        clip: A clip of 25 frames per second.
        least: Frames of the shortest part that is kept; by default the shortest window of the syncers.

    Returns:
        The parts, in the order of time. A part is named after its first frame: "talk+40".

    Example:
        >>> landmarks, waveform = np.ones((50, 68, 2), np.float32), np.zeros(32000, np.float32)
        >>> clip = Clip("talk", "anna", "train", landmarks, waveform, missing_audio=((20, 40),))
        >>> [(part.id, part.frames) for part in parts_with_audio(clip)]
        [('talk', 20), ('talk+40', 10)]

    Source: ours.
    """
    if not clip.missing_audio:
        return [clip]
    edges = [0, *itertools.chain(*clip.missing_audio), clip.frames]
    return [
        replace(
            clip,
            id=f"{clip.id}+{first}" if first else clip.id,
            landmarks=clip.landmarks[first:stop],
            waveform=clip.waveform[SAMPLES_PER_FRAME * first : SAMPLES_PER_FRAME * stop],
            missing_audio=(),
        )
        for first, stop in zip(edges[::2], edges[1::2], strict=True)
        if stop - first >= least
    ]


def rms_db(clip: Clip) -> float:
    """Return the RMS level of the frames with audio of a clip in decibels of full scale; -200 for silence or no audio."""
    samples = clip.waveform
    for first, stop in reversed(clip.missing_audio):
        samples = np.delete(samples, slice(sample_of_frame(first, clip.fps), sample_of_frame(stop, clip.fps)))
    power = float(np.mean(np.square(samples, dtype=np.float64))) if samples.size else 0.0
    return 10 * float(np.log10(power + 1e-20))


def missing_ranges(present: BoolArray, frames: int, fps: float = FPS) -> FrameRanges:
    """Return the ranges of frames without audio in the source.

    Args:
        present: (samples,) at 16 kHz, True for samples with audio; ``sample_of_frame(frames, fps)`` samples.
        frames: Number of landmark frames.
        fps: Frames per second.

    Returns:
        Ranges (first, stop), in order; a frame has no audio if less than half of its samples are present.

    Example:
        >>> present = np.ones(640 * 10, bool)
        >>> present[640 * 7 :] = False
        >>> missing_ranges(present, 10)
        ((7, 10),)

    Source: ours.
    """
    check_type("frames", frames, int, np.integer)
    check_type("present", present, np.ndarray)
    samples = sample_of_frame(frames, fps)
    if present.shape != (samples,) or present.dtype != np.bool_:
        raise ShapeError(f"`present`: expected (samples={samples}) of bool, got {present.shape} of {present.dtype}")
    edges = np.array([sample_of_frame(frame, fps) for frame in range(frames + 1)])
    total = np.concatenate([[0], np.cumsum(present)])[edges]
    lacking = np.diff(total) < 0.5 * np.diff(edges)
    turns = np.flatnonzero(np.diff(np.concatenate([[False], lacking, [False]]))).tolist()
    return tuple(zip(turns[::2], turns[1::2], strict=True))


def _check_rate(fps: object) -> None:
    if fps is not None and not is_rate(fps):
        raise ArgumentError(f"`fps`: expected a rate above 0 or None, got {fps!r}")


def is_rate(fps: object) -> bool:
    """Return whether ``fps`` is a valid number of frames per second."""
    return isinstance(fps, int | float) and not isinstance(fps, bool) and _RATES[0] <= fps <= _RATES[1]
