"""Animation of a still face by gradient descent on the sync loss alone.

    python examples/guidance/speak.py                     # a minute or two on one core, on the embedded synthetic talker
    python examples/guidance/speak.py --corpus PATH       # a corpus of your own

Nothing is trained. The points of a clip are the only parameters. They start as copies of the first frame and follow the
gradient of an objective. Three objectives show the purpose of each part:

- "loss": equation (4) alone. The motion scores higher than real motion but trembles (adversarial motion).
- "prior": with the motion prior added. The faces stay plausible, and the motion still scores higher than real motion.
- "target": the distance to the embeddings of the real motion, with the prior. The motion approaches real motion.

Three more are measured with ``--objectives``: "views" is the first one with random views of the motion before the syncers;
"silence" adds the silence loss to "target"; "regions" is "target" with the syncers of mouth, rest of the face and head pose,
all of the same weight. ``--guide`` names other syncers for all but the last one.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from avsync import MultiScaleSyncer, MultiScaleSyncLoss, from_pretrained
from avsync.corpus import Corpus, SyntheticCorpus, speaker_half, speech_mask
from avsync.figures import face_strip, landmark_video, save_figure
from avsync.landmarks import displacement, face_height, head_pose, mouth_opening, pause_speed, smooth_frames
from avsync.losses import MotionPrior
from avsync.metrics import multi_scale_offset

FRAMES, MARGIN, SAMPLES = 80, 40, 640
GUIDE = "landmarks68-25fps"
STRANGERS = (
    "landmarks68-25fps-judge-mfcc",
    "landmarks68-25fps-judge-mouth",
    "landmarks68-25fps-pose",
    "landmarks68-25fps-judge",
)
PRIOR = "motion-prior-landmarks68-25fps"
PRIOR_WEIGHT = 1.5
"""Chosen on half A of the validation speakers, for a distance from the principal motions like that of real motion."""


class Objective(NamedTuple):
    """Parts of an objective."""

    prior: float
    """Weight of the motion prior."""
    target: bool
    """True if the real motion is the target."""
    guide: str = GUIDE
    """Pretrained syncers of the loss."""
    silence: float = 0.0
    """Weight of the silence loss."""
    views: bool = False
    """True if the syncers see random views of the motion; see :func:`view`."""

    def loss(self) -> MultiScaleSyncLoss:
        """Return the sync loss; regions have the same weight."""
        regions = MultiScaleSyncer.from_pretrained(self.guide).regions
        weights = dict.fromkeys(regions, 1.0)
        return MultiScaleSyncLoss.from_pretrained(self.guide, region_weights=weights, silence_weight=self.silence)


OBJECTIVES = {
    "loss": Objective(0.0, False),
    "prior": Objective(PRIOR_WEIGHT, False),
    "target": Objective(PRIOR_WEIGHT, True),
    "views": Objective(0.0, False, views=True),
    "silence": Objective(PRIOR_WEIGHT, True, silence=0.1),
    "regions": Objective(PRIOR_WEIGHT, True, guide="landmarks68-25fps-regions"),
}
SHOWN = ("loss", "prior", "target")


def descend(
    objective: Objective, prior: MotionPrior, truth: Tensor, audio: Tensor, speech: Tensor, *, steps: int, rate: float
) -> Tensor:
    """Move the points of still faces along the gradient of an objective.

    Args:
        objective: Parts of the objective.
        prior: The motion prior.
        truth: Real motion, (clips, frames, points, dims); only its first frames are used, unless it is the target.
        audio: Waveforms with ``MARGIN`` frames on both sides, (clips, samples).
        speech: True for frames with speech, (clips, frames).
        steps: Number of steps of Adam.
        rate: Largest step of a coordinate, in heights of the face.

    Returns:
        (clips, frames, points, dims).
    """
    loss = objective.loss()
    if loss.audio_transform is None:
        raise SystemExit(f"{objective.guide}: expected syncers of the package's own audio features")
    features = loss.audio_transform(audio)[:, 4 * MARGIN : 4 * (MARGIN + FRAMES)]

    def total(landmarks: Tensor) -> Tensor:
        seen = view(landmarks) if objective.views else landmarks
        found = loss(seen, features, target=truth if objective.target else None, speech=speech).total
        return found + objective.prior * prior(landmarks) if objective.prior else found

    return descend_loss(total, truth, steps=steps, rate=rate)


def descend_loss(loss: Callable[[Tensor], Tensor], truth: Tensor, *, steps: int, rate: float) -> Tensor:
    """Move the points of still faces, the first frames of ``truth``, along the gradient of a loss; see :func:`descend`."""
    first, height = truth[:, :1], face_height(truth)[:, None, None, None]
    moved = torch.zeros_like(truth, requires_grad=True)
    optimizer = torch.optim.Adam([moved], lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    for _ in range(steps):
        optimizer.zero_grad()
        loss(first + height * moved).backward()
        optimizer.step()
        schedule.step()
    return (first + height * moved).detach()


def view(landmarks: Tensor) -> Tensor:
    """Return motion with a jitter of 0.3 % of the face's height, smoothed over 3 frames in every other call."""
    shaken = landmarks + 0.003 * face_height(landmarks.detach())[:, None, None, None] * torch.randn_like(landmarks)
    return smooth_frames(shaken, [1 / 3, 1 / 3, 1 / 3]) if torch.rand(()) < 0.5 else shaken


