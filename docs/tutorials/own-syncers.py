# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # From your videos to your own loss
#
# Videos, clips, a check, syncers of your own, calibration, loss, evaluation: the whole path on two cores in less than a minute.
# The videos come from the synthetic talker; put yours in their place, and leave out `detector="demo"`.
#
# On the command line the same path has five lines:
#
# ```text
# avsync extract talks/ --out corpus
# avsync extract unseen/ --out corpus --split val
# avsync doctor corpus
# avsync train corpus --out runs/mine
# avsync calibrate runs/mine corpus
# ```
#
# `calibrate` needs at least four speakers in the split "val".
#
# ## Videos
#
# `write_talk` writes a video of a synthetic speaker: six to train on, four to evaluate on.

# %%
from __future__ import annotations

import tempfile
from pathlib import Path

from avsync.corpus import write_talk

work = Path(tempfile.mkdtemp())  # a folder of yours
for folder, speakers in {"talks": range(6), "unseen": range(100, 104)}.items():
    (work / folder).mkdir()
    for speaker in speakers:
        write_talk(work / folder / f"speaker{speaker}.mp4", speaker=speaker, seconds=8.0)

# %% [markdown]
# ## Clips
#
# `extract_corpus` finds the faces and puts landmarks and audio on one clock, at 25 frames per second. Speakers of the split
# "val" are never trained on.

# %%
from avsync.corpus import Corpus, extract_corpus

for folder, split in {"talks": "train", "unseen": "val"}.items():
    report = extract_corpus([work / folder], work / "corpus", detector="demo", split=split)
    print(report.summary().splitlines()[0])

clip = Corpus(work / "corpus")[0]
print(clip.landmarks.shape, clip.waveform.shape)

# %% [markdown]
# ## Is something wrong with them?
#
# The doctor reads every clip. It finds damaged files, audio that is shifted or belongs to something else, silence, still faces
# and speakers in two splits.

# %%
from avsync.training import examine

examination = examine(work / "corpus")
print("healthy:", examination.healthy)
for finding in examination.findings:
    print(finding)

# %% [markdown]
# ## Syncers
#
# `syncer_recipe` returns the settings of the pretrained models, fitted to the corpus. Forty steps are enough for the synthetic
# talker; real speech takes the default of a thousand.

# %%
from avsync import SyncerPyramid
from avsync.audio import LogMel
from avsync.corpus import ClipBank
from avsync.training import make_fabric, syncer_recipe, train_finest_first

train = ClipBank(Corpus(work / "corpus", split="train"), features=LogMel())
val = ClipBank(Corpus(work / "corpus", split="val"), features=LogMel())

recipe = syncer_recipe(train, steps=40, batch_size=8, num_levels=2, width=32)
syncers = SyncerPyramid(recipe.pyramid)
histories = train_finest_first(
    syncers,
    train,
    recipe.training,
    recipe.warm_start,
    fabric=make_fabric(accelerator="cpu"),
    augment=recipe.augment,
    progress=False,
)

# %%
from matplotlib import pyplot as plt

figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
for level in range(2):
    axes.plot(*zip(*histories["fine"][f"loss{level}"], strict=True), marker="o", label=f"level {level}")
axes.axhline(1, color="grey", linestyle=":", label="chance level")
axes.set(xlabel="step", ylabel="loss / loss at chance level")
axes.legend()
plt.show()

# %% [markdown]
# How often do the syncers find the offset of speakers that they have not seen? The chance level is 3 of 31 offsets at level 0.

# %%
from avsync.training import evaluate_syncers

crops = val.windows(80, stride=20, margin=40)
for level, result in enumerate(evaluate_syncers(syncers, crops, margin=40)):
    print(f"level {level}: {result.within_one:.0%} of {result.clips} crops within one frame")

# %% [markdown]
# ## Calibration
#
# A calibration turns distances into probabilities. `avsync offset` then states how sure it is.

# %%
from avsync.evaluation import calibrate
from avsync.metrics import save_calibration
from avsync.pretrained import save_pretrained

save_pretrained(syncers, work / "mine")
fitted = calibrate(syncers, val, lengths=(40, 80), stride=20)
save_calibration(fitted.calibration, work / "mine" / "calibration.json", syncers=SyncerPyramid.from_pretrained(work / "mine"))
print(sorted(path.name for path in (work / "mine").iterdir()))

# %% [markdown]
# ## The loss
#
# A folder is a model: the loss reads it, takes waveforms, and its value is lower for a true pair than for the audio of another
# speaker.

# %%
import torch

from avsync import MultiScaleSyncLoss

loss = MultiScaleSyncLoss.from_pretrained(work / "mine")
clips = Corpus(work / "corpus", split="val")
frames = min(clip.frames for clip in clips)
landmarks = torch.stack([torch.from_numpy(clip.landmarks[:frames]) for clip in clips])
waveform = torch.stack([torch.from_numpy(clip.waveform[: 640 * frames]) for clip in clips])
with torch.no_grad():
    print(f"true pairs     {loss(landmarks, waveform).total:.2f}")
    print(f"other speakers {loss(landmarks, waveform.roll(1, dims=0)).total:.2f}")
    print(f"still faces    {loss(landmarks[:, :1].expand_as(landmarks), waveform).total:.2f}")

# %% [markdown]
# Next: [guide a generator with it](../guidance.md), or [read what training offers](../training.md).
