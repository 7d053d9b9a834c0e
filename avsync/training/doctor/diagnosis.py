"""Diagnosis of a training run from its history."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence

from avsync.training.doctor.findings import Finding, by_severity

Curve = Sequence[tuple[int, float]]

STUCK = 0.97
"""A loss above this share of its chance level has learnt nothing that shows."""
COLLAPSED = 0.02
"""A spread (:func:`avsync.training.doctor.vitals.vital_signs`) below this is one direction."""
TOO_EARLY = 100
"""Steps before which being at chance means nothing."""
_NO_GRADIENT = 1e-7
_HUGE_GRADIENT = 1e3
_HOT = 0.5  # a temperature at which cosines of -1 to 1 hardly move the softmax
_ELSEWHERE = (
    "Then look at the data: sound and motion may be misaligned, swapped between clips, or of the wrong rate (run avsync doctor on the "
    "corpus). If the data are sound, raise the learning rate or train longer."
)


def diagnose(history: Mapping[str, Curve], *, chance: float | None = None) -> tuple[Finding, ...]:
    """Report whether a training run learns, and if not, the likely causes.

    Args:
        history: (step, value) pairs by name, as :func:`avsync.training.syncers.train_syncers` returns them: ``loss0``, ``loss1``, ...
            are each level's loss over its chance level, and the vital signs are read if present. A history with only
            ``loss``, of any contrastive training run, is also accepted.
        chance: Value of ``loss`` at chance: log(N + 1) with N negatives, log 2 for a binary cross-entropy. Only for histories
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
        f"{name} is no longer a number from step {step} on. A learning rate that is too high, half precision without loss scaling, "
        "or NaN in the data do that (avsync doctor finds the last).",
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
    findings = []
    best = min(_late(curve[: end + 1]) for end in range(len(curve)))
    if late > STUCK and best < 0.8:
        findings.append(
            Finding(
                "error",
                "lost",
                f"{name} had learnt (its loss was {best:.2f} of chance) and has lost it again ({late:.2f}): the learning rate is "
                "too high for so long, or the gradient needs clipping.",
                numbers=numbers,
            )
        )
    elif late > STUCK:
        findings.append(_stuck(name, late, step, signs, numbers))
    elif late > 0.85:
        findings.append(
            Finding(
                "warning",
                "slow",
                f"{name} has learnt little by step {step}: its loss is {late:.2f} of chance. Coarse levels see fewer windows and "
                "less that moves, so they need longer clips, more speakers or more steps.",
                numbers=numbers,
            )
        )
    else:
        accuracy = 50 * (signs["in_sync"] + signs["off_sync"]) if {"in_sync", "off_sync"} <= set(signs) else None
        told = "" if accuracy is None else f", and {accuracy:.0f} % of its pairs are told right (50 at chance)"
        findings.append(Finding("note", "learns", f"{name} learns: its loss is {late:.2f} of chance{told}.", numbers=numbers))
    if signs.get("temperature", 0.0) > _HOT:
        findings.append(
            Finding(
                "warning",
                "hot",
                f"{name} runs at a temperature of {signs['temperature']:.2f}: cosines lie between -1 and 1, so above {_HOT} the softmax "
                "hardly tells them apart. Start at 0.07, and keep weight decay away from the temperature.",
                numbers=numbers,
            )
        )
    return findings


def _stuck(name: str, late: float, step: int, signs: Mapping[str, float], numbers: Mapping[str, float]) -> Finding:
    known = dict(numbers)
    where = f"{name} is at chance after {step} steps (its loss is {late:.2f} of what guessing gives)"
    if signs.get("grad", 1.0) < _NO_GRADIENT:
        words = f"{where}, and no gradient reaches it: its parameters are frozen, or something detaches its embeddings."
        return Finding("error", "no_gradient", words, numbers=known)
    if signs.get("spread", 1.0) < COLLAPSED:
        words = (
            f"{where}, and its embeddings have collapsed: every window gets the same vector (spread {signs['spread']:.3f}, 1 is all "
            "directions). Lower the learning rate or warm up longer; make sure that features and motion are standardised, and that "
            "neither is constant."
        )
        return Finding("error", "collapse", words, numbers=known)
    if signs.get("grad", 0.0) > _HUGE_GRADIENT:
        words = f"{where}, with gradients of norm {signs['grad']:.0f}: lower the learning rate and clip gradients."
        return Finding("error", "huge_gradient", words, numbers=known)
    if step < TOO_EARLY:
        return Finding("note", "early", f"{where}: too early to say anything; look again after {TOO_EARLY}.", numbers=known)
    words = f"{where}, though its embeddings are alive. {_ELSEWHERE}"
    return Finding("error", "stuck", words, numbers=known)


def _plain(curve: Curve, chance: float | None) -> list[Finding]:
    if not curve:
        return [Finding("warning", "no_history", "the history holds no loss, so there is nothing to read.")]
    blown = _blown_up("the loss", curve)
    if blown is not None:
        return [blown]
    late, first, step = _late(curve), curve[0][1], curve[-1][0]
    numbers = {"step": step, "loss": late}
    if chance is None:
        still = abs(late - math.log(2)) < 0.01 and abs(first - late) < 0.1
        if not still:
            words = f"the loss went from {first:.3g} to {late:.3g}; say what it is at chance (`chance`) to have it judged."
            return [Finding("note", "no_chance", words, numbers=numbers)]
        chance = math.log(2)
    if late <= STUCK * chance:
        return [
            Finding("note", "learns", f"the loss is {late / chance:.2f} of its chance level {chance:.3f}.", numbers=numbers)
        ]
    if step < TOO_EARLY:
        return [
            Finding("note", "early", f"after {step} steps the loss is at chance: too early to say anything.", numbers=numbers)
        ]
    known = "ln 2, what a binary cross-entropy gives that answers 0.5 to everything" if abs(chance - math.log(2)) < 1e-3 else ""
    known = known or f"ln {math.exp(chance):.0f}, what guessing among {math.exp(chance):.0f} gives"
    words = f"the loss stands at {late:.3f} after {step} steps. Chance is {chance:.3f} = {known}: nothing has been learnt. {_ELSEWHERE}"
    return [Finding("error", "stuck", words, numbers=numbers)]
