# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Several processes
#
# A contrastive loss gets better with more negatives, and the other processes have some. avsync's losses gather the embeddings
# of all processes **with gradients**: two processes with 4 clips each give the loss and the gradients of one process with 8
# clips. This page shows it with two processes on a CPU (gloo); on GPUs only the names change.
#
# ## In a script of your own
#
# Pass `group=` and let DistributedDataParallel average the gradients:

# %%
from __future__ import annotations

script = """
import os, sys, torch
from torch import distributed as dist
from avsync.losses import all_pairs_info_nce

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
rng = torch.Generator().manual_seed(0)
motion, audio = torch.randn(2, 8, 20, 16, generator=rng)          # embeddings of 8 clips, 20 windows
mine = slice(8 // world * rank, 8 // world * (rank + 1))
encoder = torch.eye(16, requires_grad=True)                        # in the place of a network
loss = all_pairs_info_nce(motion[mine] @ encoder, audio[mine], group=dist.group.WORLD if world > 1 else None)
loss.backward()
both = torch.cat([loss.detach()[None], encoder.grad.flatten()])
dist.all_reduce(both)                                              # DDP takes this mean
if rank == 0:
    both = both / world
    print(f"{world} process(es): loss {both[0]:.5f}, norm of the gradient {both[1:].norm():.5f}, first entry {both[1]:.6f}")
dist.destroy_process_group()
"""

# %% [markdown]
# Start it once with one process and once with two, as `torchrun --nproc-per-node 2 script.py` does:

# %%
import os
import subprocess
import sys
import tempfile
from pathlib import Path

path = Path(tempfile.mkdtemp(), "script.py")
path.write_text(script)
for world in (1, 2):
    place = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(29517 + world)}
    running = [
        subprocess.Popen([sys.executable, path], env={**place, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    print("".join(process.communicate()[0] for process in running), end="")

# %% [markdown]
# ## With the trainers
#
# `make_fabric` takes the place, and the rest of a script stays as it is:
#
# | where | `make_fabric(...)` |
# |---|---|
# | one GPU | `accelerator="cuda"` |
# | all GPUs of a machine | `accelerator="cuda", devices="auto"` |
# | four machines of eight GPUs | `accelerator="cuda", devices=8, num_nodes=4` |
#
# [Training](../training.md#where-it-runs) has the commands for torchrun and SLURM, and lists what has been tested: two and four
# processes on CPUs in every run of the tests, GPUs not.
