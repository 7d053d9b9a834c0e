"""All GPU figures in one command of about three minutes: ``python -m benchmarks.gpu``.

Times forward and backward passes of the sync loss, InfoNCE, rollouts and discriminators, one training step of the generator,
streaming generation, and frames per second of the generator, each launched kernel by kernel and replayed as a CUDA graph, and
counts the kernels of each. Times the pretrained loss and the training step in lower precisions, too, and measures how far they
move the loss. All other rows have torch's settings of TF32, which the record states. Writes ``gpu.json``. Without a GPU the
command prints a message and ends with exit status 2.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from avsync import MultiScaleSyncLoss
from avsync.audio import LogMel
from avsync.corpus import ClipBank, SyntheticCorpus
from avsync.losses import all_pairs_info_nce
from avsync.models import (
    FrameDiscriminator,
    FrameDiscriminatorConfig,
    GeneratorConfig,
    GeneratorStream,
    MultiScaleGenerator,
    PairDiscriminator,
    SyncerConfig,
    SyncerPyramid,
    SyncerPyramidConfig,
    WindowDiscriminator,
    WindowDiscriminatorConfig,
)
from avsync.training import CudaRecorder, Discriminators, GanSteps, GanTrainingConfig, make_fabric
from benchmarks import _harness
from benchmarks.bench_info_nce import cross_entropy
from benchmarks.bench_sync_loss import multiply_adds

NO_GPU = 2
"""Exit status without a GPU."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the models and batches; the defaults are those of the paper."""

    syncers: SyncerPyramidConfig = field(default_factory=SyncerPyramidConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    frame: FrameDiscriminatorConfig = field(default_factory=FrameDiscriminatorConfig)
    window: WindowDiscriminatorConfig = field(default_factory=WindowDiscriminatorConfig)
    loss_batch: int = 32
    loss_frames: int = 80
    contrast_clips: int = 64
    many_clips: int = 256
    gan_batch: int = 50
    gan_frames: int = 40
    generated: int = 200
    streamed: int = 8


TINY = Sizes(
    syncers=SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=8, frame_blocks=1), num_levels=2),
    generator=GeneratorConfig(hidden=8, position_embed=8, audio_channels=8, branch_width=8),
    frame=FrameDiscriminatorConfig(embed=8, depth=1),
    window=WindowDiscriminatorConfig(embed=8, hidden=8, windows=(5, 10)),
    loss_batch=2,
    loss_frames=48,
    contrast_clips=2,
    many_clips=3,
    gan_batch=2,
    gan_frames=12,
    generated=8,
)
"""Sizes that a test runs on a CPU."""


def loss_cases(sizes: Sizes, device: torch.device) -> dict[str, Callable[[], object]]:
    """Make the cases of the sync loss: features or a waveform to a gradient at the landmarks."""
    rng = torch.Generator().manual_seed(0)
    pyramid = SyncerPyramid(sizes.syncers).to(device)
    loss = MultiScaleSyncLoss(syncers=pyramid)
    pretrained = MultiScaleSyncLoss.from_pretrained().to(device)
    batch, frames = sizes.loss_batch, sizes.loss_frames
    landmarks = (100 * torch.rand(batch, frames, 68, 2, generator=rng)).to(device).requires_grad_()
    features = torch.randn(batch, 4 * frames, sizes.syncers.syncer.audio_features, generator=rng).to(device)
    waveform = (0.1 * torch.randn(batch, 640 * frames, generator=rng)).to(device)

    def backward(loss: Callable[..., Any], audio: Tensor) -> None:
        landmarks.grad = None
        loss(landmarks, audio).total.backward()

    size = f"{batch} x {frames}"
    return {
        f"sync loss {size}": lambda: backward(loss, features),
        f"pretrained loss {size}": lambda: backward(pretrained, features),
        f"pretrained loss from the waveform {size}": lambda: backward(pretrained, waveform),
    }


def contrast_cases(sizes: Sizes, device: torch.device) -> dict[str, Callable[[], object]]:
    """Make the cases of InfoNCE over all pairs of windows, forward and backward; of many windows also by cross entropies."""
    rng = torch.Generator().manual_seed(0)

    def case(loss: Callable[[Tensor, Tensor], Tensor], clips: int) -> Callable[[], object]:
        motion = torch.randn(clips, 76, 128, generator=rng)
        audio = motion + torch.randn(clips, 76, 128, generator=rng)
        motion, audio = (x.to(device).requires_grad_() for x in (motion, audio))

        def step() -> None:
            motion.grad = audio.grad = None
            loss(motion, audio).backward()

        return step

    few, many = sizes.contrast_clips, sizes.many_clips
    return {
        f"InfoNCE of {few} x 76 windows": case(all_pairs_info_nce, few),
        f"InfoNCE of {many} x 76 windows": case(all_pairs_info_nce, many),
        f"two calls of `cross_entropy`, {many} x 76 windows": case(cross_entropy, many),
    }


