"""Banks of clips: random and fixed crops, the batch, and the bank that keeps all clips in memory.

:class:`ClipBank` keeps landmarks and features in memory and :class:`avsync.corpus.banks.shards.ShardedBank` in files. Both draw
the same crops for the same generator, and return the same values.

Features are computed once. One hour of a corpus is about 150 MB as float32, so all clips fit into two tensors, and a batch is
two gather operations. Augmentation acts on the batch: one random similarity for all frames of a crop, and a gain, which is an
offset of features in decibels. The features are therefore never computed again.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from avsync._checks import check_positive, check_type, checked, device_of_module
from avsync.audio.features import normalise_waveform
from avsync.corpus.banks.augmentation import AugmentConfig, interpolate_rows, random_tempo, vary_audio, vary_landmarks
from avsync.corpus.clip import SAMPLES_PER_FRAME, Clip, Corpus, check_clip, parts_with_audio, resample_clip
from avsync.corpus.speech import clip_speech
from avsync.errors import ArgumentError, ClipTooShortError, CorpusError, ShapeError
from avsync.pyramid import AUDIO_FRAMES_PER_FRAME, FPS

_MAX_BATCH = 1 << 24
_MAX_LENGTH = 1 << 31


@dataclass(frozen=True, eq=False)
class Batch:
    """Batch of crops of clips.

    Attributes:
        landmarks: (batch, frames, points, dims), in the unit of the corpus.
        audio: (batch, 4 * (frames + 2 * margin), coeffs), features of the same frames and of the margin around them.
        clip_index: (batch,), index of the clip in the bank.
        start: (batch,), first frame of ``landmarks`` within the clip.
        speech: (batch, frames), bool, True for frames with speech; see :func:`avsync.corpus.speech.speech_mask`.
    """

    landmarks: Tensor
    audio: Tensor
    clip_index: Tensor
    start: Tensor
    speech: Tensor

    def __len__(self) -> int:
        """Return the number of crops."""
        return self.landmarks.shape[0]

    @property
    def speech_fraction(self) -> Tensor:
        """Share of the frames with speech in each crop, (batch,)."""
        return self.speech.float().mean(dim=1)

    @checked
    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the crops on another device; with ``non_blocking``, copies from pinned memory are asynchronous."""
        return Batch(*(x.to(device, non_blocking=non_blocking) for x in self._tensors()))

    def pin_memory(self) -> Batch:
        """Return the crops in page-locked memory, for asynchronous copies to a GPU; needs CUDA."""
        return Batch(*(x.pin_memory() for x in self._tensors()))

    @checked
    def select(self, which: Tensor | slice) -> Batch:
        """Return the crops selected by a mask (batch,), by indices or by a slice."""
        if isinstance(which, Tensor) and (which.ndim != 1 or which.dtype not in (torch.bool, torch.int64)):
            raise ShapeError(f"`which`: expected a mask or numbers (int64) of crops, got {tuple(which.shape)} of {which.dtype}")
        try:
            return Batch(*(x[which] for x in self._tensors()))
        except IndexError as error:
            raise ArgumentError(f"`which`: expected crops 0 to {len(self.start) - 1}, got others: {error}") from error

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.landmarks, self.audio, self.clip_index, self.start, self.speech


class _Plan(NamedTuple):
    """Positions of all crops of one length. A bank keeps them between batches, because they take a pass over all clips."""

    counts: Tensor
    """(clips,), number of crops of each clip."""
    per_speaker: Tensor
    """(speakers,), number of crops of each speaker."""
    last: Tensor
    """(clips,), cumulative number of crops up to and including each clip, with clips in the order of the speakers."""


