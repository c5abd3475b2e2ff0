//! Two nodes without a third vote: one goes on alone when the other is known to be off.

use nines_lab::power::Mode;

use super::{Net, can_run};

/// lb1 and lb2 in 10.97.N.0/24, with a VIP that one of them holds, and a strip that switches both.
fn pair(n: u8) -> Net {
    let at = |host: u8| format!("10.97.{n}.{host}");
    let wire = |host: u8| at(host) + "/24";
    let (lb1, lb2) = (wire(2), wire(3));
    let mut net = Net::new(&[("lb1", &[("br0", &lb1)]), ("lb2", &[("br0", &lb2)])]);
    let said = net.ok("lb1", &["init", "lab", "--node", "lb1"]);
    net.start("lb1");
    let line = said.lines().find(|l| l.contains("nines join")).unwrap();
    let words: Vec<&str> = line.split_whitespace().skip(2).take(2).collect();
    net.ok("lb2", &["join", words[0], words[1], "--node", "lb2"]);
    net.start("lb2");
    let both = |n: &Net| n.status("lb1")["votes"] == 2 && n.status("lb2")["votes"] == 2;
    net.until("both vote", both);
    let config = format!(
        "[cluster]\nname = \"lab\"\n[nodes]\nlb1 = \"{}\"\nlb2 = \"{}\"\n[vip.v]\naddress = \"{}\"\n\
         [fence.strip]\nagent = \"fence_lab\"\ntimeout = \"10s\"\n\
         outlets = {{ lb1 = \"lb1\", lb2 = \"lb2\" }}\n\
         [fencing]\nafter = \"1s\"\ndelay = \"4s\"\n",
        at(2),
        at(3),
        wire(100),
    );
    let file = net.write("pair.toml", &config);
    net.ok("lb1", &["apply", "-y", &file]);
    net.until("one holds the VIP", |n| !n.holder("lb1").is_empty() && quorate(n, "lb1", 2));
    net
}

fn quorate(net: &Net, by: &str, voters: u64) -> bool {
    let status = net.status(by);
    status["quorate"] == true && status["voters"] == voters
}

fn other_of(name: &str) -> &'static str {
    if name == "lb1" { "lb2" } else { "lb1" }
}

/// Calls to switch somebody off.
fn shots(net: &Net) -> Vec<String> {
    net.power.calls().into_iter().filter(|call| call.starts_with("off ")).collect()
}

fn serves_alone(net: &Net, name: &str) -> bool {
    quorate(net, name, 1) && net.holder(name) == name && answers(net, name)
}

fn answers(net: &Net, name: &str) -> bool {
    net.status(name)["vips"][0]["answers_here"] == true
}

/// The machine is switched on, and its agent starts.
fn comes_back(net: &mut Net, name: &str) {
    nines_lab::kill(&mut net.agents.remove(name).unwrap());
    net.lab.mend(name).unwrap();
    net.ok(other_of(name), &["fence", "on", name]);
    net.start(name);
    net.until("it has its vote back", |n| quorate(n, "lb1", 2) && quorate(n, "lb2", 2));
}

/// The link is cut: the holder has the other one switched off, and goes on; nobody is switched off
/// twice, and the other one gets its vote back.
// scenario 1
#[test]
fn of_two_that_lose_each_other_the_holder_goes_on() {
    if !can_run() {
        return;
    }
    let mut net = pair(17);
    let holder = net.holder("lb1");
    let other = other_of(&holder);
    net.lab.cut(other).unwrap();
    net.until("the holder goes on alone", |n| serves_alone(n, &holder));
    assert_eq!(shots(&net), [format!("off {other}")]);
    let events = net.ok(&holder, &["events"]);
    assert!(events.contains(&format!("strip says that {other} is off")), "{events}");
    comes_back(&mut net, other);
    assert_eq!(net.holder(other), holder, "no failback");
    assert_eq!(shots(&net).len(), 1, "{:?}", net.power.calls());
}

/// The holder stands still: the other one takes over when its device says that it is off.
#[test]
fn of_two_the_spare_takes_over_from_one_that_stands_still() {
    if !can_run() {
        return;
    }
    let mut net = pair(18);
    let holder = net.holder("lb1");
    let other = other_of(&holder);
    nines_lab::freeze(&net.agents[&holder]).unwrap();
    net.until("the other one serves", |n| serves_alone(n, other));
    assert_eq!(shots(&net), [format!("off {holder}")]);
    comes_back(&mut net, &holder);
    assert_eq!(net.holder(&holder), other, "no failback");
}

/// Without a device that answers nobody goes on, and it says why; a person can say more.
// scenario 4
#[test]
fn of_two_nobody_goes_on_without_proof_and_a_person_can_give_it() {
    if !can_run() {
        return;
    }
    let mut net = pair(19);
    net.power.behave("", Mode::Refuses).unwrap();
    let holder = net.holder("lb1");
    let other = other_of(&holder);
    nines_lab::kill(&mut net.agents.remove(&holder).unwrap());
    net.until("it says why", |n| {
        let said = n.ok(other, &["status"]);
        said.contains("could not be switched off") && said.contains("nines fence confirm")
    });
    assert!(!quorate(&net, other, 1) && !answers(&net, other));
    let why = net.fails(other, &["fence", "confirm", &holder], 4);
    assert!(why.contains("you have SEEN"), "{why}");
    let said = net.ok(other, &["fence", "confirm", &holder, "--yes", "--reason", "it burnt"]);
    assert!(said.contains("counts as off"), "{said}");
    net.until("the other one serves", |n| serves_alone(n, other));
    assert!(net.ok(other, &["events"]).contains("it burnt"));
    net.start(&holder);
    net.until("it has its vote back", |n| quorate(n, "lb1", 2) && quorate(n, "lb2", 2));
}

/// One that is stopped gives its vote up: the other one serves on, and no device is asked.
#[test]
fn of_two_one_that_is_stopped_leaves_the_other_serving() {
    if !can_run() {
        return;
    }
    let mut net = pair(20);
    let holder = net.holder("lb1");
    let other = other_of(&holder);
    let mut child = net.agents.remove(&holder).unwrap();
    nines_lab::terminate(&child).unwrap();
    assert!(child.wait().unwrap().success());
    net.until("the other one serves", |n| serves_alone(n, other));
    assert_eq!(shots(&net), Vec::<String>::new());
    net.start(&holder);
    net.until("it has its vote back", |n| quorate(n, "lb1", 2) && quorate(n, "lb2", 2));
    assert_eq!(net.holder(&holder), other, "no failback");
}
