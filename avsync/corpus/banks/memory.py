"""Clips in memory: features computed once, random crops for training, fixed crops with surroundings for evaluation.

A corpus of an hour is about 150 MB as float32, so all of it is held in two tensors, and a batch is two gathers. Augmentation acts
on the gathered batch: the same random similarity on all frames of a crop, and a gain, which features of decibels take as an
offset, so that nothing has to be computed again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from avsync._checks import check_type
from avsync.audio.features import normalise_waveform
from avsync.corpus.banks.augmentation import AugmentConfig, interpolate_rows
from avsync.corpus.banks.crops import Batch, CropBank
from avsync.corpus.clip import SAMPLES_PER_FRAME, Clip, Corpus, check_clip
from avsync.errors import ArgumentError, ClipTooShortError, CorpusError, ShapeError
from avsync.pyramid import AUDIO_FRAMES_PER_FRAME, FPS, SAMPLE_RATE

__all__ = ["AugmentConfig", "Batch", "ClipBank", "clip_speech", "speech_mask"]


def speech_mask(
    waveform: npt.NDArray[np.float32] | Tensor,
    *,
    threshold_db: float = -20.0,
    percentile: float = 95.0,
    floor_db: float = -70.0,
    present: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.bool_]:
    """Find the frames of a clip that hold speech, by energy alone.

    A frame counts when the level of its 640 samples lies less than ``-threshold_db`` below the clip's loud frames (the given
    percentile of levels) and above ``floor_db``. It hears loudness, not speech: music and noise as loud as the voice count, and a
    clip in which nobody speaks is measured by its own loudest noise.

    On the real corpus the levels have no valley between speech and pause (50 % of the frames lie within 10 dB of the loud ones,
    the rest trails off evenly), so no threshold is right for all. -30 dB hardly ever finds a pause in the tenth of the clips
    whose levels span less than 18 dB. At -20 dB a clip's median share is 0.73; of 744 crops of 80 frames of the validation
    speakers 738 have 0.2 or more, and the four below or at 0.1 lie in one segment of nine seconds of one clip. Take 0.2 as "has
    speech".

    Args:
        waveform: (samples,), at least one frame of 640; the mean is removed first.
        threshold_db: Level below the loud frames, in decibels.
        percentile: Which percentile of levels stands for the loud frames.
        floor_db: Quieter frames than this never count, in decibels of full scale.
        present: (frames,), False for frames without audio: they never count, and are no part of the percentile. None for all True.

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
    check_type("waveform", waveform, np.ndarray, Tensor)
    for name, value in {"threshold_db": threshold_db, "percentile": percentile, "floor_db": floor_db}.items():
        check_type(name, value, int, float)
    if not 0 <= percentile <= 100:
        raise ArgumentError(f"`percentile`: expected a number from 0 to 100, got {percentile!r}")
    samples = np.asarray(waveform)
    if samples.ndim != 1 or samples.dtype.kind not in "fiu":
        raise ShapeError(f"`waveform`: expected (samples,) of numbers, got {samples.shape} of {samples.dtype}")
    samples = samples.astype(np.float64)
    frames = samples.size // SAMPLES_PER_FRAME
    if frames == 0:
        raise ClipTooShortError(f"`waveform`: expected at least {SAMPLES_PER_FRAME} samples, got {samples.size}")
    there = np.ones(frames, dtype=bool) if present is None else np.asarray(present)
    if there.shape != (frames,) or there.dtype != np.bool_:
        raise ShapeError(f"`present`: expected (frames={frames}) of bool, got {there.shape} of {there.dtype}")
    if not there.any():
        return there
    blocks = samples[: frames * SAMPLES_PER_FRAME].reshape(frames, SAMPLES_PER_FRAME)
    blocks = blocks - (samples.mean() if there.all() else blocks[there].mean())
    level = 10.0 * np.log10(np.square(blocks).mean(axis=1) + 1e-20)
    mask: npt.NDArray[np.bool_] = (level > np.percentile(level[there], percentile) + threshold_db) & (level > floor_db) & there
    return mask


