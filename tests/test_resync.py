"""Shifting the sound of a video: by the right amount, to the right side, in every container, and nothing else changed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from avsync.corpus.media.audio_source import AudioSource
from avsync.corpus.media.files import write_video
from avsync.corpus.media.video_source import VideoSource
from avsync.errors import ArgumentError, CorpusError
from avsync.evaluation.resync import default_output, ffmpeg_command, shift_audio
from tests.media_samples import flash_click_video

ENCODED = ("avi",)


def flashes_and_clicks(path: Path) -> tuple[list[float], list[float]]:
    """Times of the white pictures and of the clicks, to the sample of 16 kHz."""
    with VideoSource(path) as video, AudioSource(path) as sound:
        flashes = [frame.time for frame in video.frames() if frame.image.mean() > 127]
        waveform = sound.read(0.0, 64000).astype(np.float64)
    clicks: list[float] = []
    waveform /= waveform.max()
    while waveform.max() > 0.5:
        at = int(waveform.argmax())
        clicks.append(at / 16000)
        waveform[max(0, at - 1600) : at + 1600] = 0.0
    return flashes, sorted(clicks)


def lateness(path: Path) -> list[float]:
    flashes, clicks = flashes_and_clicks(path)
    assert len(flashes) == len(clicks) > 0
    return [click - flash for flash, click in zip(flashes, clicks, strict=True)]


@pytest.mark.parametrize(
    ("container", "options"),
    [
        ("mp4", {"b_frames": 2, "fps": 29.97}),
        ("mov", {}),
        ("mkv", {"b_frames": 2}),
        ("webm", {}),
        ("avi", {"layout": "stereo", "sample_rate": 44100}),
        ("avi", {"audio_codec": "libmp3lame"}),
        ("mpg", {}),
        ("ts", {}),
    ],
)
def test_the_shift_is_what_was_asked_for(tmp_path: Path, container: str, options: dict[str, Any]) -> None:
    source = tmp_path / f"a.{container}"
    flash_click_video(source, container=container, seconds=2.4, flashes=(0.8, 1.6), **options)
    before = lateness(source)
    for seconds in (0.12, -0.16):
        out = tmp_path / f"b{seconds}.{container}"
        done = shift_audio(source, out, seconds=seconds)
        assert (done.path, done.seconds, done.encoded, done.left_out) == (out, seconds, container in ENCODED, ())
        # Matroska has whole milliseconds.
        tolerance = 0.0011 if container in ("mkv", "webm") else 0.0001
        np.testing.assert_allclose(np.array(lateness(out)) - before, seconds, atol=tolerance)
        with VideoSource(source) as left, VideoSource(out) as right:
            assert len(list(left.frames())) == len(list(right.frames()))


def test_there_and_back_again(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    flash_click_video(source, seconds=2.4, flashes=(0.8, 1.6), audio_start=0.2)
    shift_audio(source, tmp_path / "b.mp4", seconds=0.3)
    shift_audio(tmp_path / "b.mp4", tmp_path / "c.mp4", seconds=-0.3)
    np.testing.assert_allclose(lateness(tmp_path / "c.mp4"), lateness(source), atol=1e-4)


def test_everything_else_is_kept(tmp_path: Path) -> None:
    """Turned pictures, a second sound, an attachment, chapters, names."""
    turned = tmp_path / "turned.mp4"
    flash_click_video(turned, rotation=90, seconds=2.0, flashes=(0.8, 1.2))
    shift_audio(turned, tmp_path / "turned.b.mp4", seconds=0.2)
    with VideoSource(turned) as left, VideoSource(tmp_path / "turned.b.mp4") as right:
        assert left.info.rotation == right.info.rotation == 90

    source, rich = tmp_path / "a.mp4", tmp_path / "rich.mkv"
    flash_click_video(source, seconds=2.0, flashes=(0.8, 1.2))
    with av.open(str(source)) as reader, av.open(str(rich), "w") as writer:
        video, sound = reader.streams.video[0], reader.streams.audio[0]
        made = [writer.add_stream_from_template(stream) for stream in (video, sound, sound)]
        made[1].metadata["language"], made[2].metadata["language"] = "eng", "fra"
        writer.add_attachment("note.txt", "text/plain", b"hello")
        writer.metadata["title"] = "Tale"
        writer.set_chapters([{"id": 1, "start": 0, "end": 1000, "time_base": video.time_base, "metadata": {"title": "one"}}])
        for packet in reader.demux(video, sound):
            if packet.size:
                data, times = bytes(packet), (packet.pts, packet.dts, packet.duration, packet.time_base, packet.is_keyframe)
                for target in made[:1] if packet.stream.type == "video" else made[1:]:
                    copy = av.Packet(data)
                    copy.pts, copy.dts, copy.duration, copy.time_base, copy.is_keyframe = times
                    copy.stream = target
                    writer.mux(copy)
    done = shift_audio(rich, tmp_path / "rich.b.mkv", seconds=0.2)
    assert done.left_out == () and not done.encoded

    def facts(path: Path) -> dict[str, Any]:
        with av.open(str(path)) as container:
            return {
                "types": [stream.type for stream in container.streams],
                "languages": [stream.metadata.get("language") for stream in container.streams.audio],
                "title": container.metadata.get("title"),
                "chapters": [chapter["metadata"]["title"] for chapter in container.chapters()],
                "pictures": [bytes(packet) for packet in container.demux(video=0) if packet.size],
            }

    assert facts(tmp_path / "rich.b.mkv") == facts(rich)
    with av.open(str(rich)) as before, av.open(str(tmp_path / "rich.b.mkv")) as after:
        for left, right in zip(before.streams.audio, after.streams.audio, strict=True):
            assert right.start_time - left.start_time == pytest.approx(200, abs=25)


def test_the_command_of_ffmpeg(tmp_path: Path) -> None:
    assert default_output("a b/talk.mp4") == Path("a b/talk.synced.mp4")
    assert ffmpeg_command("-a b.mp4", "o.mp4", -0.16) == (
        "ffmpeg -i './-a b.mp4' -map 0 -c copy -bsf:a setts=pts=PTS-0.16/TB:dts=DTS-0.16/TB o.mp4"
    )
    assert " -dn " in ffmpeg_command("a.mp4", "o.mp4", 0.1, data=False)
    assert "-af adelay=120:all=1 o.avi" in ffmpeg_command("a.avi", "o.avi", 0.12, encode=True)
    assert "-af atrim=start=0.16,asetpts=PTS-STARTPTS o.avi" in ffmpeg_command("a.avi", "o.avi", -0.16, encode=True)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_ffmpeg_does_the_same(tmp_path: Path) -> None:
    source, out = tmp_path / "a.mp4", tmp_path / "b.mp4"
    flash_click_video(source, seconds=2.4, flashes=(0.8, 1.6))
    subprocess.run(ffmpeg_command(source, out, 0.12), shell=True, check=True, capture_output=True)
    # ffmpeg writes when a stream of an MP4 starts in whole milliseconds, rounded down (its -movie_timescale is 1000 by default);
    # clicks are found to the sample.
    error, sample = np.array(lateness(out)) - lateness(source) - 0.12, 1 / 16000
    assert (error > -0.001 - sample).all() and (error < sample).all(), error


def test_bad_input(tmp_path: Path) -> None:
    source, silent, broken = tmp_path / "a.mp4", tmp_path / "silent.mp4", tmp_path / "broken.mp4"
    flash_click_video(source, seconds=1.2, flashes=(0.8,))
    write_video(silent, (np.zeros((64, 64, 3), np.uint8) for _ in range(9)), fps=25)
    broken.write_bytes(source.read_bytes()[:200])
    out = tmp_path / "out.mp4"
    for path, message in ((tmp_path / "no.mp4", "found no file"), (silent, "no audio stream"), (broken, "readable video")):
        with pytest.raises(CorpusError, match=message):
            shift_audio(path, out, seconds=0.1)
    with pytest.raises(ArgumentError, match="`out`: expected a file other than the inputs"):
        shift_audio(source, source, seconds=0.1)
    with pytest.raises(ArgumentError, match="`seconds`: expected a finite number, got nan"):
        shift_audio(source, out, seconds=float("nan"))
    for name in ("out.webm", "out.nonsense"):
        with pytest.raises(ArgumentError, match="`out`: expected a container that holds the streams"):
            shift_audio(source, tmp_path / name, seconds=0.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "broken.mp4", "silent.mp4"]
