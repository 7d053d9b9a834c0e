"""Measure which values the sync loss of each pretrained model returns for input of known synchrony.

    python -m benchmarks.expected_values [--corpus CORPUS] [--split val]

Six inputs: clips with their own audio, with audio that is 8 frames late, with the audio of another speaker, with a face that
stands still, with digital silence, and random points with white noise. The speakers are those of the synthetic talker, and of
a corpus if one is given. The table of the page "Expected values" is made from the JSON file that this script writes. The values
of unseen real speakers are also written to the package, for ``MultiScaleSyncLoss.reference_values``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from avsync._files import write_json
from avsync.corpus import Clip, Corpus, SyntheticCorpus, speech_mask
from avsync.losses import MultiScaleSyncLoss
from avsync.models import MultiScaleSyncer
from avsync.pretrained import REFERENCE_VALUES, model_folder, stored_checksum
from benchmarks import _harness

FRAMES = 80
SAMPLES = 640 * FRAMES
LATE = 8
MIN_SPEECH = 0.4
MODELS = (
    "landmarks68-25fps",
    "landmarks68-25fps-ensemble",
    "landmarks68-25fps-guide",
    "landmarks68-25fps-judge",
    "landmarks68-25fps-judge-mfcc",
    "landmarks68-25fps-judge-mouth",
    "landmarks68-25fps-mfcc",
    "landmarks68-25fps-mouth",
    "landmarks68-25fps-head",
    "landmarks68-25fps-pose",
    "landmarks68-25fps-robust",
    "landmarks68-25fps-regions",
)


def cut(clips: Sequence[Clip]) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Cut clips into segments of 80 frames, each measured from its first face in heights of that face.

    Returns:
        Landmarks (segments, 80, points, dims), audio (segments, samples), audio that is 8 frames late, and the speaker of each
        segment.
    """
    faces, audio, late, speakers = [], [], [], []
    for clip in clips:
        for start in range(LATE, clip.frames - FRAMES + 1, FRAMES):
            wave = torch.from_numpy(clip.waveform)[640 * start :][:SAMPLES]
            if speech_mask(wave).mean() < MIN_SPEECH:
                continue
            faces.append(torch.from_numpy(clip.landmarks)[start : start + FRAMES])
            audio.append(wave)
            late.append(torch.from_numpy(clip.waveform)[640 * (start - LATE) :][:SAMPLES])
            speakers.append(clip.speaker)
    return torch.stack(faces), torch.stack(audio), torch.stack(late), speakers


def another_speaker(speakers: Sequence[str]) -> list[int]:
    """Return for each segment the index of a segment of another speaker, as far away as half of the list."""
    count = len(speakers)
    found = []
    for index, speaker in enumerate(speakers):
        shifts = [(index + count // 2 + step) % count for step in range(count)]
        found.append(next(other for other in shifts if speakers[other] != speaker))
    return found


def inputs(clips: Sequence[Clip]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return landmarks and audio of each of the six inputs."""
    faces, audio, late, speakers = cut(clips)
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(faces.shape, generator=rng), 0.1 * torch.randn(audio.shape, generator=rng)
    return {
        "true pair": (faces, audio),
        f"audio {LATE} frames late": (faces, late),
        "audio of another speaker": (faces, audio[another_speaker(speakers)]),
        "face that stands still": (faces[:, :1].expand_as(faces), audio),
        "digital silence": (faces, torch.zeros_like(audio)),
        "random points, white noise": noise,
    }


@torch.inference_mode()
def losses(model: str, landmarks: Tensor, audio: Tensor) -> Tensor:
    """Return the loss of every segment at every level that its length fills, (segments, levels)."""
    loss = MultiScaleSyncLoss.from_pretrained(model, skip_short=True)
    syncers = cast(MultiScaleSyncer, loss.syncers)
    levels = sum(syncers.shortest_clip([level]) <= FRAMES for level in range(loss.num_levels))
    pairs = zip(landmarks, audio, strict=True)
    return torch.stack([loss(face[None], wave[None]).per_level[:levels] for face, wave in pairs])


def earlier() -> dict[str, Any]:
    """Return the tables of the result file by kind of speaker, so that a run of some models keeps the others."""
    path = _harness.RESULTS / "expected_values.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["speakers"] if path.exists() else {}
    return found


def main() -> None:
    """Measure, print and write ``benchmarks/results/expected_values.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a corpus; without one only the synthetic talker is measured")
    parser.add_argument("--split", default="val", help="the split of the corpus")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="pretrained models; the results of others are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    speakers: dict[str, Sequence[Clip]] = {"synthetic talker": SyntheticCorpus(split="val", speakers=16, clips_per_speaker=2)}
    if args.corpus:
        speakers = {"unseen real speakers": Corpus(args.corpus, split=args.split), **speakers}
    result: dict[str, Any] = {"metadata": _harness.run_metadata(), "frames": FRAMES, "speakers": {}}
    for name, clips in speakers.items():
        cases = inputs(clips)
        segments = len(next(iter(cases.values()))[0])
        table: dict[str, Any] = earlier().get(name, {"models": {}})["models"]
        for model in args.models:
            table[model] = {}
            for case, pair in cases.items():
                values = losses(model, *pair)
                mean, spread = values.mean(0).tolist(), values.std(0).tolist()
                table[model][case] = {"mean": mean, "std": spread, "total": values.mean().item()}
                print(f"{name}: {model}: {case}: " + ", ".join(f"{value:.2f}" for value in mean), flush=True)
        result["speakers"][name] = {"segments": segments, "models": table}
    write_json(_harness.RESULTS / "expected_values.json", result)
    write_reference_values(result["speakers"])


def write_reference_values(speakers: dict[str, Any]) -> None:
    """Write the means of unseen real speakers for ``MultiScaleSyncLoss.reference_values``."""
    models = speakers.get("unseen real speakers", {"models": {}})["models"]
    values = {
        stored_checksum(model_folder(model)): {
            case: [round(value, 3) for value in numbers["mean"]] for case, numbers in cases.items()
        }
        for model, cases in models.items()
    }
    if values:
        write_json(REFERENCE_VALUES, values)


if __name__ == "__main__":
    main()
