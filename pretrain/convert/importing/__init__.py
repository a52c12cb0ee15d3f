"""Importing room: a Hugging Face folder becomes a checkpoint."""
