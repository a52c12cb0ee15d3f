"""Convert room: export checkpoints to Hugging Face folders, import such folders as checkpoints, and prove both equal."""
