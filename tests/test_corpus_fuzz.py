"""Damaged and hostile corpora, shards and records: whatever their bytes are, readers return clips or raise avsync's own errors.

``AVSYNC_FUZZ=1000`` sets the number of mutations per kind; the suite tries a few.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsync.audio.features import LogMel
from avsync.corpus.banks.bank import ClipBank
from avsync.corpus.banks.shards import ShardedBank, build_shards
from avsync.corpus.clip import Clip, Corpus, write_clip, write_index
from avsync.corpus.extraction.batch import extract_corpus
from avsync.corpus.extraction.records import merge_records
from avsync.corpus.media import write_video
from avsync.errors import AvsyncError

MUTATIONS = int(os.environ.get("AVSYNC_FUZZ", "12"))
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    10**30,
    2**63,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../x",
    "\x00",
    [],
    {},
    [[]],
    [0, 1],
]
VALUES += [{"a": 1}, ["a"], 0.5, -0.0, "9" * 400, [[1, 2], [3]], "\ud800"]


def find_face(images: list[Any]) -> list[Any]:
    return [np.array([[20, 20], [40, 20], [30, 44]], np.float32)] * len(images)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, their shards, and a folder that an extraction made."""
    folder = tmp_path_factory.mktemp("fuzz")
    rng = np.random.default_rng(0)
    entries = []
    for number in range(3):
        landmarks = rng.normal(100, 20, (50, 6, 2)).astype(np.float32)
        waveform = (rng.integers(-3000, 3000, 640 * 50) / 32768).astype(np.float32)
        clip = Clip(f"c{number}", f"s{number}", "train", landmarks, waveform, missing_audio=((40, 50),))
        entries.append(write_clip(clip, folder / "clips"))
    write_index(folder / "clips", entries)
    build_shards(Corpus(folder / "clips"), folder / "shards", features=LogMel(), shard_frames=60)
    frames = (np.full((48, 64, 3), 90, np.uint8) for _ in range(30))
    write_video(folder / "a.mp4", frames, fps=25, waveform=np.zeros(19200, np.float32))
    extract_corpus([folder / "a.mp4"], folder / "extracted", detector=find_face, min_seconds=1.0)
    return folder


def mutate_bytes(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    kind = rng.randrange(5)
    # Headers are short and matter most: half of the changes fall into the first 600 bytes.
    place = rng.randrange(min(len(content), 600) if rng.random() < 0.5 else len(content))
    if kind == 0:
        content[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        content[place : place + 8] = rng.randbytes(8)
    elif kind == 2:
        del content[place:]
    elif kind == 3:
        content[place:place] = rng.randbytes(rng.randrange(1, 40))
    else:
        digits = [at for at, byte in enumerate(content[:4000]) if 48 <= byte <= 57]
        for at in rng.sample(digits, min(3, len(digits))):
            content[at] = rng.choice(b"0123456789")
    path.write_bytes(content)


def mutate_json(path: Path, rng: random.Random) -> None:
    """Replace, remove or double a value somewhere in the tree, or nest the whole deeply."""
    value = json.loads(path.read_text())
    if rng.random() < 0.05:
        path.write_text("[" * 100_000)
        return
    for _ in range(rng.randrange(1, 3)):
        holders: list[Any] = [value]
        for holder in holders:
            holders += [
                item
                for item in (holder.values() if isinstance(holder, dict) else holder)
                if isinstance(item, dict | list) and item
            ]
        holder = rng.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            continue
        key, action = rng.choice(keys), rng.randrange(4)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[key] = rng.choice(VALUES)
    path.write_text(json.dumps(value))


def read_clips(folder: Path) -> None:
    list(Corpus(folder / "clips"))


def read_good_clips(folder: Path) -> None:
    ClipBank(Corpus(folder / "clips", skip_bad=True, fps=None), features=LogMel(), skip_bad=True).windows(20, stride=20)


def build_again(folder: Path) -> None:
    build_shards(Corpus(folder / "clips", skip_bad=True), folder / "shards", features=LogMel(), skip_bad=True, shard_frames=60)


def read_shards(folder: Path) -> None:
    bank = ShardedBank(folder / "shards", features=LogMel())
    bank.windows(20, stride=20)
    bank.audio_statistics()


def resume(folder: Path) -> None:
    extract_corpus([folder / "a.mp4"], folder / "extracted", detector=find_face, min_seconds=1.0, resume=True)


def read_extracted(folder: Path) -> None:
    list(Corpus(folder / "extracted"))


def merge(folder: Path) -> None:
    merge_records(folder / "extracted")


CASES: dict[str, tuple[str, Callable[[Path, random.Random], None], list[Callable[[Path], None]]]] = {
    "index": ("clips/index.json", mutate_json, [read_clips, read_good_clips]),
    "index bytes": ("clips/index.json", mutate_bytes, [read_clips, read_good_clips]),
    "npz": ("clips/*.npz", mutate_bytes, [read_clips, read_good_clips, build_again]),
    "flac": ("clips/*.flac", mutate_bytes, [read_clips, read_good_clips]),
    "shard": ("shards/*.safetensors", mutate_bytes, [read_shards, build_again]),
    "list of shards": ("shards/shards.json", mutate_json, [read_shards, build_again]),
    "list of shards, bytes": ("shards/shards.json", mutate_bytes, [read_shards, build_again]),
    "record": ("extracted/extraction/*.json", mutate_json, [merge, resume]),
    "record bytes": ("extracted/extraction/*.json", mutate_bytes, [merge, resume]),
    "settings": ("extracted/extraction.json", mutate_json, [merge, resume]),
    "index of an extraction": ("extracted/index.json", mutate_json, [read_extracted, merge, resume]),
}


@pytest.mark.parametrize("case", CASES)
def test_only_our_errors(case: str, corpus: Path, tmp_path: Path) -> None:
    pattern, mutate, readers = CASES[case]
    refused = 0
    for seed in range(MUTATIONS):
        rng = random.Random(f"{case} {seed}")
        folder = tmp_path / str(seed)
        shutil.copytree(corpus, folder)
        mutate(rng.choice(sorted(folder.glob(pattern))), rng)
        for read in readers:
            try:
                read(folder)
            except AvsyncError:
                refused += 1
            except Exception as error:
                raise AssertionError(f"mutation {seed} of {case}: {read.__name__} raised {type(error).__name__}") from error
        shutil.rmtree(folder)
    assert refused, "no mutation was noticed"
