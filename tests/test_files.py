"""The gate for files of unknown origin, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from avsync import _files
from avsync.corpus.clip import read_clip
from avsync.errors import ArgumentError, CheckpointError, CorpusError
from avsync.evaluation import SyncNet, read_tracks
from avsync.figures.sync import read_history
from avsync.metrics.weight_files import read_state_dict
from avsync.training.doctor.reading import read_entries
from avsync.training.logging import read_log


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    _files.write_json(path, [1])

    def fail() -> None:
        with _files.replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert json.loads(path.read_text()) == [1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="processes are only asked for on POSIX")
def test_temporary_files_of_dead_processes_are_swept(tmp_path: Path) -> None:
    """A killed writer leaves a temporary file; it is removed, and those of running processes and of the user stay."""
    script = (
        "import os, signal, sys; from avsync._files import replacing\n"
        "with replacing(sys.argv[1]) as part:\n    part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.json")], check=False, timeout=120)
    (left,) = tmp_path.iterdir()
    (tmp_path / ".mine-1.json").write_text("mine")
    with _files.replacing(tmp_path / "b.json") as running:
        _files.sweep_temporaries(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([running, tmp_path / ".mine-1.json"])
    assert not left.exists() and (tmp_path / "b.json").exists()


HOSTILE_JSON = {
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 900 + b"1" + b"}" * 900,
    "a number of many digits": b"1" * 10_000,
    "no text": b"\xff\xfe\x00",
    "empty": b"",
    "cut": b'{"a": [1, 2',
    "too large": b"[" + b"1," * 2000 + b"1]",
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
@pytest.mark.parametrize("error", [CheckpointError, CorpusError])
def test_json(tmp_path: Path, name: str, error: type[CheckpointError | CorpusError]) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(HOSTILE_JSON[name])
    with pytest.raises(error, match=r"a\.json: "):
        _files.read_json(path, error=error, most_bytes=1_000 if name == "too large" else 1_000_000)


def test_files_that_never_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(CheckpointError, match="regular file"):
            _files.read_json(path, error=CheckpointError)
        with pytest.raises(CorpusError, match="regular file"):
            _files.read_npz(path, error=CorpusError)
    with pytest.raises(CorpusError, match="FileNotFoundError"):
        _files.read_npz(tmp_path / "none.npz", error=CorpusError)


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.float32).reshape(2, 3), np.float64(25), np.asfortranarray(np.eye(3)), "text"]
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_read(tmp_path: Path, array: object, save: object) -> None:
    save(tmp_path / "a.npz", x=array, y=np.zeros((0, 2)))  # type: ignore[operator]
    found = _files.read_npz(tmp_path / "a.npz", error=CorpusError)
    assert found.keys() == {"x", "y"} and found["y"].shape == (0, 2)
    np.testing.assert_array_equal(found["x"], np.asarray(array))
    assert found["x"].dtype == np.asarray(array).dtype and found["x"].flags.writeable


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


HOSTILE_ARRAYS = {
    "a terabyte": header("{'descr': '<f4', 'fortran_order': False, 'shape': (250000000000,), }\n"),
    "more than can be counted": header("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 16), }\n"),
    "empty, of any size": header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 99999999999999999999), }\n"),
    "negative": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n") + b"\x80\x04N.",
    "no literal": header("{'descr': __import__('os')}\n"),
    "no tokens": header("{'descr': '<f4', 'shape': ('''\n"),
    "deep": header("(" * 3000 + ")" * 3000),
    "cut": header("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n") + b"\0\0",
    "too much": header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n") + b"\0" * 9,
    "no array": b"hello",
}


@pytest.mark.parametrize("name", HOSTILE_ARRAYS)
def test_hostile_archives(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", HOSTILE_ARRAYS[name])
    with pytest.raises(CorpusError, match=r"a\.npz: "):
        _files.read_npz(tmp_path / "a.npz", error=CorpusError)


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1_000_000))
    with pytest.raises(CorpusError, match="at most 1000000 bytes of arrays"):
        _files.read_npz(tmp_path / "a.npz", error=CorpusError, most_bytes=1_000_000)


def sparse_archive(path: Path, size: int, shape: str) -> None:
    """Write an archive with one array of ``size`` bytes of zeros, which take no space on the disk."""
    name, array = b"landmarks.npy", header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n")
    total = len(array) + size
    long = struct.pack("<HHQQ", 1, 16, total, total)  # sizes beyond 32 bits
    common = struct.pack("<HHHHHLLLHH", 45, 0, 0, 0, 0x21, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(long))
    local = b"PK\3\4" + common + name + long + array
    central = b"PK\1\2" + struct.pack("<H", 45) + common + struct.pack("<HHHLL", 0, 0, 0, 0, 0) + name + long
    start = len(local) + size
    end = b"PK\6\6" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, 1, 1, len(central), start)
    end += b"PK\6\7" + struct.pack("<LQL", 0, start + len(central), 1)
    end += b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 1, 1, len(central), 0xFFFFFFFF, 0)
    with path.open("wb") as file:
        file.write(local)
        file.truncate(start)
        file.seek(start)
        file.write(central + end)


@pytest.mark.parametrize("shape", ["(1073741824,)", "(100, 68, 2)"], ids=["4 GB", "4 GB behind a small header"])
def test_an_archive_of_4_gigabytes_takes_no_memory(tmp_path: Path, shape: str) -> None:
    sparse_archive(tmp_path / "a.npz", 1 << 32, shape)
    assert (tmp_path / "a.npz").stat().st_size > 1 << 32
    entry = {"id": "a", "speaker": "s", "split": "train", "frames": 100, "seconds": 4.0}
    tracemalloc.start()
    try:
        for read in (
            lambda: _files.read_npz(tmp_path / "a.npz", error=CorpusError),
            lambda: read_clip(tmp_path, entry),
        ):
            with pytest.raises(CorpusError, match=r"a\.npz.*bytes of arrays, got 4294967"):
                read()
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_small_sparse_archive_is_read(tmp_path: Path) -> None:
    """The one above is refused for its size, not for its form: the same with a right sum of its bytes is read."""
    sparse_archive(tmp_path / "a.npz", 0, "(0,)")
    with pytest.raises(CorpusError, match="CRC"):
        _files.read_npz(tmp_path / "a.npz", error=CorpusError)


def test_a_file_that_somebody_creates_in_between_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the check of the outputs to the end of the work may be hours."""
    path = tmp_path / "new.json"
    for links in (True, False):
        if not links:  # a file system without hard links
            monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links")))
        with _files.claims():
            _files.check_outputs([("--json", path)])
            path.write_text("somebody else's")
            with pytest.raises(ArgumentError, match=r"`--json`.*in the meantime; --overwrite replaces it"):
                _files.write_json(path, [1])
        assert path.read_text() == "somebody else's" and list(tmp_path.iterdir()) == [path]
        path.unlink()
        with _files.claims():
            _files.check_outputs([("--json", path)])
            _files.write_json(path, [1])
            _files.write_json(path, [2])  # what this run has written, it may write again
        assert json.loads(path.read_text()) == [2] and list(tmp_path.iterdir()) == [path]
        with _files.claims():
            _files.check_outputs([("--json", path)], overwrite=True)
            _files.write_json(path, [3])
        _files.write_json(path, [4])  # outside of a block a file is replaced
        assert json.loads(path.read_text()) == [4]
        path.unlink()


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(ArgumentError, match="expected a folder"):
            _files.write_json(folder / "a.json", [1])
    assert (tmp_path / "file").read_text() == "mine"


