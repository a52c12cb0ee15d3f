"""Model room: our configuration becomes megatron-core's GPTModel, its initial values, its loss and its arithmetic."""
