"""The pages become one site, and a link that leads nowhere is an error."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(configuration: Path, target: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-f", configuration, "-d", target],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )


def test_every_page_is_in_the_site_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    done = build(ROOT / "mkdocs.yml", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "quick-start" in (tmp_path / "index.html").read_text()
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert pages == {page.parent.name for page in tmp_path.glob("*/index.html")} - {tmp_path.name}
    # Nothing is asked of other servers.
    assert not [
        script
        for page in tmp_path.rglob("*.html")
        for script in page.read_text().split("<script")[1:]
        if 'src="http' in script.partition(">")[0]
    ]


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    for name, link in (("page", "nowhere.md"), ("outside", "../nowhere.py")):
        folder = tmp_path / name
        (folder / "docs").mkdir(parents=True)
        (folder / "docs/index.md").write_text(f"# A page\n\n[lost]({link})\n")
        text = (ROOT / "mkdocs.yml").read_text().partition("nav:")[0]
        hook = ROOT / "tools/docs_site.py"
        (folder / "mkdocs.yml").write_text(text.replace("tools/docs_site.py", str(hook)))
        done = build(folder / "mkdocs.yml", folder / "site")
        assert done.returncode != 0 and "nowhere" in done.stderr
