"""Intervals of effects as a picture."""

import re
from xml.etree import ElementTree

from zoo.report.chart import drawing
from zoo.report.forest import Effect, forest


def test_an_effect_lies_on_its_side_of_the_middle():
    better = Effect(name="a & b", mean=0.2, low=0.1, high=0.4, verdict="reproduced")
    worse = Effect(name="c", mean=-20.0, low=-30.0, high=10.0, verdict="inconclusive")
    svg = drawing(forest([better, worse]))
    ElementTree.fromstring(svg)
    middle = float(re.search(r'<line x1="([\d.]+)" x2="\1"', svg)[1])
    first, second = (float(x) for x in re.findall(r'<circle cx="([\d.]+)"', svg))
    assert second < middle < first
    assert "a &amp; b" in svg
    assert "inconclusive -20 (-30 to +10)" in svg


def test_long_names_are_wrapped():
    svg = forest([Effect(name="word " * 30, mean=1234.5, low=1.0, high=2000.0)])
    lines = re.findall(r'class="name" x="[\d.]+" y="([\d.]+)"[^>]*>([^<]*)<', svg)
    assert len(lines) == 3
    assert len({place for place, _ in lines}) == 3
    assert "+1,234 (+1 to +2,000)" in svg
