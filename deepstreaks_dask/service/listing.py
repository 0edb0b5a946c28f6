"""Directory listings in HTML: the links to files of the very folder that is listed."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

from deepstreaks_dask.readers.depot import ADES, TABLE, TARBALL

MAX_PRODUCTS = 200_000
"""Files of one night, at most."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,200}", re.ASCII)
_PRODUCT_SUFFIXES = TARBALL, TABLE, ADES


class ListingError(Exception):
    """A page that is no listing, or cannot be parsed."""


def is_product(name: str) -> bool:
    """Return whether a file name is one of a night's products."""
    return bool(_FILE_NAME.fullmatch(name)) and name.endswith(_PRODUCT_SUFFIXES)


def parse_listing(page: str, url: str) -> dict[str, str]:
    """Return the products that a listing links to, with the text after each link: date and size, with most servers.

    Parameters
    ----------
    page : str
        HTML.
    url : str
        Of the page. Links that lead out of this folder, to other hosts or ports, are left out.

    Returns
    -------
    dict of str to str
        Text after the link, by file name, sorted.

    Raises
    ------
    ListingError
        If the page cannot be parsed, is no HTML, or has more than :data:`MAX_PRODUCTS` products.
    """
    if "\0" in page or "<" not in page:
        raise ListingError("the listing is no HTML")
    parser = _Parser()
    try:
        parser.feed(page)
    except (
        Exception
    ) as error:  # html.parser raises AssertionError, and whatever else, on what it does not know
        raise ListingError(f"the listing cannot be parsed: {error}") from error
    if parser.rawdata.startswith("<"):  # what is left over
        raise ListingError("the listing breaks off")
    origin, folder = urlsplit(url)[:2], urlsplit(url).path
    found: dict[str, str] = {}
    for href, said in parser.links:
        try:
            target = urlsplit(urljoin(url, href))
        except ValueError:
            continue
        path, _, name = target.path.rpartition("/")
        name = unquote(name)
        if target[:2] == origin and f"{path}/" == folder and is_product(name):
            found[name] = " ".join("".join(said).split())[:200]
    if len(found) > MAX_PRODUCTS:
        raise ListingError(f"the listing has {len(found)} products, more than {MAX_PRODUCTS}")
    return {name: found[name] for name in sorted(found)}


class _Parser(HTMLParser):
    """Links of a page, and the text after each."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, list[str]]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and (href := dict(attrs).get("href")):
            self.links.append((href, []))
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "a"

    def handle_data(self, data: str) -> None:
        if self.links and not self._inside:
            self.links[-1][1].append(data)
