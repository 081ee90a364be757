"""The sheet: every picture is on it once, unaltered or enlarged, and labels keep to their places, in any script."""

import numpy as np
import pytest
from diff_quickfix.output import fonts
from diff_quickfix.output.fonts import PLACEHOLDER, font_for
from diff_quickfix.output.picture_sheet import INK, LARGEST, LINES, PAPER, SMALLEST, Label, draw_sheet

STARS, CYRILLIC = "\u661f\u6708\u591c", "\u0437\u0432\u0451\u0437\u0434\u044b"
LONG = "a quiet village under a night sky, oil painting in the style of van gogh, " * 8


def flat(color, count, height, width):
    return np.broadcast_to(np.array(color, float), (count, height, width, 3))


def sheet(columns, rows=None):
    rows = rows or [""] * len(columns[0])
    captions = [[""] * len(rows) for _ in columns]
    return draw_sheet(columns, [f"column {n}" for n in range(len(columns))], rows, captions)[0]


@pytest.mark.parametrize(("side", "shown"), [(64, 256), (128, 256), (SMALLEST, SMALLEST), (500, 500), (1024, LARGEST)])
def test_each_picture_is_in_its_row_and_column(side, shown):
    colors = np.array([[(200, 0, 0), (0, 200, 0)], [(0, 0, 200), (200, 0, 200)], [(0, 200, 200), (90, 90, 90)]])
    whole = sheet([np.stack([flat(color / 255, 1, side // 2, side)[0] for color in column]) for column in colors])
    places = {}
    for column, row in np.ndindex(3, 2):
        ys, xs = np.nonzero((whole == colors[column, row]).all(-1))
        assert len(ys) == shown * (shown // 2) == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)
        places[column, row] = (xs.min(), ys.min())
    for row in range(2):
        assert len({places[column, row][1] for column in range(3)}) == 1
        assert places[0, row][0] < places[1, row][0] < places[2, row][0]
    assert all(places[column, 0][1] < places[column, 1][1] for column in range(3))


def test_enlarged_pixels_stay_what_they_are():
    picture = np.random.default_rng(0).integers(0, 200, (1, 64, 64, 3)) / 255
    whole = sheet([picture, picture])
    pixels = {tuple(pixel) for pixel in np.rint(255 * picture).astype(int).reshape(-1, 3)}
    found = {tuple(pixel) for pixel in whole.reshape(-1, 3).astype(int)}
    assert pixels <= found


@pytest.mark.parametrize(
    "text", ["", "x", LONG, "x" * 400, "line\nbreak\x00\x1b[0m", "\u0437\u0432\u0451\u0437\u0434\u044b"]
)
def test_a_label_keeps_to_its_width(text):
    label = Label(text, 14, 220)
    assert len(label.lines) <= LINES and all(label.font.getlength(line) <= 221 for line in label.lines)
    assert all(line.isprintable() for line in label.lines)
    assert label.height == label.line_height * len(label.lines)
    cut = bool(label.lines) and label.lines[-1].endswith("...")
    assert cut == (text in (LONG, "x" * 400))
    if text == LONG:
        assert " ".join(label.lines).removesuffix("...") in LONG


def test_labels_take_room_only_where_there_are_any():
    columns = [flat((0, 0, 0), 2, 256, 256)] * 2
    plain, labelled = sheet(columns), sheet(columns, ["a cat", ""])
    assert labelled.shape[0] > plain.shape[0] and labelled.shape[1] == plain.shape[1]


def dark(image):
    return int((image.mean(-1) < 160).sum())


def test_the_labels_are_drawn():
    columns, captions = [flat((1, 1, 1), 1, 256, 256)] * 2, [[""], ["changed"]]
    drawn = [
        draw_sheet(columns, names, [row], caption)[0]
        for names, row, caption in (
            (["", ""], "", [[""], [""]]),
            (["off", "on"], "", [[""], [""]]),
            (["", ""], "a cat", [[""], [""]]),
            (["", ""], "", captions),
        )
    ]
    assert PAPER != INK and dark(drawn[0]) == 0 and all(dark(one) > 20 for one in drawn[1:])


def test_a_script_that_no_font_has_is_squares_and_is_told(monkeypatch):
    monkeypatch.setattr(fonts, "_best_font", lambda characters: fonts._own_font())
    font, shown, lacking = font_for(f"{STARS} night {STARS}", 16)
    assert (shown, lacking) == (f"{3 * PLACEHOLDER} night {3 * PLACEHOLDER}", STARS)
    columns = [flat((0, 0, 0), 1, 256, 256)] * 2
    assert draw_sheet(columns, ["off", f"on {STARS}"], [STARS], [[""], [""]])[1] == STARS
    assert font.getlength(PLACEHOLDER) > 0 and font_for(CYRILLIC, 16)[2] == ""


def test_a_font_of_the_machine_is_taken_that_has_the_script(monkeypatch):
    """Of the fonts that Matplotlib ships with, a mathematical one has what DejaVu Sans lacks."""
    from matplotlib.font_manager import fontManager

    own = fonts._characters(fonts._own_font())
    paths = {f.fname: fonts._characters(f.fname) for f in fontManager.ttflist if "STIXGeneral.ttf" in f.fname}
    ((_, there),) = paths.items()
    rare = chr(min(code for code in there - own if code > 255))
    font, shown, lacking = font_for(rare, 16)
    assert shown == rare and lacking == "" and font.path != str(fonts._own_font())
    assert ord(rare) in fonts._characters(font.path) and "LastResort" not in font.path
