"""Crops of clips: random sampling, augmentation, and the batch.

The banks store landmarks and features: :class:`avsync.corpus.banks.memory.ClipBank` in memory and
:class:`avsync.corpus.banks.shards.ShardedBank` in files. Both draw the same crops for the same generator, and return the same
values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avsync._checks import check_positive, check_type
from avsync.corpus.banks.augmentation import AugmentConfig, random_tempo, vary_audio, vary_landmarks
from avsync.errors import ArgumentError, ClipTooShortError
from avsync.pyramid import AUDIO_FRAMES_PER_FRAME

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
        speech: (batch, frames), bool, True for frames with speech; see :func:`avsync.corpus.banks.memory.speech_mask`.
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

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the crops on another device; with ``non_blocking``, copies from pinned memory are asynchronous."""
        return Batch(*(x.to(device, non_blocking=non_blocking) for x in self._tensors()))

    def pin_memory(self) -> Batch:
        """Return the crops in page-locked memory, for asynchronous copies to a GPU; needs CUDA."""
        return Batch(*(x.pin_memory() for x in self._tensors()))

    def select(self, which: Tensor | slice) -> Batch:
        """Return the crops selected by a mask (batch,), by indices or by a slice."""
        return Batch(*(x[which] for x in self._tensors()))

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

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.ids)

    def __repr__(self) -> str:
        """Return the class and the sizes."""
        minutes = int(self.lengths.sum()) / 25 / 60
        kind = type(self).__name__
        return f"{kind}({len(self)} clips, {len(self.speakers)} speakers, {minutes:.1f} min, {len(self.bad)} bad)"

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
            too
                short is reduced to the fastest possible one.
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
