"""Training objectives: what a sample becomes, and which of its tokens are predicted. One objective is one file."""
