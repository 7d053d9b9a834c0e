"""Models on disk: what is read is what was written, and every kind of damage is a CheckpointError."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from avsync._bits import pack, unpack
from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.errors import ArgumentError, CheckpointError
from avsync.losses.sync import MultiScaleSyncLoss
from avsync.metrics import load_calibration, multi_scale_offset
from avsync.models.syncer.encoders import SyncerConfig
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.models.syncer.pyramid import SyncerPyramid, SyncerPyramidConfig
from avsync.pretrained import FILES, FORMAT, WEIGHTS, from_pretrained, model_folder, save_pretrained, shipped_models

CONFIG = SyncerPyramidConfig(syncer=SyncerConfig(audio_features=3, points=4, width=4, embed=2), num_levels=2, reference="mean")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = SyncerPyramid(config=CONFIG)
    model.set_audio_statistics(torch.arange(3.0), torch.arange(1.0, 4.0))
    save_pretrained(model, tmp_path / "a" / "b")
    return tmp_path / "a" / "b"


def test_round_trip(saved: Path) -> None:
    model = SyncerPyramid(config=CONFIG)
    model.set_audio_statistics(torch.arange(3.0), torch.arange(1.0, 4.0))
    save_pretrained(model, saved)  # over what is there
    back = from_pretrained(SyncerPyramid, saved)
    assert back.config == CONFIG and not back.training
    expected = model.state_dict()
    assert back.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in back.state_dict().items())
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=name.split(".", maxsplit=1)[0]):
        from_pretrained(SyncerPyramid, saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files(saved: Path, name: str, share: float) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="`folder`"):
        from_pretrained(SyncerPyramid, saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_damaged_files(saved: Path, name: str) -> None:
    (saved / name).write_bytes(b"\xff\xfe" + (saved / name).read_bytes()[2:])
    with pytest.raises(CheckpointError, match="cannot be read"):
        from_pretrained(SyncerPyramid, saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "Other"}, "Other"),
        ({"format": FORMAT + 1}, "newer avsync"),
        ({"format": "1"}, "expected"),
        ({"config": None}, "do not fit"),
        ({"config": {"num_levels": 2}}, "missing"),
    ],
)
def test_wrong_descriptions(saved: Path, change: dict[str, object], message: str) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(SyncerPyramid, saved)


def test_weights_of_another_size(saved: Path) -> None:
    path = saved / "config.json"
    description = json.loads(path.read_text())
    for change in ({"num_levels": 3}, {"num_levels": 1}, {"syncer": description["config"]["syncer"] | {"width": 5}}):
        path.write_text(json.dumps(description | {"config": description["config"] | change}))
        with pytest.raises(CheckpointError, match="do not fit"):
            from_pretrained(SyncerPyramid, saved)


def test_not_an_object(saved: Path) -> None:
    (saved / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="expected"):
        from_pretrained(SyncerPyramid, saved)


def test_a_model_without_config(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`model`"):
        save_pretrained(nn.Linear(2, 2), tmp_path)


SYNCERS = shipped_models(MultiScaleSyncer)


@pytest.mark.parametrize(
    ("dtype", "bits", "tolerance"),
    [
        (torch.float16, 8, 1e-3),
        (torch.int8, 8, 1 / 127),
        (torch.int8, 7, 1 / 63),
        (torch.int8, 5, 1 / 15),
        (torch.int8, 2, 1.0),
    ],
)
def test_short_numbers_are_read_as_single_precision(
    saved: Path, tmp_path: Path, dtype: torch.dtype, bits: int, tolerance: float
) -> None:
    model = from_pretrained(SyncerPyramid, saved)
    save_pretrained(model, tmp_path / "short", dtype=dtype, bits=bits)
    back = from_pretrained(SyncerPyramid, tmp_path / "short")
    for name, value in back.state_dict().items():
        expected = model.state_dict()[name]
        assert value.dtype == torch.float32
        # Rounding is off by at most half a step, of 8 bits 1/127 of the row's largest; a better scale is off by less on the whole.
        rows, wanted = value.reshape(len(value), -1), expected.reshape(len(value), -1)
        most = tolerance / 2 * wanted.abs().amax(1) + 1e-3 * wanted.abs().amax()
        assert ((rows - wanted).square().mean(1).sqrt() <= most).all()
    stored = load_file(tmp_path / "short" / FILES[1])
    packed = {torch.uint8, torch.int64} if bits < 8 else {dtype}
    assert {value.dtype for value in stored.values()} == {torch.float16} | packed
    assert json.loads((tmp_path / "short" / FILES[0]).read_text())["format"] == (2 if bits < 8 else 1)


@pytest.mark.parametrize(("bits", "dtype"), [(1, torch.int8), (9, torch.int8), (7, torch.float16), (7, None)])
def test_impossible_bits(saved: Path, tmp_path: Path, bits: int, dtype: torch.dtype | None) -> None:
    with pytest.raises(ArgumentError, match="`bits`: expected 2 to 8"):
        save_pretrained(from_pretrained(SyncerPyramid, saved), tmp_path / "short", dtype=dtype, bits=bits)


@given(data=st.data(), bits=st.integers(2, 8))
def test_packed_numbers_come_back(data: st.DataObject, bits: int) -> None:
    largest = 2 ** (bits - 1) - 1
    numbers = data.draw(st.lists(st.integers(-largest, largest), min_size=1, max_size=40))
    packed = pack(torch.tensor(numbers, dtype=torch.int8), bits)
    assert packed.numel() == math.ceil(bits * len(numbers) / 8)
    assert unpack(packed, bits, len(numbers)).tolist() == numbers


@pytest.mark.parametrize("shape", [[7, 3], [7, -1, 3], [7, 10**6, 10**6], [0, 1, 3], [9, 4, 2, 5], []])
def test_damaged_packing(saved: Path, tmp_path: Path, shape: list[int]) -> None:
    save_pretrained(from_pretrained(SyncerPyramid, saved), tmp_path / "short", dtype=torch.int8, bits=7)
    path = tmp_path / "short" / FILES[1]
    stored = load_file(path)
    name = next(key for key in stored if key.endswith(":packed"))
    save_file(stored | {name: torch.tensor(shape)}, path)
    with pytest.raises(CheckpointError, match="`folder`"):
        from_pretrained(SyncerPyramid, tmp_path / "short")


def test_rows_of_zeros_stay_zeros(tmp_path: Path) -> None:
    model = SyncerPyramid(config=CONFIG)
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    save_pretrained(model, tmp_path, dtype=torch.int8)
    assert not any(value.any() for value in from_pretrained(SyncerPyramid, tmp_path).parameters())


def test_what_ships_is_small_and_described() -> None:
    assert {"landmarks68-25fps", "landmarks68-25fps-judge", "landmarks68-25fps-ensemble"} <= set(SYNCERS)
    files = [path for path in WEIGHTS.rglob("*") if path.is_file() and path.suffix != ".py"]
    assert sum(path.stat().st_size for path in files) < 20e6
    for name in shipped_models():
        card = (WEIGHTS / name / "README.md").read_text(encoding="utf-8")
        assert card.startswith(f"# {name}\n")
        assert "## Data" in card


@pytest.mark.parametrize("name", SYNCERS)
def test_shipped_syncers_guide_and_judge(name: str) -> None:
    loss = MultiScaleSyncLoss.from_pretrained(name)
    landmarks = torch.rand(1, 40, 68, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    waveform = torch.rand(1, 40 * 640, generator=torch.Generator().manual_seed(1)) - 0.5
    loss(landmarks, waveform).total.backward()
    assert landmarks.grad is not None
    assert torch.isfinite(landmarks.grad).all() and landmarks.grad.abs().sum() > 0
    calibration = load_calibration(model_folder(name) / "calibration.json")
    assert len(calibration.levels) == loss.num_levels


def test_the_shipped_pyramid_finds_the_offset_of_a_talker_it_has_never_seen() -> None:
    """The synthetic talker is nobody the weights have learned from; its sound shifted by 3 frames is reported as 3 frames."""
    pyramid = from_pretrained(SyncerPyramid, "landmarks68-25fps")
    clips = [SyntheticCorpus(split="val", speakers=2, clips_per_speaker=1, seconds=12.0)[i] for i in range(2)]
    features = pyramid.speech_features()
    assert features is not None
    for clip in clips:
        sound = features(torch.from_numpy(clip.waveform)[None])
        for shift in (-3, 0, 3):
            # The clip is cut from the middle, its sound `shift` frames away: a later part of the sound is a sound that is early.
            audio = sound[:, 4 * (100 + shift - 40) : 4 * (180 + shift + 40)]
            landmarks = torch.from_numpy(clip.landmarks)[None, 100:180]
            found = multi_scale_offset(pyramid, landmarks, audio, margin=40)[0]
            assert abs(int(found.offset_frames) - shift) <= 1


def test_names_that_are_nothing_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"one of .*'landmarks68-25fps'.* got 'landmarks68'"):
        from_pretrained(SyncerPyramid, "landmarks68")
    with pytest.raises(ArgumentError, match=r"`revision`: expected None"):
        from_pretrained(SyncerPyramid, tmp_path, revision="main")


HUB_SCRIPT = """
import sys
from avsync import SyncerPyramid, from_pretrained
from avsync.errors import CheckpointError
print(from_pretrained(SyncerPyramid, "someone/lips", revision="v1").num_levels)
try:
    from_pretrained(SyncerPyramid, "someone/else")
except CheckpointError as error:
    print("someone/else" in str(error))
"""


def test_models_of_the_hub_are_read_through_its_own_cache(saved: Path, tmp_path: Path) -> None:
    """The real huggingface_hub, offline, over a cache laid out as it lays out its downloads."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--lips"
    shutil.copytree(saved, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(commit)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub"), "PYTHONPATH": str(Path.cwd())}
    run = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT], capture_output=True, text=True, env=environment, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["2", "True"]
