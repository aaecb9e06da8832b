//! Randomness from the operating system, which makes every secret of the server.
//!
//! The generator panics where the system has no randomness: the server must not go on with guessable keys.

use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;

pub(crate) fn os_random() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}
