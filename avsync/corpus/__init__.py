"""Talking-head corpora: the clip format on disk, media files, clips in memory, the synthetic talker."""
