"""The site is built without a warning, and a browser shows it without asking anybody else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from browser import look

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.xdist_group("site")  # it is built once


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site in a folder."""
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    return folder


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """Its address while it is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(site))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def shown(url: str, folder: Path) -> tuple[str, str, set[str]]:
    """What a browser makes of a page: (its elements, what it said to the console, the addresses that it asked)."""
    done = look(url, folder, f"--log-net-log={folder}/net.json", "--enable-logging=stderr")
    console = "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE" in line)
    net = json.loads((folder / "net.json").read_text())
    requests = [event["params"] for event in net["events"] if "initiator" in event.get("params", {})]
    # a browser asks for the time and the like by itself; what a page asks for has that page's origin
    return done.stdout, console, {request["url"] for request in requests if request["initiator"].startswith("http")}


@pytest.mark.parametrize(
    ("page", "title", "has"),
    [
        ("index.html", "muster", 'href="guides/from-torchrun.html"'),
        ("guides/from-torchrun.html", "From torchrun", "<code>torchrun --nproc-per-node 4 train.py --lr 0.1</code>"),
        ("design.html", "The design of muster", "<img "),
    ],
)
def test_a_browser_shows_a_page(page: str, title: str, has: str, served: str, tmp_path: Path):
    elements, console, asked = shown(f"{served}/{page}", tmp_path)
    (heading,) = re.findall(r"<h1[^>]*>([^<]*)", elements)
    assert title == heading
    assert has in elements
    assert '<html lang="en" class="js' in elements, "its scripts have run"
    assert not console
    assert asked, "the page has a style and scripts"
    assert not {url for url in asked if not url.startswith(f"{served}/")}


def test_no_page_names_another_machine_for_what_it_loads(site: Path):
    loads = re.compile(r"<(?:link|script|img|iframe)\b[^>]*\b(?:href|src)=[\"']?((?:https?:)?//[^\"'> ]+)")
    found = {(path.name, url) for path in site.rglob("*.html") for url in loads.findall(path.read_text())}
    assert not found


def test_links_lead_somewhere_in_the_repository_too():
    """MkDocs looks at those of the site; here the same are looked at as files."""
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    wrong: list[str] = []
    for page in pages:
        text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
        dead = [target for target in targets if ":" not in target and not (page.parent / target).exists()]
        wrong += [f"{page.relative_to(ROOT)}: {target}" for target in dead]
    assert not wrong
