"""No circle among the files of a Rust crate, and what counts as an arrow."""

from pathlib import Path

import pytest
from rust_arrows import arrows, circles

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "sources", sorted(ROOT.glob("rust/*/src")), ids=lambda sources: sources.parent.name
)
def test_files_use_each_other_one_way(sources: Path) -> None:
    graph = arrows(sources)
    assert any(graph.values()), "no arrow was seen"
    assert circles(graph) == []


@pytest.fixture
def crate(tmp_path: Path) -> Path:
    """A crate with a type in one file, and in another one a method of that type."""
    (tmp_path / "lib.rs").write_text("mod flow;\nmod table;\npub use table::close::Reason;\n")
    (tmp_path / "flow.rs").write_text("pub struct Flow<A>(A);\n")
    (tmp_path / "table.rs").write_text("pub mod close;\npub struct Table;\n")
    (tmp_path / "table").mkdir()
    (tmp_path / "table/close.rs").write_text(
        "use super::Table;\nuse crate::flow::Flow;\npub enum Reason {}\n"
        "impl<A: Copy> Flow<A> {\n    pub fn close(&self, _: &Table) {}\n}\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("flow.rs", "use crate::table::close::Reason;\npub struct Flow<A>(A);\n"),
        ("flow.rs", "use crate::{table::{close::{Reason}}};\npub struct Flow<A>(A);\n"),
        ("flow.rs", "use crate::Reason;\npub struct Flow<A>(A);\n"),
        ("flow.rs", "pub struct Flow<A>(A);\nfn end(f: Flow<u8>) {\n    f.close(0);\n}\n"),
        (
            "flow.rs",
            "pub struct Flow<A>(A);\nimpl<A> Flow<A> {\n"
            "    fn end(&self) {\n        self.close(0);\n"
            "    }\n}\nstruct File;\nimpl File {\n    fn close(&self) {}\n}\n",
        ),
        ("table.rs", "pub mod close;\npub struct Table(close::Reason);\n"),
        ("table.rs", "pub mod close;\nuse self::close::Reason;\npub struct Table(Reason);\n"),
    ],
)
def test_a_way_back_is_seen(crate: Path, path: str, code: str) -> None:
    (crate / path).write_text(code)
    assert circles(arrows(crate)) == [sorted([crate / path, crate / "table/close.rs"])]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("table.rs", "pub mod close;\npub use close::Reason;\npub struct Table;\n"),
        ("flow.rs", "// See crate::table::close.\npub struct Flow<A>(A);\n"),
        (
            "flow.rs",
            "pub struct Flow<A>(A);\n#[cfg(test)]\nmod tests {\n    use crate::Reason;\n}\n",
        ),
    ],
)
def test_what_passes_names_on_tells_and_tests_is_no_use(crate: Path, path: str, code: str) -> None:
    (crate / path).write_text(code)
    assert circles(arrows(crate)) == []
