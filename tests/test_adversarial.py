"""Hinge losses: values, signs, shapes, precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync.errors import ArgumentError, ShapeError
from avsync.losses.adversarial import HingeDiscriminatorLoss, HingeGeneratorLoss, hinge_discriminator_loss, hinge_generator_loss
from tests.reference import adversarial as reference

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 5))
def test_values_against_the_reference(seed: int, rows: int) -> None:
    real, fake = logits(rows, 3, seed=seed), logits(rows + 1, 2, seed=seed + 1)
    expected = reference.discriminator(real.numpy(), fake.numpy())
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(expected)
    assert HingeDiscriminatorLoss()(real, fake) == hinge_discriminator_loss(real, fake)
    assert hinge_generator_loss(fake).item() == pytest.approx(reference.generator(fake.numpy()))
    assert HingeGeneratorLoss()(fake) == hinge_generator_loss(fake)


@given(margin=st.floats(min_value=1.0, max_value=50.0))
def test_a_sure_and_right_discriminator_rests_at_zero(margin: float) -> None:
    real = torch.full((4,), margin, requires_grad=True)
    loss = hinge_discriminator_loss(real, -real.detach())
    loss.backward()
    assert loss == 0
    assert hinge_discriminator_loss(torch.zeros(3), torch.zeros(3)) == 2  # and one that says nothing pays 2


def test_gradient_signs() -> None:
    real, fake = (torch.zeros(4, requires_grad=True) for _ in range(2))
    hinge_discriminator_loss(real, fake).backward()
    assert real.grad is not None and (real.grad < 0).all()
    assert fake.grad is not None and (fake.grad > 0).all()
    fake.grad = None
    hinge_generator_loss(fake).backward()
    assert (fake.grad < 0).all()


def test_reductions() -> None:
    real, fake = logits(3, 4), logits(3, 4, seed=1)
    none = hinge_discriminator_loss(real, fake, reduction="none")
    assert none.shape == (3, 4)
    torch.testing.assert_close(hinge_discriminator_loss(real, fake, reduction="sum"), none.sum())
    torch.testing.assert_close(hinge_discriminator_loss(real, fake), none.mean())
    torch.testing.assert_close(HingeGeneratorLoss(reduction="none")(fake), -fake)


def test_bad_arguments() -> None:
    with pytest.raises(ArgumentError, match="`reduction`"):
        HingeGeneratorLoss(reduction="avg")
    with pytest.raises(ArgumentError, match="`reduction`"):
        HingeDiscriminatorLoss(reduction="avg")
    with pytest.raises(ArgumentError, match="`reduction`"):
        hinge_generator_loss(torch.zeros(2), reduction="avg")
    with pytest.raises(ShapeError, match="`real_logits`: expected a tensor with at least one logit"):
        hinge_discriminator_loss(torch.zeros(0), torch.zeros(2))
    with pytest.raises(ShapeError, match="`fake_logits`: expected a floating-point"):
        hinge_generator_loss(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"`fake_logits`: expected \(2,\)"):
        hinge_discriminator_loss(torch.zeros(2), torch.zeros(3), reduction="none")


def test_gradcheck() -> None:
    real, fake = logits(3, 2).requires_grad_(), logits(3, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(hinge_discriminator_loss, (real, fake))
    assert torch.autograd.gradcheck(hinge_generator_loss, (fake,))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_and_autocast(dtype: torch.dtype, device: str) -> None:
    real, fake = (logits(3, 4, seed=s, dtype=torch.float32).to(device) for s in (0, 1))
    with torch.autocast(device_type=device, dtype=dtype):
        for loss in (hinge_discriminator_loss(real.to(dtype), fake.to(dtype)), hinge_generator_loss(fake.to(dtype))):
            assert loss.dtype == torch.float32 and loss.isfinite() and loss.device.type == device


@pytest.mark.parametrize("loss", [hinge_discriminator_loss, lambda _, fake: hinge_generator_loss(fake)])
def test_compiles_whole(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    real, fake = logits(3, 4), logits(3, 4, seed=1)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(real, fake), loss(real, fake))
