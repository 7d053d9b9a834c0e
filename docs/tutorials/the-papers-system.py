# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # The paper's system in five cells
#
# Syncers first (equations 2 and 3), then the generator (6 to 8) against its discriminators (9 to 12) and the frozen syncers
# (4). Here everything is tiny, so that the page takes seconds; `python examples/msync/train.py` trains the real thing in
# minutes, and `--preset paper` has the sizes of the paper.

# %%
from __future__ import annotations

import torch

from avsync.audio import MFCC
from avsync.corpus import ClipBank, SyntheticCorpus

train = ClipBank(SyntheticCorpus(split="train", speakers=8, clips_per_speaker=1, seconds=8.0), features=MFCC())
val = ClipBank(SyntheticCorpus(split="val", speakers=4, clips_per_speaker=1, seconds=8.0), features=MFCC())

# %% [markdown]
# ## 1. Syncers: InfoNCE with 48 negatives

# %%
from avsync import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.training import SyncerTrainingConfig, evaluate_syncers, make_fabric, train_syncers

fabric = make_fabric(accelerator="cpu")
torch.manual_seed(0)
syncers = SyncerPyramid(
    SyncerPyramidConfig(syncer=SyncerConfig(width=32, embed=32, frame_blocks=1), audio="mfcc", num_levels=2)
)
train_syncers(
    syncers,
    train,
    SyncerTrainingConfig(steps=60, batch_size=8, frames=80, objective="info_nce", num_negatives=48, within_clip_weight=0.0),
    fabric=fabric,
    progress=False,
)
for level, result in enumerate(
    evaluate_syncers(syncers, val.windows(80, stride=20, margin=20), margin=20, max_offsets=(10, 8))
):
    print(
        f"level {level}: {result.within_one:.0%} of unseen crops within one frame; chance level {(3 / 21, 3 / 17)[level]:.0%}"
    )

# %% [markdown]
# ## 2. Generator and discriminators, guided by the frozen syncers

# %%
from avsync import MultiScaleGenerator, MultiScaleSyncLoss
from avsync.landmarks import principal_motions
from avsync.models import (
    FrameDiscriminator,
    FrameDiscriminatorConfig,
    GeneratorConfig,
    PairDiscriminator,
    WindowDiscriminator,
    WindowDiscriminatorConfig,
)
from avsync.training import Discriminators, GanTrainingConfig, train_generator

torch.manual_seed(0)
generator = MultiScaleGenerator(
    GeneratorConfig(hidden=48, position_embed=48, audio_channels=32, branch_width=32, motion_components=12)
)
generator.set_audio_statistics(*train.audio_statistics())
some = train.sample(32, 40, generator=torch.Generator().manual_seed(0)).landmarks
generator.set_motion_basis(*principal_motions(some, 12))
window = WindowDiscriminatorConfig(embed=32, hidden=32)
history = train_generator(
    generator,
    Discriminators(
        frame=FrameDiscriminator(FrameDiscriminatorConfig(embed=32, depth=1)),
        window=WindowDiscriminator(window),
        pair=PairDiscriminator(window),
    ),
    train,
    GanTrainingConfig(steps=40, batch_size=8, generator_lr=1e-3, sync_weight=8.0),
    sync_loss=MultiScaleSyncLoss(syncers=syncers),
    fabric=fabric,
    progress=False,
)

# %%
from matplotlib import pyplot as plt

figure, panels = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
for axes, key in zip(panels, ("sync", "discriminator"), strict=True):
    axes.plot(*zip(*history[key], strict=True), marker="o")
    axes.set(xlabel="step", ylabel=key)
plt.show()

# %% [markdown]
# ## 3. Look at it
#
# The generator continues the first frame of an unseen speaker, with this speaker's audio.

# %%
# %matplotlib inline
from avsync.figures import face_strip

crop = val.windows(80, stride=80)
with torch.no_grad():
    made = (
        generator.eval().generate(crop.landmarks[:1, 0], crop.audio[:1], generator=torch.Generator().manual_seed(0)).landmarks
    )
face_strip({"real": crop.landmarks[0].numpy(), "generated": made[0].numpy()}, columns=8)

# %% [markdown]
# Next: [each equation with its function](../paper-in-code.md), and [the results of the whole system](../benchmarks.md).
