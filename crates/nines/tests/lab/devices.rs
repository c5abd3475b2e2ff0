//! Interfaces and addresses that come, go and are more than one: second cards, cables that are
//! pulled, programs that take addresses away, agents that start before their address.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nines_dataplane::gratuitous_arp::{Link, answers_for, who_has};

use super::{
    BINARY, Net, can_run,
    packets::{get, lone_director},
    text,
};

/// MAC addresses that answer a host's questions for an address within half a second.
fn answers(net: &Net, host: &str, addr: &str) -> BTreeSet<[u8; 6]> {
    let addr = addr.parse().unwrap();
    let ask = move || {
        let all = nines_dataplane::address::interfaces().unwrap();
        let eth0 = all.iter().find(|i| i.name == "eth0").unwrap();
        let link = Link::open(eth0.index, true).unwrap();
        let (until, mut heard) = (Instant::now() + Duration::from_millis(500), BTreeSet::new());
        let mut buffer = [0; 2_048];
        while Instant::now() < until {
            link.send(&who_has(addr, eth0.mac)).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            while let Some((length, _)) = link.receive(&mut buffer) {
                heard.extend(answers_for(&buffer[..length], addr.into()));
            }
        }
        heard
    };
    net.lab.within(host, ask).unwrap()
}

fn has(net: &Net, host: &str, addr: &str) -> bool {
    let addr: std::net::IpAddr = addr.parse().unwrap();
    let all = net.lab.within(host, nines_dataplane::address::interfaces).unwrap().unwrap();
    all.iter().any(|i| i.addresses.iter().any(|(a, _)| *a == addr))
}

/// A card that is plugged in now.
fn plug(net: &Net, host: &str, number: usize, bridge: &str, address: &str) {
    let (port, switch) = (nines_lab::Lab::port(host, number), net.lab.namespace("sw"));
    let ip = |host: &str, words: String| net.lab.ip(host, &words).unwrap();
    ip(host, format!("link add eth{number} type veth peer name {port} netns {switch}"));
    ip("sw", format!("link set {port} master {bridge} up"));
    ip(host, format!("link set eth{number} up"));
    ip(host, format!("addr add {address} dev eth{number}"));
}

/// Two directors with heartbeats on br1 and the VIP on br0, where each has a second card.
fn pair() -> Net {
    let mut net = Net::new(&[
        ("client", &[("br0", "10.97.0.1/24")]),
        ("lb1", &[("br1", "10.98.0.2/24"), ("br0", "10.97.0.2/24"), ("br0", "10.97.0.8/24")]),
        ("lb2", &[("br1", "10.98.0.3/24"), ("br0", "10.97.0.3/24"), ("br0", "10.97.0.9/24")]),
        ("wit1", &[("br1", "10.98.0.4/24")]),
    ]);
    let file = net.write(
        "c.toml",
        "[cluster]\nname = \"lab\"\n[nodes]\nlb1 = \"10.98.0.2\"\nlb2 = \"10.98.0.3\"\n\
         wit1 = { addresses = \"10.98.0.4\", role = \"witness\" }\n\
         [vip.v]\naddress = \"10.97.0.100/24\"\ninterface = \"eth1\"\nprefer = [\"lb1\"]\n",
    );
    let mut all = Command::new(BINARY);
    all.arg("--state").arg(&net.home).args(["init", "--all", &file]);
    assert!(all.stdout(Stdio::null()).status().unwrap().success());
    for node in ["lb1", "lb2", "wit1"] {
        net.start(node);
    }
    net.until("all vote", |n| n.status("wit1")["votes"] == 3);
    net.until("somebody has the VIP", |n| !n.holder("wit1").is_empty());
    if net.holder("wit1") == "lb2" {
        net.ok("wit1", &["move", "v", "--to", "lb1"]);
    }
    net.until("lb1 has the VIP", |n| has(n, "lb1", "10.97.0.100"));
    net
}

// scenario 31
#[test]
fn no_card_of_a_frozen_director_answers_for_its_vip_not_even_one_that_comes_later() {
    if !can_run() {
        return;
    }
    let mut net = pair();
    let cards = |n: &Net, host: &str| {
        let all = n.lab.within(host, nines_dataplane::address::interfaces).unwrap().unwrap();
        all.iter().filter(|i| i.ethernet).map(|i| i.mac).collect::<BTreeSet<_>>()
    };
    assert!(answers(&net, "client", "10.97.0.100").is_subset(&cards(&net, "lb1")));
    // One that comes while the agent runs is as it would be without an agent, once it has the
    // guard.
    plug(&net, "lb1", 3, "br0", "10.97.0.18/24");
    let arp_ignore = |n: &Net, host: &str, interface: &str| {
        let name = format!("net/ipv4/conf/{interface}/arp_ignore");
        n.lab.within(host, || nines_dataplane::sysctl::read(&name)).unwrap().unwrap()
    };
    net.until("the guard is on the new card", |n| arp_ignore(n, "lb1", "eth3") == "0");
    assert_eq!(arp_ignore(&net, "lb1", "eth1"), "0", "other cards are as they were");
    nines_lab::freeze(&net.agents["lb1"]).unwrap();
    net.until("lb2 took over", |n| has(n, "lb2", "10.97.0.100"));
    plug(&net, "lb1", 4, "br0", "10.97.0.19/24");
    let heard = answers(&net, "client", "10.97.0.100");
    assert!(!heard.is_empty() && heard.is_subset(&cards(&net, "lb2")), "{heard:?}");
    assert!(has(&net, "lb1", "10.97.0.100"), "it is frozen, and only silent");
    nines_lab::thaw(&net.agents["lb1"]).unwrap();
    net.until("the guard is on the last card", |n| arp_ignore(n, "lb1", "eth4") == "0");
    // Stopped, it leaves the machine as it was.
    net.until("lb1 let go", |n| !has(n, "lb1", "10.97.0.100"));
    nines_lab::terminate(&net.agents["lb1"]).unwrap();
    net.agents.get_mut("lb1").unwrap().wait().unwrap();
    assert_eq!(arp_ignore(&net, "lb1", "default"), "0");
}