class CropBank(ABC):
    """Base class of the banks of clips: index, sampling of crops, and augmentation.

    A bank stores the length and the speaker of each clip. Subclasses return rows, which are numbered through all clips: one row
    of landmarks and four rows of audio features per frame. Speech is a row of 0 or 1 per frame, so that it can be interpolated
    in time like the other rows.

    Attributes:
        features: The module that computed the audio features; augmentation uses its ``filter_offset``.
        ids: Name of each clip.
        clip_speakers: Speaker of each clip.
        speakers: All speakers, sorted.
        lengths: (clips,), frames of each clip, on the CPU as all index tensors are.
        offsets: (clips,), number of each clip's first frame among the frames of all clips.
        bad: (id, reason) of each excluded clip.

    Source: ours.
    """

    features: nn.Module
    ids: tuple[str, ...]
    clip_speakers: tuple[str, ...]
    speakers: tuple[str, ...]
    lengths: Tensor
    offsets: Tensor
    bad: tuple[tuple[str, str], ...]
    _speaker: Tensor
    _by_speaker: Tensor

    def _set_index(self, ids: Sequence[str], speakers: Sequence[str], lengths: Tensor) -> None:
        """Store the index of the clips, in the order of their rows."""
        self.ids = tuple(ids)
        self.clip_speakers = tuple(speakers)
        self.speakers = tuple(sorted(set(speakers)))
        self.lengths = lengths
        self.offsets = lengths.cumsum(0) - lengths
        number = {speaker: i for i, speaker in enumerate(self.speakers)}
        self._speaker = torch.tensor([number[speaker] for speaker in speakers])
        self._by_speaker = self._speaker.argsort(stable=True)

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the batches."""

    @abstractmethod
    def audio_statistics(self) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation of each coefficient over all frames, both (coeffs,), in the features' unit."""

    @abstractmethod
    def _rows(self, name: str, begin: Tensor, count: int) -> Tensor:
        """Return ``count`` rows of "landmarks", "audio" or "speech" from each of ``begin`` (batch,), (batch, count, ...)."""

    @abstractmethod
    def _stretched_rows(self, name: str, begin: Tensor, tempo: Tensor, count: int, end: Tensor) -> Tensor:
        """Return rows interpolated in time; see :func:`avsync.corpus.banks.augmentation.interpolate_rows`."""

    @property
    def minutes(self) -> float:
        """Total length of the clips, in minutes."""
        return int(self.lengths.sum()) / FPS / 60

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.ids)

    def __repr__(self) -> str:
        """Return the class and the sizes."""
        kind = type(self).__name__
        return f"{kind}({len(self)} clips, {len(self.speakers)} speakers, {self.minutes:.1f} min, {len(self.bad)} bad)"

    def _plan(self, frames: int, margin: int) -> _Plan:
        check_type("frames", frames, int)
        check_type("margin", margin, int)
        check_positive("frames", frames)
        check_positive("margin", margin, allow_zero=True)
        if max(frames, margin) > _MAX_LENGTH:
            raise ArgumentError(f"`frames`, `margin`: expected at most {_MAX_LENGTH}, got {frames} and {margin}")
        plans: dict[tuple[int, int], _Plan] = self.__dict__.setdefault("_plans", {})
        if (frames, margin) in plans:
            return plans[frames, margin]
        counts = (self.lengths - (frames + 2 * margin) + 1).clamp_min(0)
        if not bool(counts.any()):
            around = f" and a margin of {margin}" if margin else ""
            raise ClipTooShortError(
                f"`frames`: expected at most {int(self.lengths.max()) - 2 * margin}, the longest clip has "
                f"{int(self.lengths.max())} frames, got {frames}{around}"
            )
        per_speaker = torch.zeros(len(self.speakers), dtype=torch.long).index_add_(0, self._speaker, counts)
        plan = _Plan(counts, per_speaker, counts[self._by_speaker].cumsum(0))
        if len(plans) >= 8:  # bounds the memory if a caller uses another length for each batch
            plans.pop(next(iter(plans)), None)
        plans[frames, margin] = plan
        return plan

    def sample(
        self,
        batch_size: int,
        frames: int,
        *,
        generator: torch.Generator | None = None,
        augment: AugmentConfig | None = None,
        margin: int = 0,
        speakers_distinct: bool = True,
        speaker_power: float = 1.0,
    ) -> Batch:
        """Draw random crops: first a speaker, then one of the crops of this speaker, all with equal probability.

        Args:
            batch_size: Number of crops.
            frames: Landmark frames per crop; shorter clips are excluded.
            generator: Random generator, on any device; the default generator of torch if None.
            augment: Augmentation of the crops; None for none. A faster tempo needs longer clips: the speed of a clip that is
                too short is reduced to the fastest possible one.
            margin: Landmark frames of additional audio on both sides.
            speakers_distinct: No speaker is repeated before all others have been drawn; with a batch as large as the number of
                speakers, each speaker is drawn once. False draws each crop independently.
            speaker_power: The weight of a speaker is the number of its crops to this power. With 1 all crops of the corpus are
                equally likely (as far as ``speakers_distinct`` permits), with 0 all speakers.

        Returns:
            The batch, on the device of the bank.

        Raises:
            ClipTooShortError: No clip is long enough.
            ArgumentError: ``batch_size`` or ``frames`` is not positive, or ``margin`` is not 0 and the tempo varies.
        """
        check_type("batch_size", batch_size, int)
        check_positive("batch_size", batch_size)
        if batch_size > _MAX_BATCH:
            raise ArgumentError(f"`batch_size`: expected at most {_MAX_BATCH}, got {batch_size}")
        check_type("generator", generator, torch.Generator, optional=True)
        check_type("augment", augment, AugmentConfig, optional=True)
        check_type("speakers_distinct", speakers_distinct, bool)
        check_type("speaker_power", speaker_power, int, float)
        if not abs(speaker_power) <= 16:
            raise ArgumentError(f"`speaker_power`: expected a number from -16 to 16, got {speaker_power!r}")
        counts, per_speaker, last = self._plan(frames, margin)
        device = torch.device("cpu") if generator is None else generator.device
        weights = torch.where(per_speaker > 0, per_speaker.double() ** speaker_power, 0.0).to(device)
        if speakers_distinct:
            at_most = int((per_speaker > 0).sum())
            sizes = [min(at_most, batch_size - done) for done in range(0, batch_size, at_most)]
            rounds = [torch.multinomial(weights, size, replacement=False, generator=generator) for size in sizes]
            speaker = torch.cat(rounds).cpu()
        else:
            speaker = torch.multinomial(weights, batch_size, replacement=True, generator=generator).cpu()
        # With clips in the order of their speakers, the crops of one speaker have consecutive numbers, and one draw gives clip
        # and start.
        uniform = torch.rand(batch_size, generator=generator, device=device, dtype=torch.float64).cpu()
        within = torch.minimum((uniform * per_speaker[speaker]).long(), per_speaker[speaker] - 1)
        crop = (per_speaker.cumsum(0) - per_speaker)[speaker] + within
        row = torch.searchsorted(last, crop, right=True)
        clip = self._by_speaker[row]
        start = crop - (last[row] - counts[clip]) + margin
        if augment is None or not augment.enabled:
            return self._gather(clip, start, frames, margin)
        if augment.tempo == (1.0, 1.0):
            batch = self._gather(clip, start, frames, margin)
        elif margin:
            raise ArgumentError(f"`margin`: expected 0 with a tempo that varies, got {margin}")
        else:
            batch = self._gather_stretched(clip, start, frames, random_tempo(batch_size, augment, generator))
        landmarks = vary_landmarks(batch.landmarks, augment, generator)
        return replace(batch, landmarks=landmarks, audio=vary_audio(batch.audio, self.features, augment, generator))

    def windows(self, frames: int, *, stride: int, margin: int = 0) -> Batch:
        """Return all crops at multiples of a stride whose margins lie inside the clip, in the order of the clips.

        Args:
            frames: Landmark frames per crop; clips shorter than ``frames + 2 * margin`` are excluded.
            stride: Frames from one crop of a clip to the next; the first crop starts at frame ``margin``.
            margin: Landmark frames of additional audio on both sides, for an offset search of up to ``margin`` frames.

        Returns:
            One batch with all crops, on the device of the bank; use a large stride for a large bank.

        Raises:
            ClipTooShortError: No clip is long enough.
            ArgumentError: ``frames`` or ``stride`` is not positive.
        """
        check_type("stride", stride, int)
        check_positive("stride", stride)
        if stride > _MAX_LENGTH:
            raise ArgumentError(f"`stride`: expected at most {_MAX_LENGTH}, got {stride}")
        counts = (self._plan(frames, margin).counts + stride - 1) // stride
        clip = torch.arange(len(self)).repeat_interleave(counts)
        number = torch.arange(clip.shape[0]) - (counts.cumsum(0) - counts)[clip]
        return self._gather(clip, margin + stride * number, frames, margin)

    def _gather(self, clip: Tensor, start: Tensor, frames: int, margin: int) -> Batch:
        begin = self.offsets[clip] + start
        landmarks = self._rows("landmarks", begin, frames)
        audio = self._rows("audio", AUDIO_FRAMES_PER_FRAME * (begin - margin), AUDIO_FRAMES_PER_FRAME * (frames + 2 * margin))
        return Batch(landmarks, audio, clip.to(self.device), start.to(self.device), self._rows("speech", begin, frames) > 0.5)

    def _gather_stretched(self, clip: Tensor, start: Tensor, frames: int, tempo: Tensor) -> Batch:
        """Return the crops played ``tempo`` (batch,) times as fast, with interpolation between frames."""
        length = self.lengths[clip]
        tempo = torch.minimum(tempo, (length - 1) / (frames - 1)) if frames > 1 else tempo
        span = (frames - 1) * tempo
        start = torch.minimum(start, (length - 1 - span.ceil()).long().clamp_min(0))
        begin, end = self.offsets[clip] + start, self.offsets[clip] + length
        rate = AUDIO_FRAMES_PER_FRAME
        landmarks = self._stretched_rows("landmarks", begin, tempo, frames, end - 1)
        audio = self._stretched_rows("audio", rate * begin, tempo, rate * frames, rate * end - 1)
        speech = self._stretched_rows("speech", begin, tempo, frames, end - 1) > 0.5
        return Batch(landmarks, audio, clip.to(self.device), start.to(self.device), speech)


