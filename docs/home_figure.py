"""Draw the animation of the home page: one face of the synthetic talker with three audio tracks, and the score of each level.

    python docs/home_figure.py

Writes ``docs/images/talker-light.gif`` and ``docs/images/talker-dark.gif``. The scores are those of the pretrained default:
minus the sync loss, over the whole clip of 80 frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from avsync import MultiScaleSyncLoss
from avsync.corpus import SyntheticCorpus, speech_mask
from avsync.figures import FACE_LINES

FRAMES, SHOWN, LATE = 80, 50, 8
THEMES = {
    "light": {"back": "#ffffff", "ink": "#202124", "faint": "#9aa0a6", "bar": "#0072b2"},
    "dark": {"back": "#1e2129", "ink": "#e6e6ee", "faint": "#7d828f", "bar": "#56b4e9"},
}
LEVELS = ("0.2 s: lips", "0.4 s: syllables", "0.8 s: words", "1.6 s: phrases")


def main() -> None:
    """Score the three pairs and draw them in both themes."""
    corpus = SyntheticCorpus(split="val", speakers=8, clips_per_speaker=1, seconds=8.0)
    clip, other = corpus[0], corpus[1]
    # The segment with the most speech.
    speech = speech_mask(clip.waveform)
    begin = max(range(LATE, clip.frames - FRAMES), key=lambda frame: speech[frame : frame + SHOWN].sum())
    landmarks = clip.landmarks[begin : begin + FRAMES]
    tracks = {
        "with its own audio": (clip.waveform, begin),
        "audio 0.32 s late": (clip.waveform, begin - LATE),
        "audio of another speaker": (other.waveform, begin),
    }
    loss = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps")
    scenes = []
    for title, (waveform, start) in tracks.items():
        audio = waveform[640 * start : 640 * (start + FRAMES)]
        with torch.inference_mode():
            scores = -loss(torch.from_numpy(landmarks)[None], torch.from_numpy(audio)[None]).per_level
        print(title, [round(score, 2) for score in scores.tolist()])
        scenes.append((title, audio, scores.tolist()))
    for theme, colors in THEMES.items():
        frames = [
            draw(landmarks, title, audio, scores, frame, colors)
            for title, audio, scores in scenes
            for frame in range(0, SHOWN, 2)
        ]
        # One palette for all frames; without dithering, from which lines suffer.
        palette = frames[0].quantize(64)
        first, *rest = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        path = Path(__file__).parent / "images" / f"talker-{theme}.gif"
        first.save(path, save_all=True, append_images=rest, duration=80, loop=0, optimize=True)
        print(path, path.stat().st_size // 1024, "KB")


def draw(
    landmarks: np.ndarray, title: str, audio: np.ndarray, scores: list[float], frame: int, colors: dict[str, str]
) -> Image.Image:
    """Draw one frame: the face over its audio on the left, one bar per level on the right."""
    figure = Figure(figsize=(7.2, 3.6), dpi=100, facecolor=colors["back"])
    face_axes = figure.add_axes((0.02, 0.24, 0.4, 0.74))
    face = landmarks[frame]
    for line in FACE_LINES:
        face_axes.plot(*face[list(line)].T, color=colors["ink"], linewidth=2, solid_capstyle="round")
    middle = (landmarks.reshape(-1, 2).max(0) + landmarks.reshape(-1, 2).min(0)) / 2
    reach = np.ptp(landmarks.reshape(-1, 2), axis=0).max() / 2 * 1.05
    face_axes.set(xlim=(middle[0] - reach, middle[0] + reach), ylim=(middle[1] + reach, middle[1] - reach), aspect="equal")
    face_axes.axis("off")
    wave_axes = figure.add_axes((0.04, 0.05, 0.36, 0.17))
    shown = audio[: 640 * SHOWN].reshape(-1, 160)
    wave_axes.fill_between(np.arange(len(shown)), shown.min(1), shown.max(1), color=colors["faint"], linewidth=0)
    wave_axes.axvline(4 * frame, color=colors["bar"], linewidth=2)
    wave_axes.set(xlim=(0, len(shown)), ylim=(-1.05 * abs(shown).max(), 1.05 * abs(shown).max()))
    wave_axes.axis("off")
    bars = figure.add_axes((0.62, 0.16, 0.35, 0.62), facecolor="none")
    places = np.arange(len(scores))
    bars.barh(places, [0.6] * len(scores), color=colors["faint"], alpha=0.25, height=0.6)
    bars.barh(places, [max(score, 0.005) for score in scores], color=colors["bar"], height=0.6)
    for place, score in zip(places, scores, strict=True):
        bars.text(max(score, 0.0) + 0.015, place, f"{score:.2f}", va="center", color=colors["ink"], fontsize=11)
    bars.set(xlim=(0, 0.6), ylim=(len(scores) - 0.5, -0.5))
    bars.set_yticks(places, LEVELS, color=colors["ink"], fontsize=11)
    bars.set_xticks([])
    bars.tick_params(length=0)
    for spine in bars.spines.values():
        spine.set_visible(False)
    figure.text(0.44, 0.87, title, color=colors["ink"], fontsize=15, weight="bold")
    figure.text(0.44, 0.04, "score of each window length, 1 is perfect", color=colors["faint"], fontsize=10)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


if __name__ == "__main__":
    main()
