//! Writes the seed corpus of every target to where bolero looks for it.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/__fuzz__");
    for (target, name, content) in kbe_nat_fuzz::corpus::files() {
        let directory = root.join(target).join("corpus");
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(name), content)?;
    }
    Ok(())
}
