"""Frames of any video: at their times, upright, in the right colours, and in spite of damage."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from avsync.corpus.media.video_source import VideoSource
from avsync.errors import ArgumentError, CorpusError
from tests.media_samples import flash_click_video, picture_time, read_picture, set_display_matrix

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (230, 230, 230))


def quarters(width: int = 64, height: int = 48) -> npt.NDArray[np.uint8]:
    """Red, green, blue and white from the top left in reading order."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = COLOURS[0], COLOURS[1]
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = COLOURS[2], COLOURS[3]
    return image


def corners(image: npt.NDArray[np.uint8]) -> list[tuple[int, ...]]:
    high, wide = image.shape[0] // 4, image.shape[1] // 4
    return [tuple(int(v) for v in image[y, x]) for y in (high, 3 * high) for x in (wide, 3 * wide)]


def write(
    path: Path,
    *,
    codec: str = "mjpeg",
    pixel_format: str = "yuvj420p",
    times: Sequence[int] = (0, 40, 80),
    image: npt.NDArray[np.uint8] | None = None,
    muxer: str | None = "matroska",
    **settings: Any,
) -> Path:
    """One picture again and again at the given milliseconds, in the given order."""
    image = quarters() if image is None else image
    with av.open(str(path), "w", format=muxer) as output:
        stream = output.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], pixel_format
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.max_b_frames = 0
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        packets = []
        for index in range(len(times)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = 40 * index, Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for index, packet in enumerate(packets):
            # Matroska keeps the presentation time only, so the order of decoding is free.
            packet.pts, packet.dts, packet.time_base = times[index], min(index, *times), Fraction(1, 1000)
            if muxer == "matroska":
                packet.dts = min(times) - len(times) + index
            output.mux(packet)
    return path


def times_of(path: Path) -> tuple[list[int], list[str]]:
    with VideoSource(path) as video:
        return [round(1000 * frame.time) for frame in video.frames()], video.warnings


def test_times_that_stand_still_or_go_back_are_dropped_and_counted(tmp_path: Path) -> None:
    assert times_of(write(tmp_path / "a", times=(100, 140, 190, 200))) == ([100, 140, 190, 200], [])
    seen, warnings = times_of(write(tmp_path / "b", times=(0, 40, 40, 80, 60, 120)))
    # 80 is beyond 60, which comes next and is after 40: the one ahead goes.
    assert seen == [0, 40, 60, 120]
    assert any("not after that of the frame before: 1" in line for line in warnings)
    assert any("after that of the next frame: 1" in line for line in warnings)


def test_one_wild_time_does_not_silence_the_rest(tmp_path: Path) -> None:
    seen, warnings = times_of(write(tmp_path / "a", times=(0, 40, 9_000_000, 120, 160, 200)))
    assert seen == [0, 40, 120, 160, 200]
    # Matroska counts the wild one into its length.
    assert "after that of the next frame: 1" in warnings[0] and "may be incomplete" in warnings[1] and len(warnings) == 2


def test_frames_without_times_get_them_by_the_rate(tmp_path: Path) -> None:
    path = tmp_path / "raw.h264"
    with av.open(str(path), "w", format="h264") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(6):
            frame = av.VideoFrame.from_ndarray(quarters(), format="rgb24")
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    seen, warnings = times_of(path)
    assert seen == [0, 40, 80, 120, 160, 200]
    assert warnings == ["frames without a timestamp, placed by the frame rate: 6"]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotated_phones_stand_upright(degrees: int, tmp_path: Path) -> None:
    truth = flash_click_video(
        tmp_path / "a.mp4", rotation=degrees, seconds=0.6, flashes=(0.2,), size=(96, 64), with_audio=False
    )
    with VideoSource(truth.path) as video:
        assert (video.info.rotation, video.info.width, video.info.height) == (degrees, 96, 64)
        for frame in video.frames():
            assert frame.image.shape == (64, 96, 3) and frame.image.flags.c_contiguous
            assert abs(picture_time(frame.image, seconds=0.6) - frame.time) < 0.004
            _, x, y = read_picture(frame.image)
            assert x / 96 == pytest.approx(y / 64, abs=0.1)


@pytest.mark.parametrize(
    ("matrix", "order"),
    [
        ((1, 0, 0, 1), (0, 1, 2, 3)),
        ((-1, 0, 0, 1), (1, 0, 3, 2)),  # mirrored left to right
        ((1, 0, 0, -1), (2, 3, 0, 1)),  # mirrored top to bottom
        ((0, 1, -1, 0), (2, 0, 3, 1)),  # a quarter turn clockwise
        ((0, 1, 1, 0), (0, 2, 1, 3)),  # transposed
        ((0, -1, -1, 0), (3, 1, 2, 0)),  # transposed about the other diagonal
    ],
)
def test_display_matrices_move_the_corners_as_they_say(
    matrix: tuple[int, int, int, int], order: tuple[int, ...], tmp_path: Path
) -> None:
    path = write(tmp_path / "a.mp4", muxer="mp4", codec="libx264", pixel_format="yuv444p")
    set_display_matrix(path, *matrix)
    with VideoSource(path) as video:
        image = next(video.frames()).image
        assert image.shape[:2] == (video.info.height, video.info.width) == ((48, 64) if matrix[0] else (64, 48))
    np.testing.assert_allclose(corners(image), [COLOURS[index] for index in order], atol=12)


@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [
        ("libx264", "yuv420p"),
        ("libx264", "yuv444p"),
        ("libx264", "yuv422p10le"),
        ("libx264rgb", "rgb24"),
        ("mjpeg", "yuvj420p"),
        ("ffv1", "yuva420p"),
        ("ffv1", "bgr0"),
        ("ffv1", "rgb48le"),
        ("ffv1", "bgra"),
    ],
)
@pytest.mark.parametrize("size", [(64, 48), (49, 81)])
def test_pixel_formats_and_odd_sizes(codec: str, pixel_format: str, size: tuple[int, int], tmp_path: Path) -> None:
    if codec == "libx264" and size[0] % 2 and pixel_format != "yuv444p":
        size = (50, 82)  # H.264 takes no half pixels of colour
    path = write(tmp_path / "a", codec=codec, pixel_format=pixel_format, image=quarters(*size))
    with VideoSource(path) as video:
        frames = list(video.frames())
    assert len(frames) == 3
    for frame in frames:
        assert frame.image.shape == (size[1], size[0], 3) and frame.image.dtype == np.uint8
        np.testing.assert_allclose(corners(frame.image), COLOURS, atol=12)


