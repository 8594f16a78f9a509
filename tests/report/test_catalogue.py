"""The page of all cards: every model, every filter, no network."""

import re
from html.parser import HTMLParser

import pytest
from browser import assert_fits, measured, needs_chromium

import zoo
from zoo.errors import UsageError
from zoo.report.catalogue import write_catalogue


class Reader(HTMLParser):
    """Models by name, the choices of each filter, and whatever a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.models, self.filters, self.fetched, self.select = {}, {}, [], None

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "details" and attrs.get("class") == "model":
            self.models[attrs["id"]] = attrs
        if tag == "select":
            self.select = self.filters.setdefault(attrs["name"], [])
        self.fetched += [attrs[name] for name in ("src", "href", "srcset") if name in attrs]

    def handle_endtag(self, tag):
        self.select = None if tag == "select" else self.select

    def handle_data(self, data):
        if self.select is not None:
            self.select.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_catalogue(tmp_path_factory.mktemp("catalogue") / "zoo.html").read_text()


def test_every_model_can_be_found_by_every_filter(page):
    reader = Reader()
    reader.feed(page)
    assert [*reader.models] == zoo.list_models()
    assert set(reader.filters) == {"modality", "objective", "licence", "size"}
    for attrs in reader.models.values():
        for name, choices in reader.filters.items():
            assert attrs[f"data-{name}"] in choices
    mae = reader.models["mae-base"]
    assert mae["data-size"] == "50 M to 200 M"
    assert mae["data-licence"] == "CC-BY-NC-4.0"
    assert "masked autoencoders" in mae["data-text"]
    assert reader.models["bird-mae-base"]["data-licence"] == "none stated by its authors"


def test_it_needs_no_network_and_is_small(page):
    reader = Reader()
    reader.feed(page)
    assert not reader.fetched
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp", page)
    assert len(page) < 1_000_000


@needs_chromium
def test_it_fits_telephones_and_desks(page):
    assert_fits(measured(page))


def test_another_kind_of_file(tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.html"):
        write_catalogue(tmp_path / "zoo.pdf")
