"""``avsync evaluate``: values against their definitions, bounds, pairing of files, bad input, and what it writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from avsync.cli import main
from avsync.corpus.clip import Clip, write_clip, write_index
from avsync.corpus.media.files import write_audio
from avsync.corpus.synthetic.talker import synthetic_clip
from avsync.errors import ArgumentError, CorpusError
from avsync.evaluation.measures import AudioEmbeddings, set_distance, sync_curves
from avsync.evaluation.methods import Networks, evaluate
from avsync.evaluation.rows import BOUNDS, bound_motions, cut_segments, others
from avsync.evaluation.sources import Track, match_tracks, read_tracks, tracks_of_clips
from avsync.evaluation.tables import Cell, Measure, Table, best_row, cell, print_rich
from avsync.figures import save_figure
from avsync.figures.sync import evaluation_figures, read_history
from avsync.metrics.distance import landmark_distance
from avsync.metrics.frechet import frechet_distance, frechet_motion_distance
from avsync.metrics.multi_scale import multi_scale_offset
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pyramid import temporal_pyramid

FACE = synthetic_clip(seconds=0.08).landmarks[0]
LOWER_LIP = [55, 56, 57, 58, 59, 65, 66, 67]


class Loudness(nn.Module):
    """1 where there is sound, for each hundredth of a second."""

    def forward(self, waveform: Tensor) -> Tensor:
        return (waveform.unfold(1, 160, 160).abs().amax(dim=2, keepdim=True) > 0.05).float()


class OpenWhenLoud(SyncerPyramid):
    """Syncers that need no training: a window's embedding is how open the mouth is, or how loud the sound, frame by frame."""

    def __init__(self, levels: int = 2) -> None:
        super().__init__(
            config=SyncerPyramidConfig(
                syncer=SyncerConfig(width=8, embed=5, audio_features=1), num_levels=levels, audio="custom"
            )
        )

    def embed_motion(self, landmarks: Tensor, **_: Any) -> list[Tensor]:
        opening = landmarks[:, :, 66, 1] - landmarks[:, :, 62, 1]
        middle = (opening.amax(1, keepdim=True) + opening.amin(1, keepdim=True)) / 2
        return self._windows((opening > middle).float()[..., None])

    def embed_audio(self, audio: Tensor, **_: Any) -> list[Tensor]:
        return self._windows(audio.unflatten(1, (-1, 4))[:, :, 1:3].mean(dim=2))

    def _windows(self, track: Tensor) -> list[Tensor]:
        return [level.squeeze(2).unfold(1, 5, 1) - 0.3 for level in temporal_pyramid(track, self.num_levels)]


def talker(name: str, seed: int, *, frames: int = 120, speaker: str = "") -> Clip:
    """A mouth that opens whenever there is noise."""
    chance = np.random.default_rng(seed)
    active = chance.random(frames) < 0.3
    landmarks = np.repeat(FACE[None], frames, axis=0).copy()
    landmarks[np.ix_(active, LOWER_LIP, [1])] += 20.0
    landmarks += chance.normal(0, 0.05, landmarks.shape)
    sound = np.repeat(active, 640) * chance.uniform(-0.5, 0.5, 640 * frames)
    return Clip(name, speaker or name, "val", landmarks.astype(np.float32), sound.astype(np.float32))


CLIPS = [talker(f"clip{number}", number, speaker=f"speaker{number // 2}") for number in range(6)]
NETWORKS = Networks(syncers=OpenWhenLoud(), transform=Loudness())


def refs() -> dict[str, Track]:
    return tracks_of_clips(CLIPS)[0]


def silent(tracks: dict[str, Track], change: Any = lambda landmarks: landmarks) -> dict[str, Track]:
    """Predictions without sound."""
    return {name: Track(name, change(track.landmarks.copy())) for name, track in tracks.items()}


def write_preds(folder: Path, tracks: dict[str, Track], **extra: Any) -> Path:
    folder.mkdir(parents=True)
    for name, track in tracks.items():
        np.savez(folder / f"{name}.npz", landmarks=track.landmarks, **extra)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_index(folder, [write_clip(clip, folder) for clip in CLIPS])
    return folder


