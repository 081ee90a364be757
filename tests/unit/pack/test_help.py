"""The help pages: each has one small picture that exists, with words for those who cannot see it."""

import re
from pathlib import Path

import pytest
from PIL import Image

DOCS = Path(__file__).resolve().parents[3] / "web" / "docs"
PAGES = sorted(DOCS.glob("*.md"))
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]*)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem.removeprefix("DiffQuickFix_"))
def test_a_page_shows_its_node(page):
    ((words, file),) = PICTURE.findall(page.read_text())
    assert file == f"{page.stem}.webp" and len(words) > 15
    with Image.open(DOCS / file) as picture:
        picture.load()
        assert picture.format == "WEBP" and 150 <= picture.width <= 760 and 60 <= picture.height <= 1100
        # Not an empty canvas.
        assert len(picture.convert("L").getcolors(256)) > 20
    assert (DOCS / file).stat().st_size < 60_000


def test_the_pictures_are_small_together_and_none_is_left_over():
    pictures = list(DOCS.glob("*.webp"))
    assert {path.stem for path in pictures} == {page.stem for page in PAGES} and len(PAGES) >= 24
    assert sum(path.stat().st_size for path in pictures) < 1_200_000
