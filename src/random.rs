//! Randomness from the operating system, which makes every secret of the server.
//!
//! The generator panics where the system has no randomness: the server must not go on with guessable keys.

use std::time::Duration;

use rand::Rng as _;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;

pub(crate) fn os_random() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

/// Returns a random duration up to `most`.
pub(crate) fn between_zero_and(most: Duration) -> Duration {
    most * (os_random().next_u32() >> 16) / (1 << 16)
}
