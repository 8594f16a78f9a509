"""The engine: loop, optimisers, schedules, checkpoints, logs."""
