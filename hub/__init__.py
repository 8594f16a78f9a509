"""Weights in and out: foreign layouts, the export folder, and (later) the Hugging Face Hub."""
