"""Arguments of the wrong type: the corpus' functions raise avsync's own errors, naming the argument, for every one of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avsync.audio.features import LogMel
from avsync.corpus.banks import BatchLoader, ClipBank, ShardedBank, build_shards
from avsync.corpus.clip import Clip, Corpus, check_clip, missing_ranges, read_clip, sample_of_frame, write_clip, write_index
from avsync.corpus.extraction import extract_corpus, iter_clips
from avsync.corpus.extraction.cropping import crop_centred, crop_fixed, crop_image
from avsync.corpus.extraction.jobs import find_videos
from avsync.corpus.extraction.retime import resample_track
from avsync.corpus.extraction.scene_cuts import SceneCuts
from avsync.corpus.media import AudioSource, VideoSource, read_audio, write_audio, write_video
from avsync.corpus.speech import speech_mask
from avsync.errors import AvsyncError

WRONG: list[Any] = [
    None,
    -1,
    "x",
    b"x",
    1.5,
    float("nan"),
    [],
    {},
    (),
    True,
    object(),
    np.zeros(3),
    torch.zeros(3),
    [1, "a"],
    10**30,
]
CLIP = Clip("a", "s", "train", np.ones((50, 6, 2), np.float32), np.full(32000, 0.1, np.float32))
POINTS = np.arange(48.0).reshape(4, 6, 2)


def opened(kind: Callable[..., Any]) -> Callable[..., None]:
    return lambda **arguments: kind(**arguments).close()


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """A right call of each function."""
    folder = tmp_path_factory.mktemp("arguments")
    video = folder / "v.mp4"
    write_video(video, [np.zeros((8, 8, 3), np.uint8)] * 10, fps=25, waveform=np.zeros(6400, np.float32))
    entry = write_clip(CLIP, folder)
    write_index(folder, [entry])
    bank = ClipBank([CLIP], features=LogMel())
    build_shards([CLIP], folder / "shards", features=LogMel())
    detector = lambda images: [None] * len(images)
    return {
        "Corpus": (Corpus, {"folder": folder, "split": None, "skip_bad": False, "fps": 25.0}),
        "read_clip": (read_clip, {"folder": folder, "entry": entry, "fps": 25.0}),
        "write_clip": (write_clip, {"clip": CLIP, "folder": folder / "again"}),
        "check_clip": (check_clip, {"clip": CLIP}),
        "sample_of_frame": (sample_of_frame, {"frame": 3, "fps": 25.0}),
        "missing_ranges": (missing_ranges, {"present": np.ones(6400, bool), "frames": 10, "fps": 25.0}),
        "ClipBank": (ClipBank, {"clips": [CLIP], "features": LogMel()}),
        "ShardedBank": (ShardedBank, {"folder": folder / "shards", "features": LogMel()}),
        "build_shards": (
            build_shards,
            {"clips": [CLIP], "folder": folder / "s", "features": LogMel(), "skip_bad": False, "shard_frames": 99},
        ),
        "sample": (
            bank.sample,
            {"batch_size": 2, "frames": 20, "generator": None, "augment": None, "margin": 0, "speaker_power": 1.0},
        ),
        "windows": (bank.windows, {"frames": 20, "stride": 20, "margin": 0}),
        "BatchLoader": (
            opened(BatchLoader),
            {"bank": bank, "batch_size": 2, "frames": 20, "seed": 0, "device": "cpu", "rank": 0, "world_size": 1},
        ),
        "speech_mask": (speech_mask, {"waveform": CLIP.waveform, "threshold_db": -20.0, "percentile": 95.0, "present": None}),
        "AudioSource": (opened(AudioSource), {"path": video, "sample_rate": 16000}),
        "VideoSource": (opened(VideoSource), {"path": video, "max_height": None}),
        "read_audio": (read_audio, {"path": video, "sample_rate": None, "max_samples": None}),
        "write_audio": (write_audio, {"path": folder / "a.flac", "waveform": CLIP.waveform, "sample_rate": 16000}),
        "write_video": (
            write_video,
            {
                "path": folder / "w.mp4",
                "frames": [np.zeros((8, 8, 3), np.uint8)],
                "fps": Fraction(25),
                "waveform": None,
                "crf": 18,
            },
        ),
        "iter_clips": (
            lambda **arguments: list(iter_clips(**arguments)),
            {
                "video": video,
                "detector": detector,
                "fps": 25.0,
                "crop": "fixed",
                "min_seconds": 2.0,
                "max_height": None,
                "name": None,
            },
        ),
        "extract_corpus": (
            extract_corpus,
            {"videos": [], "out": folder / "out", "detector": detector, "workers": 1, "shard": (1, 1), "split": "train"},
        ),
        "find_videos": (find_videos, {"paths": [video]}),
        "crop_fixed": (crop_fixed, {"points": POINTS, "size": 64, "margin": 0.2}),
        "crop_centred": (crop_centred, {"points": POINTS, "size": 64, "margin": 0.2}),
        "crop_image": (crop_image, {"image": np.zeros((8, 8, 3), np.uint8), "box": (0, 0, 4, 4), "size": 4}),
        "resample_track": (resample_track, {"times": np.arange(4) / 25, "points": POINTS, "fps": 25.0, "start": None}),
        "SceneCuts": (SceneCuts, {"structure": 0.35, "colours": 0.1, "ratio": 3.0}),
        "SceneCuts.push": (SceneCuts().push, {"image": np.zeros((8, 8, 3), np.uint8)}),
    }


NAMES = [
    "Corpus",
    "read_clip",
    "write_clip",
    "check_clip",
    "sample_of_frame",
    "missing_ranges",
    "ClipBank",
    "ShardedBank",
    "build_shards",
    "sample",
    "windows",
    "BatchLoader",
    "speech_mask",
    "AudioSource",
    "VideoSource",
    "read_audio",
    "write_audio",
    "write_video",
    "iter_clips",
    "extract_corpus",
    "find_videos",
    "crop_fixed",
    "crop_centred",
    "crop_image",
    "resample_track",
    "SceneCuts",
    "SceneCuts.push",
]


@pytest.mark.parametrize("name", NAMES)
def test_only_our_errors(name: str, calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # "x" is a path, too
    function, arguments = calls[name]
    assert set(calls) == set(NAMES)
    function(**arguments)
    escaped: list[str] = []
    refused = 0
    for argument in arguments:
        for value in WRONG:
            if argument in {"path", "folder", "out", "size"} and isinstance(value, str | int):  # right, or too much to ask
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    function(**{**arguments, argument: value})
            except AvsyncError:
                refused += 1
            except Exception as error:  # noqa: BLE001 - all of them are listed
                escaped.append(f"{argument} = {value!r:.30}: {type(error).__name__}: {error!s:.60}")
    assert not escaped, escaped
    assert refused >= 4
