//! Random input: how many cases a property gets, and how it is run.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::{Builder, Runtime};

/// Returns the settings of a property test with `number` cases, unless `PROPTEST_CASES` overrides it. Failures
/// are printed and not persisted, so that a run leaves no files behind.
pub fn cases(number: u32) -> Config {
    let told = std::env::var_os("PROPTEST_CASES").is_some();
    let config = Config { failure_persistence: None, ..Config::default() };
    if told { config } else { Config { cases: number, ..config } }
}

/// Reads an environment variable that makes a run longer or repeats it.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a whole number"))
}

/// Returns a runtime for the cases of a property.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs an async property on `number` cases.
pub fn holds<S: Strategy>(
    runtime: &Runtime,
    number: u32,
    strategy: &S,
    property: impl AsyncFn(S::Value),
) {
    let held = TestRunner::new(cases(number)).run(strategy, |value| {
        runtime.block_on(property(value));
        Ok(())
    });
    if let Err(error) = held {
        panic!("{error}");
    }
}
