"""Sound at any instant of the common clock: exact in time, rate, mix and silence."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsync.corpus.media._audio_clock import TIMESTAMP_TOLERANCE, AudioClock, Block
from avsync.corpus.media._downmix import mix_weights
from avsync.corpus.media._interpolate import interpolate
from avsync.corpus.media.audio_source import KEPT_SECONDS, AudioSource
from avsync.corpus.media.files import write_audio
from avsync.errors import ArgumentError, CorpusError
from tests.media_samples import flash_click_video

FloatArray = npt.NDArray[np.float32]
BLOCK, RATE = 1024, 48000


def noise(samples: int, seed: int = 0) -> FloatArray:
    return (np.random.default_rng(seed).integers(-16384, 16384, samples) / 32768).astype(np.float32)


def write_pcm(path: Path, planes: npt.NDArray[Any], *, codec: str, sample_format: str, layout: str, rate: int = 16000) -> Path:
    """Channels (channels, samples) as uncompressed sound in a MOV file, or WAV where MOV has no such format."""
    with av.open(str(path), "w", format="mov") as output:
        stream = output.add_stream(codec, rate=rate, layout=layout, format=sample_format)
        packed = np.ascontiguousarray(planes.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format=sample_format, layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def test_sound_at_the_wanted_rate_is_untouched_and_silence_surrounds_it(tmp_path: Path) -> None:
    waveform = noise(5000)
    write_audio(tmp_path / "a.flac", waveform)
    with AudioSource(tmp_path / "a.flac") as sound:
        assert (sound.native_rate, sound.channels, sound.start, sound.end) == (16000, 1, 0.0, None)
        before = sound.read(-0.05, 1000)
        np.testing.assert_array_equal(before[:800], 0.0)
        np.testing.assert_array_equal(before[800:], waveform[:200])
        np.testing.assert_array_equal(sound.read(200 / 16000, 4000), waveform[200:4200])
        behind = sound.read(4000 / 16000, 3000)
        np.testing.assert_array_equal(behind[:1000], waveform[4000:])
        np.testing.assert_array_equal(behind[1000:], 0.0)
        assert sound.end == pytest.approx(5000 / 16000) and sound.read(1e6, 10).tolist() == [0.0] * 10
        assert sound.read(1e6, 0).shape == (0,) and sound.warnings == []


@given(cuts=st.lists(st.integers(0, 12000), min_size=1, max_size=6), rate=st.sampled_from([44100, 48000, 8000, 16000]))
def test_pieces_are_the_whole(cuts: list[int], rate: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"pieces{rate}.flac"
    if not path.exists():
        write_audio(path, noise(rate), sample_rate=rate)
    edges = [0, *sorted(cuts), 12000]
    with AudioSource(path) as sound:
        whole = sound.read(0.1, 12000)
    with AudioSource(path) as sound:
        pieces = [sound.read(0.1 + low / 16000, high - low) for low, high in pairwise(edges)]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=2e-5)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 47999, 48000, 96000])
@pytest.mark.parametrize("start", [0.5, 0.500011])
def test_a_tone_keeps_its_phase_at_every_rate_and_instant(rate: int, start: float, tmp_path: Path) -> None:
    times = np.arange(rate) / rate
    write_audio(tmp_path / "a.flac", (0.7 * np.sin(2 * np.pi * 1000 * times)).astype(np.float32), sample_rate=rate)
    with AudioSource(tmp_path / "a.flac") as sound:
        heard = sound.read(start, 4000)
    expected = 0.7 * np.sin(2 * np.pi * 1000 * (start + np.arange(4000) / 16000))
    # One part in a thousand of the phase would be a quarter of a microsecond.
    np.testing.assert_allclose(heard, expected, atol=2e-4)


def test_the_rate_is_changed_without_aliases_and_with_a_flat_pass_band() -> None:
    times = np.arange(48000) / 48000
    for tone, gain in ((100, 1.0), (3000, 1.0), (6400, 1.0), (8600, 0.0), (12000, 0.0), (20000, 0.0)):
        samples = np.cos(2 * np.pi * tone * times).astype(np.float32)
        result = interpolate(samples, 12000.3, 4000, source_rate=48000, target_rate=16000)
        level = np.sqrt(2.0 * np.mean(result.astype(np.float64) ** 2))
        assert level == pytest.approx(gain, abs=2e-3), tone
    constant = interpolate(np.ones(9000, np.float32), 500.7, 2000, source_rate=44100, target_rate=16000)
    np.testing.assert_allclose(constant, 1.0, atol=1e-6)


def test_nothing_drifts_in_three_minutes(tmp_path: Path) -> None:
    waveform = np.zeros(11025 * 180, dtype=np.float32)
    clicks = (0.25, 90.5, 179.75)
    for click in clicks:
        waveform[round(click * 11025)] = 0.9
    write_audio(tmp_path / "a.flac", waveform, sample_rate=11025)
    with AudioSource(tmp_path / "a.flac") as sound:
        for click in clicks:
            peak = int(np.abs(sound.read(click - 0.1, 3200)).argmax())
            assert abs(peak / 16000 - 0.1 - (round(click * 11025) / 11025 - click)) < 1 / 16000


@pytest.mark.parametrize(
    ("codec", "sample_format", "dtype", "scale", "step"),
    [
        ("pcm_u8", "u8", np.uint8, 128, 1 / 128),
        ("pcm_s16le", "s16", np.int16, 32768, 1 / 32768),
        ("pcm_s32le", "s32", np.int32, 2**31, 1e-6),
        ("pcm_f32le", "flt", np.float32, 1, 1e-6),
        ("pcm_f64le", "dbl", np.float64, 1, 1e-6),
    ],
)
def test_sample_formats_have_one_scale(
    codec: str, sample_format: str, dtype: Any, scale: int, step: float, tmp_path: Path
) -> None:
    wanted = np.array([[0.5, -0.25, 0.0, -1.0, 0.125] * 100])
    coded = wanted * scale + (128 if dtype is np.uint8 else 0)
    path = write_pcm(tmp_path / "a.mov", coded.astype(dtype), codec=codec, sample_format=sample_format, layout="mono")
    with AudioSource(path) as sound:
        np.testing.assert_allclose(sound.read(0.0, 500), wanted[0], atol=step)


def test_values_that_are_no_samples_become_silence_or_full_scale(tmp_path: Path) -> None:
    planes = np.array([[np.nan, np.inf, 7.5, -7.5, 0.25] * 20], dtype=np.float32)
    path = write_pcm(tmp_path / "a.mov", planes, codec="pcm_f32le", sample_format="flt", layout="mono")
    with AudioSource(path) as sound:
        assert sound.read(0.0, 5).tolist() == [0.0, 0.0, 1.0, -1.0, 0.25]


def test_channels_are_mixed_as_the_layout_says(tmp_path: Path) -> None:
    planes = np.stack([noise(800, seed) for seed in range(6)])
    half = np.sqrt(0.5)
    by_hand = planes[0] / 2 + planes[1] / 2 + half * planes[2] + half / 2 * (planes[4] + planes[5])
    by_hand /= 1 + half + half
    path = write_pcm(tmp_path / "a.mov", planes, codec="pcm_f32le", sample_format="flt", layout="5.1")
    with AudioSource(path) as sound:
        assert sound.channels == 6
        np.testing.assert_allclose(sound.read(0.0, 800), by_hand, atol=1e-6)
    path = write_pcm(tmp_path / "b.mov", planes[:2], codec="pcm_f32le", sample_format="flt", layout="stereo")
    with AudioSource(path) as sound:
        np.testing.assert_allclose(sound.read(0.0, 800), planes[:2].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    "names", [["FC"], ["FL", "FR"], ["LFE"], ["FL", "FR", "FC", "LFE", "BL", "BR"], ["NONE", "NONE", "NONE"]]
)
def test_mixing_cannot_clip(names: list[str]) -> None:
    weights = mix_weights(names)
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1.0)


def test_a_gap_is_silence_and_is_reported(tmp_path: Path) -> None:
    truth = flash_click_video(tmp_path / "a.mkv", container="mkv", audio_codec="flac", audio_gap=(1.0, 1.4), with_video=False)
    with AudioSource(truth.path) as sound:
        samples = sound.read(0.0, 48000)
        assert len(sound.warnings) == 1 and "gaps in the audio" in sound.warnings[0]
    peaks = [float(np.abs(samples[low : low + 16000]).argmax() + low) / 16000 for low in (0, 16000, 32000)]
    np.testing.assert_allclose(peaks, truth.clicks, atol=1e-3)


def blocks(times: npt.NDArray[np.float64]) -> list[Block]:
    """Blocks that count on, so that what is cut or kept can be told."""
    return [Block(float(time), np.full(BLOCK, index, dtype=np.float32)) for index, time in enumerate(times)]


EVEN = np.arange(800) * BLOCK / RATE


def laid(times: npt.NDArray[np.float64]) -> tuple[AudioClock, npt.NDArray[np.float64]]:
    """The clock, and where each block that was kept whole lies."""
    clock = AudioClock(RATE)
    begins, end = np.full(times.size, np.nan), 0
    for placed in clock.place(blocks(times)):
        assert placed.begin >= end
        end = placed.begin + placed.samples.size
        if placed.samples.size == BLOCK:
            begins[int(placed.samples[0])] = clock.start + placed.begin / RATE
    return clock, begins


@pytest.mark.parametrize("wobble", [0.0, 0.0005, 0.002, 0.01, 0.03])
def test_wobbling_times_move_nothing(wobble: float) -> None:
    times = 3.0 + EVEN + np.random.default_rng(0).uniform(-wobble, wobble, EVEN.size)
    clock, begins = laid(times)
    assert clock.gaps[0] + clock.overlaps[0] <= (1 if wobble > TIMESTAMP_TOLERANCE else 0)
    assert np.nanmax(np.abs(begins - 3.0 - EVEN)) <= max(1e-9, wobble)


@pytest.mark.parametrize("rate_error", [1e-4, -1e-3, 3e-3])
def test_drifting_times_are_followed_to_the_tolerance(rate_error: float) -> None:
    times = EVEN * (1 + rate_error)
    _, begins = laid(np.round(times, 3))
    assert np.nanmax(np.abs(begins - times)) <= TIMESTAMP_TOLERANCE + 1.1e-3


@pytest.mark.parametrize("lost", [[3], [500], [100, 101, 102, 400], list(range(50, 700, 3))])
def test_lost_packets_leave_their_time(lost: list[int]) -> None:
    times = np.delete(EVEN, lost)
    clock, begins = laid(np.round(times, 3))
    np.testing.assert_allclose(begins, times, atol=1.1e-3)
    assert clock.overlaps[0] == 0 and clock.gaps[1] == pytest.approx(len(lost) * BLOCK / RATE, abs=2e-3 * len(lost))


def test_single_wild_times_are_ignored() -> None:
    times = EVEN.copy()
    times[200] += 1000.0
    times[400] -= 5.0
    clock, begins = laid(times)
    np.testing.assert_allclose(begins, EVEN, atol=1e-9)
    assert clock.gaps[0] == clock.overlaps[0] == 0


def test_overlapping_sound_is_cut() -> None:
    times = EVEN.copy()
    times[300:] -= 0.5
    clock, begins = laid(times)
    assert clock.overlaps[1] == pytest.approx(0.5, abs=1e-3)
    kept = ~np.isnan(begins)
    np.testing.assert_allclose(begins[kept], times[kept], atol=1e-4)
    assert 20 <= (~kept).sum() <= 25


def test_blocks_without_times_follow_one_another() -> None:
    clock = AudioClock(RATE)
    given_times = [2.0, None, None, 2.0 + 3 * BLOCK / RATE]
    placed = list(clock.place(Block(time, np.zeros(BLOCK, np.float32)) for time in given_times))
    assert clock.start == 2.0 and [p.begin for p in placed] == [0, BLOCK, 2 * BLOCK, 3 * BLOCK]


def test_reading_goes_forward_in_constant_memory(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", noise(16000 * 40))
    with AudioSource(tmp_path / "a.flac") as sound:
        waveform, most = noise(16000 * 40), 0
        for second in range(40):
            np.testing.assert_array_equal(sound.read(float(second), 16000), waveform[16000 * second : 16000 * (second + 1)])
            most = max(most, sum(block.samples.size for block in sound._kept))
        assert most < 16000 * (KEPT_SECONDS + 3)
        np.testing.assert_array_equal(sound.read(31.0, 16000), waveform[16000 * 31 : 16000 * 32])
        with pytest.raises(ArgumentError, match="read forwards"):
            sound.read(20.0, 16000)


def test_arguments_and_closed_sources(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", noise(100))
    with pytest.raises(ArgumentError, match="sample_rate"):
        AudioSource(tmp_path / "a.flac", sample_rate=0)
    with AudioSource(tmp_path / "a.flac", sample_rate=8000) as sound:
        assert sound.read(0.0, 50).shape == (50,)
        for start, samples, named in ((float("nan"), 5, "`start`"), (float("inf"), 5, "samples"), (0.0, -1, "samples")):
            with pytest.raises(ArgumentError, match=named):
                sound.read(start, samples)
    with pytest.raises(ArgumentError, match="closed"):
        sound.read(0.0, 5)


def test_a_change_of_rate_amid_the_sound(tmp_path: Path) -> None:
    parts = []
    for rate in (16000, 48000):
        path = tmp_path / f"{rate}.aac"
        with av.open(str(path), "w", format="adts") as output:
            stream = output.add_stream("aac", rate=rate, layout="mono")
            tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(rate) / rate).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            frame.sample_rate = rate
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        parts.append(path.read_bytes())
    (tmp_path / "both.aac").write_bytes(b"".join(parts))
    with AudioSource(tmp_path / "both.aac") as sound:
        samples = sound.read(sound.start, 40000)
        assert sound.native_rate == 16000
        assert any("at 48000 Hz in a stream at 16000 Hz" in line for line in sound.warnings)
    # ADTS has no timestamps of its own, so where the second part lies is FFmpeg's guess; but it is heard at its own pitch.
    loud = np.flatnonzero(np.abs(samples[18000:]) > 0.1) + 18000
    crossings = np.flatnonzero(np.diff(np.signbit(samples[loud[0] : loud[0] + 300])))
    assert np.median(np.diff(crossings)) == pytest.approx(16, abs=1)


def _video_only(path: Path) -> None:
    flash_click_video(path, seconds=0.3, flashes=(), with_audio=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_video_only, "got only video"),
        (lambda path: None, "nothing there"),
        (lambda path: path.touch(), "an empty one"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.write_text("words " * 999), "expected a media file"),
    ],
)
def test_bad_files_are_named_in_one_line(make: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    make(path)
    with pytest.raises(CorpusError, match=message) as caught:
        AudioSource(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
