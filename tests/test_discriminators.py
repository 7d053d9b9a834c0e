from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync.errors import ClipTooShortError, ConfigError, ShapeError
from avsync.models.discriminators import (
    FrameDiscriminator,
    FrameDiscriminatorConfig,
    PairDiscriminator,
    WindowDiscriminator,
    WindowDiscriminatorConfig,
    window_starts,
)
from avsync.pretrained import config_from_dict, config_to_dict
from tests.reference.discriminators import window_logits

FRAME = FrameDiscriminatorConfig(points=5, embed=8, depth=2)
WINDOW = WindowDiscriminatorConfig(points=5, embed=8, hidden=6)


def clips(batch: int, observed: int, frames: int, dims: int = 2) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(frames)
    x = torch.randn(batch, observed + frames, 5, dims, generator=source, dtype=torch.float64)
    return x[:, :observed], x[:, observed:]


@given(observed=st.integers(0, 8), frames=st.integers(1, 90), window=st.sampled_from([5, 10, 20, 40]))
def test_windows_lie_inside_and_reach_back_by_half_at_most(observed: int, frames: int, window: int) -> None:
    starts = window_starts(observed, frames, window)
    assert all(start >= -observed and start + window <= frames for start in starts)
    assert all(start >= -(window - window // 2) for start in starts)
    # The next window would stick out.
    assert not starts or starts[-1] + starts.step + window > frames


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("observed", "frames"), [(3, 40), (1, 11), (5, 47), (3, 2)])
def test_equals_one_window_at_a_time(pairs: bool, observed: int, frames: int) -> None:
    network = (PairDiscriminator if pairs else WindowDiscriminator)(WINDOW).double().eval()
    x = clips(4, observed, frames)
    torch.testing.assert_close(network(*x), window_logits(network, *x, pairs=pairs))


def test_a_pair_of_twins_is_one_sequence_for_the_same_weights() -> None:
    pair, single = PairDiscriminator(WINDOW).double().eval(), WindowDiscriminator(WINDOW).double().eval()
    single.load_state_dict(pair.state_dict())
    observed, x = clips(2, 3, 40)
    torch.testing.assert_close(pair(torch.cat([observed, observed]), torch.cat([x, x])), single(observed, x))


def networks() -> list[torch.nn.Module]:
    return [FrameDiscriminator(FRAME), WindowDiscriminator(WINDOW), PairDiscriminator(WINDOW)]


def run(network: torch.nn.Module, observed: Tensor, x: Tensor) -> Tensor:
    if isinstance(network, FrameDiscriminator):
        return network(x, reference=observed[:, 0])
    return network(observed, x)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_units_do_not_matter_but_drift_does(index: int) -> None:
    network = networks()[index].double().eval()
    observed, x = clips(2, 3, 12)
    expected = run(network, observed, x)
    torch.testing.assert_close(run(network, 40 * observed + 7, 40 * x + 7), expected)
    assert (run(network, observed, 1.5 * x) - expected).abs().max() > 1e-6
    assert (run(network, observed, x + 1.0) - expected).abs().max() > 1e-6


def test_frames_are_judged_one_by_one() -> None:
    network = FrameDiscriminator(FRAME).double()
    observed, x = clips(2, 1, 9)
    logits = network(x, reference=observed[:, 0])
    assert logits.shape == (2, 9)
    torch.testing.assert_close(network(x[:, 4:5], reference=observed[:, 0])[:, 0], logits[:, 4])
    torch.testing.assert_close(network(x), network(x, reference=x[:, 0]))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_gradients_reach_everything(index: int) -> None:
    network = networks()[index]
    observed, x = (t.float() for t in clips(4, 3, 40))
    x.requires_grad_()
    run(network, observed, x).sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(dim=(0, 2, 3)) > 0).all()
    reached = {name: p.grad is not None and bool(p.grad.abs().sum() > 0) for name, p in network.named_parameters()}
    assert all(reached.values()), reached


@pytest.mark.parametrize("index", [0, 1, 2])
def test_gradcheck(index: int) -> None:
    frame, window = replace(FRAME, embed=3, depth=1), replace(WINDOW, embed=3, hidden=3, windows=(4, 6))
    network = [FrameDiscriminator(frame), WindowDiscriminator(window), PairDiscriminator(window)][index].double().eval()
    observed, x = clips(2, 2, 5)
    parameters = [p for p in network.parameters() if p.numel() < 20]
    inputs = (observed.requires_grad_(), x.requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(lambda observed, x, *_: run(network, observed, x), inputs)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_compiles_in_one_graph(index: int) -> None:
    network = [
        FrameDiscriminator(FRAME),
        *(c(replace(WINDOW, windows=(4, 6))) for c in (WindowDiscriminator, PairDiscriminator)),
    ][index]
    network.eval()
    observed, x = (t.float() for t in clips(2, 2, 6))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run_compiled(compiled, network, observed, x), run(network, observed, x))


def run_compiled(compiled: torch.nn.Module, network: torch.nn.Module, observed: Tensor, x: Tensor) -> Tensor:
    return compiled(x, reference=observed[:, 0]) if isinstance(network, FrameDiscriminator) else compiled(observed, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_autocast(index: int, dtype: torch.dtype) -> None:
    network = networks()[index]
    observed, x = (t.float() for t in clips(2, 3, 20))
    with torch.autocast("cpu", dtype):
        logits = run(network, observed, x)
    logits.float().sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_spectral_norm_on_the_score_alone() -> None:
    names = {name for name in WindowDiscriminator(WINDOW).state_dict() if "parametrizations" in name}
    assert {name.split(".")[1] for name in names} == {"phi", "psi", "value", "score"}
    assert all(name.startswith("head.") for name in names)
    assert WindowDiscriminator(WINDOW).head.beta.item() == 5.0


def test_real_and_fake_passes_before_one_backward() -> None:
    """Spectral norm updates its estimate in the forward pass; an earlier graph must survive that."""
    network = WindowDiscriminator(WINDOW)
    observed, x = (t.float() for t in clips(2, 3, 12))
    (network(observed, x) - network(observed, x.flip(1))).sum().backward()


@pytest.mark.parametrize("config", [FRAME, WINDOW])
def test_configs_round_trip(config: FrameDiscriminatorConfig | WindowDiscriminatorConfig) -> None:
    assert config_from_dict(type(config), config_to_dict(config)) == config


def test_bad_input() -> None:
    window, pair, frame = (
        WindowDiscriminator(WINDOW).double(),
        PairDiscriminator(WINDOW).double(),
        FrameDiscriminator(FRAME).double(),
    )
    observed, x = clips(3, 3, 12)
    with pytest.raises(ClipTooShortError, match="at least 2 frames after 3 observed"):
        window(observed, x[:, :1])
    with pytest.raises(ShapeError, match="even batch"):
        pair(observed, x)
    with pytest.raises(ShapeError, match=r"`landmarks`: expected .batch=3"):
        window(observed, x[:2])
    with pytest.raises(ShapeError, match="`observed`"):
        window(observed[:, :, :4], x)
    with pytest.raises(ShapeError, match="`landmarks`"):
        frame(x[..., :1])
    with pytest.raises(ShapeError, match="`reference`"):
        frame(x, reference=observed)
    with pytest.raises(ClipTooShortError, match="`landmarks`"):
        frame(x[:, :0])
    with pytest.raises(ConfigError, match="`windows`"):
        replace(WINDOW, windows=(1,))
    with pytest.raises(ConfigError, match="`hidden`"):
        replace(WINDOW, hidden=0)
    with pytest.raises(ConfigError, match="`depth`"):
        replace(FRAME, depth=-1)
