"""Clips in memory: features are computed once, for random crops in training and fixed crops with margins in evaluation.

One hour of a corpus is about 150 MB as float32, so all clips fit into two tensors, and a batch is two gather operations.
Augmentation acts on the batch: one random similarity for all frames of a crop, and a gain, which is an offset of features in
decibels. The features are therefore never computed again.
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
    """Find the frames of a clip that contain speech, by their energy.

    A frame counts as speech if the level of its 640 samples is above ``floor_db`` and less than ``-threshold_db`` below the
    loud frames of the clip, which are given by ``percentile``. The mask depends on loudness only: music and noise as loud as
    the voice count as speech, and in a clip without speech the loudest noise does.

    Real recordings have no clear gap between the levels of speech and of pauses, so no threshold fits all clips. At the default
    of -20 dB the median share of speech per clip is 0.73, and nearly all crops of 80 frames have a share of at least 0.2. Use
    0.2 as the threshold for a crop with speech.

    Args:
        waveform: (samples,), at least one frame of 640 samples; the mean is removed first.
        threshold_db: Level below the loud frames, in decibels.
        percentile: Percentile of the levels that defines the loud frames.
        floor_db: Level below which frames never count, in decibels of full scale.
        present: (frames,), False for frames without audio, which never count and are excluded from the percentile; None for all
            True.

    Returns:
        (samples // 640,), True for frames with speech.

    Raises:
        ShapeError: ``waveform`` does not have one channel.
        ClipTooShortError: ``waveform`` is shorter than one frame.

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
    """Return the frames of a clip that contain speech, by :func:`speech_mask`; frames without audio in the source do not.

    Args:
        clip: A clip of at least one frame.

    Returns:
        (frames,), True for frames with speech.

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
        speech: (all frames,) float32, 1 for frames with speech (:func:`speech_mask`), else 0.
        lengths: (clips,), frames of each clip, on the CPU as all index tensors are.
        offsets: (clips,), first frame of each clip in ``landmarks``.
        ids: Name of each clip.
        clip_speakers: Speaker of each clip.
        speakers: All speakers, sorted.
        bad: (id, reason) of each clip excluded here or by the corpus.

    Raises:
        CorpusError: A clip is bad and ``skip_bad`` is False, or no clip remains.
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

    Args:
        readers: The result of :func:`clip_readers`.
        features: As in :class:`ClipBank`.
        bad: List to which (id, reason) of unusable clips is added; None raises an error at the first unusable clip, or at a
            clip whose (points, dims) differ from ``shape``.
        shape: (points, dims) of all clips; None for those of the first clip.

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
    """Compute the features of a waveform after normalisation.

    Args:
        waveform: (640 * frames,).
        features: As in :class:`ClipBank`.

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
