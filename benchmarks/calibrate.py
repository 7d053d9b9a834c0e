"""Fit the calibration of a pyramid on people whom it has not been trained on, and show on others of them whether it holds.

    python -m benchmarks.calibrate --pyramid FOLDER --corpus FOLDER

Probabilities are judged crosswise: fitted on one half of the speakers, stated for the other, and the reverse. What is written is
fitted on all. Every crop is shown with its own audio and with another speaker's, half and half; next to these, faces that stand still
and crops in which hardly anybody speaks. Writes ``calibration.json`` (for :func:`avsync.metrics.calibration.load_calibration`), the
reliability diagram ``calibration.png`` and all numbers as ``calibration-report.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avsync._files import write_json
from avsync.corpus.banks.memory import Batch, ClipBank
from avsync.corpus.clip import Corpus
from avsync.figures import save_figure
from avsync.figures.calibration import expected_calibration_error, reliability_diagram
from avsync.metrics.calibration import Calibration, save_calibration
from avsync.metrics.calibration_fit import fit_calibration
from avsync.metrics.multi_scale import MAX_OFFSETS, multi_scale_embeddings
from avsync.metrics.offset import offset_distances, offset_from_distances
from avsync.metrics.posterior import offset_posterior
from avsync.metrics.report import LEAST_SPEECH
from avsync.models.syncer.interface import MultiScaleSyncer

KINDS = ("own", "other", "still")
MARGIN = 40


def curves(pyramid: MultiScaleSyncer, landmarks: Tensor, audio: Tensor) -> tuple[list[Tensor], list[int]]:
    """Distances at all offsets, one tensor (clips, offsets) a level, and the windows that they are means of."""
    parts, windows = [], []
    for start in range(0, landmarks.shape[0], 64):
        piece = slice(start, start + 64)
        embedded = multi_scale_embeddings(pyramid, landmarks[piece], audio[piece], margin=MARGIN)
        windows = [level.motion.shape[1] for level in embedded]
        parts.append(
            [offset_distances(**level._asdict(), max_offset=most) for level, most in zip(embedded, MAX_OFFSETS, strict=False)]
        )
    return [torch.cat(level) for level in zip(*parts, strict=True)], windows


def another_speaker(speaker: Tensor, generator: torch.Generator) -> Tensor:
    """For each crop, another one of somebody else, drawn at random."""
    weights = (speaker[:, None] != speaker[None]).double()
    return torch.multinomial(weights, 1, generator=generator).squeeze(1)


def measure(bank: ClipBank, pyramid: MultiScaleSyncer, lengths: Sequence[int], stride: int) -> list[dict[str, Any]]:
    """Curves of every kind of clip at every length, with the speaker of each crop and its share of speech."""
    found = []
    names = {name: number for number, name in enumerate(bank.speakers)}
    speaker_of = torch.tensor([names[name] for name in bank.clip_speakers])
    for frames in lengths:
        crops: Batch = bank.windows(frames, stride=stride, margin=MARGIN)
        speaker = speaker_of[crops.clip_index]
        other = another_speaker(speaker, torch.Generator().manual_seed(frames))
        still = crops.landmarks[:, :1].expand_as(crops.landmarks)
        shown = {
            "own": (crops.landmarks, crops.audio),
            "other": (crops.landmarks, crops.audio[other]),
            "still": (still, crops.audio),
        }
        entry: dict[str, Any] = {"frames": frames, "speaker": speaker, "speech": crops.speech_fraction >= LEAST_SPEECH}
        for kind in KINDS:
            entry[kind], entry["windows"] = curves(pyramid, *shown[kind])
        print(f"{frames} frames: {len(crops)} crops of {speaker.unique().numel()} speakers")
        found.append(entry)
    return found


def fitted(found: list[dict[str, Any]], keep: Sequence[Tensor]) -> Calibration:
    """The calibration of some of the crops of each length; crops without speech teach nothing about offsets."""
    chosen = [mask & entry["speech"] for entry, mask in zip(found, keep, strict=True)]
    matched, mismatched = (
        [[curve[mask] for curve in entry[kind]] for entry, mask in zip(found, chosen, strict=True)] for kind in ("own", "other")
    )
    return fit_calibration(matched, mismatched, [entry["windows"] for entry in found])


def crosswise(found: list[dict[str, Any]], prior: float) -> list[dict[str, Any]]:
    """Probability of each crop by the calibration of the speakers it is none of; one entry a length, level and kind."""
    results: list[dict[str, Any]] = []
    halves = [[entry["speaker"] % 2 == half for entry in found] for half in (0, 1)]
    calibrations = [fitted(found, keep) for keep in halves]
    for index, entry in enumerate(found):
        for level, count in enumerate(entry["windows"]):
            for kind in KINDS:
                distances = entry[kind][level]
                probability = torch.zeros(distances.shape[0])
                for half in (0, 1):
                    rest = halves[1 - half][index]
                    numbers = calibrations[half].levels[level]
                    probability[rest] = offset_posterior(distances[rest], count, calibration=numbers, prior=prior).probability
                right = offset_from_distances(distances).within(1)
                right = right if kind == "own" else torch.zeros_like(right)  # there is no offset to be right about
                results.append(
                    {"frames": entry["frames"], "level": level, "kind": kind, "probability": probability, "right": right}
                    | {"speech": entry["speech"]}
                )
    return results


def summary(results: list[dict[str, Any]], levels: int) -> list[dict[str, Any]]:
    """The table: how many crops are answered, and how many answers are right, by level, length and kind."""
    rows: list[dict[str, Any]] = []
    for level in range(levels):
        for result in (result for result in results if result["level"] == level):
            for speech, name in ((True, result["kind"]), (False, "own, hardly any speech")):
                if not speech and result["kind"] != "own":
                    continue
                mask = result["speech"] == speech
                probability, right = result["probability"][mask], result["right"][mask].double()
                answered = probability >= 0.5
                rows.append(
                    {
                        "level": level,
                        "frames": result["frames"],
                        "kind": name,
                        "crops": int(mask.sum()),
                        "answered": _mean(answered.double()),
                        "right among answered": _mean(right[answered]),
                        "right among the rest": _mean(right[~answered]),
                        "right": _mean(right),
                        "mean probability": _mean(probability),
                    }
                )
    return rows


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if values.numel() else None


def _together(results: list[dict[str, Any]], level: int, kinds: Sequence[str]) -> tuple[Tensor, Tensor]:
    chosen = [result for result in results if result["level"] == level and result["kind"] in kinds]
    return torch.cat([result["probability"] for result in chosen]), torch.cat([result["right"] for result in chosen])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pyramid", required=True, help="folder of saved syncers, or the name of a pretrained one")
    arguments.add_argument(
        "--corpus", type=Path, required=True, help="corpus whose split holds people the pyramid has not seen"
    )
    arguments.add_argument("--split", default="val", help="that split (default: val)")
    arguments.add_argument("--frames", type=int, nargs="+", default=[40, 80, 160], help="lengths of crops (default: 40 80 160)")
    arguments.add_argument("--stride", type=int, default=20, help="frames from crop to crop (default: 20)")
    arguments.add_argument("--out", type=Path, required=True, help="folder for the three files")
    options = arguments.parse_args()
    pyramid = MultiScaleSyncer.from_pretrained(options.pyramid)
    transform = pyramid.speech_features()
    if transform is None:
        arguments.error(f"{options.pyramid} was trained on features of its own, which have no name to make them by")
    bank = ClipBank(Corpus(options.corpus, split=options.split), features=transform.features)
    found = measure(bank, pyramid, options.frames, options.stride)
    levels = pyramid.num_levels
    halves, trusting = crosswise(found, 0.5), crosswise(found, 1.0)
    panels: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    errors = []
    for level in range(levels):
        mixed, own = _together(halves, level, ("own", "other")), _together(trusting, level, ("own",))
        panels[f"level {level}"] = {"half with another's sound, prior 1/2": mixed, "own sound, prior 1": own}
        error = {"mixed": expected_calibration_error(*mixed), "own": expected_calibration_error(*own)}
        errors.append({"level": level, "expected calibration error": error})
        print(f"level {level}: expected calibration error {error['mixed']:.3f} mixed, {error['own']:.3f} own sound")
    rows = summary(halves, levels)
    for row in rows:
        print(", ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()))
    calibration = fitted(found, [torch.ones_like(entry["speech"]) for entry in found])
    options.out.mkdir(parents=True, exist_ok=True)
    save_calibration(calibration, options.out / "calibration.json", syncers=pyramid)
    save_figure(reliability_diagram(panels), options.out / "calibration.png")
    write_json(options.out / "calibration-report.json", {"errors": errors, "rows": rows})
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
