from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.parametrizations import spectral_norm

from avsync.errors import ArgumentError, ClipTooShortError, ConfigError, ShapeError
from avsync.losses import hinge_discriminator_loss
from avsync.models.discriminators import (
    FrameDiscriminator,
    FrameDiscriminatorConfig,
    PairDiscriminator,
    SpectralLinear,
    WindowDiscriminator,
    WindowDiscriminatorConfig,
    window_starts,
)
from avsync.pretrained import config_from_dict, config_to_dict
from avsync.training.gan import Discriminators
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


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_compiles_in_one_graph(index: int, dynamic: bool) -> None:
    network = [
        FrameDiscriminator(FRAME),
        *(c(replace(WINDOW, windows=(4, 6))) for c in (WindowDiscriminator, PairDiscriminator)),
    ][index]
    network.eval()
    observed, x = (t.float() for t in clips(2, 2, 6))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager", dynamic=dynamic)
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
    network = WindowDiscriminator(WINDOW)
    names = {name for name, module in network.named_modules() if isinstance(module, SpectralLinear)}
    assert names == {"head.phi", "head.psi", "head.value", "head.score"}
    assert network.head.beta.item() == 5.0


def test_spectral_norm_is_that_of_torch() -> None:
    ours = SpectralLinear(7, 5)
    theirs = spectral_norm(torch.nn.Linear(7, 5))
    theirs.load_state_dict(
        {
            "bias": ours.bias,
            "parametrizations.weight.original": ours.weight,
            "parametrizations.weight.0._u": ours.left,
            "parametrizations.weight.0._v": ours.right,
        }
    )
    x = torch.rand(3, 7)
    for mode in (True, False):
        for _ in range(3):
            found, expected = ours.train(mode)(x), theirs.train(mode)(x)
            torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.parametrizations.weight.original.grad)


@pytest.mark.parametrize("network_class", [WindowDiscriminator, PairDiscriminator])
@pytest.mark.parametrize(("observed", "frames"), [(3, 40), (7, 12), (1, 4), (20, 45)])
def test_the_fused_lstm_is_the_loop(network_class: type, observed: int, frames: int) -> None:
    network = network_class(WINDOW).double().eval()
    before, x = clips(2, observed, frames)
    gradients = []
    for fused in (False, True):
        y = x.clone().requires_grad_()
        network.zero_grad()
        logits = network(before, y, fused=fused)
        logits.square().sum().backward()
        gradients.append([logits.detach(), y.grad, *(parameter.grad.clone() for parameter in network.parameters())])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_second_derivatives(index: int) -> None:
    network = networks()[index].double().eval()
    observed, x = clips(2, 3, 12)
    assert torch.autograd.gradgradcheck(lambda y: run(network, observed, y), x.requires_grad_(), atol=1e-4)

    def penalty(weights: dict[str, Tensor]) -> Tensor:
        def score(y: Tensor) -> Tensor:
            arguments = (y, {"reference": observed[:, 0]}) if index == 0 else (observed, y)
            given, named = ((arguments[0],), arguments[1]) if index == 0 else (arguments, {})
            return torch.func.functional_call(network, weights, given, named).sum()

        return torch.func.grad(score)(x).square().sum()

    found = torch.func.grad(penalty)({name: value.detach() for name, value in network.named_parameters()})
    (gradient,) = torch.autograd.grad(run(network, observed, x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    for name, parameter in network.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[name], expected)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_pickles_and_copies(index: int) -> None:
    network = networks()[index]
    observed, x = (t.float() for t in clips(2, 3, 12))
    run(network, observed, x)  # in training mode, which changes the estimates of spectral normalisation
    expected = run(network.eval(), observed, x)
    for twin in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):  # noqa: S301
        assert torch.equal(run(twin, observed, x), expected)


def test_an_embedding_can_be_shared() -> None:
    window = WindowDiscriminator(WINDOW).double()
    pair = PairDiscriminator(WINDOW, embedding=window.embedding).double()
    assert pair.embedding is window.embedding
    observed, x = clips(2, 3, 12)
    embedded = window.embed(observed, x)
    pair.eval(), window.eval()
    assert torch.equal(pair(observed, x, embedded=embedded), pair(observed, x))
    assert torch.equal(window(observed, x, embedded=embedded), window(observed, x))
    with pytest.raises(ShapeError, match=r"`embedded`: expected \(frames=15, batch=2, embed=8\)"):
        window(observed, x, embedded=embedded[1:])
    with pytest.raises(ArgumentError, match="`embedding`: expected 30 inputs and 9 outputs"):
        PairDiscriminator(replace(WINDOW, embed=9), embedding=window.embedding)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_any_dtype_goes_into_any_model(index: int, dtype: torch.dtype) -> None:
    for of_model in (torch.float64, torch.float32, torch.bfloat16):
        network = networks()[index].to(of_model)
        observed, x = (t.to(dtype) for t in clips(2, 3, 12))
        x.requires_grad_()
        logits = run(network, observed, x)
        logits.float().sum().backward()
        assert logits.dtype == of_model and logits.isfinite().all()
        assert x.grad.dtype == dtype and x.grad.isfinite().all()
        run(network, observed.double(), x)


