"""Run by ``nox -s build`` in an environment that holds the wheel and its core dependencies only: import everything, use the losses.

Not collected by pytest: it must run by itself, with no test tool at hand, and end with a status other than 0 on any failure.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import socket
import sys
import warnings
import zipfile
from pathlib import Path

OPTIONAL = (
    "av",
    "face_alignment",
    "huggingface_hub",
    "lightning_fabric",
    "matplotlib",
    "ray",
    "rich",
    "scipy",
    "tensorboard",
    "torchaudio",
    "torchmetrics",
    "tqdm",
)


def require(condition: bool, message: str) -> None:
    """End the run with ``message`` unless ``condition`` holds (an ``assert`` would vanish under -O)."""
    if not condition:
        sys.exit(f"bare install: {message}")


def check_wheel(path: Path) -> None:
    """The wheel holds the package, its type marker and its metadata, and nothing else."""
    names = zipfile.ZipFile(path).namelist()
    strangers = [name for name in names if not name.startswith("avsync/") and ".dist-info/" not in name]
    require(not strangers, f"the wheel holds {strangers}")
    require("avsync/py.typed" in names, "the wheel lacks avsync/py.typed")
    require(any(name.endswith("licenses/LICENSE") for name in names), "the wheel lacks the licence")


def check_environment() -> None:
    """No optional dependency is installed, and avsync is the installed one."""
    present = [name for name in OPTIONAL if importlib.util.find_spec(name) is not None]
    require(not present, f"the environment is not bare, it holds {present}")
    spec = importlib.util.find_spec("avsync")
    require(spec is not None and "site-packages" in str(spec.origin), f"avsync comes from {spec and spec.origin}")


def check_imports() -> None:
    """Every module and every exported name can be imported without the extras."""
    import avsync

    require(importlib.metadata.version("avsync") == avsync.__version__, "the metadata has another version than the package")
    modules = [m.name for m in pkgutil.walk_packages(avsync.__path__, "avsync.") if not m.name.endswith("__main__")]
    for name in modules:
        importlib.import_module(name)
    exported = list(avsync.__all__)
    for name in exported:
        require(getattr(avsync, name, None) is not None, f"avsync.{name} is in __all__ but missing")
    taken = [name for name in OPTIONAL if name in sys.modules]
    require(not taken, f"importing avsync brought in {taken}")
    print(f"imported {len(modules)} modules and {len(exported)} exported names")


def use_pretrained() -> None:
    """Every model of the package is in the wheel, small, and guides without a network."""
    import torch

    from avsync import MultiScaleSyncLoss
    from avsync.metrics import load_calibration
    from avsync.pretrained import model_folder, pretrained_models

    def no_network(*_: object) -> None:
        sys.exit("bare install: a pretrained model asked for the network")

    socket.socket.connect = no_network  # type: ignore[method-assign, assignment]
    names = pretrained_models()
    require("landmarks68-25fps" in names, f"the pretrained models are {names}")
    files = [path for name in names for path in model_folder(name).iterdir()]
    require(sum(path.stat().st_size for path in files) < 100e6, "the pretrained models are larger than 100 MB")
    landmarks = torch.rand(1, 40, 68, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    sync_loss = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps")
    sync_loss(landmarks, torch.rand(1, 40 * 640)).total.backward()
    require(landmarks.grad is not None and bool(torch.isfinite(landmarks.grad).all()), "the pretrained loss gave no gradient")
    load_calibration(model_folder("landmarks68-25fps") / "calibration.json")
    print(f"{len(names)} pretrained models in the wheel")


def use_losses() -> None:
    """Pool, contrast, and push the multi-scale loss back to the landmarks, from a waveform."""
    import torch

    from avsync import MultiScaleSyncLoss, SyncerPyramid, SyncerPyramidConfig
    from avsync.audio.features import LogMel
    from avsync.losses import info_nce
    from avsync.models.syncer.pyramid import SyncerConfig
    from avsync.pyramid import blur_downsample

    torch.manual_seed(0)
    coarse = blur_downsample(torch.ones(2, 40, 68, 2))
    require(tuple(coarse.shape) == (2, 20, 68, 2) and bool((coarse - 1).abs().max() < 1e-6), "blur_downsample lost a constant")

    motion = torch.randn(4, 12, 8, requires_grad=True)
    contrast = info_nce(motion, torch.randn(4, 12, 8), torch.randn(4, 12, 48, 8))
    contrast.backward()
    require(bool(torch.isfinite(contrast)) and motion.grad is not None, "info_nce has no finite loss or no gradient")

    pyramid = SyncerPyramid(config=SyncerPyramidConfig(syncer=SyncerConfig(width=16, embed=8)))
    loss = MultiScaleSyncLoss(syncers=pyramid, audio_transform=LogMel())
    landmarks = torch.rand(2, 40, 68, 2, requires_grad=True)
    result = loss(landmarks, 0.1 * torch.randn(2, 40 * 640))
    result.total.backward()
    gradient = landmarks.grad
    require(bool(torch.isfinite(result.total)) and tuple(result.per_level.shape) == (4,), f"the sync loss is {result}")
    require(gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any()), "no gradient at the landmarks")
    require(all(p.grad is None for p in pyramid.parameters()), "gradients reached the frozen syncers")
    print(f"sync loss {result.total.item():.4f}, per level {[round(v, 4) for v in result.per_level.tolist()]}")


def main() -> None:
    """All checks in turn."""
    warnings.simplefilter("error")
    check_wheel(Path(sys.argv[1]))
    check_environment()
    check_imports()
    use_losses()
    use_pretrained()
    print("bare install: all is well")


if __name__ == "__main__":
    main()
