"""The examples that train and guide on the pages of representations and speech features, with every layout and feature."""

from __future__ import annotations

import pytest

from benchmarks import trained_examples
from benchmarks.trained_examples import FEATURE_MODULES, FEATURES, LAYOUT, MOST_LINES, PAGES, Result

SECONDS = 120.0


@pytest.mark.parametrize("name", PAGES)
def test_examples_are_short(name: str) -> None:
    for block in trained_examples.examples(name):
        assert len([line for line in block.splitlines() if line.strip()]) < MOST_LINES  # without the line that sets the name


@pytest.mark.parametrize(
    ("name", "expected"), [(LAYOUT, trained_examples.layouts().keys()), (FEATURES, FEATURE_MODULES.keys())], ids=[*PAGES]
)
def test_recorded_results_reach_the_targets(name: str, expected: object) -> None:
    """The table on the page has a row for every layout and feature."""
    rows = {row: Result(**values) for row, values in trained_examples.record()[name]["rows"].items()}
    assert rows.keys() == expected
    for result in rows.values():
        assert result.within_one >= 0.9 and result.processor_seconds < SECONDS and result.after < result.before - 0.1
    table = "\n".join(trained_examples.rows(name))
    assert all(f"| {row} | " in table for row in rows)


def check(result: Result) -> None:
    assert result.clips >= 50 and result.within_one >= 0.9
    assert result.after < result.before - 0.1


@pytest.mark.parametrize("row", [row for row in trained_examples.layouts() if row != "flame5023"])
def test_a_pyramid_learns_from_a_layout_and_guides_a_network(row: str) -> None:
    """All 5023 vertices take ten times as long and are left to the record; every tenth of them stands in."""
    check(trained_examples.run_examples(LAYOUT, trained_examples.layouts()[row]))


@pytest.mark.parametrize("row", FEATURE_MODULES)
def test_a_pyramid_learns_from_a_feature_and_moves_a_face(row: str) -> None:
    """The session `oracle` does the same with the classes of HuBERT, wav2vec2, WavLM and Whisper."""
    check(trained_examples.run_examples(FEATURES, FEATURE_MODULES[row]()))
