"""Count how often ``avsync offset --speaker`` names the right face among several, and whether its probabilities are right.

    python -m benchmarks.speaking_face --corpus FOLDER [--half B] [--out FILE]

A scene is the audio of a crop with speech, and two or three faces. In one half of the scenes the face of the crop itself and
faces of other speakers are shown, in the other half faces of other speakers only, so that "nobody" is right. The crops are from
one half of the validation speakers; each pair of a face and an audio track is measured like a complete video.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from avsync.corpus import Clip, Corpus, speaker_half
from avsync.corpus.clip import SAMPLES_PER_FRAME
from avsync.corpus.speech import speech_mask
from avsync.evaluation import Recording, recording_report, speaking_face
from avsync.metrics import load_calibration
from avsync.metrics.report import LEAST_SPEECH, LevelSync
from avsync.models import MultiScaleSyncer
from avsync.pretrained import CALIBRATION, model_folder

LENGTHS = (50, 100, 200)
"""Lengths of the crops in frames: 2, 4 and 8 seconds."""
FACES = (2, 3)
CROPS = 10
"""Most crops per speaker."""
EDGES = (0.0, 0.5, 0.7, 0.9, 0.97, 1.0)
"""Edges of the bins of probability."""


class Scene(NamedTuple):
    """Answer to a scene."""

    frames: int
    faces: int
    own: bool
    """True if the face of the audio is shown; otherwise "nobody" is right."""
    right_is_highest: bool
    """True if the right face has the highest probability of all faces; False if the right face is not shown."""
    right: bool
    """True if the answer is right: the right face, or nobody."""
    named: bool
    """True if a face is named."""
    stated: float
    """Probability of the answer."""
    weight: float
    """Weight that gives nobody the same share of the scenes as each face."""


def crops(clips: list[Clip], frames: int) -> list[Clip]:
    """Return crops with speech that do not overlap, at most ``CROPS`` per speaker."""
    found: list[Clip] = []
    taken: Counter[str] = Counter()
    for clip in clips:
        spoken = speech_mask(clip.waveform)
        for first in range(0, clip.frames - frames + 1, frames):
            last = first + frames
            if taken[clip.speaker] < CROPS and spoken[first:last].mean() >= LEAST_SPEECH:
                taken[clip.speaker] += 1
                waveform = clip.waveform[SAMPLES_PER_FRAME * first : SAMPLES_PER_FRAME * last]
                found.append(replace(clip, landmarks=clip.landmarks[first:last], waveform=waveform, missing_audio=()))
    return found


def scenes(clips: list[Clip], syncers: MultiScaleSyncer, frames: int) -> Iterator[Scene]:
    """Yield the scenes of each clip's audio."""
    transform = syncers.speech_features()
    assert transform is not None
    calibration = load_calibration(model_folder(MODEL) / CALIBRATION, syncers=syncers)
    rng = np.random.default_rng(0)
    for clip in clips:
        shown = {"own": clip}
        speakers = {clip.speaker}
        for number in rng.permutation(len(clips)).tolist():
            if clips[number].speaker not in speakers and len(shown) <= max(FACES):
                shown[f"other{len(shown)}"] = clips[number]
                speakers.add(clips[number].speaker)
        faces = {
            name: Recording(name, (Clip(name, name, "val", face.landmarks, clip.waveform),)) for name, face in shown.items()
        }
        reports: dict[str, list[LevelSync]] = {
            name: recording_report(face, syncers, audio_transform=transform, calibration=calibration)
            for name, face in faces.items()
        }
        others = [name for name in faces if name != "own"]
        for count in FACES:
            for own in (True, False):
                chosen = ["own", *others[: count - 1]] if own else others[:count]
                found = speaking_face({name: faces[name] for name in chosen}, lambda face: reports[face.name])  # noqa: B023
                likely = max(found.probabilities, key=lambda name: found.probabilities[name])
                stated = found.nobody if found.person is None else found.probabilities[found.person]
                right = found.person == ("own" if own else None)
                weight = count if own else 1
                yield Scene(frames, count, own, own and likely == "own", right, found.person is not None, stated, weight)


def table(found: list[Scene]) -> list[dict[str, Any]]:
    """Return shares by length and number of faces."""
    rows = []
    for frames in LENGTHS:
        for faces in FACES:
            some = [scene for scene in found if (scene.frames, scene.faces) == (frames, faces)]
            own, nobody = [scene for scene in some if scene.own], [scene for scene in some if not scene.own]
            rows.append(
                {
                    "seconds": frames / 25,
                    "faces": faces,
                    "scenes": len(own),
                    "right face has the highest probability": np.mean([scene.right_is_highest for scene in own]),
                    "right face is the answer": np.mean([scene.right for scene in own]),
                    "another face is the answer": np.mean([scene.named and not scene.right for scene in own]),
                    "nobody is the answer where nobody speaks": np.mean([scene.right for scene in nobody]),
                }
            )
    return rows


def reliability(found: list[Scene]) -> list[dict[str, Any]]:
    """Return the stated probability and the share of right answers, by length and bin of probability."""
    rows = []
    for frames in LENGTHS:
        for low, high in itertools.pairwise(EDGES):
            some = [scene for scene in found if scene.frames == frames and low <= scene.stated < high + (high == 1)]
            if some:
                weights = [scene.weight for scene in some]
                rows.append(
                    {
                        "seconds": frames / 25,
                        "from": low,
                        "to": high,
                        "scenes": len(some),
                        "stated": np.average([scene.stated for scene in some], weights=weights),
                        "right": np.average([scene.right for scene in some], weights=weights),
                    }
                )
    return rows


MODEL = "landmarks68-25fps"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--corpus", type=Path, required=True, help="corpus whose split val holds unseen speakers")
    arguments.add_argument("--half", choices=("A", "B"), default="B", help="half of the speakers (default: %(default)s)")
    arguments.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON")
    options = arguments.parse_args()
    syncers = MultiScaleSyncer.from_pretrained(MODEL)
    clips = [clip for clip in Corpus(options.corpus, split="val") if speaker_half(clip.speaker) == options.half]
    found = [scene for frames in LENGTHS for scene in scenes(crops(clips, frames), syncers, frames)]
    result = {"half": options.half, "table": table(found), "reliability": reliability(found)}
    for row in [*result["table"], *result["reliability"]]:
        print({key: round(float(value), 3) for key, value in row.items()})
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
