"""Memory of :class:`avsync.metrics.SyncStream` over an hour of audio and landmarks, noted once per minute.

    python -m benchmarks.stream_hour [--minutes N]

A minute of the synthetic talker, whose audio is late by 120 ms, is sent again and again in chunks of a quarter of a second, as
fast as the stream takes it. Noted are the resident memory of the process, the frames and samples that the stream keeps, and the
share of reports whose offset at level 0 is right within one frame.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch

from avsync.corpus import SyntheticCorpus
from avsync.metrics import SyncStream
from avsync.models import SyncerPyramid
from avsync.pyramid import SAMPLES_PER_FRAME
from benchmarks._harness import RESULTS, run_metadata

MODEL = "landmarks68-25fps"
MINUTE = 1500  # frames
CHUNK = 6  # frames; the last chunk of a minute is as long as the others
LATE = 3  # frames by which the audio is late


def resident() -> float:
    """Return the resident memory of this process in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def run(minutes: int, pyramid: SyncerPyramid) -> list[dict[str, Any]]:
    """Stream the minutes, and return one row of numbers per minute."""
    clip = SyntheticCorpus(split="val", speakers=1, clips_per_speaker=1, seconds=60.0)[0]
    landmarks = torch.from_numpy(clip.landmarks)
    audio = torch.from_numpy(clip.waveform).roll(LATE * SAMPLES_PER_FRAME)
    stream = SyncStream(pyramid)
    rows = []
    for minute in range(1, minutes + 1):
        reports = right = 0
        for first in range(0, MINUTE, CHUNK):
            samples = audio[SAMPLES_PER_FRAME * first : SAMPLES_PER_FRAME * (first + CHUNK)]
            for found in stream.push(landmarks[first : first + CHUNK], samples):
                reports += 1
                right += abs(float(found.report[0].sync.offset_frames) + LATE) <= 1
        frames, samples_kept = stream.kept
        rows.append(
            {
                "minute": minute,
                "resident_mib": round(resident(), 1),
                "frames_kept": frames,
                "samples_kept": samples_kept,
                "reports": reports,
                "right": right / max(1, reports),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=int, default=60, help="minutes of the stream (default: 60)")
    options.add_argument("--out", type=Path, default=RESULTS, help="folder of stream_hour.json (default: benchmarks/results)")
    arguments = options.parse_args()
    rows = run(arguments.minutes, SyncerPyramid.from_pretrained(MODEL))
    resident_mib = [row["resident_mib"] for row in rows]
    result = {
        "name": "stream_hour",
        "metadata": run_metadata(),
        "model": MODEL,
        "first_mib": resident_mib[0],
        "largest_mib": max(resident_mib),
        "last_mib": resident_mib[-1],
        "right": sum(row["reports"] * row["right"] for row in rows) / sum(row["reports"] for row in rows),
        "minutes": rows,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "stream_hour.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
