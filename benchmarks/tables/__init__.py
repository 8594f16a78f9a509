"""Full-scale scripts that reproduce papers' tables; hours on a GPU, and never run by a test."""
