//! Fuzzes the body of a request, down to the fields of its action.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drop(chatserver::fuzzing::request(bytes));
});
