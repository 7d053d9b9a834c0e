"""Jobs of an extraction: videos, their names in the corpus, and the shard of each video.

The key of a video is its name and a digest of its bytes. The key is therefore the same on every machine and for every path of
the file, and clips of two videos never have the same name.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avsync._checks import check_choice, check_path
from avsync._files import check_regular
from avsync.errors import ArgumentError

SPEAKER_FROM = ("file", "name", "folder")
SUFFIXES = frozenset(
    [
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".dv",
        ".f4v",
        ".flv",
        ".gif",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogv",
        ".qt",
        ".rm",
        ".rmvb",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
        ".y4m",
    ]
)
"""Suffixes of videos in a folder; a file that is passed explicitly is always accepted."""

_SAMPLE = 65536  # bytes hashed at the beginning, the middle and the end of a file


@dataclass(frozen=True, kw_only=True)
class Job:
    """Video to extract.

    Attributes:
        key: Name of the video in the corpus; its clips are ``<key>_000``, ``<key>_001``, ...
        path: Path of the video.
        speaker: Label of the person in the video.
        split: Label of the split.
        size: Size of the file, in bytes.
    """

    key: str
    path: str
    speaker: str
    split: str
    size: int


def slug(name: str) -> str:
    """Return a valid prefix for clip ids: letters, digits and ``_ . + -``, at most 80 bytes.

    Example:
        >>> slug("My talk (final).cut"), slug("***")
        ('My-talk-final-.cut', 'video')

    Source: ours.
    """
    plain = re.sub(r"[^\w.+]+", "-", unicodedata.normalize("NFC", name)).lstrip("-.+")
    return plain.encode()[:80].decode(errors="ignore") or "video"


def video_key(path: str | os.PathLike[str]) -> str:
    """Return the key of a video: its name without suffix, and eight hexadecimal digits from its size and bytes.

    Only the first, middle and last 64 KiB of a large file are read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a b.mp4").write_bytes(b"not a video")
        ...     video_key(Path(folder, "a b.mp4"))
        'a-b-b496c7b5'

    Source: ours.
    """
    digest = hashlib.sha256()
    check_regular(path)  # reading a FIFO would block
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(str(size).encode())
        for start in sorted({0, max(0, (size - _SAMPLE) // 2), max(0, size - _SAMPLE)}):
            file.seek(start)
            digest.update(file.read(_SAMPLE))
    return f"{slug(Path(path).stem)}-{digest.hexdigest()[:8]}"


def find_videos(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """Return the videos among files and folders.

    Args:
        paths: Files and folders. Files are always accepted. Folders are searched recursively for regular files with one of
            ``SUFFIXES``. Links to folders are followed, each folder once. Hidden files and folders are ignored.

    Returns:
        Pairs (file, folder from ``paths`` that contains it) of all videos, sorted by path, each file once; and the other files
        of the folders.

    Raises:
        ArgumentError: A path does not exist, or ``paths`` is a single path.

    Source: ours.
    """
    if isinstance(paths, str | bytes | os.PathLike) or not isinstance(paths, Iterable) or hasattr(paths, "shape"):
        raise ArgumentError(f"`videos`: expected a list of files and folders, got {paths!r}")
    found: dict[Path, tuple[Path, Path]] = {}
    visited: set[str] = set()
    ignored: list[Path] = []
    for path in (Path(check_path("videos", path)) for path in paths):
        if path.is_dir():
            for folder, folders, names in os.walk(path, followlinks=True):
                place = os.path.realpath(folder)
                if place in visited:  # links may form a cycle
                    folders[:] = []
                    continue
                visited.add(place)
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in sorted(names):
                    file = Path(folder, name)
                    if name.startswith("."):
                        continue
                    if file.suffix.lower() in SUFFIXES and file.is_file():
                        found.setdefault(file.resolve(), (file, path))
                    else:
                        ignored.append(file)
        elif path.exists():
            found.setdefault(path.resolve(), (path, path.parent))
        else:
            raise ArgumentError(f"`videos`: expected files or folders, got {os.fspath(path)!r}, which does not exist")
    return sorted(found.values()), ignored


def speaker_of(path: Path, root: Path, rule: str, key: str) -> str:
    """Return the label of the person in a video.

    Args:
        path: Path of the video.
        root: Folder that was searched.
        rule: "file" (a separate person per video, labelled with the key), "name" (the file name up to the first underscore) or
            "folder" (the first folder below ``root`` on the path to the video, or the parent folder if there is none).
        key: Key of the video.

    Example:
        >>> speaker_of(Path("vox/id7/x/1_a.mp4"), Path("vox"), "folder", "1_a-00000000")
        'id7'

    Raises:
        ArgumentError: ``rule`` is unknown.

    Source: ours.
    """
    check_choice("speaker_from", rule, SPEAKER_FROM)
    if rule == "name":
        return path.stem.split("_")[0] or path.stem
    if rule == "folder":
        between = path.resolve().relative_to(root.resolve()).parts if path.resolve().is_relative_to(root.resolve()) else ()
        return between[0] if len(between) > 1 else path.resolve().parent.name or key
    return key


def plan(
    videos: Sequence[tuple[Path, Path]], *, speaker_from: str, split: str, shard: tuple[int, int]
) -> tuple[list[Job], list[tuple[str, str]]]:
    """Return the jobs of one shard, and the duplicates as pairs (file, other file with the same video).

    All shards need the same ``videos``, because every shard numbers the whole list. Two shards have no key in common.
    """
    if not isinstance(shard, tuple) or len(shard) != 2 or not all(type(number) is int for number in shard):
        raise ArgumentError(f"`shard`: expected (i, n) with 1 <= i <= n, got {shard!r:.100}")
    number, count = shard
    if not 1 <= number <= count:
        raise ArgumentError(f"`shard`: expected (i, n) with 1 <= i <= n, got {shard}")
    jobs: dict[str, Job] = {}
    duplicates: list[tuple[str, str]] = []
    for path, root in videos:
        try:
            key, size = video_key(path), path.stat().st_size
        except OSError:  # unreadable: the job reports the error with the name of the video
            key, size = f"{slug(path.stem)}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}", 0
        if key in jobs:
            duplicates.append((str(path), jobs[key].path))
            continue
        speaker = speaker_of(path, root, speaker_from, key)
        jobs[key] = Job(key=key, path=str(path), speaker=speaker, split=split, size=size)
    mine = sorted(jobs)[number - 1 :: count]
    return [jobs[key] for key in mine], duplicates
