"""`zoo demo`: the main job, end to end, on real data, in minutes."""
