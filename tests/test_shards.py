"""Clips in files: the same crops as from memory, whole or not at all, made anew when stale, never all read."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from avsync._files import write_json
from avsync.audio.features import MFCC, LogMel
from avsync.corpus.banks import shards as module
from avsync.corpus.banks._shard_file import read_header
from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.bank import Batch, ClipBank
from avsync.corpus.banks.shards import MANIFEST, ShardedBank, build_shards
from avsync.corpus.clip import Clip, Corpus, write_clip, write_index
from avsync.errors import ArgumentError, ClipTooShortError, CorpusError, ShapeError

LENGTHS = {"a": ("s0", 40), "b": ("s1", 25), "c": ("s0", 12), "d": ("s2", 60), "e": ("s1", 30)}
VARIED = AugmentConfig(tempo=(0.7, 1.4), equaliser_db=2.0, noise_db=0.5)


def make_clip(name: str, speaker: str, frames: int, seed: int = 0, **fields: Any) -> Clip:
    rng = np.random.default_rng([ord(name[0]), seed])
    landmarks = rng.normal(100, 10, (frames, 68, 2)).astype(np.float32)
    waveform = rng.normal(0, 0.1, 640 * frames).clip(-1, 1).astype(np.float32)
    waveform[: waveform.size // 3] *= 0.01
    return Clip(**{"id": name, "speaker": speaker, "split": "train", "landmarks": landmarks, "waveform": waveform, **fields})


CLIPS = [make_clip(name, *where) for name, where in LENGTHS.items()]
BANK = ClipBank(CLIPS, features=LogMel())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 60 frames or a little more: a, b / c, d / e."""
    folder = tmp_path_factory.mktemp("shards")
    build_shards(CLIPS, folder, features=LogMel(), shard_frames=60)
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def same(first: Batch, second: Batch) -> bool:
    fields = [field.name for field in dataclasses.fields(Batch)]
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in fields)


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_bank_says_what_it_holds(built: Path) -> None:
    bank = ShardedBank(built, features=LogMel(), verify=True)
    assert len(list(built.glob("*.safetensors"))) == 3
    assert (bank.ids, bank.clip_speakers, bank.speakers) == (BANK.ids, BANK.clip_speakers, BANK.speakers)
    assert bank.lengths.tolist() == BANK.lengths.tolist() and bank.offsets.tolist() == BANK.offsets.tolist()
    assert len(bank) == 5 and "ShardedBank(5 clips, 3 speakers" in repr(bank)
    for ours, theirs in zip(bank.audio_statistics(), BANK.audio_statistics(), strict=True):
        torch.testing.assert_close(ours, theirs)


@given(seed=st.integers(0, 2**31), size=st.integers(1, 12), frames=st.integers(1, 30), augment=st.sampled_from([None, VARIED]))
def test_samples_are_those_of_a_bank_in_memory(built: Path, seed: int, size: int, frames: int, augment: Any) -> None:
    bank = ShardedBank(built, features=LogMel())
    ours, theirs = (
        x.sample(size, frames, generator=torch.Generator().manual_seed(seed), augment=augment) for x in (bank, BANK)
    )
    assert same(ours, theirs)


@given(frames=st.integers(1, 40), stride=st.integers(1, 15), margin=st.integers(0, 8))
def test_windows_are_those_of_a_bank_in_memory(built: Path, frames: int, stride: int, margin: int) -> None:
    bank = ShardedBank(built, features=LogMel())
    ours, theirs = (x.windows(frames, stride=stride, margin=margin) for x in (bank, BANK))
    assert same(ours, theirs)


def test_crops_are_copies_and_the_bank_travels(built: Path) -> None:
    bank = ShardedBank(built, features=LogMel())
    bank.sample(4, 10, generator=torch.Generator().manual_seed(0)).landmarks.zero_()
    assert same(bank.windows(20, stride=5), BANK.windows(20, stride=5))
    other = copy.deepcopy(bank)  # by __getstate__, as sending it to another process does
    assert same(other.windows(20, stride=5), BANK.windows(20, stride=5))
    assert bank.to("cpu").device == torch.device("cpu")
    with pytest.raises(ClipTooShortError, match="the longest clip has 60 frames, got 61"):
        bank.sample(2, 61)


