//! Nodes that come and go.

use std::time::Duration;

use super::{Net, can_run, node};

fn state(net: &Net, name: &str) -> String {
    node(&net.status("wit1"), name)["state"].as_str().unwrap_or_default().to_owned()
}

// scenario 21
#[test]
fn a_director_that_comes_and_goes_is_quarantined_until_a_person_ends_it() {
    if !can_run() {
        return;
    }
    let net = Net::of_three(21);
    let holder = net.holder("wit1");
    let spare = if holder == "lb1" { "lb2" } else { "lb1" };
    for _ in 0..3 {
        net.lab.cut(spare).unwrap();
        net.until("it is silent", |n| state(n, spare) == "silent");
        net.lab.mend(spare).unwrap();
        net.until("it is heard", |n| state(n, spare) != "silent");
        std::thread::sleep(Duration::from_millis(500));
    }
    net.until("it is quarantined", |n| state(n, spare) == "quarantined");
    assert_eq!(net.holder("wit1"), holder, "nothing moved");
    let status = net.ok("wit1", &["status"]);
    assert!(
        status.contains("was silent 3 times within an hour"),
        "{status}\n{}",
        net.ok("wit1", &["events"])
    );
    assert!(status.contains(&format!("nines ready {spare}")), "{status}");
    let list = net.ok("wit1", &["node", "list"]);
    assert!(list.contains("quarantined") && list.contains("s more"), "{list}");
    let why = net.ok("wit1", &["why", spare]);
    assert!(why.contains("times within an hour: it gets no VIP that another can take"), "{why}");
    // Without another one it would take over.
    assert_eq!(net.status("wit1")["vips"][0]["spare"][0], spare);
    net.ok("wit1", &["ready", spare]);
    net.until("a person has ended it", |n| state(n, spare) == "ready");
    net.ok(&holder, &["move", "v", "--to", spare]);
    net.until("it takes the VIP", |n| n.holder("wit1") == spare);
}
