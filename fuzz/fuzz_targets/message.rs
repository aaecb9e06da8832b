//! Fuzzes the JSON of a message that is embedded in a request.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drop(chatserver::fuzzing::message(bytes));
});
