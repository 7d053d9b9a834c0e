"""avsync extract, inspect and render: what a person at a shell gets to see."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from avsync.audio.features import SpeechFeatures
from avsync.cli import main
from avsync.corpus.clip import Clip, Corpus, write_clip, write_index
from avsync.corpus.inspect import inspect_corpus
from avsync.corpus.synthetic.talker import synthetic_clip
from avsync.errors import ArgumentError
from avsync.figures import corpus_figure, write_gif
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pretrained import save_pretrained
from tests.test_batch import talk

CONSTANT = "tests.extraction_detectors:constant"


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talks")
    for number in (1, 2):
        talk(folder / f"anna_{number}.mp4", number)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three synthetic clips of two speakers, one of them too short for four levels."""
    folder = tmp_path_factory.mktemp("corpus")
    clips = [
        synthetic_clip(speaker=speaker, clip=clip, seconds=seconds)
        for speaker, clip, seconds in ((0, 0, 2), (0, 1, 1), (100_000, 0, 3))
    ]
    write_index(folder, [write_clip(clip, folder) for clip in clips])
    return folder


def extract(*words: Any) -> int:
    return main(["extract", *map(str, words), "--detector", CONSTANT, "--min-seconds", "0.5"])


def test_extract_writes_a_corpus_and_a_report(talks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c"
    assert extract(talks, "--out", out, "--speaker-from", "name", "--split", "val") == 0
    told = capsys.readouterr()
    assert told.out.startswith("2 videos, 2.0 s: 2 clips, 2.0 s\n") and "[2/2]" in told.err
    assert Corpus(out, split="val").speakers == ("anna",)
    report = json.loads((out / "report.json").read_text())
    assert report["totals"]["clips"] == 2 and (out / "report.txt").read_text() == told.out
    assert extract(talks, "--out", out, "--speaker-from", "name") == 1
    assert "resume keeps them" in capsys.readouterr().err
    assert extract(talks, "--out", out, "--resume", "--report", tmp_path / "again.json", "--speaker-from", "name") == 0
    assert "2 videos were already finished" in capsys.readouterr().out and (tmp_path / "again.json").is_file()
    assert not (tmp_path / "again.txt").exists()  # nobody asked for it


def test_extract_fails_in_one_line_and_goes_on(talks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"")
    assert extract(tmp_path / "bad.mp4", talks, "--out", tmp_path / "c") == 1
    told = capsys.readouterr()
    assert f"{tmp_path / 'bad.mp4'}: failed: expected a media file, got an empty one" in told.out
    assert "Traceback" not in told.err and len(Corpus(tmp_path / "c")) == 2
    for words in ([tmp_path / "nowhere"], [], [talks, "--merge"]):
        assert extract(*words, "--out", tmp_path / "d") == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
    (tmp_path / "empty").mkdir()
    assert extract(tmp_path / "empty", "--out", tmp_path / "e") == 1
    assert "no video found" in capsys.readouterr().err
    for shard in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(SystemExit):
            extract(talks, "--out", tmp_path / "d", "--shard", shard)
    capsys.readouterr()


def test_extract_in_shares(talks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        assert extract(talks, "--out", tmp_path, "--shard", f"{number}/2") == 0
        assert "avsync extract --merge --out" in capsys.readouterr().err
        assert (tmp_path / f"report-{number}-of-2.json").is_file()
    assert not (tmp_path / "index.json").exists()
    assert extract("--merge", "--out", tmp_path) == 0
    assert len(Corpus(tmp_path)) == 2 and "2 videos" in capsys.readouterr().out


def test_the_bar_runs_to_its_end(
    talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    (tmp_path / "bad.mp4").write_bytes(b"")
    assert extract(talks, tmp_path / "bad.mp4", "--out", tmp_path / "c") == 1
    told = capsys.readouterr().err
    assert "3/3 videos, 1 failed: 100%" in told and "bad.mp4: failed" in told


def test_ctrl_c_is_one_line(
    talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("avsync.corpus.extraction.run_job.write_clip", interrupt)
    assert extract(talks, "--out", tmp_path / "c") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "avsync extract: interrupted; finished results are kept"
    assert not list((tmp_path / "c").glob("*.npz")) and not list((tmp_path / "c" / "extraction").iterdir())


def test_a_disk_that_is_really_full(talks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=60k", "none", disk], check=False, capture_output=True).returncode
    ):
        pytest.skip("no small file system can be mounted here")
    try:
        assert extract(talks, "--out", disk / "c") == 1
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("avsync extract: error:") and "No space left on device" in told
        names = {path.suffix for path in (disk / "c").rglob("*") if path.is_file()}
        assert names <= {".json", ".npz", ".flac"} and not list((disk / "c").rglob(".*"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_inspect_counts(corpus: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["inspect", str(corpus), "--json", "--figure", str(tmp_path / "a.png")]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["clips"] == 3 and values["minutes"] == pytest.approx(0.1) and values["speakers"] == 2
    assert values["splits"]["train"] == {"clips": 2.0, "minutes": 0.05, "speakers": 1.0}
    assert values["seconds"]["smallest"] == 1.0 and values["seconds"]["median"] == 2.0 and values["points"] == {"68 x 2": 3}
    assert 100 < values["face_height"]["median"] < 200 and 0 < values["speech_share"]["median"] <= 1
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert main(["inspect", str(corpus)]) == 0
    assert "3 clips, 0.1 minutes, 2 speakers, 25 frames per second, points x dims 68 x 2" in capsys.readouterr().out


def test_inspect_finds_offsets(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pyramid = SyncerPyramid(config=SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4)))
    save_pretrained(pyramid, tmp_path / "syncers")
    assert main(["inspect", str(corpus), "--json", "--syncers", str(tmp_path / "syncers"), "--features", "log-mel"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["clips_too_short_for_offsets"] == 1
    assert [sum(level["counts"].values()) for level in values["offsets"]] == [2, 2, 2, 2]
    assert [level["searched"] for level in values["offsets"]] == [15, 15, 8, 5]
    statistics = inspect_corpus(corpus, syncers=pyramid, features=SpeechFeatures())
    figure = corpus_figure(statistics)
    assert len(figure.axes) == 8 and "within 1 frame" in figure.axes[4].get_title()
    with pytest.raises(ArgumentError, match="`features`"):
        inspect_corpus(corpus, syncers=pyramid)


def test_inspect_names_bad_clips_and_reads_other_rates(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(corpus, tmp_path / "c")
    track = next((tmp_path / "c").glob("syn100000*.npz"))
    track.write_bytes(track.read_bytes()[:200])
    assert main(["inspect", str(tmp_path / "c")]) == 1
    told = capsys.readouterr().out
    assert "2 clips" in told and f"bad: clip '{track.stem}', {track.name}: expected a whole npz" in told
    frames = 30
    clip = Clip("a", "s", "t", np.ones((frames, 68, 2), np.float32), np.zeros(16000 * frames // 50, np.float32), fps=50.0)
    write_index(tmp_path / "d", [write_clip(clip, tmp_path / "d")], fps=50.0)
    statistics = inspect_corpus(tmp_path / "d")
    assert statistics.fps == 50 and statistics.seconds.tolist() == [0.6] and len(corpus_figure(statistics).axes) == 4
    measured = inspect_corpus(tmp_path / "d", syncers=SyncerPyramid(), features=SpeechFeatures())
    assert measured.too_short == 1 and measured.fps == 50  # 15 frames of 40 ms
    assert main(["inspect", str(tmp_path)]) == 1
    assert "expected the index of a corpus, found no file" in capsys.readouterr().err


def read(path: Path) -> tuple[list[float], list[int], int]:
    """Times of the frames, their mean brightness, and the number of sound streams."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        brightness = [round(float(frame.to_ndarray(format="rgb24").mean())) for frame in frames]
        return [frame.time for frame in frames], brightness, len(container.streams.audio)


def test_render_draws_the_clip(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = next(corpus.glob("*000_001.npz"))
    assert main(["render", str(name), "--out", str(tmp_path / "a.mp4"), "--size", "64"]) == 0
    times, brightness, sounds = read(tmp_path / "a.mp4")
    assert len(times) == 25 and times[1] == pytest.approx(0.04) and sounds == 1 and 200 < brightness[0] < 255
    words = ["--size", "64", "--start", "0.2", "--seconds", "0.4"]
    assert main(["render", str(name.with_suffix("")), "--out", str(tmp_path / "a.gif"), *words]) == 0
    times, brightness, sounds = read(tmp_path / "a.gif")
    assert times == pytest.approx([0.04 * k for k in range(10)]) and sounds == 0 and 200 < brightness[0] < 255
    capsys.readouterr()
    for words, message in (
        ([str(corpus / "nobody"), "--out", "a.mp4"], "expected CORPUS/ID or the .npz file of a clip, found neither"),
        ([str(name), "--out", "a.txt"], "expected a name that ends in .mp4 or .gif"),
        ([str(name), "--out", "a.gif", "--start", "9"], "expected a part of the clip's 1 s, got an empty part"),
    ):
        assert main(["render", *words]) == 1
        assert message in capsys.readouterr().err


def test_render_takes_clips_that_no_index_names(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in corpus.glob("*000_001.*"):
        shutil.copy(file, tmp_path)
    name = next(tmp_path.glob("*.npz"))
    assert main(["render", str(name), "--out", str(tmp_path / "a.gif"), "--size", "32"]) == 0
    name.write_bytes(b"PK not an archive")
    assert main(["render", str(name), "--out", str(tmp_path / "b.gif")]) == 1
    assert f"{name}: expected the landmarks of a clip" in capsys.readouterr().err


def test_a_gif_keeps_colours_and_time(tmp_path: Path) -> None:
    shades = [np.full((16, 20, 3), (10 * k, 200, 255 - 10 * k), np.uint8) for k in range(20)]
    ramp = np.concatenate(shades, axis=1)
    shown = [np.roll(ramp, k, axis=1) for k in range(30)]
    assert write_gif(tmp_path / "a.gif", iter(shown), fps=30) == 30
    with av.open(str(tmp_path / "a.gif")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 30
    for frame, expected in zip(frames, shown, strict=True):
        assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - expected).max() <= 1
    assert [frame.time for frame in frames] == pytest.approx([k / 30 for k in range(30)], abs=0.0051)
    with pytest.raises(ArgumentError, match="`fps`: expected at most 50"):
        write_gif(tmp_path / "b.gif", [ramp], fps=60)
    with pytest.raises(ArgumentError, match="`frames`: expected at least one"):
        write_gif(tmp_path / "b.gif", [], fps=25)
    assert not (tmp_path / "b.gif").exists()


@pytest.mark.parametrize("command", [["inspect", "corpus"], ["evaluate", "--refs", "corpus"], ["doctor", "corpus"]])
def test_commands_that_use_no_calibration_do_not_take_one(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--calibration", "x.json"])
    assert stop.value.code == 2
    assert "--calibration" in capsys.readouterr().err
