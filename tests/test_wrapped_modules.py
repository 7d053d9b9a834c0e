"""The sync loss inside other people's modules: copies, pickles, precisions, data parallel wrappers; its frozen syncers come along.

``tests/test_distributed.py`` has a module that holds the loss in DistributedDataParallel, on real processes.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from avsync.errors import ArgumentError
from avsync.losses.sync import MultiScaleSyncLoss
from avsync.models.syncer.pyramid import SyncerPyramid
from tests.ranks import Guided

LANDMARKS = torch.rand(2, 40, 7, 2, generator=torch.Generator().manual_seed(1))
AUDIO = torch.randn(2, 160, 3, generator=torch.Generator().manual_seed(2))


def saved_whole(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    loaded: nn.Module = torch.load(buffer, weights_only=False)
    return loaded


def pickled(module: nn.Module) -> nn.Module:
    copied: nn.Module = pickle.loads(pickle.dumps(module))  # noqa: S301 (our own bytes)
    return copied


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, pickled, saved_whole],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_hold_frozen_syncers_of_their_own(copied: Callable[[nn.Module], nn.Module]) -> None:
    module = Guided()
    other = copied(module)
    expected = module(LANDMARKS, AUDIO)
    assert torch.equal(other(LANDMARKS, AUDIO), expected)
    assert isinstance(other.loss, MultiScaleSyncLoss) and isinstance(other.loss.syncers, SyncerPyramid)
    for parameter in other.loss.syncers.parameters():
        assert not parameter.requires_grad
        parameter.data.zero_()  # the original's own are untouched
    assert torch.equal(module(LANDMARKS, AUDIO), expected)
    assert {name for name, _ in other.named_parameters()} == {"mix.weight", "mix.bias"}
    assert set(other.state_dict()) == {"mix.weight", "mix.bias"}


def dtypes(module: Guided) -> set[torch.dtype]:
    return {parameter.dtype for parameter in module.loss.syncers.parameters()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions_reach_the_frozen_syncers(dtype: torch.dtype) -> None:
    expected = Guided()(LANDMARKS, AUDIO)
    module = Guided().to(dtype)
    assert dtypes(module) == {dtype}
    value: Tensor = module(LANDMARKS.to(dtype), AUDIO.to(dtype))
    value.backward()
    assert module.mix.weight.grad is not None and module.mix.weight.grad.isfinite().all()
    assert torch.allclose(value.float(), expected, atol=0.05)


@pytest.mark.parametrize(
    "device", ["meta", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
)
def test_devices_reach_the_frozen_syncers(device: str) -> None:
    module = Guided().to(device)
    places = {parameter.device.type for parameter in module.loss.syncers.parameters()}
    assert places == {device} == {buffer.device.type for buffer in module.loss.syncers.buffers()}
    if device != "meta":  # which autocast does not know
        assert module(LANDMARKS.to(device), AUDIO.to(device)).device.type == device


@pytest.mark.parametrize("layout", [None, "mediapipe478"])
def test_a_loss_is_made_on_the_device_of_its_syncers(layout: str | None) -> None:
    syncers = SyncerPyramid.from_pretrained("landmarks68-25fps").to("meta")
    loss = MultiScaleSyncLoss(syncers=syncers, layout=layout)
    tensors = (*loss.buffers(), *loss.syncers.parameters(), *loss.syncers.buffers())
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    transform = loss.audio_transform
    assert transform is not None and {buffer.device.type for buffer in transform.buffers()} == {"meta"}


def test_data_parallel_is_refused_with_what_to_use() -> None:
    """On one device, or on none, ``DataParallel`` calls the module itself; on several it copies it first."""
    assert nn.DataParallel(Guided())(LANDMARKS, AUDIO).isfinite()
    with pytest.raises(ArgumentError, match=r"DataParallel.*use DistributedDataParallel"):
        Guided().loss._replicate_for_data_parallel()
    # What `torch.nn.parallel.replicate` asks of every module it finds.
    assert any(isinstance(module, MultiScaleSyncLoss) for module in Guided().modules())
