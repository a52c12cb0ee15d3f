"""The tensors that have their own rules, by the names that the whole model's parameters have. No torch."""

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"
FINAL_NORM = "decoder.final_layernorm.weight"
