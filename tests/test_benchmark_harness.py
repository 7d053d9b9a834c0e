"""The benchmarks' harness: turns, statistics, the report's arithmetic and its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from avsync.losses import all_pairs_info_nce
from benchmarks import _harness as harness
from benchmarks import bench_peers, gpu
from benchmarks.bench_info_nce import cross_entropy


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


def test_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert harness.parser(None).parse_args([]).device == torch.device("cpu")
    wrong = ["nowhere"] if torch.cuda.is_available() else ["nowhere", "cuda"]
    for name in wrong:
        with pytest.raises(SystemExit):
            harness.parser(None).parse_args(["--device", name])
    assert "expected cpu, cuda or cuda:N" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        harness.parser(None, device=False).parse_args(["--device", "cpu"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--out", str(tmp_path)]) == gpu.NO_GPU == 2
    assert "no GPU" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert harness.kernel_count(lambda: None) is None


@pytest.mark.slow
def test_what_is_measured_on_a_gpu_runs_on_a_cpu_at_tiny_sizes() -> None:
    cases = {}
    makers = (gpu.loss_cases, gpu.precision_cases, gpu.contrast_cases, gpu.generator_cases, gpu.stream_cases, gpu.gan_cases)
    for make in makers:
        cases |= make(gpu.TINY, torch.device("cpu"))
    timings = harness.measure(cases, repeats=1, warm_up=0)
    assert len(timings) == 15 and all(timing.peak_bytes is None for timing in timings.values())
    assert {"training rollout 2 x 12", "training rollout 2 x 48", "GAN step 2 x 12, TF32"} <= set(timings)
    assert "InfoNCE of 3 x 76 windows" in timings and "two calls of `cross_entropy`, 3 x 76 windows" in timings
    assert torch.get_float32_matmul_precision() == "highest", "precisions are restored"


def test_infonce_and_the_cross_entropies_beside_it_agree() -> None:
    rng = torch.Generator().manual_seed(0)
    motion, audio = torch.randn(2, 3, 8, 16, generator=rng)
    torch.testing.assert_close(cross_entropy(motion, audio), all_pairs_info_nce(motion, audio))


def test_the_record_of_a_gpu_states_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert "products are in float32" in gpu.settings() and gpu.settings().endswith("in TF32.")
    with gpu.precision("TF32", torch.device("cpu")):
        assert "products are in TF32" in gpu.settings()


def test_lower_precision_moves_the_loss_by_less_than_batches_differ() -> None:
    shifts = gpu.precision_shifts(torch.device("cpu"), batches=2)
    assert set(shifts) == {"TF32", "bfloat16"}
    assert shifts["TF32"]["largest difference"] == 0, "a CPU has no TF32"
    assert 0 < shifts["bfloat16"]["largest difference"] < shifts["bfloat16"]["standard deviation between batches"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_peers_agree_where_they_are_installed() -> None:
    """The comparison with peers checks values and gradients before it measures; those that are missing are named."""
    device = torch.device("cpu")
    pairs, missing = bench_peers.all_pairs_cases(2, 6, 8, device)
    sampled = bench_peers.sampled_cases(2, 60, 8, device)
    features, more = bench_peers.feature_cases(2, 0.5, device)
    assert {"avsync", "plain cross entropy"} <= set(pairs) and len(pairs) + len(missing) == 5
    assert "avsync" in sampled and len(features["mfcc"]) + len(more) == 3
