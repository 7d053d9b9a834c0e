"""Offset and confidence of a batch of clips: :func:`avsync.metrics.offset.sync_offset` against the obvious loops.

The loops are what one writes from SyncNet's protocol: for each clip and each shift, the mean distance of the pairs that overlap. Results
must agree before anything is timed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avsync.metrics.offset import sync_offset
from benchmarks import _harness

REQUIRED = 10.0


def looped(motion: Tensor, audio: Tensor, max_offset: int) -> tuple[Tensor, Tensor]:
    """Offsets and confidences (batch,), clip by clip and shift by shift."""
    windows = motion.shape[1]
    offsets, confidences = [], []
    for visual, sound in zip(motion, audio, strict=True):
        means = []
        for shift in range(-max_offset, max_offset + 1):
            first, last = max(0, -shift), min(windows, windows - shift)
            means.append(torch.linalg.vector_norm(visual[first:last] - sound[first + shift : last + shift], dim=-1).mean())
        curve = torch.stack(means)
        offsets.append(max_offset - curve.argmin())
        confidences.append(curve.median() - curve.min())
    return torch.stack(offsets), torch.stack(confidences)


def main() -> None:
    arguments = _harness.parser(__doc__, repeats=30)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--windows", type=int, default=76)
    arguments.add_argument("--embed", type=int, default=128)
    arguments.add_argument("--max-offset", type=int, default=15)
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, options.windows, options.embed)
    audio = torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)
    motion = torch.nn.functional.normalize(audio.roll(3, dims=1) + 0.1 * torch.randn(shape, generator=generator), dim=-1)

    offsets, confidences = looped(motion, audio, options.max_offset)
    ours = sync_offset(motion, audio, max_offset=options.max_offset)
    assert torch.equal(ours.offset_frames, offsets)
    torch.testing.assert_close(ours.confidence, confidences, rtol=1e-5, atol=1e-6)
    print("offsets and confidences agree")

    timings = _harness.measure(
        {
            "sync_offset": lambda: sync_offset(motion, audio, max_offset=options.max_offset),
            "loops": lambda: looped(motion, audio, options.max_offset),
        },
        repeats=options.repeats,
        warm_up=options.warm_up,
    )
    ratio = timings["loops"].median / timings["sync_offset"].median
    around = options.windows + 2 * options.max_offset
    work = {"sync_offset": 2.0 * options.batch * options.windows * around * options.embed}
    extra = {
        "batch, windows, embed": shape,
        "faster by": round(ratio, 1),
        "required": REQUIRED,
        "met": ratio >= REQUIRED,
    }
    _harness.report("offset", timings, baseline="loops", flops=work, extra=extra, out=options.out)


if __name__ == "__main__":
    main()