@pytest.fixture
def transparent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command ask syncers that need no training."""
    monkeypatch.setattr("avsync.cli._syncers.load_pyramid", lambda args: (OpenWhenLoud(), Loudness()))


def found_cell(result: dict[str, Any], row: str, measure: str, level: int | None = None) -> dict[str, Any]:
    [found] = [x for x in result["rows"] if (x["row"], x["measure"], x["level"]) == (row, measure, level)]
    return found


class TestRows:
    def test_bounds_are_where_they_must_be(self) -> None:
        found = evaluate(refs(), networks=NETWORKS, frames=40, shift=4)
        assert tuple(found.scores) == BOUNDS
        for level in (0, 1):
            truth = found.values("ground truth", "confidence", level)
            assert (found.values("ground truth", "offset", level) == 0).all()
            assert (found.values("shuffled", "confidence", level) < truth).all()
        later = [number for number, segment in enumerate(found.segments) if segment.start >= 40]
        assert (found.values("shifted", "offset", 0)[later] == 4).all()  # motion late, sound early
        assert (found.values("shifted", "offset", 1)[later] == 2).all()
        assert (found.values("shifted", "abs_offset_ms", 1)[later] == 160).all()
        assert (found.values("static", "speed") == 0).all()
        assert found.values("static", "mouth_correlation").isnan().all()
        assert any("mouth opening" in note for note in found.notes)  # what is missing is said
        assert torch.equal(found.motions["reversed"].flip(1), found.motions["ground truth"])

    def test_shuffled_never_keeps_a_speaker(self) -> None:
        chance = np.random.default_rng(0)
        for _ in range(50):
            groups = [f"s{number}" for number in chance.integers(0, 5, chance.integers(1, 30))]
            taken = others(groups)
            largest = max(groups.count(group) for group in groups)
            assert (taken is None) == (2 * largest > len(groups))
            if taken is not None:
                assert sorted(taken) == list(range(len(groups)))
                assert all(groups[number] != groups[other] for number, other in enumerate(taken))

    def test_shuffled_faces_keep_their_own_shape(self) -> None:
        segments, _ = cut_segments(refs(), frames=40, stride=40)
        motions, notes = bound_motions(refs(), segments, frames=40)
        assert not notes
        torch.testing.assert_close(motions["shuffled"][:, 0], motions["ground truth"][:, 0])

    def test_pieces_without_speech_are_listed(self) -> None:
        quiet = talker("quiet", 9)
        quiet.waveform[: 640 * 40] *= 1e-4
        segments, left_out = cut_segments(tracks_of_clips([quiet])[0], frames=40, stride=40, min_speech=0.1)
        assert [segment.start for segment in segments] == [40, 80]
        assert "frames 0 to 39: speech in 0%" in left_out[0].reason


class TestScores:
    def test_sync_of_a_piece_is_that_of_the_protocol(self) -> None:
        """A segment in the middle, whose search never runs out of sound, against the protocol on the clip cut with that margin."""
        torch.manual_seed(0)
        config = SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4, audio_features=1), num_levels=2, audio="custom")
        pyramid = SyncerPyramid(config=config).eval()
        tracks = {"clip0": refs()["clip0"]}
        segments, _ = cut_segments(tracks, frames=40, stride=40)
        motion = torch.from_numpy(tracks["clip0"].landmarks[40:80])[None]
        curves = sync_curves(motion, AudioEmbeddings(pyramid, Loudness(), max_offsets=(6, 3)), tracks, segments[1:2])
        audio = Loudness()(torch.from_numpy(CLIPS[0].waveform)[None])
        expected = multi_scale_offset(pyramid, motion, audio, margin=40, max_offsets=(6, 3))
        for mine, theirs in zip(curves, expected, strict=True):
            torch.testing.assert_close(mine.distances, theirs.distances)
            assert torch.equal(mine.offset_frames, theirs.offset_frames)

    def test_values_are_those_of_the_metrics(self) -> None:
        methods = {"noisy": silent(refs(), lambda x: x + np.random.default_rng(0).normal(0, 1, x.shape).astype(np.float32))}
        found = evaluate(refs(), methods, networks=NETWORKS, frames=40)
        truth, noisy = found.motions["ground truth"], found.motions["noisy"]
        expected = landmark_distance(noisy, truth, unit="face", reduction="none")
        torch.testing.assert_close(found.values("noisy", "lmd"), expected.double())
        number = next(k for k, measure in enumerate(found.table.measures) if measure.key == "frechet_motion")
        with pytest.warns(UserWarning, match="biased upwards"):
            distance = float(frechet_motion_distance(noisy, truth))
        assert found.table.cells["noisy"][number].estimate == pytest.approx(distance, rel=1e-6)
        assert any("biased upwards" in note for note in found.notes)

    def test_frechet_interval_is_no_wider_for_more_clips_and_covers_the_estimate(self) -> None:
        generator = torch.Generator().manual_seed(0)
        truth, motion = (torch.randn(400, 4, 1, 2, generator=generator) for _ in range(2))
        groups = [str(number) for number in range(400)]
        widths = []
        for count in (60, 400):
            found, note = set_distance(nn.Flatten(), motion[:count] + 0.5, truth[:count], groups[:count])
            assert note is None
            assert found.low is not None and found.high is not None and found.estimate is not None
            assert found.low < found.estimate < found.high
            widths.append(found.high - found.low)
        assert widths[1] < 0.7 * widths[0]

    def test_resampling_everything_once_is_the_distance_itself(self) -> None:
        """The resampled statistics are put together from those of groups: with one draw of each group they are the set's own."""
        from avsync.evaluation import measures

        generator = torch.Generator().manual_seed(1)
        sets = [torch.randn(30, 5, generator=generator).double() + 3 for _ in range(2)]

        class Each:
            @staticmethod
            def randint(number: int, size: tuple[int, int], **_: Any) -> Tensor:
                return torch.arange(number).expand(size)

            def __getattr__(self, name: str) -> Any:
                return getattr(torch, name)

        original, measures.torch = measures.torch, Each()  # type: ignore[attr-defined, assignment]
        try:
            found = measures._resampled(sets, [number % 4 for number in range(10)], 1)
        finally:
            measures.torch = original  # type: ignore[attr-defined]
        assert float(found) == pytest.approx(float(frechet_distance(*sets)), rel=1e-9)

    def test_a_prediction_has_its_own_sound_if_it_has_one(self) -> None:
        late = {name: Track(name, track.landmarks, np.roll(track.waveform, 1280)) for name, track in refs().items() if track.waveform is not None}  # fmt: skip
        own = evaluate(refs(), {"late": late}, networks=NETWORKS, frames=40)
        assert (own.values("late", "offset", 0) == -2).all()
        other = evaluate(refs(), {"late": late}, networks=NETWORKS, frames=40, audio_from="refs")
        assert (other.values("late", "offset", 0) == 0).all()


