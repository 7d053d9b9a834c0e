"""Training of syncers, generators and the motion autoencoder on Lightning Fabric (extra "train").

Names are imported on first access, so that ``import avsync.training`` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avsync.training.autoencoder import AutoencoderTrainingConfig, train_motion_autoencoder
    from avsync.training.checkpoint import load_checkpoint, save_checkpoint
    from avsync.training.doctor import Examination, Finding, diagnose, examine, overfit_batch, vital_signs
    from avsync.training.ema import averaged, weight_average
    from avsync.training.engine import History, LoopOptions, train_loop
    from avsync.training.gan import Discriminators, GanSteps, GanTrainingConfig, generator_losses, train_generator
    from avsync.training.graphs import CudaRecorder, GraphedStep, make_capturable
    from avsync.training.interrupts import TrainingInterrupted
    from avsync.training.logging import read_log
    from avsync.training.motion_terms import liveliness_loss, opening_loss, variety_loss
    from avsync.training.objectives import LevelObjective, SyncerTrainingConfig
    from avsync.training.processes import first_process, free_cores, make_fabric, on_first_process
    from avsync.training.recipe import SYNCER_AUGMENT, SyncerRecipe, syncer_recipe
    from avsync.training.store import CheckpointStore
    from avsync.training.syncer_evaluation import LevelReport, crop_offsets, evaluate_syncers
    from avsync.training.syncers import average_shape, embed_crops, lip_leak, train_syncers
    from avsync.training.warm_start import WarmStartConfig, train_finest_first

_MODULES = {
    "autoencoder": ("AutoencoderTrainingConfig", "train_motion_autoencoder"),
    "checkpoint": ("load_checkpoint", "save_checkpoint"),
    "doctor": ("Examination", "Finding", "diagnose", "examine", "overfit_batch", "vital_signs"),
    "ema": ("averaged", "weight_average"),
    "engine": ("History", "LoopOptions", "train_loop"),
    "gan": ("Discriminators", "GanSteps", "GanTrainingConfig", "generator_losses", "train_generator"),
    "graphs": ("CudaRecorder", "GraphedStep", "make_capturable"),
    "interrupts": ("TrainingInterrupted",),
    "logging": ("read_log",),
    "motion_terms": ("liveliness_loss", "opening_loss", "variety_loss"),
    "objectives": ("LevelObjective", "SyncerTrainingConfig"),
    "processes": ("first_process", "free_cores", "make_fabric", "on_first_process"),
    "recipe": ("SYNCER_AUGMENT", "SyncerRecipe", "syncer_recipe"),
    "store": ("CheckpointStore",),
    "syncer_evaluation": ("LevelReport", "crop_offsets", "evaluate_syncers"),
    "syncers": ("average_shape", "embed_crops", "lip_leak", "train_syncers"),
    "warm_start": ("WarmStartConfig", "train_finest_first"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: PLE0604, RUF100 - resolved by __getattr__
    "SYNCER_AUGMENT",
    "AutoencoderTrainingConfig",
    "CheckpointStore",
    "CudaRecorder",
    "Discriminators",
    "Examination",
    "Finding",
    "GanSteps",
    "GanTrainingConfig",
    "GraphedStep",
    "History",
    "LevelObjective",
    "LevelReport",
    "LoopOptions",
    "SyncerRecipe",
    "SyncerTrainingConfig",
    "TrainingInterrupted",
    "WarmStartConfig",
    "average_shape",
    "averaged",
    "crop_offsets",
    "diagnose",
    "embed_crops",
    "evaluate_syncers",
    "examine",
    "first_process",
    "free_cores",
    "generator_losses",
    "lip_leak",
    "liveliness_loss",
    "load_checkpoint",
    "make_capturable",
    "make_fabric",
    "on_first_process",
    "opening_loss",
    "overfit_batch",
    "read_log",
    "save_checkpoint",
    "syncer_recipe",
    "train_finest_first",
    "train_generator",
    "train_loop",
    "train_motion_autoencoder",
    "train_syncers",
    "variety_loss",
    "vital_signs",
    "weight_average",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"avsync.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
