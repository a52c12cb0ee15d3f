"""Encoding room: documents become token shards."""
