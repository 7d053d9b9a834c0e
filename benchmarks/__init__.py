"""Measurements of avsync against obvious alternatives; run one with ``python -m benchmarks.bench_sync_loss``."""
