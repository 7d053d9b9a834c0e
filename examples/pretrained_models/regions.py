"""Make `landmarks68-25fps-regions`: syncers of the lips, of the rest of the face, and of the pose of the head.

    python examples/pretrained_models/regions.py --corpus PATH [--out avsync/weights]

The mouth's syncers are those of `landmarks68-25fps-mouth`. Those of the rest of the face ("expression") and of the head
("pose") are trained here, on points from which the lips are subtracted, in about 20 minutes of one core each; an interrupted
run goes on. Their loss has two parts: the offset of segments of several lengths, where one frame next to the right offset also
counts as right, and the own audio of a crop against the audio of the other crops. Heads and brows do not follow speech from
frame to frame, so windows alone are too short.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from robust import finest, moved_clips
from torch import Tensor, nn
from torch.nn import functional as F

from avsync.audio import SpeechFeatures
from avsync.corpus import ClipBank, Corpus
from avsync.landmarks import motion_channels, region_points
from avsync.models import SyncerConfig, SyncerPyramid, SyncerPyramidConfig, SyncerRegions
from avsync.pretrained import save_pretrained
from avsync.training import (
    SYNCER_AUGMENT,
    average_shape,
    averaged,
    lip_leak,
    load_checkpoint,
    save_checkpoint,
    weight_average,
)

NAME = "landmarks68-25fps-regions"
MOUTH = "landmarks68-25fps-mouth"
LEVELS = {"mouth": (0, 1, 2, 3), "expression": (0, 1, 2, 3), "pose": (1, 2, 3, 4)}
"""Levels of each region. The head fits speech least at level 0. At level 5 (windows of 6.4 s) it found fewer offsets than a
random answer on half A of the validation speakers; without level 5, clips of 80 frames fill all levels."""
WEIGHTS = {"mouth": 1.0, "expression": 0.1, "pose": 0.1}
"""Weights of the regions: the largest of 0.1, 0.2, 0.3, 0.5 and 1 that cost at most 3 points at each level (half A)."""
MAX_OFFSETS = (15, 15, 8, 5, 3, 1)
"""Largest offset of the loss at each level, in frames of the level."""
SPANS = ((25, 50, 100), (25, 50, 90), (12, 24, 44), (6, 12, 18), (4, 8), (2, 4))
"""Windows of the segments at each level."""
WARM_UP, SAVE_EVERY = 40, 50


@dataclass(frozen=True)
class Recipe:
    """Model and training run of one region.

    Attributes:
        region: Region of :func:`avsync.landmarks.motion_features`.
        motion: Motion features.
        audio: Audio features.
        levels: Number of levels.
        context: Audio context of each level, in frames of the level.
        width: Channels.
        frames: Frames of a crop.
        steps: Optimisation steps.
        fine_frames: Frames of a crop that level 0 sees.
        batch_size: Crops per batch.
        learning_rate: Peak rate of AdamW.
        dropout: Dropout of the encoders.
        seed: Seed of the run.
    """

    region: str
    motion: tuple[str, ...]
    audio: str
    levels: int
    context: tuple[int, ...]
    width: int
    frames: int
    steps: int
    fine_frames: int = 160
    batch_size: int = 24
    learning_rate: float = 1.5e-3
    dropout: float = 0.2
    seed: int = 0

    def pyramid(self) -> SyncerPyramidConfig:
        """Return the sizes of the model."""
        syncer = SyncerConfig(
            audio_features=SpeechFeatures(kind=self.audio).features.num_features,
            points=region_points(self.region),
            motion_channels=motion_channels(self.motion, 1 if self.region == "pose" else 2),
            width=self.width,
            embed=64,
            frame_blocks=2,
            window_blocks=2,
            dropout=self.dropout,
        )
        return SyncerPyramidConfig(
            syncer=syncer,
            num_levels=self.levels,
            audio=self.audio,
            motion=self.motion,
            region=self.region,
            reference="mean",
            audio_context=self.context,
            mean_normalisation=True,
            remove_lips=True,
        )


RECIPES = {
    "pose": Recipe(
        "pose", ("displacement", "velocity", "speed"), "log-mel-prosody", 6, (4, 4, 2, 0, 0, 0), width=64, frames=320, steps=250
    ),
    "expression": Recipe(
        "expression",
        ("shape", "velocity", "speed"),
        "log-mel-prosody",
        4,
        (4, 4, 2, 0),
        width=64,
        frames=200,
        steps=250,
        seed=1,
    ),
}
AUGMENT_CALMLY = replace(SYNCER_AUGMENT, equaliser_db=5.0, sway=0.0, identity=0.005, jitter=0.0005, noise_db=1.5)
"""Augmentation without random head movements, and with little noise on pitch."""


def level_loss(motion: Tensor, audio: Tensor, level: int, log_scales: Tensor) -> Tensor:
    """Compute the loss of one level from embeddings of the same windows, (batch, windows, embed).

    Args:
        motion: Embeddings of motion.
        audio: Embeddings of audio.
        level: The level.
        log_scales: Logarithms of the logit scales, (4,): one per length of the segments, the last one of whole crops.
    """
    motion, audio = F.normalize(motion.float(), dim=-1), F.normalize(audio.float(), dim=-1)
    most = MAX_OFFSETS[level]
    windows = motion.shape[1] - 2 * most
    middle = motion[:, most : most + windows]
    scores = torch.stack([(middle * audio[:, offset : offset + windows]).sum(dim=-1) for offset in range(2 * most + 1)], dim=1)
    of_offsets = []
    for scale, span in zip(log_scales, SPANS[level], strict=False):
        length = min(span, windows)
        means = F.avg_pool1d(scores, length, max(1, length // 2))
        likely = torch.log_softmax(means * scale.exp(), dim=1)
        of_offsets.append(-torch.logsumexp(likely[:, most - 1 : most + 2], dim=1).mean())
    pairs = torch.einsum("iwe,jwe->ij", middle, audio[:, most : most + windows]) / windows * log_scales[-1].exp()
    own = torch.arange(len(pairs))
    of_strangers = (F.cross_entropy(pairs, own) + F.cross_entropy(pairs.T, own)) / 2
    return torch.stack(of_offsets).mean() + of_strangers


def crop_loss(
    pyramid: SyncerPyramid, landmarks: Tensor, audio: Tensor, fine_frames: int, log_scales: Sequence[Tensor]
) -> Tensor:
    """Compute the sum of the losses of all levels; level 0 sees only the first ``fine_frames`` frames."""
    coarse = range(1, pyramid.num_levels)
    fine = pyramid(landmarks[:, :fine_frames], audio[:, : 4 * fine_frames], levels=[0])
    levels = fine + pyramid(landmarks, audio, levels=coarse)
    losses = [
        level_loss(level.motion, level.audio, i, scales)
        for i, (level, scales) in enumerate(zip(levels, log_scales, strict=True))
    ]
    return torch.stack(losses).sum()


def train_region(recipe: Recipe, bank: ClipBank, checkpoint: Path) -> SyncerPyramid:
    """Train the pyramid of one region and return the moving average of its weights."""
    torch.manual_seed(recipe.seed)
    pyramid = SyncerPyramid(recipe.pyramid())
    pyramid.set_audio_statistics(*bank.audio_statistics())
    pyramid.set_lip_leak(lip_leak(bank, region="expression" if recipe.region == "expression" else "head"))
    pyramid.set_average_shape(average_shape(bank))
    average = weight_average(pyramid, decay=0.98)
    scales = nn.ParameterList(nn.Parameter(torch.full((4,), math.log(10.0))) for _ in range(recipe.levels))
    groups: list[dict[str, Any]] = [{"params": list(pyramid.parameters())}, {"params": list(scales), "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=0.1, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    state: dict[str, Any] = {
        "pyramid": pyramid,
        "average": average,
        "scales": scales,
        "optimiser": optimiser,
        "schedule": schedule,
    }
    start = 0
    if checkpoint.exists():
        values = load_checkpoint(checkpoint, state)
        start = values["step"]
        generator.set_state(values["generator"])
    pyramid.train()
    for step in range(start, recipe.steps):
        crops = bank.sample(recipe.batch_size, recipe.frames, generator=generator, augment=AUGMENT_CALMLY)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = crop_loss(pyramid, crops.landmarks, crops.audio, recipe.fine_frames, list(scales))
        optimiser.zero_grad()
        loss.backward()
        for syncer in pyramid.syncers:
            nn.utils.clip_grad_norm_(syncer.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(pyramid)
        if (step + 1) % SAVE_EVERY == 0:
            save_checkpoint(checkpoint, state, step=step + 1, generator=generator.get_state())
            print(f"{recipe.region} step {step + 1}: {loss.item():.2f}", flush=True)
    with averaged(pyramid, average):
        return copy.deepcopy(pyramid).eval()


def join(pyramids: Mapping[str, SyncerPyramid]) -> SyncerRegions:
    """Join the pyramids of the regions, each at the levels of :data:`LEVELS` that it has."""
    kept = {name: finest(pyramids[name], levels[-1] + 1) for name, levels in LEVELS.items() if name in pyramids}
    names = tuple(kept)
    return SyncerRegions.of(
        kept, levels={name: LEVELS[name] for name in names}, weights={name: WEIGHTS[name] for name in names}
    )


def main() -> None:
    """Train the pyramids of the regions and write the joined model; its card holds the results of ``region_accuracy.py``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder of a corpus with the split train")
    parser.add_argument("--out", default="avsync/weights", help="folder of the finished models")
    parser.add_argument("--work", default="runs/regions", help="folder of checkpoints and of the pyramids of single regions")
    args = parser.parse_args()
    start = SyncerPyramid.from_pretrained("landmarks68-25fps")
    bank = moved_clips(Corpus(args.corpus, split="train"), start, kind="log-mel-prosody")
    pyramids = {"mouth": SyncerPyramid.from_pretrained(MOUTH)}
    for region, recipe in RECIPES.items():
        pyramids[region] = train_region(recipe, bank, Path(args.work) / f"{region}.ckpt")
        save_pretrained(pyramids[region], Path(args.work) / region, dtype=torch.float16)
    save_pretrained(join(pyramids), Path(args.out) / NAME, dtype=torch.float16, shared=(MOUTH,))


if __name__ == "__main__":
    main()
