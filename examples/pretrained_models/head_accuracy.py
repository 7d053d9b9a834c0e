"""Accuracy of a head model on the original points, without the leak of the lips, and on the leak alone.

    python examples/pretrained_models/head_accuracy.py --corpus PATH --models NAME_OR_FOLDER ... [--out FILE]

Levels 0 to 3 are measured on clips of 152 frames, levels 4 and 5, if the model has them, on clips of 320 frames. The leak is
fitted on the train split (:func:`avsync.landmarks.lip_leak.fit_lip_leak`). The halves of the validation speakers are those of
``conditions.py``.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from typing import Any

import torch
from conditions import GROUPS
from outputs import add_outputs, write_outputs
from torch import Tensor
from torch.nn import functional as F

from avsync.audio import SpeechFeatures
from avsync.corpus import ClipBank, Corpus
from avsync.landmarks import REGIONS, remove_lip_leak
from avsync.metrics import MAX_OFFSETS, sync_offset
from avsync.models import MultiScaleSyncer
from avsync.training import lip_leak

SPEECH_SHARE = 0.4
CLIPS = (((0, 1, 2, 3), 152, 40), ((4, 5), 320, 64))
"""Levels, frames of the clips, and frames of audio around them."""
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
def accuracy(
    syncers: MultiScaleSyncer, bank: ClipBank, *, levels: Sequence[int], frames: int, margin: int, stride: int = 20
) -> dict[str, Any]:
    """Compute the shares of offsets found within one frame, and of pairs whose own audio scores above another speaker's.

    The score is the mean cosine of all windows at offset 0. Pairs are all clips with the audio of all clips of other speakers
    of the same group.

    Args:
        syncers: The model.
        bank: Clips with the features of the model.
        levels: Levels to measure.
        frames: Length of the clips.
        margin: Frames of audio around them.
        stride: Frames from one clip to the next.

    Returns:
        For each of :data:`GROUPS` the number of clips and two shares per level, in percent.
    """
    crops = bank.windows(frames, stride=stride, margin=margin)
    crops = crops.select(crops.speech_fraction >= SPEECH_SHARE)
    pieces = [crops.select(slice(start, start + _CHUNK)) for start in range(0, len(crops), _CHUNK)]
    motions = [
        torch.cat(x) for x in zip(*[syncers.embed_motion(piece.landmarks, levels=levels) for piece in pieces], strict=True)
    ]
    audios = [torch.cat(x) for x in zip(*[syncers.embed_audio(piece.audio, levels=levels) for piece in pieces], strict=True)]
    speakers = [bank.clip_speakers[i] for i in crops.clip_index]
    label = torch.tensor([bank.speakers.index(speaker) for speaker in speakers])
    groups = {name: torch.tensor([belongs(s) for s in speakers], dtype=torch.bool) for name, belongs in GROUPS.items()}
    result: dict[str, Any] = {
        name: {"clips": int(mask.sum()), "within_one": [], "above_stranger": []}
        for name, mask in groups.items()
        if bool(mask.any())
    }
    for level, raw_motion, raw_audio in zip(levels, motions, audios, strict=True):
        lead = margin // 2**level
        motion, audio = F.normalize(raw_motion, dim=-1), F.normalize(raw_audio, dim=-1)
        right = sync_offset(motion, audio, max_offset=MAX_OFFSETS[level], lead=lead).within(1).float()
        scores = torch.einsum("iwe,jwe->ij", motion, audio[:, lead : lead + motion.shape[1]])
        for name, row in result.items():
            mask = groups[name]
            row["within_one"].append(round(100.0 * float(right[mask].mean()), 1))
            some, who = scores[mask][:, mask], label[mask]
            stranger = who[:, None] != who[None]
            above = (some.diagonal()[:, None] > some)[stranger].float()
            row["above_stranger"].append(round(100.0 * float(above.mean()), 1) if above.numel() else None)
    return result


def measured(syncers: MultiScaleSyncer, bank: ClipBank, *, stride: int = 20) -> dict[str, Any]:
    """Run :func:`accuracy` for the levels of a model, by length of the clips."""
    result = {}
    for levels, frames, margin in CLIPS:
        some = [level for level in levels if level < syncers.num_levels]
        if some:
            result[f"levels {some[0]} to {some[-1]}, {frames} frames"] = accuracy(
                syncers, bank, levels=some, frames=frames, margin=margin, stride=stride
            )
    return result


def main() -> None:
    """Measure all models named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder of a corpus with the splits train and val")
    parser.add_argument("--models", nargs="+", required=True, help="names or folders of models")
    add_outputs(parser)
    args = parser.parse_args()
    numbers: dict[str, Any] = {}
    for name in args.models:
        syncers = MultiScaleSyncer.from_pretrained(name)
        features = SpeechFeatures(kind=syncers.interface.audio).features
        weights = lip_leak(ClipBank(Corpus(args.corpus, split="train"), features=SpeechFeatures(kind="log-mel").features))
        banks = versions(ClipBank(Corpus(args.corpus, split="val"), features=features), weights)
        numbers[name] = {version: measured(syncers, bank) for version, bank in banks.items()}
    print(json.dumps(numbers, indent=1))
    write_outputs(args, numbers)


if __name__ == "__main__":
    main()