def geometry(landmarks: Tensor, truth: Tensor, speech: Tensor, directions: Tensor) -> dict[str, float]:
    """Measure jitter, speeds and distance from real faces relative to true motion, and the correlation of mouth openings."""

    def sizes(clips: Tensor) -> Tensor:
        flat = displacement(clips, reference=truth[:, 0], scale=1.0)
        step = flat.diff(dim=1)
        shift = step.mean(dim=2, keepdim=True)
        off = flat.flatten(2) - flat.flatten(2) @ directions @ directions.mT
        lengths = [x.norm(dim=-1).mean() for x in (step.diff(dim=1), step, step - shift, shift)]
        return torch.stack([*lengths, off.square().mean().sqrt()])

    made, real = (mouth_opening(clips, reference=truth[:, 0]) for clips in (landmarks, truth))
    made, real = made - made.mean(1, keepdim=True), real - real.mean(1, keepdim=True)
    correlation = (made * real).sum(1) / (made.norm(dim=1) * real.norm(dim=1)).clamp_min(1e-9)
    jitter, speed, in_place, shift, off = (sizes(landmarks) / sizes(truth)).tolist()
    pauses, real_pauses = (pause_speed(clips, speech, reference=truth[:, 0]).nanmean().item() for clips in (landmarks, truth))
    # The pose has the same unit for both, because it is measured from the same faces.
    heads = [head_pose(clips, reference=truth[:, 0]).diff(dim=1).abs().mean().item() for clips in (landmarks, truth)]
    return {
        "jitter": jitter,
        "speed": speed,
        "speed in place": in_place,
        "shift": shift,
        "head speed": heads[0] / heads[1],
        "pause speed": pauses / real_pauses if real_pauses else math.nan,
        "off faces": off,
        "lip corr.": correlation.mean().item(),
    }


@torch.no_grad()
def confidence(name: str, landmarks: Tensor, waveform: Tensor) -> list[float]:
    """Return the mean confidence of clips per level, by syncers that are not part of the objective."""
    syncers = from_pretrained(name, model_class=MultiScaleSyncer)
    features = syncers.speech_features()
    if features is None:
        raise SystemExit(f"{name}: expected syncers of the package's own audio features")
    found = multi_scale_offset(syncers, landmarks, features(waveform), margin=MARGIN)
    return [level.confidence.mean().item() for level in found]


