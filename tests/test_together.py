"""Levels encoded together: the same numbers as one by one, and how many operations a GPU launches for the loss."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from avsync import MultiScaleSyncLoss, SyncerConfig, SyncerPyramid, SyncerPyramidConfig, _checks
from avsync.landmarks.head_frame import head_frame_weights
from avsync.landmarks.motion_features import motion_features
from avsync.losses import SyncLossOutput, multi_scale_sync_loss
from avsync.models.syncer import together
from avsync.models.syncer.pyramid import Syncer

NO_LAUNCH = [
    "view",
    "_unsafe_view",
    "t",
    "transpose",
    "permute",
    "expand",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "as_strided",
    "detach",
    "alias",
    "unbind",
    "split",
    "split_with_sizes",
    "unfold",
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "scalar_tensor",
    "lift_fresh",
    "promote_types",
    "squeeze_",
    "view_as_real",
    "view_as_complex",
    "conj",
    "_conj",
    "real",
    "imag",
]
"""Operations that launch nothing: views, allocations, and numbers that stay on the host."""


class Launches(TorchDispatchMode):
    """Counter of the operations that a GPU would launch."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name not in NO_LAUNCH:
            self.names[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "LAUNCH_BOUND", ("cpu",))


def random_pyramid(**options: Any) -> SyncerPyramid:
    torch.manual_seed(0)
    config = SyncerConfig(width=8, embed=4, audio_context=1, window_blocks=1)
    pyramid = SyncerPyramid(SyncerPyramidConfig(syncer=config, **options))
    for weight in pyramid.parameters():
        weight.data = torch.randn(weight.shape) / weight.shape[-1] ** 0.5
    return pyramid.eval()


def clips(frames: int = 43, dtype: torch.dtype = torch.float32, face: Tensor | None = None) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    random = torch.rand(2, 1, 68, 2, generator=source)
    motion = (random if face is None else face.expand_as(random)) + 0.02 * torch.randn(2, frames, 68, 2, generator=source)
    return motion.to(dtype).requires_grad_(), torch.randn(2, 4 * frames, 26, generator=source).to(dtype)


def results(
    loss: MultiScaleSyncLoss, lengths: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    return values(loss, *clips(dtype=dtype), lengths)


def values(
    loss: Callable[..., SyncLossOutput], landmarks: Tensor, audio: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    output = loss(landmarks, audio, lengths=lengths)
    return output.per_level.detach(), torch.autograd.grad(output.total, landmarks)[0]


def assert_equal(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], accuracy: float = 1e-6) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=accuracy)
    # In float32 the plain form differs by up to 7e-6 of the largest gradient from float64, too.
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=10 * accuracy * float(expected[1].abs().max()))


