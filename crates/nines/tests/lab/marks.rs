//! Services by mark, where netfilter marks: its hooks come after nines' own.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

use super::{
    Net, PATIENCE, can_run,
    ipvsadm::ipvsadm,
    packets::{get, lone_director, routed},
    text,
};

const NFT: &str = "table inet shop {
    chain marks {
        type filter hook prerouting priority mangle
        ip daddr 10.97.0.100 tcp dport { 80, 443 } meta mark set 7
        ip6 daddr 2001:db8::100 tcp dport 80 meta mark set 7
    }
}
";

impl Net {
    /// Loads rules on the director.
    fn nft(&self, rules: &str) {
        let file = self.write("rules.nft", rules);
        let mut nft = Command::new("nft");
        nft.args(["-f", &file]);
        assert!(self.lab.spawn("lb1", nft).unwrap().wait().unwrap().success());
    }

    /// A setting of a host's kernel.
    fn set(&self, host: &str, name: &'static str, value: &'static str) {
        let done = self.lab.within(host, || nines_dataplane::sysctl::write(name, value));
        done.unwrap().unwrap();
    }
}

fn rules(net: &Net, family: &str) -> String {
    let mut command = Command::new("ip");
    command.args([family, "rule"]).stdin(Stdio::null()).stdout(Stdio::piped());
    text(&net.lab.spawn("lb1", command).unwrap().wait_with_output().unwrap().stdout)
}

#[test]
fn what_netfilter_marks_finds_its_service() {
    if !can_run() {
        return;
    }
    let mut net = routed();
    for host in ["r1", "r2", "lb1"] {
        net.web(host, "[::]:8080");
    }
    net.web("lb1", "[::]:80");
    net.lab.ip("lb1", "addr add 10.97.0.100/32 dev eth0").unwrap();
    net.lab.ip("lb1", "addr add 2001:db8::100/128 dev eth0 nodad").unwrap();
    net.nft(NFT);
    let before = [rules(&net, "-4"), rules(&net, "-6")];
    // Without a service by it, a mark is nothing to us.
    assert_eq!(get(&net, "client", "10.97.0.100:80").as_deref(), Some("lb1"));

    ipvsadm(&net, "lb1", "-A -f 7 -s rr");
    for server in ["10.97.1.11:8080", "10.97.1.12:8080"] {
        ipvsadm(&net, "lb1", &format!("-a -f 7 -r {server} -m"));
    }
    net.until("a server answers", |n| get(n, "client", "10.97.0.100:80").as_deref() == Some("r1"));
    ipvsadm(&net, "lb1", "-Z");
    let mut seen: Vec<String> = ["80", "443", "80", "443"]
        .iter()
        .filter_map(|port| get(&net, "client", &format!("10.97.0.100:{port}")))
        .collect();
    seen.sort();
    assert_eq!(seen, ["r1", "r1", "r2", "r2"], "both ports are one service");
    let stats = ipvsadm(&net, "lb1", "-Ln --stats");
    let counted: Vec<&str> = stats.lines().nth(3).unwrap().split_whitespace().collect();
    assert_eq!(counted[..3], ["FWM", "7", "4"], "{stats}");
    assert!(counted[3] != "4" && counted[4] != "0", "known flows, both ways: {stats}");
    // What has no mark, or another protocol, is as it was; so is IPv6 without a service.
    assert_eq!(get(&net, "client", "10.97.0.100:8080").as_deref(), Some("lb1"));
    assert_eq!(get(&net, "client", "[2001:db8::100]:80").as_deref(), Some("lb1"));

    // A client that is remembered keeps its server on both ports.
    ipvsadm(&net, "lb1", "-E -f 7 -s rr -p 60");
    let first = get(&net, "client", "10.97.0.100:80");
    for port in ["443", "80", "443"] {
        assert_eq!(get(&net, "client", &format!("10.97.0.100:{port}")), first);
    }

    // This director as a server: what comes in again goes up its stack, strict as it may be.
    net.set("lb1", "net/ipv4/conf/all/rp_filter", "1");
    ipvsadm(&net, "lb1", "-a -f 7 -r 10.97.0.100:8080 -m");
    ipvsadm(&net, "lb1", "-E -f 7 -s fo");
    ipvsadm(&net, "lb1", "-e -f 7 -r 10.97.0.100:8080 -m -w 9");
    assert_eq!(get(&net, "client", "10.97.0.100:80").as_deref(), Some("lb1"));

    ipvsadm(&net, "lb1", "-A -f 7 -6 -s rr");
    ipvsadm(&net, "lb1", "-a -f 7 -6 -r [2001:db8:1::11]:8080 --fullnat");
    // Neighbours of IPv6 take their time to say who they are (RFC 4862 section 5.4).
    let six = "[2001:db8::100]:80";
    net.until("a server answers", |n| get(n, "client", six).as_deref() == Some("r1"));
    ipvsadm(&net, "lb1", "-a -f 7 -6 -r [2001:db8::100]:80 -m");
    ipvsadm(&net, "lb1", "-d -f 7 -6 -r [2001:db8:1::11]:8080");
    assert_eq!(get(&net, "client", "[2001:db8::100]:80").as_deref(), Some("lb1"));

    // The last service by a mark takes the detour with it.
    ipvsadm(&net, "lb1", "-D -f 7 -6");
    assert_ne!(rules(&net, "-4"), before[0]);
    assert_eq!(rules(&net, "-6"), before[1]);
    ipvsadm(&net, "lb1", "-D -f 7");
    assert_eq!([rules(&net, "-4"), rules(&net, "-6")], before);
    let left = net.lab.within("lb1", nines_dataplane::address::interfaces).unwrap().unwrap();
    assert!(!left.iter().any(|i| i.name.starts_with("nines-")), "{left:?}");
    assert_eq!(get(&net, "client", "10.97.0.100:80").as_deref(), Some("lb1"));
}

