"""The page "Speed" is what the records of the benchmarks say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import page


def test_page_and_records_agree() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), "run `python -m benchmarks.page`"


def test_every_record_of_times_is_on_the_page() -> None:
    shown = {section.record for section in page.SECTIONS}
    for path in page.RESULTS.glob("*.json"):
        if "candidates" in json.loads(path.read_text(encoding="utf-8")):
            assert path.stem in shown, path


def test_every_command_exists() -> None:
    for section in page.SECTIONS:
        assert Path(page.__file__).with_name(f"{section.command}.py").is_file()


def record(median: float, *, gpu: str | None = None) -> str:
    metadata = {"cuda": gpu, "cores": 2, "cpu": "CPU", "threads": 1, "torch": "2.0", "date": "2026-01-02T03:04:05"}
    entry = {"median_seconds": median, "iqr_seconds": 0.001, "speed_up": 2.0, "share_of_peak": 0.5}
    return json.dumps({"metadata": metadata, "baseline": "dense", "candidates": {"dense": entry}})


def test_a_gpu_column_is_filled_by_a_gpu_only(tmp_path: Path) -> None:
    (tmp_path / "sync_loss.json").write_text(record(0.1234), encoding="utf-8")
    before = page.render(tmp_path)
    assert "| dense (avsync) | 123 (1) | 2.00 | 50 % | not measured |" in before and "2 cores of CPU, no GPU" in before
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "sync_loss.json").write_text(record(0.0021, gpu="H100"), encoding="utf-8")
    assert "| dense (avsync) | 123 (1) | 2.00 | 50 % | 2.1 |" in page.render(tmp_path)
    assert "GPU: Measured on H100" in page.render(tmp_path)


@pytest.mark.parametrize(("seconds", "text"), [(0.1234, "123"), (0.012345, "12.3"), (0.0012345, "1.23"), (2.5, "2500")])
def test_durations(seconds: float, text: str) -> None:
    assert page.duration(seconds) == text
