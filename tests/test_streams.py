"""Work side by side on a GPU: the order of the calls and the values on a CPU, streams and recording on a GPU."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from avsync import _checks, _streams
from avsync._streams import on_streams
from avsync.models import (
    FrameDiscriminator,
    FrameDiscriminatorConfig,
    PairDiscriminator,
    WindowDiscriminator,
    WindowDiscriminatorConfig,
)
from avsync.training import CudaRecorder, Discriminators, gan

WINDOW = WindowDiscriminatorConfig(points=5, embed=8, hidden=6, windows=(5, 10))
FRAME = FrameDiscriminatorConfig(points=5, embed=8, depth=1)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def discriminators(*, shared: bool = False) -> Discriminators:
    torch.manual_seed(0)
    window = WindowDiscriminator(WINDOW)
    pair = PairDiscriminator(WINDOW, embedding=window.embedding if shared else None)
    return Discriminators(frame=FrameDiscriminator(FRAME), window=window, pair=pair)


def clips(device: str = "cpu") -> list[Tensor]:
    """Observed, real and generated frames."""
    rng = torch.Generator().manual_seed(0)
    return [torch.rand(4, frames, 5, 2, generator=rng).to(device) for frames in (3, 12, 12)]


def results(together: Discriminators, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Loss, gradients of all parameters and of the generated frames, and the estimates of the spectral norms."""
    observed, real, fake = inputs
    together.zero_grad()
    loss = together.loss(observed, real, fake)
    loss.backward()
    found = {"loss": loss.detach()} | {name: p.grad.clone() for name, p in together.named_parameters()}
    y = fake.clone().requires_grad_()
    sum(logits.sum() for logits in together(observed, y).values()).backward()
    return found | {"landmarks": y.grad} | {name: buffer.clone() for name, buffer in together.named_buffers()}


def test_calls_in_turn_on_a_cpu() -> None:
    calls: list[int] = []

    def function(index: int) -> Callable[[], Tensor]:
        def call() -> Tensor:
            calls.append(index)
            return torch.full((), float(index))

        return call

    assert [float(x) for x in on_streams([function(k) for k in range(3)], [torch.ones(1)])] == [0.0, 1.0, 2.0]
    assert calls == [0, 1, 2]


def test_streams_wait_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for a GPU: all side streams are forked before the first function begins, and joined after the last."""
    log: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name, self.device = name, torch.device("cuda", 0)

        def wait_stream(self, other: Stream) -> None:
            log.append(f"{self.name} waits for {other.name}")

    class OnGpu:
        device = torch.device("cuda", 0)

        def __init__(self, name: str) -> None:
            self.name = name

        def record_stream(self, stream: Stream) -> None:
            log.append(f"{self.name} on {stream.name}")

    @contextlib.contextmanager
    def within(stream: Stream) -> Iterator[None]:
        log.append(f"in {stream.name}")
        yield

    current, made = Stream("current"), (Stream(f"side {k}") for k in range(10))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority: next(made))
    monkeypatch.setattr(torch.cuda, "stream", within)
    _streams._side_streams.cache_clear()
    functions: list[Any] = [lambda: OnGpu("first"), lambda: OnGpu("second")]
    for _ in range(2):  # with the same side stream again
        log.clear()
        assert [x.name for x in on_streams(functions, [OnGpu("input")])] == ["first", "second"]
        assert log == [
            "side 0 waits for current",
            "input on side 0",
            "in current",
            "in side 0",
            "current waits for side 0",
            "second on current",
        ]
    _streams._side_streams.cache_clear()


@pytest.mark.parametrize("shared", [False, True])
def test_discriminators_pass_all_that_they_read(monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    expected = results(discriminators(shared=shared), clips())
    seen: list[tuple[int, int]] = []

    def spy(functions: Sequence[Callable[[], Tensor]], inputs: Sequence[Tensor]) -> list[Tensor]:
        seen.append((len(functions), len(inputs)))
        # On streams the functions may end in any order.
        return [function() for function in reversed(functions)][::-1]

    monkeypatch.setattr(_checks, "LAUNCH_BOUND", ("cpu",))
    monkeypatch.setattr(gan, "on_streams", spy)
    found = results(discriminators(shared=shared), clips())
    assert seen == [(3, 3 if shared else 2)] * 2
    torch.testing.assert_close(found, expected)


def test_tracers_get_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither fake tensors of a GPU nor compiled programs, nor a process group, ask for a stream."""

    def refuse(*_: object) -> None:
        raise AssertionError("a stream")

    monkeypatch.setattr(torch.cuda, "current_stream", refuse)
    monkeypatch.setattr(_streams, "_side_streams", refuse)
    with FakeTensorMode():
        x = torch.empty(3, device="cuda")
        assert on_streams([lambda: x + 1], [x])[0].device.type == "cuda"
    together = discriminators().eval()
    observed, real, _ = clips()
    compiled = torch.compile(together, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(observed, real), together(observed, real))


@needs_gpu
@pytest.mark.parametrize("shared", [False, True])
def test_streams_change_no_value(monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    inputs = clips("cuda")
    there = discriminators(shared=shared).to("cuda")
    twin = copy.deepcopy(there)
    calls: list[int] = []
    original = _streams._side_streams

    def counted(stream: torch.cuda.Stream, count: int) -> list[torch.cuda.Stream]:
        calls.append(count)
        return original(stream, count)

    monkeypatch.setattr(_streams, "_side_streams", counted)
    found = [results(there, inputs) for _ in range(3)]
    assert calls == [2] * 6
    monkeypatch.setattr(_checks, "LAUNCH_BOUND", ())
    expected = [results(twin, inputs) for _ in range(3)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@needs_gpu
def test_streams_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replay gives the values of the next step in turn, also while the memory of the step is used again."""
    inputs = clips("cuda")
    sizes: dict[str, Any] = {"points": 5, "embed": 256}
    torch.manual_seed(0)
    window = WindowDiscriminator(replace(WINDOW, **sizes, hidden=256))
    pair = PairDiscriminator(replace(WINDOW, **sizes, hidden=256), embedding=window.embedding)
    frame = FrameDiscriminator(replace(FRAME, **sizes))
    there = Discriminators(frame=frame, window=window, pair=pair).to("cuda")
    twin = copy.deepcopy(there)
    recorder = CudaRecorder(torch.device("cuda", torch.cuda.current_device()))
    warm = [{key: x.clone() for key, x in recorder.aside(lambda: results(there, inputs)).items()} for _ in range(3)]
    replay, outputs = recorder.record(lambda: results(there, inputs))
    found = list(warm)
    for _ in range(5):
        replay()
        found.append({key: x.clone() for key, x in outputs.items()})
    torch.cuda.synchronize()
    monkeypatch.setattr(_checks, "LAUNCH_BOUND", ())
    expected = [results(twin, inputs) for _ in range(8)]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
