"""Tokenizer package: train a tokenizer, encode text to token shards with it, check both, and search them.

A reading order: `documents/` (what goes in), `vocabulary/` (spec, training, importing, loading and checking a tokenizer),
`shards/` (the files that come out, written and verified), `encoding/` (documents -> shard), `search/` (text in shards).
The room stands alone: it imports nothing of `pretrain`, which in turn reads shards through `tokenizer.shards`.
"""
