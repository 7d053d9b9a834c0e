"""The paper's claims 1 to 5, one command each: a table with intervals and a figure.

    python examples/baselines/claims.py 2 --out runs/baselines --corpus PATH --seeds 5

The runs are those of run.py and lie in the same folder; what is missing is trained. Intervals are 95 %, by a bootstrap that
draws seeds and speakers with replacement.

1. One network makes head and lips together, without a pipeline of two steps.
2. Against a single-scale loss and a single-scale generator: no difference at the finest level, better at the coarser ones.
3. Trained on 40 frames, quality holds to 80 frames and drifts by 200; trained on 80, it drifts much less.
4. The multi-scale sync loss beats methods without it, most at the two coarsest levels.
5. The pair discriminator helps dynamics slightly; the weak reconstruction loss does not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from judging import differences, estimate, motion_distance
from run import BOUNDS, Bench, add_arguments, figure_rows, row_lines

from avsync import AvsyncError
from avsync.figures import confidence_by_level, save_figure, training_curves

FULL = "MS-Sync-short"
ROWS: dict[int, tuple[str, ...]] = {
    1: (FULL, "Audio2Head-style"),
    2: (FULL, "4 levels, 1 branch", "1 level, 4 branches", "level 0 only"),
    3: (FULL, "MS-Sync-long"),
    4: (FULL, "no sync loss", "SUHMo-style", "MakeItTalk-style", "Audio2Head-style", "Wav2Lip-style"),
    5: (FULL, "with D_j", "with reconstruction"),
}
"""Methods of each claim, the whole system first."""
LENGTHS = (40, 80, 200)
"""Frames of the clips of claim 3."""


def difference_lines(
    results: dict[str, list[dict[str, Any]]], speakers: Sequence[str], keys: Sequence[str], title: str
) -> list[str]:
    """Format a Markdown table of the first method minus every other one, paired by seed and clip."""
    full, *others = results
    lines = [f"| {full} minus, {title} | " + " | ".join(keys) + " |", "|---|" + "---|" * len(keys)]
    for other in others:
        cells = [
            estimate(differences([a[key] for a in results[full]], [b[key] for b in results[other]]), speakers) for key in keys
        ]
        lines.append(f"| {other} | " + " | ".join(f"{c.mean:+.3f} [{c.low:+.3f}, {c.high:+.3f}]" for c in cells) + " |")
    return lines


def show_levels(bench: Bench, number: int) -> list[str]:
    """Return the tables of a claim about confidence or dynamics, and draw its figure."""
    speakers, bounds = bench.speakers(bench.crops(80)), bench.bounds()
    results = {name: [seed["80"] for seed in bench.results(name)] for name in ROWS[number]}
    rows = {name: [bounds[name]] for name in BOUNDS} | results
    lines = row_lines(rows, speakers)
    pairs = [results]
    if number == 2:  # the loss alone, on the generator with one scale
        pairs.append({name: results[name] for name in ("4 levels, 1 branch", "level 0 only")})
    for part in ("face", "mouth", "head"):
        for compared in pairs:
            lines += ["", *difference_lines(compared, speakers, [f"{part}{level}" for level in range(4)], part)]
    if number == 5:
        lines += ["", *difference_lines(results, speakers, ["speed", "height", "opening", "opening95"], "dynamics")]
    figure = confidence_by_level(figure_rows(rows, speakers), bounds=BOUNDS, ylabel="confidence of the whole face")
    save_figure(figure, bench.out / f"claim{number}.png")
    return lines


def show_drift(bench: Bench) -> list[str]:
    """Return the tables of claim 3: measures by the length of the rollout; and draw the distance over time."""
    methods = {name: bench.results(name, LENGTHS) for name in ROWS[3]}
    real = {str(frames): bench.bounds(frames)["ground truth"] for frames in LENGTHS}
    lines = [
        "| motion distance of the last 40 frames (every seed) / height at the end / mouth opening | "
        + " | ".join(f"{frames} frames" for frames in LENGTHS)
        + " |",
        "|---|" + "---|" * len(LENGTHS),
    ]
    for name, seeds in {"ground truth": [real], **methods}.items():
        cells = []
        for frames in LENGTHS:
            found = [seed[str(frames)] for seed in seeds]
            speakers = bench.speakers(bench.crops(frames))
            height, opening = (estimate([each[key] for each in found], speakers) for key in ("height", "opening"))
            distances = [each["distance"] for each in found]
            cells.append(" ".join(f"{distance:.1f}" for distance in distances) + f" / {height.text(2)} / {opening.text(3)}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    clips = ", ".join(f"{len(bench.crops(frames))} of {frames} frames" for frames in LENGTHS)
    return [*lines, "", f"Clips: {clips}.", "", *height_lines(bench, methods), "", *distance_lines(bench)]


def height_lines(bench: Bench, methods: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Format how much more the faces of the first method grow than those of the second, paired by seed and clip."""
    first, second = methods.values()
    cells = []
    for frames in map(str, LENGTHS):
        grown = differences([a[frames]["height"] for a in first], [b[frames]["height"] for b in second])
        found = estimate(grown, bench.speakers(bench.crops(int(frames))))
        cells.append(f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]")
    return [
        f"| height, {' minus '.join(methods)} | " + " | ".join(f"{frames} frames" for frames in LENGTHS) + " |",
        "|---|" + "---|" * len(LENGTHS),
        "| | " + " | ".join(cells) + " |",
    ]


def distance_lines(bench: Bench) -> list[str]:
    """Format the motion distance of each 40 frames of the longest clips, whose number is the same; and draw the figure."""
    crops = bench.crops(LENGTHS[-1])
    ends = range(40, LENGTHS[-1] + 1, 40)
    lines = ["| motion distance, frames | " + " | ".join(f"{end - 40}-{end}" for end in ends) + " |"]
    lines.append("|---|" + "---|" * len(ends))
    curves: dict[str, list[tuple[int, float]]] = {}
    for name in ROWS[3]:
        motions = [bench.motion(bench.animator(name, seed), crops, seed) for seed in range(bench.seeds)]
        found = [
            [motion_distance(made[:, :end], replace(crops, landmarks=crops.landmarks[:, :end])) for made in motions]
            for end in ends
        ]
        lines.append(f"| {name} | " + " | ".join(" ".join(f"{value:.1f}" for value in row) for row in found) + " |")
        curves[name] = [(end, sum(row) / len(row)) for end, row in zip(ends, found, strict=True)]
    figure = training_curves(curves, xlabel="frames of the clip", ylabel="motion distance of the last 40 frames so far")
    save_figure(figure, bench.out / "claim3.png")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", type=int, choices=sorted(ROWS), help="number of the claim")
    add_arguments(parser)
    args = parser.parse_args(arguments)
    try:
        bench = Bench(args)
        lines = show_drift(bench) if args.claim == 3 else show_levels(bench, args.claim)
    except AvsyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    gan = bench.preset.gan
    text = "\n".join([*lines, "", f"{args.seeds} seeds, {gan.steps} steps of {gan.batch_size} clips.", ""])
    (args.out / f"claim{args.claim}.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
