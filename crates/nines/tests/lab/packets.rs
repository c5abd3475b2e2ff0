//! Real connections through a director: NAT there and back, IPv6, a director that is a real
//! server, and a real server prepared and undone.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::{Net, can_run};

/// The body of `GET /` from a host, once it comes.
pub fn get(net: &Net, from: &str, to: &str) -> Option<String> {
    let to: SocketAddr = to.parse().unwrap();
    let asked = net.lab.within(from, move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().last().unwrap_or_default().to_owned())
    });
    asked.unwrap().ok()
}

/// The same with a request of several full segments.
fn get_at_length(net: &Net, from: &str, to: &str) -> Result<String, String> {
    let to: SocketAddr = to.parse().unwrap();
    let asked = net.lab.within(from, move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let long = "x".repeat(6_000);
        let request =
            format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().last().unwrap_or_default().to_owned())
    });
    asked.unwrap().map_err(|e| e.to_string())
}

#[test]
fn tunnels_end_at_servers_that_have_no_tunnel_device() {
    if !can_run() {
        return;
    }
    let mut net = Net::new(&[
        ("client", &[("br0", "10.97.0.1/24")]),
        ("lb1", &[("br0", "10.97.0.2/24"), ("br1", "10.97.1.2/24")]),
        ("r1", &[("br1", "10.97.1.11/24"), ("br0", "10.97.0.11/24")]),
        ("r2", &[("br1", "10.97.1.12/24"), ("br0", "10.97.0.12/24")]),
    ]);
    for (host, interface, address) in [
        ("client", "eth0", "2001:db8::1/64"),
        ("lb1", "eth0", "2001:db8::2/64"),
        ("lb1", "eth1", "2001:db8:1::2/64"),
        ("r1", "eth0", "2001:db8:1::11/64"),
        ("r1", "eth1", "2001:db8::11/64"),
        ("r2", "eth0", "2001:db8:1::12/64"),
        ("r2", "eth1", "2001:db8::12/64"),
    ] {
        net.lab.ip(host, &format!("addr add {address} dev {interface} nodad")).unwrap();
    }
    for server in ["r1", "r2"] {
        net.web(server, "[::]:80");
        net.ok(server, &["server", "prepare", "10.97.0.100", "2001:db8::100", "--tunnel"]);
    }
    for (forward, first) in
        [("ipip", "10.97.1.11"), ("gue", "2001:db8:1::11"), ("gre", "10.97.1.11")]
    {
        let second = if first.contains(':') { "10.97.1.12" } else { "2001:db8:1::12" };
        let services = format!(
            "[service.four]\nlisten = \"10.97.0.100:80\"\nforward = \"{forward}\"\nscheduler = \"rr\"\n\
             check = \"none\"\ntunnel-checksum = \"full\"\nservers = {{ a = \"{first}\", b = \"{second}\" }}\n\
             [service.six]\nlisten = \"[2001:db8::100]:80\"\nforward = \"{forward}\"\nscheduler = \"rr\"\n\
             check = \"none\"\nservers = {{ a = \"{first}\", b = \"{second}\" }}\n"
        );
        if net.agents.contains_key("lb1") {
            let head = "[cluster]\nname = \"lab\"\n[nodes]\nlb1 = \"10.97.0.2\"\n";
            let file = net.write("cluster.toml", &format!("{head}{services}"));
            net.ok("lb1", &["apply", &file, "--yes"]);
        } else {
            lone_director(&mut net, &services);
        }
        // Connections made before the new table is in place end with the old servers.
        net.until("the new table is in place", |n| {
            n.ok("lb1", &["ipvsadm", "-Ln", "--tun-info"]).matches(&format!(" {forward}")).count()
                == 4
        });
        for vip in ["10.97.0.100:80", "[2001:db8::100]:80"] {
            // Both servers: one may still be checking its own IPv6 address for duplicates.
            net.until(&format!("{vip} answers through {forward}"), |n| {
                (0..4).all(|_| get(n, "client", vip).is_some())
            });
            let seen: Vec<Result<String, String>> =
                (0..4).map(|_| get_at_length(&net, "client", vip)).collect();
            for server in ["r1", "r2"] {
                let n = seen.iter().filter(|s| s.as_deref() == Ok(server)).count();
                assert_eq!(n, 2, "{forward} to {vip}, whole requests: {seen:?}");
            }
        }
    }
    // Undone, nothing is unwrapped and nothing stays pinned.
    net.ok("r1", &["server", "undo"]);
    net.ok("r2", &["server", "undo"]);
    assert_eq!(get(&net, "client", "10.97.0.100:80"), None);
}

