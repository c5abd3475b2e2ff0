//! Every built-in fault of the demo, on the wire: who answers, what clients feel.

use std::process::Command;

use serde_json::Value;

use super::{BINARY, can_run, text};

fn run(script: &str, more: &[&str]) -> Vec<Value> {
    let out = Command::new(BINARY)
        .args(["demo", "-o", "json", "--script", script])
        .args(more)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn judge(r: &Value) {
    let name = r["fault"].as_str().unwrap();
    assert_eq!(r["dual_master_ms"], 0, "{r}");
    assert!(r["requests_ok"].as_u64().unwrap() > 100, "{r}");
    // Bound for a failover that did not happen, far above what is measured.
    assert!(r["outage_ms"].as_f64().unwrap() < 2_000.0, "{r}");
    let moves = matches!(
        name,
        "kill-active"
            | "freeze-active"
            | "cut-active"
            | "planned-move"
            | "split"
            | "mute-active"
            | "deaf-active"
    );
    assert_eq!(r["active_before"] != r["active_after"], moves, "{r}");
    if name != "kill-server" {
        assert_eq!(r["established"], r["established_survived"], "{r}");
    }
    if matches!(name, "planned-move" | "drain-server" | "kill-witness" | "restart-agent") {
        assert_eq!(r["requests_failed"], 0, "{r}");
    }
    let quorum =
        if moves && name != "planned-move" || name == "kill-witness" { "2/3" } else { "3/3" };
    assert_eq!(r["quorum"], quorum, "{r}");
}

// scenarios 6, 31
#[test]
fn every_fault_keeps_one_master_and_the_connections() {
    if !can_run() {
        return;
    }
    let reports = run("all", &[]);
    assert_eq!(reports.len(), 11);
    reports.iter().for_each(judge);
}

#[test]
fn a_short_lease_moves_when_its_holder_dies_and_only_then() {
    if !can_run() {
        return;
    }
    for script in ["kill-active", "kill-witness"] {
        run(script, &["--timing", "fast"]).iter().for_each(judge);
    }
}

#[test]
fn what_was_shown_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let mut child = Command::new(BINARY)
        .args(["demo", "--script", "kill-active"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    // The janitor, a child of the demo, knows the lab's number.
    let pid = child.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let id = children
        .split_whitespace()
        .filter_map(|c| std::fs::read_to_string(format!("/proc/{c}/cmdline")).ok())
        .find_map(|line| Some(line.split_once("id=")?.1.split_once(';')?.0.to_owned()))
        .unwrap();
    let ours = format!("nines-{id}-");
    let namespaces = || text(&Command::new("ip").args(["netns", "list"]).output().unwrap().stdout);
    assert!(namespaces().contains(&ours));
    nines_lab::kill(&mut child);
    let limit = std::time::Instant::now() + super::PATIENCE;
    let home = std::path::PathBuf::from(format!("/tmp/{ours}state"));
    while namespaces().contains(&ours) || home.exists() {
        assert!(std::time::Instant::now() < limit, "left after kill -9: {ours}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