/// A cache in front of what clients ask: without it they get what they asked for, and keep it.
#[test]
fn without_a_cache_packets_go_their_own_way() {
    if !can_run() {
        return;
    }
    let mut net = routed();
    net.web("r1", "[::]:8080");
    net.web("r2", "[::]:8080");
    net.lab.ip("client", "route add 10.97.1.0/24 via 10.97.0.2").unwrap();
    net.nft(
        "table ip cache {\nchain marks {\ntype filter hook prerouting priority mangle\n\
         ip saddr 10.97.0.0/24 tcp dport 8080 meta mark set 9\n}\n}\n",
    );
    net.set("lb1", "net/ipv4/ip_forward", "1");
    let origin = "10.97.1.12:8080";
    assert_eq!(get(&net, "client", origin).as_deref(), Some("r2"));
    ipvsadm(&net, "lb1", "-A -f 9 -s rr");
    ipvsadm(&net, "lb1", "-a -f 9 -r 10.97.1.11:8080 -m");
    net.until("the cache answers", |n| get(n, "client", origin).as_deref() == Some("r1"));
    // What ldirectord's `fallback` does when the last cache is dead.
    ipvsadm(&net, "lb1", "-a -f 9 -r 127.0.0.1:0 -g");
    ipvsadm(&net, "lb1", "-d -f 9 -r 10.97.1.11:8080");
    assert!(ipvsadm(&net, "lb1", "-Ln").contains("Local"));
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = [0; 1_024];
        let n = stream.read(&mut answer).unwrap();
        text(&answer[..n]).trim_end().lines().last().unwrap_or_default().to_owned()
    };
    let mut kept = net.lab.within("client", || TcpStream::connect(origin)).unwrap().unwrap();
    kept.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(ask(&mut kept), "r2");
    ipvsadm(&net, "lb1", "-a -f 9 -r 10.97.1.11:8080 -m");
    ipvsadm(&net, "lb1", "-e -f 9 -r 127.0.0.1:0 -g -w 0");
    net.until("the cache answers again", |n| get(n, "client", origin).as_deref() == Some("r1"));
    assert_eq!(ask(&mut kept), "r2", "what had begun goes on");
}

/// The same from cluster.toml: the agent holds the VIP, and asks the cache.
#[test]
fn a_cluster_has_services_by_mark() {
    if !can_run() {
        return;
    }
    let mut net = routed();
    for host in ["r1", "r2"] {
        net.web(host, "[::]:8080");
    }
    net.lab.ip("client", "route add 10.97.1.0/24 via 10.97.0.2").unwrap();
    net.nft(
        "table ip both {\nchain marks {\ntype filter hook prerouting priority mangle\n\
         ip daddr 10.97.0.100 tcp dport { 80, 443 } meta mark set 7\n\
         ip daddr 10.97.1.12 tcp dport 8080 meta mark set 9\n}\n}\n",
    );
    lone_director(
        &mut net,
        "[service.shop]\nlisten = \"10.97.0.100:*\"\nmark = 7\nforward = \"nat\"\nscheduler = \"rr\"\n\
         check = { port = 8080, every = \"200ms\" }\n\
         servers = { r1 = \"10.97.1.11:8080\", r2 = \"10.97.1.12:8080\" }\n\
         [service.cache]\nlisten = \"10.97.0.101:*\"\nmark = 9\nforward = \"nat\"\n\
         check = { port = 8080, every = \"200ms\", fall = 1 }\n\
         servers = { r1 = \"10.97.1.11:8080\", \
                     bypass = { address = \"127.0.0.1\", role = \"sorry\" } }\n",
    );
    net.until("both servers answer", |n| {
        let ports = ["80", "443", "80", "443"].map(|p| format!("10.97.0.100:{p}"));
        let seen: Vec<_> = ports.iter().filter_map(|to| get(n, "client", to)).collect();
        seen.iter().filter(|s| *s == "r1").count() == 2 && seen.len() == 4
    });
    let origin = "10.97.1.12:8080";
    net.until("the cache answers", |n| get(n, "client", origin).as_deref() == Some("r1"));
    let status = net.status("lb1");
    assert_eq!(status["services"][1]["listen"], "mark 7, 10.97.0.100");
    // Without it clients get what they asked for.
    net.ok("lb1", &["drain", "cache/r1", "--force=last-server"]);
    net.until("the origin answers", |n| get(n, "client", origin).as_deref() == Some("r2"));
}

/// A namespace that ended leaves pins, and its number goes to another one.
#[test]
fn tables_of_a_namespace_that_had_this_number_are_not_ours() {
    if !can_run() {
        return;
    }
    let net = routed();
    ipvsadm(&net, "lb1", "-A -t 10.97.0.100:80");
    assert!(ipvsadm(&net, "lb1", "-Ln").contains("10.97.0.100:80"));
    let pins = net.lab.within("lb1", nines_dataplane::pins::pin_directory).unwrap().unwrap();
    let entries = || std::fs::read_dir(pins.parent().unwrap()).unwrap().flatten();
    let whose = entries().find(|e| e.file_name().to_string_lossy().starts_with("of-")).unwrap();
    std::fs::rename(whose.path(), pins.with_file_name("of-1234567")).unwrap();
    assert!(!ipvsadm(&net, "lb1", "-Ln").contains("10.97.0.100:80"), "another's table");
    ipvsadm(&net, "lb1", "-A -t 10.97.0.101:80");
    assert!(!ipvsadm(&net, "lb1", "-Ln").contains("10.97.0.100:80"));
}
