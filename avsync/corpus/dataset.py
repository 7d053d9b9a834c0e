"""Clips in memory: features computed once, random crops for training, fixed crops with surroundings for evaluation.

A corpus of an hour is about 150 MB as float32, so all of it is held in two tensors, and a batch is two gathers. Augmentation acts
on the gathered batch: the same random similarity on all frames of a crop, and a gain, which features of decibels take as an
offset, so that nothing has to be computed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from avsync._checks import check_positive
from avsync.audio import normalise_waveform
from avsync.corpus.augment import AugmentConfig, interpolate_rows, random_tempo, vary_audio, vary_landmarks
from avsync.corpus.clip import FPS, SAMPLES_PER_FRAME, Clip, Corpus, check_clip
from avsync.errors import ArgumentError, ClipTooShortError, CorpusError, ShapeError

AUDIO_FRAMES_PER_FRAME = 4
"""Audio feature frames a landmark frame."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Crops of clips.

    Attributes:
        landmarks: (batch, frames, points, dims), in the unit of the corpus.
        audio: (batch, 4 * (frames + 2 * margin), coeffs), features of the same time and of the margin around it.
        clip_index: (batch,), which clip of the bank.
        start: (batch,), first frame of ``landmarks`` within the clip.
        speech_fraction: (batch,), share of the frames that hold speech; see :func:`speech_mask`.
    """

    landmarks: Tensor
    audio: Tensor
    clip_index: Tensor
    start: Tensor
    speech_fraction: Tensor

    def __len__(self) -> int:
        """Number of crops."""
        return self.landmarks.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same crops on another device."""
        return Batch(*(x.to(device) for x in self._tensors()))

    def select(self, which: Tensor | slice) -> Batch:
        """Some of the crops, by a mask (batch,), by indices or by a slice."""
        return Batch(*(x[which] for x in self._tensors()))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.landmarks, self.audio, self.clip_index, self.start, self.speech_fraction


def speech_mask(
    waveform: npt.NDArray[np.float32] | Tensor,
    *,
    threshold_db: float = -20.0,
    percentile: float = 95.0,
    floor_db: float = -70.0,
) -> npt.NDArray[np.bool_]:
    """Which frames of a clip hold speech, by energy alone.

    A frame counts when the level of its 640 samples lies less than ``-threshold_db`` below the clip's loud frames (the given
    percentile of levels) and above ``floor_db``. It hears loudness, not speech: music and noise as loud as the voice count, and a
    clip in which nobody speaks is measured by its own loudest noise.

    On the real corpus the levels have no valley between speech and pause (50 % of the frames lie within 10 dB of the loud ones,
    the rest trails off evenly), so no threshold is right for all. -30 dB hardly ever finds a pause in the tenth of the clips
    whose levels span less than 18 dB. At -20 dB a clip's median share is 0.73; of 744 crops of 80 frames of the validation
    speakers 738 have 0.2 or more, and the four below or at 0.1 lie in one stretch of nine seconds of one clip. Take 0.2 as "has
    speech".

    Args:
        waveform: (samples,), at least one frame of 640; the mean is removed first.
        threshold_db: Level below the loud frames, in decibels.
        percentile: Which percentile of levels stands for the loud frames.
        floor_db: Quieter frames than this never count, in decibels of full scale.

    Returns:
        (samples // 640,), True where there is speech.

    Raises:
        ShapeError: Not one channel.
        ClipTooShortError: Less than one frame.

    Example:
        >>> sound = np.random.default_rng(0).normal(0, 0.1, 640 * 4).astype(np.float32)
        >>> sound[640:1280] *= 0.01
        >>> speech_mask(sound).tolist()
        [True, False, True, True]

    Source: ours.
    """
    samples = np.asarray(waveform, dtype=np.float64)
    if samples.ndim != 1:
        raise ShapeError(f"`waveform`: expected (samples,), got {samples.shape}")
    frames = samples.size // SAMPLES_PER_FRAME
    if frames == 0:
        raise ClipTooShortError(f"`waveform`: expected at least {SAMPLES_PER_FRAME} samples, got {samples.size}")
    blocks = (samples - samples.mean())[: frames * SAMPLES_PER_FRAME].reshape(frames, SAMPLES_PER_FRAME)
    level = 10.0 * np.log10(np.square(blocks).mean(axis=1) + 1e-20)
    mask: npt.NDArray[np.bool_] = (level > np.percentile(level, percentile) + threshold_db) & (level > floor_db)
    return mask


