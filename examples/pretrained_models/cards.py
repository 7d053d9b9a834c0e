"""Model cards: contents, training data, accuracy, use and misuse of the pretrained syncers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretrain import Variant

WIDTH = 128
"""Longest line of a card, in characters."""

_PYRAMID = """# {name}

{about}

Four syncers, one per level of the pyramid (windows of 200, 400, 800 and 1600 ms), for 68 iBUG landmarks in two dimensions at 25
frames per second and 16 kHz audio.

- Motion: {motion} of the {region}.
- Audio: {audio}{hearing}.
- Objective: {objective}{pauses}. {width} channels{by_level}; weights in float16.

```python
from avsync import MultiScaleSyncLoss, SyncerPyramid

sync_loss = MultiScaleSyncLoss.from_pretrained("{name}")
syncers = SyncerPyramid.from_pretrained("{name}")
```

## Data

{train_minutes} minutes of {train_speakers} speakers: landmarks and audio of people who talk into a camera, drawn from videos in
the trees of public repositories (company and personal web sites, course and research repositories, among them excerpts of GRID,
LRS2, MEAD, VoxCeleb2, HDTF and ChaLearn First Impressions). Most of those repositories state no licence for the footage. No
frame, landmark or audio of it is part of this package; the weights are what was learned from it. The landmarks are from
MediaPipe FaceMesh, mapped to 68 points, not smoothed; the lag of every source video was estimated by a regressor and corrected,
to about a third of a frame.{moved} Mostly English, some Portuguese, Spanish, French and perhaps other languages. Evaluated on
{val_minutes} minutes of {val_speakers} other speakers.

Trained by `python examples/pretrained_models/pretrain.py --corpus PATH --variants {name}` ({steps} steps).

"""

_ENSEMBLE = """# {name}

{about}

The cosine of its embeddings is the weighted mean of its members' cosines, which share levels (windows of 200, 400, 800 and 1600
ms), landmarks (68 iBUG points in two dimensions at 25 frames per second) and audio (16 kHz). Its file names the
members and does not repeat their weights; its checksum covers them.

| member | weight |
|---|---|
{members}

```python
from avsync import MultiScaleSyncLoss, SyncerEnsemble

sync_loss = MultiScaleSyncLoss.from_pretrained("{name}")
syncers = SyncerEnsemble.from_pretrained("{name}")
```

## Data

The training data of the members are described in their cards. The weights were chosen, and the numbers below measured, on
{val_minutes} minutes of {val_speakers} speakers who are in no training data of a member.

Joined and evaluated by `python examples/pretrained_models/join.py --corpus PATH`.

"""

_NUMBERS = """## Numbers

Share of clips of 80 frames (3.2 s), with the audio around them, whose offset is found within one frame of the level; search of
15, 15, 8 and 5 frames to both sides. A clip counts if at least {speech_share:.0f} % of its frames are within 20 dB of the
recording's loud ones: {clips} clips do, {left_out} do not. Intervals: 95 %, bootstrap over speakers.

| level | within one frame | exact |
|---|---|---|
{levels}

Short clips, level 0, search of 15 frames to both sides, with 40 frames of audio around them; "with speech" are those with at
least 80 % of such frames. The syncers see the face inside the clip only. Every frame of a clip counts once (`sync_offset(...,
window=5)`); in the last column every window counts once, as in SyncNet's protocol.

| frames | all clips | clips with speech | with speech, mean over windows |
|---|---|---|---|
{short}

## Use and misuse

For guiding and evaluating generators of facial landmarks, for measuring and correcting the offset of recordings, and for
research on synchrony. Do not evaluate a generator with the syncers that guided it: `landmarks68-25fps-judge-mfcc` and
`landmarks68-25fps-judge-mouth` are there for that. A generator that is trained with this loss alone finds motion with a low
loss that is no face (see the guide "Guidance"); use a reconstruction or adversarial loss as well.

The model is not a detector of forged videos. It cannot identify people, recognise what they say, or measure how well they
articulate. Do not use it for decisions about persons.

## Limits

