"""Miniatures of papers' claims: minutes on a CPU, several seeds, reported whatever they show."""
