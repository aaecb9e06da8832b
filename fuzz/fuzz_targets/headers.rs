//! Fuzzes the query and the headers of a request.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drop(chatserver::fuzzing::headers(bytes));
});