#[test]
fn a_vip_leaves_a_card_without_carrier_and_comes_back_when_it_is_taken_away() {
    if !can_run() {
        return;
    }
    let net = pair();
    // Another program takes it, alone and with the other addresses of the card.
    net.lab.ip("lb1", "addr del 10.97.0.100/24 dev eth1").unwrap();
    net.until("it is back", |n| has(n, "lb1", "10.97.0.100"));
    let told = |n: &Net, what: &str| n.ok("wit1", &["events"]).contains(what);
    net.until("the event is told", |n| told(n, "taken off eth1 by another program"));
    net.lab.ip("lb1", "addr flush dev eth1").unwrap();
    net.until("it is back again", |n| has(n, "lb1", "10.97.0.100"));
    assert_eq!(net.holder("wit1"), "lb1");
    // The cable of the holder's card is pulled, heartbeats go on.
    net.lab.ip("sw", "link set p1-lb1 down").unwrap();
    net.until("lb2 has it", |n| has(n, "lb2", "10.97.0.100") && !has(n, "lb1", "10.97.0.100"));
    net.until("the event names the card", |n| told(n, "cannot serve it: eth1 has no carrier"));
    // No director is fit: it stays, and lb1 gets it as soon as it could serve it.
    net.lab.ip("lb2", "link set eth1 down").unwrap();
    net.until("the event names this card", |n| told(n, "eth1 is down"));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(net.holder("wit1"), "lb2");
    net.lab.ip("sw", "link set p1-lb1 up").unwrap();
    net.until("lb1 has it", |n| has(n, "lb1", "10.97.0.100"));
}

#[test]
fn an_agent_waits_for_its_address() {
    if !can_run() {
        return;
    }
    let mut net = Net::new(&[("lb1", &[("br0", "10.97.0.2/24")])]);
    lone_director(&mut net, "[vip.v]\naddress = \"10.97.0.100/24\"\n");
    net.until("it has the VIP", |n| has(n, "lb1", "10.97.0.100"));
    nines_lab::kill(net.agents.get_mut("lb1").unwrap());
    net.lab.ip("lb1", "addr flush dev eth0").unwrap();
    net.start("lb1");
    net.until("it says what it waits for", |n| {
        n.ok("lb1", &["status"]).contains("waits for 10.97.0.2")
    });
    net.lab.ip("lb1", "addr add 10.97.0.2/24 dev eth0").unwrap();
    net.until("it has the VIP again", |n| has(n, "lb1", "10.97.0.100"));
    net.until("it waits no more", |n| !n.ok("lb1", &["status"]).contains("waits for"));
}

#[test]
fn tables_belong_to_the_network_namespace_and_later_cards_are_served() {
    if !can_run() {
        return;
    }
    let mut net = Net::new(&[
        ("client", &[("br0", "10.97.0.1/24")]),
        ("late", &[("br2", "10.97.2.1/24")]),
        ("lb1", &[("br0", "10.97.0.2/24"), ("br1", "10.97.1.2/24")]),
        ("r1", &[("br1", "10.97.1.11/24")]),
    ]);
    net.web("r1", "0.0.0.0:80");
    net.lab.ip("r1", "route add default via 10.97.1.2").unwrap();
    net.lab.ip("late", "route add default via 10.97.2.2").unwrap();
    net.lab.ip("lb1", "addr add 10.97.0.100/32 dev eth0").unwrap();
    // Each call has mounts of its own.
    let call = |line: &str| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &net.lab.namespace("lb1"), BINARY, "ipvsadm"]);
        let out = command.args(line.split_whitespace()).stdin(Stdio::null()).output().unwrap();
        assert!(out.status.success(), "ipvsadm {line}\n{}", text(&out.stderr));
        text(&out.stdout)
    };
    call("-A -t 10.97.0.100:80 -s rr");
    call("-a -t 10.97.0.100:80 -r 10.97.1.11:80 -m");
    assert!(call("-Ln").contains("10.97.1.11:80"));
    net.until("r1 answers", |n| get(n, "client", "10.97.0.100:80").as_deref() == Some("r1"));
    plug(&net, "lb1", 2, "br2", "10.97.2.2/24");
    net.until("r1 answers through the later card", |n| {
        get(n, "late", "10.97.0.100:80").as_deref() == Some("r1")
    });
    call("-C");
    assert_eq!(get(&net, "client", "10.97.0.100:80"), None);
}
