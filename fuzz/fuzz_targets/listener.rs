//! Fuzzes the frames that a listener's client sends after the handshake.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drop(chatserver::fuzzing::listener(bytes));
});
