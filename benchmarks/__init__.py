"""Speed against peers, miniatures of papers' claims, and full-scale reproduction scripts."""
