"""Many samples -> a folder of shards, in parallel and resumably."""
