"""Gradients that are equal in every run: no backward pass uses an operation that adds atomically on a GPU.

The names are those of operations that :func:`torch.use_deterministic_algorithms` refuses on a GPU, or for which it takes another
path. Convolutions and LSTMs of cuDNN have switches of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from avsync import MultiScaleSyncLoss
from avsync.losses import HingeGeneratorLoss, all_pairs_info_nce, within_clips_info_nce
from avsync.models import (
    FrameDiscriminator,
    FrameDiscriminatorConfig,
    GeneratorConfig,
    MultiScaleGenerator,
    PairDiscriminator,
    WindowDiscriminator,
    WindowDiscriminatorConfig,
)

ATOMIC = (
    "scatter_add",
    "scatter_reduce",
    "index_add",
    "index_put",
    "_index_put_impl_",
    "index_reduce",
    "put",
    "embedding_dense_backward",
    "reflection_pad",
    "replication_pad",
    "upsample",
    "adaptive_",
    "avg_pool3d_backward",
    "max_pool3d",
    "fractional_max",
    "grid_sampler",
    "cumsum",
    "bincount",
    "median",
    "kthvalue",
)


class RefuseAtomic(TorchDispatchMode):
    """Raise where an operation adds atomically on a GPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name.startswith(ATOMIC):
            raise AssertionError(f"the gradient of {name} differs between runs on a GPU")
        return function(*args, **(kwargs or {}))


WINDOWS = WindowDiscriminatorConfig(embed=8, hidden=8, windows=(5, 10, 20))


def faces(frames: int = 24, batch: int = 2) -> Tensor:
    return torch.rand(batch, frames, 68, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()


def sync_loss() -> Tensor:
    loss = MultiScaleSyncLoss.from_pretrained()
    return loss(faces(40), torch.randn(2, 160, 26), reference=torch.rand(2, 68, 2)).total


def rollout() -> Tensor:
    sizes = GeneratorConfig(hidden=8, position_embed=8, audio_channels=8, branch_width=8, motion_components=4)
    return MultiScaleGenerator(sizes).train()(faces(3), torch.randn(2, 40, 26)).landmarks.sum()


def adversarial() -> Tensor:
    clips, observed = faces(), faces(3)
    frame = FrameDiscriminator(FrameDiscriminatorConfig(embed=8, depth=1))(clips)
    # The fused form is that of a GPU.
    window, pair = (kind(WINDOWS)(observed, clips, fused=True) for kind in (WindowDiscriminator, PairDiscriminator))
    return torch.stack([HingeGeneratorLoss()(logits) for logits in (frame, window, pair)]).sum()


def embeddings() -> tuple[Tensor, Tensor]:
    motion, audio = torch.randn(2, 3, 12, 8)
    return motion.requires_grad_(), audio.requires_grad_()


CASES: dict[str, Callable[[], Tensor]] = {
    "sync loss": sync_loss,
    "rollout": rollout,
    "discriminators": adversarial,
    "all pairs": lambda: all_pairs_info_nce(*embeddings(), exclusion=1),
    "within clips": lambda: within_clips_info_nce(*embeddings()),
}


@pytest.mark.parametrize("name", list(CASES))
def test_no_gradient_is_an_atomic_sum(name: str) -> None:
    loss = CASES[name]()
    with RefuseAtomic():
        loss.backward()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.index_select(0, torch.tensor([0, 0])),
        lambda x: x.gather(0, torch.zeros(2, 6, dtype=torch.int64)),
        lambda x: x[torch.tensor([0, 0])],
        lambda x: F.pad(x[None], (2, 2), mode="reflect"),
    ],
)
def test_the_check_finds_atomic_sums(wrong: Callable[[Tensor], Tensor]) -> None:
    total = wrong(torch.rand(4, 6, requires_grad=True)).sum()
    with RefuseAtomic(), pytest.raises(AssertionError, match="differs between runs"):
        total.backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gradients_repeat_on_a_gpu() -> None:
    loss, audio = MultiScaleSyncLoss.from_pretrained().cuda(), torch.randn(8, 320, 26).cuda()
    landmarks = faces(80, 8).detach().cuda().requires_grad_()
    with torch.backends.cudnn.flags(deterministic=True):
        first, *others = (torch.autograd.grad(loss(landmarks, audio).total, landmarks)[0] for _ in range(6))
    assert all(torch.equal(first, other) for other in others)
