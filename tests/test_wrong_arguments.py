"""Wrong arguments of every public loss, syncer and pyramid function end in one of avsync's errors, whatever is wrong with them.

Each function has one right call. One argument after the other is replaced by values of a wrong type, dtype, device or rank; the call
then works (for some arguments a value of another type is right) or raises an :class:`avsync.errors.AvsyncError`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avsync import MultiScaleSyncLoss, SyncerConfig, SyncerPyramid, SyncerPyramidConfig, losses, models, pyramid
from avsync.errors import AvsyncError

M, A = torch.randn(2, 2, 6, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.ones(2, 6, dtype=torch.bool)
INDICES = torch.zeros(2, 6, 3, dtype=torch.int64)
LANDMARKS, FEATURES = torch.rand(2, 40, 7, 2), torch.randn(2, 160, 5)
LENGTHS = torch.tensor([40, 38])
PYRAMID = SyncerPyramid(SyncerPyramidConfig(syncer=SyncerConfig(audio_features=5, points=7, width=4, embed=2), audio="custom"))
LOSS = MultiScaleSyncLoss(syncers=PYRAMID)
PAIR: dict[str, Any] = {"motion": M, "audio": A}
TARGET = torch.ones(2, 6)

CALLS: dict[str, tuple[Callable[..., object], dict[str, Any]]] = {
    "info_nce": (losses.info_nce, {**PAIR, "negatives": M[:, :, None], "temperature": 0.1, "reduction": "mean"}),
    "sampled_info_nce": (losses.sampled_info_nce, {**PAIR, "indices": INDICES, "temperature": 0.1, "mask": MASK}),
    "all_pairs_info_nce": (
        losses.all_pairs_info_nce,
        {**PAIR, "temperature": 0.1, "exclusion": 1, "mask": MASK, "min_temperature": 0.02, "reduction": "sum"},
    ),
    "within_clips_info_nce": (losses.within_clips_info_nce, {**PAIR, "temperature": 0.1, "mask": MASK, "reduction": "none"}),
    "offset_info_nce": (
        losses.offset_info_nce,
        {**PAIR, "max_offset": 2, "span": 2, "window": 1, "temperature": 0.1, "mask": MASK, "reduction": "mean"},
    ),
    "contrastive_loss": (losses.contrastive_loss, {**PAIR, "target": TARGET, "margin": 1.0, "reduction": "mean"}),
    "cosine_bce": (losses.cosine_bce, {**PAIR, "target": TARGET, "mapping": "affine", "reduction": "mean"}),
    "sigmoid_pair_loss": (losses.sigmoid_pair_loss, {**PAIR, "scale": 2.0, "bias": -1.0, "exclusion": 1, "mask": MASK}),
    "level_sync_loss": (losses.level_sync_loss, {**PAIR, "mask": MASK}),
    "multi_scale_sync_loss": (
        losses.multi_scale_sync_loss,
        {"motion": [M], "audio": [A], "level_weights": [1.0], "masks": [MASK]},
    ),
    "hinge_discriminator_loss": (losses.hinge_discriminator_loss, {"real_logits": A, "fake_logits": M, "reduction": "mean"}),
    "hinge_generator_loss": (losses.hinge_generator_loss, {"fake_logits": M, "reduction": "mean"}),
    "sample_negatives": (
        losses.sample_negatives,
        {"num_clips": 2, "num_windows": 6, "num_negatives": 3, "source": "both", "exclusion": 1, "mask": MASK},
    ),
    "excluded_pairs": (losses.excluded_pairs, {"num_clips": 2, "num_windows": 6, "exclusion": 1, "mask": MASK}),
    "gather_negatives": (losses.gather_negatives, {"embeddings": M, "indices": INDICES}),
    "chance_level": (losses.chance_level, {"num_negatives": 3}),
    "InfoNCE": (
        losses.InfoNCE,
        {"num_negatives": 3, "source": "both", "exclusion": 1, "temperature": 0.1, "reduction": "mean"},
    ),
    "AllPairsInfoNCE": (losses.AllPairsInfoNCE, {"temperature": 0.1, "max_scale": 50.0, "exclusion": 0, "reduction": "mean"}),
    "ContrastiveLoss": (losses.ContrastiveLoss, {"margin": 1.0, "num_negatives": 1, "source": "both", "exclusion": 1}),
    "CosineBCE": (losses.CosineBCE, {"mapping": "affine", "num_negatives": 1, "source": "both", "reduction": "mean"}),
    "SigmoidPairLoss": (losses.SigmoidPairLoss, {"scale": 2.0, "bias": 0.0, "max_scale": 50.0, "exclusion": 0}),
    "InfoNCE.forward": (losses.InfoNCE(num_negatives=3), {**PAIR, "mask": MASK, "indices": INDICES}),
    "AllPairsInfoNCE.forward": (losses.AllPairsInfoNCE(), {**PAIR, "mask": MASK}),
    "ContrastiveLoss.forward": (losses.ContrastiveLoss(), {**PAIR, "mask": MASK, "indices": INDICES}),
    "CosineBCE.forward": (losses.CosineBCE(), {**PAIR, "mask": MASK, "indices": INDICES}),
    "SigmoidPairLoss.forward": (losses.SigmoidPairLoss(), {**PAIR, "mask": MASK}),
    "MultiScaleSyncLoss": (MultiScaleSyncLoss, {"syncers": PYRAMID, "level_weights": [1, 1, 1, 1], "audio_transform": None}),
    "MultiScaleSyncLoss.forward": (
        LOSS,
        {"landmarks": LANDMARKS, "audio": FEATURES, "reference": LANDMARKS[:, 0], "lengths": LENGTHS},
    ),
    "SyncerPyramid.forward": (
        PYRAMID,
        {"landmarks": LANDMARKS, "audio": FEATURES, "reference": "mean", "lengths": LENGTHS},
    ),
    "cosine_similarity": (models.cosine_similarity, PAIR),
    "half_squared_distance": (models.half_squared_distance, PAIR),
    "unit_norm": (models.unit_norm, {"embeddings": M}),
    "blur_downsample": (pyramid.blur_downsample, {"x": LANDMARKS, "radius": 3, "lengths": LENGTHS}),
    "temporal_pyramid": (pyramid.temporal_pyramid, {"x": LANDMARKS, "num_levels": 3, "radius": 3, "lengths": LENGTHS}),
    "hold_last_frame": (pyramid.hold_last_frame, {"x": LANDMARKS, "frames": 50, "lengths": LENGTHS}),
    "TemporalPyramid": (pyramid.TemporalPyramid, {"num_levels": 3, "radius": 3}),
}

WRONG: dict[str, Callable[[Any], Any]] = {
    "None": lambda _: None,
    "text": lambda _: "avg",
    "number": lambda _: -1,
    "not a number": lambda _: float("nan"),
    "fraction": lambda _: 1.5,
    "list": lambda x: x.tolist() if isinstance(x, torch.Tensor) else [x],
    "NumPy": lambda x: x.numpy() if isinstance(x, torch.Tensor) else np.array(1.0),
    "integers": lambda x: x.to(torch.int8) if isinstance(x, torch.Tensor) else torch.tensor(3),
    "complex": lambda x: x.to(torch.complex64) if isinstance(x, torch.Tensor) else 1j,
    "meta": lambda x: x.to("meta") if isinstance(x, torch.Tensor) else torch.ones(2, device="meta"),
    "one axis fewer": lambda x: x[0] if isinstance(x, torch.Tensor) else {},
    "one axis more": lambda x: x[None] if isinstance(x, torch.Tensor) else torch.ones(1, 1),
    "empty": lambda x: x[:0] if isinstance(x, torch.Tensor) else [],
    "one entry more": lambda x: torch.cat([x, x[:1]]) if isinstance(x, torch.Tensor) else object(),
    "module": lambda _: torch.nn.Linear(1, 1),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_the_right_call_works(name: str) -> None:
    function, arguments = CALLS[name]
    function(**arguments)


@given(data=st.data())
def test_a_wrong_argument_ends_in_an_error_of_avsync(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(CALLS)))
    argument = data.draw(st.sampled_from(list(CALLS[name][1])))
    check(name, argument, data.draw(st.sampled_from(list(WRONG))))


@pytest.mark.parametrize("name", list(CALLS))
def test_every_wrong_argument_ends_in_an_error_of_avsync(name: str) -> None:
    bad = {}
    for argument in CALLS[name][1]:
        for kind in WRONG:
            try:
                check(name, argument, kind)
            except Exception as error:  # noqa: BLE001 (all of them are reported together)
                bad[f"{argument}: {kind}"] = f"{type(error).__name__}: {str(error)[:80]}"
    assert not bad, bad


def check(name: str, argument: str, kind: str) -> None:
    function, arguments = CALLS[name]
    with contextlib.suppress(AvsyncError):
        function(**{**arguments, argument: WRONG[kind](arguments[argument])})
