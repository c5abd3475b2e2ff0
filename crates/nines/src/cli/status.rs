//! `nines status`

use std::collections::BTreeMap;

use clap::Args;
use nines_api::{
    failure::Outcome,
    states::FenceState,
    text::ago,
    types::{Failover, FenceStatus, NodeStatus, ProblemLine, ServiceStatus, Status},
};

use nines_model::{Millis, admin::is_operator};

use crate::{
    context::Context,
    output::{bold, columns, print_json},
};

/// Show which director serves what, whether a spare is ready, and what is wrong now.
#[derive(Args)]
pub struct StatusArgs {
    /// Also list every real server, and everything that is wrong.
    #[arg(short, long)]
    wide: bool,
}

/// Runs `nines status`.
pub fn run(context: &Context, args: &StatusArgs) -> Outcome<u8> {
    // A hundred thousand servers that nobody looks at take a second.
    let servers = args.wide || context.json();
    let status: Status = context.client().get(&format!("/v1/status?servers={servers}"))?;
    if context.json() {
        print_json(&status);
    } else {
        out!("{}", text(&status, args.wide));
    }
    Ok(0)
}

/// A number of bytes with its unit, such as "48.2 MB".
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1_000.0 {
            let digits = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1_000.0;
    }
    format!("{value:.1} TB")
}

/// The generation of a cluster that was formed anew; few ever were.
fn generation(status: &Status) -> String {
    match status.generation {
        0 | 1 => String::new(),
        number => format!(" (generation {number})"),
    }
}

fn text(status: &Status, wide: bool) -> String {
    let (cluster, verdict) = (bold(&status.cluster), bold(&status.verdict.to_string()));
    let mut out = format!("{cluster}{}  {verdict}  {}", generation(status), status.summary);
    // A node without the log does not know the voters.
    if status.voters > 0 {
        out.push_str(&format!("   quorum {} of {}", status.votes, status.voters));
    }
    out.push('\n');
    if let Some(last) = &status.last_failover {
        out.push_str(&format!("Last change {} ago: {}.\n", ago(last.ago_s), changed(last)));
    }
    let most = if wide { usize::MAX } else { LINES_MAX };
    out.push_str(&lines("WRONG NOW", "NEXT STEP", &status.problems, most));
    out.push_str(&lines("SET BY PEOPLE", "UNDO", &status.notices, most));
    if !status.feature_level_held_back.is_empty() {
        out.push_str(&format!("\n{}.\n", sentence(&status.feature_level_held_back)));
    }
    out.push('\n');
    let rows = nodes(status);
    out.push_str(&columns(&rows));
    if !status.services.is_empty() {
        out.push('\n');
        let mut rows = vec![head(&[
            "SERVICE", "STATE", "LISTEN", "ON", "SPARE", "SERVERS", "TOTAL", "CONNS", "IN", "PATH",
            "CHECK",
        ])];
        for s in &status.services {
            rows.push(service(s));
            if wide {
                rows.extend(s.servers.iter().map(|server| {
                    let t = &server.traffic;
                    vec![
                        format!("  {}", server.name),
                        server.state.to_string(),
                        server.address.clone(),
                        String::new(),
                        String::new(),
                        format!("weight {}", server.weight),
                        t.connections.to_string(),
                        t.active.to_string(),
                        bytes(t.bytes_in),
                    ]
                }));
            }
        }
        out.push_str(&columns(&rows));
    }
    out.push_str(&counted(&status.drops));
    // A node that hears no majority does not know whether there are any.
    if status.vips.is_empty() && status.quorate {
        out.push_str("\nNext: describe services in a file, then: nines apply cluster.toml\n");
    } else if status.problems.is_empty() {
        out.push_str("\nNo action needed.\n");
    }
    out
}

/// The nodes; with what can switch them off, if anything can switch any of them off.
fn nodes(status: &Status) -> Vec<Vec<String>> {
    let has_devices = |line: &FenceStatus| !line.levels.is_empty();
    let shows_fence = status.fencing.iter().any(has_devices)
        || status.nodes.iter().any(|n| !n.watchdog.is_empty());
    let fence: &[&str] = if shows_fence { &["FENCE"] } else { &[] };
    let words = [&["NODE", "ROLE", "STATE", "ADDRESSES HELD"], fence, &["VERSION", "PATH"]];
    let mut rows = vec![head(&words.concat())];
    for n in &status.nodes {
        let holds = if n.holds.is_empty() { "-".into() } else { n.holds.join(" ") };
        let leads = if n.leads { "*" } else { "" };
        let mut row =
            vec![format!("{}{leads}", n.name), n.role.to_string(), n.state.to_string(), holds];
        row.extend(shows_fence.then(|| fenced_by(status, n)));
        // Last: with reasons it may be long.
        row.extend([or_dash(&n.version), or_dash(&n.path)]);
        rows.push(row);
    }
    rows
}

/// What fence devices of a node are, and its watchdog: "ready, watchdog 2s".
fn fenced_by(status: &Status, node: &NodeStatus) -> String {
    let line = status.fencing.iter().find(|line| line.node == node.name);
    let line = line.filter(|line| !line.is(FenceState::None)).map(|line| line.state.to_string());
    let watchdog = match node.watchdog_ms {
        0 if node.watchdog.is_empty() => None,
        0 => Some("no watchdog".to_owned()),
        timeout => Some(format!("watchdog {}", Millis(timeout))),
    };
    let all: Vec<String> = line.into_iter().chain(watchdog).collect();
    or_dash(&all.join(", "))
}

