"""Saving room: the state of all ranks goes to the disk while training continues."""
