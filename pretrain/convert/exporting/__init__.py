"""Exporting room: a checkpoint becomes a Hugging Face folder."""
