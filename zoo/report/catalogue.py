"""`zoo catalogue`: every card on one static page, which a browser searches without any network."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from zoo.errors import UsageError
from zoo.files import write_atomic
from zoo.registry.build import build_encoder, encoder_spec
from zoo.registry.card import Card, Trained, Weights
from zoo.registry.catalogue import Row, card, list_models, rows
from zoo.registry.schema import to_table, to_toml
from zoo.report.page import listing, page

__all__ = ["catalogue", "write_catalogue"]

_SIZES = {"up to 50 M": 50e6, "50 M to 200 M": 200e6, "above 200 M": float("inf")}
_STATED = {"": "not stated", "NONE": "none stated by its authors"}
_STYLE = (
    "form.filters{display:flex;flex-wrap:wrap;gap:.6rem 1rem;margin:1.2rem 0}"
    "form.filters label{display:flex;flex-direction:column;font-size:.8rem;color:var(--soft)}"
    "form.filters [name]{font:inherit;font-size:.95rem;padding:.3rem .45rem;color:var(--ink);"
    "background:var(--tint);border:1px solid var(--line);border-radius:4px}"
    "details.model{border-bottom:1px solid var(--line);margin:0;padding:.6rem 0}"
    "details.model[hidden]{display:none}details.model summary{color:var(--ink)}"
    "details.model summary span{display:block;font-size:.875rem}"
)


@dataclass(frozen=True, slots=True)
class _Model:
    row: Row
    card: Card
    parameters: int

    @property
    def size(self) -> str:
        """The range that its parameters fall into."""
        return next(name for name, most in _SIZES.items() if self.parameters <= most)

    @property
    def facts(self) -> dict[str, str]:
        """What the page filters by."""
        return {
            "modality": self.row.modality,
            "objective": self.row.objective or "none",
            "licence": _STATED.get(self.row.licence, self.row.licence),
            "size": self.size,
        }


def write_catalogue(out: Path) -> Path:
    """Writes the page.

    Args:
        out: an .html file; an older one is replaced.

    Returns:
        `out`.

    Raises:
        UsageError: `out` is no .html file.
        StorageError: it cannot be written.
    """
    if out.suffix not in (".html", ".htm"):
        raise UsageError(f"{out}: the page is HTML; give a name that ends in .html")
    lead = "Pretrained encoders: what they are, who made them, under which licence, how to get them"
    write_atomic(out, page("zoo catalogue", lead, catalogue()))
    return out


def catalogue() -> list[str]:
    """Every model with what is known about it, and the filters, as a part of a page."""
    by_name = {row.name: row for row in rows()}
    models = [_model(by_name[name]) for name in list_models()]
    script = (Path(__file__).parent / "catalogue.js").read_text()
    return [
        f"<style>{_STYLE}</style>",
        _filters(models),
        *(_entry(model) for model in models),
        f"<script>{script}</script>",
    ]


def _model(row: Row) -> _Model:
    with torch.device("meta"):
        encoder = build_encoder(encoder_spec(row.name, {}))
    return _Model(row, card(row.name), sum(value.numel() for value in encoder.parameters()))


def _filters(models: Sequence[_Model]) -> str:
    parts = [
        '<label>Search<input type="search" name="words" placeholder="name, paper, data"></label>'
    ]
    for name in ("modality", "objective", "licence", "size"):
        found = {model.facts[name] for model in models}
        values = [size for size in _SIZES if size in found] if name == "size" else sorted(found)
        options = "".join(f"<option>{html.escape(value)}</option>" for value in values)
        title = "parameters" if name == "size" else name
        parts.append(
            f'<label>{title.capitalize()}<select name="{name}"><option value="">any</option>'
            f"{options}</select></label>"
        )
    return (
        f"<form class=filters>{''.join(parts)}</form>"
        f"<p class=soft><output class=count>{len(models)} of {len(models)}</output> models</p>"
    )


def _entry(model: _Model) -> str:
    row = model.row
    attributes = "".join(
        f' data-{name}="{html.escape(value)}"' for name, value in model.facts.items()
    )
    text = html.escape(" ".join(_searched(model)).lower())
    table = to_table(model.card)
    parts = [
        f"<pre>zoo.{'load' if row.tags else 'create'}({html.escape(repr(row.name))})</pre>",
        *_published(model),
        *_paper(model.card),
    ]
    for name in ("weights", "trained", "results", "paper", "summary"):
        table.pop(name, None)
    return (
        f'<details class=model id="{html.escape(row.name)}"{attributes} data-text="{text}">'
        f"<summary><b>{html.escape(row.name)}</b> {html.escape(row.summary)} "
        f"<span class=soft>{row.modality}, {_millions(model.parameters)} M parameters</span>"
        f"</summary>{''.join(parts)}<pre>{html.escape(to_toml(table).strip())}</pre></details>"
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:,.0f}" if count >= 1e9 else f"{count / 1e6:.3g}"


def _searched(model: _Model) -> Iterable[str]:
    paper = model.card.paper
    yield from (model.row.name, model.row.summary, *model.facts.values(), *model.row.tags)
    if paper:
        yield from (paper.title, paper.arxiv or "")
    yield from (result.dataset for result in model.card.results)


def _published(model: _Model) -> Iterable[str]:
    one, size = model.card, model.card.size_of(model.row.name)
    if weights := one.weights_of(size):
        yield "<h3>Weights</h3>"
        lines = [(f"{model.row.name}.{entry.tag}", *_origin(entry)) for entry in weights]
        yield listing(("name", "from", "licence"), lines)
    results = [entry for entry in one.results if entry.size == size]
    if results:
        yield "<h3>Published results</h3>"
        yield listing(
            ("data", "protocol", "metric", "source", "value"),
            [(e.dataset, e.protocol, e.metric, e.source, f"{e.value:g}") for e in results],
            numeric=1,
        )


def _origin(entry: Weights | Trained) -> tuple[str, str]:
    if isinstance(entry, Trained):
        return "trained by its recipe on first use", ""
    return entry.repo, _STATED.get(entry.licence or "", entry.licence or "")


def _paper(one: Card) -> Iterable[str]:
    if one.paper:
        where = f"arXiv {one.paper.arxiv}" if one.paper.arxiv else one.paper.url or ""
        yield f"<p>{html.escape(one.paper.title)}, {one.paper.year}. {html.escape(where)}</p>"
