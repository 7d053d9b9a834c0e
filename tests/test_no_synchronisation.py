"""No loss and no syncer waits for the device: with tensors on the meta device in place of a GPU, and on a GPU with torch's own check.

A copy between devices (a tensor made from a Python list, an index list, a buffer left on the CPU) or a value that Python reads makes
the host wait for a GPU, and cannot be captured in a CUDA graph. The meta device is a device of its own, so such a copy shows there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from avsync import MultiScaleSyncLoss, SpeechFeatures, SyncerConfig, SyncerPyramid, SyncerPyramidConfig, _checks
from avsync.losses import (
    AllPairsInfoNCE,
    ContrastiveLoss,
    CosineBCE,
    HingeDiscriminatorLoss,
    HingeGeneratorLoss,
    InfoNCE,
    SigmoidPairLoss,
    all_pairs,
    all_pairs_info_nce,
    contrastive_loss,
    cosine_bce,
    info_nce,
    multi_scale_sync_loss,
    offset_info_nce,
    sampled_info_nce,
    within_clips_info_nce,
)

aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.masked_select.default}


class RefuseLists(TorchFunctionMode):
    """Raise where a tensor is made from Python numbers or indexed by a list, both of which torch copies to the device unseen."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in {torch.tensor, torch.as_tensor, Tensor.new_tensor}:
            raise AssertionError(f"{func} makes a tensor from Python numbers")
        if func in {Tensor.__getitem__, Tensor.__setitem__}:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list | tuple | range) for part in index):
                raise AssertionError(f"a tensor is indexed by {index}")
        return func(*args, **(kwargs or {}))


