"""Streaming generation as CUDA graphs: the frames of a stream that replays them equal those of an eager stream.

On a CPU a tape stands in for the graph: it repeats the operations of the recording on the tensors of the recording. A state that
Python keeps, or that is replaced by another tensor, does not change in a replay of either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from avsync._graphs import GraphedStep
from avsync.errors import ArgumentError, ShapeError
from avsync.models.generator import stream as module
from avsync.models.generator.model import GeneratorConfig, MultiScaleGenerator
from avsync.models.generator.stream import GeneratorStream

SIZES = {"audio_features": 5, "points": 7, "hidden": 12, "position_embed": 10, "audio_channels": 16, "branch_width": 14}
MOTIONS = {"noise": 3, "style": 2, "motion_components": 4, "motion_leak": 0.1}
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Operations(TorchDispatchMode):
    """List of all operations with their arguments and results, and copies of what they have changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written = [x for x, of in zip(args, function._schema.arguments) if of.alias_info and of.alias_info.is_write]  # noqa: B905
        self.before += [(x, x.clone()) for x in written]
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result


class Tape:
    """Recorder that, as a CUDA graph does, repeats operations on fixed tensors and runs no Python."""

    def __init__(self) -> None:
        self.log = list[str]()

    def aside(self, function: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        self.log.append("eager")
        return function()

    def record(self, function: Callable[[], Mapping[str, Tensor]]) -> tuple[Callable[[], object], Mapping[str, Tensor]]:
        self.log.append("record")
        with Operations() as operations:
            outputs = function()
        for x, value in reversed(operations.before):  # a capture runs nothing
            x.copy_(value)

        def replay() -> None:
            self.log.append("replay")
            for called, args, kwargs, result in operations.calls:
                again = called(*args, **kwargs)
                if not any(returned.alias_info for returned in called._schema.returns):  # neither a view nor in place
                    for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                        old.copy_(new)

        return replay, outputs


def make(**choices: Any) -> MultiScaleGenerator:
    torch.manual_seed(0)
    return MultiScaleGenerator(GeneratorConfig(**(SIZES | choices))).eval()


def inputs(frames: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(frames)
    return 100 * torch.randn(batch, 3, 7, 2, generator=source), torch.randn(batch, 4 * frames, 5, generator=source)


def streamed(stream: GeneratorStream, audio: Tensor, start: int = 0) -> Tensor:
    faces = [stream.step(piece) for piece in audio[:, 4 * start :].split(4, dim=1)]
    return torch.stack([face for face in faces if face is not None], dim=1)


def start(network: MultiScaleGenerator, observed: Tensor, **options: Any) -> GeneratorStream:
    return GeneratorStream(network=network, observed=observed, generator=torch.Generator().manual_seed(1), **options)


def taped(network: MultiScaleGenerator, observed: Tensor) -> tuple[GeneratorStream, Tape]:
    stream, tape = start(network, observed), Tape()
    stream._recorder = tape
    return stream, tape


def test_the_tape_shows_a_state_that_python_keeps() -> None:
    held, kept = torch.zeros(()), [torch.zeros(())]

    def in_place(x: Tensor) -> dict[str, Tensor]:
        return {"sum": held.add_(x).clone()}

    def replaced(x: Tensor) -> dict[str, Tensor]:
        kept[0] = kept[0] + x
        return {"sum": kept[0]}

    results = []
    for function in (in_place, replaced):
        step = GraphedStep(lambda given, function=function: function(given[0]), recorder=Tape(), warm_up=1)
        results.append([float(step([torch.ones(())])["sum"]) for _ in range(4)])
    assert results == [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 2.0, 2.0]]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("branches", "choices"), [(1, {}), (3, {}), (4, MOTIONS)])
def test_replayed_frames_equal_eager_ones(causal: bool, branches: int, choices: dict[str, Any]) -> None:
    network = make(causal=causal, num_branches=branches, **choices)
    observed, audio = inputs(90)
    eager = start(network, observed)
    expected = torch.cat([streamed(eager, audio), eager.flush()], dim=1)
    stream, tape = taped(network, observed)
    found = torch.cat([streamed(stream, audio), stream.flush()], dim=1)
    assert torch.equal(found, expected) and found.shape[1] == 87
    graphs = 2 ** (branches - 1)
    generated = 87 - network.look_ahead
    assert [tape.log.count(kind) for kind in ("eager", "record", "replay")] == [graphs, graphs, generated - graphs]
    whole = network(observed, audio, generator=torch.Generator().manual_seed(1)).landmarks
    torch.testing.assert_close(found, whole, atol=1e-3, rtol=0)  # of coordinates around 100


