"""What is different on the site: README.md is its start page, and other files of the root lie beside the pages.

Links are written for those who read in the repository; here they are turned to where things lie on the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent


def on_files(files: Any, config: Any) -> Any:
    """Add the start page, the other pages of the root, and the examples."""
    pages = [("index.md", "README.md"), *((name, name) for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"))]
    for name, source in pages:
        text = re.sub(r"\]\(docs/", "](", (ROOT / source).read_text())
        files.append(File.generated(config, name, content=text))
    for path in sorted((ROOT / "examples").iterdir()):
        if path.is_file():
            files.append(File.generated(config, f"examples/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Examples are one folder nearer than in the repository."""
    return re.sub(r"\]\((\.\./)*\.\./examples/", lambda found: f"]({found[1] or ''}examples/", markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """In a table of Markdown a `|` of some code has a backslash before it; here it would be shown."""
    return re.sub(r"<code>[^<]*</code>", lambda found: found[0].replace("\\|", "|"), html)
