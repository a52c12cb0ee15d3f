"""What a run did with its data, step by step, from what it left: files of its starts, else its checkpoints. No log is needed."""