def generator_cases(sizes: Sizes, device: torch.device) -> dict[str, Callable[[], object]]:
    """Make the cases of the generator: one clip as in use, and training rollouts forward and backward."""
    rng = torch.Generator().manual_seed(0)
    generator = MultiScaleGenerator(replace(sizes.generator, initial_state="zeros")).to(device)
    features = sizes.generator.audio_features
    face = torch.rand(1, 68, 2, generator=rng).to(device)
    audio = torch.randn(1, 4 * sizes.generated, features, generator=rng).to(device)

    def animate() -> None:
        with torch.no_grad():
            generator.generate(face, audio)

    def training(batch: int, frames: int) -> Callable[[], object]:
        observed = torch.rand(batch, 3, 68, 2, generator=rng).to(device)
        long = torch.randn(batch, 4 * (3 + frames), features, generator=rng).to(device)

        def roll_out() -> None:
            generator.zero_grad()
            generator(observed, long).landmarks.square().mean().backward()

        return roll_out

    rollouts = {(sizes.gan_batch, sizes.gan_frames), (sizes.loss_batch, sizes.loss_frames)}
    return {f"generator, one clip of {sizes.generated} frames": animate} | {
        f"training rollout {batch} x {frames}": training(batch, frames) for batch, frames in sorted(rollouts)
    }