def test_weights_of_the_old_form_load() -> None:
    """The old form has its LSTM in the network itself, and torch's parametrisation of the spectral norm."""
    network = WindowDiscriminator(WINDOW)
    new = network.state_dict()
    old = {name: value for name, value in new.items() if not name.startswith(("lstm.", "head."))}
    old |= {name: new[f"lstm.{name}"] for name in ("gates.weight", "gates.bias", "recurrent")}
    old["head.beta"] = new["head.beta"]
    for layer in ("phi", "psi", "value", "score"):
        old[f"head.{layer}.bias"] = new[f"head.{layer}.bias"]
        old[f"head.{layer}.parametrizations.weight.original"] = new[f"head.{layer}.weight"]
        old[f"head.{layer}.parametrizations.weight.0._u"] = new[f"head.{layer}.left"]
        old[f"head.{layer}.parametrizations.weight.0._v"] = new[f"head.{layer}.right"]
    twin = WindowDiscriminator(WINDOW)
    twin.load_state_dict(old)
    observed, x = (t.float() for t in clips(2, 3, 12))
    torch.testing.assert_close(twin.eval()(observed, x), network.eval()(observed, x))


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
    with pytest.raises(ShapeError, match="`observed`: expected at least 1 clip"):
        window(observed[:0], x[:0])
    with pytest.raises(ShapeError, match=r"`landmarks`: .*got ndarray"):
        frame(x.numpy())
    with pytest.raises(ArgumentError, match="`landmarks`: expected it on the device of the model, cpu, got meta"):
        window(observed, x.to("meta"))
    with pytest.raises(ArgumentError, match="`config`: expected WindowDiscriminatorConfig or None, got dict"):
        WindowDiscriminator({"embed": 8})
    with pytest.raises(ConfigError, match="`windows`"):
        replace(WINDOW, windows=(1,))
    with pytest.raises(ConfigError, match="`hidden`"):
        replace(WINDOW, hidden=0)
    with pytest.raises(ConfigError, match="`depth`"):
        replace(FRAME, depth=-1)


def test_training_embeds_frames_once_for_discriminators_that_share_the_embedding() -> None:
    window = WindowDiscriminator(WINDOW)
    observed, x = (t.float() for t in clips(2, 3, 12))
    for embedding, expected in ((window.embedding, 1), (None, 2)):
        pair = PairDiscriminator(WINDOW, embedding=embedding)
        together = Discriminators(frame=FrameDiscriminator(FRAME), window=window, pair=pair).eval()
        calls: list[object] = []
        handles = [
            module.register_forward_pre_hook(lambda *found, calls=calls: calls.append(found))
            for module in {window.embedding, pair.embedding}
        ]
        logits = together(observed, x)
        assert len(calls) == expected
        for handle in handles:
            handle.remove()
        torch.testing.assert_close(logits["window"], window(observed, x))
        torch.testing.assert_close(logits["pair"], pair(observed, x))


def test_discriminators_see_velocity_and_acceleration() -> None:
    """A clip whose frames are the same ones in another order differs in its derivatives only."""
    clip = torch.rand(2, 8, FRAME.points, 2, generator=torch.Generator().manual_seed(0))
    order = [0, 2, 1, 3, 4, 6, 5, 7]
    for scales in ({}, {"velocity_scale": 40.0}, {"acceleration_scale": 40.0}):
        network = FrameDiscriminator(replace(FRAME, **scales)).eval()
        scores = [network(each, reference=clip[:, 0]) for each in (clip, clip[:, order])]
        same = torch.allclose(scores[0][:, order], scores[1], atol=1e-6)
        assert same == (not scales)
    # Constant speed has no acceleration: not even in the second frame, the first that has a velocity.
    network = FrameDiscriminator(replace(FRAME, acceleration_scale=40.0))
    still = clip[:1, :1] + torch.arange(8.0)[:, None, None] * torch.tensor([0.1, 0.2])
    seen: list[torch.Tensor] = []
    network.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(still)
    torch.testing.assert_close(seen[0][..., -2 * FRAME.points :], torch.zeros(1, 8, 2 * FRAME.points), atol=1e-4, rtol=0)
    for frames in (1, 2):
        assert network(clip[:, :frames]).shape == (2, frames)


