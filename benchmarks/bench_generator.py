"""The generator against the same network with one ``Linear`` per branch: rollouts at batch 1 and training rollouts.

    python -m benchmarks.bench_generator [--threads N] [--repeats N]

The plain network is ``tests/reference/generator.py``: the same weights, the same audio pyramid, concatenated inputs, one
``Linear`` per branch and layer, ``nn.LSTMCell``, as in the paper's code. The two are checked to agree before they are timed, in
turns, in one process.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avsync.models.generator.model import GeneratorConfig, MultiScaleGenerator
from benchmarks._harness import matmul_peak, measure, parser, report
from tests.reference.generator import SeparateGenerator

OBSERVED = 3


def rollout_flops(generator: MultiScaleGenerator, batch: int, generated: int) -> float:
    """Count the operations of the matrix products of a forward pass, two per weight; without depthwise convolutions."""
    frames = OBSERVED + generated
    pyramid = generator.audio_pyramid
    products = 4.0 * frames * pyramid.embed.weight.numel()
    rate = 4.0 * frames
    for block in pyramid.blocks:
        rate /= 2
        products += rate * sum(layer.weight.numel() for layer in (block.expand, block.project, block.shortcut))
    observe = generator.displacement_weight.numel() + generator.lstm_weight.numel()
    branch = generator.enter_weight.numel() + generator.head.weight.numel() + generator.audio_entry.weight.numel()
    branch += sum(block.expand.weight.numel() + block.project.weight.numel() for block in generator.branch_blocks())
    products += (frames - 1) * observe + generated * branch
    return 2.0 * batch * products


def inputs(config: GeneratorConfig, batch: int, generated: int, device: torch.device) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    observed = torch.rand(batch, 1, config.points, config.dims, generator=source).expand(-1, OBSERVED, -1, -1)
    audio = torch.randn(batch, 4 * (OBSERVED + generated), config.audio_features, generator=source)
    return observed.to(device), audio.to(device)


def agree(ours: MultiScaleGenerator, separate: SeparateGenerator, observed: Tensor, audio: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(ours(observed, audio).landmarks, separate(observed, audio)[0], rtol=1e-4, atol=1e-5)


def main() -> None:
    options = parser(__doc__, repeats=10, warm_up=2)
    options.add_argument("--frames", type=int, default=200, help="generated frames of the rollout at batch 1")
    arguments = options.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = GeneratorConfig(initial_state="zeros")
    ours = MultiScaleGenerator(config).to(arguments.device)
    separate = SeparateGenerator(ours).to(arguments.device)
    peak = matmul_peak(device=arguments.device)
    parameters = sum(p.numel() for p in ours.parameters())

    observed, audio = inputs(config, 1, arguments.frames, arguments.device)
    agree(ours, separate, observed, audio)

    def inference(network: nn.Module) -> None:
        with torch.no_grad():
            network(observed, audio)

    timings = measure(
        {"separate": lambda: inference(separate), "stacked": lambda: inference(ours)},
        repeats=arguments.repeats,
        warm_up=arguments.warm_up,
    )
    flops = rollout_flops(ours, 1, arguments.frames)
    report(
        "generator_rollout",
        timings,
        baseline="separate",
        flops=dict.fromkeys(timings, flops),
        peak=peak,
        extra={
            "batch": 1,
            "frames": arguments.frames,
            "parameters": parameters,
            "frames_per_second": {name: round(arguments.frames / timing.median, 1) for name, timing in timings.items()},
        },
        out=arguments.out,
    )

    batch, generated = 32, 80
    observed, audio = inputs(config, batch, generated, arguments.device)

    def training(network: nn.Module) -> None:
        network.zero_grad(set_to_none=True)
        network(observed, audio)[0].square().mean().backward()

    timings = measure(
        {"separate": lambda: training(separate), "stacked": lambda: training(ours)},
        repeats=max(3, arguments.repeats // 2),
        warm_up=1,
    )
    report(
        "generator_training",
        timings,
        baseline="separate",
        flops=dict.fromkeys(timings, 3 * rollout_flops(ours, batch, generated)),
        peak=peak,
        extra={"batch": batch, "frames": generated, "parameters": parameters},
        out=arguments.out,
    )


if __name__ == "__main__":
    main()
