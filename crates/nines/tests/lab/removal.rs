//! Members that leave for good, and machines that take their places.

use serde_json::Value;

use super::{Net, can_run, node};

fn numbers(net: &Net, by: &str) -> Vec<(String, u64)> {
    let list: Value = serde_json::from_str(&net.ok(by, &["node", "list", "-o", "json"])).unwrap();
    let nodes = list["nodes"].as_array().unwrap().iter();
    nodes.map(|n| (n["name"].as_str().unwrap().into(), n["id"].as_u64().unwrap())).collect()
}

/// The holder leaves; its machine begins anew under its name, with another number.
#[test]
fn the_holder_leaves_for_good_and_its_machine_joins_again() {
    if !can_run() {
        return;
    }
    let mut net = Net::of_three(7);
    let holder = net.holder("wit1");
    let other = if holder == "lb1" { "lb2" } else { "lb1" };
    let list = net.ok("wit1", &["node", "list"]);
    assert!(list.lines().next().unwrap().contains("NUMBER") && list.lines().count() == 4, "{list}");
    let told = net.fails("wit1", &["node", "remove", "lb7"], 5);
    assert!(told.contains("unknown node lb7"), "{told}");
    let told = net.fails("wit1", &["node", "replace", "wit1"], 2);
    assert!(told.contains("on another member"), "{told}");
    net.ok("wit1", &["node", "remove", &holder, "--reason", "sold"]);
    assert_eq!(net.holder("wit1"), other);
    net.until("two voters are left", |n| {
        let status = n.status("wit1");
        status["voters"] == 2
            && status["votes"] == 2
            && node(&status, &holder)["state"] == "not joined"
    });
    // It knows, also after a restart, and says what can be done.
    for restarted in [false, true] {
        if restarted {
            nines_lab::kill(&mut net.agents.remove(&holder).unwrap());
            net.start(&holder);
        }
        net.until("it says that it was removed", |n| {
            let own = node(&n.status(&holder), &holder);
            own["state"] == "removed" && own["next"].as_str().unwrap().contains("join it")
        });
    }
    let own = net.ok(&holder, &["status"]);
    assert!(own.contains("was removed from the cluster"), "{own}");
    assert!(net.ok("wit1", &["events"]).contains("is to leave the cluster: sold"));
    assert!(!net.ok("wit1", &["events"]).contains("heard nothing from node"));
    nines_lab::kill(&mut net.agents.remove(&holder).unwrap());
    std::fs::rename(net.home.join(&holder), net.home.join("moved-away")).unwrap();
    let told = net.fails("wit1", &["code"], 2);
    assert!(told.contains("a witness cannot let machines join"), "{told}");
    net.join(&holder, other, &[]);
    net.start(&holder);
    net.until("it is back under another number", |n| {
        let healthy = n.status("wit1")["verdict"] == "HEALTHY" && n.status("wit1")["votes"] == 3;
        healthy && numbers(n, "wit1").iter().any(|(name, id)| *name == holder && *id == 4)
    });
}

/// A dead one is replaced by another machine in one command; a member removes itself.
#[test]
fn a_dead_member_is_replaced_and_one_leaves_by_its_own_command() {
    if !can_run() {
        return;
    }
    let mut net = Net::of_three(7);
    nines_lab::kill(&mut net.agents.remove("wit1").unwrap());
    net.until("it is silent", |n| node(&n.status("lb1"), "wit1")["state"] == "silent");
    let told = net.fails("lb1", &["node", "remove", "lb2", "--wait", "2s"], 7);
    assert!(told.contains("only 1 of the 2 other votes are heard"), "{told}");
    assert!(told.contains("nines node keep lb2"), "{told}");
    let status = net.ok("lb2", &["status"]);
    assert!(status.contains("is to leave the cluster") && status.contains("leaving"), "{status}");
    net.ok("lb2", &["node", "keep", "lb2"]);
    let said = net.ok("lb1", &["node", "replace", "wit1"]);
    let line = said.lines().find(|l| l.contains("nines join")).unwrap();
    assert!(line.trim_end().ends_with("--node wit1 --witness"), "{line}");
    std::fs::rename(net.home.join("wit1"), net.home.join("dead")).unwrap();
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    net.ok("wit1", &words);
    net.start("wit1");
    net.until("three vote again", |n| {
        n.status("lb1")["votes"] == 3 && n.status("lb1")["verdict"] == "HEALTHY"
    });
    net.ok("lb1", &["node", "remove", "lb1"]);
    net.until("the others go on", |n| {
        let status = n.status("lb2");
        status["voters"] == 2 && n.holder("lb2") == "lb2"
    });
    // The old one comes back from its old disk: it is told, and takes no part.
    nines_lab::kill(&mut net.agents.remove("wit1").unwrap());
    std::fs::rename(net.home.join("wit1"), net.home.join("second")).unwrap();
    std::fs::rename(net.home.join("dead"), net.home.join("wit1")).unwrap();
    net.start("wit1");
    net.until("it says that it was removed", |n| {
        node(&n.status("wit1"), "wit1")["state"] == "removed"
    });
}

/// A machine was let in, and its agent never began: it is seen, counts for nothing, joins again
/// under the same number, and is taken back at once.
#[test]
fn a_join_that_was_broken_off_is_seen_and_taken_back() {
    if !can_run() {
        return;
    }
    let mut net = Net::of_three(9);
    // It stands on the machine of the witness, at another port.
    let join = |net: &Net| {
        let said = net.ok("lb1", &["code", "--node", "lb3"]);
        let line = said.lines().find(|l| l.contains("nines join")).unwrap();
        let words: Vec<&str> = line.split_whitespace().skip(1).chain(["--port", "9200"]).collect();
        let command = net.command("lb3", &words);
        let out = net.lab.spawn("wit1", command).unwrap().wait().unwrap();
        assert!(out.success(), "{line}");
    };
    for round in 0..2 {
        if round > 0 {
            std::fs::remove_dir_all(net.home.join("lb3")).unwrap();
        }
        join(&net);
        net.until("it is seen as joining", |n| {
            let of = node(&n.status("lb2"), "lb3");
            let why = of["trouble"].as_str().unwrap_or_default();
            of["state"] == "joining" && why.contains("ago and has not been heard yet")
        });
        assert!(numbers(&net, "lb1").contains(&("lb3".into(), 4)));
    }
    let list = net.ok("lb1", &["node", "list"]);
    assert!(list.contains("nines node remove lb3"), "{list}");
    // It has no vote: two of three decide without it.
    nines_lab::kill(&mut net.agents.remove("wit1").unwrap());
    net.until("wit1 is silent", |n| node(&n.status("lb1"), "wit1")["state"] == "silent");
    assert_eq!(net.status("lb1")["voters"], 3);
    net.ok("lb1", &["node", "remove", "lb3", "--wait", "5s"]);
    assert!(!numbers(&net, "lb1").iter().any(|(name, _)| name == "lb3"));
}