class ClipBank(CropBank):
    """Bank of clips in memory, as landmarks and audio features.

    Args:
        clips: A :class:`~avsync.corpus.clip.Corpus` or any other clips. All must have the same points and dims.
        features: Waveform (batch, 640 * frames) to features (batch, 4 * frames, coeffs), with
            ``filter_offset(db: (batch, n_mels)) -> (batch, coeffs)`` for augmentation; :class:`avsync.audio.features.LogMel` or
            :class:`avsync.audio.features.MFCC`. Called once per clip, on the whole clip, after
            :func:`avsync.audio.features.normalise_waveform`.
        skip_bad: Exclude clips that cannot be read or violate the format and list them in ``bad``, instead of raising.

    Attributes:
        landmarks: (all frames, points, dims) float32.
        audio: (4 * all frames, coeffs) float32.
        speech: (all frames,) float32, 1 for frames with speech (:func:`avsync.corpus.speech.speech_mask`), else 0.
        lengths: (clips,), frames of each clip, on the CPU as all index tensors are.
        offsets: (clips,), first frame of each clip in ``landmarks``.
        ids: Name of each clip. Of a clip that lacks audio, each part with audio is a clip of the bank.
        clip_speakers: Speaker of each clip.
        speakers: All speakers, sorted.
        bad: (id, reason) of each clip excluded here or by the corpus.

    Raises:
        CorpusError: A clip is bad (or has no audio at all) and ``skip_bad`` is False, or no clip remains.
        ShapeError: ``features`` does not return 4 frames per landmark frame.

    Example:
        >>> from avsync.audio.features import LogMel
        >>> clip = Clip("a", "anna", "train", np.ones((50, 68, 2), np.float32), np.zeros(32000, np.float32))
        >>> bank = ClipBank([clip], features=LogMel())
        >>> batch = bank.sample(3, 20, generator=torch.Generator().manual_seed(0))
        >>> batch.landmarks.shape, batch.audio.shape
        (torch.Size([3, 20, 68, 2]), torch.Size([3, 80, 26]))

    Source: ours.
    """

    def __init__(self, clips: Iterable[Clip], *, features: nn.Module, skip_bad: bool = False) -> None:
        check_sources(clips, features)
        check_type("skip_bad", skip_bad, bool)
        self.features = features
        bad: list[tuple[str, str]] = list(clips.bad) if isinstance(clips, Corpus) else []
        kept = list(prepare_clips(clip_readers(clips), features=features, bad=bad if skip_bad else None))
        if skip_bad:
            kept = keep_usual_shape(kept, bad)
        self.bad = tuple(bad)
        if not kept:
            raise CorpusError(f"expected at least one good clip, got none and {len(bad)} bad ones")
        lengths = torch.tensor([clip.frames for clip, _, _ in kept])
        self._set_index([clip.id for clip, _, _ in kept], [clip.speaker for clip, _, _ in kept], lengths)
        self.landmarks = torch.cat([torch.from_numpy(clip.landmarks) for clip, _, _ in kept])
        self.audio = torch.cat([audio for _, audio, _ in kept])
        self.speech = torch.cat([mask for _, _, mask in kept]).float()

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self.landmarks.device

    @checked
    def to(self, device: torch.device | str) -> ClipBank:
        """Move landmarks, features and speech to a device, in place; batches are then on this device."""
        self.landmarks, self.audio, self.speech = (x.to(device) for x in (self.landmarks, self.audio, self.speech))
        self.features.to(device)
        return self

    def _rows(self, name: str, begin: Tensor, count: int) -> Tensor:
        rows: Tensor = getattr(self, name)
        which = (begin[:, None] + torch.arange(count)).flatten().to(rows.device)
        return rows.index_select(0, which).unflatten(0, (begin.shape[0], count))

    def _stretched_rows(self, name: str, begin: Tensor, tempo: Tensor, count: int, end: Tensor) -> Tensor:
        return interpolate_rows(getattr(self, name), begin, tempo, count, end)

    def audio_statistics(self) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation of each coefficient over all frames, both (coeffs,), in the features' unit."""
        return self.audio.mean(dim=0), self.audio.std(dim=0)


