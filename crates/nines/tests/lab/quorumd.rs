//! quorumd: one machine as the third vote of several clusters.

use std::{net::UdpSocket, os::unix::fs::PermissionsExt as _, process::Stdio};

use serde_json::Value;

use super::{Net, can_run};

/// Starts quorumd on the host q, with its state and its socket in the place of an agent's.
pub fn start(net: &mut Net) {
    let mut command = net.command("q", &["quorumd", "run"]);
    let log =
        std::fs::OpenOptions::new().create(true).append(true).open(net.home.join("q.log")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = net.lab.spawn("q", command).unwrap();
    net.agents.insert("q".into(), child);
    net.until("quorumd answers", |n| n.nines("q", &["quorumd", "list"]).status.success());
}

/// What quorumd says of a cluster.
fn seen(net: &Net, folder: &str) -> Value {
    let all: Value =
        serde_json::from_str(&net.ok("q", &["quorumd", "list", "-o", "json"])).unwrap();
    let clusters = all["clusters"].as_array().unwrap();
    clusters.iter().find(|c| c["folder"] == folder).cloned().unwrap_or_default()
}

fn code(net: &Net, by: &str) -> String {
    let said = net.ok(by, &["code", "--witness"]);
    let line = said.lines().find(|l| l.contains("nines join")).unwrap();
    line.split_whitespace().nth(3).unwrap().to_owned()
}

/// Two directors in 10.97.18.0/24 with a VIP, and q as their witness. The port that q got.
fn cluster(net: &mut Net, name: &str, first: u8) -> u64 {
    let at = |host: u8| format!("10.97.18.{host}");
    let nodes = [format!("{name}1"), format!("{name}2")];
    let said = net.ok(&nodes[0], &["init", name, "--node", &nodes[0]]);
    net.start(&nodes[0]);
    let line = said.lines().find(|l| l.contains("nines join")).unwrap();
    let words: Vec<&str> = line.split_whitespace().skip(2).take(2).collect();
    net.ok(&nodes[1], &["join", words[0], words[1], "--node", &nodes[1]]);
    net.start(&nodes[1]);
    net.until("both vote", |n| n.status(&nodes[1])["votes"] == 2);
    let code = code(net, &nodes[0]);
    net.ok("q", &["quorumd", "join", words[0], &code, "--node", "q"]);
    net.until("q votes", |n| {
        let seen = seen(n, name);
        seen["votes"] == true && seen["voters"] == 3 && seen["heard"] == 3
    });
    let config = format!(
        "[cluster]\nname = \"{name}\"\n[nodes]\n{name}1 = \"{}\"\n{name}2 = \"{}\"\n\
         q = {{ addresses = \"10.97.18.9\", role = \"witness\" }}\n[vip.v]\naddress = \"{}/24\"\n",
        at(first),
        at(first + 1),
        at(first + 100),
    );
    let file = net.write(&format!("{name}.toml"), &config);
    net.ok(&nodes[0], &["apply", "-y", &file]);
    net.until("one holds the VIP", |n| n.status(&nodes[0])["verdict"] == "HEALTHY");
    seen(net, name)["port"].as_u64().unwrap()
}

fn hosts() -> Net {
    Net::new(&[
        ("one1", &[("br0", "10.97.18.11/24")]),
        ("one2", &[("br0", "10.97.18.12/24")]),
        ("two1", &[("br0", "10.97.18.21/24")]),
        ("two2", &[("br0", "10.97.18.22/24")]),
        ("q", &[("br0", "10.97.18.9/24")]),
    ])
}

fn kill(net: &mut Net, host: &str) {
    nines_lab::kill(&mut net.agents.remove(host).unwrap());
}

/// Each cluster loses its holder in turn, quorumd is killed and comes back, and one port is
/// flooded: what happens in one cluster is nothing to the other.
#[test]
fn one_quorumd_is_the_third_vote_of_two_clusters() {
    if !can_run() {
        return;
    }
    let mut net = hosts();
    start(&mut net);
    let ports = [cluster(&mut net, "one", 11), cluster(&mut net, "two", 21)];
    assert_ne!(ports[0], ports[1]);
    let mode = std::fs::metadata(net.home.join("q/one/node.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let (holder, other_holds) = (net.holder("one1"), net.holder("two1"));
    let other = if holder == "one1" { "one2" } else { "one1" };
    kill(&mut net, &holder);
    net.until("the other one has the VIP, by the vote of q", |n| n.holder(other) == other);
    // Garbage at the port of the first cluster, a hundred times what its members send.
    net.lab
        .within("two1", || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..200_000 {
                let _ = socket.send_to(&[0x4e; 200], ("10.97.18.9", ports[0] as u16));
            }
        })
        .unwrap();
    net.until("the flood is seen", |n| seen(n, "one")["dropped"].as_u64() > Some(1_000));
    assert_eq!(seen(&net, "two")["dropped"], 0);
    assert_eq!(net.holder(other), other);
    assert_eq!(net.holder("two1"), other_holds);
    net.start(&holder);
    net.until("all are back", |n| n.status(other)["votes"] == 3);

    kill(&mut net, "q");
    net.until("q is missed", |n| n.status("two1")["votes"] == 2);
    assert_eq!(net.holder(other), other, "nothing moves without the witness (S10)");
    start(&mut net);
    net.until("q votes again in both", |n| {
        n.status("two1")["votes"] == 3 && n.status(other)["votes"] == 3
    });
    let holder = net.holder("two1");
    let other = if holder == "two1" { "two2" } else { "two1" };
    kill(&mut net, &holder);
    net.until("the vote counts after the restart", |n| n.holder(other) == other);
}

#[test]
fn quorumd_forgets_a_cluster_only_after_that_has_let_it_go() {
    if !can_run() {
        return;
    }
    let mut net = hosts();
    net.fails("q", &["quorumd", "list"], 3);
    start(&mut net);
    assert!(net.ok("q", &["quorumd", "list"]).contains("no cluster"));
    let port = cluster(&mut net, "one", 11).to_string();
    let again = code(&net, "one1");
    let join = ["quorumd", "join", "10.97.18.11", &again, "--node", "q2", "--port", &port];
    let told = net.fails("q", &join, 2);
    assert!(told.contains("is another cluster's"), "{told}");
    let wrong = format!("{}{}", if again.starts_with('a') { "b" } else { "a" }, &again[1..]);
    net.fails("q", &["quorumd", "join", "10.97.18.11", &wrong, "--node", "q2"], 8);
    let left = std::fs::read_dir(net.home.join("q")).unwrap().map(|file| file.unwrap().file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["one"], "a refused join leaves nothing");
    let told = net.fails("q", &["quorumd", "forget", "one"], 4);
    assert!(told.contains("counts the vote of q"), "{told}");
    net.fails("q", &["quorumd", "forget", "tow"], 5);

    // A log that cannot be read ends this one witness, and it says so.
    kill(&mut net, "q");
    let log = net.home.join("q/one/log.redb");
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&log, b"this is no log").unwrap();
    start(&mut net);
    net.until("it has no vote", |n| seen(n, "one")["state"] == "no vote");
    assert!(net.ok("q", &["quorumd", "list"]).contains("cannot be read"));
    kill(&mut net, "q");
    std::fs::write(&log, &whole).unwrap();
    start(&mut net);
    net.until("it votes again", |n| seen(n, "one")["votes"] == true);

    net.ok("one1", &["node", "remove", "q", "--reason", "elsewhere"]);
    net.until("it knows that it was removed", |n| seen(n, "one")["state"] == "removed");
    net.ok("q", &["quorumd", "forget", "one"]);
    net.until("it is gone", |n| n.ok("q", &["quorumd", "list"]).contains("no cluster"));
    assert!(!net.home.join("q/one").exists());
}
