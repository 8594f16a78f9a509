"""Sound: recordings, log-mel spectrograms and their encoders."""
