//! The list of all statements, for the tests that prepare each on both databases (`tests/it/postgres/statements.rs`), and
//! on the next schema (`tests/it/postgres/upgrade.rs`).
//!
//! Each file lists its own, because they are private. The test finds those that a list lacks.

/// Lists the statements of a file.
macro_rules! listed {
    ($($name:ident),+ $(,)?) => {
        #[cfg(feature = "statements")]
        pub(in crate::store) fn listed() -> Vec<crate::store::Statement> {
            vec![$($name.listed(file!(), stringify!($name))),+]
        }
    };
}
pub(crate) use listed;

/// A statement as each database gets it, and where it is.
#[cfg(feature = "statements")]
#[derive(Clone, Debug)]
pub struct Statement {
    /// The path of the file in the project.
    pub file: &'static str,
    /// The name of the constant.
    pub name: &'static str,
    /// The text for SQLite, if it has one; of a statement over many rows the one for a single row.
    pub sqlite: Option<String>,
    /// The text for PostgreSQL.
    pub postgres: String,
    /// The types of its parameters in PostgreSQL, where the statement says them.
    pub parameters: Option<Vec<&'static str>>,
}

/// Returns all statements of the store.
#[cfg(feature = "statements")]
#[must_use]
pub fn statements() -> Vec<Statement> {
    let files = [
        super::admin_links::listed(),
        super::affected::listed(),
        super::api_keys::listed(),
        super::audit::listed(),
        super::availability::listed(),
        super::blocklist::listed(),
        super::changes::listed(),
        super::conversations::listed(),
        super::deletion::listed(),
        super::directory::listed(),
        super::epoch::listed(),
        super::export::listed(),
        super::friend_requests::listed(),
        super::friends::listed(),
        super::invitations::listed(),
        super::listed(),
        super::messages::listed(),
        super::pages::light::listed(),
        super::pages::pieces::listed(),
        super::pages::statements::listed(),
        super::participants::listed(),
        super::postgres::bus::listed(),
        super::postgres::presence::listed(),
        super::properties::listed(),
        super::readiness::listed(),
        super::receipts::listed(),
        super::replays::listed(),
        super::reports::listed(),
        super::retention::listed(),
        super::retention::sweep::listed(),
        super::sealing::listed(),
        super::message_ids::listed(),
        super::stations::listed(),
        super::usage::listed(),
        super::users::listed(),
        super::workspaces::listed(),
        super::write_tx::listed(),
    ];
    files.into_iter().flatten().collect()
}
