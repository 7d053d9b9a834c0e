"""Clips in files: features are computed once, stored in memory-mapped shards, and cropped as in a bank in memory.

A folder of shards holds ``shard-00000.safetensors``, ..., each with the landmarks, features and speech masks of some clips, and
``shards.json``, which is written last. Opening the folder reads only the headers, and a batch reads only its own crops, so a
corpus may be much larger than the memory. Each shard has a fingerprint of its clips and features. A build therefore continues
after an interruption, rebuilds only shards whose clips or features have changed, and does nothing if all shards are up to date.
Source: ours.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from avsync._checks import check_path, check_positive, check_type, checked
from avsync._files import make_folder, read_json, untrusted, write_json
from avsync.corpus.banks._shard_file import (
    Rows,
    ShardHeader,
    checksum,
    column_sums,
    map_shard,
    read_header,
    write_shard,
)
from avsync.corpus.banks.augmentation import interpolate_rows
from avsync.corpus.banks.bank import CropBank, check_sources, clip_readers, encode_waveform, keep_usual_shape, prepare_clips
from avsync.corpus.clip import SAMPLES_PER_FRAME, Clip, Corpus, landmark_shape
from avsync.errors import CorpusError
from avsync.pyramid import AUDIO_FRAMES_PER_FRAME

SHARD_FORMAT = 1
"""Version of the folder's layout; a reader refuses others."""
MANIFEST = "shards.json"
"""Name of the list of shards inside their folder."""
_PARTS = "parts with audio"  # shards of an earlier version hold clips that lack audio as a whole, and are built again
_MAPPED_AT_ONCE = 256  # each map keeps a file open, and a process may open 1024
_SECONDS_OF_PROBE = 1
_MAX_MANIFEST_BYTES = 1 << 28


class _Source(NamedTuple):
    """Clip of a shard, with a signature that changes when the clip changes."""

    name: str
    frames: int
    signature: str
    read: Callable[[], Clip]


@checked
def build_shards(
    clips: Iterable[Clip],
    folder: str | os.PathLike[str],
    *,
    features: nn.Module,
    skip_bad: bool = False,
    shard_frames: int = 200_000,
) -> ShardedBank:
    """Write the shards of a corpus that are missing or out of date, and open all shards.

    A shard is kept if its features and clips are unchanged. For a :class:`~avsync.corpus.clip.Corpus` the entries and the sizes
    and times of the files are compared, for other clips their content.

    Args:
        clips: A corpus or any other clips; all must have the same points and dims.
        folder: Output folder, for shards only; created if missing.
        features: As in :class:`avsync.corpus.banks.bank.ClipBank`.
        skip_bad: Exclude clips that cannot be read or violate the format and list them in ``bad``, instead of raising.
        shard_frames: Landmark frames after which a shard is full. A shard of 200,000 frames (2.2 hours) is about 190 MB and is
            held in memory while it is written.

    Returns:
        The bank.

    Raises:
        CorpusError: A clip is bad and ``skip_bad`` is False, or no clip remains.
        ArgumentError: ``shard_frames`` is not positive.

    Example:
        >>> import tempfile
        >>> from avsync.audio.features import LogMel
        >>> clip = Clip("a", "anna", "train", np.ones((50, 68, 2), np.float32), np.zeros(32000, np.float32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     build_shards([clip], folder, features=LogMel()).sample(3, 20).audio.shape
        torch.Size([3, 80, 26])

    Source: ours.
    """
    check_type("shard_frames", shard_frames, int)
    check_positive("shard_frames", shard_frames)
    check_type("skip_bad", skip_bad, bool)
    check_path("folder", folder)
    check_sources(clips, features)
    target = Path(folder)
    make_folder(target)
    made_by = _describe(features)
    bad = list(clips.bad) if isinstance(clips, Corpus) else []
    headers: list[ShardHeader] = []
    known = _read_manifest(target) if (target / MANIFEST).is_file() else None
    usual = _usual_shape(clips) if skip_bad and isinstance(clips, Corpus) else None
    for number, group in enumerate(_groups(_sources(clips), shard_frames)):
        path = target / f"shard-{number:05d}.safetensors"
        fingerprint = _digest([json.dumps([SHARD_FORMAT, made_by]), *(source.signature for source in group)])
        header = _kept(path, fingerprint)
        if header is not None and usual is not None and header.layout["landmarks"][1][1:] != usual:
            header = None
        if header is None:
            if known is not None:  # the old list is no longer valid, so no reader may use it
                (target / MANIFEST).unlink(missing_ok=True)
                known = None
            shape = headers[0].layout["landmarks"][1][1:] if headers else usual
            missed: list[tuple[str, str]] = []
            readers = [(source.name, source.read) for source in group]
            kept = list(prepare_clips(readers, features=features, bad=missed if skip_bad else None, shape=shape))
            if skip_bad:
                kept = keep_usual_shape(kept, missed, shape)
            if not kept:  # no shard is written, so these clips are read again in the next build
                bad += missed
                continue
            header = _write(path, kept, missed, fingerprint)
        elif header.metadata["bad"] and not skip_bad:
            raise CorpusError(str(header.metadata["bad"][0][1]))
        bad += [(str(name), str(reason)) for name, reason in header.metadata["bad"]]
        headers.append(header)
    if not headers:
        raise CorpusError(f"expected at least one good clip, got none and {len(bad)} bad ones")
    names = [header.path.name for header in headers]
    if known is None or [shard["file"] for shard in known["shards"]] != names or known["bad"] != [list(pair) for pair in bad]:
        (target / MANIFEST).unlink(missing_ok=True)
        for path in target.glob("shard-[0-9]*.safetensors"):
            if path.name not in names:
                path.unlink()
        shards = [
            {
                "file": header.path.name,
                "fingerprint": header.metadata["fingerprint"],
                "bytes": header.path.stat().st_size,
                "sha256": checksum(header.path),
            }
            for header in headers
        ]
        write_json(target / MANIFEST, {"format": SHARD_FORMAT, "features": made_by, "bad": bad, "shards": shards})
    return ShardedBank(target, features=features)


