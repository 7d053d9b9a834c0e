"""Models on disk: what is read is what was written, and every kind of damage is a CheckpointError."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import random
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.errors import ArgumentError, CheckpointError
from avsync.evaluation.syncnet import SyncNet
from avsync.losses import MotionPrior
from avsync.losses.sync import MultiScaleSyncLoss
from avsync.metrics import Calibration, LevelCalibration, load_calibration, multi_scale_offset, save_calibration
from avsync.models import MultiScaleGenerator, SyncerEnsemble
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pretrained import (
    CALIBRATION,
    FILES,
    FORMAT,
    WEIGHTS,
    _one_writer,
    from_pretrained,
    model_folder,
    pretrained_models,
    save_pretrained,
    stored_checksum,
)

CONFIG = SyncerPyramidConfig(
    syncer=SyncerConfig(audio_features=3, points=4, width=4, embed=2), num_levels=2, reference="mean", audio="custom"
)
CERTAIN = Calibration((LevelCalibration(scale=20.0, power=0.5, match_bias=-3.0, match_weights=(0.5, 0.0, 1.0)),) * 2)


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
    back = SyncerPyramid.from_pretrained(saved)
    assert back.config == CONFIG and not back.training
    expected = model.state_dict()
    assert back.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in back.state_dict().items())
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_missing_files(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=name.split(".", maxsplit=1)[0]):
        SyncerPyramid.from_pretrained(saved)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files(saved: Path, name: str, share: float) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="`folder`"):
        SyncerPyramid.from_pretrained(saved)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(saved: Path, name: str) -> None:
    (saved / name).write_bytes(b"\xff\xfe" + (saved / name).read_bytes()[2:])
    with pytest.raises(CheckpointError, match="cannot be read"):
        SyncerPyramid.from_pretrained(saved)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("name", [*FILES, CALIBRATION])
def test_flipped_bits_are_refused(saved: Path, name: str) -> None:
    """A flip that leaves another model or calibration is refused; one that changes no value, as in a blank, may pass."""
    save_calibration(CERTAIN, saved / CALIBRATION)
    whole = SyncerPyramid.from_pretrained(saved).state_dict()
    size, refused = 8 * (saved / name).stat().st_size, 0
    bits = torch.randperm(size, generator=torch.Generator().manual_seed(0))[:60].tolist()
    for bit in bits:
        flip(saved / name, bit)
        try:
            back = SyncerPyramid.from_pretrained(saved)
            assert load_calibration(saved / CALIBRATION, syncers=back) == CERTAIN
        except CheckpointError:
            refused += 1
        else:
            assert all(torch.equal(value, whole[key]) for key, value in back.state_dict().items())
        flip(saved / name, bit)
    assert refused > (55 if name == FILES[1] else 40)


def legacy(folder: Path, **change: object) -> None:
    """Rewrite a folder as older versions wrote it: format 1, no checksums."""
    path = folder / FILES[0]
    description = json.loads(path.read_text())
    del description["weights"]
    path.write_text(json.dumps(description | {"format": 1} | change))
    save_file(load_file(folder / FILES[1]), folder / FILES[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "Other"}, "Other"),
        ({"format": FORMAT + 1}, "newer avsync"),
        ({"format": 2}, "read the model with the avsync that wrote it"),
        ({"format": "1"}, "expected"),
        ({"config": None}, "do not fit"),
        ({"config": {"num_levels": 2}}, "missing"),
        ({"config": [[]]}, "do not fit"),
    ],
)
def test_wrong_descriptions(saved: Path, change: dict[str, object], message: str) -> None:
    legacy(saved, **change)
    with pytest.raises(CheckpointError, match=message):
        SyncerPyramid.from_pretrained(saved)


def test_a_config_that_was_edited_is_refused(saved: Path) -> None:
    path = saved / FILES[0]
    description = json.loads(path.read_text())
    path.write_text(json.dumps(description | {"config": description["config"] | {"reference": "first"}}))
    with pytest.raises(CheckpointError, match="is not the config that the weights next to it were saved with"):
        SyncerPyramid.from_pretrained(saved)


def test_models_of_older_versions_are_read(saved: Path) -> None:
    new = SyncerPyramid.from_pretrained(saved)
    legacy(saved)
    old = SyncerPyramid.from_pretrained(saved)
    assert old.config == new.config and old.weights_checksum is None
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in old.state_dict().items())


def test_weights_of_another_size(saved: Path) -> None:
    config = json.loads((saved / FILES[0]).read_text())["config"]
    legacy(saved)
    for change in ({"num_levels": 3}, {"num_levels": 1}, {"syncer": config["syncer"] | {"width": 5}}):
        description = json.loads((saved / FILES[0]).read_text())
        (saved / FILES[0]).write_text(json.dumps(description | {"config": config | change}))
        with pytest.raises(CheckpointError, match="do not fit"):
            SyncerPyramid.from_pretrained(saved)


SIZES = """
import json, resource, sys
from pathlib import Path
from avsync import SyncerPyramid
from avsync.errors import CheckpointError
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
path = Path(sys.argv[1], "config.json")
whole = json.loads(path.read_text())
for name in ("num_levels", "width", "frame_blocks", "window_blocks", "embed", "points", "window", "audio_stride", "audio_context"):
    for size in (10**5, 10**7, 10**9, 10**12, 10**30):
        description = json.loads(json.dumps(whole))
        holder = description["config"] if name == "num_levels" else description["config"]["syncer"]
        holder[name] = size
        path.write_text(json.dumps(description))
        try:
            SyncerPyramid.from_pretrained(sys.argv[1])
        except CheckpointError:
            print(name, size)