def test_building_again_does_nothing(folder: Path) -> None:
    before = stamps(folder)
    build_shards(CLIPS, folder, features=LogMel(), shard_frames=60)
    assert stamps(folder) == before


def test_only_what_changed_is_made_anew(folder: Path) -> None:
    before = stamps(folder)
    changed = [*CLIPS[:2], make_clip("c", "s0", 12, seed=1), *CLIPS[3:]]
    bank = build_shards(changed, folder, features=LogMel(), shard_frames=60)
    after = stamps(folder)
    assert {name for name in after if after[name] != before[name]} == {"shard-00001.safetensors", MANIFEST}
    assert same(bank.windows(10, stride=2), ClipBank(changed, features=LogMel()).windows(10, stride=2))
    assert len(build_shards(CLIPS[:2], folder, features=LogMel(), shard_frames=60)) == 2
    assert sorted(stamps(folder)) == ["shard-00000.safetensors", MANIFEST]  # what is left over is taken away


def test_other_features_are_noticed_and_made_anew(folder: Path) -> None:
    for other in (MFCC(), LogMel(f_min=80.0), LogMel(n_mels=30)):
        with pytest.raises(CorpusError, match=r"expected the features that its shards were made with \(LogMel with 26"):
            ShardedBank(folder, features=other)
    bank = build_shards(CLIPS, folder, features=MFCC(), shard_frames=60)
    assert same(bank.windows(10, stride=3), ClipBank(CLIPS, features=MFCC()).windows(10, stride=3))
    with pytest.raises(CorpusError, match="got LogMel"):
        ShardedBank(folder, features=LogMel())


def test_an_interrupted_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = module.write_shard, []

    def stop_at_the_second(path: Path, *content: Any) -> None:
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(path, *content)

    monkeypatch.setattr(module, "write_shard", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        build_shards(CLIPS, tmp_path, features=LogMel(), shard_frames=60)
    assert sorted(stamps(tmp_path)) == ["shard-00000.safetensors"]
    with pytest.raises(CorpusError, match="expected a finished folder of shards, found no list"):
        ShardedBank(tmp_path, features=LogMel())
    first = stamps(tmp_path)["shard-00000.safetensors"]
    bank = build_shards(CLIPS, tmp_path, features=LogMel(), shard_frames=60)
    assert calls[2:] == ["shard-00001.safetensors", "shard-00002.safetensors"]
    assert stamps(tmp_path)["shard-00000.safetensors"] == first
    assert same(bank.windows(10, stride=3), BANK.windows(10, stride=3))


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        build_shards(CLIPS, tmp_path, features=LogMel())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "longer", "header", "empty", "missing", "other"])
def test_damaged_shards_are_named_and_made_anew(folder: Path, damage: str) -> None:
    path = folder / "shard-00001.safetensors"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        changed = {
            "truncated": content[:-100],
            "longer": content + b"0",
            "header": content[:8] + b"[" + content[9:],
            "empty": b"",
            "other": (folder / "shard-00000.safetensors").read_bytes(),
        }
        path.write_bytes(changed[damage])
    with pytest.raises(CorpusError, match=r"shard-00001.safetensors: expected (a whole|the) shard"):
        ShardedBank(folder, features=LogMel())
    bank = build_shards(CLIPS, folder, features=LogMel(), shard_frames=60)
    assert same(bank.windows(10, stride=3), BANK.windows(10, stride=3))


def test_a_flipped_bit_is_found_by_the_checksum(folder: Path) -> None:
    path = folder / "shard-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-5000] ^= 1
    path.write_bytes(bytes(content))
    ShardedBank(folder, features=LogMel())  # the headers are sound
    with pytest.raises(CorpusError, match=r"shard-00002.safetensors: expected the checksum in shards.json"):
        ShardedBank(folder, features=LogMel(), verify=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "nonsense"])
def test_damaged_manifests(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match=r"shards.json: expected a list of shards"):
        ShardedBank(folder, features=LogMel())


