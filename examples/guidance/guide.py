"""Guidance by the sync loss in another project's training loop: regression from audio to landmarks, with and without the loss.

    python examples/guidance/guide.py                        # minutes on two cores, on the synthetic talker
    python examples/guidance/guide.py --corpus PATH          # a corpus of your own
    python examples/guidance/guide.py --arms plain guided heavy alone basis --seeds 2

``regressor.py`` holds the model and the loop, which use avsync only in the three lines of the loss. This file runs the loop and
evaluates the results with syncers that were not used in training. Results are written to ``--out``.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from draw import comparison_figure, sample_strip, sample_video
from measure import (
    Evaluated,
    Row,
    differences,
    evaluate_motion,
    geometry_table,
    pause_speeds,
    pause_table,
    pooled,
    sync_table,
)
from regressor import Regressor, train
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from avsync.corpus import Batch, ClipBank, Corpus, SyntheticCorpus, speaker_half
from avsync.errors import AvsyncError, CorpusError
from avsync.figures import save_figure
from avsync.landmarks import principal_motions
from avsync.losses import MultiScaleSyncLoss
from avsync.models import MultiScaleSyncer
from avsync.pretrained import model_folder

FRAMES = 80
MARGIN = 40
"""Frames of audio around a validation clip, within which its offset is searched."""
SPEECH_SHARE = 0.4
"""Smallest share of frames with speech of a validation clip."""
BASIS_CLIPS = 512
COMPONENTS = 32
"""Principal motions of the training faces: the basis of the arm "basis", and of the measure "off basis"."""
HEAVY = 30.0
"""Weight of the arm "heavy", as a multiple of the recommended one."""


class Arm(NamedTuple):
    """Settings that differ between training runs."""

    about: str
    mse: float
    """Weight of the regression loss."""
    sync: float
    """Weight of the sync loss, as a multiple of ``--loss-weight``."""
    warm_up: bool = True
    basis: bool = False
    """True if the model predicts weights of principal motions instead of coordinates."""
    silence: float = 0.0
    """Weight of the silence loss inside the sync loss."""
    stop: str | None = None
    """"target" compares with the real motion instead of the audio; "capped" stops at ``--share`` of its agreement."""


ARMS = {
    "plain": Arm("mean squared error alone", mse=1.0, sync=0.0),
    "guided": Arm("with the sync loss", mse=1.0, sync=1.0),
    "silent": Arm("with the sync loss and the silence loss", mse=1.0, sync=1.0, silence=0.03),
    "target": Arm("with the sync loss against the real motion", mse=1.0, sync=1.0, stop="target"),
    "capped": Arm("with the sync loss up to a share of the real agreement", mse=1.0, sync=1.0, stop="capped"),
    "abrupt": Arm("with the sync loss, no warm-up", mse=1.0, sync=1.0, warm_up=False),
    "heavy": Arm(f"with {HEAVY:g} times the weight", mse=1.0, sync=HEAVY, warm_up=False),
    "alone": Arm("sync loss alone", mse=0.0, sync=1.0, warm_up=False),
    "basis": Arm("sync loss alone, in principal motions", mse=0.0, sync=1.0, warm_up=False, basis=True),
}


@dataclasses.dataclass(frozen=True)
class Material:
    """Training clips, and validation clips of other speakers."""

    train: ClipBank
    val: ClipBank
    val_clips: Any
    heard: dict[str, Batch]
    """Validation clips with audio around them, by the kind of their audio features; those of the guide come first."""
    silent: int
    """Number of clips left out because of too little speech."""
    basis: Tensor
    """Principal motions of the training faces, (components, points, dims), each scaled to the reach of faces along it."""

    @property
    def crops(self) -> Batch:
        """Validation clips with the features of the guide."""
        return next(iter(self.heard.values()))


def load_material(corpus: str, features: Mapping[str, torch.nn.Module], *, speakers: int, half: str | None = None) -> Material:
    """Read the corpus, or make the synthetic one.

    Args:
        corpus: "synthetic", or a folder of clips with the splits "train" and "val".
        features: The audio features of the models by their kind; those of the guide come first.
        speakers: Training speakers of the synthetic corpus; a quarter of this number is added for validation.
        half: "A" or "B" to keep the validation speakers of one half (:func:`avsync.corpus.speaker_half`).

    Raises:
        CorpusError: The corpus is damaged, or no validation clip holds speech.
    """
    if corpus == "synthetic":
        seen: Any = SyntheticCorpus(split="train", speakers=speakers, clips_per_speaker=4, seconds=12.0)
        unseen: Any = SyntheticCorpus(split="val", speakers=max(2, speakers // 4), clips_per_speaker=4, seconds=12.0)
    else:
        seen, unseen = Corpus(corpus, split="train"), Corpus(corpus, split="val")
    if half is not None:
        unseen = [clip for clip in unseen if speaker_half(clip.speaker) == half]
    vals = {kind: ClipBank(unseen, features=module) for kind, module in features.items()}
    bank, val = ClipBank(seen, features=next(iter(features.values()))), next(iter(vals.values()))
    heard = {kind: each.windows(FRAMES, stride=FRAMES, margin=MARGIN) for kind, each in vals.items()}
    speaking = next(iter(heard.values())).speech_fraction >= SPEECH_SHARE
    if not bool(speaking.any()):
        raise CorpusError(f"expected clips with speech in at least {SPEECH_SHARE:.0%} of their frames in `val`, got none")
    faces = bank.sample(BASIS_CLIPS, FRAMES, generator=torch.Generator().manual_seed(0)).landmarks
    motions, reach = principal_motions(faces, COMPONENTS)
    chosen = {kind: crops.select(speaking) for kind, crops in heard.items()}
    return Material(bank, val, unseen, chosen, int((~speaking).sum()), motions * reach[:, None, None])


def train_arm(name: str, seed: int, material: Material, syncers: MultiScaleSyncer, arguments: argparse.Namespace) -> Regressor:
    """Train one arm from one seed, or read a run with the same settings from ``--out``."""
    arm = ARMS[name]
    torch.manual_seed(seed)
    model = Regressor(
        coeffs=material.train.audio.shape[-1],
        points=material.train.landmarks.shape[-2],
        dims=material.train.landmarks.shape[-1],
        basis=material.basis if arm.basis else None,
    )
    asked = ("corpus", "steps", "batch_size", "loss_weight", "speakers", *(["share"] if arm.stop == "capped" else []))
    weights = hashlib.sha256((model_folder(arguments.weights) / "model.safetensors").read_bytes()).hexdigest()
    settings = json.dumps(
        {"seed": seed, "weights": weights, **arm._asdict(), **{key: str(getattr(arguments, key)) for key in asked}}
    )
    path: Path = arguments.out / "models" / f"{name}-{seed}.safetensors"
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("settings") == settings:
                model.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 (no mapping)
                return model.eval()
    rng = torch.Generator().manual_seed(seed)

    def batches() -> tuple[Tensor, Tensor, Tensor]:
        batch = material.train.sample(arguments.batch_size, FRAMES, generator=rng)
        return batch.audio, batch.landmarks, batch.speech

    sync_loss = MultiScaleSyncLoss(syncers=syncers, silence_weight=arm.silence)
    weight = arm.sync * arguments.loss_weight
    warm_up = arguments.steps // 3 if arm.warm_up else 0
    train(
        model,
        batches,
        steps=arguments.steps,
        mse_weight=arm.mse,
        sync_loss=sync_loss,
        sync_weight=weight,
        warm_up=warm_up,
        stop=arm.stop is not None,
        share=arguments.share if arm.stop == "capped" else None,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file(model.state_dict(), part, metadata={"settings": settings})
    part.replace(path)
    return model.eval()


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate all arms, print and write; returns the content of metrics.json."""
    began = time.process_time()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    pyramids = {
        "guide": MultiScaleSyncer.from_pretrained(arguments.weights).eval(),
        "judge": MultiScaleSyncer.from_pretrained(arguments.judge).eval(),
    }
    features: dict[str, torch.nn.Module] = {}
    for option, pyramid in zip(("weights", "judge"), pyramids.values(), strict=True):
        speech = pyramid.speech_features()
        if speech is None:
            raise CorpusError(f"`--{option}`: expected syncers of avsync's own features, got {getattr(arguments, option)}")
        features[speech.kind] = speech.features
    material = load_material(arguments.corpus, features, speakers=arguments.speakers, half=arguments.half)
    print(f"training on {material.train}")
    print(f"validation on {len(material.crops)} clips of {material.val} ({material.silent} without speech)", flush=True)

    def evaluated(name: str, landmarks: Tensor) -> Evaluated:
        return evaluate_motion(name, pyramids, landmarks, material.heard, basis=material.basis, margin=MARGIN)

    truth = material.crops.landmarks
    rows = [pooled([evaluated("truth", truth)], material.val, material.crops)]
    rows.append(pooled([evaluated("still", truth[:, :1].expand_as(truth))], material.val, material.crops))
    results: dict[str, list[Evaluated]] = {}
    shown: dict[str, Tensor] = {}
    for name in arguments.arms:
        results[name] = []
        for seed in range(arguments.seeds):
            model = train_arm(name, seed, material, pyramids["guide"], arguments)
            made = generate(model, material.crops)
            results[name].append(evaluated(name, made))
            shown.setdefault(name, made)
            print(f"[{(time.process_time() - began) / 60:4.1f} min of processor time] {name}, seed {seed}", flush=True)
        rows.append(pooled(results[name], material.val, material.crops))
    return finish(rows, results, shown, material, arguments, minutes=(time.process_time() - began) / 60)