def check_sources(clips: object, features: object) -> None:
    """Raise :class:`ArgumentError` unless ``clips`` can hold clips and ``features`` can be called."""
    if isinstance(clips, str | bytes | os.PathLike):
        raise ArgumentError(
            f"`clips`: expected a Corpus or other clips, got the path {os.fspath(clips)!r}; open it by Corpus(...)"
        )
    if not isinstance(clips, Iterable) or getattr(clips, "ndim", 1) == 0:
        raise ArgumentError(f"`clips`: expected a Corpus or other clips, got {type(clips).__name__}")
    if not isinstance(features, nn.Module):
        raise ArgumentError(f"`features`: expected a module that returns audio features, got {type(features).__name__}")


def keep_usual_shape(
    kept: list[tuple[Clip, Tensor, Tensor]], bad: list[tuple[str, str]], usual: tuple[int, ...] | None = None
) -> list[tuple[Clip, Tensor, Tensor]]:
    """Return the clips with the most common (points, dims), and list the others in ``bad``.

    Args:
        kept: Clips, their features and speech masks.
        bad: List to which (id, reason) is added.
        usual: (points, dims) to keep; the most common ones if None.
    """
    counts = Counter(clip.landmarks.shape[1:] for clip, _, _ in kept)
    if not counts:
        return kept
    shape = counts.most_common(1)[0][0] if usual is None else usual
    for clip, _, _ in kept:
        if clip.landmarks.shape[1:] != shape:
            bad.append(
                (clip.id, f"clip {clip.id!r}: expected (points, dims) = {shape} as most clips, got {clip.landmarks.shape[1:]}")
            )
    return [row for row in kept if row[0].landmarks.shape[1:] == shape]


