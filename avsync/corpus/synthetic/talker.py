"""The synthetic talker: a corpus generated from random numbers, whose audio and face are linked at three time scales.

A hidden process (phones in syllables in words in phrases) drives both the voice and the gestures of the face. The lips follow
phones, brows and nods follow stress and pitch accents, and the head follows the loudness and the tension of phrases. The
gestures are split into three frequency bands, and each band has a knob:

=========== ============ ==================================================================================
knob        band         main content
=========== ============ ==================================================================================
``lips``    above 4 Hz   lips: phones, closures
``brows``   1 to 4 Hz    brows and nods: stress, pitch accents; the opening of the mouth syllable by syllable
``posture`` below 1 Hz   pitch, yaw, roll, lean and height of the head: phrases; the mouth's rest in pauses
=========== ============ ==================================================================================

A knob at 1 links its band with the audio. A knob at 0 takes the band from a second, **independent** hidden process of the same
speaker: the motion has the same statistics, but no information about the audio. Between 0 and 1 the two are mixed at constant
variance. The knobs act on bands rather than on regions of the face because the mouth moves at all time scales (it rests in
pauses). If only the head were independent of the audio, the lips would still reveal the coarse scale. A lag delays its band:
with a positive lag, the motion comes later than the audio.

The crossovers between the bands are at 0.8-1.25 and 3.3-4.8 Hz. The bands are bands of the motion, not levels of the pyramid. A
fine level also receives the slower motion, so level 0 stays informative with only ``lips`` at 0, while levels 2 and 3 have no
information with ``posture`` and ``brows`` at 0. No files are read; a clip depends only on the configuration, its speaker, its
number and its length.

Source: ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import overload

import numpy as np

from avsync._checks import check_choice, check_positive, checked
from avsync.corpus.clip import Clip
from avsync.corpus.media.info import FloatArray
from avsync.corpus.synthetic import _face as face_model
from avsync.corpus.synthetic import _voice as voice_model
from avsync.corpus.synthetic._layouts import in_layout
from avsync.errors import ArgumentError, ConfigError
from avsync.landmarks.layouts import LANDMARKS68, Layout, find_layout
from avsync.pyramid import FPS, SAMPLE_RATE

FRAME_SIZE = (640, 480)
SPLITS = ("train", "val")
_FIRST_SPEAKER = {"train": 0, "val": 100_000}
_STEP = round(voice_model.CONTROL_RATE / FPS)  # control frames per motion frame
_MARGIN = 4.0  # seconds of script on both sides of a clip, so that filters and lags never reach its ends
_MAX_LAG = 2.0
_BAND_EDGES = ((0.8, 1.25), (3.3, 4.8))  # Hz: start and end of each crossover
_BANDS = ("posture", "brows", "lips")


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Settings of the synthetic talker: links between face and voice, and disturbances.

    Attributes:
        seed: Seed of all speakers and clips.
        lips: Strength, 0 to 1, of the link above 4 Hz (lips follow phones).
        brows: Strength, 0 to 1, of the link between 1 and 4 Hz (brows and nods follow stress).
        posture: Strength, 0 to 1, of the link below 1 Hz (the head follows phrases).
        lips_lag: Delay of the motion above 4 Hz after the audio, in seconds, -2 to 2.
        brows_lag: Delay of the motion between 1 and 4 Hz, in seconds, -2 to 2.
        posture_lag: Delay of the motion below 1 Hz, in seconds, -2 to 2.
        drift: Strength of slow head motion that is independent of the audio.
        blinks: Factor on the blink rate; 0 for none.
        jitter: Standard deviation of the detector's error of each point and frame, in face heights.
        snr_db: Signal-to-noise ratio in decibels; None for no noise.

    Raises:
        ConfigError: A strength is outside 0 to 1, a lag is outside -2 to 2 seconds, or another number is negative.

    Example:
        >>> SyntheticConfig(posture=0.0).posture
        0.0
    """

    seed: int = 0
    lips: float = 1.0
    brows: float = 1.0
    posture: float = 1.0
    lips_lag: float = 0.0
    brows_lag: float = 0.0
    posture_lag: float = 0.0
    drift: float = 1.0
    blinks: float = 1.0
    jitter: float = 0.003
    snr_db: float | None = 25.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _BANDS:
                low, high = 0.0, 1.0
            elif field.name.endswith("_lag"):
                low, high = -_MAX_LAG, _MAX_LAG
            elif field.name == "snr_db":
                low, high = -math.inf, math.inf
            else:
                low, high = 0.0, math.inf
            if value is None and field.name == "snr_db":
                continue
            if not isinstance(value, int | float) or not low <= value <= high:
                raise ConfigError(f"`{field.name}`: expected a number from {low:g} to {high:g}, got {value!r}")


