"""LSE-D, LSE-C and offset of a video by SyncNet: from the file to the numbers in one call, in batches, without temporary files.

Two passes over the file: the first finds the faces (:mod:`avsync.evaluation.syncnet.face_track`), the second crops, embeds and
compares. Neither pass keeps images or embeddings for longer than a batch, so memory use does not depend on the length of the
video.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avsync._checks import check_choice, check_count, check_positive, checked, device_of_module
from avsync.corpus.detectors import Detector, as_detector
from avsync.corpus.media.audio_source import AudioSource
from avsync.corpus.media.info import FloatArray
from avsync.corpus.media.video_source import VideoSource
from avsync.errors import ArgumentError, ClipTooShortError
from avsync.evaluation.syncnet.audio import FRAME_LENGTH, HOP_LENGTH, syncnet_mfcc
from avsync.evaluation.syncnet.face_crop import crop_face
from avsync.evaluation.syncnet.face_track import FacePath, face_paths, frames_at
from avsync.evaluation.syncnet.network import AUDIO_STRIDE, AUDIO_WINDOW, WINDOW, SyncNet
from avsync.metrics.offset import EDGES, offset_from_distances, window_distances
from avsync.pyramid import FPS, SAMPLE_RATE

SAMPLES = int(SAMPLE_RATE / FPS)
"""Samples per image."""
MAX_BATCH = 128
"""Largest number of windows per batch; the audio of a longer batch would no longer be readable."""
_WINDOW_SAMPLES = (AUDIO_WINDOW - 1) * HOP_LENGTH + FRAME_LENGTH


@dataclass(frozen=True, eq=False)
class TrackScore:
    """SyncNet's scores of one face.

    Attributes:
        start: Time of the first image, in seconds on the container's clock.
        frames: Images, 25 per second.
        windows: Windows of 5 images that were compared, those for which the file has audio.
        face_size: Mean size of the face's box, in pixels of the video. The published pipeline leaves out faces below 100.
        offset_frames: Offset in images, positive if the audio is early.
        confidence: LSE-C. Higher is better.
        distance: LSE-D, at the best offset. Lower is better.
        distance_at_zero: Distance at offset 0. Lower is better.
        rank_at_zero: Place of offset 0 among all offsets; 1 is best.
        distances: Mean distance at each offset from ``+max_offset`` down to ``-max_offset``.
        framewise: Confidence of each window at the offset, unfiltered; NaN where its audio is missing.
    """

    start: float
    frames: int
    windows: int
    face_size: float
    offset_frames: int
    confidence: float
    distance: float
    distance_at_zero: float
    rank_at_zero: int
    distances: FloatArray
    framewise: FloatArray

    @property
    def offset_seconds(self) -> float:
        """Seconds by which the audio is early."""
        return self.offset_frames / FPS


@checked
def score_video(
    path: str | os.PathLike[str],
    *,
    syncnet: SyncNet,
    detector: str | Detector,
    device: torch.device | str | None = None,
    batch_size: int = 32,
    max_offset: int = 15,
    edges: str = "masked",
    faces: str = "largest",
    min_seconds: float = 2.0,
    audio_track: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[TrackScore]:
    """Score the lip synchrony of a video.

    Args:
        path: The video, of any rate and size.
        syncnet: With its published weights, from :meth:`avsync.evaluation.syncnet.network.SyncNet.from_file`; other weights
            give other numbers.
        detector: Name, model file, "module:name" or a callable; see :func:`avsync.corpus.detectors.protocol.as_detector`.
        device: Device of the computation, to which the network is moved; by default the current device of the network.
        batch_size: Windows embedded at once, 1 to 128.
        max_offset: Largest offset searched, in images of 40 ms; 15 in the published evaluations.
        edges: "masked" compares with the audio around the track and leaves out windows without audio in the file. "legacy" is
            the published script: the audio is cut to the track, zeros take the place of embeddings beyond its ends, and the
            last window of a track is not used.
        faces: "largest", "stable" or "all"; see :func:`avsync.corpus.extraction.tracks.choose_tracks`.
        min_seconds: Shortest track of a face; 4 in the published pipeline.
        audio_track: Number of the audio track, from 1; by default the default track of the file, else the first.
        progress: Called now and then with the share of the work that is done, 0 to 1.

    Returns:
        One :class:`TrackScore` per track, by their start; at least one.

    Raises:
        CorpusError: The video cannot be read, has no audio, or no face is visible for ``min_seconds``.
        ClipTooShortError: The audio ends before it fills one window of a track.
        ArgumentError: An option has an impossible value.
        MissingExtraError: PyAV or the detector's library is not installed.

    Source: SyncNet's published evaluation, as used for LSE-D and LSE-C by Wav2Lip and after it; see
    :mod:`avsync.evaluation.syncnet.face_crop` for what differs.
    """
    check_choice("edges", edges, EDGES)
    check_positive("max_offset", max_offset)
    if not 1 <= batch_size <= MAX_BATCH:
        raise ArgumentError(f"`batch_size`: expected 1 to {MAX_BATCH}, got {batch_size}")
    where = device_of_module(syncnet) if device is None else torch.device(device)
    syncnet.to(where).eval()
    if audio_track is not None:
        check_count("audio_track", audio_track)
    with AudioSource(path, track=audio_track):  # a file without audio must fail before the faces are looked for
        pass
    # Face detection counts as the first half of the work.
    halfway = None if progress is None else lambda share: progress(share / 2)
    found = face_paths(path, as_detector(detector), faces=faces, min_seconds=min_seconds, progress=halfway)
    scores: list[TrackScore] = []
    last = max(face.first + face.frames for face in found)
    waiting, active = deque(sorted(found, key=lambda face: face.first)), list[_Scorer]()
    with VideoSource(path) as video, torch.inference_mode():
        for number, _, frame in frames_at(video.frames()):
            while waiting and waiting[0].first <= number:
                source = AudioSource(path, track=audio_track)
                active.append(_Scorer(waiting.popleft(), source, syncnet, where, batch_size, max_offset, edges))
            for scorer in active:
                scorer.push(crop_face(frame.image, *scorer.place(number)))
            scores += [scorer.finish() for scorer in active if scorer.done]
            active = [scorer for scorer in active if not scorer.done]
            if progress is not None:
                progress(0.5 + (number + 1) / last / 2)
            if not waiting and not active:
                break
    return sorted(scores, key=lambda score: score.start)


class _Scorer:
    """Accumulator that turns the crops of one track into a score, batch by batch."""

    def __init__(
        self, face: FacePath, source: AudioSource, syncnet: Any, device: torch.device, batch: int, max_offset: int, edges: str
    ) -> None:
        self.face, self.source, self.syncnet, self.device = face, source, syncnet, device
        self.batch, self.max_offset, self.legacy = batch, max_offset, edges == "legacy"
        self._crops: list[npt.NDArray[np.uint8]] = []
        self._seen = 0  # images taken
        self._window = 0  # first window that was not embedded yet
        self.last = face.frames - WINDOW + (0 if self.legacy else 1)
        self._audio = _AudioWindows(self)
        self._sums = np.zeros(2 * max_offset + 1)
        self._counts = np.zeros(2 * max_offset + 1)
        self._rows: list[FloatArray] = []
        self._compared = 0

    @property
    def done(self) -> bool:
        return self._seen == self.face.frames

    def place(self, number: int) -> tuple[float, float, float]:
        index, crops = number - self.face.first, self.face.crops
        return float(crops.x[index]), float(crops.y[index]), float(crops.half[index])

    def push(self, crop: npt.NDArray[np.uint8]) -> None:
        self._crops.append(crop)
        self._seen += 1
        if len(self._crops) == self.batch + WINDOW - 1:
            self._flush()

    def finish(self) -> TrackScore:
        if len(self._crops) >= WINDOW:
            self._flush()
        self.source.close()
        if not self._counts.any():
            raise ClipTooShortError(
                f"{self.source.path}: expected audio for at least {_WINDOW_SAMPLES / SAMPLE_RATE:.3f} s next to the face that "
                f"starts at {self.face.start:.2f} s, got less"
            )
        with np.errstate(invalid="ignore"):
            means = torch.from_numpy(np.where(self._counts > 0, self._sums / self._counts, np.nan)).float()
        result = offset_from_distances(means[None])
        offset = int(result.offset_frames)
        median = float(result.confidence + result.distance)
        rows = np.concatenate(self._rows)
        return TrackScore(
            start=self.face.start,
            frames=self.face.frames,
            windows=self._compared,
            face_size=self.face.crops.size,
            offset_frames=offset,
            confidence=float(result.confidence),
            distance=float(result.distance),
            distance_at_zero=float(result.distance_at_zero),
            rank_at_zero=int(result.rank_at_zero),
            distances=means.numpy(),
            framewise=(median - rows[:, self.max_offset - offset]).astype(np.float32),
        )

    def _flush(self) -> None:
        """Compare the complete windows with the audio around them, and discard their images."""
        stop = min(self._window + len(self._crops) - WINDOW + 1, self.last)
        count = stop - self._window
        if count > 0:
            images = np.stack(self._crops[: count + WINDOW - 1])[..., ::-1].copy()  # SyncNet takes blue first
            video = torch.from_numpy(images).to(self.device).permute(3, 0, 1, 2)[None].float()
            motion = self.syncnet.embed_video(video)
            audio, real = self._audio.between(self._window - self.max_offset, stop + self.max_offset)
            reach = self.max_offset
            # A video window counts if its audio window exists, because a track ends with its audio.
            mask = real[None, reach : reach + count]
            self._compared += int(mask.sum())
            if self.legacy:
                audio = audio * real[None, :, None]
                distances, some = window_distances(motion, audio, max_offset=reach, lead=reach, edges="legacy", mask=mask)
            else:
                distances, some = window_distances(
                    motion, audio, max_offset=reach, lead=reach, mask=mask, audio_mask=real[None]
                )
            table = distances[0].float().cpu().numpy()
            counts = np.ones_like(table) if some is None else some.expand_as(distances)[0].float().cpu().numpy()
            rows = np.where(counts > 0, table, np.float32(np.nan))
            self._sums += np.where(counts > 0, table, 0.0).sum(axis=0, dtype=np.float64)
            self._counts += counts.sum(axis=0)
            self._rows.append(rows)
        self._window += max(count, 0)
        del self._crops[: max(count, 0)]


class _AudioWindows:
    """Embeddings of a track's audio windows, each computed once and discarded when no video window needs it."""

    def __init__(self, scorer: _Scorer) -> None:
        self.scorer = scorer
        self._first = self._next = -scorer.max_offset
        self._held: tuple[Tensor, Tensor] | None = None

    def between(self, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return embeddings (1, stop - first, embed) and an audio mask (stop - first,); ``first`` must not decrease."""
        held = self._held
        if held is None or stop > self._next:
            new = self._embed(self._next, stop)
            held = new if held is None else (torch.cat([held[0], new[0]], dim=1), torch.cat([held[1], new[1]]))
            self._next = stop
        embedded, real = held[0][:, first - self._first :], held[1][first - self._first :]
        self._held, self._first = (embedded, real), first
        return embedded[:, : stop - first], real[: stop - first]

    def _embed(self, first: int, stop: int) -> tuple[Tensor, Tensor]:
        scorer = self.scorer
        # The audio of a published track begins with it, and zeros take the place of what would be earlier.
        skipped = max(-first, 0) if scorer.legacy else 0
        features, present = self._features(first + skipped, stop)
        features = features.to(scorer.device)
        reach = AUDIO_STRIDE * (scorer.batch - 1) + AUDIO_WINDOW
        segments = [
            scorer.syncnet.embed_audio(features[:, at : at + reach])
            for at in range(0, features.shape[1] - AUDIO_WINDOW + 1, AUDIO_STRIDE * scorer.batch)
        ]
        embedded = torch.nn.functional.pad(torch.cat(segments, dim=1), (0, 0, skipped, 0))
        return embedded, (self._published(first, stop) if scorer.legacy else present).to(scorer.device)

    def _features(self, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return the features of audio windows, and which windows the file has audio for."""
        scorer = self.scorer
        # The frame before the first one is computed and dropped, because pre-emphasis needs the sample before each. At the very
        # start of a published track there is none.
        before = 0 if scorer.legacy and first == 0 else 1
        start = scorer.face.start + (SAMPLES * first - HOP_LENGTH * before) / SAMPLE_RATE
        samples = SAMPLES * (stop - first - 1) + _WINDOW_SAMPLES + HOP_LENGTH * before
        segment = scorer.source.read_segment(start, samples)
        heard = torch.from_numpy(segment.present[HOP_LENGTH * before :]).double().unfold(0, _WINDOW_SAMPLES, SAMPLES).mean(1)
        # A hundredth of a second may be missing, by which containers round.
        present = heard >= 1 - 0.01 * SAMPLE_RATE / _WINDOW_SAMPLES
        return syncnet_mfcc(torch.from_numpy(segment.waveform)[None])[:, before:], present

    def _published(self, first: int, stop: int) -> Tensor:
        """Return which windows the published script uses; the samples read so far must reach the end of the windows."""
        scorer, windows = self.scorer, torch.arange(first, stop)
        starts = scorer.face.start + SAMPLES * windows.double() / SAMPLE_RATE
        end = np.inf if scorer.source.end is None else scorer.source.end
        # The published script counts images that have all their samples, and leaves the last five of them.
        full = starts + SAMPLES * (WINDOW + 1) / SAMPLE_RATE <= end + 0.5 / SAMPLE_RATE
        return (windows >= 0) & (windows < scorer.last) & full