def clip_speech(clip: Clip) -> npt.NDArray[np.bool_]:
    """Return which frames of a clip hold speech, by :func:`speech_mask`; frames for which the source had no audio hold none.

    Args:
        clip: With at least one frame.

    Returns:
        (frames,), True where there is speech.

    Example:
        >>> noise = np.random.default_rng(0).normal(0, 0.1, 640 * 4).astype(np.float32)
        >>> clip_speech(Clip("a", "anna", "train", np.ones((4, 68, 2), np.float32), noise, missing_audio=((2, 4),))).tolist()
        [True, True, False, False]

    Source: ours.
    """
    check_type("clip", clip, Clip)
    blocks = np.arange(clip.waveform.size // SAMPLES_PER_FRAME)  # frames of 25 per second, whatever the clip's own rate
    frame = (blocks * SAMPLES_PER_FRAME * clip.fps / SAMPLE_RATE).astype(np.int64).clip(max=clip.frames - 1)
    return speech_mask(clip.waveform, present=clip.has_audio[frame])


class ClipBank(CropBank):
    """All clips of a corpus in memory, as landmarks and audio features.

    Args:
        clips: A :class:`~avsync.corpus.clip.Corpus` or any other clips. All must have the same points and dims.
        features: Waveform (batch, 640 * frames) to features (batch, 4 * frames, coeffs), with
            ``filter_offset(db: (batch, n_mels)) -> (batch, coeffs)`` for augmentation; :class:`avsync.audio.features.LogMel` or
            :class:`avsync.audio.features.MFCC`. Called once a clip, on the whole clip, after :func:`avsync.audio.features.normalise_waveform`.
        skip_bad: Leave out clips that cannot be read or break the format, and list them in ``bad``, instead of raising.

    Attributes:
        landmarks: (all frames, points, dims) float32.
        audio: (4 * all frames, coeffs) float32.
        speech: (all frames,) float32, 1 where there is speech (:func:`speech_mask`), 0 elsewhere.
        lengths: (clips,), frames of each clip, on the CPU as all index tensors are.
        offsets: (clips,), first frame of each clip in ``landmarks``.
        ids: Name of each clip.
        clip_speakers: Speaker of each clip.
        speakers: All speakers, sorted.
        bad: (id, reason) of every clip left out, here or by the corpus.

    Raises:
        CorpusError: A clip is bad and ``skip_bad`` is off, or none is left.
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

    def to(self, device: torch.device | str) -> ClipBank:
        """Move landmarks, features and speech to a device, in place; batches then come from there."""
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
        """Mean and standard deviation of every coefficient over all frames, both (coeffs,), in the features' unit."""
        return self.audio.mean(dim=0), self.audio.std(dim=0)


def check_sources(clips: object, features: object) -> None:
    """Raise :class:`ArgumentError` unless ``clips`` can hold clips and ``features`` can be called."""
    if isinstance(clips, str | bytes | os.PathLike):
        raise ArgumentError(
            f"`clips`: expected a Corpus or other clips, got the path {os.fspath(clips)!r}; open it by Corpus(...)"
        )
    if not isinstance(clips, Iterable):
        raise ArgumentError(f"`clips`: expected a Corpus or other clips, got {type(clips).__name__}")
    if not isinstance(features, nn.Module):
        raise ArgumentError(f"`features`: expected a module that returns audio features, got {type(features).__name__}")


def keep_usual_shape(
    kept: list[tuple[Clip, Tensor, Tensor]], bad: list[tuple[str, str]], usual: tuple[int, ...] | None = None
) -> list[tuple[Clip, Tensor, Tensor]]:
    """Return the clips with the most common (points, dims), and list the others in ``bad``.

    Args:
        kept: Clips, their features and speech masks.
        bad: Where to note (id, reason).
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
    """Return the name of each clip and how to get it; a corpus' clip that cannot be read must not end the loop over the others.

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
    """Read clips one after the other and compute what a bank holds of them.

    Args:
        readers: As :func:`clip_readers` gives them.
        features: As :class:`ClipBank` takes them.
        bad: Where to note (id, reason) of clips that cannot be used; None raises an error at the first, or at another (points, dims) than
            that of the first clip.
        shape: (points, dims) that all clips must have; None for those of the first clip.

    Yields:
        The clip, its features (4 * frames, coeffs) float32, and its :func:`speech_mask` as a tensor (frames,).

    Raises:
        CorpusError: A clip is bad and ``bad`` is None.
        ShapeError: ``features`` does not return 4 frames per landmark frame.
    """
    for name, read in readers:
        try:
            clip = read()
            check_clip(clip)
            if clip.fps != FPS:
                raise CorpusError(f"clip {clip.id!r}: expected {FPS:g} frames per second, got {clip.fps:g}")
            if bad is None and shape is not None and clip.landmarks.shape[1:] != shape:
                raise CorpusError(f"clip {clip.id!r}: expected (points, dims) = {shape}, got {clip.landmarks.shape[1:]}")
        except CorpusError as error:
            if bad is None:
                raise
            bad.append((name, str(error)))
            continue
        shape = clip.landmarks.shape[1:]
        yield clip, encode_waveform(clip.waveform, features), torch.from_numpy(clip_speech(clip))


@torch.no_grad()
def encode_waveform(waveform: npt.NDArray[np.float32], features: nn.Module) -> Tensor:
    """Return the features of a clip's normalised audio.

    Args:
        waveform: (640 * frames,).
        features: As :class:`ClipBank` takes them.

    Returns:
        (4 * frames, coeffs) float32, on the CPU.

    Raises:
        ShapeError: ``features`` returns another number of frames.
    """
    device = next((x.device for x in chain(features.parameters(), features.buffers())), torch.device("cpu"))
    audio: Tensor = features(normalise_waveform(torch.from_numpy(waveform).to(device)[None]))
    frames = waveform.size // SAMPLES_PER_FRAME
    if audio.ndim != 3 or audio.shape[:2] != (1, AUDIO_FRAMES_PER_FRAME * frames):
        expected = f"(1, {AUDIO_FRAMES_PER_FRAME * frames}, coeffs) for {frames} frames"
        raise ShapeError(f"`features`: expected {expected}, got {tuple(audio.shape)}")
    return audio[0].float().cpu()


def _itself(clip: Clip) -> Clip:
    return clip
