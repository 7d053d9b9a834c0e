"""Extraction on a Ray cluster: it survives a killed worker, resumes, and writes the bytes that one process writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from avsync.corpus.extraction.batch import extract_corpus
from tests.test_batch import ROOT, SHORT, environment, talk

if "AVSYNC_REQUIRE_RAY" not in os.environ:
    pytest.importorskip("ray")


def content(folder: Path) -> dict[str, Any]:
    """Bytes of all files; of records and reports without the time."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        if path.suffix == ".json":
            found[str(path.relative_to(folder))] = {**json.loads(path.read_text()), "time": None}
        elif path.is_file() and path.name != "report.txt":
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def test_a_ray_cluster_survives_a_killed_worker_resumes_and_writes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "v"
    for number in range(5):
        talk(videos / f"{number}.mp4", number, images=25 + 5 * number)  # the first is white
    mark = tmp_path / "mark"
    script = [sys.executable, str(ROOT / "tests" / "ray_run.py"), str(videos), str(tmp_path)]
    # Ray keeps a token in the home folder, and gives way to every other process of the machine.
    own = {"HOME": str(tmp_path), "RAY_worker_niceness": "0"}
    done = subprocess.run(script, env={**environment(mark), **own}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["status"] == 0 and not found["index"]
    assert set(found["records"]) == {".json"} and 2 <= len(found["records"]) < 5, (
        "interrupted, and nothing half-written is left"
    )
    assert mark.read_text() == "0", "a worker was killed, and `gpus` gave it a GPU"
    [(name, error)] = found["failed"]
    assert name == "0.mp4" and "was killed or crashed" in error and found["connected"]
    monkeypatch.setenv("AVSYNC_TEST_MARK", str(mark))
    detector = "tests.extraction_detectors:deadly_once"
    extract_corpus([videos], tmp_path / "one", detector=detector, **SHORT)
    on_cluster = content(tmp_path / "c")
    on_cluster.pop("report.json")
    assert on_cluster == content(tmp_path / "one") and len(on_cluster) == 5 * 3 + 2
