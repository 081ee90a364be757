"""Before/After Sheet, on batches as ComfyUI hands them around."""

import pytest
import torch

# The pack's own code; ComfyUI's version has little to do with it.
pytestmark = pytest.mark.newest


def batch(count=2, height=32, width=48, channels=3, seed=0):
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def draw(run):
    def draw(before, after, columns="before | after", rows="a cat\na dog", **more):
        return run("BeforeAfterSheet", before, after, columns, rows, **more)

    return draw


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_sheet_and_what_changed(draw, dtype):
    before, after = batch().to(dtype), batch(seed=1).to(dtype)
    output = draw(before, after)
    sheet, report = output.args
    assert sheet.shape[0] == 1 and sheet.shape[3] == 3 and sheet.dtype == torch.float32
    assert 0 <= float(sheet.min()) < float(sheet.max()) <= 1
    first, _, *rows = report.splitlines()
    assert first.startswith('Beside "before", the 2 pictures changed by ') and '"after"' in first
    mean = 100 * (after.float() - before.float()).abs().mean(dim=(1, 2, 3))
    assert [rows[0], rows[2]] == ["row 1: a cat", "row 2: a dog"]
    assert [rows[1].split()[1], rows[3].split()[1]] == [f"{value:.0f}" for value in mean.tolist()]
    assert output.ui == {"diff_quickfix_report": [report]}


def test_more_columns_are_compared_with_the_first(draw):
    before, half = batch(), (batch() + batch(seed=1)) / 2
    sheet, report = draw(before, before, "off || half", third=half, fourth=batch(seed=1), rows="").args
    two, _ = draw(before, before, rows="").args
    assert sheet.shape[2] > 1.8 * two.shape[2]
    first, _, row, *columns = report.splitlines()
    assert 'not at all in "after"' in first and row == "row 1"
    said = [line.split(":")[0].strip() for line in columns[:3]]
    assert said == ["after", "half", "fourth"] and "no pixel changed" in columns[0]
    low, high = (float(line.split(":")[1].split()[0]) for line in columns[1:3])
    assert 0 < low == pytest.approx(high / 2, abs=1)


def test_transparency_is_left_out(draw):
    before = batch(channels=4)
    after = before.clone()
    after[..., 3] = 1 - after[..., 3]
    assert "not at all" in draw(before, after[..., :3]).args[1]


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (batch(3), r"before holds 2 pictures of 48 x 32, after 3 pictures of 48 x 32; expected as many"),
        (batch(width=32), r"after 2 pictures of 32 x 32"),
        (torch.full((2, 32, 48, 3), float("nan")), r"in after, picture 1, 2 holds values that are no numbers"),
    ],
)
def test_what_cannot_be_compared_is_refused(draw, after, said):
    with pytest.raises(ValueError, match=said):
        draw(batch(), after)


def test_lines_without_a_picture_and_letters_without_a_font_are_told(draw, monkeypatch):
    report = draw(batch(), batch(seed=1), rows="one\ntwo\nthree").args[1]
    assert report.endswith("rows has 3 lines for 2 pictures; the last were left out.")
    from pack_under_test.output import fonts

    monkeypatch.setattr(fonts, "_best_font", lambda characters: fonts._own_font())
    report = draw(batch(), batch(seed=1), rows="a \u661f\ntwo").args[1]
    assert report.endswith("No font on this machine has \u661f: squares stand in their place.")
    assert "font" not in draw(batch(), batch(seed=1)).args[1]