class TestPairs:
    def test_what_does_not_fit_is_left_out_with_its_reason(self) -> None:
        real = refs()
        preds = silent(real)
        preds["extra"] = preds.pop("clip0")
        preds["clip1"] = Track("clip1", preds["clip1"].landmarks[:, :60])
        preds["clip2"] = Track("clip2", preds["clip2"].landmarks[:50])
        preds["clip3"] = Track("clip3", preds["clip3"].landmarks[:119])
        kept, left_out = match_tracks(real, preds, row="mine")
        reasons = {entry.id: entry.reason for entry in left_out}
        assert sorted(kept) == ["clip3", "clip4", "clip5"]
        assert sorted(reasons) == ["clip0", "clip1", "clip2", "extra"]
        assert "60" in reasons["clip1"] and "50" in reasons["clip2"]
        assert sorted(match_tracks(real, preds, row="mine", cut=True)[0]) == ["clip2", "clip3", "clip4", "clip5"]

    def test_all_rows_have_the_same_segments(self) -> None:
        some = {name: track for name, track in silent(refs()).items() if name != "clip0"}
        short = {name: Track(name, track.landmarks[:60]) for name, track in silent(refs()).items()}
        found = evaluate(refs(), {"some": some, "short": short}, networks=NETWORKS, frames=40, cut=True, min_speech=0)
        assert {(segment.id, segment.start) for segment in found.segments} == {(f"clip{number}", 0) for number in range(1, 6)}
        assert any(entry.row == "short" and entry.id == "clip0" for entry in found.left_out)
        assert any(entry.row == "some" and "no such segment" in entry.reason for entry in found.left_out)
        assert all(scores.values.shape[1] == 5 for scores in found.scores.values())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"frames": 4}, "`frames`"),
            ({"frames": 40, "stride": 3}, "`stride`"),
            ({"frames": 500}, "at least 500 frames, got 120"),
            ({"audio_from": "both"}, "`audio_from`"),
            ({"methods": {"static": {}}}, "`methods`"),
            ({"methods": {"mine": {}}}, "no prediction has this name"),
        ],
    )
    def test_impossible_requests(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ArgumentError, match=message):
            evaluate(refs(), networks=NETWORKS, **options)

    def test_one_clip_has_values_and_no_intervals(self) -> None:
        found = evaluate({"clip0": refs()["clip0"]}, networks=NETWORKS, frames=120)
        assert "shuffled" not in found.scores
        first = found.table.cells["ground truth"][0]
        assert first.estimate is not None and first.low is None and first.clips == 1
        assert any("one speaker" in note for note in found.notes)

    def test_constant_predictions_have_documented_values(self) -> None:
        still = silent(refs(), lambda x: np.repeat(x[:1], len(x), axis=0))
        found = evaluate(refs(), {"still": still}, networks=NETWORKS, frames=40)
        assert (found.values("still", "speed") == 0).all()
        assert found.values("still", "confidence", 0).isfinite().all()