GATE = {
    "json.load(": set(),
    "json.loads(": {"_files.py", "training/engine.py"},
    "np.load(": set(),
    "save_file(": set(),
}
"""Calls that belong into the gate, and the files that may contain them; safetensors' own temporary files are never swept."""


def test_files_go_through_the_gate() -> None:
    root = Path(_files.__file__).parent
    for call, allowed in GATE.items():
        found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if call in path.read_text(encoding="utf-8")}
        assert found <= allowed, call


DEEP = b'{"clips":' + b"[" * 100_000


@pytest.mark.parametrize("content", [DEEP, b"[]", b'{"clips": 3}', None])
def test_an_index_that_is_none_is_a_finding(tmp_path: Path, content: bytes | None) -> None:
    """The doctor reports what it cannot read; None stands for a FIFO, which nobody writes to."""
    path = tmp_path / "index.json"
    os.mkfifo(path) if content is None else path.write_bytes(content)
    entries, _, (finding,) = read_entries(tmp_path)
    assert entries == [] and finding.severity == "error" and "cannot be read" in finding.message


@pytest.mark.parametrize("content", [DEEP, b"[1]", b'{"acc0": [[Infinity, 1]]}', b'{"acc0": [[1e30, 1]]}', b'{"acc0": 3}'])
def test_a_history_that_is_none_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "history.json").write_bytes(content)
    with pytest.raises(ArgumentError, match="`history`: expected steps and values in"):
        read_history(tmp_path)


def test_steps_that_no_run_reaches(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(f"step,name,value\n{10**30},loss,1.0\n")
    with pytest.raises(CheckpointError, match="line 2 is not a step, a name and a value"):
        read_log(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x05\x06" + b"\0" * 18, b"\x80\x02}q\x00.", b"\x93NUMPY\x01\x00", b"\xff" * 100, b"{}" * 50]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_none_are_an_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    for read in (read_state_dict, SyncNet.from_file):
        with pytest.raises(CheckpointError, match="`path`: "):
            read(path)


def test_weights_that_never_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="regular file"):
        read_state_dict(tmp_path / "a.pth")


def test_motion_that_unpacks_to_too_much_is_left_out(tmp_path: Path) -> None:
    """The predictions of a method are files of unknown origin, too."""
    np.savez(tmp_path / "good.npz", landmarks=np.ones((50, 68, 2)))
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("landmarks.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 68, 2)})
    tracks, (left,) = read_tracks(tmp_path)
    assert list(tracks) == ["good"] and left.id == "bomb" and "expected a whole npz archive" in left.reason
