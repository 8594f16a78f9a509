"""Shards: write, index, order, read."""
