//! Keys are rotated and taken away while the cluster serves.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Net, can_run};

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
        let told = super::text(&out.stderr);
        assert!(out.status.success() || told.contains(wait), "{told}");
        let told = super::text(&out.stdout);
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
