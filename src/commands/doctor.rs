//! `chatserver doctor`: looks at what an operator can mend, and says what to do about it.

mod database;
mod key_file;
mod machine;
mod network;

use clap::Args;
use serde_json::json;

use super::failure::Refusal;
use super::output::Output;
use super::{Failed, Settings};
use crate::config::Effective;

#[derive(Args)]
pub(crate) struct Doctor {
    /// Check the whole database of SQLite; without it, as much as a second allows
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    settings: Settings,
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    /// The operator may want to know.
    Note,
    /// The server does not work as it should, or will not soon.
    Problem,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }
}

/// The finding of one check, and the remedy.
struct Finding {
    check: &'static str,
    level: Level,
    found: String,
    advice: String,
}

/// The findings in the order of the checks.
#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(Level::Ok, check, found.into(), "");
    }

    fn note(&mut self, check: &'static str, found: impl Into<String>, advice: &str) {
        self.add(Level::Note, check, found.into(), advice);
    }

    fn problem(&mut self, check: &'static str, found: impl Into<String>, advice: &str) {
        self.add(Level::Problem, check, found.into(), advice);
    }

    fn add(&mut self, level: Level, check: &'static str, found: String, advice: &str) {
        self.0.push(Finding { check, level, found, advice: advice.to_owned() });
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|finding| finding.level == level).count()
    }

    fn text(&self) -> String {
        let lines = self.0.iter().map(|Finding { check, level, found, advice }| {
            let advice =
                if advice.is_empty() { String::new() } else { format!("\n         -> {advice}") };
            format!("{:<8} {check}: {found}{advice}", level.name())
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Doctor {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let mut layers = self.settings.layers(&[])?;
        let config = layers.config()?;
        let settings = layers.effective(&config);
        let mut report = Report::default();
        let changed = settings.iter().filter(|one| one.source != "default");
        let changed =
            changed.map(|Effective { name, value, source }| format!("{name} = {value} ({source})"));
        let changed = changed.collect::<Vec<_>>().join("; ");
        report.ok(
            "settings",
            if changed.is_empty() { "all have their defaults".to_owned() } else { changed },
        );
        machine::look(&config, self.settings.config.as_deref(), &mut report).await;
        database::look(&config, self.full, &mut report).await;
        network::look(&config, &mut report).await;

        let (problems, notes) = (report.count(Level::Problem), report.count(Level::Note));
        let text = format!("{}\n{problems} problems, {notes} notes", report.text());
        let checks = report.0.iter().map(|Finding { check, level, found, advice }| {
            json!({ "check": check, "level": level.name(), "found": found, "advice": advice })
        });
        let settings = settings.iter().map(|Effective { name, value, source }| {
            json!({ "name": name, "value": value, "source": source })
        });
        let json = json!({
            "problems": problems,
            "notes": notes,
            "checks": checks.collect::<Vec<_>>(),
            "settings": settings.collect::<Vec<_>>(),
        });
        Output::new(text, json).print(self.settings.json)?;
        match problems {
            0 => Ok(()),
            1 => Err(Refusal::with_code("problems_found", "1 problem was found")),
            _ => {
                Err(Refusal::with_code("problems_found", format!("{problems} problems were found")))
            }
        }
    }
}