/// A director between clients (br0) and servers (br1), a client, two servers.
pub fn routed() -> Net {
    let net = Net::new(&[
        ("client", &[("br0", "10.97.0.1/24")]),
        ("lb1", &[("br0", "10.97.0.2/24"), ("br1", "10.97.1.2/24")]),
        ("r1", &[("br1", "10.97.1.11/24")]),
        ("r2", &[("br1", "10.97.1.12/24")]),
    ]);
    for (host, words) in [
        ("client", "addr add 2001:db8::1/64 dev eth0 nodad"),
        ("lb1", "addr add 2001:db8::2/64 dev eth0 nodad"),
        ("lb1", "addr add 2001:db8:1::2/64 dev eth1 nodad"),
        ("r1", "addr add 2001:db8:1::11/64 dev eth0 nodad"),
        ("r2", "addr add 2001:db8:1::12/64 dev eth0 nodad"),
        ("r1", "route add default via 10.97.1.2"),
        ("r2", "route add default via 10.97.1.2"),
        ("r1", "-6 route add default via 2001:db8:1::2"),
        ("r2", "-6 route add default via 2001:db8:1::2"),
    ] {
        net.lab.ip(host, words).unwrap();
    }
    net
}

pub fn lone_director(net: &mut Net, services: &str) {
    net.ok("lb1", &["init", "lab", "--node", "lb1", "--address", "10.97.0.2"]);
    net.start("lb1");
    let head = "[cluster]\nname = \"lab\"\n[nodes]\nlb1 = \"10.97.0.2\"\n";
    let file = net.write("cluster.toml", &format!("{head}{services}"));
    net.ok("lb1", &["apply", &file]);
}

#[test]
fn nat_maps_ports_and_answers_come_from_the_vip() {
    if !can_run() {
        return;
    }
    let mut net = routed();
    net.web("r1", "[::]:8080");
    net.web("r2", "[::]:8080");
    lone_director(
        &mut net,
        "[service.four]\nlisten = \"10.97.0.100:80/tcp\"\nforward = \"nat\"\nscheduler = \"rr\"\n\
         servers = { r1 = \"10.97.1.11:8080\", r2 = \"10.97.1.12:8080\" }\n\
         [service.six]\nlisten = \"[2001:db8::100]:80/tcp\"\nforward = \"nat\"\nscheduler = \"rr\"\n\
         servers = { r1 = \"[2001:db8:1::11]:8080\", r2 = \"[2001:db8:1::12]:8080\" }\n",
    );
    for vip in ["10.97.0.100:80", "[2001:db8::100]:80"] {
        net.until(&format!("{vip} answers"), |n| get(n, "client", vip).is_some());
        let seen: Vec<Option<String>> = (0..6).map(|_| get(&net, "client", vip)).collect();
        for server in ["r1", "r2"] {
            let n = seen.iter().filter(|s| s.as_deref() == Some(server)).count();
            assert_eq!(n, 3, "round robin over {vip}: {seen:?}");
        }
    }
    let status = net.status("lb1");
    let traffic = &status["services"][0]["traffic"];
    assert!(traffic["packets_out"].as_u64().unwrap() > 10, "NAT sees both ways: {traffic}");
    // Removed by hand, the tables come back.
    let pins = net.lab.within("lb1", nines_pins).unwrap();
    for link in std::fs::read_dir(&pins).unwrap().flatten() {
        if link.file_name().to_string_lossy().starts_with("link-eth0") {
            std::fs::remove_file(link.path()).unwrap();
        }
    }
    net.until("reconcile puts the programs back", |n| get(n, "client", "10.97.0.100:80").is_some());
    net.until("pinned again", |_| {
        std::fs::read_dir(&pins).unwrap().flatten().any(|l| l.file_name() == "link-eth0-ingress")
    });
}

