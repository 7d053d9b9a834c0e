# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Evaluate a system
#
# You have the output of a talking-head system, and the real clips that it should match. `evaluate` puts both on the same
# segments, adds baselines that need no network, and gives every mean an interval over speakers. Three pretend systems show how
# to read the table: one that is late, one whose mouth hardly opens, and one that jitters.

# %%
from __future__ import annotations

from dataclasses import replace

import numpy as np

from avsync.corpus import SyntheticCorpus

real = list(SyntheticCorpus(split="val", speakers=5, clips_per_speaker=1, seconds=8.0))
rng = np.random.default_rng(0)
systems = {
    "late": [replace(clip, landmarks=np.roll(clip.landmarks, 4, axis=0)) for clip in real],
    "timid": [
        replace(clip, landmarks=(0.3 * clip.landmarks + 0.7 * clip.landmarks.mean(0)).astype(np.float32)) for clip in real
    ],
    "jitters": [
        replace(clip, landmarks=clip.landmarks + rng.normal(0, 1.5, clip.landmarks.shape).astype(np.float32)) for clip in real
    ],
}

# %% [markdown]
# `tracks_of_clips` takes clips in memory; for folders use `read_tracks`, or `avsync evaluate --refs real --preds theirs`.

# %%
from avsync import SyncerPyramid
from avsync.evaluation import Networks, evaluate, tracks_of_clips

refs, _ = tracks_of_clips(real)
preds = {name: tracks_of_clips(clips, row=name)[0] for name, clips in systems.items()}
networks = Networks(syncers=SyncerPyramid.from_pretrained("landmarks68-25fps-judge-mfcc"))
found = evaluate(refs, preds, networks=networks, resamples=200)

# %%
for row in ("ground truth", "late", "timid", "jitters", "static"):
    confidence = found.values(row, "confidence", 0).mean()
    offset = found.values(row, "abs_offset", 0).mean()
    velocity = found.values(row, "velocity_error").mean()
    print(f"{row:12} confidence {confidence:.2f}  offset {offset:.1f} frames  velocity error {velocity:.3f}")

# %% [markdown]
# - **late**: the confidence is that of the truth, because the motion is right; the offset of 4 frames gives it away.
# - **timid**: the offset is right and the confidence is lower; distances to the truth are small all the same, because small
# motion is never far off. Never compare systems by distances alone.
# - **jitters**: the velocity error shows it.
#
# The same as figures, with the baselines:

# %%
# %matplotlib inline
from avsync.figures import evaluation_figures

evaluation_figures(found)["confidence"]

# %% [markdown]
# Next: [what each metric means](../metrics.md), and [how to bring the outputs of published systems into this
# form](../published-systems.md).
