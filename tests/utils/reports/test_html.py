import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from utils.reports.html import (
    Section,
    bar_html,
    columns_html,
    figures_html,
    legend_html,
    list_html,
    name_html,
    page,
    picture_html,
    preformatted_html,
    row_html,
    table_html,
    text_html,
    together,
)

EVIL = """<script>alert('x')</script> & "quoted" """
VOID = {"meta", "img"}
LOADING = {"src", "href", "srcset", "data", "action", "poster"}


class Reader(HTMLParser):
    """Tags in order, what they load, and their texts; tags must be closed in their order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def loaded(self):
        return [value for name, value in self.attributes if name in LOADING]


def noise(height=6, width=4):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def everything():
    sections = [
        Section(title=f"{EVIL}{number}", body=together(text_html(EVIL), preformatted_html(EVIL)))
        for number in range(3)
    ]
    tables = columns_html(
        table_html([EVIL, "b"], [[EVIL, "1"], [name_html(EVIL, (1, 2, 3)), "2"]], (1,)),
        list_html({EVIL: EVIL}),
    )
    pictures = row_html(EVIL, [picture_html(noise(), EVIL, EVIL, photo=p) for p in (True, False)])
    rest = together(legend_html([EVIL], [(9, 8, 7)]), pictures, figures_html([(EVIL, EVIL, EVIL)]))
    sections += [Section(title="tables", body=tables), Section(title="rest", body=rest)]
    return page(EVIL, sections, text_html(EVIL, faint=True))


def test_every_text_is_escaped_and_comes_back_as_it_was():
    read = Reader(everything())
    assert "script" not in read.tags
    assert sum(EVIL in text for text in read.texts) >= 18
    assert [value for name, value in read.attributes if name == "alt"] == [EVIL, EVIL]


def test_nothing_is_loaded_from_elsewhere():
    text = everything()
    read = Reader(text)
    assert read.loaded and all(
        re.match(r"data:image/(png|jpeg);base64,|#s\d$", x) for x in read.loaded
    )
    assert not {"script", "link", "iframe", "base", "object"} & {*read.tags}
    assert "@import" not in text and "url(" not in text and "http" not in text


def test_the_same_input_gives_the_same_bytes():
    assert everything() == everything()


def test_links_lead_to_the_sections():
    read = Reader(everything())
    targets = [f"#{value}" for name, value in read.attributes if name == "id"]
    assert [value for name, value in read.attributes if name == "href"] == targets
    assert len(targets) == 5
    assert "href" not in page("few", [Section(title="one", body=text_html("x"))])


def embedded(html):
    kind, data = re.search(r"data:image/(\w+);base64,([^\"]+)", html).groups()
    return kind, np.array(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize("shape", [(6, 4, 3), (6, 4)])
def test_pictures_are_embedded_pixel_by_pixel(shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    html = picture_html(array, "", "an array")
    kind, back = embedded(html)
    assert kind == "png" and np.array_equal(back, array)
    assert 'width="4" height="6"' in html and "figcaption" not in html


def test_photos_are_smaller_and_look_the_same():
    slope = np.add.outer(np.arange(120), np.arange(160))
    array = np.clip(np.stack([slope, slope, slope], -1) + noise(120, 160) // 8, 0, 255)
    array = array.astype(np.uint8)
    photo, exact = (picture_html(array, "", "", photo=flag) for flag in (True, False))
    kind, back = embedded(photo)
    assert kind == "jpeg" and len(photo) < len(exact) / 2
    assert abs(back.astype(int) - array).mean() < 6


def test_numbers_stand_to_the_right_and_names_to_the_left():
    html = table_html(["name", "a", "note"], [["x", "1", "y"], ["z", "2"]], (1,), (0, 2))
    assert "<tr><th class=text>name</th><th>a</th><th class=text>note</th></tr>" in html
    assert "<tr><td class=text>x</td><td>1</td><td class=text>y</td></tr>" in html
    assert "<tr class=rule><td class=text>z</td><td>2</td><td class=text></td></tr>" in html


def test_a_bar_is_as_long_as_its_share_with_its_interval_on_it():
    html = bar_html(0.25, (255, 0, 16), 0.2, 0.5)
    assert 'style="width:25.00%;background:#ff0010"' in html
    assert 'class="range" style="left:20.00%;width:30.00%"' in html
    nan = float("nan")
    assert "range" not in bar_html(0.25, (0, 0, 0), nan, nan)
    assert bar_html(nan, (0, 0, 0)) == '<span class="bar"></span>'