#[test]
fn a_client_that_is_denied_gets_no_answer() {
    if !can_run() {
        return;
    }
    let mut net = routed();
    net.web("r1", "0.0.0.0:8080");
    let service = |lists: &str| {
        format!(
            "[service.web]\nlisten = \"10.97.0.100:80\"\nforward = \"nat\"\n{lists}\n\
             servers = {{ r1 = \"10.97.1.11:8080\" }}\n"
        )
    };
    lone_director(&mut net, &service("deny = [\"10.97.0.0/24\"]\nallow = [\"10.97.0.1\"]"));
    let vip = "10.97.0.100:80";
    net.until("the client that is allowed is answered", |n| get(n, "client", vip).is_some());
    let head = "[cluster]\nname = \"lab\"\n[nodes]\nlb1 = \"10.97.0.2\"\n";
    let file = net.write("c.toml", &format!("{head}{}", service("deny = [\"10.97.0.1\"]")));
    let plan = net.ok("lb1", &["plan", &file]);
    assert!(plan.contains("deny 10.97.0.1/32"), "{plan}");
    net.ok("lb1", &["apply", &file, "--yes"]);
    net.until("it is denied", |n| get(n, "client", vip).is_none());
    assert!(net.status("lb1")["drops"]["denied"].as_u64() > Some(0));
}

/// A real client's stack answers a cookie and tries again by itself; VIPs of a network and ports of
/// a range are one service.
#[test]
fn strangers_connect_by_a_cookie_to_any_address_and_port_of_a_service() {
    if !can_run() {
        return;
    }
    let mut net = routed();
    net.web("r1", "0.0.0.0:8042");
    lone_director(
        &mut net,
        "[service.web]\nlisten = \"10.97.0.100/30:8000-8099\"\nforward = \"nat\"\n\
         syn-cookies = \"1/m\"\ncheck = { port = 8042, every = \"200ms\" }\n\
         servers = { r1 = \"10.97.1.11\" }\n",
    );
    net.until("the service answers", |n| get(n, "client", "10.97.0.100:8042").is_some());
    for vip in ["10.97.0.100", "10.97.0.101", "10.97.0.103"] {
        assert!(get(&net, "client", &format!("{vip}:8042")).is_some(), "{vip}");
    }
    assert!(get(&net, "client", "10.97.0.102:8142").is_none(), "beyond the range");
    let status = net.status("lb1");
    let count = |what: &str| status["drops"][what].as_u64().unwrap_or(0);
    assert!(count("challenged") > 0 && count("proven") > 0, "{}", status["drops"]);
    assert_eq!(status["services"][0]["listen"], "10.97.0.100/30:8000-8099/tcp");
}

