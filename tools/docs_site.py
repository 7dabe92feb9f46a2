"""A hook of mkdocs: pages link to files of the repository beside `docs`, which the site does not
have, so these links lead to the repository; the front page is the README.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\|.*\|$", re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`")
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)(#[^)]*)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The README as the front page: its links begin at the root."""
    text = (ROOT / "README.md").read_text()
    text = re.sub(r"\]\(docs/", "](", text)
    # What else it links to lies beside the folder of the pages.
    text = re.sub(r"\]\((?!https?:|#|[\w-]+\.md)([^)]+)\)", r"](../\1)", text)
    for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"):
        text = text.replace(f"]({name})", f"](../{name})")
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, *, config: MkDocsConfig, **_: object) -> str:
    """Links out of `docs`, as addresses of the repository. Raises FileNotFoundError for a file
    that is not there.
    """

    def address(link: re.Match[str]) -> str:
        path = ROOT / link[1]
        if not path.exists():
            raise FileNotFoundError(f"{link[1]}: a page links to it, and it is not there")
        kind = "tree" if path.is_dir() else "blob"
        return f"]({config.repo_url}/{kind}/main/{link[1]}{link[2] or ''})"

    # In the code of a cell GitHub wants a bar escaped, and Python's Markdown shows the escape.
    cells = ROW.sub(lambda row: CODE.sub(unescaped, row[0]), markdown)
    return OUTSIDE.sub(address, cells)


def unescaped(code: re.Match[str]) -> str:
    """A bar as it is."""
    return code[0].replace("\\|", "|")