class RefuseSynchronisation(TorchDispatchMode):
    """Raise where an operation would copy between devices or hand a value to Python."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in READS:
            raise AssertionError(f"{func} reads a value")
        tensors = [x for x in _pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        result = func(*args, **kwargs)
        results = [x for x in _pytree.tree_leaves(result) if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors + results if x.ndim or func in {aten._to_copy.default, aten.copy_.default}}
        if len(devices) > 1:
            raise AssertionError(f"{func} works on {devices}")
        return result


def syncers() -> SyncerPyramid:
    config = SyncerConfig(width=8, embed=4, motion_channels=7, audio_context=2)
    motion = ("displacement", "shape", "velocity", "speed")
    return SyncerPyramid(SyncerPyramidConfig(syncer=config, motion=motion, audio="log-mel", mean_normalisation=True))


Step = Callable[[], Tensor]


def sync_loss(**options: Any) -> Callable[[str], Step]:
    """The loss of features; a step is a call of the loss that was moved before."""

    def prepare(device: str) -> Step:
        loss = MultiScaleSyncLoss(syncers=syncers(), level_weights=[1, 2, 3, 4]).to(device)

        def step() -> Tensor:
            landmarks = torch.rand(2, 40, 68, 2, device=device, requires_grad=True)
            given = {key: value(device) if callable(value) else value for key, value in options.items()}
            return loss(landmarks, torch.randn(2, 160, 26, device=device), **given).total

        return step

    return prepare


def waveform_loss(device: str) -> Step:
    loss = MultiScaleSyncLoss(syncers=syncers(), audio_transform=SpeechFeatures(kind="log-mel")).to(device)
    return lambda: (
        loss(torch.rand(2, 40, 68, 2, device=device, requires_grad=True), torch.randn(2, 40 * 640, device=device)).total
    )


def embeddings(device: str, shape: tuple[int, ...] = (2, 12, 8)) -> tuple[Tensor, Tensor]:
    motion, audio = torch.randn(2, *shape, device=device)
    return motion.requires_grad_(), audio.requires_grad_()


def of_windows(loss: Callable[..., Tensor], *, masked: bool = True) -> Callable[[str], Step]:
    def prepare(device: str) -> Step:
        module = copy.deepcopy(loss).to(device) if isinstance(loss, nn.Module) else loss  # a module cannot return from meta

        def step() -> Tensor:
            mask = {"mask": torch.ones(2, 12, dtype=torch.bool, device=device)} if masked else {}
            return module(*embeddings(device), **mask)

        return step

    return prepare


def training_of_syncers(device: str) -> Step:
    pyramid = syncers().to(device)

    def step() -> Tensor:
        levels = pyramid(torch.rand(2, 40, 68, 2, device=device), torch.randn(2, 160, 26, device=device), reference="mean")
        return torch.stack([(level.motion * level.audio).sum() for level in levels]).sum()

    return step


CASES: dict[str, Callable[[str], Step]] = {
    "sync loss": sync_loss(),
    "sync loss, reference": sync_loss(reference=lambda device: torch.rand(2, 68, 2, device=device)),
    "sync loss, lengths": sync_loss(reference="mean", lengths=lambda device: torch.full((2,), 40, device=device)),
    "sync loss, waveform": waveform_loss,
    "multi_scale_sync_loss": of_windows(
        lambda m, a, mask: multi_scale_sync_loss([m, m], [a, a], level_weights=[1, 2], masks=[mask, None]).total
    ),
    "all_pairs": of_windows(AllPairsInfoNCE(exclusion=1, learnable=True)),
    "all_pairs, cold": of_windows(lambda m, a, **k: all_pairs_info_nce(m, a, temperature=0.01, **k)),
    "within_clips": of_windows(within_clips_info_nce),
    "InfoNCE": of_windows(InfoNCE(num_negatives=4, learnable=True)),
    "InfoNCE, no mask": of_windows(InfoNCE(num_negatives=4), masked=False),
    "sampled": of_windows(
        lambda m, a, **k: sampled_info_nce(m, a, torch.zeros(2, 12, 3, dtype=torch.int64, device=m.device), **k)
    ),
    "info_nce": of_windows(lambda m, a: info_nce(m, a, m[:, :, None].expand(-1, -1, 3, -1)), masked=False),
    "offset": of_windows(lambda m, a, **k: offset_info_nce(m, a, span=3, max_offset=4, window=5, **k)),
    "ContrastiveLoss": of_windows(ContrastiveLoss()),
    "contrastive_loss": of_windows(lambda m, a: contrastive_loss(m, a, torch.ones(2, 12, device=m.device)), masked=False),
    "CosineBCE": of_windows(CosineBCE()),
    "cosine_bce": of_windows(lambda m, a: cosine_bce(m, a, torch.ones(2, 12, device=m.device)), masked=False),
    "SigmoidPairLoss": of_windows(SigmoidPairLoss()),
    "hinge": of_windows(lambda m, a: HingeDiscriminatorLoss()(m, a) + HingeGeneratorLoss()(m), masked=False),
    "syncers": training_of_syncers,
}


@pytest.mark.parametrize("name", list(CASES))
def test_nothing_is_copied_between_devices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda **_: nullcontext())  # which does not know the meta device
    step = CASES[name]("meta")
    with RefuseSynchronisation(), RefuseLists():
        step().backward()


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("sync loss")])
def test_nor_where_operations_are_joined(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "LAUNCH_BOUND", ("meta",))
    monkeypatch.setattr(torch, "autocast", lambda **_: nullcontext())  # which does not know the meta device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    step = CASES[name]("meta")
    step()  # the joined weights, the matrices of the levels, and constants are made in the first call
    with RefuseSynchronisation(), RefuseLists():
        step().backward()


def test_nor_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_pairs, "LARGEST_MATRIX", 1)
    monkeypatch.setattr(all_pairs, "CHUNK", 1)
    test_nothing_is_copied_between_devices("all_pairs", monkeypatch)
    test_nothing_is_copied_between_devices("all_pairs, cold", monkeypatch)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: torch.zeros(3, device="meta") + torch.ones(3).to("meta"),
        lambda: torch.zeros(3, device="meta")[[0, 2]],
        lambda: torch.zeros(3, device="meta").new_tensor([1.0, 2.0]),
        lambda: torch.as_tensor([1.0, 2.0], device="meta"),
        lambda: torch.zeros(3, device="meta").sum().item(),
    ],
)
def test_the_check_finds_what_waits(wrong: Callable[[], object]) -> None:
    with RefuseSynchronisation(), RefuseLists(), pytest.raises((AssertionError, RuntimeError)):
        wrong()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", list(CASES))
def test_nothing_waits_for_a_gpu(name: str) -> None:
    step = CASES[name]("cuda")
    step().backward()  # libraries set themselves up in the first call
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
