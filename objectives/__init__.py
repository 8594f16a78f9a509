"""Pretext tasks: one file each, or a family that shares one idea."""
