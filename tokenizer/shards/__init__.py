"""Shards room: the format of the token shards that training reads."""