About 160 speakers are few: expect lower accuracy on languages, ages, speech impairments, beards, masks, profile views and
detectors that are not in the data. Silent clips and still faces have no offset; the confidence, and better its calibration,
reports this. Level 3 sees prosody and pauses, which repeat, and is the least certain.
"""

_MOVED = """ The training
clips were then shifted once more, to the offset that syncers trained on the other half of the speakers found."""


def cell(share: dict[str, Any]) -> str:
    """Format a share with its interval."""
    if not share["clips"]:
        return "no clips"
    return f"{share['percent']:.1f} % ({share['low']:.1f} to {share['high']:.1f})"


def wrapped(paragraph: str) -> str:
    """Break the lines of a paragraph or of a list; tables, code and headings stay as they are."""
    if paragraph.startswith(("|", "```", "#")) or all(len(line) <= WIDTH for line in paragraph.splitlines()):
        return paragraph
    items = paragraph.split("\n- ")
    items = [items[0], *(f"- {item}" for item in items[1:])]
    indent = "  " if paragraph.startswith("- ") else ""
    fill = textwrap.TextWrapper(WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False).fill
    return "\n".join(fill(" ".join(item.split())) for item in items)


def hearing(variant: Variant) -> str:
    """Describe the audio context and the normalisation of a pyramid, as the end of a clause."""
    frames = next(iter(variant.audio_context), 0)
    around = f", level 0 with {40 * frames} ms more on both sides of a window" if frames else ""
    return around + (", the mean over the clip subtracted" if variant.mean_normalisation else "")


def pauses(variant: Variant) -> str:
    """Describe the weight of windows without speech in training, as the end of a clause."""
    if variant.pause_weight == 1:
        return ""
    least = f", down to {variant.pause_weight:g} for none" if variant.pause_weight else ""
    return f", to which a window counted by its share of speech{least}"


def write_card(path: Path, name: str, variant: Variant, numbers: dict[str, Any]) -> None:
    """Write ``README.md`` of a pyramid.

    Args:
        path: File to write.
        name: Name of the model.
        variant: Settings of the pyramid.
        numbers: Measured values.
    """
    text = _PYRAMID.format(
        name=name,
        about=variant.about,
        motion=", ".join(variant.motion),
        region=variant.region,
        by_level=" (level by level)" if len(variant.width) > 1 else "",
        width=" / ".join(map(str, variant.width)),
        hearing=hearing(variant),
        moved=_MOVED if variant.realign else "",
        audio={"log-mel": "26 log-mel energies", "mfcc": "26 MFCCs"}[variant.audio],
        objective={"all_pairs": "InfoNCE", "contrastive": "contrastive loss"}[variant.objective],
        pauses=pauses(variant),
        **{key: numbers[key] for key in ("train_minutes", "train_speakers", "val_minutes", "val_speakers", "steps")},
    )
    _write(path, text, numbers)


def write_ensemble_card(path: Path, name: str, about: str, members: Mapping[str, float], numbers: dict[str, Any]) -> None:
    """Write ``README.md`` of an ensemble.

    Args:
        path: File to write.
        name: Name of the model.
        about: Purpose of the model, in one sentence.
        members: Weights of the pyramids, by name.
        numbers: Measured values.
    """
    rows = "\n".join(f"| `{member}` | {weight:g} |" for member, weight in members.items())
    text = _ENSEMBLE.format(
        name=name, about=about, members=rows, val_minutes=numbers["val_minutes"], val_speakers=numbers["val_speakers"]
    )
    _write(path, text, numbers)


def _write(path: Path, text: str, numbers: dict[str, Any]) -> None:
    """Write a card: ``text``, the measured values, and the limits of use."""
    fixed = numbers["levels"]
    pairs = zip(fixed["within_one"], fixed["exact"], strict=True)
    levels = "\n".join(f"| {level} | {cell(near)} | {cell(exact)} |" for level, (near, exact) in enumerate(pairs))
    short = "\n".join(
        f"| {row['frames']} | {cell(row['all'])}, {row['all']['clips']} clips | {cell(row['speech'])}, "
        f"{row['speech']['clips']} |"
        f" {cell(row['windows'])} |"
        for row in numbers["short"]
    )
    text += _NUMBERS.format(
        speech_share=100 * fixed["speech_share"],
        clips=fixed["clips"],
        left_out=fixed["left_out"],
        levels=levels,
        short=short,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(map(wrapped, text.split("\n\n"))), encoding="utf-8")
