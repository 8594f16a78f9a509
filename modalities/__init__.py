"""One folder a modality, and the parts they share: tokens, attention, blocks."""
