"""Speech of the synthetic talker: phones, scripts of phrases, and their audio and gestures.

A *script* is a random sequence of phrases, words, syllables and phones with their times. The script determines the acoustic
controls of the voice (formants, voicing, noise, pitch, loudness) and the gestures of the face (:data:`GESTURES`), both at
:data:`CONTROL_RATE`. Audio and motion are therefore two views of the same hidden process. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from avsync.corpus.media.info import FloatArray
from avsync.pyramid import SAMPLE_RATE

HOP = 128
"""Samples between two control frames; one motion frame has 5 control frames, and control frame j is at sample 128 j."""
CONTROL_RATE = SAMPLE_RATE / HOP
_WINDOW = 2 * HOP
_FFT = 512

GESTURES = ("open", "spread", "brow", "pitch", "yaw", "roll", "lean", "rise")
"""Channels of the last axis of a gesture track, in order; the face defines their units."""
GESTURE_MEANS = np.array([0.27, 0.0, 0.135, 0.0, 0.0, 0.0, 0.0, 0.0], np.float32)
"""Long-term mean of each channel, which is kept when the link of a gesture with the audio is cut."""

# name: milliseconds, F1, F2, F3 (Hz), voicing, noise, noise centre (Hz), noise width (Hz), lip opening, lip spreading
_PHONES: dict[str, tuple[float, ...]] = {
    "pause": (300, 500, 1500, 2500, 0.0, 0.0, 3000, 1500, 0.00, 0.0),
    "i": (95, 280, 2250, 2950, 0.80, 0.0, 3000, 1500, 0.30, 1.0),
    "e": (100, 400, 2050, 2650, 0.90, 0.0, 3000, 1500, 0.50, 0.7),
    "ae": (120, 680, 1720, 2450, 1.00, 0.0, 3000, 1500, 0.90, 0.5),
    "a": (125, 760, 1250, 2500, 1.00, 0.0, 3000, 1500, 1.00, 0.1),
    "schwa": (70, 500, 1450, 2450, 0.75, 0.0, 3000, 1500, 0.45, 0.0),
    "aw": (120, 570, 860, 2450, 0.95, 0.0, 3000, 1500, 0.75, -0.6),
    "o": (110, 430, 800, 2400, 0.90, 0.0, 3000, 1500, 0.50, -0.8),
    "u": (95, 310, 780, 2250, 0.80, 0.0, 3000, 1500, 0.25, -1.0),
    "m": (75, 260, 1050, 2200, 0.35, 0.0, 3000, 1500, -0.08, 0.1),
    "n": (65, 270, 1650, 2500, 0.35, 0.0, 3000, 1500, 0.20, 0.2),
    "l": (65, 350, 1150, 2700, 0.55, 0.0, 3000, 1500, 0.30, 0.1),
    "r": (65, 360, 1250, 1650, 0.55, 0.0, 3000, 1500, 0.25, -0.4),
    "w": (65, 300, 700, 2200, 0.45, 0.0, 3000, 1500, 0.08, -1.0),
    "y": (60, 270, 2250, 3000, 0.50, 0.0, 3000, 1500, 0.22, 0.7),
    "s": (100, 350, 1700, 2600, 0.0, 0.60, 6200, 1200, 0.12, 0.5),
    "sh": (105, 350, 1800, 2500, 0.0, 0.70, 3300, 900, 0.18, -0.5),
    "f": (90, 350, 1200, 2300, 0.0, 0.25, 5500, 3000, 0.02, 0.1),
    "v": (65, 280, 1200, 2300, 0.30, 0.12, 5500, 3000, 0.02, 0.1),
    "z": (75, 300, 1700, 2600, 0.25, 0.35, 6000, 1200, 0.12, 0.5),
    "h": (60, 550, 1500, 2500, 0.05, 0.20, 1800, 900, 0.40, 0.0),
    "b|": (65, 220, 900, 2200, 0.10, 0.0, 800, 600, -0.10, 0.0),
    "p|": (80, 300, 900, 2200, 0.0, 0.0, 800, 600, -0.10, 0.0),
    "d|": (55, 250, 1750, 2600, 0.10, 0.0, 4500, 1500, 0.15, 0.2),
    "t|": (65, 300, 1750, 2600, 0.0, 0.0, 4500, 1500, 0.15, 0.2),
    "g|": (55, 250, 2000, 2300, 0.10, 0.0, 2200, 700, 0.25, 0.1),
    "k|": (70, 300, 2000, 2300, 0.0, 0.0, 2200, 700, 0.25, 0.1),
    "b>": (14, 300, 1000, 2300, 0.4, 0.30, 900, 700, 0.15, 0.0),
    "p>": (35, 350, 1000, 2300, 0.0, 0.40, 1000, 800, 0.20, 0.0),
    "d>": (14, 320, 1750, 2600, 0.4, 0.40, 4300, 1500, 0.20, 0.2),
    "t>": (35, 350, 1750, 2600, 0.0, 0.55, 4800, 1600, 0.20, 0.2),
    "g>": (18, 300, 2000, 2300, 0.4, 0.35, 2200, 700, 0.25, 0.1),
    "k>": (38, 350, 2000, 2300, 0.0, 0.50, 2300, 800, 0.28, 0.1),
}
_INDEX = {name: index for index, name in enumerate(_PHONES)}
_TABLE = np.array(list(_PHONES.values()), np.float32)
_VOWELS = [_INDEX[name] for name in ("i", "e", "ae", "a", "aw", "o", "u")]
_SCHWA = _INDEX["schwa"]
_STOPS = [[_INDEX[stop + "|"], _INDEX[stop + ">"]] for stop in "bpdtgk"]
_ONSETS = [[_INDEX[name]] for name in ("m", "n", "l", "r", "w", "y", "s", "sh", "f", "v", "z", "h")] + _STOPS + _STOPS[:2]
_CODAS = [[_INDEX[name]] for name in ("n", "m", "l", "s", "z", "f")] + _STOPS


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Constants of a speaker's voice: pitch (Hz), formant scale, tilt (dB per octave), breath, level (dB), tempo."""

    pitch: float
    formant_scale: float
    tilt: float
    breath: float
    level: float
    tempo: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Voice:
        """Draw a random speaker; low voices tend to have long vocal tracts, as in real speakers."""
        size = rng.uniform(-1, 1)
        return cls(
            pitch=float(150 * 2 ** (-0.6 * size + 0.1 * rng.standard_normal())),
            formant_scale=float(1 - 0.1 * size + 0.03 * rng.standard_normal()),
            tilt=float(rng.uniform(-8, -4)),
            breath=float(rng.uniform(0.01, 0.06)),
            level=float(rng.uniform(-4, 4)),
            tempo=float(rng.uniform(0.9, 1.12)),
        )


