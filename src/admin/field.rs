//! Fields that an operator types into, and what is wrong with them.

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, Render, html};

use super::form::Form;
use super::page::Page;
use crate::domain::Parse;

/// A fault of a form: a field, and a sentence that begins with its label.
pub(super) struct Wrong {
    pub(super) field: &'static str,
    pub(super) sentence: String,
}

/// A field with its label, as it was typed.
pub(super) struct Field<'a> {
    /// The name in the form, which is the id in the page, too.
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) hint: &'a str,
    pub(super) value: &'a str,
}

impl Field<'_> {
    /// Parses what a form has in this field.
    pub(super) fn parsed<T: Parse>(&self, form: &Form) -> Result<T, Wrong> {
        let text = form.field(self.name).trim();
        T::parse(text).ok_or_else(|| self.wrong(&format!("must be {}", T::expected_of(text))))
    }

    /// Makes a complaint of the end of its sentence.
    pub(super) fn wrong(&self, end: &str) -> Wrong {
        Wrong { field: self.name, sentence: format!("{} {end}.", self.label) }
    }

    /// Returns the field with what a form has in it.
    pub(super) fn typed<'a>(&'a self, form: &'a Form) -> Field<'a> {
        Field { value: form.field(self.name), ..*self }
    }

    /// Renders the field. A field that is wrong has the focus.
    pub(super) fn with(&self, wrong: Option<&Wrong>) -> Markup {
        let wrong = wrong.filter(|wrong| wrong.field == self.name);
        let (hint_id, wrong_id) = (format!("{}-hint", self.name), format!("{}-wrong", self.name));
        let described_by =
            if wrong.is_some() { format!("{wrong_id} {hint_id}") } else { hint_id.clone() };
        html! {
            div.field {
                label for=(self.name) { (self.label) }
                input id=(self.name) name=(self.name) value=(self.value) autocomplete="off" spellcheck="false"
                    aria-describedby=(described_by) aria-invalid=[wrong.map(|_| "true")] autofocus[wrong.is_some()];
                @if let Some(wrong) = wrong {
                    p.bad id=(wrong_id) role="alert" { (wrong.sentence) }
                }
                p.hint id=(hint_id) { (self.hint) }
            }
        }
    }
}

impl Render for Field<'_> {
    fn render(&self) -> Markup {
        self.with(None)
    }
}

/// Answers a form that is not carried out with its page again.
pub(super) fn refused(page: Page) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, page).into_response()
}
