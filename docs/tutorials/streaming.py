# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Generate while the audio arrives
#
# `GeneratorStream` takes the audio of one video frame at a time (40 ms) and returns faces as soon as it can. Its memory does
# not grow, and the result equals that of the whole clip. A causal generator waits for no future audio at all. On a GPU the
# stream records its work as CUDA graphs (`cuda_graphs=False` turns this off).

# %%
from __future__ import annotations

import time

import torch

from avsync import MultiScaleGenerator
from avsync.audio import LogMel
from avsync.corpus import SyntheticCorpus
from avsync.models import GeneratorStream, mirror_audio

(clip,) = SyntheticCorpus(split="val", speakers=1, clips_per_speaker=1, seconds=8.0)
generator = MultiScaleGenerator.from_pretrained("generator-landmarks68-25fps").eval()
features = LogMel()(torch.from_numpy(clip.waveform)[None])
face = torch.from_numpy(clip.landmarks[:1])
print(f"this generator looks {40 * generator.look_ahead} ms ahead")

# %% [markdown]
# The generator begins with a few repetitions of one face, whose audio is the beginning of the clip, mirrored. Then one call of
# `step` per frame:

# %%
stream = GeneratorStream(network=generator, observed=face, warm_up=3, generator=torch.Generator().manual_seed(0))
faces, times = [], []
for audio in mirror_audio(features, 3).split(4, dim=1):
    began = time.perf_counter()
    generated = stream.step(audio)
    times.append(time.perf_counter() - began)
    if generated is not None:
        faces.append(generated)
streamed = torch.cat([torch.stack(faces, dim=1), stream.flush()], dim=1)
print(tuple(streamed.shape))

# %% [markdown]
# The same clip in one call gives the same faces:

# %%
with torch.no_grad():
    whole = generator.generate(face, features, warm_up=3, generator=torch.Generator().manual_seed(0)).landmarks
print(f"largest difference: {(streamed - whole).abs().max():.3f} pixels")

# %%
# %matplotlib inline
from avsync.figures import face_strip

face_strip({"real": clip.landmarks[50:150], "streamed": streamed[0, 50:150].numpy()}, columns=8)

# %% [markdown]
# A frame lasts 40 ms. Half of the steps took less than that on the machine that built this page:

# %%
median = sorted(times)[len(times) // 2]
print("fast enough for live use:", median < 0.04)