/// "Cluster feature level 0, held back by lb2 (0.1.0)": it begins with a capital letter.
pub fn sentence(text: &str) -> String {
    let (first, rest) = text.split_at(text.chars().next().map_or(0, char::len_utf8));
    first.to_uppercase() + rest
}

/// How a VIP came to its holder: "web lb1 -> lb2, by root@lb1".
fn changed(last: &Failover) -> String {
    let Failover { vip, from, to, .. } = last;
    match last.silent_ms {
        _ if from.is_empty() => format!("{vip} to {to}, no director held it before"),
        0 if is_operator(&last.actor) => {
            format!("{vip} {from} -> {to}, handed over, by {}", last.actor)
        }
        0 => format!("{vip} {from} -> {to}, handed over"),
        ms => format!("{vip} {from} -> {to}, automatic, after {ms} ms of silence"),
    }
}

/// Lines below a title; thousands of servers may fail at once.
const LINES_MAX: usize = 20;

/// Lines with the next command each, below a title.
fn lines(title: &str, next: &str, all: &[ProblemLine], most: usize) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut rows = vec![vec![title.into(), String::new(), next.into()]];
    let row = |p: &ProblemLine| vec![format!("  {}", p.subject), p.text.clone(), p.next.clone()];
    rows.extend(all.iter().take(most).map(row));
    if let Some(more) = all.len().checked_sub(most).filter(|more| *more > 0) {
        let all = "nines status --wide   shows all".into();
        rows.push(vec!["  ...".into(), format!("and {more} more"), all]);
    }
    format!("\n{}", columns(&rows))
}

/// What was dropped, and beside it what only was counted where drops are.
fn counted(drops: &BTreeMap<String, u64>) -> String {
    const NO_DROPS: [&str; 4] = ["challenged", "evicted", "proven", "unplaced"];
    let line = |title: &str, wanted: bool| {
        let some = drops.iter().filter(|(why, _)| NO_DROPS.contains(&why.as_str()) != wanted);
        let words: Vec<String> = some.map(|(why, n)| format!("{why} {n}")).collect();
        if words.is_empty() { String::new() } else { format!("\n{title}: {}\n", words.join(", ")) }
    };
    line("Not forwarded so far", true) + &line("Flow table and cookies so far", false)
}

fn service(s: &ServiceStatus) -> Vec<String> {
    vec![
        s.name.clone(),
        s.verdict.to_string(),
        s.listen.clone(),
        or_dash(&s.node),
        or_dash(&s.spare.join(", ")),
        format!("{}/{} up", s.up, s.of),
        s.traffic.connections.to_string(),
        s.traffic.active.to_string(),
        bytes(s.traffic.bytes_in),
        format!("{} {}", s.forward, s.scheduler),
        s.check.clone(),
    ]
}

fn head(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nines_api::states::Subject;

    #[test]
    fn what_was_not_forwarded_is_said() {
        assert_eq!(counted(&BTreeMap::new()), "");
        let drops = [("denied", 4), ("evicted", 3), ("no-server", 1)];
        let drops = drops.map(|(why, n)| (why.to_owned(), n)).into();
        let told = counted(&drops);
        assert!(told.contains("Not forwarded so far: denied 4, no-server 1\n"), "{told}");
        assert!(told.contains("cookies so far: evicted 3\n"), "{told}");
    }

    #[test]
    fn only_who_knows_that_there_are_no_services_asks_for_some() {
        let told = |quorate| text(&Status { quorate, ..Status::default() }, false);
        assert!(told(true).contains("Next: describe services"));
        assert!(!told(false).contains("Next: describe services"));
    }

    #[test]
    fn a_level_that_is_held_back_is_told_with_who_holds_it() {
        let told = |held: &str| {
            text(&Status { feature_level_held_back: held.into(), ..Status::default() }, false)
        };
        let held = "cluster feature level 0, held back by lb2 (0.1.0): install nines there";
        assert!(told(held).contains("\nCluster feature level 0, held back by lb2 (0.1.0): inst"));
        assert!(!told("").contains("feature level"));
    }

    #[test]
    fn many_lines_are_counted() {
        let line =
            ProblemLine { subject: Subject::Server("web/r1".into()), ..ProblemLine::default() };
        let told = |n: usize, most| lines("WRONG NOW", "NEXT STEP", &vec![line.clone(); n], most);
        assert!(!told(20, LINES_MAX).contains("more"));
        let many = told(5_000, LINES_MAX);
        assert!(many.contains("and 4980 more  nines status --wide"), "{many}");
        assert_eq!(told(5_000, usize::MAX).lines().count(), 5_002);
    }

    #[test]
    fn lengths_and_sizes_for_people() {
        assert_eq!(
            [ago(42), ago(190), ago(9_420), ago(200_000)],
            ["42 s", "3 m 10 s", "2 h 37 m", "2 d"]
        );
        assert_eq!([bytes(999), bytes(48_200), bytes(1_000_000)], ["999 B", "48.2 kB", "1.0 MB"]);
    }
}
