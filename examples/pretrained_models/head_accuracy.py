"""Accuracy of a head model on the original points, without the leak of the lips, and on the leak alone.

    python examples/pretrained_models/head_accuracy.py --corpus PATH --models NAME_OR_FOLDER ... [--frames 152] [--out FILE]

The leak is fitted on the train split (:func:`avsync.landmarks.lip_leak.fit_lip_leak`). The halves of the validation speakers are those
of ``conditions.py``.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from conditions import GROUPS, MARGIN
from torch import Tensor
from torch.nn import functional as F

from avsync.audio import SpeechFeatures
from avsync.corpus import ClipBank, Corpus
from avsync.landmarks import REGIONS, remove_lip_leak
from avsync.metrics import MAX_OFFSETS, sync_offset
from avsync.models import MultiScaleSyncer
from avsync.training import lip_leak

SPEECH_SHARE = 0.4
_CHUNK = 64


def versions(bank: ClipBank, weights: Tensor) -> dict[str, ClipBank]:
    """Return the original clips, the clips without the leak, and clips whose heads move by the leak alone."""
    head = list(REGIONS["head"])
    without, alone = copy.copy(bank), copy.copy(bank)
    without.landmarks, alone.landmarks = bank.landmarks.clone(), bank.landmarks.clone()
    for begin, length in zip(bank.offsets.tolist(), bank.lengths.tolist(), strict=True):
        span = slice(begin, begin + length)
        clip = bank.landmarks[span]
        cleaned = remove_lip_leak(clip[None], weights)[0]
        without.landmarks[span] = cleaned
        alone.landmarks[span, head] = clip[:, head].mean(dim=0) + (clip - cleaned)[:, head]
    return {"as it is": bank, "without the leak": without, "the leak alone": alone}


@torch.no_grad()
def accuracy(syncers: MultiScaleSyncer, bank: ClipBank, frames: int) -> dict[str, Any]:
    """Compute the shares of offsets found within one frame, and of pairs whose own audio scores above another speaker's.

    The score is the mean cosine of all windows at offset 0. Pairs are all clips with the audio of all clips of other speakers of the
    same group.
    """
    crops = bank.windows(frames, stride=20, margin=MARGIN)
    crops = crops.select(crops.speech_fraction >= SPEECH_SHARE)
    pieces = [crops.select(slice(start, start + _CHUNK)) for start in range(0, len(crops), _CHUNK)]
    motions = [torch.cat(x) for x in zip(*[syncers.embed_motion(piece.landmarks) for piece in pieces], strict=True)]
    audios = [torch.cat(x) for x in zip(*[syncers.embed_audio(piece.audio) for piece in pieces], strict=True)]
    speakers = [bank.clip_speakers[i] for i in crops.clip_index]
    label = torch.tensor([bank.speakers.index(speaker) for speaker in speakers])
    groups = {name: torch.tensor([belongs(s) for s in speakers], dtype=torch.bool) for name, belongs in GROUPS.items()}
    result: dict[str, Any] = {
        name: {"clips": int(mask.sum()), "within_one": [], "above_stranger": []}
        for name, mask in groups.items()
        if bool(mask.any())
    }
    for level, most in zip(range(syncers.num_levels), MAX_OFFSETS, strict=False):
        lead = MARGIN // 2**level
        motion, audio = F.normalize(motions[level], dim=-1), F.normalize(audios[level], dim=-1)
        right = sync_offset(motion, audio, max_offset=most, lead=lead).within(1).float()
        scores = torch.einsum("iwe,jwe->ij", motion, audio[:, lead : lead + motion.shape[1]])
        for name, row in result.items():
            mask = groups[name]
            row["within_one"].append(round(100.0 * float(right[mask].mean()), 1))
            some, who = scores[mask][:, mask], label[mask]
            stranger = who[:, None] != who[None]
            above = (some.diagonal()[:, None] > some)[stranger].float()
            row["above_stranger"].append(round(100.0 * float(above.mean()), 1) if above.numel() else None)
    return result


def main() -> None:
    """Measure all models named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder of a corpus with the splits train and val")
    parser.add_argument("--models", nargs="+", required=True, help="names or folders of head models of log-mel energies")
    parser.add_argument("--frames", type=int, default=152, help="length of the clips")
    parser.add_argument("--out", help="file of the numbers, JSON")
    args = parser.parse_args()
    features = SpeechFeatures(kind="log-mel").features
    weights = lip_leak(ClipBank(Corpus(args.corpus, split="train"), features=features))
    banks = versions(ClipBank(Corpus(args.corpus, split="val"), features=features), weights)
    numbers = {
        name: {version: accuracy(MultiScaleSyncer.from_pretrained(name), bank, args.frames) for version, bank in banks.items()}
        for name in args.models
    }
    print(json.dumps(numbers, indent=1))
    if args.out:
        Path(args.out).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
