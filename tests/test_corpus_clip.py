"""The clip format: what is written is what is read, and every kind of damage is named."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsync.audio.features import LogMel
from avsync.corpus.banks.bank import ClipBank
from avsync.corpus.clip import Clip, Corpus, check_clip, read_clip, sample_of_frame, write_clip, write_index
from avsync.errors import ArgumentError, CorpusError

REAL_CORPUS = Path(os.environ.get("AVSYNC_CORPUS", Path(__file__).parents[2] / "shared" / "corpus"))


def make_clip(name: str = "a", *, frames: int = 12, seed: int = 0, points: int = 68, dims: int = 2, **fields: Any) -> Clip:
    rng = np.random.default_rng(seed)
    landmarks = rng.normal(100, 20, (frames, points, dims)).astype(np.float32)
    waveform = (rng.integers(-3000, 3000, 640 * frames) / 32768).astype(np.float32)
    return Clip(**{"id": name, "speaker": "s", "split": "train", "landmarks": landmarks, "waveform": waveform, **fields})


def write_corpus(folder: Path) -> None:
    """Six clips of five speakers, four of them in training."""
    owners = [("a", "s0", "train"), ("b", "s0", "train"), ("c", "s1", "train"), ("d", "s2", "train")]
    owners += [("e", "s3", "train"), ("f", "s4", "val")]
    clips = [make_clip(name, seed=i, speaker=speaker, split=split) for i, (name, speaker, split) in enumerate(owners)]
    write_index(folder, [write_clip(clip, folder) for clip in clips], points="68 iBUG")


def edit_index(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((folder / "index.json").read_text())
    edit(index)
    (folder / "index.json").write_text(json.dumps(index))


def edit_track(folder: Path, **arrays: Any) -> None:
    with np.load(folder / "c.npz") as archive:
        content: dict[str, Any] = dict(archive)
    content.update(arrays)
    np.savez_compressed(folder / "c.npz", **{key: value for key, value in content.items() if value is not None})


def truncate(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def with_nan() -> npt.NDArray[np.float32]:
    landmarks = make_clip().landmarks.copy()
    landmarks[5, 3, 1] = np.nan
    return landmarks


@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 80), st.sampled_from([1, 2, 3]), st.booleans())
def test_write_then_read_is_the_identity(seed: int, frames: int, points: int, dims: int, loud: bool) -> None:
    clip = make_clip(frames=frames, seed=seed, points=points, dims=dims, frame_size=(360, 288))
    if loud:
        clip = dataclasses.replace(clip, waveform=np.sign(clip.waveform) * np.float32(32767 / 32768))
    with tempfile.TemporaryDirectory() as folder:
        entry = write_clip(clip, folder)
        assert sorted(p.name for p in Path(folder).iterdir()) == ["a.flac", "a.npz"]
        back = read_clip(folder, entry)
    np.testing.assert_array_equal(back.landmarks, clip.landmarks)
    np.testing.assert_array_equal(back.waveform, clip.waveform)
    assert (back.id, back.speaker, back.split, back.frame_size) == ("a", "s", "train", (360, 288))
    assert (back.fps, back.sample_rate, back.frames, back.seconds) == (25.0, 16000, frames, frames / 25)


def test_corpus_is_a_sequence(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    corpus = Corpus(tmp_path)
    assert len(corpus) == 6 and corpus.speakers == ("s0", "s1", "s2", "s3", "s4") and corpus.bad == ()
    assert [clip.id for clip in corpus] == list("abcdef")
    assert corpus[-1].id == "f" and [clip.id for clip in corpus[1:3]] == ["b", "c"]
    assert corpus.entries[0]["seconds"] == 0.48
    assert [entry["id"] for entry in Corpus(tmp_path, split="val").entries] == ["f"]
    assert "6 clips, 5 speakers, 0 bad" in repr(corpus)
    with pytest.raises(IndexError):
        corpus[6]
    with pytest.raises(ArgumentError, match=r"`split`: expected one of \['train', 'val'\], got 'test'"):
        Corpus(tmp_path, split="test")


CLIP_DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no track": (lambda d: (d / "c.npz").unlink(), r"c\.npz: expected a file, got none"),
    "truncated track": (lambda d: truncate(d / "c.npz", 0.5), r"c\.npz: expected a whole npz"),
    "track of one array": (lambda d: _npy(d / "c.npz"), r"c\.npz: expected a whole npz"),
    "flipped byte in track": (lambda d: _flip_byte(d / "c.npz"), r"c\.npz: expected a whole npz"),
    "empty track": (lambda d: truncate(d / "c.npz", 0.0), r"c\.npz: expected a whole npz"),
    "no sound": (lambda d: (d / "c.flac").unlink(), r"c\.flac: expected.*found none"),
    "truncated sound": (lambda d: truncate(d / "c.flac", 0.6), r"c\.flac: expected"),
    "empty sound": (lambda d: truncate(d / "c.flac", 0.0), r"c\.flac: expected whole audio"),
    "missing array": (lambda d: edit_track(d, fps=None), r"c\.npz: expected arrays .*fps.* got \['frame_size', 'landmarks'\]"),
    "pickled array": (lambda d: edit_track(d, frame_size=np.array([{}, 1], dtype=object)), r"c\.npz: .*without pickles"),
    "wrong rate": (lambda d: edit_track(d, fps=np.float64(30)), r"c\.npz: expected fps = 25, got 30"),
    "NaN": (lambda d: edit_track(d, landmarks=with_nan()), r"c\.npz: .*NaN or infinity in 1 frames, first 5"),
    "infinity": (lambda d: edit_track(d, landmarks=np.full((12, 68, 2), np.inf, np.float32)), r"c\.npz: .*infinity in 12"),
    "wrong rank": (lambda d: edit_track(d, landmarks=np.zeros((12, 136), np.float32)), r"c\.npz: .*got shape \(12, 136\)"),
    "wrong dtype": (lambda d: edit_track(d, landmarks=np.zeros((12, 68, 2))), r"c\.npz: .*float32, got .*float64"),
    "too many dims": (lambda d: edit_track(d, landmarks=np.zeros((12, 68, 4), np.float32)), r"c\.npz: .*at most 3 dims"),
    "empty clip": (lambda d: edit_track(d, landmarks=np.zeros((0, 68, 2), np.float32)), r"c\.npz: expected at least one frame"),
    "fewer frames": (
        lambda d: edit_track(d, landmarks=np.zeros((11, 68, 2), np.float32)),
        r"c\.npz: expected 12 frames.*got 11",
    ),
    "frame size": (lambda d: edit_track(d, frame_size=np.zeros(3, np.int32)), r"c\.npz: expected frame_size as two integers"),
    "other sound": (
        lambda d: (d / "c.flac").write_bytes(_flac(640 * 12 - 1)),
        r"c\.flac: expected 7680 samples for 12 frames, got 7679",
    ),
    "other sample rate": (
        lambda d: (d / "c.flac").write_bytes(_flac(640 * 12, sample_rate=8000)),
        r"c\.flac: expected 16000 samples per second, got 8000",
    ),
    "index without key": (
        lambda d: edit_index(d, lambda i: i["clips"][2].pop("speaker")),
        r"index\.json: expected a key 'speaker'",
    ),
    "index with wrong type": (
        lambda d: edit_index(d, lambda i: i["clips"][2].update(frames="12")),
        r"index\.json: expected a key 'frames' of type int, got '12'",
    ),
    "empty in index": (
        lambda d: edit_index(d, lambda i: i["clips"][2].update(frames=0)),
        r"index\.json: expected at least one frame, got 0",
    ),
    "speaker in two splits": (
        lambda d: edit_index(d, lambda i: i["clips"][2].update(speaker="s0", split="val")),
        r"index\.json: expected speaker 's0' in one split, 'train', got split 'val'",
    ),
}


def _npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def _flac(samples: int, *, sample_rate: int = 16000) -> bytes:
    from avsync.corpus.media.files import write_audio

    with tempfile.TemporaryDirectory() as folder:
        write_audio(Path(folder, "x.flac"), make_clip(frames=13).waveform[:samples], sample_rate=sample_rate)
        return Path(folder, "x.flac").read_bytes()


@pytest.mark.parametrize("damage", CLIP_DAMAGE)
def test_damage_is_named_and_can_be_skipped(tmp_path: Path, damage: str) -> None:
    write_corpus(tmp_path)
    spoil, message = CLIP_DAMAGE[damage]
    spoil(tmp_path)
    with pytest.raises(CorpusError, match=r"clip 'c', " + message):
        list(Corpus(tmp_path))
    corpus = Corpus(tmp_path, skip_bad=True)
    assert [clip.id for clip in corpus] == list("abdef")
    [(name, reason)] = corpus.bad
    assert name == "c" and reason.startswith("clip 'c', ")


def test_duplicated_ids_and_entries_that_are_no_clips(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    edit_index(tmp_path, lambda index: index["clips"].extend([index["clips"][1], 5]))
    with pytest.raises(CorpusError, match=r"clip 'b', index\.json: expected every id once"):
        Corpus(tmp_path)
    corpus = Corpus(tmp_path, skip_bad=True)
    assert len(corpus) == 6 and [name for name, _ in corpus.bad] == ["b", "None"]


@pytest.mark.parametrize("name", ["../c", "/etc/c", "", ".c", "c/d", "c\x00"])
def test_ids_do_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    write_corpus(tmp_path)
    edit_index(tmp_path, lambda index: index["clips"][2].update(id=name))
    with pytest.raises(CorpusError, match="expected an id of letters"):
        Corpus(tmp_path)
    with pytest.raises(CorpusError, match="expected an id of letters"):
        write_clip(make_clip(name), tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "index.json").unlink(), "expected the index of a corpus, found no file"),
        (lambda d: truncate(d / "index.json", 0.7), "expected an index in JSON, got: JSONDecodeError"),
        (lambda d: (d / "index.json").write_bytes(b"\xff\xfe{}"), "expected an index in JSON, got: JSONDecodeError"),
        (lambda d: (d / "index.json").write_text("[]"), "expected an object with a list 'clips', got list"),
        (lambda d: edit_index(d, lambda i: i.pop("clips")), "expected an object with a list 'clips', got .*'fps'"),
        (lambda d: edit_index(d, lambda i: i.update(fps=30)), "expected 'fps' = 25, got 30"),
        (lambda d: edit_index(d, lambda i: i.pop("sample_rate")), "expected 'sample_rate' = 16000, got None"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_bad_index_always_raises(tmp_path: Path, spoil: Callable[[Path], Any], message: str, skip_bad: bool) -> None:
    write_corpus(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CorpusError, match=r"index\.json: " + message):
        Corpus(tmp_path, skip_bad=skip_bad)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fps": 30.0}, "waveform: expected 6400 samples for 12 frames, got 7680"),
        ({"fps": 0.0}, "fps: expected a rate above 0, got 0"),
        ({"fps": float("nan")}, "fps: expected a rate above 0, got nan"),
        ({"sample_rate": 44100}, "sample_rate: expected 16000"),
        ({"frame_size": (1, 2, 3)}, "frame_size"),
        ({"waveform": np.zeros(640, np.float32)}, "waveform: expected 7680 samples for 12 frames, got 640"),
        ({"waveform": np.zeros((1, 7680), np.float32)}, r"waveform: expected a waveform \(samples,\)"),
        ({"waveform": np.full(7680, np.nan, np.float32)}, "waveform: expected a finite waveform"),
        ({"landmarks": [[[0.0]]]}, "landmarks: expected landmarks .* got list"),
        ({"landmarks": np.zeros((0, 68, 2), np.float32)}, "landmarks: expected at least one frame"),
        ({"speaker": 5}, "expected a key 'speaker' of type str, got 5"),
    ],
)
def test_bad_clips_are_not_written(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    clip = make_clip(**fields)
    with pytest.raises(CorpusError, match=message):
        check_clip(clip)
    with pytest.raises(CorpusError, match=message):
        write_clip(clip, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_bad_entries_are_not_indexed(tmp_path: Path) -> None:
    entry = {"id": "a", "frames": 2, "speaker": "s", "split": "train"}
    with pytest.raises(CorpusError, match="every id once"):
        write_index(tmp_path, [entry, entry])
    with pytest.raises(CorpusError, match="in one split"):
        write_index(tmp_path, [entry, {**entry, "id": "b", "split": "val"}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [23.976, 30.0, 12.5, 30000 / 1001])
def test_other_rates_keep_the_contract_and_are_refused_unless_asked_for(tmp_path: Path, fps: float) -> None:
    frames = 37
    samples = make_clip(frames=80).waveform[: sample_of_frame(frames, fps)]
    assert abs(samples.size - frames * 16000 / fps) <= 0.5
    clip = make_clip(frames=frames, waveform=samples, fps=fps)
    entry = write_clip(clip, tmp_path)
    assert entry["seconds"] == frames / fps
    write_index(tmp_path, [entry], fps=fps)
    with pytest.raises(CorpusError, match=r"index\.json: expected 'fps' = 25, got"):
        Corpus(tmp_path)
    with pytest.raises(CorpusError, match=r"a\.npz: expected fps = 25, got"):
        read_clip(tmp_path, entry)
    corpus = Corpus(tmp_path, fps=None)
    assert corpus.fps == fps and corpus[0].fps == fps and corpus[0].waveform.size == samples.size
    assert ClipBank(corpus, features=LogMel()).lengths.tolist() == [round(frames * 25 / fps)]


@pytest.mark.skipif(not (REAL_CORPUS / "index.json").is_file(), reason="the real corpus is not on this machine")
def test_the_real_corpus_is_sound() -> None:
    corpora = {split: Corpus(REAL_CORPUS, split=split, skip_bad=split == "val") for split in ("train", "val")}
    assert not set(corpora["train"].speakers) & set(corpora["val"].speakers)
    assert all(corpus.bad == () and len(corpus) > 0 for corpus in corpora.values())
    clip = corpora["val"][0]
    assert clip.landmarks.shape == (clip.frames, 68, 2)
    # The lips of people are in the lower half of their faces, and sound is not silence.
    assert (clip.landmarks[:, 48:, 1].mean(1) > clip.landmarks[:, 17:48, 1].mean(1)).all()
    assert np.abs(clip.waveform).max() > 0.01
    assert sum(clip.frames for clip in corpora["val"]) == sum(entry["frames"] for entry in corpora["val"].entries)


def test_missing_audio_is_kept_in_the_index(tmp_path: Path) -> None:
    clip = make_clip(missing_audio=((0, 2), (9, 12)))
    write_index(tmp_path, [write_clip(clip, tmp_path)])
    [back] = Corpus(tmp_path)
    assert back.missing_audio == ((0, 2), (9, 12))
    assert back.has_audio.tolist() == [False] * 2 + [True] * 7 + [False] * 3
    for ranges in ([[3, 2]], [[0, 13]], [[4, 6], [5, 8]], [[0.5, 2]], 5, [[1]], {"a": 1}):
        edit_index(tmp_path, lambda index, ranges=ranges: index["clips"][0].update(missing_audio=ranges))
        with pytest.raises(CorpusError, match="missing_audio as ranges"):
            Corpus(tmp_path)


@pytest.mark.parametrize("first", [0, 10, 20])
def test_the_minority_is_left_out_not_the_first(tmp_path: Path, first: int) -> None:
    """One odd clip among 21, wherever it stands, is the one that is skipped."""
    clips = [make_clip(f"c{i:02d}", points=5 if i == first else 68, seed=i) for i in range(21)]
    entries = [write_clip(clip, tmp_path) for clip in clips]
    entries[(first + 1) % 21]["split"] = "val"  # of the same speaker as all others
    write_index(tmp_path, [{**entry, "split": "train"} for entry in entries])
    bank = ClipBank(Corpus(tmp_path, skip_bad=True), features=LogMel(), skip_bad=True)
    assert len(bank.ids) == 20 and [name for name, _ in bank.bad] == [f"c{first:02d}"]
    edit_index(tmp_path, lambda index: index.update(clips=entries))
    assert [name for name, _ in Corpus(tmp_path, skip_bad=True).bad] == [f"c{(first + 1) % 21:02d}"]


def test_a_corpus_without_clips_is_an_error(tmp_path: Path) -> None:
    write_index(tmp_path, [])
    with pytest.raises(CorpusError, match="expected at least one clip, got none"):
        Corpus(tmp_path)


def test_sizes_are_bounded_before_anything_is_built(tmp_path: Path) -> None:
    """Headers that promise terabytes, and files larger than the index allows, cost no memory."""
    import io
    import tracemalloc
    import zipfile

    write_corpus(tmp_path)
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (12, 1 << 30, 24)})
    zeros = io.BytesIO()
    np.lib.format.write_array_header_1_0(zeros, {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 68, 2)})
    for header, body in ((huge, 0), (zeros, 68 * 8 << 20)):
        with (
            zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("landmarks.npy", "w", force_zip64=True) as file,
        ):
            file.write(header.getvalue())
            for _ in range(body >> 22):
                file.write(bytes(1 << 22))
        tracemalloc.start()
        with pytest.raises(CorpusError, match=r"clip 'c', c\.npz"):
            list(Corpus(tmp_path))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()
    write_corpus(tmp_path)
    from avsync.corpus.media.files import write_audio

    write_audio(tmp_path / "c.flac", np.zeros(16000 * 60, np.float32))
    with pytest.raises(CorpusError, match=r"clip 'c', c\.flac: .*more than the expected 23680 samples"):
        list(Corpus(tmp_path))
