"""Right calls of the training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avsync import training as room
from avsync.audio import LogMel
from avsync.corpus import ClipBank, SyntheticCorpus
from avsync.losses import MultiScaleSyncLoss
from avsync.models import (
    Embeddings,
    FrameDiscriminator,
    FrameDiscriminatorConfig,
    GeneratorConfig,
    GeneratorOutput,
    MotionAutoencoder,
    MotionAutoencoderConfig,
    MultiScaleGenerator,
    PairDiscriminator,
    SyncerConfig,
    SyncerPyramid,
    SyncerPyramidConfig,
    WindowDiscriminator,
    WindowDiscriminatorConfig,
)
from tests.right_calls import Call, new_folder

AT = new_folder()
CORPUS = list(SyntheticCorpus(split="train", speakers=3, clips_per_speaker=1, seconds=3.0))
BANK = ClipBank(CORPUS, features=LogMel())
PYRAMID = SyncerPyramid(SyncerPyramidConfig(syncer=SyncerConfig(width=4, embed=2, frame_blocks=1), num_levels=2))
CROPS = BANK.windows(24, stride=24, margin=8)
FABRIC = room.make_fabric(accelerator="cpu")
SYNCERS = room.SyncerTrainingConfig(steps=1, batch_size=2, frames=24, fine_frames=24, warm_up=1, spans=(3,))
GAN = room.GanTrainingConfig(steps=1, batch_size=2, frames=12)
LINEAR = nn.Linear(2, 2)
AVERAGE = room.weight_average(LINEAR, decay=0.5)
OBSERVED, REAL, AUDIO = torch.rand(2, 3, 68, 2), torch.rand(2, 15, 68, 2), torch.randn(2, 60, 26)
EMBEDDED = [Embeddings(torch.randn(2, 6, 4), torch.randn(2, 6, 4))]
QUIET: dict[str, Any] = {"fabric": FABRIC, "progress": False}
room.save_checkpoint(AT / "a.ckpt", {"model": LINEAR}, step=1)


def judges() -> room.Discriminators:
    windows = WindowDiscriminatorConfig(embed=4, hidden=4, windows=(5, 10))
    frame = FrameDiscriminator(FrameDiscriminatorConfig(embed=4, depth=1))
    return room.Discriminators(frame=frame, window=WindowDiscriminator(windows), pair=PairDiscriminator(windows))


JUDGES = judges()
GENERATOR = MultiScaleGenerator(GeneratorConfig(hidden=4, position_embed=4, audio_channels=4, branch_width=4))
OUTPUT = GeneratorOutput(torch.rand(2, 12, 68, 2), torch.rand(2, 12, 68, 2), None)
STEPS: dict[str, Any] = {
    "discriminators": JUDGES, "bank": BANK, "config": GAN, "sync_loss": None, "fabric": FABRIC, "augment": None, "cuda_graphs": None
}  # fmt: skip


def store() -> room.CheckpointStore:
    return room.CheckpointStore(Path(tempfile.mkdtemp(dir=AT)))


def kept(name: str) -> Any:
    """Return a method of a new store with one checkpoint."""

    def call(**given: Any) -> object:
        new = store()
        new.save(1, {"state": {"model": LINEAR.state_dict()}, "values": {}}, is_best=True)
        return getattr(new, name)(**given)

    return call


def locked(**given: Any) -> None:
    with store().lock(**given):
        pass


def swapped(**given: Any) -> None:
    with room.averaged(**given):
        pass


def nothing(step: int) -> dict[str, torch.Tensor]:
    return {"loss": torch.zeros(())}


STATE = {"model": LINEAR}
CALLS = {
    "average_shape": Call(room.average_shape, {"bank": BANK}),
    "syncer_recipe": Call(room.syncer_recipe, {"bank": BANK, "num_levels": 2}),
    "AutoencoderTrainingConfig": Call(room.AutoencoderTrainingConfig, {}),
    "CheckpointStore": Call(room.CheckpointStore, {"folder": AT / "store"}),
    "CheckpointStore.path": Call(kept("path"), {"step": 1}, like=room.CheckpointStore.path),
    "CheckpointStore.lock": Call(locked, {}, like=room.CheckpointStore.lock),
    "CheckpointStore.load": Call(kept("load"), {"step": 1, "state": STATE}, like=room.CheckpointStore.load),
    "CheckpointStore.load_best": Call(kept("load_best"), {"state": STATE}, like=room.CheckpointStore.load_best),
    "CheckpointStore.save": Call(
        kept("save"), {"step": 2, "content": {"state": {}, "values": {}}}, like=room.CheckpointStore.save
    ),
    "CheckpointStore.is_best": Call(
        kept("is_best"), {"points": {"loss": [(1, 1.0)]}, "step": 1}, like=room.CheckpointStore.is_best
    ),
    "Discriminators": Call(room.Discriminators, {"frame": JUDGES.frame, "window": JUDGES.window, "pair": JUDGES.pair}),
    "Discriminators.forward": Call(JUDGES.forward, {"observed": OBSERVED, "landmarks": REAL[:, 3:]}),
    "Discriminators.loss": Call(JUDGES.loss, {"observed": OBSERVED, "real": REAL[:, 3:], "fake": REAL[:, 3:] + 1}),
    "Finding": Call(room.Finding, {"severity": "note", "code": "a", "message": "b"}),
    "GanSteps": Call(room.GanSteps, {"generator": GENERATOR, **STEPS}),
    "GanSteps.step": Call(
        lambda **given: room.GanSteps(GENERATOR, **STEPS).step(**given), {"now": 1}, like=room.GanSteps.step, slow=True
    ),
    "GanSteps.update": Call(
        lambda **given: room.GanSteps(GENERATOR, **STEPS).update(**given),
        {"drawn": room.GanSteps(GENERATOR, **STEPS).draw()},
        like=room.GanSteps.update,
        slow=True,
    ),
    "GanTrainingConfig": Call(room.GanTrainingConfig, {}),
    "LevelObjective": Call(room.LevelObjective, {"config": SYNCERS}),
    "LevelObjective.chance": Call(room.LevelObjective(config=SYNCERS).chance, {"clips": 2, "windows": 6}),
    "SyncerTrainingConfig": Call(room.SyncerTrainingConfig, {}),
    "TrainingInterrupted": Call(room.TrainingInterrupted, {"message": "a", "number": 2}),
    "WarmStartConfig": Call(room.WarmStartConfig, {}),
    "averaged": Call(swapped, {"module": LINEAR, "average": AVERAGE}, like=room.averaged),
    "crop_offsets": Call(room.crop_offsets, {"syncers": PYRAMID, "crops": CROPS, "margin": 8}),
    "diagnose": Call(room.diagnose, {"history": {"loss": [(1, 2.0), (2, 1.0)]}, "chance": 2.0}),
    "embed_crops": Call(
        room.embed_crops,
        {"encoder": PYRAMID, "batch": BANK.windows(24, stride=24), "levels": [0, 1], "fine_frames": 16, "reference": "mean"},
    ),
    "evaluate_syncers": Call(room.evaluate_syncers, {"syncers": PYRAMID, "crops": CROPS, "margin": 8}),
    "examine": Call(room.examine, {"corpus": CORPUS, "syncers": PYRAMID, "features": LogMel()}, slow=True),
    "first_process": Call(room.first_process, {"fabric": FABRIC}),
    "generator_losses": Call(
        room.generator_losses,
        {
            "discriminators": JUDGES,
            "sync_loss": MultiScaleSyncLoss(syncers=PYRAMID),
            "observed": OBSERVED,
            "output": OUTPUT,
            "real": REAL,
            "audio": AUDIO,
            "config": GAN,
        },
    ),
    "lip_leak": Call(room.lip_leak, {"bank": BANK, "frames": 60}, slow=True),
    "liveliness_loss": Call(room.liveliness_loss, {"landmarks": torch.rand(4, 5, 68, 2), "real": torch.rand(4, 6, 68, 2)}),
    "opening_loss": Call(room.opening_loss, {"landmarks": torch.rand(4, 5, 68, 2), "real": torch.rand(4, 6, 68, 2)}),
    "load_checkpoint": Call(room.load_checkpoint, {"path": AT / "a.ckpt", "state": STATE}),
    "make_fabric": Call(room.make_fabric, {"accelerator": "cpu"}, slow=True),
    "on_first_process": Call(room.on_first_process, {"fabric": FABRIC, "function": lambda: None}),
    "overfit_batch": Call(room.overfit_batch, {"bank": BANK, "seconds": 0.01, "max_steps": 1, "crops": 2}, slow=True),
    "read_log": Call(room.read_log, {"folder": AT}),
    "save_checkpoint": Call(room.save_checkpoint, {"path": AT / "b.ckpt", "state": STATE}),
    "train_finest_first": Call(
        room.train_finest_first,
        {
            "pyramid": PYRAMID,
            "bank": BANK,
            "config": SYNCERS,
            "warm_start": room.WarmStartConfig(first_level=1, steps=1),
            **QUIET,
        },
        slow=True,
    ),
    "train_generator": Call(
        room.train_generator,
        {"generator": GENERATOR, "discriminators": JUDGES, "bank": BANK, "config": GAN, "sync_loss": None, **QUIET},
        slow=True,
    ),
    "train_loop": Call(
        room.train_loop,
        {"name": "a", "steps": 1, "step": nothing, "state": STATE, "fabric": FABRIC, "progress": False},
        slow=True,
    ),
    "train_motion_autoencoder": Call(
        room.train_motion_autoencoder,
        {
            "model": MotionAutoencoder(MotionAutoencoderConfig(width=4, features=4)),
            "bank": BANK,
            "config": room.AutoencoderTrainingConfig(steps=1, batch_size=2, frames=40),
            **QUIET,
        },
        slow=True,
    ),
    "train_syncers": Call(
        room.train_syncers, {"pyramid": PYRAMID, "bank": BANK, "config": SYNCERS, "levels": [0], **QUIET}, slow=True
    ),
    "variety_loss": Call(
        room.variety_loss, {"landmarks": torch.rand(4, 5, 68, 2), "real": torch.rand(4, 6, 68, 2), "variety": 0.5}
    ),
    "vital_signs": Call(
        room.vital_signs,
        {"embedded": EMBEDDED, "temperatures": [0.1], "gradient_norms": [torch.ones(())], "levels": [0]},
    ),
    "weight_average": Call(room.weight_average, {"module": LINEAR, "decay": 0.5}),
}
