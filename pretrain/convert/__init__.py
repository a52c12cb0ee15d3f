"""Convert room: Hugging Face folders out of checkpoints, checkpoints out of Hugging Face folders, and the proof of both."""
