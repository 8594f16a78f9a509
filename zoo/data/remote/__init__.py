"""Shards that are elsewhere: stores, and the cache of what came from them."""
