"""Vocabulary room: a tokenizer, from its specification to the ids of a text."""
