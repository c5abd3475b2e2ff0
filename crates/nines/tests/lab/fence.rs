//! Fencing: nodes that are switched off through a device, by the cluster or by a person.

use nines_lab::power::Mode;
use serde_json::Value;

use super::{Net, can_run, node};

/// A power strip with an outlet for each of the three.
const STRIP: &str = "[fence.strip]\nagent = \"fence_lab\"\ntimeout = \"10s\"\n\
    outlets = { lb1 = \"lb1\", lb2 = \"lb2\", wit1 = \"wit1\" }\n";

/// What `nines fence list` says of a node.
fn line(net: &Net, by: &str, name: &str) -> Value {
    let list: Value = serde_json::from_str(&net.ok(by, &["fence", "list", "-o", "json"])).unwrap();
    let all = list["fencing"].as_array().unwrap();
    all.iter().find(|line| line["node"] == name).cloned().unwrap_or_default()
}

/// How often the device was told to do this.
fn told(net: &Net, call: &str) -> usize {
    net.power.calls().iter().filter(|one| *one == call).count()
}

/// All devices were tried. They are by themselves, too; a change of the lead spoils that.
fn tried(net: &Net) {
    net.until("all devices were tried", |n| {
        let names = ["lb1", "lb2", "wit1"];
        n.nines("wit1", &["fence", "test"]).status.success()
            && names.iter().all(|name| line(n, "wit1", name)["state"] == "ready")
    });
}

/// Its programs are started again, as by a person at the machine.
fn back(net: &mut Net, name: &str) {
    nines_lab::kill(&mut net.agents.remove(name).unwrap());
    net.ok("wit1", &["fence", "on", name]);
    assert!(!net.power.is_off(name));
    net.start(name);
    net.until("it takes part again", |n| {
        n.status("wit1")["votes"] == 3 && line(n, "wit1", name)["state"] == "ready"
    });
}

/// A holder whose agent stands still is switched off, once, and its VIP goes on elsewhere.
// scenario 32
#[test]
fn a_node_that_stands_still_is_switched_off_once() {
    if !can_run() {
        return;
    }
    let mut net = Net::of_three_with(14, STRIP);
    tried(&net);
    let holder = net.holder("wit1");
    let other = if holder == "lb1" { "lb2" } else { "lb1" };
    let off = format!("off {holder}");
    nines_lab::freeze(&net.agents[&holder]).unwrap();
    net.until("it is off, and another one holds the VIP", |n| {
        line(n, "wit1", &holder)["state"] == "off" && n.holder("wit1") == other
    });
    let ended = net.agents.get_mut(&holder).unwrap().try_wait().unwrap();
    assert!(ended.is_some_and(|status| !status.success()), "killed, though it stood still");
    assert!(net.power.is_off(&holder));
    assert_eq!(told(&net, &off), 1, "{:?}", net.power.calls());
    let events = net.ok("wit1", &["events"]);
    assert!(events.contains(&format!("strip says that {holder} is off")), "{events}");
    assert!(net.ok(other, &["fence", "list"]).contains("off"));
    back(&mut net, &holder);
    assert_eq!(told(&net, &off), 1, "{:?}", net.power.calls());
}

/// A holder without links is switched off by those who have a majority, and switches nobody off.
#[test]
fn a_node_without_links_is_switched_off_by_the_majority() {
    if !can_run() {
        return;
    }
    let mut net = Net::of_three_with(15, STRIP);
    tried(&net);
    let holder = net.holder("wit1");
    let other = if holder == "lb1" { "lb2" } else { "lb1" };
    net.lab.cut(&holder).unwrap();
    net.until("it is off", |n| line(n, "wit1", &holder)["state"] == "off");
    assert_eq!(net.holder("wit1"), other);
    let calls = net.power.calls();
    let off: Vec<&String> = calls.iter().filter(|call| call.starts_with("off ")).collect();
    assert_eq!(off, [&format!("off {holder}")], "{calls:?}");
    net.lab.mend(&holder).unwrap();
    back(&mut net, &holder);
}

/// An agent that is replaced in place while a device hangs does not wait for it, and its fence
/// agent ends: it must not switch anything off later.
#[test]
fn a_restart_in_place_waits_for_no_fence_device() {
    if !can_run() {
        return;
    }
    let net = Net::of_three_with(17, &STRIP.replace("10s", "60s"));
    tried(&net);
    let holder = net.holder("wit1");
    net.power.behave("", Mode::Hangs).unwrap();
    nines_lab::freeze(&net.agents[&holder]).unwrap();
    net.until("the device is asked", |n| told(n, &format!("off {holder}")) == 1);
    let fence_agent = format!("/proc/{}", net.power.caller("").unwrap());
    let asks = |host: &&&String| net.log(host).contains("are asked to switch it off");
    let asker = net.agents.keys().filter(|host| **host != holder).find(|host| asks(&host)).unwrap();
    assert!(std::path::Path::new(&fence_agent).exists());
    nines_lab::hang_up(&net.agents[asker]).unwrap();
    net.until("it runs anew, and what it had started has ended", |n| {
        n.log(asker).matches("runs as").count() == 2 && !std::path::Path::new(&fence_agent).exists()
    });
    assert!(!net.power.is_off(&holder));
}

/// What a person orders, and what they are told.
#[test]
fn a_person_tests_switches_and_is_asked_before() {
    if !can_run() {
        return;
    }
    let mut net = Net::of_three_with(16, STRIP);
    tried(&net);
    let target = if net.status("wit1")["leader"] == "lb1" { "lb2" } else { "lb1" };
    let text = net.ok("wit1", &["fence", "list"]);
    assert!(text.contains("strip") && text.contains("ready") && text.contains("ok, "), "{text}");
    let text = net.ok("wit1", &["fence", "test"]);
    assert_eq!(text.lines().filter(|line| line.contains("strip reaches")).count(), 3, "{text}");
    let why = net.fails("wit1", &["fence", "off", target], 4);
    assert!(why.contains("cuts the power") && why.contains("--yes"), "{why}");
    let why = net.fails("wit1", &["fence", "off", "lb7", "--yes"], 5);
    assert!(why.contains("unknown node lb7"), "{why}");
    let why = net.fails("wit1", &["fence", "confirm", target], 4);
    assert!(why.contains("you have SEEN"), "{why}");
    let why = net.fails("wit1", &["fence", "confirm", target, "--yes"], 4);
    assert!(why.contains("is heard"), "{why}");
    // A device that lets nobody in: what it said is told, and nothing is off.
    net.power.behave("", Mode::Refuses).unwrap();
    let refused = net.nines("wit1", &["fence", "test", target]);
    let said = super::text(&refused.stdout);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("Unable to connect/login to fencing device"), "{said}");
    assert_eq!(line(&net, "wit1", target)["state"], "failing");
    assert!(net.ok("wit1", &["fence", "list"]).contains("FAILED"));
    net.power.behave("", Mode::Obeys).unwrap();
    net.ok("wit1", &["fence", "test", target]);
    let said = net.ok("wit1", &["fence", "off", target, "--yes", "--reason", "smoke"]);
    assert!(said.contains(&format!("strip says that {target} is off")), "{said}");
    assert!(net.power.is_off(target));
    net.until("it is silent", |n| node(&n.status("wit1"), target)["state"] == "silent");
    assert!(net.ok("wit1", &["events"]).contains("smoke"));
    back(&mut net, target);
}
