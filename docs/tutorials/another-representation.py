# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Another representation: blendshapes
#
# The pretrained models take 68 landmarks. A generator of blendshapes, FLAME parameters, meshes or keypoints needs syncers that
# see what it makes, and the only changes are the clips and the name of a layout. Here: the 52 blendshapes of ARKit.
#
# ## Clips of blendshapes
#
# A clip is an array (frames, points, dims) with its audio; a blendshape is a point of one dimension. Tracks of a phone would be
# read from its CSV file. These are made from the synthetic talker: each coefficient follows a part of the face.

# %%
from __future__ import annotations
from dataclasses import replace

import numpy as np

from avsync.corpus import Clip, SyntheticCorpus

rng = np.random.default_rng(0)
mixing = rng.normal(size=(52, 136)) / 136**0.5


def as_blendshapes(clip: Clip) -> Clip:
    height = np.ptp(clip.landmarks[..., 1], axis=1).mean()
    motion = (clip.landmarks - clip.landmarks.mean(axis=0)) / height
    weights = 0.4 + 4.0 * motion.reshape(clip.frames, -1) @ mixing.T
    return replace(clip, landmarks=np.clip(weights, 0, 1)[..., None].astype(np.float32))


clips = {
    split: [as_blendshapes(clip) for clip in SyntheticCorpus(split=split, speakers=6, clips_per_speaker=1, seconds=8.0)]
    for split in ("train", "val")
}
print(clips["train"][0].landmarks.shape)

# %% [markdown]
# `write_corpus(clips, folder)` writes them to disk; `avsync train folder --layout arkit52 --out runs/blendshapes` then does
# what follows.
#
# ## Syncers

# %%
import torch

from avsync import SyncerPyramid
from avsync.audio import LogMel
from avsync.corpus import ClipBank
from avsync.training import evaluate_syncers, make_fabric, syncer_recipe, train_finest_first

train, val = (ClipBank(clips[split], features=LogMel()) for split in ("train", "val"))
recipe = syncer_recipe(train, layout="arkit52", steps=40, batch_size=8, num_levels=2, width=32)
torch.manual_seed(0)
syncers = SyncerPyramid(recipe.pyramid)
train_finest_first(
    syncers,
    train,
    recipe.training,
    recipe.warm_start,
    fabric=make_fabric(accelerator="cpu"),
    augment=recipe.augment,
    progress=False,
)
for level, result in enumerate(evaluate_syncers(syncers, val.windows(80, stride=20, margin=40), margin=40)):
    print(f"level {level}: {result.within_one:.0%} of unseen crops within one frame")

# %% [markdown]
# ## The loss
#
# It takes blendshapes (batch, frames, 52, 1) and waveforms, and its gradients reach the blendshapes.

# %%
from avsync import MultiScaleSyncLoss

loss = MultiScaleSyncLoss(syncers=syncers)
motion = torch.stack([torch.from_numpy(clip.landmarks) for clip in clips["val"]]).requires_grad_()
waveform = torch.stack([torch.from_numpy(clip.waveform) for clip in clips["val"]])
true = loss(motion, waveform).total
true.backward()
print(f"true pairs {true:.2f}, other speakers {loss(motion, waveform.roll(1, 0)).total:.2f}")
print(f"gradients reach {(motion.grad.abs().amax((0, 1, 3)) > 0).sum()} blendshapes")

# %%
from matplotlib import pyplot as plt

figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
for name, heard in {"true pair": waveform, "another speaker": waveform.roll(1, 0)}.items():
    levels = loss(motion.detach(), heard).per_level
    axes.plot(range(2), levels.detach(), marker="o", label=name)
axes.set(xlabel="level", ylabel="loss", xticks=range(2))
axes.legend()
plt.show()
