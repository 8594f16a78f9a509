"""`python -m zoo.registry` rewrites index.json after a card has changed."""

from zoo.registry.catalogue import ROOT, render_index

(ROOT / "index.json").write_text(render_index())
