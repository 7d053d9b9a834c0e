"""Multi-scale autoregressive generator (equations 6 to 8), its audio pyramid and its streaming form."""

from __future__ import annotations

from avsync.models.generator.audio_pyramid import AudioPyramid, mirror_audio
from avsync.models.generator.model import (
    GeneratorConfig,
    GeneratorOutput,
    MultiScaleGenerator,
    Rollout,
    RolloutState,
    StepOutput,
    merge_branches,
)
from avsync.models.generator.stream import AudioPyramidStream, GeneratorStream

__all__ = [
    "AudioPyramid",
    "AudioPyramidStream",
    "GeneratorConfig",
    "GeneratorOutput",
    "GeneratorStream",
    "MultiScaleGenerator",
    "Rollout",
    "RolloutState",
    "StepOutput",
    "merge_branches",
    "mirror_audio",
]
