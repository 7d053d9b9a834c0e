"""Many videos to one corpus: named, shared out, interrupted at any moment, resumed, and nothing half-written ever read."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsync.corpus.clip import Clip, Corpus, read_clip, write_clip, write_index
from avsync.corpus.extraction import records as extraction_records
from avsync.corpus.extraction import run_job
from avsync.corpus.extraction.batch import Progress, extract_corpus
from avsync.corpus.extraction.jobs import Job, find_videos, plan, speaker_of, video_key
from avsync.corpus.extraction.records import finished, merge_records, read_record
from avsync.corpus.extraction.report import VideoReport
from avsync.corpus.media.files import write_video
from avsync.errors import ArgumentError, CorpusError, MissingExtraError
from tests.extraction_detectors import Counting, constant, visible

SHORT: dict[str, Any] = {"min_seconds": 0.8}
ROOT = Path(__file__).parents[1]


def talk(path: Path, number: int = 0, images: int = 25) -> Path:
    """A video of a picture of its own for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((48, 64, 3), 255, np.uint8)
    if number:
        blots = np.random.default_rng(number).integers(0, 200, (6, 8, 3))
        picture = np.repeat(np.repeat(blots, 8, axis=0), 8, axis=1).astype(np.uint8)
    sound = np.random.default_rng(number).uniform(-0.1, 0.1, 640 * images).astype(np.float32)
    write_video(path, (picture for _ in range(images)), fps=25, waveform=sound)
    return path


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of a second or two, of three people."""
    folder = tmp_path_factory.mktemp("talks")
    for number, name in enumerate(["anna/1.mp4", "anna/2.mp4", "ben/1.mp4", "ben/x/3.mp4", "carl_4.mp4"]):
        talk(folder / name, number + 1, images=25 + 5 * number)
    (folder / "notes.txt").write_text("not a video")
    (folder / ".hidden.mp4").write_bytes(b"")
    return folder


class Listening(Progress):
    def __init__(self) -> None:
        self.size, self.passed, self.lines, self.ended = 0, 0, [], False  # type: ignore[var-annotated]

    def begin(self, videos: int, size: int) -> None:
        self.size = size

    def advance(self, size: int) -> None:
        self.passed += size

    def finish_video(self, report: VideoReport) -> None:
        self.lines.append(report.line())

    def end(self) -> None:
        self.ended = True


def content(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Every clip by its id: all that a reader gets to see."""
    return {
        clip.id: (clip.speaker, clip.split, clip.landmarks.tobytes(), clip.waveform.tobytes(), clip.frame_size)
        for clip in Corpus(folder)
    }


def test_a_folder_becomes_a_corpus(talks: Path, tmp_path: Path) -> None:
    progress = Listening()
    report = extract_corpus([talks], tmp_path / "c", detector=constant, speaker_from="folder", progress=progress, **SHORT)
    assert [len(video.clips) for video in report.videos] == [1] * 5 and not report.failed
    assert [Path(path).name for path in report.ignored] == ["notes.txt"]
    corpus = Corpus(tmp_path / "c", split="train")
    assert len(corpus) == 5 and {"anna", "ben"} < set(corpus.speakers)
    entry = next(entry for entry in corpus.entries if entry["source"] == "3.mp4")
    assert entry["frames"] == 40 and entry["native_fps"] == 25.0 and entry["face_height_px"] == 20.0
    assert entry["native_resolution"] == [64, 48] and entry["started"] == "start of video"
    assert progress.passed == progress.size and len(progress.lines) == 5 and progress.ended
    index = json.loads((tmp_path / "c" / "index.json").read_text())
    assert index["extraction"]["min_seconds"] == 0.8 and index["extraction"]["max_seconds"] == 32.0
    values = json.loads(json.dumps(report.to_json()))
    assert values["totals"]["clips"] == 5 and values["totals"]["seconds_in_clips"] == pytest.approx(7.0)
    assert report.summary().startswith("5 videos, 7.0 s: 5 clips, 7.0 s")


