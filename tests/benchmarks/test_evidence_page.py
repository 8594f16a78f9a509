"""`zoo report --all`: what the results say is on the page, and the page fits a telephone."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from browser import assert_fits, measured, needs_chromium
from click.testing import CliRunner
from zoo.benchmarks.evidence import scaling
from zoo.benchmarks.evidence.measured import bars_part, claims_part, speed_part
from zoo.benchmarks.evidence.page import write_evidence
from zoo.benchmarks.speed.timing import RESULTS

from zoo.cli.report import command
from zoo.demo.part import Part, ScoreRow
from zoo.demo.results import found_here, keep
from zoo.errors import UsageError
from zoo.report import catalogue

SECTIONS = ["claims-of-papers", "speed-against-peers", "tables", "scaling", "demo", "catalogue"]


class Reader(HTMLParser):
    """Sections, captions, heads of tables without a scope, and whatever a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.sections, self.captions, self.loose, self.fetched = [], 0, 0, []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.sections += [attrs["id"]] if tag == "section" else []
        self.captions += tag == "caption"
        self.loose += tag == "th" and "scope" not in attrs
        links = [attrs[name] for name in ("src", "href", "srcset") if name in attrs]
        self.fetched += [link for link in links if not link.startswith(("#", "data:"))]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    nan = float("nan")
    rows = (ScoreRow("raw <pixels>", (0.5, nan)), ScoreRow("zoo", (0.25, 0.125), ours=True))
    facts = {"title": "Digits", "lead": "Scans.", "protocol": "kNN.", "verdict": "Both lose."}
    part = Part(**facts, measures=("a", "b"), rows=rows, figures=("<p>no",), seconds=2, steps=9)
    keep(found_here([part], 3.0, quick=True), folder)
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory, demo):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling, "PLANNED", (("digits-mae-tiny", 10_000), ("digits-mae-tiny", 500)))
        patch.setattr(catalogue, "list_models", lambda: ["mae-base", "unitabe-small"])
        out = tmp_path_factory.mktemp("evidence") / "zoo.html"
        return write_evidence(out, demo=demo).read_text()


def test_everything_is_there_without_a_network(page):
    reader = Reader()
    reader.feed(page)
    assert reader.sections == SECTIONS
    assert reader.captions > 3
    assert not reader.loose
    assert not reader.fetched
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp", page)
    assert len(page) < 1_000_000
    for words in ("raw &lt;pixels&gt;", "12.5%", "Both lose.", "A quick run", 'id="mae-base"'):
        assert words in page
    assert "<p>no" not in page


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_telephones_and_desks(page, dark):
    found = measured(page, dark=dark)
    assert_fits(found)
    for facts in found.values():
        assert facts["sections"] == SECTIONS
        assert facts["light"] is not dark


@needs_chromium
@pytest.mark.parametrize(
    "wrong",
    [
        "<p style='width:500px'>wide",
        "<svg aria-label=x><text x=5 y=20>one</text><text x=9 y=22>other</text></svg>",
        "<svg aria-label=x viewBox='0 0 9000 9'><text x=5 y=9>small</text></svg>",
        "<svg></svg>",
    ],
)
def test_what_does_not_fit_is_noticed(wrong):
    with pytest.raises(AssertionError):
        assert_fits(measured(wrong, widths=(390,)))


def test_claims_are_told_as_they_came_out(tmp_path):
    shutil.copy(RESULTS / "claim_voco.json", tmp_path)
    result = json.loads((RESULTS / "claim_packing.json").read_text()) | {"verdict": "inconclusive"}
    (tmp_path / "claim_packing.json").write_text(json.dumps(result))
    said = "\n".join(claims_part(tmp_path))
    assert "1 inconclusive, 1 reproduced" in said
    assert result["paper"] in said
    assert "No result is kept of masking_rate" in said
    assert f"torch {result['torch']}" in said


def test_what_is_slower_is_named(tmp_path):
    rows = {
        "peer": {"median_ms": 1500.0, "times_faster_than_peer": 1.0},
        "zoo": {"median_ms": 3000.0, "times_faster_than_peer": 0.5},
        "zoo, fast": {"median_ms": 10.0, "times_faster_than_peer": 150.0},
    }
    facts = {"zoo": "0.1.0", "python": "3.11", "machine": "a & b", "rows": rows}
    (tmp_path / "disk_writing.json").write_text(json.dumps(facts))
    (tmp_path / "other.json").write_text(json.dumps({"rows": [1]}))
    said = "\n".join(speed_part(tmp_path))
    named = said[said.index("Where zoo is slower") : said.index("All 2 ratios")]
    assert "disk writing: against peer, 1,500.0 ms" in named
    assert ">0.5<" in named
    assert "zoo, fast" not in named
    assert "a &amp; b" in said
    *_, slower, faster = re.findall(
        r'<rect class=(\w+) x="([\d.]+)%" y="3" width="([\d.]+)%"', said
    )
    assert (slower[0], faster[0]) == ("slower", "faster")
    start, end = float(faster[1]), float(faster[1]) + float(faster[2])
    assert float(slower[1]) + float(slower[2]) == pytest.approx(start, abs=0.11)
    assert end == pytest.approx(100, abs=0.11)  # cut
    assert ">150<" in said


def test_nothing_is_known_yet(tmp_path):
    assert "zoo bench claims makes them" in claims_part(tmp_path / "no")[0]
    assert "make bench" in speed_part(tmp_path)[0]
    assert "zoo bench table sklearn makes them" in bars_part(tmp_path)[0]


def test_what_is_refused(tmp_path, demo):
    for words, said in (
        (["run", "--all"], "either a run's folder or --all"),
        ([], "either a run's folder or --all"),
        (["run", "--demo", str(demo)], "--demo goes with --all"),
        (["--all", "-o", str(tmp_path / "x.pdf")], r"ends in \.html"),
    ):
        with pytest.raises(UsageError, match=said) as refused:
            CliRunner().invoke(command, words, catch_exceptions=False)
        assert refused.value.exit_code == 2
        assert "\n" not in str(refused.value)
    (tmp_path / "results.json").write_text('{"parts": 3}')
    for folder, said in ((tmp_path, "run zoo demo again"), (tmp_path / "no", "zoo demo --out")):
        with pytest.raises(UsageError, match=said):
            write_evidence(tmp_path / "x.html", demo=folder)
    assert not (tmp_path / "x.html").exists()
