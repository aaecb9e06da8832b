//! Compares the server's ratios to its ceilings with the floors in a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::Args;

use super::BoxError;
use super::bench::Run as Measure;
use super::ceiling::Ceiling;
use super::scenario::Scenario;

/// Minimum ratios of requests/s, by scenario and ceiling.
type Floors = BTreeMap<Scenario, BTreeMap<Ceiling, f64>>;

#[derive(Args)]
#[group(id = "floors")]
pub struct Run {
    /// A TOML file: a section for each scenario with the minimum ratio of requests/s to each ceiling
    file: PathBuf,
    #[command(flatten)]
    measure: Measure,
}

impl Run {
    pub async fn run(self) -> Result<bool, BoxError> {
        let file = self.file.display();
        let text = fs::read_to_string(&self.file).map_err(|error| format!("{file}: {error}"))?;
        let floors: Floors = toml::from_str(&text).map_err(|error| format!("{file}: {error}"))?;
        if floors.is_empty() {
            return Err(format!("{file} names no scenario").into());
        }
        let mut measure = self.measure;
        measure.ceiling = true;
        let mut holds = true;
        for (scenario, floors) in floors {
            let measured = measure.measure(scenario).await?;
            measure.print(&measured)?;
            holds &= measured.is_ok();
            for (ceiling, floor) in floors {
                let mut all = measured.ceilings.iter();
                let found = all.find(|(measured, ..)| *measured == ceiling);
                let (.., ratios) = found.ok_or_else(|| {
                    format!("{file}: {} has no ceiling {}", scenario.name(), ceiling.title())
                })?;
                let reached = ratios.per_second;
                let is_above = reached >= floor;
                let verdict = if is_above { "holds" } else { "IS MISSED" };
                eprintln!(
                    "{} to {}: {reached:.2}, the floor of {floor:.2} {verdict}\n",
                    scenario.name(),
                    ceiling.title()
                );
                holds &= is_above;
            }
        }
        Ok(holds)
    }
}
