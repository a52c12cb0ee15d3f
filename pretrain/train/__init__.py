"""Train room: the training loop, its requests to stop, its watchdog."""
