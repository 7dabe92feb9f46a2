//! Property: see the module of each target. Each runs its corpus and then random inputs, for a few seconds unless the environment says
//! otherwise.

use std::time::Duration;

use bolero::ValueGenerator;
use bolero::generator::Driver;

/// Bytes whose file is the input itself, so that corpus and regressions need no encoding.
struct Input;

impl ValueGenerator for Input {
    type Output = Vec<u8>;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Vec<u8>> {
        driver.gen_from_bytes(|| (0, Some(LONGEST)), |bytes| Some((bytes.len(), bytes.to_vec())))
    }
}

const LONGEST: usize = 768;
const SECONDS: Duration = Duration::from_secs(4);

macro_rules! targets {
    ($($target:ident)*) => { $(
        #[test]
        fn $target() {
            bolero::check!()
                .with_generator(Input)
                .with_test_time(SECONDS)
                .for_each(|input: &Vec<u8>| kbe_nat_fuzz::$target::run(input));
        }
    )* };
}

targets!(parse process fields icmp_error checkpoint);

/// The files of the corpus are what the code says, so neither is changed without the other.
#[test]
fn corpus_is_as_generated() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/__fuzz__");
    for (target, name, content) in kbe_nat_fuzz::corpus::files() {
        let path = root.join(target).join("corpus").join(&name);
        assert!(std::fs::read(&path).is_ok_and(|found| found == content), "{}", path.display());
    }
}
