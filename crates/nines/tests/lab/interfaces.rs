//! Interfaces that go, and others of their name that come: a card pulled, a bond made anew.

use super::{
    Net, can_run,
    packets::{get, lone_director, routed},
};

impl Net {
    /// Takes an interface away and plugs in another of its name.
    fn replace(&self, host: &str, number: usize, bridge: &str, address: &str) {
        let (port, switch) = (nines_lab::Lab::port(host, number), self.lab.namespace("sw"));
        let ip = |host: &str, words: String| self.lab.ip(host, &words).unwrap();
        ip(host, format!("link del eth{number}"));
        ip(host, format!("link add eth{number} type veth peer name {port} netns {switch}"));
        ip("sw", format!("link set {port} master {bridge} up"));
        ip(host, format!("link set eth{number} up"));
        ip(host, format!("addr add {address} dev eth{number}"));
    }
}

#[test]
fn another_interface_of_the_name_gets_the_programs_and_the_vip() {
    if !can_run() {
        return;
    }
    let mut net = routed();
    net.web("r1", "0.0.0.0:8080");
    lone_director(
        &mut net,
        "[service.web]\nlisten = \"10.97.0.100:80\"\nforward = \"nat\"\n\
         servers = { r1 = \"10.97.1.11:8080\" }\n",
    );
    let answers = |n: &Net| get(n, "client", "10.97.0.100:80").as_deref() == Some("r1");
    net.until("the server answers", answers);
    let status = net.ok("lb1", &["status"]);
    assert!(status.contains("on eth0, eth1 (no XDP: veth hands over"), "{status}");
    net.replace("lb1", 1, "br1", "10.97.1.2/24");
    net.until("the programs are on the servers' new interface", answers);
    net.replace("lb1", 0, "br0", "10.97.0.2/24");
    net.until("the VIP and the programs are on the clients' new interface", answers);
    // Another one of the name while the old one lives on under another.
    net.lab.ip("lb1", "link set eth1 down").unwrap();
    net.lab.ip("lb1", "addr flush dev eth1").unwrap();
    net.lab.ip("lb1", "link set eth1 name old1").unwrap();
    let (port, switch) = ("p9-lb1", net.lab.namespace("sw"));
    net.lab.ip("lb1", &format!("link add eth1 type veth peer name {port} netns {switch}")).unwrap();
    net.lab.ip("sw", &format!("link set {port} master br1 up")).unwrap();
    net.lab.ip("lb1", "link set eth1 up").unwrap();
    net.lab.ip("lb1", "addr add 10.97.1.2/24 dev eth1").unwrap();
    net.until("the programs are on the one that has the name", answers);
}