def test_clips_of_any_length_end_alike() -> None:
    """Every phase of the coarsest map, with the rest of the clip from a flush."""
    network = make(**MOTIONS)
    for frames in range(48, 65):
        observed, audio = inputs(frames, batch=1)
        eager, (stream, _) = start(network, observed), taped(network, observed)
        for one in (eager, stream):
            streamed(one, audio)
        assert torch.equal(stream.flush(), eager.flush())


def test_faces_keep_their_values() -> None:
    network = make(causal=True)
    observed, audio = inputs(60)
    stream, _ = taped(network, observed)
    faces = [face for face in (stream.step(piece) for piece in audio.split(4, dim=1)) if face is not None]
    copies = torch.stack([face.clone() for face in faces])
    stream.flush()
    assert torch.equal(torch.stack(faces), copies) and len({float(face[0, 0, 0]) for face in faces}) == 57


def test_other_dtypes_and_autocast_between_replays() -> None:
    network = make(causal=True)
    observed, audio = inputs(60)
    eager, (stream, tape) = start(network, observed), taped(network, observed)
    for one in (eager, stream):
        streamed(one, audio)
    before = len(tape.log)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = streamed(eager, audio, 55), streamed(stream, audio, 55)
    assert torch.equal(found, expected) and len(tape.log) == before, "nothing is recorded or replayed under autocast"
    for other in (audio.double(), audio.half(), audio):
        assert torch.equal(streamed(stream, other, 30), streamed(eager, other, 30))


def test_inference_mode_and_plain_mode_take_turns() -> None:
    network = make(**MOTIONS)
    observed, audio = inputs(80)
    eager = start(network, observed)
    expected = streamed(eager, audio)
    with torch.inference_mode():
        stream, _ = taped(network, observed.clone())
    faces = []
    for index, piece in enumerate(audio.split(4, dim=1)):
        with torch.inference_mode(index % 3 == 0):
            faces.append(stream.step(piece.clone()))
    assert torch.equal(torch.stack([face for face in faces if face is not None], dim=1), expected)


def test_the_number_of_recordings_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_RECORDINGS", 3)
    network = make(causal=True)
    observed, audio = inputs(40)
    stream, tape = taped(network, observed)
    assert torch.equal(streamed(stream, audio), streamed(start(network, observed), audio))
    assert tape.log.count("record") == 3 and tape.log.count("replay") > 6


def test_a_refused_frame_leaves_the_stream_as_it_was() -> None:
    network = make(causal=True)
    observed, audio = inputs(40)
    stream, _ = taped(network, observed)
    expected = streamed(start(network, observed), audio)
    first = streamed(stream, audio[:, :120])
    for wrong in (audio[:, :3], audio[:1, :4], audio[:, :4, :2], audio[:, :4].long()):
        with pytest.raises(ShapeError, match="`audio`"):
            stream.step(wrong)
    with pytest.raises(ArgumentError, match="`audio`"):
        stream.step(audio[:, :4].to("meta"))
    assert torch.equal(torch.cat([first, streamed(stream, audio, 30)], dim=1), expected)


def test_graphs_without_a_gpu() -> None:
    network, (observed, _) = make(), inputs(4)
    for asked in (None, False):
        assert start(network, observed, cuda_graphs=asked)._recorder is None
    with pytest.raises(ArgumentError, match="`cuda_graphs`: expected a GPU, got cpu"):
        start(network, observed, cuda_graphs=True)


@GPU
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("choices", [{}, MOTIONS, {"num_branches": 1}])
def test_captured_frames_equal_eager_ones(causal: bool, choices: dict[str, Any]) -> None:
    network = make(causal=causal, **choices).cuda()
    for frames, batch in ((50, 1), (83, 2), (120, 3)):
        observed, audio = (x.cuda() for x in inputs(frames, batch))
        found = []
        for cuda_graphs in (False, None):
            stream = start(network, observed, cuda_graphs=cuda_graphs)
            found.append(torch.cat([streamed(stream, audio), stream.flush()], dim=1))
        torch.testing.assert_close(found[1], found[0], atol=1e-3, rtol=1e-5)  # coordinates around 100


@GPU
def test_captured_frames_do_not_wait_for_the_device() -> None:
    network = make(causal=True, **MOTIONS).cuda()
    observed, audio = (x.cuda() for x in inputs(60))
    stream = start(network, observed, cuda_graphs=True)
    streamed(stream, audio)  # records all frames, which waits
    torch.cuda.set_sync_debug_mode("error")
    try:
        faces = streamed(stream, audio)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert faces.isfinite().all() and len(stream._recorded) == 8
