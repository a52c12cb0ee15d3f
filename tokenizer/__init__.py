"""From documents to token shards: train a tokenizer, encode text with it, and check both.

A reading order: `documents.py` (what goes in), `spec.py` and `train.py` (a tokenizer), `load.py` (using it),
`shards.py` (the files that come out), `encode.py` (documents -> shard), `verify.py`, `check.py` (is it what it says?).
The room stands alone: it imports nothing of `pretrain`, which in turn reads shards through `tokenizer.shards`.
"""