@checked
def synthetic_clip(
    config: SyntheticConfig | None = None,
    speaker: int = 0,
    clip: int = 0,
    *,
    seconds: float = 12.0,
    layout: str | Layout = LANDMARKS68.name,
    dims: int | None = None,
) -> Clip:
    """Generate one clip of the synthetic talker; landmark frame k is at the time of sample 640 k.

    The talker moves in any layout. Points that map to the 68 points show the talker's 68 points there; other points follow
    three random points of their region. Coefficients of the mouth follow opening, spreading and rounding of the lips, those of
    the head the rotation of the head (radians), others brows and eyelids; the meaning of a single vertex or blendshape is not
    imitated. The audio is the same in all layouts.

    Args:
        config: Links and disturbances; the defaults if None.
        speaker: Number of the speaker, from 0, which determines face, voice and habits. The split is "train" below 100000 and
            "val" from 100000 on.
        clip: Number of the clip among the clips of the speaker, from 0.
        seconds: Length in seconds, rounded to whole motion frames of 40 ms.
        layout: Layout of the motion (:class:`avsync.landmarks.layouts.Layout`), or its name.
        dims: Coordinates per point; None for the first number that the layout admits.

    Returns:
        The clip: landmarks (frames, points, dims), by default (frames, 68, 2), in pixels of a 640 x 480 image, or coefficients
        (frames, coefficients, 1); waveform (frames * 640,) in [-1, 1].

    Raises:
        ArgumentError: A number is negative, the length is less than one frame, the layout is unknown, or it does not admit
            ``dims``.

    Example:
        >>> clip = synthetic_clip(SyntheticConfig(seed=1), speaker=3, clip=0, seconds=2.0)
        >>> clip.landmarks.shape, clip.waveform.shape
        ((50, 68, 2), (32000,))
        >>> synthetic_clip(seconds=2.0, layout="arkit52").landmarks.shape
        (50, 52, 1)
    """
    config = SyntheticConfig() if config is None else config
    layout = find_layout(layout)
    dims = _checked_dims(layout, dims)
    check_positive("speaker", speaker, allow_zero=True)
    check_positive("clip", clip, allow_zero=True)
    frames = round(seconds * FPS)
    check_positive("seconds", frames / FPS)

    traits = _generator("traits", config.seed, speaker)
    voice, face = voice_model.Voice.draw(traits), face_model.Face.draw(traits)

    heard = _generator("heard", config.seed, speaker, clip)
    performance = _perform(heard, voice, frames)
    margin = round(_MARGIN * voice_model.CONTROL_RATE)
    waveform = voice_model.speak(performance.cut(margin, margin + frames * _STEP + 1), voice, heard)
    waveform = _recorded(waveform, config.snr_db, _generator("noise", config.seed, speaker, clip))

    hidden = _perform(_generator("hidden", config.seed, speaker, clip), voice, frames)
    gestures = _linked(config, performance.gestures[::_STEP], hidden.gestures[::_STEP])
    gestures = gestures[round(_MARGIN * FPS) :][:frames]
    camera = _generator("camera", config.seed, speaker, clip)
    height = float(camera.uniform(110, 190))
    centre = np.array(FRAME_SIZE) * (0.5 + camera.uniform(-0.12, 0.12, 2))
    film = face_model.film(face, gestures, camera, fps=FPS, drift=config.drift, blinks=config.blinks)
    motion = in_layout(film, layout, dims)
    error = np.float32(config.jitter) * camera.standard_normal(motion.shape, dtype=np.float32)
    if layout.is_coefficients:
        landmarks = motion + error * np.array(layout.size, np.float32)[:, None]
    else:
        landmarks = (np.append(centre, 0.0)[:dims] + height * (motion + error)).astype(np.float32)
    return Clip(
        id=_clip_name(speaker, clip),
        speaker=_speaker_name(speaker),
        split=_split_of(speaker),
        landmarks=landmarks,
        waveform=waveform,
        fps=FPS,
        sample_rate=SAMPLE_RATE,
        frame_size=FRAME_SIZE,
    )


