"""Training runs that are killed go on as if nothing had happened; see ``tests/survival.py``, which does it for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
KILLS = 55


def survive(*arguments: str) -> dict[str, Any]:
    """Run ``tests/survival.py`` and return what it reports."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC_"))}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(ROOT / "tests" / "survival.py"), *arguments]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(report)
    return report


@pytest.mark.slow
def test_a_training_killed_many_times_ends_with_the_same_weights(tmp_path: Path) -> None:
    report = survive("kills", str(tmp_path), str(KILLS))
    assert report["kills"] == KILLS
    assert report["finished"] and report["same_weights"] and report["same_history"] and report["same_logs"]
    assert report["same_best"] and report["leftovers"] == []
    assert report["inside_writes"] > 0, "some kills left a file half-written"
    assert len(set(report["steps_at_kills"])) > 10, "the kills were spread over the run"


@pytest.mark.slow
def test_processes_of_a_group(tmp_path: Path) -> None:
    """Two processes, as torchrun and as srun on two machines start them; one is killed, and the run is resumed."""
    report = survive("ranks", str(tmp_path))
    alone, *both = report["losses"]
    compared = ("loss", "chance", "loss0", "loss1", "grad0", "grad1")
    assert report["step"] == [0, 0, 0]
    for of_rank in both:  # half the clips on each process make the step of all of them on one
        assert [of_rank[key] for key in compared] == pytest.approx([alone[key] for key in compared], rel=1e-4)
    assert report["generators_agree"], "generators and judges are one on both processes, wherever they began"
    assert report["whole"] == report["machines"] == [0, 0]
    assert report["ranks_agree"], "both processes hold the same weights"
    assert report["ranks_draw_differently"] and report["draws_repeat"] == [True, True]
    assert report["machines_same"], "one machine or two, it is the same training"
    assert report["killed"] and report["survivor_failed"], (
        "a process that lost its partner ends with an error instead of waiting"
    )
    assert 6 <= report["died_at"] < 12
    assert report["resumed"] == [0, 0] and report["resumed_same"] and report["resumed_history"]