@pytest.mark.parametrize(("codec", "pixel_format"), [("ffv1", "gray"), ("ffv1", "gray16le"), ("ffv1", "gray10le")])
def test_grey_pictures(codec: str, pixel_format: str, tmp_path: Path) -> None:
    image = np.repeat(np.linspace(20, 230, 64).astype(np.uint8)[None, :, None], 48, axis=0).repeat(3, axis=2)
    with VideoSource(write(tmp_path / "a", codec=codec, pixel_format=pixel_format, image=image)) as video:
        np.testing.assert_allclose(next(video.frames()).image.astype(int), image, atol=3)


def test_paletted_animation(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gif", codec="gif", pixel_format="rgb8", muxer="gif", times=(0, 100, 250))
    with VideoSource(path) as video:
        frames = list(video.frames())
    assert [round(1000 * frame.time) for frame in frames] == [0, 100, 250]
    np.testing.assert_allclose(corners(frames[0].image), COLOURS, atol=60)  # rgb8 has four levels of blue


def test_large_pictures_are_scaled_down_and_small_ones_left(tmp_path: Path) -> None:
    path = write(tmp_path / "a", image=quarters(120, 200))
    for limit, shape in ((100, (100, 60, 3)), (33, (33, 20, 3)), (200, (200, 120, 3)), (999, (200, 120, 3))):
        with VideoSource(path, max_height=limit) as video:
            image = next(video.frames()).image
            assert image.shape == shape
            assert (video.info.width, video.info.height) == (120, 200)
        np.testing.assert_allclose(corners(image), COLOURS, atol=12)
    with pytest.raises(ArgumentError, match="max_height"):
        VideoSource(path, max_height=0)


def test_the_height_that_is_limited_is_the_upright_one(tmp_path: Path) -> None:
    truth = flash_click_video(tmp_path / "a.mp4", rotation=90, seconds=0.2, flashes=(0.1,), size=(60, 120), with_audio=False)
    with VideoSource(truth.path, max_height=60) as video:
        assert next(video.frames()).image.shape == (60, 30, 3)


def test_oblong_pixels_become_square(tmp_path: Path) -> None:
    with VideoSource(write(tmp_path / "a", sample_aspect_ratio=Fraction(3, 2))) as video:
        assert (video.info.width, video.info.height) == (96, 48)
        image = next(video.frames()).image
    assert image.shape == (48, 96, 3)
    np.testing.assert_allclose(corners(image), COLOURS, atol=12)


def test_pictures_are_converted_only_when_looked_at_and_outlive_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = []
    convert = VideoSource._convert
    monkeypatch.setattr(VideoSource, "_convert", lambda self, frame: converted.append(frame.pts) or convert(self, frame))
    with VideoSource(write(tmp_path / "a")) as video:
        frames = list(video.frames())
    assert not converted
    assert frames[1].image is frames[1].image
    assert converted == [40]
    with pytest.raises(ArgumentError, match="closed"):
        next(video.frames())


def test_frames_go_on_where_they_were_left(tmp_path: Path) -> None:
    with VideoSource(write(tmp_path / "a", times=(0, 40, 80, 120))) as video:
        first = next(video.frames())
        rest = [round(1000 * frame.time) for frame in video.frames()]
    assert first.time == 0.0 and rest == [40, 80, 120]


def test_info_tells_both_streams(tmp_path: Path) -> None:
    truth = flash_click_video(tmp_path / "a.mkv", container="mkv", fps=29.97, seconds=1.0, video_start=0.3, audio_start=0.5)
    with VideoSource(truth.path) as video:
        info = video.info
    assert (info.path, info.container) == (str(truth.path), "matroska,webm")
    assert info.has_video and info.has_audio and (info.width, info.height, info.rotation) == (160, 96, 0)
    assert info.frame_rate == pytest.approx(29.97, abs=0.01) and info.seconds == pytest.approx(1.0, abs=0.05)
    assert info.video_start == pytest.approx(0.3, abs=1e-3) and info.audio_start == pytest.approx(0.5, abs=0.03)
    assert (info.sample_rate, info.channels, info.video_codec, info.audio_codec) == (48000, 1, "h264", "aac")


def test_metadata_in_broken_utf8_is_of_no_interest(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        output.metadata["title"] = "a plain title"
        stream = output.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(quarters(), format="rgb24")))
        output.mux(stream.encode(None))
    content = path.read_bytes()
    assert b"plain" in content
    path.write_bytes(content.replace(b"plain", b"pl\xff\xfen"))
    with VideoSource(path) as video:
        assert [frame.image.shape for frame in video.frames()] == [(48, 64, 3)]