def test_all_discriminators_share_an_embedding() -> None:
    window = WindowDiscriminator(replace(WINDOW, acceleration_scale=40.0))
    pair = PairDiscriminator(replace(WINDOW, acceleration_scale=40.0), embedding=window.embedding)
    frame = FrameDiscriminator(replace(FRAME, embed=WINDOW.embed), embedding=window.embedding)
    together = Discriminators(frame=frame, window=window, pair=pair).eval()
    calls: list[int] = []
    window.embedding.register_forward_hook(lambda *_: calls.append(1))
    observed, landmarks = torch.rand(2, 3, FRAME.points, 2), torch.rand(2, 12, FRAME.points, 2)
    logits = together(observed, landmarks)
    assert len(calls) == 1
    embedded = window.embed(observed, landmarks)[3:].transpose(0, 1)
    torch.testing.assert_close(logits["frame"], frame(landmarks, embedded=embedded))
    with pytest.raises(ArgumentError, match="embedding"):
        FrameDiscriminator(replace(FRAME, embed=WINDOW.embed + 1), embedding=window.embedding)


def make_together(*, paired: bool, shared: bool, shared_frames: bool) -> Discriminators:
    torch.manual_seed(0)
    window = WindowDiscriminator(WINDOW)
    pair = PairDiscriminator(WINDOW, embedding=window.embedding if shared else None) if paired else None
    # A shared embedding sees displacement and velocity, too.
    frame = FrameDiscriminator(FRAME, embedding=window.embedding if shared_frames else None)
    return Discriminators(frame=frame, window=window, pair=pair)


def loss_of_two_calls(together: Discriminators, observed: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    real_logits, fake_logits = together(observed, real), together(observed, fake)
    return torch.stack([hinge_discriminator_loss(real_logits[key], fake_logits[key]) for key in real_logits]).sum()


@pytest.mark.parametrize("shared_frames", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("paired", [False, True])
def test_one_pass_over_real_and_generated_clips_is_two_calls(paired: bool, shared: bool, shared_frames: bool) -> None:
    """Values, gradients and the states of the power iterations, and autograd keeps no more memory."""
    together = make_together(paired=paired, shared=shared, shared_frames=shared_frames)
    twin = copy.deepcopy(together)
    observed, x = (t.float() for t in clips(4, 3, 40))
    results, kept = [], []
    for network, loss in ((together, together.loss), (twin, lambda *inputs: loss_of_two_calls(twin, *inputs))):
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        found = []
        for _ in range(2):
            network.zero_grad()
            real, fake = x.clone().requires_grad_(), (1.1 * x.flip(0)).requires_grad_()
            sizes.clear()
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                total = loss(observed, real, fake)
            total.backward()
            found += [total.detach(), real.grad, fake.grad, *(p.grad.clone() for p in network.parameters())]
            found += [buffer.clone() for buffer in network.buffers()]
        results.append(found)
        kept.append(sum(sizes.values()))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    assert kept[0] <= kept[1], kept


@pytest.mark.parametrize("network_class", [WindowDiscriminator, PairDiscriminator])
def test_parts_of_a_batch_are_scored_as_by_calls_of_their_own(network_class: type) -> None:
    network = network_class(WINDOW).double()
    twin = copy.deepcopy(network)
    observed, x = clips(12, 3, 12)
    expected = torch.cat([twin(*inputs) for inputs in zip(observed.chunk(3), x.chunk(3), strict=True)])
    torch.testing.assert_close(network(observed, x, parts=3), expected)
    torch.testing.assert_close(dict(network.named_buffers()), dict(twin.named_buffers()))
    with pytest.raises(ShapeError, match=r"expected a batch of 5 equal parts|even batch in each of 5"):
        network(observed, x, parts=5)
    with pytest.raises(ArgumentError, match="`parts`"):
        network(observed, x, parts=0)


def test_real_and_generated_clips_have_one_shape() -> None:
    together = make_together(paired=True, shared=True, shared_frames=False)
    observed, x = (t.float() for t in clips(4, 3, 12))
    for real, fake, message in (
        (x, x[:, :11], "`fake`: expected .batch=4, frames=12, points=5, dims=2"),
        (x[:2], x, "`real`: expected .batch=4"),
        (x, x.long(), "`fake`"),
        (x.to("meta"), x, "`real`: expected it on the device of the model"),
    ):
        with pytest.raises((ShapeError, ArgumentError), match=message):
            together.loss(observed, real, fake)
    with pytest.raises(ShapeError, match="even batch in each of 2 parts"):
        together.loss(observed[:3], x[:3], x[:3])