@pytest.mark.parametrize("options", [{}, {"width": (16, 8, 8, 8), "audio_context": (3, 0, 0, 0)}])
@pytest.mark.parametrize("padded", [False, True])
def test_the_same_numbers(options: dict[str, Any], padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = MultiScaleSyncLoss(syncers=random_pyramid(**options))
    lengths = torch.tensor([43, 35]) if padded else None
    expected = results(loss, lengths)
    monkeypatch.setattr(_checks, "LAUNCH_BOUND", ("cpu",))
    with Launches() as launches:
        found = results(loss, lengths)
    assert launches.names["baddbmm"] > 0
    assert_equal(found, expected)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_numbers_with_pretrained_weights(dtype: torch.dtype, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = MultiScaleSyncLoss.from_pretrained().to(dtype)
    lengths = torch.tensor([43, 35]) if padded else None
    given = (*clips(dtype=dtype, face=cast(SyncerPyramid, loss.syncers).average_shape), lengths)
    expected = values(loss, *given)
    monkeypatch.setattr(_checks, "LAUNCH_BOUND", ("cpu",))
    assert_equal(values(loss, *given), expected, {torch.float32: 1e-6, torch.float64: 1e-13}[dtype])


@pytest.mark.usefixtures("as_on_a_gpu")
def test_clips_that_are_too_long_for_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = MultiScaleSyncLoss(syncers=random_pyramid(width=(16, 8, 8, 8), audio_context=(3, 0, 0, 0))).double()
    expected = results(loss, dtype=torch.float64)
    monkeypatch.setattr(together, "LONGEST_MATRIX", 42)
    with Launches() as launches:
        found = results(loss, dtype=torch.float64)
    assert launches.names["avg_pool2d"] > 0
    assert_equal(found, expected, 1e-12)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_the_compiler_sees_the_plain_form() -> None:
    loss = MultiScaleSyncLoss(syncers=random_pyramid(num_levels=2))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_equal(values(compiled, *clips()), values(loss, *clips()))


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_mapped_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = MultiScaleSyncLoss.from_pretrained(layout="mediapipe478").double()
    source = torch.Generator().manual_seed(0)
    motion = torch.rand(1, 40, 478, 2, generator=source, dtype=torch.float64)
    landmarks = (motion[:, :1] + 0.02 * motion).requires_grad_()
    found = values(loss, landmarks, clips(40, torch.float64)[1][:1])
    monkeypatch.setattr(_checks, "LAUNCH_BOUND", ())
    assert_equal(found, values(loss, landmarks, clips(40, torch.float64)[1][:1]), 1e-12)


def faces(kind: str) -> Tensor:
    """Return clips of faces, (2, 7, 68, 2) in float64: random, without height, with both eyes in one point, or all zeros."""
    x = torch.rand(2, 7, 68, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    if kind == "flat":
        x[..., 1] = 0.5
    if kind == "one eye":
        x[1, :, 36:48] = 0.25
    return torch.zeros_like(x) if kind == "zeros" else x


@pytest.mark.parametrize("kind", ["random", "flat", "one eye", "zeros"])
@pytest.mark.parametrize("reference", ["mean", "first", "given"])
@pytest.mark.parametrize("region", ["face", "mouth"])
def test_motion_features(kind: str, reference: str, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(_checks, "LAUNCH_BOUND", devices)
        landmarks, face = faces(kind).requires_grad_(), faces(kind)[:, 3].requires_grad_()
        features = motion_features(
            landmarks,
            motion=("displacement", "shape", "velocity", "speed"),
            region=region,
            average_shape=faces("random")[0, 0],
            reference=face if reference == "given" else reference,
            weights=head_frame_weights(torch.device("cpu"), torch.float64),
        )
        inputs = (landmarks, face) if reference == "given" else (landmarks,)
        results.append((features, *torch.autograd.grad(features.square().sum() + features[..., -1].sum(), inputs)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_audio_that_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    pyramid = random_pyramid(width=(16, 8, 8, 8), audio_context=(3, 0, 0, 0)).requires_grad_(False)
    gradients = []
    for devices in (("cpu",), ()):
        monkeypatch.setattr(_checks, "LAUNCH_BOUND", devices)
        motion, audio = (x.detach().requires_grad_() for x in clips(dtype=torch.float64))
        total = multi_scale_sync_loss(*zip(*((x.motion, x.audio) for x in pyramid.double()(motion, audio)), strict=True)).total
        gradients.append(torch.autograd.grad(total, (motion, audio)))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_changed_weights_copies_and_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = MultiScaleSyncLoss(syncers=random_pyramid())
    before = results(loss)
    with torch.no_grad():
        for weight in loss.syncers.parameters():
            weight.mul_(1.5).add_(0.1)
    losses = [loss, copy.deepcopy(loss), copy.deepcopy(loss).double()]
    found = [results(one) for one in losses]
    monkeypatch.setattr(_checks, "LAUNCH_BOUND", ())
    expected = results(loss)
    assert (before[0] - expected[0]).abs().max() > 1e-3
    for one in found:
        assert_equal((one[0].float(), one[1].float()), expected)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_weights_that_learn_get_their_gradients() -> None:
    pyramid = random_pyramid()
    sum(level.motion.sum() for level in pyramid(*clips())).backward()
    encoders = [cast(Syncer, level).motion_encoder for level in pyramid.syncers]
    assert all(weight.grad is not None for encoder in encoders for weight in encoder.parameters())


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("pretrained", "waveform", "most"), [(False, False, 101), (True, False, 239), (True, True, 265)])
def test_operations_of_the_loss(pretrained: bool, waveform: bool, most: int) -> None:
    """Forward and backward; nothing joined: 487 with the default pyramid from features."""
    loss = MultiScaleSyncLoss.from_pretrained() if pretrained else MultiScaleSyncLoss(syncers=SyncerPyramid())
    landmarks, audio = clips(80)
    audio = 0.1 * torch.randn(2, 80 * 640) if waveform else audio
    values(loss, landmarks, audio)  # stacks the weights
    with Launches() as launches:
        values(loss, landmarks, audio)
    assert sum(launches.names.values()) <= most, launches.names
