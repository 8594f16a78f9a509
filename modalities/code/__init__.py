"""Source code and text."""
