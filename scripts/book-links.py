#!/usr/bin/env python3
"""Whether every link and picture of a built book leads somewhere in it: book-links.py FOLDER."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.places = [], set()

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.places.add(value)
            if (tag, name) in {("a", "href"), ("img", "src")} and value:
                self.links.append(value)


def read(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def main():
    book = Path(sys.argv[1]).resolve()
    pages = {path: read(path) for path in book.rglob("*.html") if path.name not in {"404.html", "print.html", "toc.html"}}
    wrong, count = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            count += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target = target / "index.html"
            if not (target.is_relative_to(book) and target.exists()):
                wrong.append(f"{path.relative_to(book)}: {link} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                wrong.append(f"{path.relative_to(book)}: {link}: there is no such place on that page")
    print("\n".join(wrong) or f"{count} links of {len(pages)} pages lead somewhere")
    return 1 if wrong else 0


sys.exit(main())
