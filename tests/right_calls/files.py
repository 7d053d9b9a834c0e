"""Right calls of models on disk."""

from __future__ import annotations

from torch import nn

from avsync import pretrained as room
from avsync.models import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from tests.right_calls import Call, new_folder

AT = new_folder()
CONFIG = SyncerPyramidConfig(syncer=SyncerConfig(width=4, embed=2), num_levels=1)
MODEL = SyncerPyramid(CONFIG)
room.save_pretrained(MODEL, AT / "model")

CALLS = {
    "PretrainedModel.from_pretrained": Call(SyncerPyramid.from_pretrained, {"folder": AT / "model"}),
    "pretrained_models": Call(room.pretrained_models, {"model_class": nn.Module}),
    "model_folder": Call(room.model_folder, {"name": AT / "model"}),
    "save_pretrained": Call(room.save_pretrained, {"model": MODEL, "folder": AT / "other"}),
    "stored_checksum": Call(room.stored_checksum, {"folder": AT / "model"}),
    "from_pretrained": Call(room.from_pretrained, {"folder": AT / "model", "model_class": SyncerPyramid}),
    "config_to_dict": Call(room.config_to_dict, {"config": CONFIG}),
    "config_from_dict": Call(
        room.config_from_dict, {"config_class": SyncerConfig, "values": room.config_to_dict(SyncerConfig())}
    ),
}
