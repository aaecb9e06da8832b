//! Suites of other files, run on PostgreSQL: by a process of the same binary, whose tests have their data there.

use crate::harness::postgres::on_postgres;

/// Runs the tests of a module on PostgreSQL, but those that are only about files. Asserts that there are some, and that
/// they pass.
fn holds(module: &str, of_files: &[&str]) {
    let skipped: Vec<_> = of_files.iter().flat_map(|test| ["--skip", *test]).collect();
    let module = format!("{module}::");
    let arguments = [&[module.as_str(), "--test-threads=2"], skipped.as_slice()].concat();
    let Some(mut command) = on_postgres(&arguments) else { return };
    let output = command.output().unwrap();
    let (printed, told) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{printed}\n{told}");
    assert!(!printed.contains(" 0 passed"), "{printed}");
}

/// Makes a test for each module: its name, and its tests that are only about files.
macro_rules! suites {
    ($($module:ident $([$($of_files:literal),+])?,)+) => {
        $(
            #[test]
            fn $module() {
                holds(stringify!($module), &[$($($of_files),+)?]);
            }
        )+
    };
}

suites! {
    admin ["draws_the_last_hour", "a_restore_brings_no_link_back"],
    audit ["postgres"],
    authorization,
    availability ["a_restart_loses_no_change"],
    batches ["a_failing_change_does_not_fail", "leaks_nothing_and_can_be_repeated"],
    blocklist,
    clocks,
    command_line,
    conformance,
    conversations,
    deleted_users ["of_a_file"],
    devices,
    disabled_users,
    durability ["a_failed_fsync_of_the_database"],
    export,
    extended,
    friends,
    invitations,
    links,
    listener,
    message_ids ["a_hash_collision"],
    model ["disk_model::"],
    notifications ["a_poll_without_news_writes_nothing"],
    privacy,
    quotas,
    readiness ["on_a_nearly_full_disk", "probes_are_rate_limited"],
    reads ["a_failing_read_does_not_fail", "large_reads::"],
    recorded_changes,
    reports,
    retention ["gives_its_space_back", "is_backed_up_restored"],
    signatures,
    stations,
    teams,
    unread,
    usage,
    workspaces,
}
