"""What a run or a demo looked like, as one self-contained HTML page."""
