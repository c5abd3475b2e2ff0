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
    let Some(value) = root.get("timing") else { return timing };
    if value.as_text().is_some() {
        let fast = r.choice_of(&value, ("timing", "timing"), &[("fast", Timing::FAST)], &[]);
        return fast.unwrap_or(timing);
    }
    let Some(table) = r.as_table(&value) else { return timing };
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
    // An interval that is not written has its default: the heartbeat's does not fit it then.
    let at = |key: &str| {
        let value = table.get(key).or_else(|| table.get("beat"));
        value.map_or_else(|| table.span.clone(), |value| value.span)
    };
    let Timing { beat, lease, election, .. } = timing;
    if beat.0 < 5 {
        r.error(at("beat"), "beat is under 5ms", Some("use \"20ms\" or more".into()));
    }
    if lease.0 < beat.0 * 4 {
        r.error(
            at("lease"),
            format!("lease {lease} is shorter than four beats of {beat}"),
            Some("a lease must outlive a few lost beats; the default is seven".into()),
        );
    }
    if election.0 < 100 {
        r.error(
            at("election"),
            format!("election {election} is under 100ms"),
            Some("nodes count it in steps of 20ms, five at least: use \"100ms\" or more".into()),
        );
    } else if election.0 < beat.0 * 5 {
        r.error(
            at("election"),
            format!("election {election} is shorter than five beats of {beat}"),
            Some("a leader would be replaced for one late packet".into()),
        );
    }
    timing
}

#[cfg(test)]
mod tests {
    use crate::{Timing, config::parse};

    #[test]
    fn a_word_stands_for_intervals_that_can_work() {
        let fast = parse("timing = \"fast\"\n[cluster]\nname = \"t\"\n").unwrap();
        let Timing { beat, lease, election, restart } = fast.timing.clone();
        let written = format!(
            "[cluster]\nname = \"t\"\n[timing]\nbeat = \"{beat}\"\nlease = \"{lease}\"\n\
             election = \"{election}\"\nrestart = \"{restart}\"\n"
        );
        assert_eq!(parse(&written).unwrap().timing, fast.timing);
        assert!(beat < Timing::default().beat && lease < Timing::default().lease);
        let told = parse("timing = \"fats\"\n[cluster]\nname = \"t\"\n").unwrap_err();
        assert_eq!(told[0].help.as_deref(), Some("did you mean \"fast\"?"));
        let told = parse("timing = 5\n[cluster]\nname = \"t\"\n").unwrap_err();
        assert!(told[0].message.contains("table"), "{told:?}");
    }

    #[test]
    fn intervals_that_cannot_work_are_refused_with_what_can() {
        // Each mistake is told once, where it is written.
        let told = |timing: &str| {
            let text = format!("[cluster]\nname = \"t\"\n[timing]\n{timing}\n");
            let Err(found) = parse(&text) else { return String::new() };
            let all = found.iter().map(|one| (&text[one.span.clone()], one.message.as_str()));
            all.map(|(at, message)| format!("{at} {message}")).collect::<Vec<_>>().join("; ")
        };
        for (timing, message) in [
            ("beat = \"4ms\"", "\"4ms\" beat is under 5ms"),
            ("lease = \"79ms\"", "\"79ms\" lease 79ms is shorter than four beats of 20ms"),
            ("beat = \"36ms\"", "\"36ms\" lease 140ms is shorter than four beats of 36ms"),
            ("election = \"60ms\"", "\"60ms\" election 60ms is under 100ms"),
            (
                "beat = \"30ms\"\nelection = \"149ms\"",
                "\"149ms\" election 149ms is shorter than five beats of 30ms",
            ),
        ] {
            assert_eq!(told(timing), message, "{timing}");
        }
        for timing in ["", "beat = \"5ms\"\nlease = \"20ms\"\nelection = \"100ms\""] {
            assert_eq!(told(timing), "");
        }
    }
}
