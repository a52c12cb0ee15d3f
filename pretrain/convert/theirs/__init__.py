"""Their side of a conversion: a Hugging Face folder, its config, its weights, its tokenizer and its model."""
