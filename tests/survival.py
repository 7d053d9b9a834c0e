"""Training runs that are killed, as a script: ``python tests/survival.py kills FOLDER 55`` or ``... ranks FOLDER``; prints JSON.

Torch and the corpus are loaded once, and every run is a process forked from there, so that starting one again costs a few
hundredths of a second. The runs are real ones (:func:`avsync.training.syncers.train_syncers`) of small syncers, with dropout,
augmentation, evaluations, logs and a checkpoint after every step.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# What a training would import at its first step is imported here, once.
import lightning_fabric  # noqa: F401
import torch
import torch._dynamo
import torch.utils.tensorboard
import tqdm  # noqa: F401

from avsync.audio.features import LogMel
from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.bank import Batch, ClipBank
from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.models.discriminators import (
    FrameDiscriminator,
    FrameDiscriminatorConfig,
    PairDiscriminator,
    WindowDiscriminator,
    WindowDiscriminatorConfig,
)
from avsync.models.generator.model import GeneratorConfig, MultiScaleGenerator
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.training import checkpoint
from avsync.training.gan import Discriminators, GanTrainingConfig, train_generator
from avsync.training.logging import TrainingLog
from avsync.training.processes import make_fabric
from avsync.training.store import _UNFINISHED, CheckpointStore
from avsync.training.syncers import SyncerTrainingConfig, train_syncers

CONFIG = SyncerPyramidConfig(
    syncer=SyncerConfig(width=16, embed=16, frame_blocks=1, window_blocks=0, dropout=0.1), num_levels=2
)


def bank() -> ClipBank:
    """Clips of the synthetic talker."""
    return ClipBank(SyntheticCorpus(speakers=3, clips_per_speaker=1, seconds=6.0), features=LogMel())


def train(material: ClipBank, folder: Path, steps: int, **fabric_options: Any) -> dict[str, Any]:
    """One training from the newest checkpoint in ``folder`` to its end; what it ended with."""
    torch.manual_seed(1)
    fabric = make_fabric(accelerator="cpu", **fabric_options)
    pyramid = SyncerPyramid(config=CONFIG)
    drawn: list[list[int]] = []
    sample = material.sample

    def recording(*arguments: Any, **options: Any) -> Batch:
        batch = sample(*arguments, **options)
        drawn.append(batch.start.tolist())
        return batch

    material.sample = recording  # type: ignore[method-assign]
    history = train_syncers(
        pyramid,
        material,
        SyncerTrainingConfig(steps=steps, batch_size=2, frames=16, fine_frames=12, warm_up=2),
        fabric=fabric,
        augment=AugmentConfig(),
        checkpoint=CheckpointStore(folder / "checkpoints", best="norm", mode="min"),
        resume=True,
        checkpoint_every=1,
        evaluate=lambda now: {"norm": float(sum(parameter.detach().norm() for parameter in pyramid.parameters()))},
        evaluate_every=7,
        logs=folder / "logs",
        progress=False,
    )
    return {"weights": pyramid.state_dict(), "history": history, "drawn": drawn}


def one_step(material: ClipBank, objective: str, **fabric_options: Any) -> dict[str, float]:
    """Losses and gradient norms of one step on four given clips, of which each process takes its share."""
    torch.manual_seed(1)
    fabric = make_fabric(accelerator="cpu", **fabric_options)
    whole, share = material.sample(4, 40, generator=torch.Generator().manual_seed(2)), 4 // fabric.world_size
    own = whole.select(slice(fabric.global_rank * share, (fabric.global_rank + 1) * share))
    material.sample = lambda *arguments, **options: own  # type: ignore[method-assign]
    pyramid = SyncerPyramid(config=replace(CONFIG, syncer=replace(CONFIG.syncer, dropout=0.0)))
    config = SyncerTrainingConfig(steps=1, batch_size=share, frames=40, first_share=1.0, objective=objective)
    history = train_syncers(pyramid, material, config, fabric=fabric, progress=False)
    return {key: points[0][1] for key, points in history.items()}


def generators(material: ClipBank, seed: int, **fabric_options: Any) -> dict[str, torch.Tensor]:
    """What two accumulated steps of a generator and its judges leave; the seed is of their initial weights."""
    torch.manual_seed(seed)
    windows = WindowDiscriminatorConfig(embed=8, hidden=8, windows=(5, 10))
    frame = FrameDiscriminator(FrameDiscriminatorConfig(embed=8, depth=1))
    judges = Discriminators(frame=frame, window=WindowDiscriminator(windows), pair=PairDiscriminator(windows))
    generator = MultiScaleGenerator(GeneratorConfig(hidden=8, position_embed=8, audio_channels=8, branch_width=8))
    config = GanTrainingConfig(steps=2, batch_size=2, accumulate=2, frames=12, ema_decay=0.9)
    fabric = make_fabric(accelerator="cpu", **fabric_options)
    train_generator(generator, judges, material, config, sync_loss=None, fabric=fabric, progress=False)
    parts = {"generator": generator, "judges": judges}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}


def start(work: Callable[[], object], environment: dict[str, str] | None = None) -> int:
    """Fork a process that does the work and exits; 0 if all went well."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ.update(environment or {})
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - nothing may leave a forked process but its exit status
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def ended(child: int, *, within: float = 900.0) -> int:
    """Wait for a process and return its status; a process that hangs is killed, and -1 returned."""
    for _ in range(int(within / 0.01)):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def result(folder: Path, rank: int = 0) -> dict[str, Any]:
    """What a training left."""
    loaded: dict[str, Any] = torch.load(folder / f"result{rank}.pt", weights_only=True)
    return loaded


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal weights, bit for bit."""
    return a["weights"].keys() == b["weights"].keys() and all(
        torch.equal(a["weights"][k], b["weights"][k]) for k in a["weights"]
    )


PHASES = ("sample", "write", "rename", "renamed", "remove", "log")
"""Where a run is killed: at the beginning of a step, inside a file, before and after a rename, before a removal, before a log entry."""


def arm(folder: Path, after: int, phase: str, calls: int) -> None:
    """Let this process kill itself: at the ``calls``-th passage of a phase once the checkpoint of step ``after`` exists.

    The moments are counted, not timed, so that a slow machine and a fast one kill the same runs at the same places.
    """
    store, left = CheckpointStore(folder), [calls]

    def passing(owner: Any, name: str, *, behind: bool = False) -> None:
        original = getattr(owner, name)

        def replacement(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options) if behind else None
            if max(store.steps(), default=0) >= after:
                left[0] -= 1
                if left[0] <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result if behind else original(*arguments, **options)

        setattr(owner, name, replacement)

    if phase == "sample":
        passing(ClipBank, "sample")
    elif phase == "write":
        passing(checkpoint._HashingFile, "write")
    elif phase in ("rename", "renamed"):
        passing(Path, "replace", behind=phase == "renamed")
    elif phase == "remove":
        passing(Path, "unlink")
    else:
        passing(TrainingLog, "write")


def kills(folder: Path, count: int, steps: int = 150) -> dict[str, Any]:
    """Kill a run ``count`` times, at places that are drawn from a seed, then let it end; compare it with an undisturbed one."""
    material, draw = bank(), random.Random(0)

    def run(where: Path, bomb: tuple[int, str, int] | None = None) -> Callable[[], object]:
        def work() -> None:
            if bomb is not None:
                arm(where / "checkpoints", *bomb)
            torch.save(train(material, where, steps), where / "result0.pt")

        return work

    for where in (folder / "whole", folder / "killed"):
        where.mkdir(parents=True)
    assert ended(start(run(folder / "whole"))) == 0
    store = CheckpointStore(folder / "killed" / "checkpoints")
    killed, torn, at = 0, 0, []
    for number in range(count):
        # Two in three let it come on by a checkpoint; one in three strikes while it is still loading.
        after = max(store.steps(), default=0) + 1 if number % 3 else 0
        bomb = (after, PHASES[number % len(PHASES)], draw.randint(1, 3))
        killed += ended(start(run(folder / "killed", bomb))) == signal.SIGKILL
        at.append(max(store.steps(), default=0))
        torn += any(_UNFINISHED.fullmatch(file.name) is not None for file in store.folder.glob("*"))
    finished = ended(start(run(folder / "killed"))) == 0
    whole, survivor = result(folder / "whole"), result(folder / "killed")
    logs = [(folder / name / "logs" / "metrics.csv").read_text() for name in ("whole", "killed")]
    best = [torch.load(folder / name / "checkpoints" / "best.ckpt", weights_only=True) for name in ("whole", "killed")]
    return {
        "kills": killed,
        "inside_writes": torn,
        "steps_at_kills": at,
        "finished": finished,
        "same_weights": same(whole, survivor),
        "same_history": whole["history"] == survivor["history"],
        "same_logs": logs[0] == logs[1],
        "same_best": best[0]["values"]["step"] == best[1]["values"]["step"],
        "leftovers": sorted(file.name for file in store.folder.glob(".*") if file.name != ".lock"),
    }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def torchrun(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun tells a process of one machine."""
    return {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "WORLD_SIZE": str(world),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0",
    }


