//! Property: see the module of each target. Each runs its corpus and then 100,000 random inputs
//! unless the environment says otherwise.

use std::fmt;

use bolero::{Driver, ValueGenerator};

/// Bytes whose file is the input itself, so that corpus and regressions need no encoding.
struct Input;

impl ValueGenerator for Input {
    type Output = Bytes;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Bytes> {
        driver.gen_from_bytes(
            || (0, Some(LONGEST)),
            |bytes| Some((bytes.len(), Bytes(bytes.to_vec()))),
        )
    }
}

/// Shown in hexadecimal digits, which `xxd -r -p` turns into a file to keep.
struct Bytes(Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Bytes of a random input: some dozen packets. Files of the corpus may be longer.
const LONGEST: usize = 128;
const EXECUTIONS: usize = 100_000;

macro_rules! targets {
    ($($target:ident)*) => { $(
        #[test]
        fn $target() {
            bolero::check!()
                .with_generator(Input)
                .with_iterations(EXECUTIONS)
                .for_each(|input: &Bytes| kbe_nat_fuzz::$target::run(&input.0));
        }
    )* };
}

targets!(parse process fields icmp_error checkpoint netlink capture apiserver);

/// The files of the corpus are what the code says, so neither is changed without the other.
#[test]
fn corpus_is_as_generated() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/__fuzz__");
    for (target, name, content) in kbe_nat_fuzz::corpus::files() {
        let path = root.join(target).join("corpus").join(&name);
        assert!(std::fs::read(&path).is_ok_and(|found| found == content), "{}", path.display());
    }
}