class ClipBank:
    """All clips of a corpus in memory, as landmarks and audio features.

    Args:
        clips: A :class:`~avsync.corpus.clip.Corpus` or any other clips. All must have the same points and dims.
        features: Waveform (batch, 640 * frames) to features (batch, 4 * frames, coeffs), with
            ``filter_offset(db: (batch, n_mels)) -> (batch, coeffs)`` for augmentation; :class:`avsync.audio.LogMel` or
            :class:`avsync.audio.MFCC`. Called once a clip, on the whole clip, after :func:`avsync.audio.normalise_waveform`.
        skip_bad: Leave out clips that cannot be read or break the format, and list them in ``bad``, instead of raising.

    Attributes:
        landmarks: (all frames, points, dims) float32.
        audio: (4 * all frames, coeffs) float32.
        lengths: (clips,), frames of each clip, on the CPU as all index tensors are.
        offsets: (clips,), first frame of each clip in ``landmarks``.
        ids: Name of each clip.
        clip_speakers: Speaker of each clip.
        speakers: All speakers, sorted.
        bad: (id, reason) of every clip left out, here or by the corpus.

    Raises:
        CorpusError: A clip is bad and ``skip_bad`` is off, or none is left.
        ShapeError: ``features`` does not return 4 frames a landmark frame.

    Example:
        >>> from avsync.audio import LogMel
        >>> clip = Clip("a", "anna", "train", np.ones((50, 68, 2), np.float32), np.zeros(32000, np.float32))
        >>> bank = ClipBank([clip], features=LogMel())
        >>> batch = bank.sample(3, 20, generator=torch.Generator().manual_seed(0))
        >>> batch.landmarks.shape, batch.audio.shape
        (torch.Size([3, 20, 68, 2]), torch.Size([3, 80, 26]))

    Source: ours.
    """

    def __init__(self, clips: Iterable[Clip], *, features: nn.Module, skip_bad: bool = False) -> None:
        self.features = features
        bad: list[tuple[str, str]] = list(clips.bad) if isinstance(clips, Corpus) else []
        kept: list[tuple[Clip, Tensor, Tensor]] = []
        shape: tuple[int, ...] | None = None
        for name, read in _readers(clips):
            try:
                clip = read()
                check_clip(clip)
                if clip.fps != FPS:
                    raise CorpusError(f"clip {clip.id!r}: expected {FPS:g} frames a second, got {clip.fps:g}")
                if shape is not None and clip.landmarks.shape[1:] != shape:
                    raise CorpusError(f"clip {clip.id!r}: expected (points, dims) = {shape}, got {clip.landmarks.shape[1:]}")
            except CorpusError as error:
                if not skip_bad:
                    raise
                bad.append((name, str(error)))
                continue
            shape = clip.landmarks.shape[1:]
            mask = torch.from_numpy(speech_mask(clip.waveform))
            kept.append((clip, self._encode(clip), mask))
        self.bad = tuple(bad)
        if not kept:
            raise CorpusError(f"expected at least one good clip, got none and {len(bad)} bad ones")
        self.ids = tuple(clip.id for clip, _, _ in kept)
        self.clip_speakers = tuple(clip.speaker for clip, _, _ in kept)
        self.speakers = tuple(sorted(set(self.clip_speakers)))
        self.landmarks = torch.cat([torch.from_numpy(clip.landmarks) for clip, _, _ in kept])
        self.audio = torch.cat([audio for _, audio, _ in kept])
        self.lengths = torch.tensor([clip.frames for clip, _, _ in kept])
        self.offsets = self.lengths.cumsum(0) - self.lengths
        number = {speaker: i for i, speaker in enumerate(self.speakers)}
        self._speaker = torch.tensor([number[speaker] for speaker in self.clip_speakers])
        self._by_speaker = self._speaker.argsort(stable=True)
        speech = torch.cat([mask for _, _, mask in kept])
        self._speech_before = nn.functional.pad(speech.long().cumsum(0), (1, 0))

    @torch.no_grad()
    def _encode(self, clip: Clip) -> Tensor:
        device = next((x.device for x in chain(self.features.parameters(), self.features.buffers())), torch.device("cpu"))
        waveform = torch.from_numpy(clip.waveform).to(device)[None]
        audio: Tensor = self.features(normalise_waveform(waveform))
        if audio.ndim != 3 or audio.shape[:2] != (1, AUDIO_FRAMES_PER_FRAME * clip.frames):
            expected = f"(1, {AUDIO_FRAMES_PER_FRAME * clip.frames}, coeffs) for {clip.frames} frames"
            raise ShapeError(f"`features`: expected {expected}, got {tuple(audio.shape)}")
        return audio[0].float().cpu()

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.ids)

    def __repr__(self) -> str:
        """Sizes."""
        minutes = self.landmarks.shape[0] / 25 / 60
        return f"ClipBank({len(self)} clips, {len(self.speakers)} speakers, {minutes:.1f} min, {len(self.bad)} bad)"

    def to(self, device: torch.device | str) -> ClipBank:
        """Move landmarks and features to a device, in place; batches then come from there."""
        self.landmarks = self.landmarks.to(device)
        self.audio = self.audio.to(device)
        self.features.to(device)
        return self

    def _crops(self, frames: int, margin: int) -> Tensor:
        """Number of possible crops of each clip."""
        check_positive("frames", frames)
        check_positive("margin", margin, allow_zero=True)
        counts = (self.lengths - (frames + 2 * margin) + 1).clamp_min(0)
        if not bool(counts.any()):
            around = f" and a margin of {margin}" if margin else ""
            raise ClipTooShortError(
                f"`frames`: expected at most {int(self.lengths.max()) - 2 * margin}, the longest clip has "
                f"{int(self.lengths.max())} frames, got {frames}{around}"
            )
        return counts

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
        """Random crops: a speaker, then one of the speaker's crops, each as likely as the other.

        Args:
            batch_size: Number of crops.
            frames: Landmark frames of a crop; shorter clips are left out.
            generator: Source of chance, on any device; torch's own if None.
            augment: How to vary the crops; None leaves them as they are. A faster tempo needs longer clips: where a clip is too
                short for it, it is played as fast as it allows.
            margin: Landmark frames of further audio on both sides.
            speakers_distinct: No speaker comes again before all others have come; with a batch as large as the number of speakers,
                each comes once. False draws every crop by itself.
            speaker_power: A speaker's weight is its number of crops to this power. 1 makes every crop of the corpus equally
                likely (as far as ``speakers_distinct`` lets it), 0 every speaker.

        Returns:
            The batch, on the device of the bank.

        Raises:
            ClipTooShortError: No clip is long enough.
            ArgumentError: ``batch_size`` or ``frames`` is not positive, or a margin is asked for with a tempo that varies.
        """
        check_positive("batch_size", batch_size)
        counts = self._crops(frames, margin)
        device = torch.device("cpu") if generator is None else generator.device
        per_speaker = torch.zeros(len(self.speakers), dtype=torch.long).index_add_(0, self._speaker, counts)
        weights = torch.where(per_speaker > 0, per_speaker.double() ** speaker_power, 0.0).to(device)
        if speakers_distinct:
            at_most = int((per_speaker > 0).sum())
            sizes = [min(at_most, batch_size - done) for done in range(0, batch_size, at_most)]
            rounds = [torch.multinomial(weights, size, replacement=False, generator=generator) for size in sizes]
            speaker = torch.cat(rounds).cpu()
        else:
            speaker = torch.multinomial(weights, batch_size, replacement=True, generator=generator).cpu()
        # With clips in the order of their speakers, the crops of one speaker are a run of numbers, and one draw finds clip and start.
        last = counts[self._by_speaker].cumsum(0)
        chance = torch.rand(batch_size, generator=generator, device=device, dtype=torch.float64).cpu()
        within = torch.minimum((chance * per_speaker[speaker]).long(), per_speaker[speaker] - 1)
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
        """All crops at multiples of a stride whose surroundings lie inside the recording, in the order of the clips.

        Args:
            frames: Landmark frames of a crop; clips shorter than ``frames + 2 * margin`` are left out.
            stride: Frames from one crop of a clip to the next; the first starts at frame ``margin``.
            margin: Landmark frames of further audio on both sides, for a search over offsets of up to that many frames.

        Returns:
            The batch, on the device of the bank.

        Raises:
            ClipTooShortError: No clip is long enough.
            ArgumentError: ``frames`` or ``stride`` is not positive.
        """
        check_positive("stride", stride)
        counts = (self._crops(frames, margin) + stride - 1) // stride
        clip = torch.arange(len(self)).repeat_interleave(counts)
        number = torch.arange(clip.shape[0]) - (counts.cumsum(0) - counts)[clip]
        return self._gather(clip, margin + stride * number, frames, margin)

    def _gather(self, clip: Tensor, start: Tensor, frames: int, margin: int) -> Batch:
        begin = self.offsets[clip] + start
        speech = (self._speech_before[begin + frames] - self._speech_before[begin]) / frames
        device = self.landmarks.device
        frame = (begin[:, None] + torch.arange(frames)).to(device)
        length = AUDIO_FRAMES_PER_FRAME * (frames + 2 * margin)
        audio_frame = (AUDIO_FRAMES_PER_FRAME * (begin - margin)[:, None] + torch.arange(length)).to(device)
        return Batch(self.landmarks[frame], self.audio[audio_frame], clip.to(device), start.to(device), speech.to(device))

    def _gather_stretched(self, clip: Tensor, start: Tensor, frames: int, tempo: Tensor) -> Batch:
        """Crops played ``tempo`` (batch,) times as fast, between whose frames values are interpolated."""
        length = self.lengths[clip]
        tempo = torch.minimum(tempo, (length - 1) / (frames - 1)) if frames > 1 else tempo
        span = (frames - 1) * tempo
        start = torch.minimum(start, (length - 1 - span.ceil()).long().clamp_min(0))
        begin = self.offsets[clip] + start
        last = (begin + span.long() + 1).clamp(max=self._speech_before.shape[0] - 1)
        speech = (self._speech_before[last] - self._speech_before[begin]) / (last - begin)
        device = self.landmarks.device
        landmarks = interpolate_rows(self.landmarks, begin, tempo, frames, self.offsets[clip] + length - 1)
        audio_end = AUDIO_FRAMES_PER_FRAME * (self.offsets[clip] + length) - 1
        audio = interpolate_rows(self.audio, AUDIO_FRAMES_PER_FRAME * begin, tempo, AUDIO_FRAMES_PER_FRAME * frames, audio_end)
        return Batch(landmarks, audio, clip.to(device), start.to(device), speech.to(device))

    def audio_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every coefficient over all frames, both (coeffs,), in the features' unit."""
        return self.audio.mean(dim=0), self.audio.std(dim=0)


def _readers(clips: Iterable[Clip]) -> Iterator[tuple[str, Callable[[], Clip]]]:
    """Name of each clip and how to get it; a corpus' clip that cannot be read must not end the loop over the others."""
    if isinstance(clips, Corpus):
        for i, entry in enumerate(clips.entries):
            yield entry["id"], partial(clips.__getitem__, i)
    else:
        for clip in clips:
            yield clip.id, partial(_itself, clip)


def _itself(clip: Clip) -> Clip:
    return clip
