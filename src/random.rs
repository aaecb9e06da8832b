//! Randomness from the operating system.

use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;

/// Returns the operating system's random generator, which makes every secret of the server. The generator panics where
/// the system has no randomness, because the server must not go on with guessable keys.
pub(crate) fn os_random() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}