#[test]
fn datagrams_in_fragments_arrive_whole() {
    if !can_run() {
        return;
    }
    let mut net = routed();
    lone_director(
        &mut net,
        "[service.dns]\nlisten = \"10.97.0.100:53/udp\"\nforward = \"nat\"\ncheck = \"none\"\n\
         servers = { r1 = \"10.97.1.11:5353\" }\n\
         [service.six]\nlisten = \"[2001:db8::100]:53/udp\"\nforward = \"nat\"\ncheck = \"none\"\n\
         servers = { r1 = \"[2001:db8:1::11]:5353\" }\n",
    );
    let bind = || std::net::UdpSocket::bind("[::]:5353");
    let server = net.lab.within("r1", bind).unwrap().unwrap();
    server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let end = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 8_000];
            while !end.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok((len, from)) = server.recv_from(&mut buffer) {
                    let _ = server.send_to(&buffer[..len], from);
                }
            }
        });
        for vip in ["10.97.0.100:53", "[2001:db8::100]:53"] {
            let any = if vip.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
            let bind = move || std::net::UdpSocket::bind(any);
            let client = net.lab.within("client", bind).unwrap().unwrap();
            client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let question: Vec<u8> = (0..5_000u32).map(|n| (n / 7) as u8).collect();
            net.until(&format!("5,000 bytes to {vip} come back"), |_| {
                let mut answer = [0; 8_000];
                client.send_to(&question, vip).is_ok()
                    && client.recv(&mut answer).is_ok_and(|len| answer[..len] == question)
            });
        }
        end.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn doctor_finds_the_servers_that_are_not_ready() {
    if !can_run() {
        return;
    }
    let mut net = Net::new(&[
        ("lb1", &[("br0", "10.97.0.2/24")]),
        ("r1", &[("br0", "10.97.0.11/24")]),
        ("r2", &[("br0", "10.97.0.12/24")]),
        ("r3", &[("br0", "10.97.0.13/24")]),
    ]);
    for host in ["r1", "r2", "r3"] {
        net.web(host, "0.0.0.0:80");
    }
    net.lab.ip("r3", "addr add 10.97.0.100/32 dev lo").unwrap();
    lone_director(
        &mut net,
        "[service.web]\nlisten = \"10.97.0.100:80\"\n\
         servers = { r1 = \"10.97.0.11\", r2 = \"10.97.0.12\", r3 = \"10.97.0.13\" }\n\
         [service.far]\nlisten = \"10.97.0.101:80\"\nforward = \"gue\"\n\
         servers = { r1 = \"10.97.0.11\", gone = \"10.97.0.99\" }\n\
         [service.closed]\nlisten = \"10.97.0.100:81\"\nservers = { r3 = \"10.97.0.13\" }\n",
    );
    net.ok("r1", &["server", "prepare", "10.97.0.100", "10.97.0.101", "--tunnel"]);
    let out = net.nines("lb1", &["doctor"]);
    let told = super::text(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{told}");
    for line in [
        "ok    versions: cluster feature level ",
        "ok    server web/r1 10.97.0.11 dr: answers as 10.97.0.100:80",
        "BAD   server web/r2 10.97.0.12 dr: does not accept packets for 10.97.0.100",
        "ok    server web/r3 10.97.0.13 dr: answers as",
        "ok    server far/r1 10.97.0.11 gue: answers as 10.97.0.101:80",
        "BAD   server far/gone 10.97.0.99 gue: cannot be reached: no machine answers for 10.97.0.99",
        "BAD   server closed/r3 10.97.0.13 dr: has 10.97.0.100, but no program listens",
        "BAD   VIP 10.97.0.100 on eth0: server r3 (10.97.0.13), MAC ",
        "ok    VIP 10.97.0.101 on eth0: no machine but its holder",
    ] {
        assert!(told.contains(line), "no \"{line}\" in\n{told}");
    }
    assert!(told.contains("  on 10.97.0.12: nines server prepare 10.97.0.100\n"), "{told}");
    // Fixed as it says.
    net.ok("r2", &["server", "prepare", "10.97.0.100"]);
    net.ok("r3", &["server", "prepare", "10.97.0.100"]);
    let told = super::text(&net.nines("lb1", &["doctor"]).stdout);
    assert_eq!(told.matches("BAD").count(), 2, "the closed port and the one that is gone:\n{told}");
}

/// A server that answers by its own address, and would drop what clients send to the VIP.
#[test]
fn a_check_by_way_of_the_clients_sees_who_has_not_the_vip() {
    if !can_run() {
        return;
    }
    let mut net = Net::new(&[
        ("lb1", &[("br0", "10.97.0.2/24")]),
        ("r1", &[("br0", "10.97.0.11/24")]),
        ("r2", &[("br0", "10.97.0.12/24")]),
    ]);
    for host in ["r1", "r2"] {
        net.web(host, "0.0.0.0:80");
    }
    let check =
        "check = { http = \"/\", way = \"forwarded\", every = \"100ms\", timeout = \"300ms\" }";
    net.ok("r1", &["server", "prepare", "10.97.0.100", "10.97.0.101", "--tunnel"]);
    lone_director(
        &mut net,
        &format!(
            "[service.web]\nlisten = \"10.97.0.100:80\"\n{check}\n\
             servers = {{ r1 = \"10.97.0.11\", r2 = \"10.97.0.12\" }}\n\
             [service.far]\nlisten = \"10.97.0.101:80\"\nforward = \"ipip\"\n{check}\n\
             servers = {{ r1 = \"10.97.0.11\", r2 = \"10.97.0.12\" }}\n"
        ),
    );
    let up = |n: &Net| {
        let services = n.status("lb1")["services"].as_array().unwrap().clone();
        services.iter().map(|s| s["up"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    net.until("only r1 is up", |n| up(n) == [1, 1]);
    net.until("it is told why", |n| {
        // The last word is of either service.
        n.ok("lb1", &["why", "r2"]).contains("does not answer as 10.97.0.10")
    });
    net.ok("r2", &["server", "prepare", "10.97.0.100", "10.97.0.101", "--tunnel"]);
    net.until("both are up", |n| up(n) == [2, 2]);
    // Servers are told to forget: nothing half open (state 3) is left of some dozens of questions.
    std::thread::sleep(Duration::from_secs(2));
    let table = || std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let table = net.lab.within("r1", table).unwrap();
    let half_open = table.lines().filter(|l| l.split_whitespace().nth(3) == Some("03")).count();
    assert!(half_open < 5, "{table}");
}

#[test]
fn a_sorry_server_answers_while_nobody_else_does() {
    if !can_run() {
        return;
    }
    let mut net = routed();
    net.web("r1", "0.0.0.0:8080");
    net.web("r2", "0.0.0.0:8080");
    lone_director(
        &mut net,
        "[service.web]\nlisten = \"10.97.0.100:80\"\nforward = \"nat\"\n\
         check = { http = \"/\", every = \"100ms\", rise = 1, fall = 1 }\n\
         servers = { r1 = \"10.97.1.11:8080\", sorry = { address = \"10.97.1.12:8080\", \
         role = \"sorry\" } }\n",
    );
    let answers = |n: &Net, who: &str| get(n, "client", "10.97.0.100:80").as_deref() == Some(who);
    let state = |n: &Net, server: usize| {
        n.status("lb1")["services"][0]["servers"][server]["state"].as_str().unwrap().to_owned()
    };
    net.until("r1 answers", |n| answers(n, "r1") && state(n, 1) == "spare");
    for _ in 0..5 {
        assert!(answers(&net, "r1"), "nobody needs the sorry server");
    }
    nines_lab::kill(net.agents.get_mut("r1-web-0.0.0.0:8080").unwrap());
    net.until("the sorry server answers", |n| answers(n, "r2") && state(n, 0) == "DOWN");
    let told = net.ok("lb1", &["status"]);
    assert!(told.contains("only sorry server sorry takes new connections"), "{told}");
    net.web("r1", "0.0.0.0:8080");
    net.until("r1 answers again", |n| answers(n, "r1") && state(n, 1) == "spare");
}

fn nines_pins() -> std::path::PathBuf {
    use std::os::unix::fs::MetadataExt as _;
    let inode = std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
    let layouts = std::fs::read_dir(format!("/sys/fs/bpf/nines/{inode}")).unwrap();
    let ours = |name: &str| name.starts_with('v');
    let mut paths = layouts.flatten().filter(|e| ours(&e.file_name().to_string_lossy()));
    paths.next().unwrap().path()
}

#[test]
fn direct_routing_of_ipv6_and_a_director_that_serves_itself() {
    if !can_run() {
        return;
    }
    let mut net = Net::new(&[
        ("client", &[("br0", "10.97.0.1/24")]),
        ("lb1", &[("br0", "10.97.0.2/24")]),
        ("r1", &[("br0", "10.97.0.11/24")]),
    ]);
    net.also_v6(&[("client", 1), ("lb1", 2), ("r1", 11)]);
    net.ok("r1", &["server", "prepare", "2001:db8::100", "10.97.0.100"]);
    net.web("r1", "[::]:80");
    net.web("lb1", "[::]:80");
    lone_director(
        &mut net,
        "[service.six]\nlisten = \"[2001:db8::100]:80/tcp\"\nscheduler = \"rr\"\n\
         servers = { r1 = \"2001:db8::11\" }\n\
         [service.self]\nlisten = \"10.97.0.100:80/tcp\"\nscheduler = \"rr\"\n\
         servers = { here = \"10.97.0.2\", r1 = \"10.97.0.11\" }\n",
    );
    net.until("IPv6 answers", |n| get(n, "client", "[2001:db8::100]:80").as_deref() == Some("r1"));
    net.until("IPv4 answers", |n| get(n, "client", "10.97.0.100:80").is_some());
    let seen: Vec<Option<String>> = (0..4).map(|_| get(&net, "client", "10.97.0.100:80")).collect();
    for server in ["lb1", "r1"] {
        assert_eq!(seen.iter().filter(|s| s.as_deref() == Some(server)).count(), 2, "{seen:?}");
    }
    // Prepared, then put back exactly.
    let ignore = || {
        std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/arp_ignore").unwrap().trim().to_owned()
    };
    assert_eq!(net.lab.within("r1", ignore).unwrap(), "1");
    assert!(net.ok("r1", &["server", "undo"]).contains("10.97.0.100"));
    assert_eq!(net.lab.within("r1", ignore).unwrap(), "0");
    assert!(net.ok("r1", &["server", "undo"]).contains("nothing"));
}

/// The smallest pair there is: each machine is director and real server.
#[test]
fn two_directors_are_each_others_real_servers() {
    if !can_run() {
        return;
    }
    let hosts = ["client", "lb1", "lb2", "wit1"];
    let at =
        |n: usize| [("br0", ["10.97.0.1/24", "10.97.0.2/24", "10.97.0.3/24", "10.97.0.4/24"][n])];
    let links: Vec<_> = (0..4).map(at).collect();
    let all: Vec<(&str, &[(&str, &str)])> =
        hosts.iter().zip(&links).map(|(host, link)| (*host, &link[..])).collect();
    let mut net = Net::new(&all);
    for host in ["lb1", "lb2"] {
        net.web(host, "0.0.0.0:80");
    }
    net.form(&["lb1", "lb2"], "wit1");
    let file = net.write(
        "cluster.toml",
        "[cluster]\nname = \"lab\"\n[nodes]\nlb1 = \"10.97.0.2\"\nlb2 = \"10.97.0.3\"\n\
         wit1 = { addresses = \"10.97.0.4\", role = \"witness\" }\n\
         [service.web]\nlisten = \"10.97.0.100:80\"\nscheduler = \"rr\"\ncheck = \"none\"\n\
         servers = { a = \"10.97.0.2\", b = \"10.97.0.3\" }\n",
    );
    net.ok("lb1", &["apply", &file]);
    for holder in ["lb1", "lb2"] {
        net.until("it has the VIP", |n| n.status("wit1")["vips"][0]["address"] == "10.97.0.100");
        net.ok("lb1", &["move", "web", "--to", holder]);
        // Each director prepares itself as a server a moment after the config is there.
        net.until("both servers answer", |n| {
            let two = (0..2).map(|_| get(n, "client", "10.97.0.100:80"));
            two.flatten().collect::<BTreeSet<_>>().len() == 2
        });
        let seen: Vec<_> = (0..8).map(|_| get(&net, "client", "10.97.0.100:80")).collect();
        for server in ["lb1", "lb2"] {
            let count = seen.iter().filter(|s| s.as_deref() == Some(server)).count();
            assert_eq!(count, 4, "{holder} has the VIP: {seen:?}");
        }
    }
}
