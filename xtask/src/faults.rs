//! `cargo xtask faults [--rounds N] [--busy N] [-o json]`: every fault of the demo, again and
//! again, on real processes, with a table of what clients noticed.
//!
//! Decides: what a bad result is. Two directors that answer at once are, and so is a fault after
//! which the cluster does not come back; how long an outage was is for the reader, since machines
//! differ.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

/// With the demo's 11 faults these are more than 500.
const ROUNDS: u32 = 46;

/// All runs of one fault.
#[derive(Default)]
struct Row {
    /// Longest time without an answer in each run, ms.
    outages: Vec<f64>,
    /// The same while the fault was mended, ms.
    heals: Vec<f64>,
    /// Fresh requests that failed.
    failed: u64,
    /// Connections that were open before and not after.
    lost: u64,
    /// Two directors answered for the VIP, ms.
    two_at_once: u64,
}

impl Row {
    fn add(&mut self, report: &Value) {
        let count = |key: &str| report[key].as_u64().unwrap_or_default();
        self.outages.push(report["outage_ms"].as_f64().unwrap_or_default());
        self.heals.push(report["heal_outage_ms"].as_f64().unwrap_or_default());
        self.failed += count("requests_failed");
        self.lost += count("established") - count("established_survived");
        self.two_at_once += count("dual_master_ms");
    }
}

/// The value that so many of a hundred are not above.
fn percentile(values: &[f64], of_hundred: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let place = (values.len() * of_hundred).div_ceil(100).saturating_sub(1);
    values.get(place).copied().unwrap_or_default()
}

/// What came of all rounds.
#[derive(Default)]
struct Table {
    rows: BTreeMap<String, Row>,
    /// What the demo said when a round did not end well.
    broken: Vec<String>,
}

impl Table {
    fn read(&mut self, output: &str) {
        let reports = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        for report in reports.filter(|report| report["fault"].is_string()) {
            let fault = report["fault"].as_str().unwrap_or_default().to_owned();
            self.rows.entry(fault).or_default().add(&report);
        }
    }

    fn faults(&self) -> usize {
        self.rows.values().map(|row| row.outages.len()).sum()
    }

    fn two_at_once(&self) -> u64 {
        self.rows.values().map(|row| row.two_at_once).sum()
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|(fault, row)| {
            json!({
                "fault": fault, "runs": row.outages.len(),
                "outage_ms": { "median": percentile(&row.outages, 50),
                    "p99": percentile(&row.outages, 99), "worst": percentile(&row.outages, 100) },
                "heal_outage_ms": { "median": percentile(&row.heals, 50),
                    "worst": percentile(&row.heals, 100) },
                "requests_failed": row.failed, "connections_lost": row.lost,
                "two_at_once_ms": row.two_at_once,
            })
        });
        json!({ "faults": self.faults(), "two_at_once_ms": self.two_at_once(),
            "broken_rounds": self.broken, "rows": rows.collect::<Vec<_>>() })
    }

    fn text(&self) -> String {
        let mut text =
            "| fault | runs | outage median / p99 / worst, ms | while mended, median / worst, ms \
             | failed requests | lost connections | two at once, ms |\n\
             |---|---|---|---|---|---|---|\n"
                .to_owned();
        for (fault, row) in &self.rows {
            let [median, late, worst] = [50, 99, 100].map(|of| percentile(&row.outages, of));
            let [mended, mended_worst] = [50, 100].map(|of| percentile(&row.heals, of));
            text += &format!(
                "| {fault} | {} | {median:.0} / {late:.0} / {worst:.0} | {mended:.0} / \
                 {mended_worst:.0} | {} | {} | {} |\n",
                row.outages.len(),
                row.failed,
                row.lost,
                row.two_at_once
            );
        }
        text
    }
}

/// Runs them with this program; an error says what must not be.
pub fn run(nines: &Path, options: &[&str]) -> Result<(), String> {
    let (mut rounds, mut busy, mut as_json) = (ROUNDS, "0", false);
    for pair in options.chunks(2) {
        let known = match pair {
            ["--rounds", number] => number.parse().map(|number| rounds = number).is_ok(),
            ["--busy", number] => {
                busy = number;
                number.parse::<u32>().is_ok()
            }
            ["-o", "json"] => {
                as_json = true;
                true
            }
            _ => false,
        };
        if !known {
            return Err(format!("{pair:?} is no option of faults"));
        }
    }
    let mut table = Table::default();
    for round in 1..=rounds {
        let mut command = Command::new(nines);
        command.args(["demo", "--script", "all", "-o", "json", "--busy", busy]);
        let ended = command.stdin(Stdio::null()).output();
        let ended = ended.map_err(|why| format!("{}: {why}", nines.display()))?;
        table.read(&String::from_utf8_lossy(&ended.stdout));
        if !ended.status.success() {
            let why = String::from_utf8_lossy(&ended.stdout).trim().to_owned()
                + String::from_utf8_lossy(&ended.stderr).trim();
            table.broken.push(format!("round {round}: {}", why.lines().last().unwrap_or_default()));
        }
    }
    if as_json {
        println!("{}", table.json());
    } else {
        print!("{}", table.text());
    }
    match (table.two_at_once(), &table.broken[..]) {
        (0, []) if table.faults() > 0 => Ok(()),
        (0, []) => Err("no fault was made".into()),
        (0, broken) => Err(broken.join("\n")),
        (ms, _) => Err(format!("two directors answered at once for {ms} ms")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_all_rounds_become_a_table() {
        let mut table = Table::default();
        for (outage, two) in [(140.0, 0), (150.0, 0), (900.0, 5)] {
            let report = json!({ "fault": "kill-active", "outage_ms": outage,
                "heal_outage_ms": 9.0, "requests_failed": 1, "established": 20,
                "established_survived": 19, "dual_master_ms": two });
            table.read(&format!("nines: something else\n{report}\n"));
        }
        assert_eq!((table.faults(), table.two_at_once()), (3, 5));
        let text = table.text();
        let line = "| kill-active | 3 | 150 / 900 / 900 | 9 / 9 | 3 | 3 | 5 |";
        assert_eq!(text.lines().last(), Some(line));
        assert_eq!(table.json()["rows"][0]["outage_ms"]["median"], 150.0);
        assert!(percentile(&[], 50) < 1.0);
        assert!(run(Path::new("/nonexistent"), &["--rounds", "many"]).is_err());
    }
}