@dataclass(frozen=True, kw_only=True)
class Script:
    """Segments (phones) with their phrases and words; times are in seconds from the first frame of the clip."""

    starts: FloatArray
    phones: NDArray[np.int64]
    stress: FloatArray
    word: NDArray[np.int64]
    phrase: NDArray[np.int64]
    accents: FloatArray
    """(accents, 2): time and strength of each pitch accent."""
    phrases: FloatArray
    """(phrases, 4): start, end, effort (loudness), tension (pitch register and brightness)."""
    emphasis: FloatArray
    """(words,): emphasis of each word."""


def write_script(rng: np.random.Generator, tempo: float, begin: float, end: float) -> Script:
    """Draw a random text spoken from ``begin`` to ``end`` (seconds), at about 4.5 ``tempo`` syllables per second."""
    starts: list[float] = []
    phones: list[int] = []
    stress: list[float] = []
    words: list[int] = []
    phrase_of: list[int] = []
    accents: list[tuple[float, float]] = []
    phrases: list[tuple[float, float, float, float]] = []
    time, word = begin - rng.uniform(0, 2), 0

    def say(phone: int, length: float, stressed: float) -> None:
        nonlocal time
        starts.append(time)
        phones.append(phone)
        stress.append(stressed)
        words.append(word)
        phrase_of.append(len(phrases))
        time += length

    while time < end:
        first = time
        syllables = int(rng.integers(3, 10))
        until_stress = 0
        for _ in range(syllables):
            if until_stress == 0:  # a word begins, and its first syllable carries the stress
                word += 1
                until_stress = int(rng.integers(1, 4))
            stressed = float(until_stress >= 1 and (not words or words[-1] != word or phrase_of[-1] != len(phrases)))
            until_stress -= 1
            pieces = [*_ONSETS[rng.integers(len(_ONSETS))]] if rng.random() < 0.88 else []
            pieces.append(int(rng.choice(_VOWELS)) if stressed or rng.random() < 0.45 else _SCHWA)
            nucleus = len(pieces) - 1
            if rng.random() < 0.3:
                pieces += _CODAS[rng.integers(len(_CODAS))]
            lengths = np.exp(0.18 * rng.standard_normal(len(pieces))) / tempo
            for position, (phone, factor) in enumerate(zip(pieces, lengths, strict=True)):
                length = float(_TABLE[phone, 0]) / 1000 * float(factor)
                if position == nucleus:
                    length *= 1.35 if stressed else 0.95
                    if stressed:
                        accents.append((time + 0.5 * length, float(np.clip(1 + 0.35 * rng.standard_normal(), 0.3, 1.8))))
                say(phone, length, stressed)
        phrases.append(
            (first, time, float(np.clip(rng.standard_normal(), -2, 2)), float(np.clip(rng.standard_normal(), -2, 2)))
        )
        word += 1
        length = rng.uniform(1.0, 1.8) if rng.random() < 0.1 else 0.22 + rng.gamma(2.0, 0.13)
        say(_INDEX["pause"], float(length), 0.0)
        phrase_of[-1] = len(phrases) - 1
    return Script(
        starts=np.array(starts, np.float32),
        phones=np.array(phones),
        stress=np.array(stress, np.float32),
        word=np.array(words),
        phrase=np.array(phrase_of),
        accents=np.array(accents, np.float32),
        phrases=np.array(phrases, np.float32),
        emphasis=np.clip(rng.standard_normal(word + 1), -2, 2).astype(np.float32),
    )