"""


def test_sizes_are_compared_with_the_weights_before_anything_is_built(saved: Path) -> None:
    """Neither time nor memory runs out, whatever size the config states."""
    legacy(saved)
    run = subprocess.run([sys.executable, "-c", SIZES, str(saved)], check=False, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0 and len(run.stdout.splitlines()) == 45, run.stderr[-500:] + run.stdout


def mutated(value: object, chance: random.Random) -> object:
    """A copy of a JSON value with one of its parts replaced."""
    others = [None, True, -1, 0, 10**6, 10**400, 1e308, "", "x" * 100, [], [[]], {}, {"a": 1}, [1] * 9]
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        return {**value, key: mutated(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        return [*value[:place], mutated(value[place], chance), *value[place + 1 :]]
    return chance.choice(others)


def test_mutated_configs_give_our_errors_only(saved: Path) -> None:
    legacy(saved)
    path, chance = saved / FILES[0], random.Random(0)
    whole = json.loads(path.read_text())
    for _ in range(120):
        path.write_text(json.dumps(mutated(whole, chance)))
        with contextlib.suppress(CheckpointError):
            from_pretrained(saved)


def test_not_an_object(saved: Path) -> None:
    (saved / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="expected"):
        SyncerPyramid.from_pretrained(saved)


def test_a_model_without_config(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`model`"):
        save_pretrained(nn.Linear(2, 2), tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_not_saved(saved: Path, value: float) -> None:
    model = SyncerPyramid.from_pretrained(saved)
    next(model.parameters()).data.view(-1)[0] = value
    with pytest.raises(ArgumentError, match="`model`: expected finite weights"):
        save_pretrained(model, saved)
    next(model.parameters()).data.view(-1)[0] = 1e5
    with pytest.raises(ArgumentError, match=r"infinity in .* as torch.float16"):
        save_pretrained(model, saved, dtype=torch.float16)
    assert bool(next(SyncerPyramid.from_pretrained(saved).parameters()).isfinite().all())
    with pytest.raises(ArgumentError, match="`dtype`"):
        save_pretrained(model, saved, dtype=torch.int8)


PARTS = ("landmarks68-25fps", "landmarks68-25fps-mouth")


@pytest.fixture(scope="module")
def both() -> SyncerEnsemble:
    return SyncerEnsemble.of([SyncerPyramid.from_pretrained(name) for name in PARTS])


def test_shared_weights_are_named_and_not_repeated(both: SyncerEnsemble, tmp_path: Path) -> None:
    for folder, shared in (("whole", ()), ("some", PARTS[1:]), ("none", PARTS)):
        save_pretrained(both, tmp_path / folder, dtype=torch.float16, shared=shared)
    back = SyncerEnsemble.from_pretrained(tmp_path / "none")
    assert all(torch.equal(value, both.state_dict()[name]) for name, value in back.state_dict().items())
    assert {stored_checksum(tmp_path / folder) for folder in ("whole", "some", "none")} == {back.weights_checksum}
    assert len(load_file(tmp_path / "none" / FILES[1])) == 1, "safetensors 0.4 reads no file without tensors"
    assert all(name.startswith("pyramids.0.") for name in load_file(tmp_path / "some" / FILES[1]))


def test_a_model_trained_further_keeps_only_what_changed(tmp_path: Path) -> None:
    """With the audio encoders as they were, a file holds those of motion, and with other audio encoders nothing is shared."""
    pyramid = SyncerPyramid.from_pretrained(PARTS[0])
    for syncer in pyramid.syncers:
        for parameter in syncer.motion_encoder.parameters():
            parameter.data.add_(1.0)
    save_pretrained(pyramid, tmp_path / "some", dtype=torch.float16, shared=PARTS[:1])
    save_pretrained(pyramid, tmp_path / "whole", dtype=torch.float16)
    assert all(".motion_encoder." in name for name in load_file(tmp_path / "some" / FILES[1]))
    back, whole = (SyncerPyramid.from_pretrained(tmp_path / folder) for folder in ("some", "whole"))
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in back.state_dict().items())
    assert back.weights_checksum == whole.weights_checksum != SyncerPyramid.from_pretrained(PARTS[0]).weights_checksum
    for parameter in pyramid.parameters():
        parameter.data.add_(1.0)
    with pytest.raises(ArgumentError, match="`shared`: expected models whose stored weights are parts"):
        save_pretrained(pyramid, tmp_path / "none", dtype=torch.float16, shared=PARTS[:1])


def test_only_parts_can_be_shared(both: SyncerEnsemble, tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"`shared`: expected models whose stored weights are parts .* got 'landmarks68-25fps-mfcc'"
    ):
        save_pretrained(both, tmp_path, dtype=torch.float16, shared=("landmarks68-25fps-mfcc",))
    with pytest.raises(ArgumentError, match="`shared`: expected models whose stored weights are parts"):
        save_pretrained(both, tmp_path, shared=PARTS)  # float32 here, float16 in the package
    with pytest.raises(ArgumentError, match="`shared`: expected pretrained models of the package"):
        save_pretrained(both, tmp_path, dtype=torch.float16, shared=("someone/model",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("landmarks68-25fps-of-tomorrow", "has a part .* which this avsync does not have"),
        (
            "landmarks68-25fps-mfcc",
            "is damaged.*, or this avsync has other weights of landmarks68-25fps, landmarks68-25fps-mfcc",
        ),
        ("landmarks68-25fps", "expected each part of .* once, got 2 parts"),
    ],
)
def test_another_part_is_refused(both: SyncerEnsemble, tmp_path: Path, part: str, message: str) -> None:
    save_pretrained(both, tmp_path, dtype=torch.float16, shared=PARTS)
    path = tmp_path / FILES[1]
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata=metadata | {"parts": metadata["parts"].replace(PARTS[1], part)})
    with pytest.raises(CheckpointError, match=message):
        SyncerEnsemble.from_pretrained(tmp_path)


def test_a_calibration_of_other_weights_does_not_survive(saved: Path, tmp_path: Path) -> None:
    model = SyncerPyramid.from_pretrained(saved)
    save_calibration(CERTAIN, saved / CALIBRATION)
    old = (saved / CALIBRATION).read_bytes()
    save_pretrained(model, saved)
    assert load_calibration(saved / CALIBRATION) == CERTAIN  # the same weights
    save_pretrained(SyncerPyramid(config=CONFIG), saved)
    assert not (saved / CALIBRATION).exists()
    (saved / CALIBRATION).write_bytes(old)
    with pytest.raises(CheckpointError, match="fitted to other weights"):
        load_calibration(saved / CALIBRATION)
    with pytest.raises(CheckpointError, match="fitted to other weights"):
        load_calibration(saved / CALIBRATION, syncers=SyncerPyramid.from_pretrained(saved))
    (tmp_path / CALIBRATION).write_bytes(old)
    assert load_calibration(tmp_path / CALIBRATION, syncers=model) == CERTAIN
    (saved / CALIBRATION).write_text(json.dumps({"format": 1, "calibration": json.loads(old)["calibration"]}))
    with pytest.raises(CheckpointError, match="fitted to other weights"):
        load_calibration(saved / CALIBRATION)


SAVER = """
import sys, torch
from pathlib import Path
from avsync import SyncerPyramid, save_pretrained
from avsync.evaluation.syncnet import SyncNet
from avsync.metrics import Calibration, LevelCalibration, load_calibration, multi_scale_offset, save_calibration
from avsync.models import MultiScaleGenerator, SyncerEnsemble
models = [SyncerPyramid.from_pretrained(Path(sys.argv[1], name)) for name in "ab"]
scores = [load_calibration(Path(sys.argv[1], name, "calibration.json")) for name in "ab"]
print("ready", flush=True)
for i in range(1_000_000):
    save_pretrained(models[i % 2], Path(sys.argv[1], "model"))
    save_calibration(scores[i % 2], Path(sys.argv[1], "model", "calibration.json"))
