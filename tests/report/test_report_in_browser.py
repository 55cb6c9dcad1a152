"""The report in Chromium, at the width of a phone and of a desk, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Tab, tab
from report_cases import KINDS, many_ranks

from muster.report.page import report_page

LOOK = """(() => {
  for (const part of document.querySelectorAll("details")) part.open = OPEN;
  const wide = document.documentElement.clientWidth, over = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    if (!text.data.trim() || text.parentElement.closest(".wide")) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    for (const box of range.getClientRects()) {
      if (box.width && (box.left < -1 || box.right > wide + 1)) { over.push(text.data.trim().slice(0, 60)); break; }
    }
  }
  const boxes = [...document.querySelectorAll("*")].filter(part => {
    const style = getComputedStyle(part);
    return part.scrollWidth > part.clientWidth + 1 && ["auto", "scroll"].includes(style.overflowX);
  }).map(part => part.className || part.tagName);
  const lanes = [...document.querySelectorAll(".track")].map(part => part.getBoundingClientRect().width);
  const small = [...document.querySelectorAll("body *")].filter(part =>
    part.childNodes.length && [...part.childNodes].some(child => child.nodeType === 3 && child.data.trim()) &&
    parseFloat(getComputedStyle(part).fontSize) < 11).length;
  const style = getComputedStyle(document.body);
  return {over, boxes, lanes, small, scrolls: document.documentElement.scrollWidth > wide,
    ink: style.color, ground: style.backgroundColor};
})()"""
"""Text outside of the window, boxes that scroll sideways, the widths of bars, text that is too small."""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with tab(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.mark.xdist_group("report")
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("kind", [*KINDS, "1024 ranks"])
def test_all_can_be_read(chromium: Tab, tmp_path: Path, kind: str, width: int) -> None:
    data = KINDS[kind] if kind in KINDS else many_ranks(1024)
    path = tmp_path / "report.html"
    path.write_text(report_page(data), encoding="utf-8")
    grounds = set()
    for dark in (False, True):
        chromium.size(width, 900, dark)
        chromium.show(f"file://{path}")
        assert [f"file://{path}"] == chromium.requests and not chromium.problems
        for state in ("true", "false"):
            seen = chromium.run(LOOK.replace("OPEN", state))
            assert not seen["over"], "words stand outside of the page"
            assert not seen["scrolls"], "the page is wider than the window"
            assert set(seen["boxes"]) <= {"wide"}, "only tables scroll sideways"
            assert not seen["small"], "text is too small to read"
        assert seen["ink"] != seen["ground"]
        assert all(lane > 0.3 * width for lane in seen["lanes"]), seen["lanes"]
        grounds.add(seen["ground"])
    assert 2 == len(grounds), "dark is dark"
