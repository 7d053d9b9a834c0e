"""Models as ONNX programs, for programs without Python or torch.

The programs are made by ``torch.export`` and hold any batch and any length. A syncer becomes the two encoders of all windows
and its audio features; the generator, which is a recurrence, becomes the audio pyramid, the start and one step.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from avsync._checks import check_count, check_path, checked, import_extra
from avsync._files import replacing, write_json
from avsync.errors import ArgumentError
from avsync.models.generator import MultiScaleGenerator, RolloutState, mirror_audio
from avsync.models.syncer import MultiScaleSyncer
from avsync.pretrained import config_to_dict
from avsync.pyramid import AUDIO_FRAMES_PER_FRAME, SAMPLES_PER_FRAME

EXPORT_NAME = "export.json"
_EXAMPLE_FRAMES = 81  # odd at every level, so that nothing depends on an even length


class _Motion(nn.Module):
    def __init__(self, model: MultiScaleSyncer) -> None:
        super().__init__()
        self.model = model

    def forward(self, landmarks: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.embed_motion(landmarks))


class _Audio(nn.Module):
    def __init__(self, model: MultiScaleSyncer) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.embed_audio(audio))


class _Terms(nn.Module):
    def __init__(self, model: MultiScaleGenerator, warm_up: int) -> None:
        super().__init__()
        self.model, self.warm_up = model, warm_up

    def forward(self, audio: Tensor, noise: Tensor | None = None) -> Tensor:
        maps = self.model.audio_pyramid(mirror_audio(audio, self.warm_up))
        return self.model.audio_terms(maps[:, :, self.warm_up :], noise)


class _Start(nn.Module):
    def __init__(self, model: MultiScaleGenerator, warm_up: int) -> None:
        super().__init__()
        self.model, self.warm_up = model, warm_up

    def forward(self, face: Tensor, initial_state: Tensor) -> tuple[Tensor, ...]:
        observed = face[:, None].expand(-1, self.warm_up, -1, -1)
        return _given(self.model.start(observed, initial_state=initial_state).state)


class _Step(nn.Module):
    def __init__(self, model: MultiScaleGenerator) -> None:
        super().__init__()
        self.model = model

    def forward(self, face: Tensor, term: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rollout = self.model.start(face[:, None], initial_state=torch.stack([state[0], state[1]]))
        rollout.restore(RolloutState(*state))
        step = rollout.step(term)
        return (rollout.faces(step.displacement[:, None])[:, 0], *_given(rollout.state))


class _Program(NamedTuple):
    """Module with one example of each input, the names of inputs and outputs, and the dimensions that are free."""

    module: nn.Module
    example: tuple[Any, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    free: tuple[Any, ...]


def _given(state: RolloutState) -> tuple[Tensor, ...]:
    return tuple(part for part in state if part is not None)


@checked
def export_onnx(model: nn.Module, folder: str | os.PathLike[str], *, warm_up: int = 3) -> list[Path]:
    r"""Write a model as ONNX programs with a free batch and a free length.

    A syncer:

    - ``motion.onnx``: ``landmarks`` (batch, frames, points, dims) to ``motion_0``, ..., one per level, as
      ``embed_motion`` returns them.
    - ``audio.onnx``: ``audio`` (batch, stride * frames, features) to ``audio_0``, ..., as ``embed_audio`` returns them.
    - ``features.onnx``: ``waveform`` (batch, 640 * frames) to ``audio``, the features of the model; not with custom features.

    The generator:

    - ``audio.onnx``: ``audio`` (batch, 4 * frames, features) and, if the generator reads noise, ``noise`` (batch, frames,
      channels), as :meth:`avsync.models.MultiScaleGenerator.draw_noise` draws it, to ``terms`` (frames, branches, batch,
      width).
    - ``start.onnx``: ``face`` (batch, points, dims) and ``initial_state`` (2, batch, hidden) to the state: ``hidden``,
      ``cell``, ``displacement`` and, with principal motions, ``place`` and ``reach``.
    - ``step.onnx``: ``face``, ``term`` (branches, batch, width) of one frame, and the state, to ``landmarks`` (batch, points,
      dims) and the new state, whose names end in ``_next``.

    ``export.json`` contains the class and the config of the model, and the names of inputs and outputs.

    Args:
        model: :class:`avsync.models.SyncerPyramid`, :class:`avsync.models.SyncerEnsemble` or
            :class:`avsync.models.MultiScaleGenerator`, on the CPU; exported in eval mode.
        folder: Folder of the files.
        warm_up: Repetitions of the first face before the first generated frame, as in
            :meth:`avsync.models.MultiScaleGenerator.generate`.

    Returns:
        The programs.

    Raises:
        ArgumentError: The model is of another class, or torch is older than 2.7.
        MissingExtraError: onnx or onnxscript is not installed.

    Source: ours.
    """
    check_path("folder", folder)
    check_count("warm_up", warm_up)
    if not hasattr(torch.compiler, "is_exporting"):
        raise ArgumentError(f"`model`: expected torch 2.7 or later for an export, got torch {torch.__version__}")
    for package in ("onnx", "onnxscript"):
        import_extra(package, "export")
    training = model.training if isinstance(model, nn.Module) else False
    programs = _programs(model, warm_up)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    model.eval()
    try:
        for name, program in programs.items():
            path = target / f"{name}.onnx"
            with replacing(path) as temporary:
                _write(program, temporary)
            written.append(path)
    finally:
        model.train(training)
    described = {name: {"inputs": program.inputs, "outputs": program.outputs} for name, program in programs.items()}
    config = config_to_dict(model.config)
    write_json(
        target / EXPORT_NAME, {"class": type(model).__name__, "config": config, "warm_up": warm_up, "programs": described}
    )
    return written


def _programs(model: nn.Module, warm_up: int) -> dict[str, _Program]:
    if isinstance(model, MultiScaleSyncer):
        return _of_syncer(model)
    if isinstance(model, MultiScaleGenerator):
        return _of_generator(model, warm_up)
    raise ArgumentError(f"`model`: expected a syncer or a MultiScaleGenerator, got {type(model).__name__}")


def _of_syncer(model: MultiScaleSyncer) -> dict[str, _Program]:
    inputs, levels = model.interface, range(model.num_levels)
    batch, frames = torch.export.Dim("batch"), torch.export.Dim("frames", min=model.shortest_clip())
    count = max(_EXAMPLE_FRAMES, 2 * model.shortest_clip() + 1)
    stride = inputs.audio_stride
    landmarks = torch.rand(2, count, inputs.landmark_points, inputs.landmark_dims)
    audio = torch.rand(2, stride * count, inputs.audio_features)
    programs = {
        "motion": _Program(
            _Motion(model),
            (landmarks,),
            ("landmarks",),
            tuple(f"motion_{level}" for level in levels),
            ({0: batch, 1: frames},),
        ),
        "audio": _Program(
            _Audio(model), (audio,), ("audio",), tuple(f"audio_{level}" for level in levels), ({0: batch, 1: stride * frames},)
        ),
    }
    features = model.speech_features()
    if features is not None:
        waveform = torch.randn(2, SAMPLES_PER_FRAME * count)
        free = ({0: batch, 1: SAMPLES_PER_FRAME * torch.export.Dim("frames")},)
        programs["features"] = _Program(features, (waveform,), ("waveform",), ("audio",), free)
    return programs


def _of_generator(model: MultiScaleGenerator, warm_up: int) -> dict[str, _Program]:
    config = model.config
    batch, frames = torch.export.Dim("batch"), torch.export.Dim("frames")
    face, state = torch.rand(2, config.points, config.dims), torch.zeros(2, 2, config.hidden)
    with torch.no_grad():
        begun = model.start(face[:, None], initial_state=state).state
    names = tuple(name for name, part in zip(begun._fields, begun, strict=True) if part is not None)
    parts = _given(begun)
    audio = torch.rand(2, AUDIO_FRAMES_PER_FRAME * _EXAMPLE_FRAMES, config.audio_features)
    term = torch.rand(config.num_branches, 2, config.branch_width)
    rows = {0: batch}
    sounds = _Program(
        _Terms(model, warm_up), (audio,), ("audio",), ("terms",), ({0: batch, 1: AUDIO_FRAMES_PER_FRAME * frames},)
    )
    if config.noise_channels:
        noise = torch.randn(2, _EXAMPLE_FRAMES, config.noise_channels)
        sounds = sounds._replace(example=(audio, noise), inputs=("audio", "noise"), free=(*sounds.free, {0: batch, 1: frames}))
    return {
        "audio": sounds,
        "start": _Program(_Start(model, warm_up), (face, state), ("face", "initial_state"), names, (rows, {1: batch})),
        "step": _Program(
            _Step(model),
            (face, term, parts),
            ("face", "term", *names),
            ("landmarks", *(f"{name}_next" for name in names)),
            (rows, {1: batch}, tuple(rows for _ in parts)),
        ),
    }


def _write(program: _Program, path: Path) -> None:
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            program.module.eval(),
            program.example,
            os.fspath(path),
            dynamo=True,
            input_names=list(program.inputs),
            output_names=list(program.outputs),
            dynamic_shapes=program.free,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporter reports about packages and options that are not used here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
