"""Disk room: the format of a checkpoint, its hashes and its seal. It knows no ranks."""
