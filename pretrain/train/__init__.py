"""Train room: the order of acts."""
