"""The benchmarks' harness: turns, statistics, the report's arithmetic and its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import _harness as harness


def test_candidates_take_turns() -> None:
    calls: list[str] = []
    timings = harness.measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=4, warm_up=1)
    assert calls[:2] == ["a", "b"]
    assert calls[2:] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert list(timings) == ["a", "b"]
    assert all(len(timing.times) == 4 and timing.median >= 0 and timing.iqr >= 0 for timing in timings.values())


def test_no_repeats_is_refused() -> None:
    with pytest.raises(ValueError, match="repeats"):
        harness.measure({"a": lambda: None}, repeats=0)


def test_peak_is_a_plausible_number_and_leaves_the_threads_alone() -> None:
    threads = torch.get_num_threads()
    assert harness.matmul_peak(1, size=256, repeats=3) > 1e8
    assert torch.get_num_threads() == threads


def test_report_compares_with_the_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timings = {"slow": harness.Timing(4.0, 0.5, [4.0]), "fast": harness.Timing(1.0, 0.1, [1.0])}
    result = harness.report("demo", timings, baseline="slow", flops={"fast": 5.0}, peak=10.0, extra={"batch": 32}, out=tmp_path)
    assert result["candidates"]["fast"]["speed_up"] == 4.0
    assert result["candidates"]["fast"]["share_of_peak"] == 0.5
    assert "share_of_peak" not in result["candidates"]["slow"]
    assert json.loads((tmp_path / "demo.json").read_text(encoding="utf-8")) == result
    assert "batch: 32" in capsys.readouterr().out


def test_unknown_baseline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="baseline"):
        harness.report("demo", {"a": harness.Timing(1.0, 0.0, [1.0])}, baseline="b", out=tmp_path)
