"""avsync next to the packages that people use for the same work: ``python -m benchmarks.bench_peers``.

    python -m pip install info-nce-pytorch pytorch-metric-learning open_clip_torch librosa torchaudio

Three kinds of work, each in one process and in turns; results must agree before anything is timed.

* InfoNCE of all pairs of windows in both directions, forward and backward: info-nce-pytorch, pytorch-metric-learning and the
  loss of
  open_clip.
* InfoNCE with sampled negatives (equation (2) of the paper), forward and backward: info-nce-pytorch.
* Log-mel energies and MFCCs of a batch of waveforms: torchaudio and librosa.

A package that is not installed is left out, and named in the results. SyncNet's offset search stands in ``bench_offset``, a
rollout with ``nn.LSTMCell`` in ``bench_generator``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avsync.audio import MFCC, LogMel
from avsync.losses import all_pairs_info_nce, sample_negatives, sampled_info_nce
from benchmarks import _harness

TEMPERATURE = 0.1
FRAMING = {"n_fft": 400, "win_length": 400, "hop_length": 160}
Cases = dict[str, Callable[[], Any]]


def find(name: str) -> ModuleType | None:
    """Import a peer; None if it is not installed or does not fit this torch."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return importlib.import_module(name)
    except (ImportError, OSError):
        return None


def open_clip_loss() -> Any:
    """Load open_clip's loss module by itself, because the package imports torchvision; None if it is not installed."""
    found: Any = importlib.util.find_spec("open_clip")
    if not (found and found.submodule_search_locations):
        return None
    spec = importlib.util.spec_from_file_location("open_clip_loss", Path(found.submodule_search_locations[0], "loss.py"))
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_gradients(losses: Mapping[str, Callable[[Tensor, Tensor], Tensor]], motion: Tensor, audio: Tensor) -> Cases:
    """Check that values and gradients of the losses agree with the first, and return a step for each."""

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        value = loss(motion, audio)
        of_motion, of_audio = torch.autograd.grad(value, (motion, audio))
        return value.detach(), of_motion, of_audio

    first = next(iter(losses.values()))
    expected = [x.clone() for x in step(first)]
    for name, loss in losses.items():
        for got, wanted in zip(step(loss), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6, msg=functools.partial("{}: {}".format, name))
    return {name: functools.partial(step, loss) for name, loss in losses.items()}


def all_pairs_cases(clips: int, windows: int, embed: int, device: torch.device) -> tuple[Cases, list[str]]:
    """Make the cases of InfoNCE over all pairs; the peers see the windows of all clips as one list."""
    rng = torch.Generator().manual_seed(0)
    motion, audio = (torch.randn(clips, windows, embed, generator=rng).to(device).requires_grad_() for _ in range(2))
    missing = []

    def plain(motion: Tensor, audio: Tensor) -> Tensor:
        a, m = (F.normalize(x.flatten(0, 1), dim=-1) for x in (audio, motion))
        scores, own = a @ m.mT / TEMPERATURE, torch.arange(len(a), device=a.device)
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.mT, own)) / 2

    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "avsync": lambda motion, audio: all_pairs_info_nce(motion, audio, temperature=TEMPERATURE),
        "plain cross entropy": plain,
    }
    if (package := find("info_nce")) is not None:
        in_batch = package.InfoNCE(temperature=TEMPERATURE)

        def info_nce(motion: Tensor, audio: Tensor) -> Tensor:
            a, m = audio.flatten(0, 1), motion.flatten(0, 1)
            return (in_batch(a, m) + in_batch(m, a)) / 2

        losses["info-nce-pytorch"] = info_nce
    else:
        missing.append("info-nce-pytorch")
    if (package := find("pytorch_metric_learning.losses")) is not None:
        # NTXentLoss lists all pairs of pairs: 9.5 s for 304 windows, where SupConLoss has the same value by one matrix.
        one_way = package.SelfSupervisedLoss(package.SupConLoss(temperature=TEMPERATURE), symmetric=False)

        def metric_learning(motion: Tensor, audio: Tensor) -> Tensor:
            a, m = audio.flatten(0, 1), motion.flatten(0, 1)
            value: Tensor = (one_way(a, m) + one_way(m, a)) / 2
            return value

        losses["pytorch-metric-learning"] = metric_learning
    else:
        missing.append("pytorch-metric-learning")
    if (package := open_clip_loss()) is not None:
        clip_loss = package.ClipLoss(cache_labels=True)
        scale = torch.tensor(1 / TEMPERATURE, device=device)

        def open_clip(motion: Tensor, audio: Tensor) -> Tensor:
            a, m = (F.normalize(x.flatten(0, 1), dim=-1) for x in (audio, motion))
            value: Tensor = clip_loss(a, m, scale)
            return value

        losses["open_clip"] = open_clip
    else:
        missing.append("open_clip")
    return with_gradients(losses, motion, audio), missing