def stream_cases(sizes: Sizes, device: torch.device) -> dict[str, Callable[[], object]]:
    """Make the cases of streaming generation: a chunk of frames, one step per frame, with and without CUDA graphs."""
    rng = torch.Generator().manual_seed(0)
    network = MultiScaleGenerator(sizes.generator).to(device).eval()
    face = torch.rand(1, 68, 2, generator=rng).to(device)
    chunk = torch.randn(1, 4 * sizes.streamed, sizes.generator.audio_features, generator=rng).to(device).split(4, dim=1)

    def case(*, cuda_graphs: bool) -> Callable[[], object]:
        stream = GeneratorStream(network=network, observed=face, cuda_graphs=cuda_graphs)
        for _ in range(64 // sizes.streamed):  # fills the look-ahead and records
            for audio in chunk:
                stream.step(audio)
        return lambda: [stream.step(audio) for audio in chunk]

    name = f"streaming, one clip, chunk of {sizes.streamed} frames"
    cases = {name: case(cuda_graphs=False)}
    if device.type == "cuda":
        cases[f"{name}, CUDA graph"] = case(cuda_graphs=True)
    return cases


def gan_models(sizes: Sizes, device: torch.device) -> tuple[MultiScaleGenerator, Discriminators, MultiScaleSyncLoss]:
    """Make the same untrained models in each call."""
    torch.manual_seed(0)
    frame, windows = FrameDiscriminator(sizes.frame), WindowDiscriminator(sizes.window)
    discriminators = Discriminators(frame=frame, window=windows, pair=PairDiscriminator(sizes.window))
    generator, sync_loss = MultiScaleGenerator(sizes.generator), MultiScaleSyncLoss(syncers=SyncerPyramid(sizes.syncers))
    return generator.to(device), discriminators.to(device), sync_loss.to(device)


def gan_cases(sizes: Sizes, device: torch.device) -> dict[str, Callable[[], object]]:
    """Make the cases of adversarial training: the discriminators' loss, and whole steps, also in TF32."""
    bank = ClipBank(SyntheticCorpus(speakers=4, clips_per_speaker=1, seconds=8.0), features=LogMel())
    fabric = make_fabric(accelerator=device.type)

    def steps(*, cuda_graphs: bool) -> GanSteps:
        generator, discriminators, sync_loss = gan_models(sizes, device)
        config = GanTrainingConfig(steps=10_000, batch_size=sizes.gan_batch, frames=sizes.gan_frames)
        return GanSteps(
            generator.train(),
            discriminators=discriminators.train(),
            bank=bank,
            config=config,
            sync_loss=sync_loss,
            fabric=fabric,
            augment=None,
            cuda_graphs=cuda_graphs,
        )

    eager = steps(cuda_graphs=False)
    clip = eager.draw()[0]
    observed, real = clip.tensor_split([eager.config.observed], dim=1)

    def discriminate() -> None:
        eager.discriminators.requires_grad_(True).zero_grad()  # a step leaves them frozen
        eager.discriminators.loss(observed, real, real.flip(0)).backward()

    def stepping(lower: str, *, cuda_graphs: bool) -> Callable[[], object]:
        trained = steps(cuda_graphs=cuda_graphs)

        def step() -> None:
            with precision(lower, device):
                trained.step(1)

        for _ in range(5 if cuda_graphs else 0):  # three eager steps, the recording, one replay
            step()
        return step

    name = f"{sizes.gan_batch} x {sizes.gan_frames}"
    cases: dict[str, Callable[[], object]] = {f"discriminators on real and generated {name}": discriminate}
    cases[f"GAN step {name}"] = lambda: eager.step(1)
    if device.type != "cuda":
        return cases | {
            f"GAN step {name}": lambda: eager.step(1),
            f"GAN step {name}, TF32": stepping("TF32", cuda_graphs=False),
        }
    cases[f"discriminators on real and generated {name}, CUDA graph"] = in_graph(discriminate)
    cases[f"GAN step {name}"] = lambda: eager.step(1)
    cases[f"GAN step {name}, CUDA graph"] = stepping("float32", cuda_graphs=True)
    cases[f"GAN step {name}, TF32, CUDA graph"] = stepping("TF32", cuda_graphs=True)
    return cases


def in_graph(case: Callable[[], object]) -> Callable[[], object]:
    """Record a case as a CUDA graph and return its replay."""
    recorder = CudaRecorder(torch.device("cuda", torch.cuda.current_device()))

    def work() -> dict[str, Tensor]:
        case()
        return {}

    for _ in range(3):
        recorder.aside(work)
    return recorder.record(work)[0]


@contextlib.contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """Compute in "float32", "TF32" or "bfloat16"."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "TF32" else before)
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=name == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def settings() -> str:
    """Describe torch's settings of TF32, in which everything is measured whose name has no precision."""
    products = "float32" if torch.get_float32_matmul_precision() == "highest" else "TF32"
    recurrent = "TF32" if torch.backends.cudnn.allow_tf32 else "float32"
    return f"In rows without a precision, products are in {products}, and cuDNN's layers, such as LSTMs, in {recurrent}."


PRECISIONS = ("float32", "TF32", "bfloat16")


def precision_cases(sizes: Sizes, device: torch.device) -> dict[str, Callable[[], object]]:
    """Make the case of the pretrained loss in every lower precision."""
    name, case = list(loss_cases(sizes, device).items())[1]

    def within(lower: str) -> Callable[[], object]:
        def run() -> None:
            with precision(lower, device):
                case()

        return run

    return {f"{name}, {lower}": within(lower) for lower in PRECISIONS[1:]}


def precision_shifts(device: torch.device, *, batches: int = 8) -> dict[str, dict[str, float]]:
    """Measure how far lower precisions move the pretrained loss and turn its gradient.

    Args:
        device: Device of the loss.
        batches: Batches of 8 clips of 80 frames of the synthetic talker.

    Returns:
        By precision: the largest difference from the loss in float32, the smallest cosine of the gradients, and the standard
        deviation of the loss between batches.
    """
    loss = MultiScaleSyncLoss.from_pretrained().to(device)
    bank = ClipBank(SyntheticCorpus(speakers=8, clips_per_speaker=1, seconds=8.0), features=LogMel())
    rng = torch.Generator().manual_seed(0)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in PRECISIONS}
    for _ in range(batches):
        batch = bank.sample(8, 80, generator=rng).to(device)
        for name in PRECISIONS:
            landmarks = batch.landmarks.clone().requires_grad_()
            with precision(name, device):
                total = loss(landmarks, batch.audio).total
            (gradient,) = torch.autograd.grad(total, landmarks)
            found[name].append((total.detach().double(), gradient.flatten().double()))
    exact = found.pop("float32")
    spread = float(torch.stack([total for total, _ in exact]).std())
    return {
        name: {
            "largest difference": max(float((a - b).abs()) for (a, _), (b, _) in zip(values, exact, strict=True)),
            "smallest cosine of gradients": min(
                float(torch.cosine_similarity(a, b, dim=0)) for (_, a), (_, b) in zip(values, exact, strict=True)
            ),
            "standard deviation between batches": spread,
        }
        for name, values in found.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure everything on the GPU."""
    options = _harness.parser(__doc__, repeats=20, warm_up=5, device=False).parse_args(arguments)
    if not torch.cuda.is_available():
        print("no GPU that torch can use: nothing is measured", file=sys.stderr)
        return NO_GPU
    torch.cuda.init()
    device, sizes = torch.device("cuda"), Sizes()
    if options.threads:
        torch.set_num_threads(options.threads)
    cases: dict[str, Callable[[], object]] = {}
    for make in (loss_cases, precision_cases, contrast_cases, generator_cases):
        eager = make(sizes, device)
        cases |= eager | {f"{name}, CUDA graph": in_graph(case) for name, case in eager.items()}
    cases |= stream_cases(sizes, device) | gan_cases(sizes, device)
    timings = _harness.measure(cases, repeats=options.repeats, warm_up=options.warm_up)
    extra = {
        "settings": settings(),
        "kernels": {
            name: _harness.kernel_count(function) for name, function in cases.items() if not name.endswith("CUDA graph")
        },
        "frames per second": {
            name: round(sizes.generated / timings[name].median) for name in cases if name.startswith("generator")
        },
        "precision": precision_shifts(device),
    }
    baseline = next(iter(cases))
    work = 2.0 * sizes.loss_batch * multiply_adds(sizes.syncers, sizes.loss_frames, dense=True)
    flops = dict.fromkeys((baseline, f"{baseline}, CUDA graph"), work)
    peak = _harness.matmul_peak(size=8192, device=device)
    _harness.report("gpu", timings, baseline=baseline, flops=flops, peak=peak, extra=extra, out=options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
