//! A quorum disk as the third vote of two directors: one file in place of the disk, which both
//! hosts see.

use std::{path::PathBuf, process::Stdio};

use serde_json::Value;

use super::{Net, can_run};

const HOSTS: [&str; 2] = ["lb1", "lb2"];

fn disk(net: &Net) -> PathBuf {
    net.home.join("disk")
}

/// The name under which the disk's process of a host is kept.
fn part(host: &str) -> String {
    format!("{host}-disk")
}

/// The way to the disk from a host: its own name for it, so that it can be taken away.
fn path(net: &Net, host: &str) -> String {
    net.home.join(part(host)).to_str().unwrap().to_owned()
}

/// Starts the disk's process on a host.
fn start(net: &mut Net, host: &str) {
    let mut command = net.command(host, &["quorum-disk", "run", &path(net, host)]);
    let name = net.home.join(format!("{}.log", part(host)));
    let log = std::fs::OpenOptions::new().create(true).append(true).open(name).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = net.lab.spawn(host, command).unwrap();
    net.agents.insert(part(host), child);
}

fn kill(net: &mut Net, part: &str) {
    nines_lab::kill(&mut net.agents.remove(part).unwrap());
}

fn code(net: &Net) -> String {
    let said = net.ok("lb1", &["code", "--witness"]);
    let line = said.lines().find(|l| l.contains("nines join")).unwrap();
    line.split_whitespace().nth(3).unwrap().to_owned()
}

fn init(net: &Net, at: &str, more: &[&str]) -> Vec<String> {
    let code = code(net);
    let device = disk(net).to_str().unwrap().to_owned();
    let mut words = vec!["quorum-disk", "init", &device, at, &code, "--at", "10.97.19.2"];
    words.extend(["--at", "10.97.19.3"]);
    words.extend(more);
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// What the disk says, as seen from a host.
fn seen(net: &Net, host: &str) -> Value {
    let device = disk(net);
    let words = ["quorum-disk", "show", device.to_str().unwrap(), "-o", "json"];
    serde_json::from_str(&net.ok(host, &words)).unwrap()
}

/// The host whose claim lives.
fn owner(net: &Net) -> Option<&'static str> {
    let seen = seen(net, "lb1");
    let hosts = seen["hosts"].as_array().unwrap();
    let place = hosts.iter().position(|h| h["state"] == "owner")?;
    Some(HOSTS[place])
}

fn other(host: &str) -> &'static str {
    HOSTS.into_iter().find(|one| *one != host).unwrap()
}

/// Two directors with a VIP and a disk with a vote.
fn cluster() -> Net {
    let mut net =
        Net::new(&[("lb1", &[("br0", "10.97.19.2/24")]), ("lb2", &[("br0", "10.97.19.3/24")])]);
    let said = net.ok("lb1", &["init", "lab", "--node", "lb1"]);
    net.start("lb1");
    let line = said.lines().find(|l| l.contains("nines join")).unwrap();
    let words: Vec<&str> = line.split_whitespace().skip(2).take(2).collect();
    net.ok("lb2", &["join", words[0], words[1], "--node", "lb2"]);
    net.start("lb2");
    net.until("both vote", |n| n.status("lb2")["votes"] == 2);
    std::fs::File::create(disk(&net)).unwrap().set_len(40 << 20).unwrap();
    for host in HOSTS {
        std::os::unix::fs::symlink(disk(&net), path(&net, host)).unwrap();
    }
    let words = init(&net, words[0], &[]);
    net.ok("lb1", &words.iter().map(String::as_str).collect::<Vec<_>>());
    for host in HOSTS {
        start(&mut net, host);
    }
    net.until("the disk votes", |n| n.status("lb1")["votes"] == 3);
    let config = "[cluster]\nname = \"lab\"\n[nodes]\nlb1 = \"10.97.19.2\"\nlb2 = \"10.97.19.3\"\n\
                  [vip.v]\naddress = \"10.97.19.100/24\"\n";
    let file = net.write("vip.toml", config);
    let said = net.ok("lb1", &["apply", "-y", &file]);
    assert!(!said.contains("no witness") && !said.contains("not in the file"), "{said}");
    net.until("one holds the VIP", |n| {
        let status = n.status("lb2");
        status["verdict"] == "HEALTHY" && status["votes"] == 3
    });
    net
}

/// Whether a host has the VIP and may answer for it, by its own word.
fn serves(net: &Net, host: &str) -> bool {
    let out = net.nines(host, &["status", "-o", "json"]);
    let status: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    status["votes"].as_u64() >= Some(2) && status["vips"][0]["node"] == host
}

// scenario 12
#[test]
fn of_two_that_have_lost_each_other_the_owner_of_the_disk_goes_on() {
    if !can_run() {
        return;
    }
    let net = cluster();
    let owner = owner(&net).unwrap();
    net.lab.cut(other(owner)).unwrap();
    net.until("the owner's host has the VIP", |n| serves(n, owner));
    net.until("the other one has none", |n| !serves(n, other(owner)));
    assert_eq!(self::owner(&net), Some(owner), "the disk stays where it is");
    net.lab.mend(other(owner)).unwrap();
    net.until("all hear each other again", |n| n.status(other(owner))["votes"] == 3);
}

