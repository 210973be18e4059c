//! Programs that are delivered must not contain the bugs that `scripts/planted` plants.

use std::path::{Path, PathBuf};

/// What a build with planted bugs has in its data (`src/planted.rs`).
const MARK: &[u8] = b"rekindle was built with planted bugs";
const PROGRAMS: [&str; 3] = ["rekindle", "rekindle-engine", "rekindle-check"];

fn contains(program: &Path, what: &[u8]) -> bool {
    let bytes = std::fs::read(program).unwrap();
    bytes.windows(what.len()).any(|window| window == what)
}

/// The programs of this test run, and those of a release build where there is one.
fn programs() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_BIN_EXE_rekindle")).parent().unwrap();
    let release = here.parent().unwrap().join("release");
    let all = [here, &release].into_iter().flat_map(|dir| PROGRAMS.map(|name| dir.join(name)));
    all.filter(|program| program.exists()).collect()
}

/// `scripts/test` builds them, and says that they must be there.
fn is_release_required() -> bool {
    std::env::var("REKINDLE_TEST_REQUIRE").unwrap_or_default().split(',').any(|word| word == "release")
}

#[test]
fn no_program_contains_planted_bugs() {
    let programs = programs();
    let wanted = if is_release_required() { 2 * PROGRAMS.len() } else { PROGRAMS.len() };
    assert!(programs.len() >= wanted, "of {wanted} there are {programs:?}");
    for program in programs {
        assert!(contains(&program, b"REKINDLE_"), "{}: the search finds nothing at all", program.display());
        let expected = cfg!(feature = "planted") && !program.to_string_lossy().contains("/release/");
        let name = program.display();
        if !expected {
            assert!(!contains(&program, MARK), "{name} was built with the feature `planted`");
        }
    }
}

/// What the compiler says of the file alone, as it would be built with the feature.
fn compiled_with_the_feature(debug_assertions: &str) -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let out = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(rustc);
    command.args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "--cfg", "feature=\"planted\""]);
    command.arg(format!("-Cdebug-assertions={debug_assertions}")).arg("--out-dir").arg(out.path());
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/planted.rs"));
    String::from_utf8(command.output().unwrap().stderr).unwrap()
}

#[test]
fn a_build_without_debug_assertions_refuses_the_feature() {
    let refusal = "planted bugs are for tests";
    let release = compiled_with_the_feature("no");
    assert!(release.contains(refusal), "{release}");
    let debug = compiled_with_the_feature("yes");
    assert!(!debug.contains(refusal), "{debug}");
}