def test_a_video_that_fails_stops_nobody_and_is_tried_again(talks: Path, tmp_path: Path) -> None:
    broken = tmp_path / "b" / "broken.mp4"
    broken.parent.mkdir()
    broken.write_bytes(b"nothing of the kind" * 100)
    options: dict[str, Any] = {"detector": constant, **SHORT}
    report = extract_corpus([talks / "anna", broken], tmp_path / "c", **options)
    [failed] = report.failed
    assert (
        failed.source == str(broken)
        and failed.line().startswith(f"{broken}: failed: expected")
        and len(Corpus(tmp_path / "c")) == 2
    )
    assert f"{broken}: failed" in report.summary()
    talk(broken, 9)
    report = extract_corpus([talks / "anna", broken], tmp_path / "c", resume=True, **options)
    # Other bytes are another video: it has taken the place of the one that failed.
    assert not report.failed and len(Corpus(tmp_path / "c")) == 3 and len(report.kept) == 2


def test_a_detector_with_a_bug_fails_its_video_only(talks: Path, tmp_path: Path) -> None:
    detector, calls = Counting(), []

    def stumble(batch: int) -> None:
        calls.append(batch)
        if len(calls) == 1:
            raise KeyError("mouth")

    detector.at = stumble
    report = extract_corpus([talks / "anna"], tmp_path / "c", detector=detector, **SHORT)
    [failed] = report.failed
    assert "KeyError: 'mouth'" in failed.error and len(Corpus(tmp_path / "c")) == 1


def test_resume_keeps_what_is_finished_and_brings_labels_up_to_date(talks: Path, tmp_path: Path) -> None:
    detector, out = Counting(), tmp_path / "c"
    extract_corpus([talks / "anna"], out, detector=detector, **SHORT)
    seen = detector.images
    assert seen == 55
    with pytest.raises(ArgumentError, match=r"2 of the videos are already in .* resume keeps them"):
        extract_corpus([talks], out, detector=detector, **SHORT)
    report = extract_corpus([talks], out, detector=detector, resume=True, speaker_from="folder", split="val", **SHORT)
    assert detector.images - seen == 35 + 40 + 45 and len(report.kept) == 2 and len(report.videos) == 5
    assert {entry["split"] for entry in Corpus(out).entries} == {"val"} and "anna" in Corpus(out).speakers
    # A clip that went missing is made again.
    next(out.glob("1-*.flac")).unlink()
    before = detector.images
    extract_corpus([talks], out, detector=detector, resume=True, **SHORT)
    assert detector.images - before in (25, 35) and len(Corpus(out)) == 5


def test_interruption_leaves_the_finished_and_nothing_of_the_rest(talks: Path, tmp_path: Path) -> None:
    detector, out = Counting(), tmp_path / "c"

    def interrupt(batch: int) -> None:
        if batch == 6:
            raise KeyboardInterrupt

    detector.at = interrupt
    with pytest.raises(KeyboardInterrupt):
        extract_corpus([talks / "anna"], out, detector=detector, **SHORT)
    records = list((out / "extraction").iterdir())
    assert len(records) == 1 and records[0].suffix == ".json"
    job, report, _ = read_record(records[0])
    assert (
        visible(out) == {"extraction", "extraction.json", f"{job.key}_000.npz", f"{job.key}_000.flac"}
        and report.status == "done"
    )
    detector.at = None
    extract_corpus([talks / "anna"], out, detector=detector, resume=True, **SHORT)
    assert len(Corpus(out)) == 2


