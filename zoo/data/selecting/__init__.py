"""Which samples, how many of each source, and in which order: roles and their simplest members."""
