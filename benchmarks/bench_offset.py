"""Offset and confidence of clips: :func:`avsync.metrics.offset.sync_offset` against the loop over clips and shifts.

The loop is a direct implementation of SyncNet's protocol: for each clip and each shift, the mean of torch's pairwise distance
between the motion and the audio padded with zeros ("legacy" edges, so that both do the same work). The literal form of the
publication, one motion window against its neighbours at a time, is timed next to it. Results must agree before anything is
timed.

A batch is the main case; one long recording and one clip are timed too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from avsync.metrics.offset import sync_offset
from benchmarks import _harness

REQUIRED = 10.0


def _read(means: Tensor, max_offset: int) -> tuple[Tensor, Tensor]:
    return max_offset - means.argmin(), means.median() - means.min()


def loop_over_shifts(motion: Tensor, audio: Tensor, max_offset: int) -> tuple[Tensor, Tensor]:
    """Compute offsets and confidences (batch,), clip by clip and shift by shift."""
    found = []
    windows = motion.shape[1]
    for visual, sound in zip(motion, audio, strict=True):
        padded = F.pad(sound, (0, 0, max_offset, max_offset))
        means = [F.pairwise_distance(visual, padded[j : j + windows]).mean() for j in range(2 * max_offset + 1)]
        found.append(_read(torch.stack(means), max_offset))
    return torch.stack([offset for offset, _ in found]), torch.stack([confidence for _, confidence in found])


def loop_over_windows(motion: Tensor, audio: Tensor, max_offset: int) -> tuple[Tensor, Tensor]:
    """Compute offsets and confidences (batch,), window by window."""
    found = []
    offsets = 2 * max_offset + 1
    for visual, sound in zip(motion, audio, strict=True):
        padded = F.pad(sound, (0, 0, max_offset, max_offset))
        rows = [F.pairwise_distance(visual[[i]].repeat(offsets, 1), padded[i : i + offsets]) for i in range(visual.shape[0])]
        found.append(_read(torch.stack(rows).mean(0), max_offset))
    return torch.stack([offset for offset, _ in found]), torch.stack([confidence for _, confidence in found])


def embeddings(clips: int, windows: int, embed: int, noise: float = 0.1, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Make unit vectors; the motion is noisy and three windows late, about as far from its audio as in real clips."""
    generator = torch.Generator().manual_seed(0)
    audio = F.normalize(torch.randn(clips, windows, embed, generator=generator), dim=-1)
    motion = audio.roll(3, dims=1) + noise * torch.randn(clips, windows, embed, generator=generator)
    return F.normalize(motion, dim=-1).to(device), audio.to(device)


def main() -> None:
    arguments = _harness.parser(__doc__, repeats=30)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--windows", type=int, default=76)
    arguments.add_argument("--embed", type=int, default=128)
    arguments.add_argument("--max-offset", type=int, default=15)
    arguments.add_argument("--hour", type=int, default=90_000, help="windows of the long recording (default: an hour)")
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    most = options.max_offset
    motion, audio = embeddings(options.batch, options.windows, options.embed, device=options.device)
    near, near_audio = embeddings(options.batch, options.windows, options.embed, noise=0.01, device=options.device)
    long, long_audio = embeddings(1, options.hour, options.embed, device=options.device)

    for loop in (loop_over_shifts, loop_over_windows):
        offsets, confidences = loop(motion, audio, most)
        ours = sync_offset(motion, audio, max_offset=most, edges="legacy")
        assert torch.equal(ours.offset_frames, offsets)
        torch.testing.assert_close(ours.confidence, confidences, rtol=1e-5, atol=1e-5)
    print("offsets and confidences agree")

    timings = _harness.measure(
        {
            "sync_offset": lambda: sync_offset(motion, audio, max_offset=most, edges="legacy"),
            "sync_offset, masked edges": lambda: sync_offset(motion, audio, max_offset=most),
            "sync_offset, nearly equal embeddings": lambda: sync_offset(near, near_audio, max_offset=most),
            "sync_offset, float64": lambda: sync_offset(motion.double(), audio.double(), max_offset=most),
            "loop over clips and shifts": lambda: loop_over_shifts(motion, audio, most),
            "loop over clips and windows": lambda: loop_over_windows(motion, audio, most),
        },
        repeats=options.repeats,
        warm_up=options.warm_up,
    )
    recordings = _harness.measure(
        {
            "sync_offset, one hour": lambda: sync_offset(long, long_audio, max_offset=most, edges="legacy"),
            "loop over shifts, one hour": lambda: loop_over_shifts(long, long_audio, most),
        },
        repeats=max(3, options.repeats // 6),
        warm_up=1,
    )
    # Apart from the hour, after which nothing of a clip is left in the caches.
    clips = _harness.measure(
        {
            "sync_offset, one clip": lambda: sync_offset(motion[:1], audio[:1], max_offset=most, edges="legacy"),
            "loop over shifts, one clip": lambda: loop_over_shifts(motion[:1], audio[:1], most),
        },
        repeats=10 * options.repeats,
        warm_up=options.warm_up,
    )
    ratio = timings["loop over clips and shifts"].median / timings["sync_offset"].median
    wanted = 2.0 * options.batch * options.windows * (2 * most + 1) * options.embed
    extra = {
        "batch, windows, embed": tuple(motion.shape),
        "windows of the hour": options.hour,
        "faster by": round(ratio, 1),
        "hour faster by": round(
            recordings["loop over shifts, one hour"].median / recordings["sync_offset, one hour"].median, 1
        ),
        "clip faster by": round(clips["loop over shifts, one clip"].median / clips["sync_offset, one clip"].median, 1),
        "required": REQUIRED,
        "met": ratio >= REQUIRED,
    }
    _harness.report(
        "offset",
        {**timings, **recordings, **clips},
        baseline="loop over clips and shifts",
        flops={"sync_offset": wanted},
        peak=_harness.matmul_peak(device=options.device),
        extra=extra,
        out=options.out,
    )


if __name__ == "__main__":
    main()
