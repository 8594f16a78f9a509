"""Side-by-side timings in one run: medians and ratios."""