def clip_readers(clips: Iterable[Clip]) -> Iterator[tuple[str, Callable[[], Clip]]]:
    """Yield the id of each clip and a function that returns the clip, so that an unreadable clip does not end the loop.

    Args:
        clips: A corpus, or any other clips.

    Yields:
        (id, function that reads or returns the clip).
    """
    if isinstance(clips, Corpus):
        for i, entry in enumerate(clips.entries):
            yield entry["id"], partial(clips.__getitem__, i)
    else:
        for clip in clips:
            if not isinstance(clip, Clip):
                raise ArgumentError(f"`clips`: expected clips, got one of type {type(clip).__name__}")
            yield clip.id, partial(_itself, clip)


def prepare_clips(
    readers: Iterable[tuple[str, Callable[[], Clip]]],
    *,
    features: nn.Module,
    bad: list[tuple[str, str]] | None,
    shape: tuple[int, ...] | None = None,
) -> Iterator[tuple[Clip, Tensor, Tensor]]:
    """Read clips one after the other and compute their features and speech masks.

    Of a clip that lacks audio, each part with audio becomes a clip of its own (:func:`avsync.corpus.clip.parts_with_audio`), so
    that no training takes a hole for silence.

    Args:
        readers: The result of :func:`clip_readers`.
        features: As in :class:`ClipBank`.
        bad: List to which (id, reason) of unusable clips is added; None raises an error at the first unusable clip, or at a
            clip whose (points, dims) differ from ``shape``.
        shape: (points, dims) of all clips; None for those of the first clip.

    Yields:
        The clip, its features (4 * frames, coeffs) float32, and its :func:`avsync.corpus.speech.speech_mask` as a tensor
        (frames,).

    Raises:
        CorpusError: A clip is bad and ``bad`` is None.
        ShapeError: ``features`` does not return 4 frames per landmark frame.
    """
    for name, read in readers:
        try:
            clip = read()
            check_clip(clip)
            clip = resample_clip(clip)  # syncers and training runs have one rate
            parts = parts_with_audio(clip)
            if bad is None and shape is not None and clip.landmarks.shape[1:] != shape:
                raise CorpusError(f"clip {clip.id!r}: expected (points, dims) = {shape}, got {clip.landmarks.shape[1:]}")
            if not parts:
                raise CorpusError(f"clip {clip.id!r}: expected frames with audio, got none in its source")
        except CorpusError as error:
            if bad is None:
                raise
            bad.append((name, str(error)))
            continue
        shape = clip.landmarks.shape[1:]
        for part in parts:
            yield part, encode_waveform(part.waveform, features), torch.from_numpy(clip_speech(part))


@torch.no_grad()
def encode_waveform(waveform: npt.NDArray[np.float32], features: nn.Module) -> Tensor:
    """Compute the features of a waveform after normalisation.

    Args:
        waveform: (640 * frames,).
        features: As in :class:`ClipBank`.

    Returns:
        (4 * frames, coeffs) float32, on the CPU.

    Raises:
        ShapeError: ``features`` returns another number of frames.
    """
    device = device_of_module(features)
    audio: Tensor = features(normalise_waveform(torch.from_numpy(waveform).to(device)[None]))
    frames = waveform.size // SAMPLES_PER_FRAME
    if audio.ndim != 3 or audio.shape[:2] != (1, AUDIO_FRAMES_PER_FRAME * frames):
        expected = f"(1, {AUDIO_FRAMES_PER_FRAME * frames}, coeffs) for {frames} frames"
        raise ShapeError(f"`features`: expected {expected}, got {tuple(audio.shape)}")
    return audio[0].float().cpu()


def _itself(clip: Clip) -> Clip:
    return clip
