//! The section `[timing]`.
//!
//! Decides: which intervals nodes can work with.

use super::{
    keys,
    reader::{Reader, Table},
};
use crate::Timing;

pub(super) fn read(r: &mut Reader, root: &Table<'_>) -> Timing {
    let mut timing = Timing::default();
    let Some(table) = r.table(root, "timing") else {
        return timing;
    };
    r.known(&table, keys::TIMING);
    for (key, field) in [
        ("beat", &mut timing.beat),
        ("lease", &mut timing.lease),
        ("election", &mut timing.election),
        ("restart", &mut timing.restart),
    ] {
        if let Some(ms) = r.millis(&table, key) {
            *field = ms;
        }
    }
    let span = table.span.clone();
    if timing.beat.0 < 5 {
        r.error(span.clone(), "beat is under 5ms", Some("use \"20ms\" or more".into()));
    }
    if timing.lease.0 < timing.beat.0 * 4 {
        r.error(
            span.clone(),
            format!("lease {} is shorter than four beats of {}", timing.lease, timing.beat),
            Some("a lease must outlive a few lost beats; the default is seven".into()),
        );
    }
    if timing.election.0 < 100 {
        r.error(
            span.clone(),
            format!("election {} is under 100ms", timing.election),
            Some("nodes count it in steps of 20ms, five at least: use \"100ms\" or more".into()),
        );
    }
    if timing.election.0 < timing.beat.0 * 5 {
        r.error(
            span,
            format!("election {} is shorter than five beats of {}", timing.election, timing.beat),
            Some("a leader would be replaced for one late packet".into()),
        );
    }
    timing
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    #[test]
    fn intervals_that_cannot_work_are_refused_with_what_can() {
        let told = |timing: &str| {
            let text = format!("[cluster]\nname = \"t\"\n[timing]\n{timing}\n");
            parse(&text).map_or_else(|found| found[0].message.clone(), |_| String::new())
        };
        for (timing, message) in [
            ("beat = \"4ms\"", "beat is under 5ms"),
            ("lease = \"79ms\"", "lease 79ms is shorter than four beats of 20ms"),
            ("beat = \"5ms\"\nelection = \"99ms\"", "election 99ms is under 100ms"),
            ("beat = \"30ms\"\nelection = \"149ms\"", "election 149ms is shorter than five beats"),
        ] {
            assert!(told(timing).starts_with(message), "{timing}: {}", told(timing));
        }
        for timing in ["", "beat = \"5ms\"\nlease = \"20ms\"\nelection = \"100ms\""] {
            assert_eq!(told(timing), "");
        }
    }
}