"""


def of_one_save(folder: Path, expected: dict[str, torch.Tensor]) -> str:
    """Read a model and its calibration; fail if they are a mixture, return which of the two it is."""
    back = SyncerPyramid.from_pretrained(folder)
    name = back.config.reference
    assert all(bool((value == expected[name]).all()) for value in back.parameters())
    with contextlib.suppress(CheckpointError):  # missing, or known to be another's
        assert load_calibration(folder / CALIBRATION, syncers=back).levels[0].scale == float(expected[name])
    return str(name)


def two_models(folder: Path) -> dict[str, torch.Tensor]:
    """Save two models of the same shapes whose configs differ."""
    expected = {"first": torch.tensor(1.0), "mean": torch.tensor(2.0)}
    for name, (reference, value) in zip("ab", expected.items(), strict=True):
        model = SyncerPyramid(config=dataclasses.replace(CONFIG, reference=reference))
        for parameter in model.parameters():
            parameter.data.fill_(value)
        save_pretrained(model, folder / name)
        levels = (dataclasses.replace(CERTAIN.levels[0], scale=float(value)),) * 2
        save_calibration(Calibration(levels), folder / name / CALIBRATION)
    return expected


def saving(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SAVER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_concurrent_readers_and_a_killed_writer_never_get_a_mixture(tmp_path: Path) -> None:
    """`AVSYNC_KILLS` and `AVSYNC_LOADS` set how often; the default is a few of each."""
    expected, seen = two_models(tmp_path), set()
    for _ in range(int(os.environ.get("AVSYNC_KILLS", "1"))):
        writer = saving(tmp_path)
        try:
            while not (tmp_path / "model" / FILES[0]).exists():
                assert writer.poll() is None
            for _ in range(int(os.environ.get("AVSYNC_LOADS", "12"))):
                seen.add(of_one_save(tmp_path / "model", expected))
        finally:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
        of_one_save(tmp_path / "model", expected)
    assert seen == {"first", "mean"}
    save_pretrained(SyncerPyramid(config=CONFIG), tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == set(FILES)  # what killed writers left is swept


def test_two_writers_leave_all_files_of_one_of_them(tmp_path: Path) -> None:
    """Both save the same folder many times at once; every reader gets a model, and the last files belong together."""
    expected = two_models(tmp_path)
    writers = [saving(tmp_path), saving(tmp_path)]
    try:
        while not (tmp_path / "model" / FILES[0]).exists():
            assert [writer.poll() for writer in writers] == [None, None]
        seen = {of_one_save(tmp_path / "model", expected) for _ in range(int(os.environ.get("AVSYNC_LOADS", "20")))}
        with _one_writer(tmp_path / "model"):  # neither writes now
            written = json.loads((tmp_path / "model" / FILES[0]).read_text())
            assert written["weights"] == stored_checksum(tmp_path / "model")
            assert of_one_save(tmp_path / "model", expected) == written["config"]["reference"]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    assert seen == {"first", "mean"}


SYNCERS = pretrained_models(MultiScaleSyncer)


def test_float16_is_read_as_single_precision(saved: Path, tmp_path: Path) -> None:
    model = SyncerPyramid.from_pretrained(saved)
    save_pretrained(model, tmp_path / "short", dtype=torch.float16)
    back = SyncerPyramid.from_pretrained(tmp_path / "short")
    for name, value in back.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].half().float())
    assert {value.dtype for value in load_file(tmp_path / "short" / FILES[1]).values()} == {torch.float16}
    assert {value.dtype for value in load_file(saved / FILES[1]).values()} == {torch.float32}


def test_classes(saved: Path) -> None:
    assert isinstance(from_pretrained(saved), SyncerPyramid)
    assert isinstance(from_pretrained(saved, model_class=MultiScaleSyncer), SyncerPyramid)
    assert isinstance(MultiScaleSyncer.from_pretrained(saved), SyncerPyramid)
    for model_class in (MultiScaleGenerator, SyncerEnsemble, SyncNet):
        with pytest.raises(CheckpointError, match=rf"expected class '{model_class.__name__}'.* in .*, got 'SyncerPyramid'"):
            model_class.from_pretrained(saved)


@pytest.mark.parametrize("name", pretrained_models())
def test_every_pretrained_model_needs_no_class(name: str) -> None:
    model = from_pretrained(name)
    assert name in pretrained_models(type(model)) and not model.training
    # The prior holds mean squares of motion, most of them below the smallest number of float16.
    stored = torch.float32 if isinstance(model, MotionPrior) else torch.float16
    assert {value.dtype for value in load_file(WEIGHTS / name / FILES[1]).values()} <= {stored, torch.int64}


def test_pretrained_models_are_small_and_described() -> None:
    assert {"landmarks68-25fps", "landmarks68-25fps-judge", "landmarks68-25fps-ensemble"} <= set(SYNCERS)
    files = [path for path in WEIGHTS.rglob("*") if path.is_file() and path.suffix != ".py"]
    # The limit of the wheel is 80 MB, which compresses these files to about 80 % of their size.
    assert sum(len(zlib.compress(path.read_bytes(), 1)) for path in files) < 80e6  # as in a wheel
    for name in pretrained_models():
        card = (WEIGHTS / name / "README.md").read_text(encoding="utf-8")
        assert card.startswith(f"# {name}\n")
        assert "## Data" in card


def test_the_ensemble_is_its_members() -> None:
    ensemble = SyncerEnsemble.from_pretrained("landmarks68-25fps-ensemble")
    for member, name in zip(ensemble.pyramids, ("landmarks68-25fps", "landmarks68-25fps-mouth"), strict=True):
        alone = SyncerPyramid.from_pretrained(name).state_dict()
        assert all(torch.equal(value, alone[key]) for key, value in member.state_dict().items())


@pytest.mark.parametrize("name", SYNCERS)
def test_pretrained_syncers_guide_and_judge(name: str) -> None:
    loss = MultiScaleSyncLoss.from_pretrained(name)
    frames = max(40, loss.syncers.shortest_clip())
    landmarks = torch.rand(1, frames, 68, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    waveform = torch.rand(1, frames * 640, generator=torch.Generator().manual_seed(1)) - 0.5
    loss(landmarks, waveform).total.backward()
    assert landmarks.grad is not None
    assert torch.isfinite(landmarks.grad).all() and landmarks.grad.abs().sum() > 0
    calibration = load_calibration(model_folder(name) / "calibration.json")
    assert len(calibration.levels) == loss.num_levels


@pytest.mark.parametrize("name", SYNCERS)
def test_the_reference_values_of_a_loss_are_those_of_the_benchmark(name: str) -> None:
    """Every pretrained model has them, and prefers the own audio to another speaker's at its finest level."""
    found = MultiScaleSyncLoss.from_pretrained(name).reference_values
    results = json.loads((Path(__file__).parents[1] / "benchmarks/results/expected_values.json").read_text(encoding="utf-8"))
    measured = results["speakers"]["unseen real speakers"]["models"][name]
    assert found == {case: pytest.approx(numbers["mean"], abs=6e-4) for case, numbers in measured.items()}
    assert found["true pair"][0] < found["audio of another speaker"][0]


def test_other_syncers_have_no_reference_values() -> None:
    assert MultiScaleSyncLoss(syncers=SyncerPyramid(config=CONFIG)).reference_values == {}


def test_the_pretrained_pyramid_finds_the_offset_of_a_talker_it_has_never_seen() -> None:
    """The synthetic talker is nobody the weights have learned from; its sound shifted by 3 frames is reported as 3 frames."""
    pyramid = SyncerPyramid.from_pretrained("landmarks68-25fps")
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
        SyncerPyramid.from_pretrained("landmarks68")
    with pytest.raises(ArgumentError, match=r"`revision`: expected None"):
        SyncerPyramid.from_pretrained(tmp_path, revision="main")


HUB_SCRIPT = """
import sys
from avsync import SyncerPyramid
from avsync.errors import CheckpointError
print(SyncerPyramid.from_pretrained("someone/lips", revision="v1").num_levels)
try:
    SyncerPyramid.from_pretrained("someone/else")
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
        [sys.executable, "-c", HUB_SCRIPT], capture_output=True, text=True, env=environment, check=False, timeout=1200
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["2", "True"]
