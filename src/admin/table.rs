//! Tables of the pages.

use maud::{Markup, Render, html};

/// A column by its name.
#[derive(Clone, Copy)]
pub(super) enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// Makes a table, which scrolls by itself where it is wider than the page. `rows` are elements `tr`.
pub(super) fn table(caption: impl Render, columns: &[Column], rows: &Markup) -> Markup {
    html! {
        div.wide {
            table {
                caption { (caption) }
                thead {
                    tr {
                        @for column in columns {
                            @match column {
                                Column::Text(name) => { th scope="col" { (name) } }
                                Column::Number(name) => { th.number scope="col" { (name) } }
                            }
                        }
                    }
                }
                tbody { (rows) }
            }
        }
    }
}