class SyntheticCorpus(Sequence[Clip]):
    """Corpus of synthetic talkers with the interface of a corpus on disk; clips are generated on access.

    Training speakers are numbered from 0 and validation speakers from 100000, so no speaker is in both splits.

    Args:
        config: Links and disturbances; the defaults if None.
        split: "train", "val", or None for "train" followed by "val".
        speakers: Number of speakers per split.
        clips_per_speaker: Number of clips per speaker.
        seconds: Length of each clip, in seconds.
        layout: Layout of the motion, or its name; see :func:`synthetic_clip`.
        dims: Coordinates per point; None for the first number that the layout admits.
        cache: Keep generated clips (280 MB per hour of 68 points); False generates them again on each access, which takes 5 ms
            per second.

    Attributes:
        entries: Id, frames, speaker and split of each clip.
        speakers: Labels of the speakers, sorted.
        bad: Always empty; for compatibility with :class:`avsync.corpus.clip.Corpus`.

    Raises:
        ArgumentError: ``split`` or ``layout`` is unknown, a number is not positive, or the layout does not admit ``dims``.

    Example:
        >>> corpus = SyntheticCorpus(split="val", speakers=2, clips_per_speaker=3, seconds=1.0)
        >>> len(corpus), corpus[0].id, corpus[-1].id
        (6, 'syn100000_000', 'syn100001_002')
    """

    @checked
    def __init__(
        self,
        config: SyntheticConfig | None = None,
        *,
        split: str | None = None,
        speakers: int = 20,
        clips_per_speaker: int = 5,
        seconds: float = 12.0,
        layout: str | Layout = LANDMARKS68.name,
        dims: int | None = None,
        cache: bool = True,
    ) -> None:
        if split is not None:
            check_choice("split", split, SPLITS)
        check_positive("speakers", speakers)
        check_positive("clips_per_speaker", clips_per_speaker)
        if speakers > _FIRST_SPEAKER["val"]:
            raise ArgumentError(f"`speakers`: expected at most {_FIRST_SPEAKER['val']}, got {speakers!r}")
        self.config = SyntheticConfig() if config is None else config
        self.layout = find_layout(layout)
        self.dims = _checked_dims(self.layout, dims)
        self.split = split
        self.seconds = seconds
        check_positive("seconds", seconds)
        check_positive("seconds", round(seconds * FPS) / FPS)
        numbers = [
            (_FIRST_SPEAKER[part] + speaker, clip)
            for part in (SPLITS if split is None else (split,))
            for speaker in range(speakers)
            for clip in range(clips_per_speaker)
        ]
        self._numbers = numbers
        frames = round(seconds * FPS)
        self.entries: tuple[dict[str, object], ...] = tuple(
            {"id": _clip_name(*number), "frames": frames, "speaker": _speaker_name(number[0]), "split": _split_of(number[0])}
            for number in numbers
        )
        self.speakers: tuple[str, ...] = tuple(sorted({_speaker_name(speaker) for speaker, _ in numbers}))
        self.bad: tuple[tuple[str, str], ...] = ()
        self._cache: dict[int, Clip] | None = {} if cache else None

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Clip: ...

    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...

    @checked
    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        """Generate one clip, or the list of the clips in a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        speaker, clip = self._numbers[index]
        made = synthetic_clip(self.config, speaker, clip, seconds=self.seconds, layout=self.layout, dims=self.dims)
        if self._cache is not None:
            self._cache[index] = made
        return made

    def __repr__(self) -> str:
        """Return the split and the sizes."""
        return f"SyntheticCorpus(split={self.split!r}: {len(self)} clips of {self.seconds:g} s, {len(self.speakers)} speakers)"


def _checked_dims(layout: Layout, dims: int | None) -> int:
    """Return the dims of the motion; raise :class:`ArgumentError` if the layout does not admit them."""
    if dims is not None and dims not in layout.dims:
        expected = " or ".join(map(str, layout.dims))
        raise ArgumentError(f"`dims`: expected {expected} for the layout {layout.name!r}, got {dims}")
    return layout.dims[0] if dims is None else dims


def _speaker_name(speaker: int) -> str:
    return f"syn{speaker:06d}"


def _clip_name(speaker: int, clip: int) -> str:
    return f"{_speaker_name(speaker)}_{clip:03d}"


def _split_of(speaker: int) -> str:
    return "val" if speaker >= _FIRST_SPEAKER["val"] else "train"


_PURPOSES = ("traits", "heard", "hidden", "noise", "camera")


def _generator(purpose: str, *numbers: int) -> np.random.Generator:
    """Return a separate random generator for each purpose, so that a setting changes only its own part of a clip."""
    return np.random.default_rng([_PURPOSES.index(purpose) + 1, *numbers])


def _perform(rng: np.random.Generator, voice: voice_model.Voice, frames: int) -> voice_model.Performance:
    length = frames * _STEP + 1 + 2 * round(_MARGIN * voice_model.CONTROL_RATE)
    times = (np.arange(length) / voice_model.CONTROL_RATE - _MARGIN).astype(np.float32)
    script = voice_model.write_script(rng, voice.tempo, -_MARGIN, float(times[-1]) + 0.5)
    return voice_model.perform(script, times)


def _linked(config: SyntheticConfig, real: FloatArray, hidden: FloatArray) -> FloatArray:
    """Mix gestures (frames, channels) at 25 Hz from ``real`` and ``hidden``, with the strength of the knob in each band."""
    frequency = np.fft.rfftfreq(len(real), 1 / FPS)
    octaves = np.log(np.maximum(frequency, 1e-9))
    coarse, fine = (
        0.5 - 0.5 * np.cos(np.pi * np.clip((octaves - math.log(low)) / math.log(high / low), 0, 1)) for low, high in _BAND_EDGES
    )
    shares = {"posture": 1 - coarse, "brows": coarse - fine, "lips": fine}
    spectrum_real = np.fft.rfft(real - voice_model.GESTURE_MEANS, axis=0)
    spectrum_hidden = np.fft.rfft(hidden - voice_model.GESTURE_MEANS, axis=0)
    mixed = np.zeros_like(spectrum_real, dtype=np.complex128)
    for band, share in shares.items():
        strength, lag = getattr(config, band), getattr(config, f"{band}_lag")
        delayed = strength * np.exp(-2j * np.pi * frequency * lag)
        other = math.sqrt(1 - strength**2)
        mixed += share[:, None] * (delayed[:, None] * spectrum_real + other * spectrum_hidden)
    return (np.fft.irfft(mixed, len(real), axis=0) + voice_model.GESTURE_MEANS).astype(np.float32)


def _recorded(waveform: FloatArray, snr_db: float | None, rng: np.random.Generator) -> FloatArray:
    """Add background noise that falls with frequency, ``snr_db`` below the level of the speech; limit the result to [-1, 1]."""
    if snr_db is not None:
        white = rng.standard_normal(len(waveform) + 23, dtype=np.float32)
        kernel = 1 / np.sqrt(np.arange(1, 25, dtype=np.float32))
        noise = np.convolve(white, kernel / np.sqrt((kernel**2).sum()), mode="valid")
        level = float(np.sqrt(np.mean(waveform**2))) + 1e-4
        waveform = waveform + np.float32(level * 10 ** (-snr_db / 20)) * noise.astype(np.float32)
    return np.tanh(waveform)
