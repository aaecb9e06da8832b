//! SQL that writes the protocol's JSON objects.
//!
//! A page of 50 messages is one row of text. As 50 rows of columns, each row would cross a thread, at an eighth of the
//! speed. Each macro is the argument list of an SQL `concat` for one object. The tests compare its output byte for byte
//! with that of a Rust counterpart. Values without `json_quote` are hexadecimal, base64, alphanumeric, a date or a
//! colour.

/// The conversation object (docs/protocol.md#the-conversation-object-d) for participant `p` of conversation `c`. `u` is
/// that participant's user and `o` the other user.
macro_rules! conversation_object {
    () => {
        concat!(crate::store::objects::conversation_fields!("", ""), r#", '"}]}'"#)
    };
}

/// The conversation object of extended answers. The arguments are SQL: the number of unread messages, and the ID of the
/// oldest message.
macro_rules! extended_conversation_object {
    ($unread:expr, $first_message_id:expr) => {
        concat!(
            crate::store::objects::conversation_fields!(
                r#", CASE WHEN o.is_deleted AND o.id < u.id THEN ',"deleted":true' END"#,
                r#", CASE WHEN o.is_deleted AND o.id > u.id THEN ',"deleted":true' END"#
            ),
            r#", '","unread":', "#,
            $unread,
            r#", '}],"firstmessageid":"', "#,
            $first_message_id,
            r#", '"}'"#
        )
    };
}

/// The conversation object up to the caller's colour. The arguments are SQL that continues the entries of the participants,
/// each with a comma before it.
macro_rules! conversation_fields {
    ($first_entry:expr, $second_entry:expr) => {
        concat!(r#"'{"id":"', p.conversation_id, '","isgroup":false,"participantids":["', min(u.id, o.id), '","', max(u.id, o.id),
            '"],"participants":[{"userid":"', min(u.id, o.id),
            '","username":', json_quote(CASE WHEN u.id < o.id THEN u.nick ELSE o.nick END)"#,
            $first_entry,
            r#", '},{"userid":"', max(u.id, o.id),
            '","username":', json_quote(CASE WHEN u.id < o.id THEN o.nick ELSE u.nick END)"#,
            $second_entry,
            r#", '}],"displayname":"', p.display_name,
            '","lastmessageid":"', c.last_message_id,
            '","lastreportid":"', c.last_report_id,
            '","lastaccess":', c.last_access,
            ',"secret":"', p.secret,
            '","instance":"', c.instance,
            '","mutedby":[', CASE WHEN p.is_muted THEN '"' || p.user_id || '"' END,
            '],"favoriteby":[', CASE WHEN p.is_favorite THEN '"' || p.user_id || '"' END,
            '],"hiddenby":[', CASE WHEN p.is_hidden THEN '"' || p.user_id || '"' END,
            '],"properties":[{"userid":"', p.user_id,
            '","ismuted":', CASE WHEN p.is_muted THEN 'true' ELSE 'false' END,
            ',"isfavorite":', CASE WHEN p.is_favorite THEN 'true' ELSE 'false' END,
            ',"hideid":', json_quote(p.hide_id),
            ',"listitembackgroundcolor":"', p.background_color"#)
    };
}

/// The object of message `m` (docs/protocol.md#messages-d).
macro_rules! message_object {
    () => {
        concat!(crate::store::objects::message_fields!(), r#", '"}'"#)
    };
}

/// The object of message `m` in extended answers. The argument is SQL: the id of its sender.
macro_rules! extended_message_object {
    ($sender:expr) => {
        concat!(
            crate::store::objects::message_fields!(),
            r#", '","UserID":"', "#,
            $sender,
            r#", '"}'"#
        )
    };
}

/// The object of message `m` up to its data.
macro_rules! message_fields {
    () => {
        concat!(
            r#"'{"ID":"', m.id, '","Type":', "#,
            crate::store::objects::message_type!(),
            r#", ',"Created":"', datetime(m.created, 'unixepoch'),
            '","ValidUntil":"', m.valid_until, '","Data":"', m.data"#
        )
    };
}

/// The type of message `m`. The column holds NULL for `Message`.
macro_rules! message_type {
    () => {
        r#"CASE WHEN m.type IS NULL THEN '"Message"' ELSE json_quote(m.type) END"#
    };
}

/// The object of report `r` about message `about` (docs/protocol.md#reports).
macro_rules! report_object {
    () => {
        r#"'{"ID":"', r.id, '","Type":"', r.type, '","Created":"', r.created, '","MessageID":"',
           coalesce(about.id, r.message_id),
           '","UserID":"', r.user_id, '"}'"#
    };
}

/// The object of message `m` whose stored texts are damaged: quotes each text, whatever it holds.
macro_rules! damaged_message_object {
    () => {
        concat!(crate::store::objects::damaged_message_fields!(), ", '}'")
    };
}

/// The object of message `m` in extended answers, whose stored texts are damaged.
macro_rules! extended_damaged_message_object {
    ($sender:expr) => {
        concat!(
            crate::store::objects::damaged_message_fields!(),
            r#", ',"UserID":', json_quote(coalesce("#,
            $sender,
            ", '')), '}'"
        )
    };
}

/// The object of message `m` up to its data, whose stored texts are damaged.
macro_rules! damaged_message_fields {
    () => {
        concat!(
            r#"'{"ID":', json_quote(m.id), ',"Type":', "#,
            crate::store::objects::message_type!(),
            r#", ',"Created":"', datetime(m.created, 'unixepoch'), '","ValidUntil":', json_quote(m.valid_until),
            ',"Data":', json_quote(m.data)"#
        )
    };
}

/// The object of report `r` about message `about`, whose stored texts are damaged.
macro_rules! damaged_report_object {
    () => {
        r#"'{"ID":', json_quote(r.id), ',"Type":', json_quote(r.type), ',"Created":', json_quote(r.created),
           ',"MessageID":', json_quote(coalesce(about.id, r.message_id)), ',"UserID":', json_quote(r.user_id), '}'"#
    };
}

/// An entry of `incoming` or `outgoing` (docs/protocol.md#requests-1). The arguments are SQL: a user's id and nick.
macro_rules! friend_request_object {
    ($id:literal, $nick:literal) => {
        concat!(r#"'{"userid":"', "#, $id, r#", '","nick":', json_quote("#, $nick, r#"), '}'"#)
    };
}

pub(super) use {
    conversation_fields, conversation_object, damaged_message_fields, damaged_message_object,
    damaged_report_object, extended_conversation_object, extended_damaged_message_object,
    extended_message_object, friend_request_object, message_fields, message_object, message_type,
    report_object,
};

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{AssertSqlSafe, ConnectOptions as _};

    /// Texts that JSON escapes, or that other encoders escape.
    const TEXTS: [&str; 8] = [
        "plain",
        "",
        r#"a "quote" and a \ backslash/"#,
        "\u{8}\u{c}\n\r\t",
        "\u{1}\u{1f}\u{7f}",
        "\u{2028}\u{2029} é ✓",
        "😀 \u{10FFFF}",
        "</script>",
    ];

    /// Returns the object that SQLite writes for these tables.
    async fn written(object: &str, tables: &str, texts: &[&str]) -> String {
        let mut database = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
        let statement = format!("SELECT concat({object}) FROM {tables}");
        let mut query = sqlx::query_scalar(AssertSqlSafe(statement));
        for text in texts {
            query = query.bind((*text).to_owned());
        }
        query.fetch_one(&mut database).await.unwrap()
    }

    fn json(object: &impl Serialize) -> String {
        serde_json::to_string(object).unwrap()
    }

    #[derive(Serialize)]
    struct Conversation<'a> {
        id: &'a str,
        isgroup: bool,
        participantids: [&'a str; 2],
        participants: [Participant<'a>; 2],
        displayname: &'a str,
        lastmessageid: &'a str,
        lastreportid: &'a str,
        lastaccess: i64,
        secret: &'a str,
        instance: &'a str,
        mutedby: Vec<&'a str>,
        favoriteby: Vec<&'a str>,
        hiddenby: Vec<&'a str>,
        properties: [Properties<'a>; 1],
        #[serde(skip_serializing_if = "Option::is_none")]
        firstmessageid: Option<&'a str>,
    }

    #[derive(Clone, Copy, Serialize)]
    struct Participant<'a> {
        userid: &'a str,
        username: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        deleted: Option<bool>,
    }

    #[derive(Serialize)]
    struct Properties<'a> {
        userid: &'a str,
        ismuted: bool,
        isfavorite: bool,
        hideid: &'a str,
        listitembackgroundcolor: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        unread: Option<u8>,
    }

    #[tokio::test]
    async fn sql_writes_conversations_as_serde_does() {
        let rows = "(SELECT 'c1' AS conversation_id, $1 AS user_id, 'ZGlzcA==' AS display_name, 'c2Vj' AS secret,
                            $5 AS is_muted, NOT $5 AS is_favorite, $5 AS is_hidden, $4 AS hide_id,
                            '#bae1ff' AS background_color) AS p,
                    (SELECT 'm-1' AS last_message_id, 'r1' AS last_report_id, 17 AS last_access,
                            'aaaaaaaaaa' AS instance) AS c,
                    (SELECT $1 AS id, $2 AS nick) AS u,
                    (SELECT '55' AS id, $3 AS nick, $5 AS is_deleted) AS o";
        for text in TEXTS {
            for (me, is_muted) in [("11", true), ("99", false)] {
                let marks = if is_muted { "1" } else { "0" };
                let texts = [me, text, "Bob", text, marks];
                let documented = written(conversation_object!(), rows, &texts).await;
                let extended = extended_conversation_object!("(SELECT 100)", "(SELECT 'm-0')");
                let extended = written(extended, rows, &texts).await;
                let mut participants = [
                    Participant { userid: me, username: text, deleted: None },
                    Participant { userid: "55", username: "Bob", deleted: None },
                ];
                participants.sort_by_key(|participant| participant.userid);
                let by = |is_mine: bool| if is_mine { vec![me] } else { Vec::new() };
                let mut expected = Conversation {
                    id: "c1",
                    isgroup: false,
                    participantids: participants.map(|participant| participant.userid),
                    participants,
                    displayname: "ZGlzcA==",
                    lastmessageid: "m-1",
                    lastreportid: "r1",
                    lastaccess: 17,
                    secret: "c2Vj",
                    instance: "aaaaaaaaaa",
                    mutedby: by(is_muted),
                    favoriteby: by(!is_muted),
                    hiddenby: by(is_muted),
                    properties: [Properties {
                        userid: me,
                        ismuted: is_muted,
                        isfavorite: !is_muted,
                        hideid: text,
                        listitembackgroundcolor: "#bae1ff",
                        unread: None,
                    }],
                    firstmessageid: None,
                };
                assert_eq!(documented, json(&expected));
                expected.properties[0].unread = Some(100);
                // Bob, where his account is deleted.
                let bob = expected.participants.iter_mut().find(|one| one.userid == "55").unwrap();
                bob.deleted = is_muted.then_some(true);
                expected.firstmessageid = Some("m-0");
                assert_eq!(extended, json(&expected));
            }
        }
    }

    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Message<'a> {
        #[serde(rename = "ID")]
        id: &'a str,
        r#type: &'a str,
        created: &'a str,
        valid_until: &'a str,
        data: &'a str,
        #[serde(rename = "UserID", skip_serializing_if = "Option::is_none")]
        sender: Option<&'a str>,
    }

    #[tokio::test]
    async fn sql_writes_messages_as_serde_does() {
        let rows = "(SELECT $1 AS id, nullif($2, 'Message') AS type, 1709907168 AS created, $3 AS valid_until,
                            $4 AS data) AS m";
        let (created, sender) = ("2024-03-08 14:12:48", None);
        for r#type in TEXTS.into_iter().chain(["Message"]) {
            let mut expected =
                Message { id: "m-1", r#type, created, valid_until: "", data: "aGk=", sender };
            let texts = ["m-1", r#type, "", "aGk="];
            assert_eq!(written(message_object!(), rows, &texts).await, json(&expected));
            expected.sender = Some("0f");
            let extended = extended_message_object!("'0f'");
            assert_eq!(written(extended, rows, &texts).await, json(&expected));

            let mut expected =
                Message { id: r#type, r#type, created, valid_until: r#type, data: r#type, sender };
            let texts = [r#type; 4];
            assert_eq!(written(damaged_message_object!(), rows, &texts).await, json(&expected));
            expected.sender = Some(r#type);
            let extended = extended_damaged_message_object!("$4");
            assert_eq!(written(extended, rows, &texts).await, json(&expected));
            expected.sender = Some("");
            let unknown = extended_damaged_message_object!("NULL");
            assert_eq!(written(unknown, rows, &texts).await, json(&expected));
        }
    }

    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Report<'a> {
        #[serde(rename = "ID")]
        id: &'a str,
        r#type: &'a str,
        created: &'a str,
        #[serde(rename = "MessageID")]
        message_id: &'a str,
        #[serde(rename = "UserID")]
        user_id: &'a str,
    }

    #[tokio::test]
    async fn sql_writes_reports_as_serde_does() {
        let rows = "(SELECT $1 AS id, $2 AS type, $3 AS created, $5 AS user_id,
                            NULL AS message_id) AS r, (SELECT $4 AS id) AS about";
        let plain = ["r-1", "viewed", "2024-03-08 14:12:48", "m-1", "0f"];
        let report = |[id, r#type, created, message_id, user_id]: [&'static str; 5]| {
            json(&Report { id, r#type, created, message_id, user_id })
        };
        assert_eq!(written(report_object!(), rows, &plain).await, report(plain));
        for text in TEXTS {
            let damaged = [text; 5];
            assert_eq!(written(damaged_report_object!(), rows, &damaged).await, report(damaged));
        }
    }

    #[derive(Serialize)]
    struct FriendRequest<'a> {
        userid: &'a str,
        nick: &'a str,
    }

    #[tokio::test]
    async fn sql_writes_friend_requests_as_serde_does() {
        for nick in TEXTS {
            let object = friend_request_object!("$1", "$2");
            let written = written(object, "(SELECT 1)", &["0f", nick]).await;
            assert_eq!(written, json(&FriendRequest { userid: "0f", nick }));
        }
    }
}
