//! Workspaces: DNS names, each of which belongs to the first user who registers it.

use super::parse::Parse;

/// The name of a workspace, in lower case (docs/protocol.md#9-workspaces).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceName(String);

impl WorkspaceName {
    /// Returns the name, which is in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Parse for WorkspaceName {
    const EXPECTED: &'static str = "a DNS name such as alice.ozeki.chat: at most 253 bytes, at least two labels, \
         each 1 to 63 of A-Z, a-z, 0-9 and -, without - at its ends";

    fn parse(text: &str) -> Option<Self> {
        let is_label = |label: &str| {
            let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(well_formed)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let well_formed = text.len() <= 253 && text.contains('.') && text.split('.').all(is_label);
        well_formed.then(|| Self(text.to_ascii_lowercase()))
    }
}
