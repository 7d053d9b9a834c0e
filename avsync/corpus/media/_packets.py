"""Decoding that continues after damage: intact frames are returned, and damage is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from avsync.corpus.media.info import failures, reason

# A demuxer that fails this many times in a row, without a packet in between, will not recover.
_PATIENCE = 8


def decode_stream(container: Any, stream: Any, damage: Counter[str]) -> Iterator[Any]:
    """Yield the frames of one stream in decoding order.

    Args:
        container: Open container.
        stream: Stream of ``container``.
        damage: Counter that is updated with the number of errors per kind; its keys are descriptions.
    """
    failed = failures()
    for packet in _packets(container, stream, damage):
        try:
            frames = _decode(stream.codec_context, packet)
        except EOFError:
            return
        except failed as error:
            damage[f"packets of the {stream.type} stream that cannot be decoded ({reason(error)})"] += 1
            continue
        yield from frames


def tally(damage: Counter[str]) -> list[str]:
    """Return one line per kind of damage, with its count; a kind with count 0 is a remark on the whole file."""
    return [f"{what}: {count}" if count else what for what, count in damage.items()]


def _packets(container: Any, stream: Any, damage: Counter[str]) -> Iterator[Any]:
    failed = failures()
    silent = 0
    while silent < _PATIENCE:
        try:
            for packet in container.demux(stream):
                silent = 0
                if packet.is_corrupt:
                    damage[f"packets of the {stream.type} stream that the file marks as corrupt or that are incomplete"] += 1
                yield packet
            return
        except failed as error:
            silent += 1
            damage[f"places where the file cannot be read ({reason(error)})"] += 1


def _decode(context: Any, packet: Any) -> list[Any]:
    try:
        return list(context.decode(packet))
    except BlockingIOError:
        # An error left the decoder full. Flushing loses the frames until the next key frame, but not the rest of the file.
        context.flush_buffers()
        return list(context.decode(packet))
