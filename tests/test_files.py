"""The gate for files of unknown origin, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from avsync import _files
from avsync.errors import CheckpointError, CorpusError


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
