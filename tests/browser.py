"""What a page looks like in headless Chromium, measured: nothing is fetched, nothing stays."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--no-first-run"),
    *("--disable-extensions", "--disable-background-networking", "--disable-component-update"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
# Each width is a frame of its own: its media queries see the frame's width.
MEASURE = """
const found = {};
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, root = page.documentElement;
  for (const details of page.querySelectorAll("details")) details.open = true;
  const drawn = [...page.querySelectorAll("svg")].map((svg) => {
    const box = svg.getBoundingClientRect();
    const words = [...svg.querySelectorAll("text")].map((text) => {
      const { left, right, top, bottom } = text.getBoundingClientRect();
      const size = parseFloat(frame.contentWindow.getComputedStyle(text).fontSize);
      const said = text.textContent, pixels = size * text.getScreenCTM().a;
      return { said, left, right, top, bottom, pixels };
    });
    return { left: box.left, right: box.right, words };
  });
  const style = frame.contentWindow.getComputedStyle(page.body);
  found[frame.width] = {
    wide: root.scrollWidth - root.clientWidth,
    sections: [...page.querySelectorAll("section")].map((section) => section.id),
    unnamed: page.querySelectorAll("svg:not([aria-label], [aria-hidden]), img:not([alt])").length,
    cut: [...page.querySelectorAll("table.ratios td, .said, summary, h1, h2, h3, p, li")]
      .filter((box) => box.scrollWidth > box.clientWidth + 1 && box.clientWidth)
      .map((box) => box.textContent.slice(0, 60)),
    light: style.backgroundColor.match(/\\\\d+/g).slice(0, 3).every((part) => part > 127),
    drawn,
  };
}
document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
""".replace("\\\\", "\\")


def measured(page, *, widths=(390, 1280), dark=False):
    """Of each width, what MEASURE finds in the page."""
    frames = "".join(
        f'<iframe width={width} height=4000 srcdoc="{html.escape(page)}"></iframe>'
        for width in widths
    )
    # A short path: Chromium makes sockets below it, whose names must not exceed 108 bytes.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place)
        (folder / "frames.html").write_text(
            f"<!doctype html><meta charset=utf-8><body>{frames}<script>"
            f"addEventListener('load', () => {{{MEASURE}}});</script></body>"
        )
        words = [*QUIET, f"--user-data-dir={folder / 'chromium'}"]
        if dark:
            words.append("--blink-settings=preferredColorScheme=0")
        shown, said = _dumped([*words, (folder / "frames.html").as_uri()], folder)
    found = re.search(r"FOUND(\{.*\})END", shown, flags=re.DOTALL)
    if not shown.strip():
        pytest.skip(f"Chromium cannot run here: {said.strip()[-300:]}")
    if not found:  # no AssertionError, which stands for a page that does not fit
        raise RuntimeError(f"Chromium measured nothing: {shown[-500:]} {said[-500:]}")
    return {int(width): facts for width, facts in json.loads(html.unescape(found[1])).items()}


def _dumped(words, folder):
    """What the page became, and what was said; one that hangs while it starts gets a second try."""
    for seconds in (60, 120):
        with subprocess.Popen(
            [CHROMIUM, *words],
            env=os.environ | {"HOME": str(folder), "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                return process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    pytest.skip(f"Chromium did not answer within {seconds} s")  # seen once, on a busy machine


def assert_fits(found):
    """Nothing scrolls sideways, no words overlap, leave their picture or are too small to read."""
    for width, facts in found.items():
        assert facts["wide"] <= 0, f"{width} px: the page is {facts['wide']} px too wide"
        assert not facts["cut"], f"{width} px: {facts['cut']}"
        assert not facts["unnamed"]
        for picture in facts["drawn"]:
            for word in picture["words"]:
                assert picture["left"] - 1 <= word["left"], word
                assert word["right"] <= picture["right"] + 1, word
                assert word["pixels"] >= 9, word
            assert not _overlapping(picture["words"])


def _overlapping(words, slack=1.5):
    return [
        (one["said"], other["said"])
        for number, one in enumerate(words)
        for other in words[:number]
        if min(one["right"], other["right"]) - max(one["left"], other["left"]) > slack
        and min(one["bottom"], other["bottom"]) - max(one["top"], other["top"]) > slack + 1
    ]
