from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from avsync.errors import ArgumentError, ClipTooShortError, ConfigError, ShapeError
from avsync.models.generator.audio_pyramid import mirror_audio
from avsync.models.generator.model import GeneratorConfig, MultiScaleGenerator, lstm_update, merge_branches
from avsync.models.generator.stream import GeneratorStream
from avsync.pretrained import config_from_dict, config_to_dict
from tests.reference.generator import SeparateGenerator

SMALL = GeneratorConfig(
    audio_features=5,
    points=7,
    dims=2,
    hidden=12,
    position_embed=10,
    audio_channels=16,
    branch_width=14,
    initial_state="zeros",
)


def make(**choices: object) -> MultiScaleGenerator:
    return MultiScaleGenerator(replace(SMALL, **choices)).double()  # type: ignore[arg-type]


def batch(frames: int, observed: int = 3, size: int = 2, dims: int = 2, scale: float = 100.0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(frames)
    face = scale * torch.randn(size, 1, 7, dims, generator=source, dtype=torch.float64)
    faces = face + 0.01 * scale * torch.randn(size, observed, 7, dims, generator=source, dtype=torch.float64)
    return faces, torch.randn(size, 4 * frames, 5, generator=source, dtype=torch.float64)


@given(
    branches=st.integers(1, 5),
    depth=st.integers(0, 2),
    dims=st.integers(2, 3),
    observed=st.integers(1, 4),
    generated=st.integers(1, 6),
    causal=st.booleans(),
)
def test_equals_the_obvious_network(branches: int, depth: int, dims: int, observed: int, generated: int, causal: bool) -> None:
    network = make(num_branches=branches, branch_depth=depth, dims=dims, causal=causal)
    faces, audio = batch(observed + generated, observed, dims=dims)
    output = network(faces, audio, return_masks=True)
    for ours, expected in zip(output[:3], SeparateGenerator(network)(faces, audio), strict=True):
        torch.testing.assert_close(ours, expected)
    with torch.no_grad():
        torch.testing.assert_close(network(faces, audio).landmarks, output.landmarks)


def test_gradients_equal_those_of_the_obvious_network() -> None:
    network = make()
    separate = SeparateGenerator(network)
    faces, audio = batch(12)
    weight = torch.randn(2, 9, 7, 2, dtype=torch.float64)
    for out in (network(faces, audio)[0], separate(faces, audio)[0]):
        (out * weight).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    for index, branch in enumerate(separate.branches):
        torch.testing.assert_close(network.blocks[0].expand.weight.grad[index], branch.blocks[0].expand.weight.grad)
        torch.testing.assert_close(network.blocks[0].project.bias.grad[index], branch.blocks[0].project.bias.grad)
        torch.testing.assert_close(network.enter_weight.grad[index], branch.enter.weight.grad[:, :22])
        torch.testing.assert_close(network.audio_entry.weight.grad[index], branch.enter.weight.grad[:, 22:])
        torch.testing.assert_close(network.head.weight.grad[index, :14], branch.velocity.weight.grad)
    torch.testing.assert_close(network.displacement_weight.grad, separate.displacement.weight.grad)
    order = torch.cat([torch.arange(12) + gate * 12 for gate in (0, 1, 3, 2)])
    torch.testing.assert_close(network.lstm_weight.grad[order][:, 10:], separate.cell.weight_hh.grad)
    torch.testing.assert_close(network.lstm_weight.grad[order][:, :10], separate.cell.weight_ih.grad)
    torch.testing.assert_close(network.lstm_bias.grad[order], separate.cell.bias_ih.grad)


def test_steps_by_hand_have_the_same_gradients() -> None:
    """A rollout that does not know its length beforehand cannot defer the weights' gradients, and must still have them."""
    network = make()
    faces, audio = batch(9)
    terms = network.audio_terms(network.audio_pyramid(audio)[:, :, 3:])
    rollout = network.start(faces)
    by_hand = rollout.faces(torch.stack([rollout.step(term).displacement for term in terms], dim=1))
    expected = network(faces, audio).landmarks
    torch.testing.assert_close(by_hand, expected)
    gradients = [torch.autograd.grad(out.square().sum(), list(network.parameters())) for out in (by_hand, expected)]
    torch.testing.assert_close(*gradients)
    with pytest.raises(ArgumentError, match="`term`"):
        network.start(faces).step()


def test_gradcheck(rng: torch.Generator) -> None:
    config = GeneratorConfig(
        audio_features=2,
        points=3,
        hidden=2,
        position_embed=2,
        audio_channels=3,
        num_branches=2,
        branch_width=3,
        expansion=1,
        stem_kernel=3,
        kernel_size=3,
        initial_state="zeros",
    )
    network = MultiScaleGenerator(config).double()
    faces = torch.randn(1, 2, 3, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    audio = torch.randn(1, 16, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    # The audio pyramid's own parameters are checked beside it.
    named = [(name, p) for name, p in network.named_parameters() if not name.startswith("audio_pyramid")]
    names, parameters = zip(*named, strict=True)

    def run(faces: Tensor, audio: Tensor, *values: Tensor) -> Tensor:
        # The motion alone: at this scale the faces themselves would drown it.
        output = torch.func.functional_call(network, dict(zip(names, values, strict=True)), (faces, audio))
        return 100 * output.velocities

    assert torch.autograd.gradcheck(run, (faces, audio, *parameters), atol=1e-6)


@given(branches=st.integers(1, 5))
def test_masks_sum_to_one_and_velocities_add_up(branches: int) -> None:
    network = make(num_branches=branches)
    faces, audio = batch(10)
    output = network(faces, audio, return_masks=True)
    assert output.masks.shape == (2, 7, branches, 7)
    assert output.masks.min() >= 0
    torch.testing.assert_close(output.masks.sum(dim=2), torch.ones(2, 7, 7, dtype=torch.float64))
    torch.testing.assert_close(output.landmarks, faces[:, -1:] + output.velocities.cumsum(dim=1))
    assert network(faces, audio).masks is None


def test_merging_weighs_by_the_mask(rng: torch.Generator) -> None:
    velocities = torch.randn(3, 2, 4, 2, generator=rng)
    merged, mask = merge_branches(velocities, torch.tensor([0.0, 50.0, 0.0])[:, None, None].expand(3, 2, 4))
    torch.testing.assert_close(merged, velocities[1])
    torch.testing.assert_close(mask[1], torch.ones(2, 4))
    with pytest.raises(ShapeError, match="`mask_logits`"):
        merge_branches(velocities, torch.zeros(3, 2, 5))


def test_lstm_update_is_torchs(rng: torch.Generator) -> None:
    gates, cell = torch.randn(2, 12, generator=rng), torch.randn(2, 3, generator=rng)
    lstm = torch.nn.LSTMCell(1, 3)
    for parameter in lstm.parameters():
        parameter.data.zero_()
    ours = []
    for row, state in zip(gates, cell, strict=True):
        lstm.bias_ih.data = row[torch.tensor([0, 1, 2, 3, 4, 5, 9, 10, 11, 6, 7, 8])]
        ours.append(torch.stack(lstm(torch.zeros(1, 1), (torch.zeros(1, 3), state[None]))))
    torch.testing.assert_close(torch.stack(lstm_update(gates, cell)), torch.cat(ours, dim=1))


@given(shift=st.floats(-50, 50), scale=st.floats(0.01, 100))
def test_any_unit_comes_in_and_goes_out(shift: float, scale: float) -> None:
    network = make()
    faces, audio = batch(8)
    output, moved = network(faces, audio), network(scale * faces + shift, audio)
    torch.testing.assert_close(moved.landmarks, scale * output.landmarks + shift)
    torch.testing.assert_close(moved.velocities, scale * output.velocities)


def test_initial_motion_is_tiny() -> None:
    network = MultiScaleGenerator(GeneratorConfig(hidden=64, position_embed=64, audio_channels=64, branch_width=64))
    face = torch.rand(2, 68, 2)
    output = network.generate(face, 30 * torch.randn(2, 4 * 80, 26))
    height = (face[..., 1].amax(1) - face[..., 1].amin(1))[:, None, None, None]
    assert (output.velocities / height).abs().amax() < 2e-3
    assert torch.isfinite(output.landmarks).all()


@pytest.mark.parametrize(("levels", "causal"), [(1, False), (2, False), (4, True)])
def test_look_ahead(levels: int, causal: bool) -> None:
    """Frame t depends on the sound of frames up to t + look_ahead and on none after."""
    network = make(num_branches=levels, causal=causal)
    faces, audio = batch(24)
    audio.requires_grad_()
    landmarks = network(faces, audio).landmarks
    last = []
    for frame in range(3, 12):
        gradient = torch.autograd.grad(landmarks[:, frame - 3].sum(), audio, retain_graph=True)[0].abs().sum(dim=(0, 2))
        used = gradient.view(-1, 4).sum(dim=1).nonzero().flatten()
        assert used[-1] >= frame  # its own sound at the least
        last.append(int(used[-1]) - frame)
    assert max(last) == network.look_ahead
    assert not causal or network.look_ahead == 0


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("frames", "branches"), [(50, 4), (20, 4), (9, 1), (4, 2)])
def test_stream_equals_forward(causal: bool, frames: int, branches: int) -> None:
    choices = {"noise": 3, "motion_components": 4, "motion_leak": 0.1} if branches != 2 else {}
    network = make(num_branches=branches, causal=causal, initial_state="random", **choices)
    faces, audio = batch(frames)
    seeded = [torch.Generator().manual_seed(5) for _ in range(2)]
    expected = network(faces, audio, generator=seeded[0]).landmarks
    stream = GeneratorStream(network=network, observed=faces, generator=seeded[1])
    steps = [stream.step(piece) for piece in audio.split(4, dim=1)]
    first = min(frames, 3 + network.look_ahead)
    assert all(step is None for step in steps[:first])
    assert all(step is not None for step in steps[first:])
    out = [step[:, None] for step in steps if step is not None]
    torch.testing.assert_close(torch.cat([*out, stream.flush()], dim=1), expected, atol=1e-5, rtol=0)
    with pytest.raises(ArgumentError, match="flushed"):
        stream.step(audio[:, :4])


def test_stream_from_one_face_equals_generate() -> None:
    network = make(causal=True)
    faces, audio = batch(12)
    stream = GeneratorStream(network=network, observed=faces[:, 0])
    steps = [stream.step(piece) for piece in mirror_audio(audio, 3).split(4, dim=1)]
    out = torch.stack([step for step in steps if step is not None], dim=1)
    torch.testing.assert_close(out, network.generate(faces[:, 0], audio).landmarks)
    assert stream.flush().shape == (2, 0, 7, 2)


def test_generate_has_a_frame_for_each_of_the_sound() -> None:
    network = make()
    faces, audio = batch(9)
    for frames in (1, 2, 9):
        assert network.generate(faces[:, 0], audio[:, : 4 * frames]).landmarks.shape == (2, frames, 7, 2)
    repeated = faces[:, :1].expand(-1, 2, -1, -1)
    expected = network(repeated, mirror_audio(audio, 2)).landmarks
    torch.testing.assert_close(network.generate(faces[:, 0], audio, warm_up=2).landmarks, expected)


def test_long_rollouts_stay_small() -> None:
    network = MultiScaleGenerator(replace(SMALL, initial_state="random"))
    with torch.no_grad():
        output = network.generate(torch.rand(1, 7, 2), torch.randn(1, 4 * 3000, 5))
    assert output.landmarks.shape == (1, 3000, 7, 2)
    assert torch.isfinite(output.landmarks).all()
    assert output.landmarks.grad_fn is None


def test_noise_is_the_callers_and_changes_the_motion() -> None:
    network = make(noise=3)
    faces, audio = batch(40)
    first, again, other = (network(faces, audio, generator=torch.Generator().manual_seed(seed)).landmarks for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert not torch.equal(first[:, 0], other[:, 0])
    drawn = network.draw_noise(2, 37, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 37, 3)
    torch.testing.assert_close(drawn[:, 4], (drawn[:, 0] + drawn[:, 8]) / 2)
    given = network(faces, audio, noise=drawn, return_observed=True)
    assert given.observed is not None and given.observed.shape == (2, 2, 7, 2)
    with pytest.raises(ShapeError, match="noise"):
        network(faces, audio, noise=drawn[:, :5])


@pytest.mark.parametrize("noise", [0, 3])
def test_the_style_stays_for_a_clip_and_changes_the_motion(noise: int) -> None:
    network = make(noise=noise, style=2)
    drawn = network.draw_noise(4, 20, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (4, 20, noise + 2)
    style = drawn[..., noise:]
    assert torch.equal(style, style[:, :1].expand_as(style)) and not torch.equal(style[0], style[1])
    faces, audio = batch(40)
    drawn = network.draw_noise(2, 37, generator=torch.Generator().manual_seed(0))
    state = torch.zeros(2, 2, SMALL.hidden)
    one, other = drawn.clone(), drawn.clone()
    other[..., noise:] += 1
    first, second = (network(faces, audio, initial_state=state, noise=x).landmarks for x in (one, other))
    assert not torch.equal(first[:, 0], second[:, 0])


def test_predictions_of_observed_frames_are_those_of_a_shorter_rollout() -> None:
    network = make(motion_components=4, motion_leak=0.1)
    faces, audio = batch(6)
    predicted = network(faces, audio, return_observed=True).observed
    assert predicted is not None
    for seen in (1, 2):
        torch.testing.assert_close(predicted[:, seen - 1], network(faces[:, :seen], audio).landmarks[:, 0])
    assert network(faces, audio).observed is None


def test_a_leak_brings_the_face_back() -> None:
    """Where the branches give no velocity, a face decays to its rest position; without a leak it stays."""
    rest = {}
    for leak in (0.0, 0.1):
        network = make(motion_components=14, motion_leak=leak)  # as many as coordinates, so that the basis holds any face
        nn.init.zeros_(network.head.weight)
        nn.init.zeros_(network.head.bias)
        faces, audio = batch(60)
        apart = (network(faces, audio).landmarks - faces[:, :1]).norm(dim=(2, 3))
        rest[leak] = (apart[:, -1] / (faces[:, -1] - faces[:, 0]).norm(dim=(1, 2))).max().item()
    assert rest[0.0] == pytest.approx(1, abs=1e-6)
    assert rest[0.1] == pytest.approx(0.9**57, rel=1e-3)
    with pytest.raises(ConfigError, match="motion_leak"):
        make(motion_leak=0.1)


def test_random_initial_state_is_the_callers() -> None:
    network = make(initial_state="random")
    faces, audio = batch(6)
    first, again, other = (network(faces, audio, generator=torch.Generator().manual_seed(seed)).landmarks for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("causal", [False, True])
def test_compiles_in_one_graph(causal: bool) -> None:
    network = MultiScaleGenerator(replace(SMALL, causal=causal, num_branches=2))
    faces, audio = (x.float() for x in batch(4, 2, 1))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    expected, output = network(faces, audio).landmarks, compiled(faces, audio).landmarks
    torch.testing.assert_close(output, expected)
    gradients = []
    for out in (expected, output):
        network.zero_grad()
        out.square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    network = MultiScaleGenerator(SMALL)
    faces, audio = (x.float() for x in batch(10))
    expected = network(faces, audio).landmarks
    with torch.autocast("cpu", dtype):
        output = network(faces, audio, return_masks=True)
    assert output.landmarks.dtype == output.masks.dtype == torch.float32
    torch.testing.assert_close(output.landmarks, expected, rtol=0.01, atol=0.5)  # faces are about 300 high
    output.landmarks.mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_config_round_trip_and_weights(tmp_path: object) -> None:
    config = replace(SMALL, causal=True)
    assert config_from_dict(GeneratorConfig, config_to_dict(config)) == config
    network, other = MultiScaleGenerator(config), MultiScaleGenerator(config)
    network.set_audio_statistics(torch.full((5,), -30.0), torch.full((5,), 12.0))
    other.load_state_dict(network.state_dict())
    faces, audio = (x.float() for x in batch(6))
    torch.testing.assert_close(other(faces, audio).landmarks, network(faces, audio).landmarks)


@pytest.mark.parametrize(
    "wrong",
    [{"points": 0}, {"kernel_size": 4}, {"initial_state": "ones"}, {"velocity_scale": float("nan")}, {"branch_depth": -1}],
)
def test_impossible_configs(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(wrong))}`"):
        replace(SMALL, **wrong)  # type: ignore[arg-type]


def test_bad_input() -> None:
    network = make()
    faces, audio = batch(6)
    with pytest.raises(ShapeError, match=r"`observed`: expected .batch, frames, points=7, dims=2., got .2, 3, 6, 2."):
        network(faces[:, :, :6], audio)
    with pytest.raises(ShapeError, match=r"`audio`: expected .batch=2"):
        network(faces, audio[:1])
    with pytest.raises(ShapeError, match="`audio`"):
        network(faces, audio[:, :-1])
    with pytest.raises(ShapeError, match="floating"):
        network(faces.long(), audio)
    with pytest.raises(ClipTooShortError, match="at least 16 audio frames"):
        network(faces, audio[:, :12])
    with pytest.raises(ClipTooShortError, match="`observed`"):
        network(faces[:, :0], audio)
    with pytest.raises(ArgumentError, match="`warm_up`"):
        network.generate(faces[:, 0], audio, warm_up=0)
    with pytest.raises(ShapeError, match="`face`"):
        network.generate(faces, audio)
    with pytest.raises(ShapeError, match=r"`audio`: expected .batch=2, audio_frames=4, coeffs."):
        GeneratorStream(network=network, observed=faces).step(audio)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_any_dtype_goes_into_any_model(dtype: torch.dtype) -> None:
    faces, audio = batch(8)
    for of_model in (torch.float64, torch.float32, torch.bfloat16):
        network = make().to(of_model)
        observed, sound = faces.to(dtype).requires_grad_(), audio.to(dtype)
        output = network(observed, sound, return_masks=True)
        sum(x.float().sum() for x in output[:3]).backward()
        assert all(x.isfinite().all() for x in output[:3])
        assert output.landmarks.dtype in (torch.float32, torch.float64)
        assert observed.grad.dtype == dtype and observed.grad.isfinite().all()
        network(faces, audio.float())


def test_half_precision_weights_accumulate_motion_in_float32() -> None:
    """40 small velocities on coordinates of some hundred pixels: in bfloat16 most of them would round to nothing."""
    torch.manual_seed(0)
    network = MultiScaleGenerator(replace(SMALL, velocity_scale=0.001))
    faces, audio = (x.float() for x in batch(43))
    exact = network(faces, audio).landmarks - faces[:, :1]
    rounded = network.bfloat16()(faces, audio).landmarks - faces[:, :1]
    assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_second_derivatives() -> None:
    network = make(hidden=3, position_embed=3, audio_channels=4, branch_width=3, num_branches=2)
    faces, audio = batch(5, size=1)
    audio.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: network(faces, x).landmarks / 100, audio, atol=1e-4)
    (gradient,) = torch.autograd.grad(network(faces, audio).landmarks.sum(), audio, create_graph=True)
    gradient.square().sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in network.parameters())
    assert network.lstm_weight.grad.abs().sum() > 0


def test_mistakes_are_named() -> None:
    network = make()
    faces, audio = batch(6)
    wrong = {
        r"`config`: expected GeneratorConfig or None, got dict": lambda: MultiScaleGenerator({"hidden": 8}),
        r"`observed`: .*got ndarray": lambda: network(faces.numpy(), audio),
        r"`audio`: .*got ndarray": lambda: network(faces, audio.numpy()),
        r"`observed`: expected at least 1 clip": lambda: network(faces[:0], audio[:0]),
        r"`audio`: expected it on the device of the model, cpu, got meta": lambda: network(faces, audio.to("meta")),
        r"`observed`: expected it on the device of the model, cpu, got meta": lambda: network(faces.to("meta"), audio),
        r"`initial_state`: expected \(states=2, batch=2, hidden=12\)": lambda: network(
            faces, audio, initial_state=torch.zeros(2, 2, 3)
        ),
        r"`term`: expected the audio's part": lambda: network.start(faces).step(),
    }
    for message, call in wrong.items():
        with pytest.raises(ArgumentError, match=message):
            call()
