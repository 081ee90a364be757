#!/usr/bin/env python3
"""Say which translated help pages lag behind the English ones.

    python3 scripts/help_translations.py                      list the pages that lag, and why
    python3 scripts/help_translations.py --accept             every translation says what English says now
    python3 scripts/help_translations.py --accept zh Edit     the Chinese page of "Diff-QuickFix Edit" does

Languages and pages (without the prefix DiffQuickFix_) may be several; none means all. web/docs/ID.md is a node's help
page in English, web/docs/ID/LANGUAGE.md its translation. ComfyUI's page asks for the reader's language first, and looks
for a translation's picture beside the English page. A translation ends in a comment with a hash of the English text
that it says; --accept writes it anew, after the translation was changed. Standard library only.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "web" / "docs"
LANGUAGES = ("zh", "ja")
PREFIX = "DiffQuickFix_"
MARK = re.compile(r"\n*<!-- English: (\w+) -->\n*\Z")


def english_pages() -> list[Path]:
    return sorted(DOCS.glob("*.md"))


def translation_of(page: Path, language: str) -> Path:
    return page.with_suffix("") / f"{language}.md"


def hash_of(english: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of an English page."""
    return hashlib.sha256(english.encode()).hexdigest()[:16]


def without_mark(translation: str) -> str:
    """A translation as readers see it."""
    return MARK.sub("\n", translation)


def with_mark(translation: str, english: str) -> str:
    """A translation that says what ``english`` says."""
    return f"{without_mark(translation).rstrip()}\n\n<!-- English: {hash_of(english)} -->\n"


def why_it_lags(page: Path, language: str) -> str | None:
    """What is wrong with the translation of an English page, or None."""
    path = translation_of(page, language)
    if not path.exists():
        return "is missing"
    mark = MARK.search(path.read_text(encoding="utf-8"))
    if mark is None:
        return "does not say which English text it translates"
    if mark[1] != hash_of(page.read_text(encoding="utf-8")):
        return f"is older than {page.name}"
    return None


def lagging() -> list[str]:
    """One line for each translation that lags."""
    found = [(page, language, why_it_lags(page, language)) for page in english_pages() for language in LANGUAGES]
    return [f"{translation_of(page, language).relative_to(DOCS)} {why}" for page, language, why in found if why]


def accept(pages: list[Path], languages: tuple[str, ...] = LANGUAGES) -> None:
    """Write into the translations that they say what English says now."""
    for page in pages:
        english = page.read_text(encoding="utf-8")
        for path in (translation_of(page, language) for language in languages):
            if path.exists():
                path.write_text(with_mark(path.read_text(encoding="utf-8"), english), encoding="utf-8")


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--accept"]:
        languages = tuple(word for word in arguments[1:] if word in LANGUAGES)
        pages = {page.stem.removeprefix(PREFIX): page for page in english_pages()}
        names = [word for word in arguments[1:] if word not in LANGUAGES]
        if unknown := [name for name in names if name not in pages]:
            sys.exit(f"no help page {', '.join(unknown)}; there are {', '.join(pages)}")
        accept([pages[name] for name in names or pages], languages or LANGUAGES)
    elif arguments:
        sys.exit(__doc__)
    lines = lagging()
    print("\n".join(lines) or "every translation says what English says")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
