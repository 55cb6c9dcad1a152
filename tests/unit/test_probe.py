"""The answer of the site hook to the agent's probe."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from muster.agent.hook import probe

TEXTS = ["", "plain", 'a "b" \\ c', "tab\tnew\nline\x00\x7f", "é ☃ 𝄞", "\udcff", "/a b/c"]


def test_json_is_json() -> None:
    """Any path can be told."""
    value = {"texts": TEXTS, "yes": True, "no": False, "nothing": None, **{text: text for text in TEXTS}}
    assert value == json.loads(probe._json(value))


@pytest.mark.parametrize(
    "text, torch, cuda",
    [
        (
            "__all__ = ['cuda']\n__version__ = '2.13.0+cpu'\ndebug = False\ncuda: Optional[str] = None\n",
            "2.13.0+cpu",
            None,
        ),
        ("__version__ = '2.14.0'\ncuda: Optional[str] = '13.0'\ncuda_more = 'x'", "2.14.0", "13.0"),
        ("__version__ = '1.9.0'\ncuda = '11.1'\n", "1.9.0", "11.1"),
        ("__version__ = make()\n", None, None),
    ],
)
def test_versions_are_read(text: str, torch: str, cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From torch's version.py, without importing it."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ValueError")
    (tmp_path / "torch" / "version.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    reading, writing = os.pipe()
    probe.prove({"fd": writing})
    data = os.read(reading, 1 << 16)
    os.close(reading)
    assert len(data) == 4 + int.from_bytes(data[:4], "big")
    said = json.loads(data[4:])
    assert ("python_probed", torch, cuda, True) == (said["op"], said["torch"], said["cuda"], said["has_torch"])
    assert str(tmp_path) == said["path"][0]
