# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Guide a regression
#
# A model that predicts landmarks from audio and is trained with a squared error learns the average motion: mouths that hardly
# open. The sync loss is one more term. Here the same small model is trained twice, without and with this term, and an
# **independent** model measures both.
#
# ## Data and model
#
# Any model will do. This one has three convolutions over log-mel energies.

# %%
from __future__ import annotations

import torch
from torch import nn

from avsync.audio import MFCC, LogMel
from avsync.corpus import ClipBank, SyntheticCorpus

train = ClipBank(SyntheticCorpus(split="train", speakers=8, clips_per_speaker=1, seconds=8.0), features=LogMel())
unseen = SyntheticCorpus(split="val", speakers=6, clips_per_speaker=1, seconds=8.0)
val = ClipBank(unseen, features=LogMel())


class Regressor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.BatchNorm1d(26),
            nn.Conv1d(26, 64, 8, stride=4, padding=2),
            nn.GELU(),
            nn.Conv1d(64, 64, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(64, 136, 5, padding=2),
        )

    def forward(self, audio: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        motion = self.net(audio.mT).mT.unflatten(2, (68, 2))
        height = first[..., 1].amax(1) - first[..., 1].amin(1)
        return first[:, None] + 0.05 * height[:, None, None, None] * motion


# %% [markdown]
# ## Two runs that differ in one line

# %%
from avsync import MultiScaleSyncLoss

sync_loss = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps")


def run(sync_weight: float, steps: int = 80) -> Regressor:
    torch.manual_seed(0)
    model, rng = Regressor(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for step in range(steps):
        batch = train.sample(8, 60, generator=rng)
        first = batch.landmarks[:, 0]
        landmarks = model(batch.audio, first)
        height = (first[..., 1].amax(1) - first[..., 1].amin(1))[:, None, None, None]
        loss = ((landmarks - batch.landmarks) / (0.05 * height)).square().mean()
        if sync_weight:
            warm_up = min(1.0, step / 20)
            loss = loss + warm_up * sync_weight * sync_loss(landmarks, batch.audio, reference=first).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


models = {"squared error": run(0.0), "with the sync loss": run(0.3)}

# %% [markdown]
# ## Measure with a model that took no part
#
# `landmarks68-25fps-judge-mfcc` was trained apart from the loss, hears MFCCs and sees other motion features. Its confidence is
# high if the motion fits one offset clearly better than the others.

# %%
from dataclasses import replace

from avsync import SyncerPyramid
from avsync.training import crop_offsets

measuring = SyncerPyramid.from_pretrained("landmarks68-25fps-judge-mfcc")
crops = val.windows(80, stride=40, margin=24)
heard = ClipBank(unseen, features=MFCC()).windows(80, stride=40, margin=24)  # the same crops, as that model hears them
rows = {"real motion": crops.landmarks, "still face": crops.landmarks[:, :1].expand_as(crops.landmarks)}
with torch.no_grad():
    inside = crops.audio[:, 96:-96]  # the audio of the crop, without the margin of 24 frames
    rows |= {name: model(inside, crops.landmarks[:, 0]) for name, model in models.items()}

confidence = {}
for name, motion in rows.items():
    found = crop_offsets(measuring, replace(heard, landmarks=motion), margin=24, max_offsets=(15, 12, 6, 3))
    confidence[name] = [float(level.confidence.mean()) for level in found]
    print(f"{name:18}", " ".join(f"{value:.2f}" for value in confidence[name]))

# %%
from matplotlib import pyplot as plt

figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
for name, values in confidence.items():
    axes.plot(range(4), values, marker="o", label=name)
axes.set(xlabel="level", ylabel="confidence", xticks=range(4))
axes.legend()
plt.show()

# %% [markdown]
# The sync loss raises the confidence at the same number of steps. A row above that of real motion means that the weight is too
# large: the motion then exaggerates, and only the loss likes it. [Guidance](../guidance.md) shows where to stop.
