"""Face tracks: who is who, when a track ends and why, and which are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsync.corpus.extraction.tracks import Chosen, FaceTrack, FaceTracker, choose_tracks, split_long
from avsync.errors import ArgumentError, ShapeError

Face = npt.NDArray[np.float32]
SHAPE = np.random.default_rng(0).uniform(-0.5, 0.5, (68, 2))
SHAPE[0], SHAPE[8] = (-0.5, -0.5), (0.5, 0.5)


def face(x: float, y: float = 0.0, side: float = 100.0) -> Face:
    return (SHAPE * side + np.array([x, y])).astype(np.float32)


def follow(
    frames: Sequence[Sequence[Face] | None], *, fps: float = 25.0, cuts: Sequence[int] = (), tracker: FaceTracker | None = None
) -> list[FaceTrack]:
    tracker = tracker or FaceTracker()
    found = [track for k, faces in enumerate(frames) for track in tracker.push(k / fps, _array(faces), cut=k in cuts)]
    return sorted(found + tracker.finish(), key=lambda track: (track.times[0], track.points[0, 0, 0]))


def _array(faces: Sequence[Face] | None) -> npt.NDArray[np.float32] | None:
    return None if faces is None else np.array(faces, np.float32)


def spans(tracks: Sequence[FaceTrack], fps: float = 25.0) -> list[tuple[int, int, str, str]]:
    """First and last image of each track, and its reasons."""
    return [(round(t.times[0] * fps), round(t.times[-1] * fps), t.started, t.ended) for t in tracks]


def test_one_face_is_one_track_and_keeps_every_point() -> None:
    frames = [[face(100 + 2 * k)] for k in range(50)]
    (track,) = follow(frames)
    assert spans([track]) == [(0, 49, "start of video", "end of video")]
    np.testing.assert_array_equal(track.points, np.concatenate(frames))
    np.testing.assert_allclose(track.times, np.arange(50) / 25)
    assert track.points.dtype == np.float32 and track.times.dtype == np.float64
    assert track.seconds == pytest.approx(1.96) and track.height == pytest.approx(100)
    # 2 pixels an image are 50 a second, half a face.
    assert track.speed == pytest.approx(0.5, rel=1e-3)


def test_a_cut_ends_every_track_and_begins_new_ones() -> None:
    frames = [[face(100), face(500)]] * 20
    assert spans(follow(frames, cuts=[12])) == [
        (0, 11, "start of video", "scene cut"),
        (0, 11, "start of video", "scene cut"),
        (12, 19, "scene cut", "end of video"),
        (12, 19, "scene cut", "end of video"),
    ]
    # A cut at the very first image ends nothing and is the start all the same.
    assert spans(follow(frames, cuts=[0]))[0] == (0, 19, "start of video", "end of video")


@pytest.mark.parametrize(
    ("fps", "bridged"), [(25.0, 3), (30.0, 3), (24.0, 3), (50.0, 6), (60.0, 7), (12.0, 1), (8.0, 1), (7.0, 0)]
)
def test_an_absence_of_up_to_0_13_s_is_bridged_at_any_rate(fps: float, bridged: int) -> None:
    for missing, whole in ((bridged, True), (bridged + 1, False)):
        frames: list[list[Face] | None] = [[face(0)]] * 10 + [None] * missing + [[face(0)]] * 10
        tracks = follow(frames, fps=fps)
        if whole:
            assert spans(tracks, fps) == [(0, 19 + missing, "start of video", "end of video")]
            assert len(tracks[0].times) == 20
        else:
            assert spans(tracks, fps) == [
                (0, 9, "start of video", "face lost"),
                (10 + missing, 19 + missing, "face found", "end of video"),
            ]


def test_a_face_missing_at_the_end_or_at_a_cut_was_lost_before() -> None:
    frames: list[list[Face] | None] = [[face(0)]] * 10 + [None] * 2
    assert spans(follow(frames)) == [(0, 9, "start of video", "face lost")]
    assert spans(follow([*frames, [face(0)]], cuts=[12]))[0] == (0, 9, "start of video", "face lost")


@pytest.mark.parametrize("fps", [12.0, 25.0, 60.0])
def test_a_jump_of_place_or_size_splits_and_fast_motion_does_not(fps: float) -> None:
    step = 4.5 * 100 / fps
    assert len(follow([[face(step * k)] for k in range(30)], fps=fps)) == 1
    assert len(follow([[face(0, side=100 * np.exp(4.5 * k / fps))] for k in range(int(fps / 4))], fps=fps)) == 1
    beyond = 100 * (0.05 + 5.0 / fps) * 1.05
    expected = [(0, 9, "start of video", "jump"), (10, 19, "jump", "end of video")]
    assert spans(follow([[face(0)]] * 10 + [[face(beyond)]] * 10, fps=fps), fps) == expected
    for growth in (0.05 + 5.0 / fps) * 1.05, -(0.05 + 5.0 / fps) * 1.05:
        # The centre must stay: the shape's own mean is not at its origin.
        large = face(0, side=100 * float(np.exp(growth)))
        moved = large + (face(0).mean(axis=0) - large.mean(axis=0))
        assert spans(follow([[face(0)]] * 10 + [[moved]] * 10, fps=fps), fps) == expected


def test_limits_do_not_depend_on_resolution() -> None:
    frames = [[face(3.0 * k, side=100 + k)] for k in range(10)] + [[face(90 + 3.0 * k)] for k in range(10)]
    small = [[faces[0] / 8] for faces in frames]
    large = [[faces[0] * 8] for faces in frames]
    assert spans(follow(frames)) == spans(follow(small)) == spans(follow(large))
    assert len(follow(frames)) == 2


def test_a_wrong_detection_in_between_does_not_split() -> None:
    frames = [[face(0)]] * 10 + [[face(700)]] * 2 + [[face(0)]] * 10
    long, short = follow(frames)
    assert spans([long, short]) == [(0, 21, "start of video", "end of video"), (10, 11, "jump", "face lost")]
    assert len(long.times) == 20


def test_two_people_keep_apart_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    frames = []
    for k in range(60):
        faces = [face(100 + 3 * k, 0), face(600 - 3 * k, 90, side=60)]
        frames.append([faces[i] for i in rng.permutation(2)])
    a, b = follow(frames)
    assert spans([a, b]) == [(0, 59, "start of video", "end of video")] * 2
    np.testing.assert_allclose(a.points[:, 0, 0], 50 + 3 * np.arange(60), atol=1e-3)
    np.testing.assert_allclose(b.points[:, 0, 0], 570 - 3 * np.arange(60), atol=1e-3)


def test_somebody_who_comes_later_is_found_not_jumped_to() -> None:
    frames = [[face(0)]] * 5 + [[face(0), face(400)]] * 5
    assert spans(follow(frames)) == [(0, 9, "start of video", "end of video"), (5, 9, "face found", "end of video")]


def test_a_hole_in_the_video_splits() -> None:
    tracker = FaceTracker()
    times = [0.0, 0.04, 0.08, 0.30, 0.60, 0.64]
    tracks = [track for time in times for track in tracker.push(time, [face(0)])] + tracker.finish()
    assert [(t.times[0], t.times[-1], t.started, t.ended) for t in tracks] == [
        (0.0, 0.30, "start of video", "gap in the video"),
        (0.60, 0.64, "gap in the video", "end of video"),
    ]


def test_long_tracks_are_handed_over_without_a_hole() -> None:
    tracker = FaceTracker(max_seconds=2.0)
    frames = [[face(k), *([face(500 - k)] if k >= 20 else [])] for k in range(120)]
    tracks = follow(frames, tracker=tracker)
    first = [track for track in tracks if track.points[0, 0, 0] < 250]
    assert spans(first) == [
        (0, 50, "start of video", "length"),
        (50, 100, "length", "length"),
        (100, 119, "length", "end of video"),
    ]
    # Everybody's tracks end together, so that the choice between them can be made part by part.
    assert spans([track for track in tracks if track.points[0, 0, 0] > 250])[0] == (20, 50, "face found", "length")
    np.testing.assert_array_equal(first[0].points[-1], first[1].points[0])


def test_open_since_and_reuse() -> None:
    tracker = FaceTracker()
    assert tracker.open_since is None
    tracker.push(5.0, [face(0)])
    tracker.push(5.04, [face(0), face(400)])
    assert tracker.open_since == 5.0
    assert len(tracker.finish()) == 2 and tracker.open_since is None and tracker.finish() == []
    assert tracker.push(0.0, [face(0)]) == [] and tracker.finish()[0].started == "start of video"


def test_nothing_is_kept_but_open_tracks() -> None:
    """Ten thousand images with a face in every other second leave nothing behind."""
    tracker, emitted = FaceTracker(), 0
    for k in range(10_000):
        emitted += len(tracker.push(k / 25, [face(0)] if k // 25 % 2 == 0 else None))
        assert len(tracker._open) <= 1 and all(len(track.times) <= 25 for track in tracker._open)
    assert emitted == 200


@given(
    seed=st.integers(0, 1000),
    length=st.integers(1, 60),
    presence=st.floats(0.3, 1.0),
    cut_rate=st.floats(0, 0.2),
    max_seconds=st.one_of(st.none(), st.floats(0.2, 1.0)),
)
def test_every_face_is_in_exactly_one_track(
    seed: int, length: int, presence: float, cut_rate: float, max_seconds: float | None
) -> None:
    rng = np.random.default_rng(seed)
    frames, cuts = [], []
    for k in range(length):
        frames.append([face(x + rng.normal(0, 20)) for x in (0, 300, 700) if rng.random() < presence])
        if rng.random() < cut_rate:
            cuts.append(k)
    tracks = follow(frames, cuts=cuts, tracker=FaceTracker(max_seconds=max_seconds))
    expected = sorted((k, float(points[0, 0])) for k, faces in enumerate(frames) for points in faces)
    # An image at which tracks were handed over is the last of one and the first of the next.
    got = sorted(
        (round(time * 25), float(points[0, 0]))
        for track in tracks
        for k, (time, points) in enumerate(zip(track.times, track.points, strict=True))
        if k > 0 or track.started != "length"
    )
    assert got == expected
    for track in tracks:
        assert (np.diff(track.times) > 0).all()
        assert np.diff(track.times, prepend=track.times[0]).max() <= 0.13 + 2 / 25
        assert not any(track.times[0] < cut / 25 <= track.times[-1] for cut in cuts if cut > 0)


def test_bad_input() -> None:
    with pytest.raises(ArgumentError, match="`max_speed`"):
        FaceTracker(max_speed=0)
    with pytest.raises(ArgumentError, match="`max_seconds`"):
        FaceTracker(max_seconds=0)
    tracker = FaceTracker()
    tracker.push(1.0, [face(0)])
    for time in (1.0, 0.5, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match=r"`time`: expected a time after 1\.0"):
            tracker.push(time, [face(0)])
    with pytest.raises(ShapeError, match=r"`faces`: expected \(faces, 68, 2\), got \(68, 2\)"):
        tracker.push(2.0, face(0))
    with pytest.raises(ShapeError, match=r"got \(1, 5, 2\)"):
        tracker.push(2.0, np.ones((1, 5, 2)))


# --- choice ---------------------------------------------------------------------------------------------------------------------------


def track(start: float, stop: float, height: float = 100.0, speed: float = 0.0) -> FaceTrack:
    times = np.arange(round(start * 25), round(stop * 25) + 1) / 25
    # Height of the face is `height`, and it moves by `speed` of it a second.
    points = np.stack([face(height * speed * time, side=height) for time in times])
    return FaceTrack(times, points, "face found", "face lost")


def kept(chosen: Chosen) -> list[tuple[float, float, float]]:
    return [(float(t.times[0]), float(t.times[-1]), round(t.height, 3)) for t in chosen.kept]


def test_largest_and_stable() -> None:
    near, far = track(0, 10, 200, speed=2.0), track(0, 10.4, 80)
    assert kept(choose_tracks([far, near], "largest")) == [(0, 10, 200)]
    assert kept(choose_tracks([near, far], "stable")) == [(0, 10.4, 80)]
    assert kept(choose_tracks([near, far], "all")) == [(0, 10, 200), (0, 10.4, 80)]
    # Of two that last about as long the steadier, of two as steady the longer.
    assert kept(choose_tracks([track(0, 10, 90, speed=0.5), track(0, 9.8, 70)], "stable"))[0][2] == 70
    assert kept(choose_tracks([track(0, 9, 90), track(0, 9.8, 70)], "stable"))[0][2] == 70


def test_what_does_not_overlap_stays_and_is_cut_at_the_edges() -> None:
    chosen = choose_tracks([track(0, 20, 100), track(8, 12, 200), track(30, 33, 50)])
    assert kept(chosen) == [(0, 7.96, 100), (8, 12, 200), (12.04, 20, 100), (30, 33, 50)]
    assert [(t.started, t.ended) for t in chosen.kept[:3]] == [
        ("face found", "another face was chosen"),
        ("face found", "face lost"),
        ("another face was chosen", "face lost"),
    ]
    assert [(float(t.times[0]), float(t.times[-1]), why) for t, why in chosen.dropped] == [(8, 12, "another face was chosen")]


def test_short_tracks_never_win() -> None:
    chosen = choose_tracks([track(0, 10, 100), track(3, 4, 300)])
    assert kept(chosen) == [(0, 10, 100)] and [why for _, why in chosen.dropped] == ["too short"]
    # What is left of a loser may be too short.
    chosen = choose_tracks([track(0, 6, 100), track(1, 5, 300)])
    assert kept(chosen) == [(1, 5, 300)]
    assert sorted(why for _, why in chosen.dropped) == ["another face was chosen", "too short", "too short"]
    assert kept(choose_tracks([track(3, 4, 300)], min_seconds=0.5)) == [(3, 4, 300)]
    assert choose_tracks([]) == ([], [])


@given(
    ends=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 200), st.integers(40, 300)), max_size=6),
    policy=st.sampled_from(["largest", "stable"]),
    order=st.randoms(use_true_random=False),
)
def test_nothing_is_lost_and_nothing_kept_overlaps(ends: list[tuple[int, int, int]], policy: str, order: Random) -> None:
    tracks = [track(start / 25, (start + length) / 25, height) for start, length, height in ends]
    chosen = choose_tracks(tracks, policy, min_seconds=1.0)
    for before, after in zip(chosen.kept, chosen.kept[1:], strict=False):
        assert before.times[-1] <= after.times[0]
    assert all(t.seconds >= 1.0 for t in chosen.kept)
    images = sum(len(t.times) for t in chosen.kept) + sum(len(t.times) for t, _ in chosen.dropped)
    assert images == sum(len(t.times) for t in tracks)
    # The order in which tracks come plays no part, unless two are alike.
    if len({height for _, _, height in ends}) == len(ends) and policy == "largest":
        order.shuffle(tracks)
        assert kept(choose_tracks(tracks, policy, min_seconds=1.0)) == kept(chosen)


def test_groups_that_do_not_overlap_are_chosen_alike_together_or_apart() -> None:
    early, late = [track(0, 10, 100), track(4, 12, 150)], [track(20, 30, 120), track(20, 25, 300)]
    together = choose_tracks(early + late)
    assert kept(together) == kept(choose_tracks(early)) + kept(choose_tracks(late))


def test_unknown_policy() -> None:
    with pytest.raises(ArgumentError, match="`policy`: expected one of 'largest', 'stable', 'all', got 'biggest'"):
        choose_tracks([], "biggest")


@given(st.integers(0, 5000), st.integers(1, 900))
def test_split_long(frames: int, max_frames: int) -> None:
    parts = split_long(frames, max_frames)
    assert [a for part in parts for a in range(*part)] == list(range(frames))
    lengths = [stop - start for start, stop in parts]
    assert len(parts) == -(-frames // max_frames) and all(0 < length <= max_frames for length in lengths)
    assert not lengths or max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(("call", "name"), [(lambda: split_long(-1, 5), "frames"), (lambda: split_long(5, 0), "max_frames")])
def test_split_long_bad_input(call: Callable[[], object], name: str) -> None:
    with pytest.raises(ArgumentError, match=f"`{name}`"):
        call()
