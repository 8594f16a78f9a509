"""The catalogue: cards, the code that reads, checks and searches them, and the builders."""
