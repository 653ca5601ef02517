"""Independent readers of reports: HTML by the parser of the standard library, and strict JSON."""

import json
from html.parser import HTMLParser

import pytest

VOID = {"meta", "img"}
LOADING = {"src", "href", "srcset", "data", "action", "poster"}
FORBIDDEN = {"script", "link", "iframe", "base", "object"}


def read_json(path):
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name}: no JSON"))


class Reader(HTMLParser):
    """Tags, attributes and texts of a page; tags must be closed in their order.

    ``rows`` holds the texts of the cells of each table row, swatches and bars left out.
    """

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts, self.rows, self._open = [], [], [], [], []
        self.feed(page)
        self.close()
        assert self._open == [] and "nan" not in self.texts
        assert not FORBIDDEN & {*self.tags} and "@import" not in page and "url(" not in page

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open and (text := data.strip()):
            self.texts.append(text)
            if "td" in self._open or "th" in self._open:
                self.rows[-1][-1] += text

    def values(self, name):
        return [value for key, value in self.attributes if key == name]

    @property
    def loaded(self):
        return [value for name, value in self.attributes if name in LOADING and value[0] != "#"]
