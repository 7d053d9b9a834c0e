"""Extraction of a 720p video with a detector that returns constants: the cost of everything except the detector.

The video is made here: an image that pans, with noise, as H.264 with audio as AAC. "decoding alone" asks PyAV for the frames
and does nothing with them; the rest is this library's. Required: at least 8 times as fast as the video plays, on two cores.

The next images are decoded while a detector looks at these, so on two cores extraction takes hardly longer than a detector that
keeps one of them busy; "next to a detector of 10 ms" shows it with one that sleeps. Processor time is reported too, because a
busy machine does not change it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch

from avsync.corpus.detectors import as_detector
from avsync.corpus.extraction.from_video import iter_clips
from avsync.corpus.media.files import write_video
from avsync.corpus.media.video_source import VideoSource
from benchmarks import _harness

REQUIRED = 8.0
PATIENT_SECONDS = 0.01
FACE = np.stack([np.linspace(500, 700, 68), np.linspace(200, 440, 68)], axis=1).astype(np.float32)


def images(count: int) -> Iterator[npt.NDArray[np.uint8]]:
    """(720, 1280, 3): an image of smooth blots that pans by three pixels per image, under some noise."""
    rng = np.random.default_rng(0)
    blots = rng.integers(0, 255, (46, 160, 3)).astype(np.float32)
    wide = torch.nn.functional.interpolate(torch.from_numpy(blots).permute(2, 0, 1)[None], size=(720, 2560), mode="bicubic")
    wall = wide[0].permute(1, 2, 0).numpy()
    noise = rng.normal(0, 4, (4, 720, 1280, 1)).astype(np.float32)
    for number in range(count):
        left = 3 * number % 1280
        yield np.clip(wall[:, left : left + 1280] + noise[number % 4], 0, 255).astype(np.uint8)


def decode(path: Path) -> int:
    """Decode with PyAV's threads, and return the number of frames."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(1 for _ in container.decode(video=0))


def read(path: Path, max_height: int | None = None) -> int:
    """Read frames as RGB at their true times, and return their number."""
    with VideoSource(path, max_height=max_height) as source:
        return sum(frame.image.shape[2] // 3 for frame in source.frames())


def run(path: Path, max_height: int | None = None) -> float:
    """Extract, and return the seconds in clips."""
    constant = as_detector(lambda pictures: [FACE] * len(pictures))
    return sum(clip.seconds for clip in iter_clips(path, detector=constant, max_height=max_height))


def patient(path: Path) -> float:
    """Extract with a detector that takes 10 ms per image, and return the seconds in clips."""

    def detect(pictures: Sequence[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
        time.sleep(PATIENT_SECONDS * len(pictures))
        return [FACE] * len(pictures)

    return sum(clip.seconds for clip in iter_clips(path, detector=detect))


def processor_seconds(function: Callable[[], object]) -> float:
    """Return the smallest processor time of three calls, in seconds over all cores."""
    spent = []
    for _ in range(3):
        start = time.process_time()
        function()
        spent.append(time.process_time() - start)
    return min(spent)


def main() -> None:
    arguments = _harness.parser(__doc__, repeats=5, warm_up=1, device=False)
    arguments.add_argument("--seconds", type=float, default=20.0, help="length of the video")
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    count = round(25 * options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pan.mp4")
        sound = np.random.default_rng(1).normal(0, 0.1, round(16000 * options.seconds)).clip(-1, 1).astype(np.float32)
        write_video(path, images(count), fps=25, waveform=sound)
        size = path.stat().st_size
        assert decode(path) == read(path) == count
        assert abs(run(path) - options.seconds) < 0.1
        timings = _harness.measure(
            {
                "extract": lambda: run(path),
                "extract, max_height=360": lambda: run(path, 360),
                "frames as RGB": lambda: read(path),
                "decoding alone": lambda: decode(path),
                "with a detector of 10 ms": lambda: patient(path),
            },
            repeats=options.repeats,
            warm_up=options.warm_up,
        )
        cores = {"extract": processor_seconds(lambda: run(path)), "decoding alone": processor_seconds(lambda: decode(path))}
    speeds = {name: options.seconds / timing.median for name, timing in timings.items()}
    detector = PATIENT_SECONDS * count
    extra = {
        "video": f"1280 x 720, 25 fps, {options.seconds:g} s, {8e-6 * size / options.seconds:.1f} Mbit/s",
        "times real time": {name: round(speed, 1) for name, speed in speeds.items()},
        "times real time on one core by processor time": {
            name: round(options.seconds / spent, 1) for name, spent in cores.items()
        },
        "overhead with a detector of 10 ms": round(timings["with a detector of 10 ms"].median / detector - 1, 3),
        "required": REQUIRED,
        "met": speeds["extract"] >= REQUIRED,
    }
    _harness.report("extract", timings, baseline="extract", extra=extra, out=options.out)


if __name__ == "__main__":
    main()
