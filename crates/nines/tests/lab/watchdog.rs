//! Watchdogs: what nodes say of theirs. No device of this machine is touched.

use super::{Net, can_run, node, text};

/// A node whose watchdog is not there says so to everybody, and one without a guard process too.
#[test]
fn a_watchdog_that_is_not_fed_is_said_with_the_reason() {
    if !can_run() {
        return;
    }
    let mut net = Net::of_three(41);
    let config = net.ok("lb1", &["config", "show"]);
    let before = net.ok("wit1", &["status"]);
    assert!(!before.contains("FENCE"), "{before}");
    let wanted = "\n[fencing]\nwatchdog = \"/dev/nines-no-watchdog\"\n";
    let file = net.write("watchdog.toml", &(config.clone() + wanted));
    net.ok("lb1", &["apply", "-y", &file]);
    let said = |n: &Net, name: &str| node(&n.status("wit1"), name)["watchdog"].clone();
    net.until("nobody feeds any", |n| {
        ["lb1", "lb2", "wit1"]
            .iter()
            .all(|name| said(n, name) == "no process feeds its watchdog /dev/nines-no-watchdog")
    });
    let guard = net.lab.spawn("lb1", net.command("lb1", &["guard"])).unwrap();
    net.agents.insert("lb1-guard".into(), guard);
    let missing = "no watchdog: /dev/nines-no-watchdog does not exist";
    net.until("there is a process now, and no device", |n| said(n, "lb1") == missing);
    let status = net.ok("wit1", &["status"]);
    assert!(status.contains("FENCE") && status.contains(missing), "{status}");
    assert!(status.contains("systemctl start nines-guard"), "{status}");
    let metrics = net.ok("lb1", &["metrics"]);
    assert!(metrics.contains("nines_watchdog_timeout_seconds{node=\"lb1\"} 0\n"), "{metrics}");
    // The process ends when it is told to: it feeds nothing.
    nines_lab::terminate(&net.agents["lb1-guard"]).unwrap();
    let ended = net.agents.get_mut("lb1-guard").unwrap().wait().unwrap();
    assert!(ended.success(), "{ended}");
    let file = net.write("without.toml", &config);
    let out = net.nines("lb1", &["apply", "-y", &file]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    net.until("nobody wants one any more", |n| said(n, "lb1") == "");
}
