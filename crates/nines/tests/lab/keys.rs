//! Keys are rotated and taken away while the cluster serves.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Net, can_run, packets::get, quorumd, servers, text};

/// Names of the heartbeat keys that members use, by a member that asks all.
fn keys(net: &Net, by: &str) -> BTreeSet<String> {
    let told = net.ok(by, &["secret", "status", "-o", "json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    let members = told["members"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    members
        .iter()
        .map(|member| {
            assert_eq!(member["rotating"], false, "{told}");
            member["heartbeat_key"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn kept(net: &Net, host: &str, file: &str) -> String {
    std::fs::read_to_string(net.home.join(host).join(file)).unwrap()
}

fn beat_key(net: &Net, host: &str) -> String {
    let identity: Value = serde_json::from_str(&kept(net, host, "identity.json")).unwrap();
    identity["beat_key"].as_str().unwrap().to_owned()
}

/// Who holds the VIP, and since which entry of the log.
fn holding(net: &Net) -> (Value, Value) {
    let status = net.status("wit1");
    (status["vips"][0]["node"].clone(), status["vips"][0]["token"].clone())
}

#[test]
fn the_heartbeat_key_is_rotated_and_no_vip_moves() {
    if !can_run() {
        return;
    }
    let mut net = Net::of_three(21);
    net.until("the cluster is at this build's level", |n| {
        n.status("lb1")["feature_level"].as_u64() >= Some(5)
    });
    let (before, old) = (keys(&net, "lb1"), beat_key(&net, "lb1"));
    assert_eq!(before.len(), 1);
    let held = holding(&net);
    let told = net.fails("wit1", &["secret", "rotate", "--beat"], 4);
    assert!(told.contains("no director"), "{told}");
    let told = net.ok("lb1", &["secret", "rotate", "--beat"]);
    assert!(told.contains("lb1, lb2, wit1 have it now"), "{told}");
    let after = keys(&net, "lb2");
    assert!(after.len() == 1 && after.is_disjoint(&before), "{before:?} {after:?}");
    for host in ["lb1", "lb2", "wit1"] {
        assert!(!kept(&net, host, "identity.json").contains(&old), "{host} keeps the old key");
        assert!(!kept(&net, host, "heartbeat-keys").contains(&old), "{host} keeps the old key");
        assert!(!net.log(host).contains(&beat_key(&net, host)), "no secret in a log");
    }
    assert_eq!(holding(&net), held, "no VIP moves");

    // One that is off gets the key when it comes back, and hears the others again.
    nines_lab::kill(&mut net.agents.remove("wit1").unwrap());
    net.until("it is not heard", |n| n.status("lb1")["votes"] == 2);
    let wait = "another rotation has begun";
    net.until("the next rotation may begin", |n| {
        let out = n.nines("lb2", &["secret", "rotate", "--beat"]);
        let told = text(&out.stderr);
        assert!(out.status.success() || told.contains(wait), "{told}");
        let told = text(&out.stdout);
        assert!(!out.status.success() || told.contains("when they come back: wit1"), "{told}");
        out.status.success()
    });
    assert_ne!(beat_key(&net, "lb1"), beat_key(&net, "wit1"));
    net.start("wit1");
    net.until("it is heard", |n| n.status("lb1")["votes"] == 3 && n.status("wit1")["votes"] == 3);
    assert_eq!(beat_key(&net, "lb1"), beat_key(&net, "wit1"));
    assert_eq!(holding(&net), held, "no VIP moves");
}

#[test]
fn a_witness_of_the_build_before_deletes_the_key_of_the_authority() {
    if !can_run() {
        return;
    }
    let mut net = Net::of_three(22);
    nines_lab::kill(&mut net.agents.remove("wit1").unwrap());
    std::fs::copy(net.home.join("lb1/ca.key"), net.home.join("wit1/ca.key")).unwrap();
    net.start("wit1");
    assert!(net.log("wit1").contains("the CA key was deleted here"), "{}", net.log("wit1"));
    assert_eq!(kept(&net, "wit1", "ca.key"), "");
    net.until("it votes", |n| n.status("wit1")["votes"] == 3);
}

/// What a member says of the authorities.
fn authorities(net: &Net, by: &str) -> Value {
    serde_json::from_str(&net.ok(by, &["secret", "status", "-o", "json"])).unwrap()
}

/// Whether all members have certificates of one authority, and believe no other.
fn is_rotated(net: &Net, by: &str, members: usize) -> bool {
    let told = authorities(net, by);
    let all = told["members"].as_array().unwrap();
    let new = &told["authority"];
    let has =
        |m: &Value| m["authority"] == *new && m["also_believed"].as_array().unwrap().is_empty();
    told["authority_rotating"] == false && all.len() == members && all.iter().all(has)
}

/// lb1 and lb2 with a VIP in front of r1, wit1, and room for q and a client.
fn of_five() -> Net {
    let at = |host: u8| format!("10.97.24.{host}/24");
    let hosts: Vec<(&str, String)> =
        [("client", 1), ("lb1", 2), ("lb2", 3), ("wit1", 4), ("r1", 11), ("q", 9)]
            .map(|(host, n)| (host, at(n)))
            .into();
    let wires: Vec<_> = hosts.iter().map(|(host, at)| (*host, [("br0", at.as_str())])).collect();
    let wires: Vec<_> = wires.iter().map(|(host, wires)| (*host, wires.as_slice())).collect();
    let mut net = Net::new(&wires);
    net.form(&["lb1", "lb2"], "wit1");
    net.join("r1", "lb1", &["--server"]);
    servers::start(&mut net, "r1");
    net.web("r1", "0.0.0.0:80");
    let config = "[cluster]\nname = \"lab\"\n[nodes]\nlb1 = \"10.97.24.2\"\nlb2 = \"10.97.24.3\"\n\
        wit1 = { addresses = \"10.97.24.4\", role = \"witness\" }\n\
        [service.web]\nlisten = \"10.97.24.100:80\"\nservers = { r1 = \"10.97.24.11\" }\n\
        check = { http = \"/\", every = \"100ms\", rise = 1 }\n";
    let file = net.write("cluster.toml", config);
    net.ok("lb1", &["apply", "-y", &file]);
    net.until("r1 answers", |n| get(n, "client", WEB).as_deref() == Some("r1"));
    net.until("all vote", |n| n.status("wit1")["votes"] == 3);
    net
}

const WEB: &str = "10.97.24.100:80";

/// The word of a join code that a member prints.
fn code(net: &Net, by: &str, role: &str) -> String {
    let said = net.ok(by, &["code", role]);
    let line = said.lines().find(|l| l.contains("nines join")).unwrap();
    line.split_whitespace().nth(3).unwrap().to_owned()
}

/// A witness is off while the rotation begins; a witness joins with a code from before; the agent
/// with which it began is killed; the witness comes back. No VIP moves but that of the one killed.
#[test]
fn the_authority_is_rotated_while_a_member_is_off_and_the_cluster_serves() {
    if !can_run() {
        return;
    }
    let mut net = of_five();
    let told = net.fails("wit1", &["secret", "rotate", "--ca"], 4);
    assert!(told.contains("no CA key") && told.contains("on a director (lb1, lb2)"), "{told}");
    let hosts = ["lb1", "lb2", "wit1", "r1"];
    let old = kept(&net, "lb1", "ca.pem");
    let key = kept(&net, "lb1", "ca.key");
    let [early, late] = [(); 2].map(|()| code(&net, "lb1", "--witness"));
    nines_lab::kill(&mut net.agents.remove("wit1").unwrap());
    net.until("it is missed", |n| n.status("lb1")["votes"] == 2);
    let held = |n: &Net| n.status("lb1")["vips"][0].clone();
    let before = (held(&net)["node"].clone(), held(&net)["token"].clone());

    let told = net.ok("lb1", &["secret", "rotate", "--ca"]);
    assert!(told.contains("lb1, lb2 have certificates of it"), "{told}");
    assert!(told.contains(": wit1 (") && told.contains("need the new one"), "{told}");
    let told = net.ok("lb2", &["secret", "status"]);
    assert!(told.contains("\n  wit1 (") && told.contains("rotate --ca   finishes it"), "{told}");
    assert_eq!(get(&net, "client", WEB).as_deref(), Some("r1"));
    let after = held(&net);
    assert_eq!((after["node"].clone(), after["token"].clone()), before, "no VIP moves");
    net.until("the real server has a certificate of the new one", |n| {
        kept(n, "r1", "ca.pem") != old
    });
    // A code from before lets quorumd in.
    quorumd::start(&mut net);
    net.ok("q", &["quorumd", "join", "10.97.24.2", &early, "--node", "q"]);
    net.until("q votes", |n| n.status("lb1")["votes"] == 3 && n.status("lb1")["voters"] == 4);

    // wit1 comes back with what it had, and the agent that drove the rotation is killed.
    net.start("wit1");
    net.until("wit1 is heard", |n| n.status("lb2")["votes"] == 4);
    nines_lab::kill(&mut net.agents.remove("lb1").unwrap());
    net.until("lb2 serves", |n| get(n, "client", WEB).as_deref() == Some("r1"));
    net.start("lb1");
    net.until("all have the new one", |n| is_rotated(n, "lb1", 4) && is_rotated(n, "wit1", 4));
    net.until("the real server, too", |n| {
        !std::fs::read_to_string(n.home.join("r1/authorities")).unwrap().contains(&old[30..90])
    });
    let new = kept(&net, "lb1", "ca.pem");
    assert_ne!(new, old);
    for host in hosts {
        assert_eq!(kept(&net, host, "ca.pem"), new, "{host}");
        let signs = kept(&net, host, "ca.key");
        assert_eq!(signs.contains("PRIVATE KEY"), ["lb1", "lb2"].contains(&host), "{host}");
        assert_ne!(signs, key, "{host}");
        assert!(!net.log(host).contains("PRIVATE"), "no secret in a log");
    }
    assert_eq!(kept(&net, "q/lab", "ca.pem"), new);
    net.until("all vote", |n| n.status("lb2")["votes"] == 4);
    assert_eq!(get(&net, "client", WEB).as_deref(), Some("r1"));
    // The other code is of an authority that nobody believes.
    let told = net.fails("client", &["join", "10.97.24.2", &late, "--node", "x", "--witness"], 8);
    assert!(told.contains("made before its authority was rotated"), "{told}");
    let list = net.ok("lb1", &["code", "list"]);
    assert!(list.contains("revoked"), "{list}");

    // Once more, with all of them up: it ends at once, and newcomers get in.
    let told = net.ok("lb2", &["secret", "rotate", "--ca"]);
    assert!(told.contains("was rotated: it is") && told.contains("lb1, lb2, wit1, q"), "{told}");
    assert_ne!(kept(&net, "lb1", "ca.pem"), new);
    net.until("all have it", |n| is_rotated(n, "lb2", 4));
    // And on two directors at once: one rotation wins, whoever is told so.
    let asked = ["lb1", "lb2"].map(|host| {
        let mut command = net.command(host, &["secret", "rotate", "--ca"]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        net.lab.spawn(host, command).unwrap()
    });
    for child in asked {
        let out = child.wait_with_output().unwrap();
        let told = format!("{}{}", text(&out.stdout), text(&out.stderr));
        assert!([Some(0), Some(4)].contains(&out.status.code()), "{told}");
    }
    net.until("all have one", |n| ["lb1", "lb2", "wit1"].iter().all(|by| is_rotated(n, by, 4)));
    assert_eq!(kept(&net, "lb1", "ca.key"), kept(&net, "lb2", "ca.key"));
    let fresh = code(&net, "lb2", "--server");
    net.ok("client", &["join", "10.97.24.3", &fresh, "--node", "x", "--server"]);
}

fn nft(net: &Net, host: &str, words: &str) {
    let mut command = std::process::Command::new("nft");
    command.args(words.split_whitespace());
    let done = net.lab.spawn(host, command).unwrap().wait_with_output().unwrap();
    assert!(done.status.success(), "nft {words}: {}", text(&done.stderr));
}

#[test]
fn a_member_that_stays_away_is_removed_and_then_the_rotation_ends() {
    if !can_run() {
        return;
    }
    let mut net = Net::of_three(25);
    // A member is heard, and its TLS port does not answer: no certificate changes yet.
    let cert = kept(&net, "lb2", "node.pem");
    nft(&net, "wit1", "add table inet shut");
    nft(&net, "wit1", "add chain inet shut in { type filter hook input priority 0 ; }");
    nft(&net, "wit1", "add rule inet shut in tcp dport 9119 drop");
    let told = net.fails("lb2", &["secret", "rotate", "--ca"], 4);
    assert!(told.contains("wit1: no answer"), "{told}");
    assert_eq!(authorities(&net, "lb1")["authority_rotating"], true);
    assert_eq!(kept(&net, "lb2", "node.pem"), cert);
    nft(&net, "wit1", "delete table inet shut");
    let told = net.ok("lb1", &["secret", "rotate", "--ca"]);
    assert!(told.contains("was rotated: it is"), "it goes on where it stopped: {told}");
    net.until("all have the new one", |n| is_rotated(n, "lb2", 3));

    nines_lab::kill(&mut net.agents.remove("wit1").unwrap());
    net.until("it is missed", |n| n.status("lb1")["votes"] == 2);
    let held = |n: &Net| n.status("lb1")["vips"][0].clone();
    let before = (held(&net)["node"].clone(), held(&net)["token"].clone());
    let told = net.ok("lb2", &["secret", "rotate", "--ca"]);
    assert!(told.contains(": wit1 (") && told.contains("nines node remove NODE"), "{told}");
    assert_eq!(authorities(&net, "lb1")["authority_rotating"], true);
    net.ok("lb1", &["node", "remove", "wit1"]);
    net.until("it ends by itself", |n| is_rotated(n, "lb1", 2) && is_rotated(n, "lb2", 2));
    let after = held(&net);
    assert_eq!((after["node"].clone(), after["token"].clone()), before, "no VIP moves");
}