@pytest.mark.parametrize("fails", ["write_clip", "write_record"])
def test_a_full_disk_ends_the_run_and_leaves_it_clean(
    talks: Path, tmp_path: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "c", []
    owner: Any = run_job if fails == "write_clip" else extraction_records
    real: Callable[..., Any] = getattr(owner, fails)

    def full(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) < 2:
            return real(*args, **options)
        (out / f".{plan_of(talks)[1].key}_000-0123abcd-{os.getpid()}-abc.npz").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(owner, fails, full)
    with pytest.raises(OSError, match="No space left"):
        extract_corpus([talks / "anna"], out, detector=constant, **SHORT)
    first, second = plan_of(talks / "anna")
    assert {path.name for path in out.iterdir()} >= {f"{first.key}_000.npz", f"{first.key}_000.flac"}
    assert not any(second.key in path.name for path in [*out.iterdir(), *(out / "extraction").iterdir()])
    monkeypatch.undo()
    extract_corpus([talks / "anna"], out, detector=constant, resume=True, **SHORT)
    assert len(Corpus(out)) == 2


def plan_of(folder: Path) -> list[Job]:
    return plan(find_videos([folder])[0], speaker_from="file", split="train", shard=(1, 1))[0]


def kill_this_process_at_rename(number: int, *, behind: bool) -> None:
    """Let this process kill itself before or after its ``number``-th rename of a finished file."""
    left, original = [number], Path.replace

    def replace(path: Path, target: Any) -> Path:
        left[0] -= 1
        if left[0] == 0 and not behind:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(path, target)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Path.replace = replace  # type: ignore[method-assign]


def test_killed_at_random_places_it_ends_as_if_undisturbed(talks: Path, tmp_path: Path) -> None:
    extract_corpus([talks], tmp_path / "calm", detector=constant, **SHORT)
    out = tmp_path / "c"
    draw = random.Random(0)
    kills = 0
    for attempt in range(12):
        # Whatever is finished by now, two videos need work, as their records are gone.
        for job in draw.sample(plan_of(talks), 2):
            (out / "extraction" / f"{job.key}.json").unlink(missing_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads; the child is killed in a moment
            child = os.fork()
        if child == 0:
            try:
                kill_this_process_at_rename(1 + attempt % 6, behind=attempt % 2 == 1)
                extract_corpus([talks], out, detector=constant, resume=True, **SHORT)
            finally:
                os._exit(0)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        for job in plan_of(talks):
            report = finished(out, job)
            for clip in report.clips if report is not None else []:  # what counts as finished can be read
                read_clip(out, {"id": clip.id, "frames": clip.frames, "speaker": "s", "split": "t"})
        if (out / "index.json").is_file():
            list(Corpus(out))
    assert kills >= 8
    extract_corpus([talks], out, detector=constant, resume=True, **SHORT)
    assert content(out) == content(tmp_path / "calm")
    assert not list((out / "extraction").glob("*.begun"))


def test_files_of_a_video_are_removed_and_no_others(tmp_path: Path) -> None:
    """A name may continue the key of another video: talk.mp4 and talk-0a1b2c3d.mp4."""
    mine = ["talk-0a1b2c3d_000.npz", "talk-0a1b2c3d_1000.flac", ".talk-0a1b2c3d_000-89abcdef-12-x_y.npz"]
    others = ["talk-0a1b2c3d-89abcdef_000.npz", ".talk-0a1b2c3d-89abcdef_000-89abcdef-12-xy.npz", "talk-0a1b2c3e_000.npz"]
    (tmp_path / "extraction").mkdir()
    for name in [*mine, *others, "extraction/talk-0a1b2c3d.json", "extraction/.talk-0a1b2c3d-89abcdef-12-xy.json"]:
        (tmp_path / name).touch()
    extraction_records.remove_unfinished(tmp_path, "talk-0a1b2c3d")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(others)


def test_shares_of_machines_have_nothing_in_common_and_merge_to_the_whole(talks: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    done: list[str] = []
    for number in (3, 1, 2):
        report = extract_corpus([talks], out, detector=constant, shard=(number, 3), **SHORT)
        done += [video.source for video in report.videos]
        assert not (out / "index.json").exists()
    assert len(done) == len(set(done)) == 5
    assert len(merge_records(out)) == 5
    extract_corpus([talks], tmp_path / "whole", detector=constant, **SHORT)
    assert content(out) == content(tmp_path / "whole")
    with pytest.raises(ArgumentError, match="`shard`"):
        extract_corpus([talks], out, detector=constant, shard=(4, 3), **SHORT)


def test_what_later_steps_noted_of_a_clip_outlives_a_merge(talks: Path, tmp_path: Path) -> None:
    extract_corpus([talks / "anna"], tmp_path, detector=constant, **SHORT)
    index = json.loads((tmp_path / "index.json").read_text())
    index["clips"][0]["av_shift_ms"] = 40.0
    (tmp_path / "index.json").write_text(json.dumps(index))
    merge_records(tmp_path)
    assert [entry.get("av_shift_ms") for entry in Corpus(tmp_path).entries] == [40.0, None]


def test_workers_do_the_same_and_one_that_dies_takes_its_video_only(talks: Path, tmp_path: Path) -> None:
    videos = [talk(tmp_path / "v" / "white.mp4", 0), talks / "anna", talks / "ben"]
    progress = Listening()
    options: dict[str, Any] = {"detector": "tests.extraction_detectors:deadly", "progress": progress, **SHORT}
    report = extract_corpus(videos, tmp_path / "c", workers=2, **options)
    [failed] = report.failed
    assert Path(failed.source).name == "white.mp4" and "was killed or crashed" in failed.error
    extract_corpus([talks / "anna", talks / "ben"], tmp_path / "one", detector="tests.extraction_detectors:deadly", **SHORT)
    assert content(tmp_path / "c") == content(tmp_path / "one") and len(Corpus(tmp_path / "c")) == 4
    assert progress.passed == progress.size and len(progress.lines) == 5


def environment(mark: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "AVSYNC_TEST_MARK": str(mark)}


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the states of processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_their_parent_although_their_detector_hangs(
    number: signal.Signals, talks: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    mark.mkdir()
    detector = ["--detector", "tests.extraction_detectors:endless", "--workers", "2", "--min-seconds", "0.8"]
    command = [sys.executable, "-m", "avsync", "extract", str(talks), "--out", str(tmp_path / "c"), *detector]
    parent = subprocess.Popen(command, env=environment(mark), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(workers := [int(path.name) for path in mark.iterdir()]) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(number)
    assert parent.wait(120) != 0
    polls = 2400
    while any(map(is_running, workers)):
        assert (polls := polls - 1), "a worker stays"
        time.sleep(0.05)
    left = [path.suffix for path in (tmp_path / "c" / "extraction").iterdir()]
    assert left == ([] if number == signal.SIGINT else [".begun", ".begun"])
    report = extract_corpus([talks], tmp_path / "d", detector=constant, resume=True, **SHORT)
    assert len(report.videos) == 5


def test_wrong_engines(tmp_path: Path, talks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="`engine`: expected one of 'processes', 'ray', got 'slurm'"):
        extract_corpus([talks], tmp_path, engine="slurm")
    with pytest.raises(ArgumentError, match="`gpus`: expected 0 without the engine 'ray', got 1"):
        extract_corpus([talks], tmp_path, gpus=1)
    if importlib.util.find_spec("ray") is None:
        with pytest.raises(MissingExtraError, match=r"avsync\[ray\]"):
            extract_corpus([talks], tmp_path / "c", detector=constant, engine="ray")


def test_folders_of_other_making_and_other_settings_are_refused(talks: Path, tmp_path: Path) -> None:
    clip = Clip("a", "anna", "train", np.ones((2, 68, 2), np.float32), np.zeros(1280, np.float32))
    write_index(tmp_path / "other", [write_clip(clip, tmp_path / "other")])
    with pytest.raises(ArgumentError, match=r"index\.json of other making"):
        extract_corpus([talks], tmp_path / "other", detector=constant)
    with pytest.raises(CorpusError, match="expected the settings of an extraction, found no file"):
        merge_records(tmp_path / "other")
    extract_corpus([talks / "anna"], tmp_path / "c", detector=constant, **SHORT)
    with pytest.raises(ArgumentError, match=r"begun with other settings: min_seconds = 0\.8, not 1\.0"):
        extract_corpus([talks], tmp_path / "c", detector=constant, min_seconds=1.0)
    with pytest.raises(ArgumentError, match=r"`options`: expected some of fps, .* got colour"):
        extract_corpus([talks], tmp_path / "d", detector=constant, colour=1)
    with pytest.raises(ArgumentError, match=r"`videos`: expected files or folders, got .*nowhere"):
        extract_corpus([talks / "nowhere"], tmp_path / "d", detector=constant)
    assert not (tmp_path / "d").exists()


def test_a_damaged_record_is_named_by_merge_and_done_again_by_resume(talks: Path, tmp_path: Path) -> None:
    detector = Counting()
    extract_corpus([talks / "anna"], tmp_path, detector=detector, **SHORT)
    record = min((tmp_path / "extraction").glob("*.json"))
    record.write_text(record.read_text()[:100])
    with pytest.raises(CorpusError, match=rf"{record.name}: expected the record of a video"):
        merge_records(tmp_path)
    before = detector.images
    extract_corpus([talks / "anna"], tmp_path, detector=detector, resume=True, **SHORT)
    assert detector.images - before in (25, 30) and len(Corpus(tmp_path)) == 2


def test_keys_names_and_duplicates(talks: Path, tmp_path: Path) -> None:
    same = tmp_path / "copy" / "1.mp4"
    same.parent.mkdir()
    same.write_bytes((talks / "anna" / "1.mp4").read_bytes())
    assert video_key(same) == video_key(talks / "anna" / "1.mp4") != video_key(talks / "ben" / "1.mp4")
    videos, ignored = find_videos([talks, same, talks / "carl_4.mp4", talks / "anna"])
    assert len(videos) == 6 and [path.name for path in ignored] == ["notes.txt"]
    jobs, duplicates = plan(videos, speaker_from="file", split="train", shard=(1, 1))
    assert len(jobs) == 5 and len(duplicates) == 1 and set(duplicates[0]) == {str(same), str(talks / "anna" / "1.mp4")}
    strange = talk(tmp_path / "čeština (1): ключ?.mp4", 3)
    [job] = plan(find_videos([strange])[0], speaker_from="name", split="t", shard=(1, 1))[0]
    report = extract_corpus([strange], tmp_path / "c", detector=constant, **SHORT)
    assert not report.failed and Corpus(tmp_path / "c")[0].id == f"{job.key}_000"


def test_speakers_by_rule() -> None:
    path, root = Path("/data/vox/id7/x/12_a_b.mp4"), Path("/data/vox")
    assert [speaker_of(path, root, rule, "key") for rule in ("file", "name", "folder")] == ["key", "12", "id7"]
    assert speaker_of(path, path.parent, "folder", "key") == "x"
    with pytest.raises(ArgumentError, match="`speaker_from`"):
        speaker_of(path, root, "guess", "key")


def test_progress_of_a_share_never_runs_backwards() -> None:
    moves: list[int] = []
    passed = run_job.Passed(200, moves.append)
    shares: Iterator[float] = iter((0.1, 0.05, 0.5, 0.5, 1.0))
    for share in shares:
        passed(share)
    assert moves == [20, 80, 100]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_that_ends_a_run_is_not_hidden_by_its_clean_up(
    talks: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The corpus' folder vanishes: the error names what could not be written, not what could not be removed."""
    if workers == 1:
        real = extraction_records.remove_unfinished
        calls = []

        def removing(out: Path, key: str) -> None:
            calls.append(key)
            if len(calls) > 1:
                raise PermissionError(errno.EACCES, "clean-up")
            real(out, key)

        monkeypatch.setattr(extraction_records, "remove_unfinished", removing)
        monkeypatch.setattr(run_job, "write_clip", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "the real reason")))
        extraction_records.begin(tmp_path, Job(key="x", path="x", speaker="x", split="x", size=0))
        with pytest.raises(OSError, match="the real reason"):
            extract_corpus([talks], tmp_path / "c", detector=constant, **SHORT)
    else:
        refuse = PermissionError(errno.EACCES, "clean-up")
        monkeypatch.setattr(extraction_records, "remove_unfinished", lambda *_: (_ for _ in ()).throw(refuse))
        detector = "tests.extraction_detectors:detector_that_is_not_there"
        with pytest.raises(ArgumentError, match="detector_that_is_not_there"):
            extract_corpus([talks], tmp_path / "c", detector=detector, workers=2)


def test_unusual_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colons, names that are no UTF-8, links to folders (in a circle, too) and pipes: all are extracted or named, nothing hangs."""
    folder = tmp_path / "in"
    talk(folder / "interview: part 1.mp4", 1)
    raw = os.fsdecode(b"caf\xe9 \xff.mp4")
    talk(tmp_path / "plain.mp4", 2).rename(folder / raw)
    talk(tmp_path / "elsewhere" / "linked.mp4", 3)
    (folder / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    os.mkfifo(folder / "pipe.mp4")
    monkeypatch.chdir(folder)
    report = extract_corpus(["."], tmp_path / "c", detector=constant, **SHORT)
    assert [Path(path).name for path in report.ignored] == ["pipe.mp4"] and not report.failed
    assert len(Corpus(tmp_path / "c")) == 3
    report.summary().encode()
    assert sorted(entry["source"] for entry in Corpus(tmp_path / "c").entries) == sorted(
        ["interview: part 1.mp4", raw, "linked.mp4"]
    )
    [only] = extract_corpus(["interview: part 1.mp4"], tmp_path / "d", detector=constant, **SHORT).videos
    assert len(only.clips) == 1
    write_video("a: b.mp4", [np.zeros((8, 8, 3), np.uint8)], fps=25)
    assert Path("a: b.mp4").stat().st_size > 0
    [failed] = extract_corpus([folder / "pipe.mp4"], tmp_path / "e", detector=constant, **SHORT).failed
    assert "expected a media file" in failed.error
