"""Diagnosis of a training run from its history."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence

from avsync._checks import MeasuredFloat, checked
from avsync.training.doctor.findings import Finding, by_severity

Curve = Sequence[tuple[int, MeasuredFloat]]

STUCK = 0.97
"""Share of the chance level above which a loss has not visibly fallen."""
COLLAPSED = 0.02
"""A spread (:func:`avsync.training.doctor.vitals.vital_signs`) below this is one direction."""
TOO_EARLY = 100
"""Steps before which a loss at its chance level is normal."""
_NO_GRADIENT = 1e-7
_HUGE_GRADIENT = 1e3
_HOT = 0.5  # a temperature at which cosines of -1 to 1 hardly move the softmax
_ELSEWHERE = (
    "Check the data first: audio and motion may be misaligned, swapped between clips, or of the wrong rate (run avsync doctor "
    "on the corpus). If the data are correct, raise the learning rate or train longer."
)


@checked
def diagnose(history: Mapping[str, Curve], *, chance: float | None = None) -> tuple[Finding, ...]:
    """Report whether a training run learns, and if not, the likely causes.

    Args:
        history: (step, value) pairs by name, as :func:`avsync.training.syncers.train_syncers` returns them: ``loss0``,
            ``loss1``, ... are each level's loss over its chance level, and the vital signs are read if present. A history with
            only ``loss``, of any contrastive training run, is also accepted.
        chance: Chance level of ``loss``: log(N + 1) with N negatives, log 2 for a binary cross-entropy. Only for histories
            without levels; if None, a loss that stays near log 2 is recognised.

    Returns:
        Findings, errors first. A training run in which every level learns gets notes only.

    Example:
        >>> stuck = {"loss0": [(step, 0.999) for step in range(10, 610, 10)], "spread0": [(600, 0.001)]}
        >>> [finding.code for finding in diagnose(stuck)]
        ['collapse']

    Source: ours.
    """
    levels = sorted(int(match[1]) for match in (re.fullmatch(r"loss(\d+)", name) for name in history) if match)
    findings = [finding for level in levels for finding in _level(history, level)]
    if not levels:
        findings += _plain(history.get("loss", ()), chance)
    return by_severity(findings)


def _late(curve: Curve) -> float:
    """Return the median of the last fifth."""
    values = [value for _, value in curve]
    return statistics.median(values[-max(1, len(values) // 5) :]) if values else math.nan


def _blown_up(name: str, curve: Curve) -> Finding | None:
    step = next((step for step, value in curve if not math.isfinite(value)), None)
    if step is None:
        return None
    return Finding(
        "error",
        "not_finite",
        f"{name} is not a number from step {step} on. Possible causes: a learning rate that is too high, half precision "
        "without loss scaling, or NaN in the data (avsync doctor CORPUS finds them).",
        numbers={"step": step},
    )


def _level(history: Mapping[str, Curve], level: int) -> list[Finding]:
    curve = history[f"loss{level}"]
    name = f"level {level}"
    blown = _blown_up(f"the loss of {name}", curve)
    if blown is not None:
        return [blown]
    if not curve:
        return []
    signs = {
        key: _late(history[f"{key}{level}"])
        for key in ("gap", "in_sync", "off_sync", "spread", "temperature", "grad")
        if history.get(f"{key}{level}")
    }
    late, step = _late(curve), curve[-1][0]
    numbers = {"level": level, "step": step, "loss_over_chance": late, **signs}
    best = min(_late(curve[: end + 1]) for end in range(len(curve)))
    if late > STUCK and best < 0.8:
        words = (
            f"the loss of {name} had fallen to {best:.2f} of its chance level and rose again to {late:.2f}: lower the learning "
            "rate towards the end, or clip the gradient."
        )
        findings = [Finding("error", "lost", words, numbers=numbers)]
    elif late > STUCK:
        findings = [_stuck(name, late, step, signs, numbers)]
    elif late > 0.85:
        words = (
            f"{name} has learned little by step {step}: its loss is {late:.2f} of its chance level. Coarse levels see fewer "
            "windows and less motion, so they need longer clips, more speakers or more steps."
        )
        findings = [Finding("warning", "slow", words, numbers=numbers)]
    else:
        accuracy = 50 * (signs["in_sync"] + signs["off_sync"]) if {"in_sync", "off_sync"} <= set(signs) else None
        told = "" if accuracy is None else f", and {accuracy:.0f} % of its pairs are classified correctly (chance level: 50)"
        words = f"{name} learns: its loss is {late:.2f} of its chance level{told}."
        findings = [Finding("note", "learns", words, numbers=numbers)]
    if signs.get("temperature", 0.0) > _HOT:
        words = (
            f"the temperature of {name} is {signs['temperature']:.2f}: cosines lie between -1 and 1, so above {_HOT} the "
            "softmax hardly distinguishes them. Start at 0.07, and apply no weight decay to the temperature."
        )
        findings.append(Finding("warning", "hot", words, numbers=numbers))
    return findings


def _stuck(name: str, late: float, step: int, signs: Mapping[str, float], numbers: Mapping[str, float]) -> Finding:
    known = dict(numbers)
    where = f"{name} is at chance level after {step} steps (its loss is {late:.2f} of the loss of a guess)"
    if signs.get("grad", 1.0) < _NO_GRADIENT:
        words = f"{where}, and no gradient reaches it: its parameters are frozen, or something detaches its embeddings."
        return Finding("error", "no_gradient", words, numbers=known)
    if signs.get("spread", 1.0) < COLLAPSED:
        words = (
            f"{where}, and its embeddings have collapsed: every window has the same embedding (spread {signs['spread']:.3f}; 1 "
            "means all directions). Lower the learning rate or warm up longer; make sure that features and motion are "
            "standardised, and that neither is constant."
        )
        return Finding("error", "collapse", words, numbers=known)
    if signs.get("grad", 0.0) > _HUGE_GRADIENT:
        words = f"{where}, with gradients of norm {signs['grad']:.0f}: lower the learning rate and clip gradients."
        return Finding("error", "huge_gradient", words, numbers=known)
    if step < TOO_EARLY:
        return Finding("note", "early", f"{where}: this is normal before step {TOO_EARLY}.", numbers=known)
    words = f"{where}, but its embeddings have not collapsed. {_ELSEWHERE}"
    return Finding("error", "stuck", words, numbers=known)


def _plain(curve: Curve, chance: float | None) -> list[Finding]:
    if not curve:
        return [Finding("warning", "no_history", "the history contains no loss.")]
    blown = _blown_up("the loss", curve)
    if blown is not None:
        return [blown]
    late, first, step = _late(curve), curve[0][1], curve[-1][0]
    numbers = {"step": step, "loss": late}
    if chance is None:
        still = abs(late - math.log(2)) < 0.01 and abs(first - late) < 0.1
        if not still:
            words = f"the loss went from {first:.3g} to {late:.3g}; pass its value at chance level as `chance` for a diagnosis."
            return [Finding("note", "no_chance", words, numbers=numbers)]
        chance = math.log(2)
    if late <= STUCK * chance:
        return [
            Finding("note", "learns", f"the loss is {late / chance:.2f} of its chance level {chance:.3f}.", numbers=numbers)
        ]
    if step < TOO_EARLY:
        return [
            Finding(
                "note",
                "early",
                f"after {step} steps the loss is at chance level, which is normal before step {TOO_EARLY}.",
                numbers=numbers,
            )
        ]
    known = "ln 2, the binary cross-entropy of the constant output 0.5" if abs(chance - math.log(2)) < 1e-3 else ""
    known = known or f"ln {math.exp(chance):.0f}, the loss of a guess among {math.exp(chance):.0f}"
    words = (
        f"the loss is {late:.3f} after {step} steps. Its chance level is {chance:.3f} = {known}: nothing was learned. "
        f"{_ELSEWHERE}"
    )
    return [Finding("error", "stuck", words, numbers=numbers)]
