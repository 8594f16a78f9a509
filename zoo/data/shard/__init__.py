"""One shard: its tar, its index, reading it and writing it."""