def test_a_manifest_cannot_lead_out_of_its_folder(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["shards"][0]["file"] = "../shard-00000.safetensors"
    write_json(folder / MANIFEST, manifest)
    with pytest.raises(CorpusError, match="of format 1, got something else"):
        ShardedBank(folder, features=LogMel())


def test_bad_clips_raise_or_are_listed(tmp_path: Path) -> None:
    broken = make_clip("x", "s", 10, landmarks=np.full((10, 68, 2), np.nan, np.float32))
    narrow = make_clip("y", "s", 10, landmarks=np.zeros((10, 20, 2), np.float32))
    for clips in ([*CLIPS, broken], [*CLIPS, narrow]):
        with pytest.raises(CorpusError, match=f"clip '{clips[-1].id}'"):
            build_shards(clips, tmp_path, features=LogMel(), shard_frames=60)
    clips = [broken, *CLIPS[:2], narrow, *CLIPS[2:]]
    for _ in range(2):  # the second time from what the shards say
        bank = build_shards(clips, tmp_path, features=LogMel(), shard_frames=60, skip_bad=True)
        assert bank.ids == BANK.ids and [name for name, _ in bank.bad] == ["x", "y"]
    with pytest.raises(CorpusError, match="clip 'x'"):
        build_shards(clips, tmp_path, features=LogMel(), shard_frames=60)
    with pytest.raises(CorpusError, match="expected at least one good clip, got none and 2 bad ones"):
        build_shards([broken, broken], tmp_path / "none", features=LogMel(), skip_bad=True)
    with pytest.raises(ArgumentError, match="shard_frames"):
        build_shards(CLIPS, tmp_path, features=LogMel(), shard_frames=0)
    with pytest.raises(ShapeError, match="features"):
        build_shards(CLIPS, tmp_path, features=nn.Identity())


def test_shards_of_a_corpus_follow_its_files(tmp_path: Path) -> None:
    corpus, cache = tmp_path / "corpus", tmp_path / "cache"
    write_index(corpus, [write_clip(clip, corpus) for clip in CLIPS])
    bank = build_shards(Corpus(corpus), cache, features=LogMel(), shard_frames=60)
    assert same(bank.windows(10, stride=3), ClipBank(Corpus(corpus), features=LogMel()).windows(10, stride=3))
    before = stamps(cache)
    write_clip(make_clip("e", "s1", 30, seed=2), corpus)
    os.utime(corpus / "e.npz", ns=(1, 1))  # file systems with coarse clocks would take the rewritten file for the old one
    build_shards(Corpus(corpus), cache, features=LogMel(), shard_frames=60)
    after = stamps(cache)
    assert {name for name in after if after[name] != before[name]} == {"shard-00002.safetensors", MANIFEST}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="resident memory is read from /proc")
def test_a_thousand_hours_need_not_fit_in_memory(built: Path, tmp_path: Path) -> None:
    """A sparse shard of 90 million frames, 86 GB that nobody has written."""
    clips, length = 3000, 30_000
    frames = clips * length
    parts = {"landmarks": ("F32", [frames, 68, 2]), "audio": ("F32", [4 * frames, 26]), "speech": ("U8", [frames])}
    template = read_header(built / "shard-00000.safetensors").metadata
    metadata = {
        **template,
        "ids": [f"c{i}" for i in range(clips)],
        "speakers": [f"s{i % 500}" for i in range(clips)],
        "frames": [length] * clips,
    }
    header: dict[str, Any] = {"__metadata__": {"avsync": json.dumps(metadata)}}
    end = 0
    for name, (dtype, shape) in parts.items():
        size = int(np.prod(shape)) * (4 if dtype == "F32" else 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path = tmp_path / "shard-00000.safetensors"
    try:
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + end)
    except OSError:
        pytest.skip("this file system keeps no sparse file of that size")
    manifest = json.loads((built / MANIFEST).read_text(encoding="utf-8"))
    manifest["shards"] = [{**manifest["shards"][0], "bytes": path.stat().st_size}]
    write_json(tmp_path / MANIFEST, manifest)
    assert path.stat().st_size > 80e9
    before = _resident_bytes()
    bank = ShardedBank(tmp_path, features=LogMel())
    for seed in range(3):
        batch = bank.sample(16, 80, generator=torch.Generator().manual_seed(seed), augment=AugmentConfig())
    assert len(bank) == 3000 and batch.landmarks.shape == (16, 80, 68, 2)
    assert _resident_bytes() - before < 100e6
