//! Randomness.

use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;

/// Randomness from the operating system; every secret of the server comes from here. A system that
/// has none must not go on with guessable keys, so its refusal is a panic.
#[must_use]
pub fn os_random() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}
