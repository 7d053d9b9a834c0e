"""Recipe for syncers of your own: sizes, augmentation and stages of the pretrained models, for any corpus."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from avsync._checks import check_count, checked
from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.bank import CropBank
from avsync.errors import ArgumentError, ClipTooShortError, ConfigError
from avsync.landmarks.layouts import NUM_POINTS, REGIONS, Layout, find_layout
from avsync.landmarks.motion_features import MOTIONS, motion_channels
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramidConfig
from avsync.pyramid import MOST_LEVELS, shortest_clip
from avsync.training.objectives import SyncerTrainingConfig
from avsync.training.warm_start import WarmStartConfig

SYNCER_AUGMENT = AugmentConfig(
    scale=(0.85, 1.15),
    rotation=0.2,
    shear=0.1,
    sway=0.035,
    identity=0.01,
    jitter=0.002,
    tempo=(1 / 1.5, 1.5),
    noise_db=4.5,
    equaliser_db=3.0,
)
"""Augmentation of the crops of the pretrained syncers."""
LONGEST_CROP = 160
"""Frames of a crop, if the clips are long enough."""


class SyncerRecipe(NamedTuple):
    """Arguments of :func:`avsync.training.warm_start.train_finest_first`, apart from the pyramid itself and the bank."""

    pyramid: SyncerPyramidConfig
    """Sizes of the syncers."""
    training: SyncerTrainingConfig
    """Settings of the fine levels."""
    warm_start: WarmStartConfig
    """Settings of the coarse levels."""
    augment: AugmentConfig
    """Augmentation."""


@checked
def syncer_recipe(
    bank: CropBank,
    *,
    steps: int = 1000,
    batch_size: int = 32,
    num_levels: int = 4,
    audio: str = "log-mel",
    region: str = "face",
    layout: str | Layout | None = None,
    width: int = 96,
    seed: int = 0,
) -> SyncerRecipe:
    """Return settings for training syncers on a corpus: those of the pretrained models, fitted to the corpus.

    Args:
        bank: Clips to train on; they determine the points, the dimensions and the length of the crops.
        steps: Optimisation steps of levels 0 and 1; each coarser level takes an eighth of them, twice.
        batch_size: Clips per batch.
        num_levels: Levels of the pyramid.
        audio: Audio features of the bank: "log-mel", "mfcc" or "custom".
        region: "face", "mouth" or "head"; the last two need the 68-point layout, or a ``layout`` that has such points.
        layout: Layout of the motion, or its name (:func:`avsync.landmarks.find_layout`); None for points that the syncers take
            as they are.
        width: Channels of the encoders.
        seed: Seed of the run.

    Returns:
        The :class:`SyncerRecipe`. Crops have 160 frames, or as many as half of the clips have if those are shorter.

    Raises:
        ClipTooShortError: More than half of the clips are shorter than one window of the coarsest level.
        ArgumentError: ``steps`` is below 1, or ``layout`` has other points or dimensions than the clips.
        ConfigError: Another argument is out of its range.

    Example:
        >>> from avsync.audio import LogMel
        >>> from avsync.corpus import ClipBank, SyntheticCorpus
        >>> recipe = syncer_recipe(ClipBank(SyntheticCorpus(speakers=2, clips_per_speaker=1, seconds=4.0), features=LogMel()))
        >>> recipe.training.frames, recipe.pyramid.audio
        (100, 'log-mel')

    Source: ours.
    """
    check_count("steps", steps)
    crop = bank.windows(1, stride=int(bank.lengths.max()))
    points, dims = crop.landmarks.shape[2:]
    on_face = points == NUM_POINTS and dims == 2 and layout is None
    motion = tuple(name for name in MOTIONS if on_face or name != "shape")
    shown = None if layout is None else find_layout(layout)
    if shown is not None and (shown.points != points or dims not in shown.dims):
        raise ArgumentError(
            f"`layout`: expected a layout of {points} points in {dims} dimensions, as the clips have, got {shown.name!r} of "
            f"{shown.points} points in {' or '.join(map(str, shown.dims))}"
        )
    frames = min(LONGEST_CROP, int(bank.lengths.median()))
    if not 1 <= num_levels <= MOST_LEVELS:
        raise ConfigError(f"`num_levels`: expected 1 to {MOST_LEVELS}, got {num_levels}")
    least = shortest_clip(SyncerConfig().window, num_levels - 1)
    if frames < least:
        raise ClipTooShortError(
            f"`num_levels`: expected fewer than {num_levels} levels for clips of {frames} frames, because level "
            f"{num_levels - 1} needs {least}"
        )
    return SyncerRecipe(
        pyramid=SyncerPyramidConfig(
            syncer=SyncerConfig(
                audio_features=crop.audio.shape[2],
                points=len(REGIONS[region]) if region in REGIONS and points == NUM_POINTS else points,
                motion_channels=motion_channels(motion, dims),
                width=width,
                window_blocks=2,
                dropout=0.1,
            ),
            num_levels=num_levels,
            landmark_dims=dims,
            layout=shown,
            audio=audio,
            motion=motion,
            region=region,
            reference="mean",
            # Only level 0 hears more than its window, so that the coarser levels can begin with the weights of level 1.
            audio_context=(4, *[0] * (num_levels - 1)),
            mean_normalisation=True,
        ),
        training=SyncerTrainingConfig(
            steps=steps,
            batch_size=batch_size,
            frames=frames,
            fine_frames=min(80, frames),
            weight_decay=0.1,
            warm_up=min(50, max(1, steps // 10)),
            window_share=0.5,
            first_share=0.2,
            short_share=0.3,
            # The average reaches over about a tenth of the run.
            ema_decay=min(0.99, max(0.5, 1 - 10 / steps)),
            offset_weight=1.0,
            offset_window=5,
            seed=seed,
        ),
        warm_start=WarmStartConfig(steps=max(1, steps // 8), runs=2),
        augment=_augment(points, dims),
    )


def _augment(points: int, dims: int) -> AugmentConfig:
    """Return the augmentation that points of these dimensions can have."""
    if points == NUM_POINTS and dims > 1:
        return SYNCER_AUGMENT
    still = replace(SYNCER_AUGMENT, flip_probability=0.0)  # a mirror exchanges points, which are known for the 68 points only
    if dims > 1:
        return still
    # Blendshapes and other numbers without a plane cannot be turned.
    return replace(still, scale=(1.0, 1.0), translation=0.0, rotation=0.0, shear=0.0, sway=0.0, identity=0.0, jitter=0.0)
