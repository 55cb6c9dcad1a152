"""Words that are not the field's stay away from messages, help and docs: `tools/words.py`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))


def test_no_word_is_back() -> None:
    import words

    assert [] == words.places()


def test_what_is_read() -> None:
    """Literals and f-strings, but no docstrings."""
    import words

    source = '"""Doc."""\nname = f"{a} ended well"\ntext = "the logs"\n'
    assert [(2, "{…} ended well"), (3, "the logs")] == sorted(words.literals(source))


def test_each_exception_has_a_reason_and_a_use() -> None:
    import words

    read = list(words.texts())
    for where, text, reason in words.ALLOWED:
        assert reason
        assert any(path.startswith(where) and text in line for path, _, line in read), (where, text)