def sampled_cases(clips: int, windows: int, embed: int, device: torch.device) -> Cases:
    """Make the cases of InfoNCE with 48 sampled negatives per window."""
    rng = torch.Generator().manual_seed(0)
    motion, audio = (torch.randn(clips, windows, embed, generator=rng).to(device).requires_grad_() for _ in range(2))
    indices = sample_negatives(clips, windows, 48, generator=rng).to(device)
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "avsync": lambda motion, audio: sampled_info_nce(motion, audio, indices, temperature=TEMPERATURE)
    }
    if (package := find("info_nce")) is not None:
        paired = package.InfoNCE(temperature=TEMPERATURE, negative_mode="paired")

        def info_nce(motion: Tensor, audio: Tensor) -> Tensor:
            m = motion.flatten(0, 1)
            value: Tensor = paired(audio.flatten(0, 1), m, m[indices.flatten(0, 1)])
            return value

        losses["info-nce-pytorch"] = info_nce
    return with_gradients(losses, motion, audio)


def feature_cases(batch: int, seconds: float, device: torch.device) -> tuple[dict[str, Cases], list[str]]:
    """Make the cases of log-mel energies and MFCCs; librosa runs on the CPU."""
    rng = torch.Generator().manual_seed(0)
    waveform = (0.1 * torch.randn(batch, int(16_000 * seconds), generator=rng)).to(device)
    log_mel, mfcc = LogMel(n_mels=26, **FRAMING).to(device), MFCC(n_mfcc=20, n_mels=26, **FRAMING).to(device)
    missing: list[str] = []
    mels: Cases = {"avsync": lambda: log_mel(waveform)}
    coefficients: Cases = {"avsync": lambda: mfcc(waveform)}
    if (torchaudio := find("torchaudio")) is not None:
        transforms = torchaudio.transforms
        mel = transforms.MelSpectrogram(16_000, n_mels=26, **FRAMING).to(device)
        decibels = transforms.AmplitudeToDB("power", top_db=None).to(device)
        theirs = transforms.MFCC(16_000, n_mfcc=20, melkwargs={"n_mels": 26, **FRAMING}).to(device)
        mels["torchaudio"] = lambda: decibels(mel(waveform))[..., :-1].mT
        coefficients["torchaudio"] = lambda: theirs(waveform)[..., :-1].mT
    else:
        missing.append("torchaudio")
    if (librosa := find("librosa")) is not None:
        samples = waveform.cpu().numpy()
        scale = {"sr": 16_000, "n_mels": 26, "htk": True, "norm": None, "pad_mode": "reflect", **FRAMING}

        def librosa_mel() -> Tensor:
            power = librosa.feature.melspectrogram(y=samples, **scale)
            return torch.from_numpy(librosa.power_to_db(power, top_db=None))[..., :-1].mT

        def librosa_mfcc() -> Tensor:
            power = librosa.feature.melspectrogram(y=samples, **scale)
            decibels = librosa.power_to_db(power, top_db=None)
            return torch.from_numpy(librosa.feature.mfcc(S=decibels, n_mfcc=20))[..., :-1].mT

        mels["librosa"], coefficients["librosa"] = librosa_mel, librosa_mfcc
    else:
        missing.append("librosa")
    for cases in (mels, coefficients):
        expected = cases["avsync"]().cpu()
        for name, function in cases.items():
            torch.testing.assert_close(
                function().cpu().float(), expected, rtol=1e-3, atol=1e-2, msg=functools.partial("{}: {}".format, name)
            )
    return {"log_mel": mels, "mfcc": coefficients}, missing


def main(arguments: list[str] | None = None) -> None:
    """Measure all kinds of work."""
    parser = _harness.parser(__doc__, repeats=15, warm_up=2)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--windows", type=int, default=76)
    parser.add_argument("--embed", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32, help="waveforms (default: 32)")
    parser.add_argument("--seconds", type=float, default=3.2, help="of each waveform (default: 3.2)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    sizes = (options.clips, options.windows, options.embed)
    pairs, missing = all_pairs_cases(*sizes, options.device)
    features, more = feature_cases(options.batch, options.seconds, options.device)
    kinds = {"all_pairs": pairs, "sampled": sampled_cases(*sizes, options.device), **features}
    for kind, cases in kinds.items():
        timings = _harness.measure(cases, repeats=options.repeats, warm_up=options.warm_up)
        extra = {
            "clips, windows, embed": sizes,
            "waveforms, seconds": (options.batch, options.seconds),
            "device": str(options.device),
            "not installed": missing + more,
            "avsync over the fastest peer": round(
                min(timing.median for name, timing in timings.items() if name != "avsync") / timings["avsync"].median, 3
            )
            if len(timings) > 1
            else None,
        }
        _harness.report(f"peers_{kind}", timings, baseline="avsync", extra=extra, out=options.out)


if __name__ == "__main__":
    main()
