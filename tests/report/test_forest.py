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