def real_clips(corpus: str, count: int, half: str | None) -> tuple[Tensor, Tensor]:
    """Return real motion (clips, frames, points, dims), one per speaker, and waveforms with ``MARGIN`` frames around."""
    clips = Corpus(corpus, split="val") if corpus != "synthetic" else SyntheticCorpus(split="val", speakers=count)
    length = FRAMES + 2 * MARGIN
    motion: list[Tensor] = []
    audio: list[Tensor] = []
    seen: set[str] = set()
    for clip in clips:
        waveform = torch.from_numpy(clip.waveform)
        unfit = len(clip.landmarks) < length or half not in (None, speaker_half(clip.speaker))
        if unfit or clip.speaker in seen or len(motion) == count:
            continue
        seen.add(clip.speaker)
        motion.append(torch.from_numpy(clip.landmarks[MARGIN : MARGIN + FRAMES]).float())
        audio.append(waveform[: length * SAMPLES].float())
    if not motion:
        raise SystemExit(f"{corpus}: expected clips of at least {length} frames in the split 'val', got none")
    return torch.stack(motion), torch.stack(audio)


def run(arguments: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Descend every objective, print the table, write faces and a video; return the table."""
    truth, waveform = real_clips(arguments.corpus, arguments.clips, arguments.half)
    prior = from_pretrained(PRIOR, model_class=MotionPrior)
    # The mask depends on the loudness of the whole clip, so it is made before the clip is cut.
    masks = [torch.from_numpy(speech_mask(wave))[MARGIN : MARGIN + FRAMES] for wave in waveform]
    speech = torch.stack(masks)
    motions = {"truth": truth}
    for name in arguments.objectives:
        objective = OBJECTIVES[name] if name == "regions" else OBJECTIVES[name]._replace(guide=arguments.guide)
        motions[name] = descend(objective, prior, truth, waveform, speech, steps=arguments.steps, rate=arguments.rate)
    table: dict[str, dict[str, object]] = {}
    for name, landmarks in motions.items():
        table[name] = {**geometry(landmarks, truth, speech, prior.directions)}
        table[name] |= {stranger: confidence(stranger, landmarks, waveform) for stranger in STRANGERS}
        shapes = "  ".join(f"{key} {value:.2f}" for key, value in table[name].items() if isinstance(value, float))
        print(f"{name:<7} {shapes}")
        for stranger in STRANGERS:
            levels = " ".join(f"{value:.3f}" for value in table[name][stranger])  # type: ignore[attr-defined]
            print(f"        confidence by {stranger:<24} {levels}", flush=True)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "speak.json").write_text(json.dumps({"clips": len(truth), "rows": table}, indent=1) + "\n", encoding="utf-8")
    shown = {"still": truth[0, :1].expand_as(truth[0]), **{name: landmarks[0] for name, landmarks in motions.items()}}
    save_figure(face_strip(shown), out / "speak.png", dpi=100)
    heard = waveform[0, MARGIN * SAMPLES : (MARGIN + FRAMES) * SAMPLES]
    landmark_video(out / "speak.mp4", shown, waveform=heard)
    print(f"{out}: speak.json, speak.png, speak.mp4")
    return table


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="synthetic", help="'synthetic', or a folder of clips (default: synthetic)")
    parser.add_argument("--clips", type=int, default=8, help="clips, one per speaker (default: 8)")
    parser.add_argument("--half", choices=("A", "B"), help="only speakers of one half (default: both)")
    parser.add_argument("--objectives", nargs="+", choices=tuple(OBJECTIVES), default=list(SHOWN), help="what is descended")
    parser.add_argument(
        "--guide", default=GUIDE, help="syncers of the loss: a pretrained model or a folder (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=150, help="steps of Adam (default: 150)")
    parser.add_argument(
        "--rate", type=float, default=2e-3, help="largest step of a coordinate in face heights (default: 0.002)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/speak"), help="folder of the results (default: runs/speak)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse_arguments())
