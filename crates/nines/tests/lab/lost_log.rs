//! Nodes without the log: one that has lost it, and one that has not got it yet.

use super::{Net, can_run, node};

/// The holder loses its log: everybody is told, and when the others have a majority another serves
/// and it comes back by itself.
#[test]
fn a_node_that_lost_its_log_says_so_everywhere_and_begins_anew() {
    if !can_run() {
        return;
    }
    let mut net = Net::of_three(8);
    let lost = net.holder("wit1");
    let other = if lost == "lb1" { "lb2" } else { "lb1" };
    nines_lab::kill(&mut net.agents.remove(&lost).unwrap());
    std::fs::remove_file(net.home.join(&lost).join("log.redb")).unwrap();
    nines_lab::kill(&mut net.agents.remove("wit1").unwrap());
    net.start(&lost);
    net.until("the other one says that it has no vote", |n| {
        let status = n.status(other);
        let line = node(&status, &lost);
        line["state"] == "no vote"
            && line["trouble"].as_str().unwrap().contains("its log is gone")
            && status["votes"] == 1
            && status["verdict"] == "DOWN"
    });
    let own = net.ok(&lost, &["status"]);
    assert!(
        own.contains("votes no more: its log is gone") && own.contains("join it again"),
        "{own}"
    );
    assert!(net.ok(&lost, &["why", &lost]).contains("its log is gone"));
    let why = net.ok(other, &["why", &lost]);
    assert!(why.contains("its log is gone") && why.contains("join it again"), "{why}");
    assert!(!net.ok(other, &["status"]).contains("is ready to take over"));

    net.start("wit1");
    net.until("it is back under its number", |n| {
        let status = n.status(other);
        let ready = node(&status, &lost)["state"] == "ready" && status["verdict"] == "HEALTHY";
        ready && status["voters"] == 3 && node(&status, &lost)["id"].as_u64() < Some(4)
    });

    // A second time, now with an older copy of the file: that is at another place, too.
    let older = std::fs::read(net.home.join(&lost).join("log.redb")).unwrap();
    net.ok("wit1", &["standby", &lost, "--reason", "a later entry"]);
    net.ok("wit1", &["ready", &lost]);
    net.until("it has the entries", |n| node(&n.status(&lost), &lost)["state"] == "ready");
    nines_lab::kill(&mut net.agents.remove(&lost).unwrap());
    std::fs::remove_file(net.home.join(&lost).join("log.redb")).unwrap();
    std::fs::write(net.home.join(&lost).join("log.redb"), older).unwrap();
    net.start(&lost);
    net.until("it began anew again", |n| {
        n.ok("wit1", &["events", "-n", "200"]).matches("began anew").count() >= 2
    });
    net.until("it votes again, when all others have confirmed it", |n| {
        node(&n.status("wit1"), &lost)["state"] == "ready" && n.status("wit1")["votes"] == 3
    });
    assert_eq!(net.holder("wit1"), other);
    let told = net.ok("wit1", &["events"]);
    assert!(told.contains("loses its vote and begins anew") && told.contains("gets the log"));
}

/// A node that cannot get the log says what it waits for, and counts for nothing.
#[test]
fn a_node_without_the_log_yet_is_joining() {
    if !can_run() {
        return;
    }
    let mut net =
        Net::new(&[("lb1", &[("br0", "10.97.9.2/24")]), ("lb2", &[("br0", "10.97.9.3/24")])]);
    let said = net.ok("lb1", &["init", "lab", "--node", "lb1"]);
    net.start("lb1");
    let line = said.lines().find(|l| l.contains("nines join")).unwrap().to_owned();
    let words: Vec<&str> = line.split_whitespace().skip(2).take(2).collect();
    net.ok("lb2", &["join", words[0], words[1], "--node", "lb2"]);
    let status = net.status("lb1");
    assert_eq!((&status["votes"], &status["voters"]), (&1.into(), &1.into()));
    assert_eq!(node(&status, "lb2")["state"], "joining");
    nines_lab::kill(&mut net.agents.remove("lb1").unwrap());
    net.start("lb2");
    let own = net.status("lb2");
    assert_eq!((&own["verdict"], &own["cluster"]), (&"DEGRADED".into(), &"lab".into()));
    assert_eq!(node(&own, "lb2")["state"], "joining");
    let summary = own["summary"].as_str().unwrap();
    assert!(summary.starts_with("lb2 is joining: it waits for the log: it hears no"), "{summary}");
    net.start("lb1");
    net.until("it has a vote", |n| n.status("lb1")["votes"] == 2);
    assert_ne!(node(&net.status("lb2"), "lb2")["state"], "joining");
    // Its file is damaged: it says so, whatever the library makes of that.
    nines_lab::kill(&mut net.agents.remove("lb2").unwrap());
    let path = net.home.join("lb2/log.redb");
    let whole = std::fs::read(&path).unwrap();
    // Its head, all but its head, and its second half gone. (Other bytes in the second half alone
    // prove nothing: the library may have nothing of worth there.)
    let mut headless = whole.clone();
    headless[..4_096].fill(0xa5);
    let mut bodiless = whole.clone();
    bodiless[4_096..].fill(0xa5);
    for damaged in [&headless[..], &bodiless, &whole[..whole.len() / 2]] {
        std::fs::write(&path, damaged).unwrap();
        net.start("lb2");
        net.until("it says that it cannot read its log", |n| {
            let line = node(&n.status("lb2"), "lb2");
            line["state"] == "no vote"
                && line["trouble"].as_str().unwrap().contains("log.redb cannot be read")
        });
        nines_lab::kill(&mut net.agents.remove("lb2").unwrap());
    }
    assert!(!net.log("lb2").contains("panicked"), "{}", net.log("lb2"));
    std::fs::write(&path, &whole).unwrap();
    net.start("lb2");
    net.until("the whole file votes again", |n| n.status("lb1")["votes"] == 2);
}
