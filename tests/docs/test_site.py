"""The site is built without a warning, and a browser shows it without a request to another machine."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from browser import Tab, tab
from waiting import until

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools" / "site"))

pytestmark = pytest.mark.xdist_group("site")  # it is built once

PHONE, DESK = (390, 844), (1440, 900)

LAYOUT = r"""(() => {
  const box = element => element.getBoundingClientRect();
  const name = element => element.outerHTML.slice(0, 100);
  const floats = element => getComputedStyle(element).position === "fixed";  // as the menu of a phone
  const hidden = element => !element.offsetHeight || getComputedStyle(element).visibility === "hidden";
  const scrolls = element => {
    for (; element; element = element.parentElement)
      if (/auto|scroll/.test(getComputedStyle(element).overflowX)) return true;
    return false;
  };
  const overlaps = (one, other) =>
    box(one).left < box(other).right - 1 && box(other).left < box(one).right - 1 &&
    box(one).top < box(other).bottom - 1 && box(other).top < box(one).bottom - 1;
  const collisions = query => {
    const all = [...document.querySelectorAll(query)].filter(e => !hidden(e) && !floats(e));
    return all.flatMap((one, i) => all.slice(i + 1).filter(other => overlaps(one, other)).map(name));
  };
  return {
    scrolls: document.documentElement.scrollWidth > innerWidth,
    cut: [...document.querySelectorAll("article *")]
      .filter(element => box(element).right > innerWidth + 1 && !scrolls(element)).map(name),
    overlap: [".md-header__inner > *", ".md-main__inner > *", "article > *"].flatMap(collisions),
    titles: document.querySelectorAll("h1").length,
    markdown: [...document.querySelectorAll("article p")]
      .filter(element => /^([-*+|] |\d+\. |```)/m.test(element.innerText)).map(name),
    scripts: document.documentElement.classList.contains("js"),
  };
})()"""
"""What is wrong with the layout of a page, and whether its scripts have run."""

RIGHT = {"scrolls": False, "cut": [], "overlap": [], "titles": 1, "markdown": [], "scripts": True}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the site."""
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, str(ROOT / "tools" / "site" / "render.py"), str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    return folder / "site"


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """The URL of the site while it is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(site))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A page of a browser."""
    with tab(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def show(page: Tab, served: str, name: str) -> None:
    """Open a page of the site; all that it loads comes from the site, and nothing is wrong on the console."""
    page.show(f"{served}/{name}")
    assert [] == page.problems
    assert len(page.requests) > 3, "the page has styles and scripts"
    assert not [url for url in page.requests if not url.startswith(f"{served}/")]


@pytest.mark.slow
def test_every_page_fits_on_a_phone_and_loads_nothing_from_elsewhere(site: Path, served: str, page: Tab) -> None:
    page.size(*PHONE)
    for path in sorted(site.rglob("*.html")):
        name = str(path.relative_to(site))
        show(page, served, name)
        assert RIGHT == page.run(LAYOUT), name


@pytest.mark.parametrize("dark", [False, True])
def test_pages_on_a_desk_in_light_and_dark(dark: bool, served: str, page: Tab) -> None:
    page.size(*DESK, dark=dark)
    for name in ("index.html", "design.html", "reference/options.html", "guides/from-torchrun.html"):
        show(page, served, name)
        assert RIGHT == page.run(LAYOUT), name
        red, green, blue = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")[:3]
        assert dark == (max(red, green, blue) < 128)


def test_a_reader_chooses_light_or_dark(served: str, page: Tab) -> None:
    page.size(*DESK, dark=False)
    show(page, served, "index.html")
    scheme = "document.body.dataset.mdColorScheme"
    change = "[...document.querySelectorAll('[data-md-component=palette] label')].find(e => !e.hidden).click()"
    assert "default" == page.run(scheme)
    page.run(change)  # from the system's choice to light
    page.run(change)  # to dark
    until(lambda: "slate" == page.run(scheme), "the page is dark")
    show(page, served, "design.html")
    assert "slate" == page.run(scheme), "the choice is kept"
    page.run("localStorage.clear()")


def test_a_reader_searches(served: str, page: Tab) -> None:
    page.size(*PHONE)
    show(page, served, "design.html")
    page.run("document.querySelector('.md-search__button').click()")
    dialog = "document.activeElement?.shadowRoot"
    until(lambda: page.run(f"{dialog}?.activeElement?.tagName") == "INPUT", "the field for the search has the focus")
    page.send("Input.insertText", text="preemption")
    links = f"[...{dialog}.querySelectorAll('a')].map(link => link.href)"
    found = until(lambda: page.run(links), "there are results")
    assert any("guides/preemption.html" in url for url in found), found
    assert not [url for url in [*page.requests, *found] if not url.startswith(f"{served}/")]


def test_a_block_of_code_is_copied_by_a_click(served: str, page: Tab) -> None:
    page.size(*DESK)
    show(page, served, "hosts.html")
    assert page.run("document.querySelectorAll('pre').length === document.querySelectorAll('pre button').length")
    page.run("document.querySelector('pre button').click()")
    until(lambda: "Copied" in page.run("document.querySelector('.md-dialog').textContent"), "the page says so")


def test_every_footer_links_the_glossary(site: Path) -> None:
    for path in site.rglob("*.html"):
        footer = path.read_text().partition("<footer")[2]
        assert re.search(r'href="[./]*glossary\.html"', footer), path


def test_code_in_tables_is_shown_as_in_the_repository(site: Path) -> None:
    assert not [path for path in site.rglob("*.html") if re.search(r"<td>.*\\\|", path.read_text())]
    assert '<span class="whole">--nproc-per-node</span>' in (site / "guides" / "from-torchrun.html").read_text()


def test_broken_links_are_found(tmp_path: Path) -> None:
    from links import faults

    (tmp_path / "guides").mkdir()
    (tmp_path / "guides" / "one.html").write_text('<a id="here" href="../index.html#there">a</a><a href="#here">b</a>')
    (tmp_path / "index.html").write_text(
        '<p id="there"></p><a href="guides/one.html#here">a</a><a href="guides/one.html#gone">b</a>'
        '<a href="two.html">c</a><a href="../outside.html">d</a>'
        '<a href="https://example.org/x">e</a><img src="plot.svg">'
        '<script src="https://example.org/x.js"></script><link rel="stylesheet" href="style.css">'
    )
    (tmp_path / "style.css").write_text(
        "/* https://example.org */ @font-face { src: url(//example.org/a) } b { background: url(data:image/png) }"
    )
    assert faults(tmp_path) == [
        "index.html: loads https://example.org/x.js",
        "index.html: there is no ../outside.html",
        "index.html: there is no anchor guides/one.html#gone",
        "index.html: there is no plot.svg",
        "index.html: there is no two.html",
        "style.css: loads //example.org/a",
    ]


def test_a_page_that_is_missing_in_the_navigation_is_found(tmp_path: Path) -> None:
    from render import nav_faults

    for name in ("index", "one", "lost"):
        (tmp_path / f"{name}.md").touch()
    nav = [{"Start": "index.md"}, {"Group": ["one.md", {"Two": "two.md"}, {"Again": "one.md"}]}]
    assert nav_faults(nav, tmp_path) == [
        "navigation: there is no page two.md",
        "navigation: lost.md is missing in tools/site/zensical.toml",
        "navigation: one.md is listed twice",
    ]


def test_links_are_changed_to_where_things_are_on_the_site() -> None:
    from render import sources, turned

    names = {path.resolve(): name for name, path in sources().items()}
    text = (
        "[a](docs/hosts.md#files) [b](CONTRIBUTING.md) [c](https://example.org/docs/hosts.md) [d](#here)\n"
        '<img src="docs/architecture.svg">\n'
        "```\n[e](docs/hosts.md)\n```\n"
    )
    assert turned(text, "index.md", ROOT / "README.md", names) == (
        "[a](hosts.md#files) [b](CONTRIBUTING.md) [c](https://example.org/docs/hosts.md) [d](#here)\n"
        '<img src="architecture.svg">\n'
        "```\n[e](docs/hosts.md)\n```\n"
    )
    guide = ROOT / "docs" / "guides" / "logs.md"
    links = "[a](../../examples/train_llm.py) [b](../../README.md) [c](../hosts.md)"
    changed = "[a](../examples/train_llm.py) [b](../index.md) [c](../hosts.md)"
    assert changed == turned(links, "guides/logs.md", guide, names)


def test_lists_are_indented_as_python_markdown_reads_them() -> None:
    from render import turned

    text = "- one\n  two\n\n  ```\n  code\n    more\n  ```\n- next\n  - deeper\n    text\n\n1. a\n\n   b\n\n    code\n"
    right = (
        "- one\n    two\n\n    ```\n    code\n      more\n    ```\n\n- next\n    - deeper\n        text\n\n"
        "1. a\n\n    b\n\n     code\n"
    )
    assert right == turned(text, "index.md", ROOT / "README.md", {})
    assert "    code\n" == turned("    code\n", "index.md", ROOT / "README.md", {})


def test_links_of_pages_lead_to_files_of_the_repository() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    wrong: list[str] = []
    for page in pages:
        text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
        dead = [target for target in targets if ":" not in target and not (page.parent / target).exists()]
        wrong += [f"{page.relative_to(ROOT)}: {target}" for target in dead]
    assert not wrong
