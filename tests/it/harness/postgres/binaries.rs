//! The programs of PostgreSQL on this machine.

use std::env;
use std::fs;
use std::path::PathBuf;

/// Returns the folder of PostgreSQL's programs: from `PATH`, or of the newest version of Debian's packages, which keep
/// `initdb` and `postgres` out of `PATH`. Returns `None` where there are none.
pub fn folder() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).find(|folder| is_complete(folder));
    in_path.or_else(|| {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(Result::ok);
        let versions = versions.map(|version| version.path().join("bin"));
        let version = |folder: &PathBuf| {
            let name = folder.parent()?.file_name()?;
            name.to_str()?.parse::<u32>().ok()
        };
        versions.filter(|folder| is_complete(folder)).max_by_key(version)
    })
}

fn is_complete(folder: impl Into<PathBuf>) -> bool {
    let folder = folder.into();
    ["initdb", "pg_ctl", "postgres", "psql"].iter().all(|name| folder.join(name).is_file())
}
