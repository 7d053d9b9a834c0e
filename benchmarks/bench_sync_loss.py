"""The multi-scale sync loss, forward and backward to the landmarks: dense against window by window.

The same frozen syncers score the same clips in four ways: dense; every window encoded by itself, all windows of a level and
modality in one batched call; that in a loop over the clips; and, on a few clips, in a loop over clips and windows. Values and
gradients must agree before anything is timed. The arithmetic alone makes the dense form faster by the ratio printed as
``arithmetic``: layers that see single frames run once per frame instead of once per window, layers that see whole windows are
the same work in both forms.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from avsync.landmarks.geometry import displacement
from avsync.losses.sync import MultiScaleSyncLoss, multi_scale_sync_loss
from avsync.models.syncer.pyramid import Syncer, SyncerPyramid, SyncerPyramidConfig
from avsync.pyramid import level_length, temporal_pyramid
from benchmarks import _harness

REQUIRED = {"batched windows": 4.0, "clip loop": 8.0}


def multiply_adds(config: SyncerPyramidConfig, frames: int, *, dense: bool) -> float:
    """Count multiply-adds of the matrix products for one clip: both encoders forward, the motion encoder backward."""
    sizes = config.syncer
    block = 8 * sizes.width**2
    window_work = sizes.window * sizes.width**2 + sizes.window_blocks * block + sizes.width * sizes.embed
    total = 0.0
    for level in range(config.num_levels):
        at_level = level_length(frames, level)
        windows = at_level - sizes.window + 1
        encoded = at_level if dense else windows * sizes.window
        for features, passes in ((sizes.audio_features * sizes.audio_stride, 1), (sizes.points * sizes.motion_channels, 2)):
            frame_work = features * sizes.width + sizes.frame_blocks * block
            total += passes * (encoded * frame_work + windows * window_work)
    return total


def windows_of(x: Tensor, size: int, step: int) -> Tensor:
    """Cut (batch, frames, ...) into (batch, windows, size, ...)."""
    return x.unfold(1, size, step).movedim(-1, 2)


def windowed_loss(
    pyramid: SyncerPyramid, landmarks: Tensor, audio: Tensor, reference: Tensor, *, one_by_one: bool = False
) -> Tensor:
    """Compute the loss with windows encoded one by one, in one call per level and modality or in one call per window."""
    config = pyramid.config
    window, stride = config.syncer.window, config.syncer.audio_stride
    motion = displacement(landmarks, reference=reference, scale=config.motion_scale)
    motions, sounds = temporal_pyramid(motion, config.num_levels), temporal_pyramid(audio, config.num_levels)
    embedded: list[tuple[Tensor, Tensor]] = []
    for level, syncer in enumerate(pyramid.syncers):
        assert isinstance(syncer, Syncer)
        pair: list[Tensor] = []
        for encoder, cut in (
            (syncer.audio_encoder, windows_of(sounds[level], stride * window, stride)),
            (syncer.motion_encoder, windows_of(motions[level], window, 1)),
        ):
            flat = cut.flatten(0, 1)
            encoded = torch.cat([encoder(one) for one in flat.split(1)]) if one_by_one else encoder(flat)
            pair.append(encoded.reshape(cut.shape[0], cut.shape[1], -1))
        embedded.append((pair[0], pair[1]))
    return multi_scale_sync_loss([audio for audio, _ in embedded], [motion for _, motion in embedded]).total


def main() -> None:
    arguments = _harness.parser(__doc__, repeats=15)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--frames", type=int, default=80)
    arguments.add_argument("--subset", type=int, default=1, help="clips of the loop over single windows")
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    pyramid = SyncerPyramid().to(options.device)
    loss = MultiScaleSyncLoss(syncers=pyramid)
    config = pyramid.config
    landmarks = torch.rand(options.batch, options.frames, config.syncer.points, config.landmark_dims)
    landmarks = landmarks.to(options.device).requires_grad_()
    audio = torch.randn(options.batch, config.syncer.audio_stride * options.frames, config.syncer.audio_features)
    audio = audio.to(options.device)
    reference = torch.rand(options.batch, config.syncer.points, config.landmark_dims).to(options.device)

    def backward(value: Tensor) -> Tensor:
        value.backward()
        return value.detach()

    def dense(clips: int = options.batch) -> Tensor:
        landmarks.grad = None
        return backward(loss(landmarks[:clips], audio[:clips], reference=reference[:clips]).total)

    def batched() -> Tensor:
        landmarks.grad = None
        return backward(windowed_loss(pyramid, landmarks, audio, reference))

    def clip_loop(clips: int = options.batch, *, one_by_one: bool = False) -> Tensor:
        landmarks.grad = None
        parts = [
            windowed_loss(pyramid, landmarks[i : i + 1], audio[i : i + 1], reference[i : i + 1], one_by_one=one_by_one)
            for i in range(clips)
        ]
        return backward(torch.stack(parts).mean())

    def gradient() -> Tensor:
        assert landmarks.grad is not None
        return landmarks.grad.clone()

    value, grad = dense(), gradient()
    for other in (batched, clip_loop):
        torch.testing.assert_close(other(), value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient(), grad, rtol=1e-3, atol=1e-5 * float(grad.abs().max()))
    subset = min(options.subset, options.batch)
    value, grad = dense(subset), gradient()
    torch.testing.assert_close(clip_loop(subset, one_by_one=True), value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient(), grad, rtol=1e-3, atol=1e-5 * float(grad.abs().max()))
    print("values and gradients agree")

    candidates: dict[str, Callable[[], object]] = {"dense": dense, "batched windows": batched, "clip loop": clip_loop}
    timings = _harness.measure(candidates, repeats=options.repeats, warm_up=options.warm_up)
    few = _harness.measure(
        {"dense": functools.partial(dense, subset), "window loop": functools.partial(clip_loop, subset, one_by_one=True)},
        repeats=max(3, options.repeats // 3),
        warm_up=1,
    )
    work = {name: 2.0 * options.batch * multiply_adds(config, options.frames, dense=name == "dense") for name in candidates}
    ratios = {name: timings[name].median / timings["dense"].median for name in REQUIRED}
    extra: dict[str, object] = {
        "batch, frames, levels": (options.batch, options.frames, config.num_levels),
        "dense is faster by": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "required": REQUIRED,
        "met": {name: ratios[name] >= least for name, least in REQUIRED.items()},
        "arithmetic": round(work["batched windows"] / work["dense"], 2),
        f"window loop, {subset} clip(s)": {
            "dense ms": round(1e3 * few["dense"].median, 2),
            "loop ms": round(1e3 * few["window loop"].median, 2),
            "dense is faster by": round(few["window loop"].median / few["dense"].median, 1),
        },
    }
    _harness.report(
        "sync_loss",
        timings,
        baseline="batched windows",
        flops=work,
        peak=_harness.matmul_peak(device=options.device),
        extra=extra,
        out=options.out,
    )


if __name__ == "__main__":
    main()
