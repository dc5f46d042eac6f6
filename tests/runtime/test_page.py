import base64
import io

import numpy as np
import numpy.typing as npt
import pytest
from page_reader import Reader, references
from PIL import Image

from bitlens.runtime import page
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.pictures import png_bytes

POISON = """<script>alert('x')</script><img src=x onerror="alert(1)">&amp; " ' </table></style>"""


@pytest.fixture
def picture() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.fixture
def whole(picture: npt.NDArray[np.uint8]) -> str:
    png = png_bytes(picture)
    grid = page.picture_grid(
        ["digit 3", "digit 8"],
        ["image", "w4a4"],
        [[page.PictureCell(png, "a three"), page.PictureCell(png, "map of a three", "3, 98 %")], [None, None]],
        "Maps",
    )
    numbers = page.table(
        ["network", "bytes", "accuracy"], [["w4a4", "12,345", "97.2 %"], ["w1a1", "999", "-"]], "Sizes"
    )
    parts = [page.paragraph("What follows."), numbers, grid, page.picture(png, "a bar", "The scale")]
    return page.page("Five nets & their maps", [page.section("Results", parts)])


def test_page_is_balanced_and_complete(whole: str) -> None:
    reader = Reader(whole)
    assert reader.wrong == []
    assert whole.startswith("<!DOCTYPE html>")
    assert reader.all("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in reader.all("meta")
    assert any(meta.get("name") == "viewport" for meta in reader.all("meta"))
    assert reader.words["title"] == reader.words["h1"] == ["Five nets & their maps"]
    assert reader.words["h2"] == ["Results"]
    assert reader.all("script") == []


@pytest.mark.parametrize("broken", ["<p><b>bold</p></b>", "<main><p>open</p>", "</div>"])
def test_the_balance_check_can_fail(broken: str) -> None:
    assert Reader(broken).wrong != []


def test_page_refers_to_nothing_outside(whole: str) -> None:
    assert references(whole) == []
    policies = [meta["content"] for meta in Reader(whole).all("meta") if "http-equiv" in meta]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_a_page_that_is_still_written_opens_itself_anew(whole: str) -> None:
    text = page.page("Training", [page.paragraph("a")], refresh_seconds=5)
    assert [meta["content"] for meta in Reader(text).all("meta") if meta.get("http-equiv") == "refresh"] == ["5"]
    assert references(text) == []
    assert "refresh" not in whole
    with pytest.raises(BitlensError, match="at least 1 second between refreshes, got 0"):
        page.page("Training", [], refresh_seconds=0)


@pytest.mark.parametrize(
    "outside",
    [
        '<img src="https://example.org/a.png">',
        '<img src="a.png">',
        '<link rel="stylesheet" href="style.css">',
        "<style>body { background: url(a.png) }</style>",
        '<script src="//cdn.example.org/a.js"></script>',
    ],
)
def test_the_check_for_references_can_fail(outside: str) -> None:
    assert references(outside) != []


def test_every_image_holds_the_picture_its_size_and_a_text(whole: str, picture: npt.NDArray[np.uint8]) -> None:
    images = Reader(whole).all("img")
    assert [image["alt"] for image in images] == ["a three", "map of a three", "a bar"]
    for image in images:
        assert (image["width"], image["height"]) == ("9", "6")
        kind, data = (image["src"] or "").split(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as opened:
            np.testing.assert_array_equal(np.asarray(opened), picture)


def test_tables_can_be_read_aloud_and_by_keyboard(whole: str) -> None:
    reader = Reader(whole)
    assert reader.words["caption"] == ["Sizes", "Maps"]
    assert [header["scope"] for header in reader.all("th")] == ["col"] * 3 + ["row"] * 2 + ["col"] * 2 + ["row"] * 2
    regions = [division for division in reader.all("div") if division.get("role") == "region"]
    assert [(region["tabindex"], region["aria-label"]) for region in regions] == [("0", "Sizes"), ("0", "Maps")]


@pytest.mark.parametrize(
    ("cells", "right"),
    [
        (["1", "2.5", "-3e-7", "\u22124", "12,345", "97.2 %", "14 KiB", "3.1 ms"], True),
        (["0.468 (0.459\u20130.477)", "\u22120.1 (\u22120.2\u20130.1)", "\u2013"], True),
        (["\u2013"], False),
        (["1 (2)"], False),
        (["1", "none"], False),
        (["w4a4"], False),
        ([""], False),
        ([], False),
    ],
)
def test_columns_of_numbers_are_set_to_the_right(cells: list[str], right: bool) -> None:
    text = page.table(["name", "value"], [["a", cell] for cell in cells], "Values")
    assert [header.get("class") for header in Reader(text).all("th")][:2] == [None, "number" if right else None]


def test_no_text_can_become_markup(picture: npt.NDArray[np.uint8]) -> None:
    cell = page.PictureCell(png_bytes(picture), POISON, POISON)
    parts = [
        page.paragraph(POISON),
        page.table([POISON, POISON], [[POISON, POISON]], POISON),
        page.picture_grid([POISON], [POISON], [[cell]], POISON),
        page.picture(cell.png, POISON, POISON),
    ]
    text = page.page(POISON, [page.section(POISON, parts)])
    reader = Reader(text)
    assert "<script" not in text
    assert reader.wrong == []
    assert reader.all("script") == []
    assert len(reader.all("img")) == 2
    assert all("onerror" not in attributes for _, attributes in reader.elements)
    assert {image["alt"] for image in reader.all("img")} == {POISON}
    for tag in ("title", "h1", "h2", "p", "caption", "th", "td", "figcaption"):
        assert set(reader.words[tag]) == {POISON}, tag


def test_characters_that_no_file_can_hold_are_replaced() -> None:
    text = page.paragraph("a\x00b\ud800c\x1bd\ne")
    assert text == "<p>a\ufffdb\ufffdc\ufffdd\ne</p>\n"
    assert text.encode()


def test_wrong_shapes_and_pictures_are_refused(picture: npt.NDArray[np.uint8]) -> None:
    png = png_bytes(picture)
    with pytest.raises(BitlensError, match="expected 2 cells in each row of the table 'Sizes', got 1 in row 1"):
        page.table(["a", "b"], [["1", "2"], ["3"]], "Sizes")
    with pytest.raises(BitlensError, match="at least one column header"):
        page.table([], [], "Empty")
    with pytest.raises(BitlensError, match="expected 2 rows in the grid 'Maps', got 1"):
        page.picture_grid(["a", "b"], ["c"], [[None]], "Maps")
    with pytest.raises(BitlensError, match="expected 1 cells in each row of the grid 'Maps', got 0 in row 0"):
        page.picture_grid(["a"], ["c"], [[]], "Maps")
    with pytest.raises(BitlensError, match="bytes of a PNG file"):
        page.picture(b"GIF89a", "a picture", "")
    with pytest.raises(BitlensError, match="say what it shows"):
        page.picture(png, "  ", "")