def slurm(rank: int, world: int, port: int) -> dict[str, str]:
    """What srun tells a process of as many machines as there are processes."""
    return {
        "SLURM_JOB_NAME": "train",
        "SLURM_JOB_ID": "4711",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": str(world),
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": str(world),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": str(rank),
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }


def ranks(folder: Path, steps: int = 12) -> dict[str, Any]:
    """Two processes: undisturbed, under another launcher, and with one of them killed on the way."""
    material = bank()
    folder.mkdir(parents=True, exist_ok=True)

    def group(
        name: str, launcher: Callable[[int, int, int], dict[str, str]], *, dies_after: int | None = None, **options: Any
    ) -> list[int]:
        where, port = folder / name, free_port()
        where.mkdir(parents=True, exist_ok=True)

        def work(rank: int) -> Callable[[], object]:
            def run() -> None:
                if rank == 1 and dies_after is not None:
                    arm(where / "checkpoints", dies_after, "sample", 1)
                torch.save(train(material, where, steps, **options), where / f"result{rank}.pt")

            return run

        return [start(work(rank), launcher(rank, 2, port)) for rank in range(2)]

    def together(rank: int, port: int) -> None:
        os.environ.update(torchrun(rank, 2, port))
        # Weights that differ before the first step, to see that they do not behind it.
        torch.save(generators(material, rank, devices=2), folder / f"generators{rank}.pt")
        torch.save(one_step(material, "all_pairs", devices=2), folder / f"step{rank}.pt")

    port = free_port()
    alone = start(lambda: torch.save(one_step(material, "all_pairs"), folder / "alone.pt"))
    step = [ended(child) for child in (alone, *(start(partial(together, rank, port)) for rank in range(2)))]
    whole = [ended(child) for child in group("whole", torchrun, devices=2)]
    machines = [ended(child) for child in group("machines", slurm, devices=1, num_nodes=2)]
    first, second = group("killed", torchrun, dies_after=steps // 2, devices=2)
    store = CheckpointStore(folder / "killed" / "checkpoints")
    # The second kills itself in the step that follows this checkpoint.
    second_status = ended(second)
    survivor = ended(first)
    died_at = max(store.steps(), default=0)
    resumed = [ended(child) for child in group("killed", torchrun, devices=2)]
    results = {name: [result(folder / name, rank) for rank in range(2)] for name in ("whole", "machines", "killed")}
    made, other = (torch.load(folder / f"generators{rank}.pt", weights_only=True) for rank in range(2))
    return {
        "step": step,
        "generators_agree": all(torch.equal(made[name], other[name]) for name in made),
        "losses": [torch.load(folder / f"{name}.pt", weights_only=True) for name in ("alone", "step0", "step1")],
        "whole": whole,
        "machines": machines,
        "killed": second_status == signal.SIGKILL,
        "survivor_failed": survivor not in (0, -1),
        "died_at": died_at,
        "resumed": resumed,
        "ranks_agree": same(*results["whole"]),
        "ranks_draw_differently": results["whole"][0]["drawn"] != results["whole"][1]["drawn"],
        "draws_repeat": [results["whole"][rank]["drawn"] == results["machines"][rank]["drawn"] for rank in range(2)],
        "machines_same": same(results["whole"][0], results["machines"][0]),
        "resumed_same": same(results["whole"][0], results["killed"][0]),
        "resumed_history": results["whole"][0]["history"] == results["killed"][0]["history"],
    }


def main(mode: str, folder: str, count: str = "0") -> int:
    """Run one of the two and print what came of it."""
    torch.set_num_threads(1)
    print(json.dumps(kills(Path(folder), int(count)) if mode == "kills" else ranks(Path(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
