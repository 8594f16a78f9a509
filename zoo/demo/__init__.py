"""`zoo demo`: the main job, end to end, in minutes; on real data, and on bird song made up."""
