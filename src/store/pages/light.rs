//! Statements for PostgreSQL that make most pages: those whose upper bound of bytes is light, and whose cursors have no
//! date.
//!
//! PostgreSQL prepares the execution of all parts of a plan, whether they run or not. For [`PAGE`](super::statements::PAGE)
//! that takes longer than the page itself. These lack the searches for a date and the sizes of a large page.

use super::PARAMETERS;
use super::statements::{
    max_extended_overhead, max_message_overhead, max_report_bytes, max_reports_about,
    reports_about, reports_at_cursor, sender, undelivered,
};
use crate::store::listing::listed;
use crate::store::many_rows::ManyRows;
use crate::store::message_ids::row_key_of_id;
use crate::store::objects::{extended_message_object, message_object, report_object};

listed!(LIGHT_PAGE, EXTENDED_LIGHT_PAGE);

/// A page as [`PAGE`](super::statements::PAGE) makes it, with the same parameters. The text is empty where the page might
/// exceed its bytes, or `light_bytes`. Dates of cursors are left out of account.
///
/// `LIMIT` keeps the planner from copying expressions, with their subqueries, to each place of use.
macro_rules! light_page {
    (
        partner: $partner:expr,
        overhead: $overhead:expr,
        reports_there: $reports_there:expr,
        reports: $reports:expr,
        message_object: $message_object:expr
    ) => {
        concat!(
            "
SELECT CASE WHEN kept * (longest_data + ",
            $overhead,
            ") + report_kept * ",
            max_report_bytes!(),
            " > min(light_bytes, most_bytes) THEN '' ELSE (
    SELECT concat(
        string_agg(object, ','), '|', (",
            $reports,
            "), '|', CAST(counts_rest AND (kept < there OR report_kept < report_there) AS INTEGER), ' ',
        instance, ' ', generation, ' ',
        CAST(known IS NOT NULL AS INTEGER), ' ', CAST(report_known IS NOT NULL AS INTEGER), ' ',
        min(news), ' ', max(news))
    FROM (
        SELECT concat(",
            $message_object,
            ") AS object, ",
            undelivered!("asker", "user_number", "delivered_to", "standing = 'open'"),
            " AS news
        FROM messages m
        WHERE m.place BETWEEN CASE WHEN is_forward THEN near ELSE near - kept + 1 END
            AND CASE WHEN is_forward THEN near + kept - 1 ELSE near END
        ORDER BY m.place) AS objects) END
FROM (
    SELECT there.*, min(there, entries) AS kept, min(report_there, entries) AS report_kept
    FROM (
        SELECT start.*, CASE WHEN is_forward THEN base + next_seq - near ELSE near - first + 1 END AS there,
               CASE WHEN is_forward THEN base + next_report_seq - report_near ELSE ",
            $reports_there,
            " END AS report_there
        FROM (
            SELECT head.*, CASE WHEN is_forward THEN coalesce(known, first)
                                ELSE coalesce(known, base + next_seq) - 1 END AS near,
                   CASE WHEN is_forward THEN coalesce(report_known, first_report)
                        ELSE coalesce(report_known, base + next_report_seq) - 1 END AS report_near
            FROM (
                SELECT asked.*, c.instance, c.generation, c.generation << 32 AS base, c.next_seq, c.next_report_seq,
                       max(c.first_message, (c.generation << 32) + 1) AS first,
                       max(c.first_report, (c.generation << 32) + 1) AS first_report, c.longest_data, p.standing, p.user_number, p.delivered_to,",
            $partner,
            "          CASE WHEN cursor_id IS NOT NULL THEN ",
            row_key_of_id!("c.generation", "cursor_id", "cursor_hash"),
            " END AS known,
                       (SELECT r.place FROM reports r
                        WHERE r.place = (c.generation << 32) + report_seq AND replace(r.id, '-', '') = cursor_report
                       ) AS report_known
                FROM (
                    SELECT ? AS conversation, ? AS asker, ? AS cursor_id, ? AS cursor_hash, ? AS cursor_date,
                           ? AS entries, ? AS most_bytes, ? AS report_seq, ? AS cursor_report, ? AS report_date,
                           ? AS is_forward, ? AS light_bytes, ? AS counts_rest) AS asked
                CROSS JOIN participants p CROSS JOIN conversations c
                WHERE p.user_id = asker AND p.conversation_id = conversation AND c.number = p.conversation_number
                LIMIT 1) AS head) AS start) AS there
    LIMIT 1) AS page"
        )
    };
}

/// A documented page.
pub(super) static LIGHT_PAGE: ManyRows = ManyRows::values_of(
    light_page!(
        partner: "",
        overhead: max_message_overhead!(),
        reports_there: "report_near - first_report + 1",
        reports: reports_at_cursor!(),
        message_object: message_object!()
    ),
    PARAMETERS,
);

/// An extended page.
pub(super) static EXTENDED_LIGHT_PAGE: ManyRows = ManyRows::values_of(
    light_page!(
        partner: " p.partner_number, (SELECT o.id FROM users o WHERE o.number = p.partner_number) AS partner,",
        overhead: concat!(max_extended_overhead!(), " + ", max_reports_about!()),
        reports_there: "0",
        reports: concat!(
            "CASE WHEN is_forward THEN (",
            reports_at_cursor!(),
            ") ELSE (",
            reports_about!(report_object!(), "near - kept + 1", "near"),
            ") END"
        ),
        message_object: extended_message_object!(sender!("user_number", "asker", "partner_number", "partner"))
    ),
    PARAMETERS,
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Cursor, Direction, MessageId, PageForm, PageQuery, Parse as _};
    use crate::store::pages::steps::{History, bobs_page};
    use crate::store::pages::{Extended, LIGHT_PAGE_BYTES, ReadPage};
    use crate::store::readers::BatchQuery;
    use crate::store::sql::{Connection, Utf8};

    const MESSAGES: i64 = 40;

    async fn text<Q: BatchQuery>(
        connection: &mut Connection,
        statement: &'static ManyRows,
        query: &Q,
    ) -> String {
        let text = connection.query_rows(statement, &[query], |one, values| one.bind(values));
        let Utf8(text) = text.value().await.unwrap();
        String::from_utf8(text).unwrap()
    }

    /// Asserts that both statements make the same page. Of the row keys at its end, only the first and the last count.
    async fn agree<Q: BatchQuery>(connection: &mut Connection, query: &Q, about: &PageQuery) {
        let full = text(connection, Q::STATEMENT, query).await;
        let light = text(connection, query.light().unwrap(), query).await;
        let parts = |text: &str| {
            let (objects, end) = text.rsplit_once('|').unwrap();
            let mut words: Vec<_> = end.split_whitespace().map(str::to_owned).collect();
            if words.len() > 5 {
                words = [&words[..6], &words[words.len() - 1..]].concat();
            }
            (objects.to_owned(), words)
        };
        assert_eq!(parts(&light), parts(&full), "{about:?}");
    }

    #[tokio::test]
    async fn a_light_statement_makes_the_same_page() {
        let mut history = History::of(MESSAGES).await;
        history.bob_has_received(MESSAGES / 2).await;
        let connection = history.connection();
        let id = |id: &str| Some(MessageId::parse(id).unwrap());
        let report = "11111111-1111-8111-8111-00000000000a";
        let places = [None, id("m-1"), id("m-13"), id("m-40"), id("unknown")];
        let mut queries = Vec::new();
        for (n, message) in places.into_iter().enumerate() {
            for (direction, entries) in [
                (Direction::Forward, 1),
                (Direction::Forward, 7),
                (Direction::Forward, 50),
                (Direction::Backward, 1),
                (Direction::Backward, 7),
                (Direction::Backward, 50),
            ] {
                let cursor = Cursor { id: message.clone(), date: None };
                let report_cursor = Cursor { id: id(report).filter(|_| n % 2 == 0), date: None };
                queries.push(PageQuery {
                    cursor,
                    report_cursor,
                    entries,
                    direction,
                    ..bobs_page(direction)
                });
            }
        }
        let light_bytes = i64::try_from(LIGHT_PAGE_BYTES).unwrap();
        for query in queries {
            let page = ReadPage { query: query.clone(), light_bytes };
            agree(connection, &page, &query).await;
            let extended = PageForm::Extended { is_clients_limit: false };
            let query = PageQuery { form: extended, ..query };
            let page = Extended(ReadPage { query: query.clone(), light_bytes });
            agree(connection, &page, &query).await;
        }
    }

    #[tokio::test]
    async fn a_light_statement_makes_no_page_that_might_be_large() {
        let mut history = History::of(MESSAGES).await;
        let connection = history.connection();
        let query = bobs_page(Direction::Backward);
        // The longest data has four bytes.
        let bound = MESSAGES * (4 + max_message_overhead!());
        for (light_bytes, most_bytes, is_made) in
            [(bound, bound, true), (bound - 1, bound, false), (bound, bound - 1, false)]
        {
            let query = PageQuery { bytes: u32::try_from(most_bytes).unwrap(), ..query.clone() };
            let page = ReadPage { query, light_bytes };
            assert_eq!(!text(connection, &LIGHT_PAGE, &page).await.is_empty(), is_made);
        }
    }
}
