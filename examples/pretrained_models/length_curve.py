"""Accuracy by clip length in two protocols, next to the figures that GestSync reports.

    python examples/pretrained_models/length_curve.py --corpus PATH [--models NAME_OR_FOLDER ...] [--out FILE] [--figure FILE]

Level 0, offsets of up to 15 frames to both sides, found within one frame.

- "published": the protocol of the lip-sync literature. A clip has 50 frames and no audio around it. The distances of K - 4
  windows (K frames) are averaged at every position in the clip. Offsets without audio in the clip are left out. Clips are not
  selected by speech.
- "around": clips of K frames with at least 80 % speech and the audio around them; every frame counts once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from conditions import GROUPS, MARGIN
from outputs import add_outputs, write_outputs
from torch import Tensor
from torch.nn import functional as F

from avsync.audio import SpeechFeatures
from avsync.corpus import ClipBank, Corpus
from avsync.metrics import offset_within, sync_offset
from avsync.models import MultiScaleSyncer

LENGTHS = (5, 7, 9, 11, 13, 15)
CLIP, REACH, CHUNK = 50, 15, 128
GESTSYNC = (71.9, 78.8, 84.3, 89.5, 92.0, 94.9)
"""GestSync on 128 points of the face, LRS2 (Hegde and Zisserman, BMVC 2023)."""


def embedded(syncers: MultiScaleSyncer, landmarks: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit embeddings of level 0."""
    motion = syncers.embed_motion(landmarks, levels=[0])[0]
    return F.normalize(motion, dim=-1), F.normalize(syncers.embed_audio(audio, levels=[0])[0], dim=-1)


def distances_at_offsets(motion: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances of unit embeddings at all offsets, (clips, windows, offsets), and 1 where audio exists."""
    windows = motion.shape[1]
    heard, exists = F.pad(audio, (0, 0, REACH, REACH)), F.pad(torch.ones(audio.shape[:2]), (REACH, REACH))
    shifts = range(2 * REACH + 1)
    cosines = torch.stack([(motion * heard[:, shift : shift + windows]).sum(dim=-1) for shift in shifts], dim=2)
    return (2.0 - 2.0 * cosines).clamp_min(0).sqrt(), torch.stack(
        [exists[:, shift : shift + windows] for shift in shifts], dim=2
    )


def published(syncers: MultiScaleSyncer, bank: ClipBank) -> tuple[dict[int, Tensor], Tensor]:
    """Return for each length whether each position of each clip is right, (clips, positions), and the clips' indices."""
    crops = bank.windows(CLIP, stride=CLIP)
    right: dict[int, list[Tensor]] = {length: [] for length in LENGTHS}
    for start in range(0, len(crops), CHUNK):
        some = crops.select(slice(start, start + CHUNK))
        distances, exists = distances_at_offsets(*embedded(syncers, some.landmarks, some.audio))
        for length in LENGTHS:
            sums, counts = (
                F.avg_pool1d(x.transpose(1, 2), length - 4, 1).transpose(1, 2) for x in (distances * exists, exists)
            )
            # An offset counts only if the audio of all windows exists.
            means = torch.where(counts > 1 - 1e-4, sums, torch.inf)
            least = means.min(dim=2)
            right[length].append(offset_within(least.indices - REACH, means.median(dim=2).values - least.values))
    return {length: torch.cat(parts).float().mean(dim=1) for length, parts in right.items()}, crops.clip_index


def around(syncers: MultiScaleSyncer, bank: ClipBank, length: int) -> tuple[Tensor, Tensor]:
    """Return whether each clip of one length is right, (clips,), and the clips' indices."""
    crops = bank.windows(length, stride=10, margin=MARGIN)
    crops = crops.select(crops.speech_fraction >= 0.8)
    right = []
    for start in range(0, len(crops), CHUNK):
        some = crops.select(slice(start, start + CHUNK))
        motion, audio = embedded(syncers, some.landmarks, some.audio)
        right.append(sync_offset(motion, audio, max_offset=REACH, lead=MARGIN, window=syncers.window).within(1))
    return torch.cat(right).float(), crops.clip_index


@torch.no_grad()
def measure(syncers: MultiScaleSyncer, bank: ClipBank) -> dict[str, dict[str, list[float]]]:
    """Return the shares in percent by protocol and group of speakers, one per length."""
    by_length, clips = published(syncers, bank)
    found = {"published": [(right, clips) for right in by_length.values()]}
    found["around"] = [around(syncers, bank, length) for length in LENGTHS]
    table: dict[str, dict[str, list[float]]] = {}
    for protocol, columns in found.items():
        table[protocol] = {}
        for group, belongs in GROUPS.items():
            chosen = [[belongs(bank.clip_speakers[int(i)]) for i in index] for _, index in columns]
            if all(any(mask) for mask in chosen):
                table[protocol][group] = [
                    round(100.0 * float(right[torch.tensor(mask)].mean()), 1)
                    for (right, _), mask in zip(columns, chosen, strict=True)
                ]
    return table


def draw(numbers: Mapping[str, Any], path: Path, *, group: str = "B") -> None:
    """Draw both protocols, with the published figures in the first panel."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    titles = {"published": "published protocol", "around": "with speech, and the audio around"}
    for axes, (protocol, title) in zip(panels, titles.items(), strict=True):
        for name, table in numbers.items():
            axes.plot(LENGTHS, table[protocol][group], marker="o", markersize=4, label=name)
        if protocol == "published":
            axes.plot(LENGTHS, GESTSYNC, "--", color="black", label="GestSync, points, LRS2")
            axes.legend(fontsize=8, frameon=False)
        axes.set(title=title, xlabel="frames", xticks=LENGTHS)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("offset within one frame, %")
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder of a corpus with the split val")
    parser.add_argument(
        "--models",
        nargs="+",
        default=["landmarks68-25fps", "landmarks68-25fps-ensemble", "landmarks68-25fps-robust"],
        help="names or folders of models of log-mel energies",
    )
    add_outputs(parser, figure=True)
    args = parser.parse_args(arguments)
    bank = ClipBank(Corpus(args.corpus, split="val"), features=SpeechFeatures(kind="log-mel").features)
    numbers = {name: measure(MultiScaleSyncer.from_pretrained(name), bank) for name in args.models}
    print(json.dumps(numbers, indent=1))
    write_outputs(args, numbers, draw)


if __name__ == "__main__":
    main()
