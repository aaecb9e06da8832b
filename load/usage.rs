//! CPU time and memory of a process, read from `/proc`.

use std::time::Duration;

use procfs::process::{ClearRefs, Process};

use super::BoxError;

/// CPU time and memory of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time since its start in user and kernel mode, of all threads.
    pub cpu: Duration,
    /// Bytes in memory (`VmRSS`).
    pub rss: u64,
}

impl Usage {
    /// Reads the usage of the process with this id.
    pub fn of(pid: i32) -> Result<Self, BoxError> {
        let process = Process::new(pid)?;
        let stat = process.stat()?;
        // A tick is 10 ms, precise enough for runs of some seconds.
        let tick = Duration::from_secs(1) / u32::try_from(procfs::ticks_per_second())?;
        let cpu = tick * u32::try_from(stat.utime + stat.stime)?;
        let rss = process.status()?.vmrss.ok_or("no VmRSS")? * 1024;
        Ok(Self { cpu, rss })
    }
}

/// Returns the peak memory of a process since [`forget_peak`], in bytes (`VmHWM`).
pub fn peak_rss(pid: i32) -> Result<u64, BoxError> {
    Ok(Process::new(pid)?.status()?.vmhwm.ok_or("no VmHWM")? * 1024)
}

/// Resets the peak that the kernel keeps to the present memory.
pub fn forget_peak(pid: i32) -> Result<(), BoxError> {
    Ok(Process::new(pid)?.clear_refs(ClearRefs::PeakRSS)?)
}