def smooth(tracks: FloatArray, seconds: float) -> FloatArray:
    """Smooth along the first axis by a Gaussian with a standard deviation of ``seconds``, without delay."""
    sigma = seconds * CONTROL_RATE
    reach = max(1, round(3.5 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(tracks, ((reach, reach), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=1).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Performance:
    """Controls and gestures of a script, ``CONTROL_RATE`` frames per second."""

    formants: FloatArray
    """(frames, 3) in Hz, before the speaker's scale."""
    sources: FloatArray
    """(frames, 2): voicing and noise, 0 to 1."""
    noise: FloatArray
    """(frames, 2): centre and width of the noise in Hz."""
    loudness: FloatArray
    """(frames,) in dB."""
    register: FloatArray
    """(frames,): pitch relative to the average pitch of the speaker, in octaves."""
    tension: FloatArray
    """(frames,): brightness of the voice, in standard deviations."""
    gestures: FloatArray
    """(frames, 8): see GESTURES."""

    def cut(self, begin: int, end: int) -> Performance:
        """Return the segment from control frame ``begin`` up to, but excluding, ``end``."""
        return Performance(**{field.name: getattr(self, field.name)[begin:end] for field in fields(self)})


def perform(script: Script, times: FloatArray) -> Performance:
    """Compute the controls and gestures of a script at ``times`` (seconds, ascending, ``CONTROL_RATE`` per second)."""
    segment = np.clip(np.searchsorted(script.starts, times, side="right") - 1, 0, None)
    row = _TABLE[script.phones[segment]]
    speaking = (script.phones[segment] != _INDEX["pause"]).astype(np.float32)
    stress = script.stress[segment]
    start, end, effort, tension = script.phrases[script.phrase[segment]].T
    position = np.clip((times - start) / (end - start), 0, 1) - 0.5
    emphasis = script.emphasis[script.word[segment]]

    bumps = np.zeros_like(times)
    for instant, strength in script.accents:
        near = slice(*np.searchsorted(times, [instant - 0.4, instant + 0.4]))
        bumps[near] += strength * np.exp(-0.5 * ((times[near] - instant) / 0.085) ** 2)

    # Phrase scale: effort and tension of the voice, posture of the head.
    loud = speaking * (4.0 * effort - 6.0 * position + 2.0 * emphasis + 2.5 * stress)
    tense = speaking * (tension - 1.0 * position)
    slow = smooth(np.stack([speaking - 0.7, speaking * (0.7 * effort - 1.6 * position + 0.35 * emphasis), tense], axis=1), 0.12)
    body = smooth(slow, 0.12)
    contour = smooth(np.stack([loud, tense], axis=1), 0.03)

    openness = row[:, 8] * np.where(row[:, 4] > 0.7, 0.85 + 0.25 * stress + 0.08 * effort, 1.0)
    lips = smooth(np.stack([openness, row[:, 9] * speaking], axis=1), 0.026)
    gestures = np.stack(
        [
            lips[:, 0],
            lips[:, 1],
            bumps * 0.35,
            0.45 * (bumps - 0.5) - 1.1 * body[:, 0] + 0.5 * body[:, 1],
            0.6 * body[:, 2] + 0.5 * body[:, 1],
            0.8 * body[:, 2] - 0.6 * body[:, 0],
            body[:, 1],
            body[:, 0] + 0.4 * body[:, 2],
        ],
        axis=1,
    )
    return Performance(
        formants=smooth(row[:, 1:4], 0.016),
        sources=smooth(row[:, 4:6], 0.006),
        noise=row[:, 6:8],
        loudness=contour[:, 0],
        register=0.10 * contour[:, 1] + 0.012 * contour[:, 0] + 0.3 * bumps,
        tension=contour[:, 1],
        gestures=gestures.astype(np.float32),
    )


def speak(performance: Performance, voice: Voice, rng: np.random.Generator) -> FloatArray:
    """Synthesise the audio of a performance: (frames - 1) * HOP samples, with control frame j centred on sample HOP * j.

    The synthesis is a source-filter model. Glottal pulses and white noise are cut into half-overlapping Hann windows. Each
    window is filtered by the zero-phase envelope of its frame in one batched FFT, and the windows are overlap-added.
    """
    frames = len(performance.loudness)
    samples = (frames + 1) * HOP  # from half a window before the first control frame to half a window after the last
    grid = (np.arange(samples, dtype=np.float32) - HOP) / HOP
    pitch = voice.pitch * 2 ** (performance.register + 0.01 * rng.standard_normal(frames, dtype=np.float32))
    phase = np.cumsum(np.interp(grid, np.arange(frames), pitch) / SAMPLE_RATE)
    turns = np.floor(phase)
    at = np.flatnonzero(np.diff(turns) > 0) + 1
    late = (phase[at] - turns[at]) / (phase[at] - phase[at - 1])  # time of the pulse before the sample
    pulses = np.zeros(samples, np.float32)
    pulses[at] = 1 - late
    pulses[at - 1] += late
    pulses *= 8.0  # a pulse train is sparse; the factor raises its level to that of the noise
    white = rng.standard_normal(samples, dtype=np.float32)

    window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
    frequency = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE).astype(np.float32)
    loudness = 10 ** ((performance.loudness + voice.level) / 20)
    voicing, hiss = (performance.sources * loudness[:, None] * 0.05).T.astype(np.float32)
    envelope = _formant_envelope(frequency, performance.formants * voice.formant_scale)
    octaves = np.log2(np.maximum(frequency, 100.0) / 500.0)
    tilt = (voice.tilt + 1.5 * performance.tension) / 6.02
    envelope *= np.exp2(tilt[:, None] * octaves).astype(np.float32) * voicing[:, None]
    centre, width = performance.noise.T
    fricative = np.exp(-0.5 * ((frequency - centre[:, None]) / width[:, None]) ** 2) * hiss[:, None]
    fricative += voice.breath * envelope

    spectrum = _analyse(pulses, window) * envelope
    spectrum += _analyse(white, window) * fricative
    pieces = np.roll(np.fft.irfft(spectrum, _FFT, axis=1), HOP, axis=1)  # zero phase: the response also precedes the window
    out = np.zeros((frames + 3, HOP), np.float32)
    for quarter in range(_FFT // HOP):
        out[quarter : quarter + frames] += pieces[:, quarter * HOP : (quarter + 1) * HOP]
    return out[2 : frames + 1].reshape(-1)


def _analyse(signal: FloatArray, window: FloatArray) -> NDArray[np.complex64]:
    pieces = np.lib.stride_tricks.sliding_window_view(signal, _WINDOW)[::HOP] * window
    return np.fft.rfft(pieces, _FFT, axis=1).astype(np.complex64, copy=False)


def _formant_envelope(frequency: FloatArray, formants: FloatArray) -> FloatArray:
    """Compute the gain of cascaded resonators, (frames, bins), for formants (frames, 3) in Hz and a fixed fourth formant."""
    squared = frequency**2
    product = np.ones((len(formants), len(frequency)), np.float32)
    fourth = np.full((len(formants), 1), 3600.0, np.float32)
    for centre, bandwidth in zip(np.hstack([formants, fourth]).T, (90.0, 110.0, 170.0, 300.0), strict=True):
        peak = (centre**2)[:, None]
        product *= ((squared - peak) ** 2 + squared * bandwidth**2) / peak**2
    gain = 1 / np.sqrt(product)
    # A cascade falls by 12 dB per octave above each formant. The speaker sets the tilt, so the high frequencies are restored
    # here. Zero-phase pulses all have the same sign, so frequencies below the voice are removed.
    gain *= np.sqrt(1 + squared / 1500.0**2) * squared / (squared + 60.0**2)
    return gain.astype(np.float32, copy=False)