def test_a_cover_is_no_video_and_of_two_videos_the_default_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        cover = output.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 200, 100, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic.value
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        output.mux(cover.encode(av.VideoFrame.from_ndarray(quarters(200, 100), format="rgb24")))
        output.mux(cover.encode(None))
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(quarters(), format="rgb24")
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with VideoSource(path) as video:
        assert [frame.image.shape for frame in video.frames()] == [(48, 64, 3)] * 3
    for default in (0, 1):
        path = tmp_path / f"{default}.mkv"
        with av.open(str(path), "w", format="matroska") as output:
            streams = [output.add_stream("mjpeg", rate=25) for _ in range(2)]
            for index, stream in enumerate(streams):
                stream.width, stream.height, stream.pix_fmt = 64 + 16 * index, 48, "yuvj420p"
                stream.disposition = av.stream.Disposition.default.value if index == default else 0
            for index, stream in enumerate(streams):
                frame = av.VideoFrame.from_ndarray(quarters(64 + 16 * index, 48), format="rgb24")
                frame.pts = 0
                output.mux(stream.encode(frame))
        with VideoSource(path) as video:
            assert video.info.width == 64 + 16 * default


def test_a_truncated_file_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    truth = flash_click_video(tmp_path / "a.mkv", container="mkv", seconds=4.0, size=(96, 64))
    content = truth.path.read_bytes()
    whole = len(truth.frame_times)
    truth.path.write_bytes(content[: len(content) // 2])
    with VideoSource(truth.path) as video:
        frames = list(video.frames())
        assert whole // 4 < len(frames) < whole * 3 // 4
        assert any("may be incomplete" in line for line in video.warnings)


@pytest.mark.parametrize("container", ["avi", "mpg", "ts"])
def test_damage_in_the_middle_keeps_what_is_before_and_behind(container: str, tmp_path: Path) -> None:
    truth = flash_click_video(tmp_path / "a", container=container, seconds=4.0, flashes=(), with_audio=False)
    content = bytearray(truth.path.read_bytes())
    middle, length = len(content) // 2, max(600, len(content) // 50)
    content[middle : middle + length] = np.random.default_rng(1).bytes(length)
    truth.path.write_bytes(bytes(content))
    with VideoSource(truth.path) as video:
        times = [frame.time for frame in video.frames()]
        assert video.warnings
    shift = times[0]
    assert min(times) == shift and max(times) - shift > 3.7
    assert len(times) > 0.6 * len(truth.frame_times)


def _text(path: Path) -> None:
    path.write_text("no video at all\n" * 200)


def _sound_only(path: Path) -> None:
    flash_click_video(path, container="mkv", seconds=0.3, flashes=(), with_video=False)


def _picture(path: Path) -> None:
    write(path, codec="png", pixel_format="rgb24", muxer="image2", times=(0,))


def _broken(path: Path) -> None:
    write(path, codec="libx264", pixel_format="yuv420p")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])