@torch.no_grad()
def generate(model: Callable[..., Tensor], crops: Batch, *, chunk: int = 128) -> Tensor:
    """Generate motion for the audio of every validation clip, from its first face: (clips, frames, points, dims)."""
    audio = crops.audio[:, 4 * MARGIN : crops.audio.shape[1] - 4 * MARGIN]
    starts = range(0, len(crops), chunk)
    return torch.cat([model(audio[start : start + chunk], crops.landmarks[start : start + chunk, 0]) for start in starts])


def finish(
    rows: list[Row],
    results: dict[str, list[Evaluated]],
    shown: dict[str, Tensor],
    material: Material,
    arguments: argparse.Namespace,
    *,
    minutes: float,
) -> dict[str, Any]:
    """Print the tables; write the numbers, the figure, a strip of faces and a video."""
    compared = [
        differences("plain", name, results, material.val, material.crops)
        for name in results
        if name != "plain" and "plain" in results
    ]
    pauses = pause_speeds(results, material.crops)
    print(f"\n{sync_table(rows)}\n\n{geometry_table(rows)}\n\n{pause_table(pauses)}\n")
    print("\n".join(line.text() for line in compared))
    out: Path = arguments.out
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    metrics = {
        "processor_minutes": minutes,
        "settings": settings,
        "validation_clips": len(material.crops),
        "arms": {name: ARMS[name]._asdict() for name in results},
        "rows": [row._asdict() for row in rows],
        "differences": [line._asdict() for line in compared],
        "pause_speed": pauses,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    save_figure(comparison_figure(rows), out / "guidance.png", dpi=110)
    faces = {"truth": material.crops.landmarks, **shown}
    chosen = int(material.crops.speech_fraction.argmax())
    save_figure(sample_strip({name: motion[chosen] for name, motion in faces.items()}), out / "faces.png", dpi=100)
    if not arguments.no_video:
        sample_video(out / "sample.mp4", faces, chosen, material.val, material.val_clips, material.crops)
    print(f"\n{out}: metrics.json, guidance.png, faces.png" + ("" if arguments.no_video else ", sample.mp4"))
    return metrics


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="synthetic", help="'synthetic', or a folder of clips (default: synthetic)")
    parser.add_argument("--weights", default="landmarks68-25fps", help="syncers of the loss: a pretrained model or a folder")
    parser.add_argument(
        "--judge", default="landmarks68-25fps-judge-mfcc", help="syncers that evaluate: a pretrained model or a folder"
    )
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=["plain", "guided"], help="arms to train")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm (default: 3)")
    parser.add_argument("--steps", type=int, default=150, help="training steps of each run (default: 150)")
    parser.add_argument("--batch-size", type=int, default=8, help="clips of 80 frames per step (default: 8)")
    parser.add_argument(
        "--loss-weight",
        type=float,
        default=0.3,
        help="weight of the sync loss; the regression loss has weight 1 (default: 0.3)",
    )
    parser.add_argument(
        "--share", type=float, default=0.8, help="share of the real agreement at which the arm 'capped' stops (default: 0.8)"
    )
    parser.add_argument("--half", choices=("A", "B"), help="evaluate on the speakers of one half (default: both)")
    parser.add_argument("--speakers", type=int, default=32, help="training speakers of the synthetic corpus (default: 32)")
    parser.add_argument("--threads", type=int, help="processor threads (default: torch's choice)")
    parser.add_argument("--no-video", action="store_true", help="write no sample.mp4, which needs the extra 'media'")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/guidance"), help="folder of the results (default: runs/guidance)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; an error of avsync is printed as one line, not as a traceback."""
    try:
        run(parse_arguments(arguments))
    except AvsyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
