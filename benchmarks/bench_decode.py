"""Reading video: frames and audio of a 720p H.264 file by :class:`VideoSource` and :class:`AudioSource`, against plain PyAV.

    python -m benchmarks.bench_decode [--seconds S] [--repeats N]

The file is made here: an image of smooth noise that pans under a flickering strip, 25 frames per second, with AAC audio. Plain
PyAV is the simplest code: ``for frame in container.decode(video=0): frame.to_ndarray(format="rgb24")``, which decodes on one
thread unless told otherwise. Reported are the time, the speed relative to playback, and the processor time of all threads.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from avsync.corpus.media.audio_source import AudioSource
from avsync.corpus.media.files import write_video
from avsync.corpus.media.video_source import VideoSource
from benchmarks import _harness

WIDTH, HEIGHT, FPS = 1280, 720, 25
REQUIRED = 8.0


def pictures(count: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield panning smooth noise with a strip of fresh noise so that the encoder has something to send in every frame."""
    source = np.random.default_rng(0)
    coarse = source.integers(0, 256, (HEIGHT // 8, WIDTH // 4, 3))
    canvas = coarse.repeat(8, axis=0).repeat(8, axis=1).astype(np.float32)
    for axis in (0, 1):
        canvas = np.stack([np.roll(canvas, shift, axis=axis) for shift in range(-4, 5)]).mean(axis=0)
    for index in range(count):
        image = canvas[:, 4 * index % WIDTH : 4 * index % WIDTH + WIDTH].astype(np.uint8)
        image[300:340] = source.integers(0, 256, (10, WIDTH // 4, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
        yield image


def processor_seconds(run: Callable[[], object]) -> float:
    before = time.process_time()
    run()
    return time.process_time() - before


def main() -> None:
    options = _harness.parser(__doc__, repeats=5, warm_up=1, device=False)
    options.add_argument("--seconds", type=int, default=10, help="length of the file")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        sound = 0.1 * np.random.default_rng(0).standard_normal(16000 * arguments.seconds).clip(-9, 9).astype(np.float32)
        write_video(path, pictures(FPS * arguments.seconds), fps=FPS, waveform=sound, crf=23)
        megabits = path.stat().st_size * 8e-6 / arguments.seconds

        def plain() -> int:
            import av

            with av.open(str(path)) as container:
                return sum(frame.to_ndarray(format="rgb24").shape[0] > 0 for frame in container.decode(video=0))

        def frames(*, look: bool, max_height: int | None = None) -> int:
            with VideoSource(path, max_height=max_height) as video:
                return sum(not look or frame.image.shape[0] > 0 for frame in video.frames())

        def hear() -> None:
            with AudioSource(path) as source:
                for second in range(arguments.seconds):
                    source.read(float(second), 16000)

        if not plain() == frames(look=True) == FPS * arguments.seconds:
            raise RuntimeError("the candidates do not read the same frames")
        candidates: dict[str, Callable[[], object]] = {
            "plain PyAV": plain,
            "VideoSource, every image": lambda: frames(look=True),
            "VideoSource, images 360 high": lambda: frames(look=True, max_height=360),
            "VideoSource, times only": lambda: frames(look=False),
            "AudioSource": hear,
        }
        timings = _harness.measure(candidates, repeats=arguments.repeats, warm_up=arguments.warm_up)
        # Processor time excludes other programs on the machine and adds up over threads.
        busy = {name: round(processor_seconds(run) / arguments.seconds, 4) for name, run in candidates.items()}
    speeds = {name: round(arguments.seconds / timing.median, 1) for name, timing in timings.items()}
    both = arguments.seconds / (timings["VideoSource, every image"].median + timings["AudioSource"].median)
    extra = {
        "size": (WIDTH, HEIGHT),
        "fps": FPS,
        "megabits a second": round(megabits, 2),
        "times real time": speeds,
        "processor seconds for a second of the file": busy,
        "all images and the audio, times real time": round(both, 1),
        "required of the whole extraction": REQUIRED,
        "met": both >= REQUIRED,
    }
    _harness.report("decode", timings, baseline="plain PyAV", extra=extra, out=arguments.out)


if __name__ == "__main__":
    main()
