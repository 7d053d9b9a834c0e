"""Media files: what is written is what is read, in time and in value, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from avsync._files import replacing, write_json
from avsync.corpus.media.files import read_audio, write_audio, write_video
from avsync.errors import ArgumentError, CorpusError, MissingExtraError, ShapeError


def noise(samples: int) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(0).integers(-32768, 32768, samples) / 32768).astype(np.float32)


def pictures(count: int, height: int = 48, width: int = 64) -> Iterator[npt.NDArray[np.uint8]]:
    for i in range(count):
        yield np.full((height, width, 3), 255 if i == count // 2 else 0, dtype=np.uint8)


@pytest.mark.parametrize("samples", [1, 639, 4096, 16001])
def test_flac_round_trip_is_exact(tmp_path: Path, samples: int) -> None:
    waveform = noise(samples)
    write_audio(tmp_path / "a.flac", waveform)
    back, rate = read_audio(tmp_path / "a.flac")
    assert rate == 16000 and back.dtype == np.float32
    np.testing.assert_array_equal(back, waveform)
    assert [p.name for p in tmp_path.iterdir()] == ["a.flac"]


def test_full_scale_and_other_rates(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", np.array([1.0, -1.0, 0.0], dtype=np.float32), sample_rate=8000)
    back, rate = read_audio(tmp_path / "a.flac")
    assert rate == 8000
    np.testing.assert_array_equal(back, np.array([32767 / 32768, -1.0, 0.0], dtype=np.float32))
    tone = np.sin(np.arange(8000) * 2 * np.pi * 440 / 8000).astype(np.float32) * 0.5
    write_audio(tmp_path / "b.flac", tone, sample_rate=8000)
    back, rate = read_audio(tmp_path / "b.flac", sample_rate=16000)
    assert rate == 16000 and abs(back.size - 16000) <= 32
    expected = 0.5 * np.sin(np.arange(16000) * 2 * np.pi * 440 / 16000)
    np.testing.assert_allclose(back[1000:15000], expected[1000:15000], atol=0.01)


def test_stereo_is_mixed_down(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.tile(np.array([[8192, 0]], np.int16), (1, 500)), format="s16", layout="stereo")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    back, _ = read_audio(tmp_path / "a.wav")
    assert back.shape == (500,)
    np.testing.assert_allclose(back, 0.125, atol=1e-4)


def test_video_has_every_frame_at_its_time_and_sound_in_step(tmp_path: Path) -> None:
    waveform = np.zeros(640 * 50, dtype=np.float32)
    waveform[640 * 25 : 640 * 26] = 0.9 * np.sin(np.arange(640) * 2 * np.pi * 1000 / 16000)
    assert write_video(tmp_path / "a.mp4", pictures(50), fps=25, waveform=waveform) == 50
    with av.open(str(tmp_path / "a.mp4")) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (video.width, video.height, float(video.average_rate)) == (64, 48, 25.0)
        assert container.streams.audio[0].codec_context.name == "aac"
        frames = [(float(f.pts * f.time_base), f.to_ndarray(format="rgb24").mean()) for f in container.decode(video)]
    np.testing.assert_allclose([t for t, _ in frames], np.arange(50) / 25, atol=1e-6)
    assert [i for i, (_, brightness) in enumerate(frames) if brightness > 128] == [25]
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.audio[0]
        blocks = [(float(f.pts * f.time_base), f.to_ndarray()[0]) for f in container.decode(stream)]
    times = np.concatenate([start + np.arange(x.size) / 16000 for start, x in blocks])
    loud = times[np.abs(np.concatenate([x for _, x in blocks])) > 0.45]
    assert abs(loud.min() - 1.0) < 0.005 and abs(loud.max() - 1.04) < 0.005
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_odd_sizes_are_made_even_and_sound_may_be_longer_or_shorter(tmp_path: Path) -> None:
    for seconds in (0.1, 2.0):
        write_video(tmp_path / "a.mp4", pictures(10, 33, 65), fps=25, waveform=noise(int(16000 * seconds)))
        with av.open(str(tmp_path / "a.mp4")) as container:
            assert (container.streams.video[0].width, container.streams.video[0].height) == (66, 34)
            total = sum(f.samples for f in container.decode(container.streams.audio[0]))
        assert abs(total - 16000 * seconds) <= 1024


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", pictures(3), fps=25)
    before = (tmp_path / "a.mp4").read_bytes()

    def broken() -> Iterator[npt.NDArray[np.uint8]]:
        yield from pictures(3)
        raise RuntimeError("out of pictures")

    with pytest.raises(RuntimeError, match="out of pictures"):
        write_video(tmp_path / "a.mp4", broken(), fps=25)
    with pytest.raises(ArgumentError, match="at least one frame"):
        write_video(tmp_path / "a.mp4", [], fps=25)
    with pytest.raises(ShapeError, match=r"expected \(48, 64, 3\) uint8, got \(48, 66, 3\) uint8 at frame 1"):
        write_video(tmp_path / "a.mp4", [*pictures(1), *pictures(1, 48, 66)], fps=25)
    with pytest.raises(ShapeError, match=r"expected \(height, width, 3\) uint8, got \(4, 4, 3\) float64"):
        write_video(tmp_path / "a.mp4", [np.zeros((4, 4, 3))], fps=25)  # type: ignore[list-item]
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_bad_sound(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"`waveform`: expected \(samples,\).*got \(1, 5\)"):
        write_audio(tmp_path / "a.flac", np.zeros((1, 5), dtype=np.float32))
    for bad in (1.5, np.nan):
        with pytest.raises(ArgumentError, match=r"\[-1, 1\]"):
            write_audio(tmp_path / "a.flac", np.full(5, bad, dtype=np.float32))
    with pytest.raises(CorpusError, match=r"a\.flac: expected an audio file, found none"):
        read_audio(tmp_path / "a.flac")
    (tmp_path / "a.flac").write_bytes(b"nonsense" * 10)
    with pytest.raises(CorpusError, match="expected readable audio"):
        read_audio(tmp_path / "a.flac")
    write_video(tmp_path / "silent.mp4", pictures(3), fps=25)
    with pytest.raises(CorpusError, match="without one"):
        read_audio(tmp_path / "silent.mp4")


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", noise(64000))
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[len(content) // 2] ^= 0x10
    (tmp_path / "a.flac").write_bytes(content)
    try:
        back, _ = read_audio(tmp_path / "a.flac")
    except CorpusError:
        return
    assert back.size != 64000


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"avsync\[media\]"):
        read_audio(tmp_path / "a.flac")


def test_replacing_and_json(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"a": 1})
    content = (tmp_path / "new" / "a.json").read_bytes()
    with pytest.raises(TypeError, match="JSON"):
        write_json(tmp_path / "new" / "a.json", {"a": object()})

    def interrupted() -> None:
        with replacing(tmp_path / "new" / "a.json") as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "new" / "a.json").read_bytes() == content
    assert len(list((tmp_path / "new").iterdir())) == 1
