"""Check the links of a built site: every link has a target, every anchor exists, and nothing is loaded from elsewhere.

Zensical checks the links between pages. It does not check those to images and other files, nor those that its own
templates write.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADS = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
"""The elements that make a browser load something, and the attribute that says what."""
_IN_STYLES = re.compile(r"""url\(\s*["']?((?:https?:)?//[^"')\s]+)|@import\s+["']([^"']+)""")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


class _Page(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        if _LOADS.get(tag) in values and values.get("rel") not in ("prev", "next", "canonical"):
            self.loads.add(values[_LOADS[tag]])
        elif tag == "link" and "href" in values:
            self.links.add(values["href"])
        self.loads.update(part.split()[0] for part in values.get("srcset", "").split(",") if part.strip())


def _elsewhere(url: str) -> bool:
    return bool(urlsplit(url).netloc)


def faults(site: Path) -> list[str]:
    """Return what is wrong with the links of the site in this directory, each fault with its page."""
    pages = {str(path.relative_to(site)): _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    wrong = [f"{name}: loads {url}" for name, page in pages.items() for url in sorted(filter(_elsewhere, page.loads))]
    for name, page in pages.items():
        wrong += [
            f"{name}: {fault}" for url in sorted(page.links | page.loads) for fault in _dead(url, name, pages, site)
        ]
    for path in sorted(site.rglob("*.css")):
        found = _IN_STYLES.findall(_COMMENT.sub("", path.read_text()))
        wrong += [f"{path.relative_to(site)}: loads {remote or imported}" for remote, imported in found]
    return wrong


def _dead(url: str, name: str, pages: dict[str, _Page], site: Path) -> Iterator[str]:
    """Yield why a link of the page `name` leads nowhere; links to other sites are not followed."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return
    path = unquote(parts.path)
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
    target = target.lstrip("/")  # 404.html has absolute addresses, as it is shown in place of any page
    if target.endswith("/") or (site / target).is_dir():
        target = posixpath.normpath(f"{target}/index.html")
    if target.startswith("../") or not (site / target).is_file():
        yield f"there is no {url}"
    elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        yield f"there is no anchor {url}"