BAD: dict[str, tuple[Any, str]] = {
    "missing": (lambda path: None, "nothing there"),
    "empty": (lambda path: path.touch(), "an empty one"),
    "folder": (lambda path: path.mkdir(), "a folder"),
    "text": (_text, "expected a media file"),
    "noise": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(50000)), "expected a media file"),
    "sound only": (_sound_only, "got only sound"),
    "picture": (_picture, "expected video or audio"),
    "broken": (_broken, "expected a"),
    "playlist": (
        lambda path: path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nb.mp4\n#EXT-X-ENDLIST\n"),
        "expected",
    ),
    "concatenation": (lambda path: path.write_text("ffconcat version 1.0\nfile b.mp4\n"), "expected"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_in_one_line(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    flash_click_video(tmp_path / "b.mp4", seconds=0.2, flashes=())
    path = tmp_path / "a.mp4"
    make(path)
    with pytest.raises(CorpusError, match=message) as caught:
        VideoSource(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_names_with_signs_that_ffmpeg_reads(tmp_path: Path) -> None:
    truth = flash_click_video(tmp_path / "plain.mp4", seconds=0.2, flashes=(), size=(64, 48))
    for name in ("a:b.mp4", "%03d.mp4", "concat:x|y.mp4", "ünï 漢字.mp4", "-.mp4"):
        path = tmp_path / name
        path.write_bytes(truth.path.read_bytes())
        assert len(times_of(path)[0]) == 5
