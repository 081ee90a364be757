"""Draw docs/banner.png, the listing's banner (21:9), from the pictures of docs/remove-a-style.png.

python3 scripts/bootstrap.py run -- python scripts/banner.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
PICTURES, BANNER = ROOT / "docs" / "remove-a-style.png", ROOT / "docs" / "banner.png"
SIZE = (1260, 540)
PAPER, INK, FAINT = "#fbfaf7", "#1d2433", "#5b6475"
# The first four pairs of the sheet: each picture is 128 wide, those after the edit stand below those before it.
PAIRS, PICTURE, SHOWN = 4, 128, 176
LEFT, TOP, GAP = 492, 82, 6
TITLE = "Diff-QuickFix"
LINES = ("See where a model keeps", "a concept. Remove it in", "well under a second.")


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, which is the same everywhere."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def draw_banner(sheet: Image.Image) -> Image.Image:
    """The banner, of the sheet of pictures before and after an edit."""
    banner = Image.new("RGB", SIZE, PAPER)
    pen = ImageDraw.Draw(banner)
    pen.text((50, 96), TITLE, INK, font(54, bold=True))
    for number, line in enumerate(LINES):
        pen.text((52, 206 + 44 * number), line, FAINT, font(30))
    pen.text((52, 388), "for ComfyUI, from Python", INK, font(24))
    pen.text((52, 422), "and from the shell", INK, font(24))
    for row, label in enumerate(("a ... in the style of van gogh", "the same prompts and seeds after the edit")):
        top = TOP + row * (SHOWN + 52)
        pen.text((LEFT, top - 34), label, INK, font(22))
        for column in range(PAIRS):
            place = (column * PICTURE, row * PICTURE, (column + 1) * PICTURE, (row + 1) * PICTURE)
            picture = sheet.crop(place).resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)
            banner.paste(picture, (LEFT + column * (SHOWN + GAP), top))
    return banner


def main() -> None:
    draw_banner(Image.open(PICTURES).convert("RGB")).quantize(256).save(BANNER, optimize=True)
    print(f"{BANNER.name}: {BANNER.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
