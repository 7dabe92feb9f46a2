//! Tells the module which revision of the Rust sources it is built of: manifests of runs name it.
//!
//! It is the last commit that changed one of them, with + when files differ from it. A commit that
//! changes nothing in Rust makes no other module, and builds none. `KBE_NAT_REVISION` stands for
//! it where there is no git, as in an image. In an unpacked sdist nothing tells: the module has no
//! revision then.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for path in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    let named = env::var(VARIABLE).ok().filter(|revision| !revision.is_empty());
    if let Some(revision) = named.or_else(|| revision(&root)) {
        println!("cargo:rustc-env={VARIABLE}={revision}");
    }
}

/// As git knows it; none where the sources are in no repository of their own.
fn revision(root: &Path) -> Option<String> {
    // An sdist may be unpacked within a repository of something else.
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    let commit = git(root, &[&["log", "-1", "--format=%H", "--"], SOURCES].concat())?;
    let changes = git(root, &[&["status", "--porcelain", "-uno", "--"], SOURCES].concat())?;
    let mark = if changes.is_empty() { "" } else { "+" };
    (!commit.is_empty()).then(|| format!("{commit}{mark}"))
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

const VARIABLE: &str = "KBE_NAT_REVISION";
const SOURCES: &[&str] = &["rust", "Cargo.toml", "Cargo.lock"];