class ShardedBank(CropBank):
    """Bank of clips in a folder of shards, read crop by crop; replaces a :class:`~avsync.corpus.banks.bank.ClipBank`.

    Args:
        folder: A folder written by :func:`build_shards`.
        features: The features that the shards were made with; augmentation needs them.
        verify: Read each shard once and compare its checksum, which takes about one second per gigabyte.

    Attributes:
        lengths: (clips,), frames of each clip.
        offsets: (clips,), number of each clip's first frame among the frames of all clips.
        ids: Name of each clip. Of a clip that lacks audio, each part with audio is a clip of the bank.
        clip_speakers: Speaker of each clip.
        speakers: All speakers, sorted.
        bad: (id, reason) of each clip excluded when the shards were made.

    Raises:
        CorpusError: The folder is incomplete or damaged, its shards have another format, or the shards were made with other
            features.

    Source: ours.
    """

    @checked
    def __init__(self, folder: str | os.PathLike[str], *, features: nn.Module, verify: bool = False) -> None:
        self.folder, self.features = Path(check_path("folder", folder)), features
        check_sources((), features)
        manifest = _read_manifest(self.folder)
        _check_features(self.folder, manifest["features"], features)
        self._headers: list[ShardHeader] = []
        for shard in manifest["shards"]:
            header = read_header(self.folder / shard["file"])
            found = (header.metadata["fingerprint"], header.path.stat().st_size)
            if found != (shard["fingerprint"], shard["bytes"]):
                raise CorpusError(
                    f"{header.path}: expected the shard that {MANIFEST} names, got another; build the shards again"
                )
            if verify and checksum(header.path) != shard["sha256"]:
                raise CorpusError(f"{header.path}: expected the checksum in {MANIFEST}, got another: the shard is damaged")
            self._headers.append(header)
        self.bad = tuple((str(name), str(reason)) for name, reason in manifest["bad"])
        columns: dict[str, list[Any]] = {
            key: [value for header in self._headers for value in header.metadata[key]] for key in ("ids", "speakers", "frames")
        }
        self._set_index(columns["ids"], columns["speakers"], torch.tensor(columns["frames"]))
        ends = torch.tensor([header.frames for header in self._headers]).cumsum(0)
        self._ends, self._starts = ends, ends - torch.tensor([header.frames for header in self._headers])
        self._device = torch.device("cpu")
        self._maps: dict[int, dict[str, Rows]] = {}

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self._device

    @checked
    def to(self, device: torch.device | str) -> ShardedBank:
        """Set the device of the batches; the shards stay in their files."""
        self._device = torch.device(device)
        self.features.to(device)
        return self

    def audio_statistics(self) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation of each coefficient over all frames, both (coeffs,), in the features' unit."""
        total, squares = (
            torch.tensor([header.metadata["audio"][key] for header in self._headers], dtype=torch.float64).sum(0)
            for key in ("sum", "squares")
        )
        count = AUDIO_FRAMES_PER_FRAME * int(self._ends[-1])
        mean = total / count
        variance = ((squares - count * mean.square()) / (count - 1)).clamp_min(0)
        return mean.float(), variance.sqrt().float()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the memory maps, which each process opens for itself."""
        return {**self.__dict__, "_maps": {}}

    def _map(self, shard: int) -> dict[str, Rows]:
        arrays = self._maps.get(shard)
        if arrays is None:
            arrays = map_shard(self._headers[shard])
            if len(self._maps) >= _MAPPED_AT_ONCE:
                self._maps.pop(next(iter(self._maps)), None)
            self._maps[shard] = arrays
        return arrays

    def _pieces(self, name: str, begin: Tensor, counts: Tensor) -> Iterator[Rows]:
        """Yield the rows of each crop as a view of its shard; a crop lies inside one clip, and a clip inside one shard."""
        rate = AUDIO_FRAMES_PER_FRAME if name == "audio" else 1
        shards = torch.searchsorted(self._ends, begin // rate, right=True)
        local = begin - rate * self._starts[shards]
        for shard, first, count in zip(shards.tolist(), local.tolist(), counts.tolist(), strict=True):
            yield self._map(shard)[name][first : first + count]

    def _rows(self, name: str, begin: Tensor, count: int) -> Tensor:
        return self._block(name, begin, torch.full_like(begin, count), count).to(self._device)

    def _block(self, name: str, begin: Tensor, counts: Tensor, longest: int) -> Tensor:
        """Return the rows of all crops, (batch, longest, ...), with zeros after the end of each crop."""
        shape = (begin.shape[0], longest, *self._headers[0].layout[name][1][1:])
        rows = torch.zeros(shape)
        for row, piece in zip(rows.numpy(), self._pieces(name, begin, counts), strict=True):
            row[: len(piece)] = piece
        return rows

    def _stretched_rows(self, name: str, begin: Tensor, tempo: Tensor, count: int, end: Tensor) -> Tensor:
        span = int(((count - 1) * tempo.max()).floor()) + 2
        counts = (end - begin + 1).clamp_max(span)
        block = self._block(name, begin, counts, span).flatten(0, 1)
        first = span * torch.arange(begin.shape[0])
        return interpolate_rows(block, first, tempo, count, first + counts - 1).to(self._device)


def _usual_shape(clips: Corpus) -> tuple[int, ...] | None:
    """Return the most common (points, dims) of the clips, by the headers of their files."""
    shapes = (landmark_shape(clips.folder, entry) for entry in clips.entries)
    counts = Counter(shape[1:] for shape in shapes if shape is not None)
    return counts.most_common(1)[0][0] if counts else None


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _sources(clips: Iterable[Clip]) -> Iterator[_Source]:
    if isinstance(clips, Corpus):
        for entry, (name, read) in zip(clips.entries, clip_readers(clips), strict=True):
            parts = [name, entry["speaker"], str(entry["frames"])]
            if entry.get("missing_audio"):
                parts += [_PARTS, json.dumps(entry["missing_audio"])]
            for path in (clips.folder / f"{name}.npz", clips.folder / f"{name}.flac"):
                status = path.stat() if path.is_file() else None
                parts.append("missing" if status is None else f"{status.st_size} {status.st_mtime_ns}")
            yield _Source(name, entry["frames"], _digest(parts), read)
    else:
        for clip, (name, read) in ((clip, next(clip_readers([clip]))) for clip in clips):
            content = hashlib.sha256(np.ascontiguousarray(clip.landmarks).data).hexdigest()
            sound = hashlib.sha256(np.ascontiguousarray(clip.waveform).data).hexdigest()
            missing = [_PARTS, json.dumps(clip.missing_audio)] if clip.missing_audio else []
            yield _Source(name, clip.frames, _digest([name, clip.speaker, content, sound, *missing]), read)


def _groups(sources: Iterable[_Source], shard_frames: int) -> Iterator[list[_Source]]:
    group: list[_Source] = []
    frames = 0
    for source in sources:
        group.append(source)
        frames += source.frames
        if frames >= shard_frames:
            yield group
            group, frames = [], 0
    if group:
        yield group


def _kept(path: Path, fingerprint: str) -> ShardHeader | None:
    """Return the header of a shard that is complete and up to date; None if the shard has to be written."""
    if not path.is_file():
        return None
    try:
        header = read_header(path)
    except CorpusError:  # a damaged or foreign file, which will be replaced
        return None
    return header if header.metadata.get("fingerprint") == fingerprint else None


def _write(path: Path, kept: list[tuple[Clip, Tensor, Tensor]], bad: list[tuple[str, str]], fingerprint: str) -> ShardHeader:
    audio = torch.cat([features for _, features, _ in kept])
    tensors = {
        "landmarks": torch.from_numpy(np.concatenate([clip.landmarks for clip, _, _ in kept])),
        "audio": audio,
        "speech": torch.cat([mask for _, _, mask in kept]).to(torch.uint8),
    }
    metadata = {
        "fingerprint": fingerprint,
        "ids": [clip.id for clip, _, _ in kept],
        "speakers": [clip.speaker for clip, _, _ in kept],
        "frames": [clip.frames for clip, _, _ in kept],
        "bad": bad,
        "audio": column_sums(audio),
    }
    write_shard(path, tensors, metadata)
    return read_header(path)


def _describe(features: nn.Module) -> dict[str, Any]:
    """Return a description of features: their class and their output for a fixed noise signal.

    The output covers all settings and weights of any module, and the normalisation of the waveform.
    """
    noise = np.random.default_rng(0).normal(0.0, 0.1, 25 * _SECONDS_OF_PROBE * SAMPLES_PER_FRAME)
    swell = np.linspace(0.0, 1.0, noise.size) ** 2
    answer = encode_waveform((noise * swell).astype(np.float32), features)
    # Few digits, because processors and libraries round differently; other settings cause much larger differences.
    return {"class": type(features).__name__, "answer": np.round(answer[::20].numpy().astype(np.float64), 2).tolist()}


def _check_features(folder: Path, recorded: dict[str, Any], features: nn.Module) -> None:
    given = _describe(features)
    fits = recorded["class"] == given["class"] and np.shape(recorded["answer"]) == np.shape(given["answer"])
    if not fits or not np.allclose(recorded["answer"], given["answer"], atol=0.05, rtol=1e-3):
        was, width = recorded["class"], np.shape(recorded["answer"])[-1]
        raise CorpusError(
            f"{folder}: expected the features that its shards were made with ({was} with {width} coefficients), got "
            f"{given['class']} with {np.shape(given['answer'])[-1]} or other settings; build the shards again"
        )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        raise CorpusError(f"{path}: expected a finished folder of shards, found no list; build_shards writes it last")
    manifest = read_json(
        path, error=CorpusError, message=f"{path}: expected a list of shards, got", most_bytes=_MAX_MANIFEST_BYTES
    )
    with untrusted(
        CorpusError, f"{path}: expected a list of shards of format {SHARD_FORMAT}, got something else; build the shards again"
    ):
        if manifest["format"] != SHARD_FORMAT or not manifest["shards"]:
            raise ValueError(f"format {manifest['format']!r}")
        answer = np.asarray(manifest["features"]["answer"])
        if answer.ndim != 2 or answer.dtype.kind not in "if" or not isinstance(manifest["features"]["class"], str):
            raise ValueError("features of another form")
        if not all(isinstance(text, str) for pair in manifest["bad"] for text in pair) or any(
            len(pair) != 2 for pair in manifest["bad"]
        ):
            raise ValueError("bad clips of another form")
        for shard in manifest["shards"]:
            texts = (shard["file"], shard["fingerprint"], shard["sha256"])
            if (
                not all(isinstance(text, str) for text in texts)
                or Path(texts[0]).name != texts[0]
                or type(shard["bytes"]) is not int
            ):
                raise ValueError(f"an entry {shard!r:.100}")
    return dict(manifest)
