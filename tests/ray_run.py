"""Extraction on a local Ray cluster of two workers: interrupted, resumed, and with workers that are killed.

    python tests/ray_run.py VIDEOS FOLDER

Prints what happened as JSON; ``tests/test_extract_ray.py`` reads it.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import ray

from avsync.cli import main
from avsync.corpus.extraction import _ray
from avsync.corpus.extraction.batch import Progress, extract_corpus
from avsync.corpus.extraction.report import VideoReport

DETECTOR = "tests.extraction_detectors:deadly_once"


class Interrupting(Progress):
    """Ctrl-C after the second video."""

    done = 0

    def finish_video(self, report: VideoReport) -> None:
        self.done += 1
        if self.done == 2:
            raise KeyboardInterrupt


def run(videos: str, folder: Path) -> dict[str, Any]:
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    found: dict[str, Any] = {}
    options: dict[str, Any] = {"detector": DETECTOR, "workers": 2, "engine": "ray", "min_seconds": 0.8}
    try:
        extract_corpus([videos], folder / "c", gpus=0.5, progress=Interrupting(), **options)
    except KeyboardInterrupt:
        found["records"] = sorted(path.suffix for path in (folder / "c" / "extraction").iterdir())
        found["index"] = (folder / "c" / "index.json").exists()
    arguments = ["--detector", DETECTOR, "--workers", "2", "--engine", "ray", "--min-seconds", "0.8", "--quiet"]
    with contextlib.redirect_stdout(io.StringIO()):
        found["status"] = main(["extract", videos, "--out", str(folder / "c"), *arguments, "--resume"])
    _ray.RETRIES = 0  # each process that dies costs the start of another one
    deadly = {**options, "detector": "tests.extraction_detectors:deadly"}
    report = extract_corpus([videos], folder / "d", **deadly)
    found["failed"] = [(Path(video.source).name, video.error) for video in report.failed]
    found["connected"] = ray.is_initialized()
    ray.shutdown()
    return found


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], Path(sys.argv[2]))))
