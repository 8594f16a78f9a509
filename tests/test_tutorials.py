"""Every page of docs/ with something to type works as it stands, and prints what it shows."""

import re
from pathlib import Path

import pytest
from pages import Page, prints

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [page for page in map(Page, sorted(DOCS.glob("*.md"))) if page.blocks]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.stem)
def test_a_page_works(page, tmp_path):
    page.run(tmp_path)
    pictures = set(re.findall(r"\]\(pictures/([^)]+)\)", page.text))
    assert pictures <= {path.name for path in tmp_path.rglob("*")}, "made by nothing on the page"


def test_links_lead_somewhere():
    for path in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (DOCS / target).exists(), f"{path.name}: {target}"


def test_pictures_are_small_and_shown():
    text = "".join(path.read_text() for path in DOCS.glob("*.md"))
    for path in (DOCS / "pictures").glob("*"):
        assert path.stat().st_size < 60_000, path.name
        assert f"](pictures/{path.name})" in text, f"{path.name} stands on no page"


def test_blocks_share_a_folder_and_a_namespace(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(
        "```python\nx = 2\n```\n```bash\necho a > b\necho no >&2; cat b\n```\n"
        "```output\nno\na\n```\n"
        "```text\nfalse\n```\n```python\nprint(x, 0.5, open('b').read())\n```\n"
        "```output\n2 0.52 a\n```\n"
    )
    Page(path).run(tmp_path)
    path.write_text("```bash\nfalse\ntrue\n```\n")
    with pytest.raises(AssertionError, match="line 2"):
        Page(path).run(tmp_path)
    path.write_text("```bash\necho a\n```\n```output\nb\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:2 prints\na"):
        Page(path).run(tmp_path)


def test_what_may_be_shown_for_what_was_printed():
    assert prints("12 of 0.50, ...\nend", "12 of 0.55, 3 s\n...\nend\n")
    assert not prints("12 of 0.50", "13 of 0.50")
    assert not prints("12 of 0.50", "12 of 0.71")
    assert not prints("a", "a\nb")