class TestReading:
    def test_folders_of_npz(self, tmp_path: Path) -> None:
        good = talker("good", 3, frames=50)
        np.savez(tmp_path / "good.npz", landmarks=good.landmarks.astype(np.float64), fps=25)
        write_audio(tmp_path / "good.flac", good.waveform[:-100], sample_rate=16000)
        bad: dict[str, Any] = {
            "nan": {"landmarks": np.full((50, 68, 2), np.nan)},
            "rate": {"landmarks": good.landmarks, "fps": 0},
            "empty": {"other": good.landmarks},
            "flat": {"landmarks": good.landmarks[:, :, 0]},
            "objects": {"landmarks": np.array([None, {}])},
            "words": {"landmarks": np.array(["a"])},
        }
        for name, arrays in bad.items():
            np.savez(tmp_path / f"{name}.npz", **arrays)
        (tmp_path / "torn.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:300])
        np.savez(tmp_path / "long.npz", landmarks=good.landmarks[:20])
        write_audio(tmp_path / "long.flac", good.waveform, sample_rate=16000)
        tracks, left_out = read_tracks(tmp_path, row="mine")
        assert list(tracks) == ["good"]
        assert tracks["good"].waveform is not None and tracks["good"].waveform.size == 640 * 50
        assert {entry.id for entry in left_out} == {*bad, "torn", "long"}
        assert {entry.row for entry in left_out} == {"mine"}

    def test_no_folder_and_no_files(self, tmp_path: Path) -> None:
        with pytest.raises(CorpusError, match="expected a folder"):
            read_tracks(tmp_path / "none")
        with pytest.raises(CorpusError, match="found neither"):
            read_tracks(tmp_path)


class TestTables:
    def test_cells(self) -> None:
        values = [0.0, 1.0, 2.0, float("nan")]
        found = cell(values, ["a", "b", "c", "d"])
        assert found.estimate == 1.0 and found.clips == 3
        assert found.low is not None and found.high is not None and found.low < 1.0 < found.high
        assert cell([float("nan")], ["a"]) == Cell(None, None, None, 0)

    def test_the_best_method(self) -> None:
        def table(better: str) -> Table:
            rows = {"truth": -0.1, "a": -3.0, "b": 2.0}
            measure = Measure("x", "x", better, "", "s")
            return Table((measure,), {row: (Cell(value, None, None, 1),) for row, value in rows.items()})

        best = {better: best_row(table(better), 0, ["truth"]) for better in ("lower", "higher", "zero", "truth")}
        assert best == {"lower": "a", "higher": "b", "zero": "b", "truth": None}

    def test_rich(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_rich(Table((Measure("x", "x", "lower", "", "Section"),), {"a": (Cell(0.5, None, None, 1),)}))
        assert "0.500" in capsys.readouterr().out


@pytest.mark.usefixtures("transparent")
class TestCommand:
    def run(self, *words: object) -> int:
        options = ["--frames", "40", "--min-speech", "0", "--resamples", "50", "--no-parts"]
        return main(["evaluate", *options, *map(str, words)])

    def test_samples_and_parts(self, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        chance = np.random.default_rng(0)
        noise = [write_preds(tmp_path / str(n), silent(refs(), lambda x: x + chance.normal(0, 9, x.shape))) for n in range(3)]
        same = write_preds(tmp_path / "same", silent(refs()))
        words = ["--refs", corpus, "--preds", f"noisy={noise[0]}", "--preds", f"same={same}", "--json", "-", "--quiet"]
        words += [f"--samples=noisy={noise[1]}", f"--samples=noisy={noise[2]}", f"--samples=same={same}"]
        parts = [f"--{part}-syncers=landmarks68-25fps-judge" for part in ("mouth", "head")]  # the smallest with four levels
        command = ["evaluate", "--frames", "40", "--min-speech", "0", "--resamples", "20", *parts, *map(str, words)]
        assert main(command) == 0
        result = json.loads(capsys.readouterr().out)
        assert found_cell(result, "same", "seed_spread")["estimate"] == 0
        spread = found_cell(result, "noisy", "seed_spread")["estimate"]
        assert 0.5 < spread < 1, "white noise: the distance from the mean is 1 / sqrt(2) of that from the first frame"
        assert found_cell(result, "static", "seed_spread")["estimate"] is None
        assert result["settings"]["samples"] == {"noisy": 3, "same": 2}
        for level in range(4):
            mouth = found_cell(result, "same", "confidence_mouth", level)["estimate"]
            assert mouth == found_cell(result, "same", "confidence_head", level)["estimate"]
            assert mouth > found_cell(result, "static", "confidence_mouth", level)["estimate"]

    def test_everything_is_written(self, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        mine = write_preds(tmp_path / "mine", silent(refs()))
        worse = write_preds(tmp_path / "b", silent(refs(), lambda x: np.roll(x, 3, axis=0)))
        history = tmp_path / "metrics.csv"
        history.write_text("step,name,value\n0,confidence0,0.1\n0,confidence1,0.1\n9,confidence0,0.2\n9,confidence1,0.3\n")
        out = tmp_path / "out"
        words = ("--refs", corpus, "--preds", mine, "--preds", f"worse={worse}", "--out", out, "--history", f"run={history}")
        assert self.run(*words, "--level-of-detail", "clips", "--plain", "--json", tmp_path / "again.json") == 0
        printed = capsys.readouterr()
        assert "Synchrony, level 0" in printed.out and "mine" in printed.out and "left out" not in printed.err
        assert (out / "table.txt").read_text() == printed.out
        result = json.loads((out / "results.json").read_text())
        assert result == json.loads((tmp_path / "again.json").read_text())
        assert (result["segments"], result["clips"], result["speakers"]) == (18, 6, 3)
        assert found_cell(result, "mine", "offset", 0)["estimate"] == 0
        late = found_cell(result, "worse", "offset", 0)
        assert late["estimate"] == pytest.approx(3, abs=0.7) and late["unit"] == "frames" and late["better"] == "zero"
        assert found_cell(result, "mine", "lmd")["estimate"] == 0
        with (out / "results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(result["rows"])
        assert {row["row"] for row in rows} == {*BOUNDS, "mine", "worse"}
        with (out / "clips.csv").open(newline="") as file:
            values = [
                float(row["value"]) for row in csv.DictReader(file) if row["row"] == "worse" and row["measure"] == "speed"
            ]
        assert np.mean(values) == pytest.approx(found_cell(result, "worse", "speed")["estimate"])
        figures = {path.stem for path in (out / "figures").glob("*.png")}
        assert {"offsets", "confidence", "training"} < figures and sum(name.startswith("faces") for name in figures) == 2

    def test_what_is_left_out_is_told_and_strict_fails(
        self, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        some = {name: track for name, track in silent(refs()).items() if name != "clip3"}
        mine = write_preds(tmp_path / "mine", some)
        assert self.run("--refs", corpus, "--preds", mine, "--json", "-") == 0
        printed = capsys.readouterr()
        assert "left out: mine, clip3: no prediction has this name" in printed.err
        entry = {"row": "mine", "id": "clip3", "reason": "no prediction has this name"}
        assert entry in json.loads(printed.out)["left_out"]
        assert self.run("--refs", corpus, "--preds", mine, "--json", "-", "--strict") == 1

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--refs", "nowhere"), "expected a folder, found none"),
            (("--preds", "a=x", "--preds", "a=y"), "every name once"),
            (("--preds", "static={preds}"), "names other than those of the bounds"),
            (("--split", "test"), "`--split`"),
            (("--history", "x"), "--figures"),
            (("--frames", "900"), "at least one segment"),
            (("--inception", "nowhere.pth"), "nowhere.pth"),
            (("--i3d", "nowhere.pt"), "nowhere.pt"),
            (("--samples", "x={preds}"), "a name of --preds"),
        ],
    )
    def test_bad_requests_end_in_one_line(
        self, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
    ) -> None:
        preds = write_preds(tmp_path / "preds", silent(refs()))
        given = [word.format(preds=preds) for word in words]
        assert self.run("--refs", corpus, *given) == 1
        [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert message in line

    def test_without_syncers_the_rest_is_measured(self, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run("--refs", corpus, "--no-sync", "--json", "-", "--level-of-detail", "summary") == 0
        result = json.loads(capsys.readouterr().out)
        assert all(row["level"] is None for row in result["rows"])
        assert found_cell(result, "reversed", "lmd")["estimate"] > 0


def test_networks_of_the_user_give_fid_and_fvd() -> None:
    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(-2).mean(-1).flatten(1)[:, :6]

    few, _ = tracks_of_clips([talker("a", 0, frames=84), talker("b", 1, frames=84)])
    found = evaluate(few, networks=Networks(inception=Mean(), i3d=Mean()), frames=84, min_speech=0)
    keys = [measure.key for measure in found.table.measures]
    assert keys[-6:] == ["frechet_motion", "frechet_motion_last", "fid", "t_fid", "fvd_40", "fvd_80"]
    # FID and t-FID see the last 40 frames only, as in the paper's Table 2.
    early = {name: Track(name, np.concatenate([track.landmarks[:1].repeat(44, 0), track.landmarks[44:]])) for name, track in few.items()}  # fmt: skip
    again = evaluate(few, {"early": early}, networks=Networks(inception=Mean(), i3d=Mean()), frames=84, min_speech=0)
    row = {measure.key: found for measure, found in zip(again.table.measures, again.table.cells["early"], strict=True)}
    assert all(row[key].estimate == pytest.approx(0, abs=1e-9) for key in ("fid", "t_fid", "fvd_40", "frechet_motion_last"))
    assert (row["frechet_motion"].estimate or 0) > 1
    cells = dict(zip(keys, found.table.cells["static"], strict=True))
    assert all((cells[key].estimate or 0) >= 0 and cells[key].clips == 2 for key in keys[-4:])
    truth = dict(zip(keys, found.table.cells["ground truth"], strict=True))
    assert truth["fid"].estimate == pytest.approx(0, abs=1e-9)


def test_histories(tmp_path: Path) -> None:
    for name, text in (("a.json", "[1, 2]"), ("b.json", "{"), ("metrics.csv", "no,columns\n"), ("c.json", '{"a": [1]}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(ArgumentError, match="`history`"):
            read_history(tmp_path / name)
    with pytest.raises(ArgumentError, match="found none"):
        read_history(tmp_path / "nothing")


def test_figures_show_methods_under_the_truth(tmp_path: Path) -> None:
    found = evaluate(refs(), {"mine": silent(refs())}, networks=NETWORKS, frames=40)
    figures = evaluation_figures(found)
    faces = [name for name in figures if name.startswith("faces")]
    assert len(faces) == 2
    labels: npt.NDArray[Any] = np.array([axes.get_ylabel() for axes in figures[faces[0]].axes])
    assert [label for label in labels if label] == ["ground truth", "mine"]
    save_figure(figures["confidence"], tmp_path / "c.png")


def test_names_of_extracted_clips_match_without_the_digits_of_their_files() -> None:
    face = np.ones((50, 68, 2), np.float32)

    def tracks(*names: str) -> dict[str, Track]:
        return {name: Track(name, face) for name in names}

    refs = tracks("anna-1203ad76_000", "anna-1203ad76_001", "bob")
    kept, left_out = match_tracks(refs, tracks("anna-99999999_000", "anna-99999999_001", "bob"), row="mine")
    assert sorted(kept) == sorted(refs) and not left_out
    # Two videos of one name: nobody can say which is meant.
    refs = tracks("anna-11111111_000", "anna-22222222_000")
    kept, left_out = match_tracks(refs, tracks("anna-33333333_000", "anna-22222222_000"), row="mine")
    assert list(kept) == ["anna-22222222_000"] and len(left_out) == 2