// scenario 13
#[test]
fn another_host_continues_the_voter_and_nothing_else_moves() {
    if !can_run() {
        return;
    }
    let mut net = cluster();
    let first = owner(&net).unwrap();
    let holder = net.holder("lb1");
    kill(&mut net, &part(first));
    net.until("its vote is missed", |n| n.status("lb1")["votes"] == 2);
    net.until("the other host has taken over", |n| {
        owner(n) == Some(other(first)) && n.status("lb1")["votes"] == 3
    });
    assert_eq!(net.holder("lb1"), holder, "the loss of the witness alone moves nothing (S10)");
    // It comes back, and waits. Then the owner stops in good order: it lets go at once.
    start(&mut net, first);
    net.until("it waits", |n| {
        let log = std::fs::read_to_string(n.home.join(format!("{}.log", part(first))));
        log.unwrap().ends_with("owns the disk; this host waits\n")
    });
    nines_lab::terminate(&net.agents[&part(other(first))]).unwrap();
    net.until("it has it again", |n| owner(n) == Some(first) && n.status("lb1")["votes"] == 3);
    assert_eq!(net.holder("lb1"), holder);
    // The holder of the VIP dies with its disk's process: by the disk's vote the other goes on.
    net.agents.remove(&part(other(first)));
    start(&mut net, other(first));
    kill(&mut net, &holder);
    kill(&mut net, &part(&holder));
    let left = other(&holder);
    net.until("the other one has the VIP", |n| serves(n, left));
    net.start(&holder);
    start(&mut net, &holder);
    net.until("all are back", |n| n.status(left)["votes"] == 3);
}

// scenario 14
#[test]
fn a_host_that_stood_still_speaks_for_the_disk_no_more() {
    if !can_run() {
        return;
    }
    let mut net = cluster();
    let first = owner(&net).unwrap();
    let second = other(first);
    for name in [first.to_owned(), part(first)] {
        nines_lab::freeze(&net.agents[&name]).unwrap();
    }
    net.until("the other host has the disk and the VIP", |n| {
        owner_seen_by(n, second) == Some(second) && serves(n, second)
    });
    let before = seen(&net, second)["hosts"].clone();
    for name in [part(first), first.to_owned()] {
        nines_lab::thaw(&net.agents[&name]).unwrap();
    }
    net.until("the late one has noticed", |n| {
        let log = std::fs::read_to_string(n.home.join(format!("{}.log", part(first)))).unwrap();
        log.contains("the voter ends here")
    });
    net.until("all hear each other", |n| n.status(second)["votes"] == 3);
    assert_eq!(net.holder(second), second);
    for host in [first, second] {
        assert_eq!(owner_seen_by(&net, host), Some(second), "as {host} reads it; before: {before}");
    }
    // Two that speak as one node would be told.
    let events = net.ok(second, &["events", "-o", "json"]);
    assert!(!events.contains("two agents run as"), "{events}");
    kill(&mut net, &part(second));
    net.until("it takes its turn again", |n| n.status(second)["votes"] == 3);
}

fn owner_seen_by(net: &Net, host: &str) -> Option<&'static str> {
    let seen = seen(net, host);
    let hosts = seen["hosts"].as_array().unwrap();
    hosts.iter().position(|h| h["state"] == "owner").map(|place| HOSTS[place])
}

#[test]
fn a_disk_that_cannot_be_used_says_why() {
    if !can_run() {
        return;
    }
    let net = cluster();
    let path = path(&net, "lb1");
    let run = ["quorum-disk", "run", &path];
    let told = net.fails("lb1", &run, 4);
    assert!(told.contains("another process of this host"), "{told}");
    // One that has a voter is not formatted, not even by force.
    let words = init(&net, "10.97.19.2", &["--node", "qd2"]);
    let again = |more: &[&str], code| {
        let words: Vec<&str> =
            words.iter().map(String::as_str).chain(more.iter().copied()).collect();
        net.fails("lb1", &words, code)
    };
    let told = again(&[], 4);
    assert!(told.contains("is the quorum disk of cluster lab"), "{told}");
    let told = again(&["--force"], 4);
    assert!(told.contains("is in use"), "{told}");
    assert_eq!(net.status("lb1")["nodes"].as_array().unwrap().len(), 3, "nothing joined");
    let text = net.ok("lb1", &["quorum-disk", "show", &path]);
    assert!(text.contains("voter qd of cluster lab, port 9118"), "{text}");
    let none = net.write("empty", "");
    let told = net.fails("lb1", &["quorum-disk", "show", &none], 9);
    assert!(told.contains("cannot read"), "{told}");
    let told = net.fails("lb1", &["quorum-disk", "show", "/nowhere"], 5);
    assert!(told.contains("no such device"), "{told}");
}

/// The authority is rotated while one host runs the voter: the other one continues it with what
/// the first got.
#[test]
fn the_voter_keeps_its_new_certificate_on_the_disk() {
    if !can_run() {
        return;
    }
    let mut net = cluster();
    let first = owner(&net).unwrap();
    let told = net.ok("lb1", &["secret", "rotate", "--ca"]);
    assert!(told.contains("was rotated: it is") && told.contains("lb1, lb2, qd"), "{told}");
    let holder = net.holder("lb1");
    kill(&mut net, &part(first));
    // The hosts of this test share one directory of notes, which hosts do not.
    let _ = std::fs::remove_dir_all("/run/nines-quorum-disk/voter");
    net.until("the other host has taken over", |n| {
        owner(n) == Some(other(first)) && n.status("lb1")["votes"] == 3
    });
    let told = net.ok("lb1", &["secret", "rotate", "--ca"]);
    assert!(told.contains("lb1, lb2, qd"), "it is believed, and believes the others: {told}");
    assert_eq!(net.holder("lb1"), holder);
    // The first host begins again, with a disk that was made under the first authority.
    start(&mut net, first);
    net.until("it waits", |n| {
        let log = std::fs::read_to_string(n.home.join(format!("{}.log", part(first))));
        log.unwrap().ends_with("owns the disk; this host waits\n")
    });
}
