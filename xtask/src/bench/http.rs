//! HTTP through a director, nginx and wrk at the ends: `cargo xtask bench http`.
//!
//! Two real servers and a client that keep both cores busy, so a variant's rate is what its cost
//! leaves over. Every variant runs once a round; a figure is the median over rounds of the ratio
//! to another variant of the same round. CPU is the whole machine's busy time (`/proc/stat`) by
//! requests: work of the kernel on behalf of packets is charged to whomever it interrupts, so only
//! the sum means something. Needs root.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use nines_lab::Wire;

use super::{Bench, installed, median};

/// Rounds; every variant runs once in each.
const ROUNDS: usize = 5;
const SECONDS: u32 = 3;
/// The real servers' last octet.
const SERVERS: [u8; 2] = [11, 12];

/// A way to the servers: its name, the addresses wrk's two threads dial, which port, and the row
/// of plain forwarding beside it. "Apart": a thread talks to one server only, so the two share a
/// processor. Any balancer mixes: each thread talks to both servers, and on some machines the
/// wake-ups across processors alone cost a third of the rate. Like goes beside like.
const VARIANTS: [(&str, [&str; 2], u16, &str); 10] = [
    ("direct, apart", ["10.96.2.11", "10.96.2.12"], 80, APART),
    (APART, ["10.96.1.111", "10.96.1.112"], 80, APART),
    ("nines dr, apart", ["10.96.0.121", "10.96.0.122"], 80, APART),
    ("ip_forward both ways, apart", ["10.96.1.11", "10.96.1.12"], 80, APART),
    (MIXED, ["10.96.0.110"; 2], 80, MIXED),
    ("nines dr", ["10.96.0.100"; 2], 80, MIXED),
    ("nines nat", ["10.96.0.101"; 2], 80, MIXED),
    ("nftables dnat", ["10.96.0.102"; 2], 80, MIXED),
    (PROXY, ["10.96.0.2"; 2], 8080, MIXED),
    ("nginx stream", ["10.96.0.2"; 2], 8081, MIXED),
];
const APART: &str = "ip_forward, apart";
/// The kernel's own multipath, by a hash of addresses and ports.
const MIXED: &str = "ip_forward, multipath";
const PROXY: &str = "haproxy tcp";
/// What peers come in, and nginx's part that balances connections.
const PACKAGES: &str = "nginx-light libnginx-mod-stream wrk haproxy nftables";
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
const PORTS: (&str, &str) = ("ip_local_port_range", "1024 65535");

struct Sample {
    rate: f64,
    cpu_us: f64,
}

/// Microseconds that the machine's processors were not idle, since it started.
fn busy_us() -> Result<f64, String> {
    let text = fs::read_to_string("/proc/stat").map_err(|e| e.to_string())?;
    let of = |i: usize| -> f64 {
        let field = text.lines().next().and_then(|l| l.split_whitespace().nth(i));
        field.and_then(|f| f.parse().ok()).unwrap_or(0.0)
    };
    // user, nice, system, irq, softirq, in hundredths of a second.
    Ok([1, 2, 3, 6, 7].into_iter().map(of).sum::<f64>() * 10_000.0)
}

fn sample(b: &Bench, dial: [&str; 2], port: u16, keep: bool) -> Result<Sample, String> {
    let threads = b.write(
        "threads.lua",
        &format!(
            "local to, i = {{'{}', '{}'}}, 0\nfunction setup(t) i = i + 1; \
             t.addr = wrk.lookup(to[1 + i % 2], '{port}')[1] end\n",
            dial[0], dial[1]
        ),
    )?;
    let (time, url) = (format!("-d{SECONDS}"), format!("http://{}:{port}/", dial[0]));
    let mut args = vec!["-t2", "-c32", &time, "-s", &threads];
    if !keep {
        args.extend(["-H", "Connection: close"]);
    }
    args.push(&url);
    let before = busy_us()?;
    let said = b.done("client", Path::new("wrk"), &args)?;
    let busy = busy_us()? - before;
    let number = |line: Option<&str>, word: usize| -> Option<f64> {
        line.and_then(|l| l.split_whitespace().nth(word)).and_then(|n| n.parse().ok())
    };
    let rate = number(said.lines().find(|l| l.starts_with("Requests/sec:")), 1);
    let total = number(said.lines().find(|l| l.contains("requests in")), 0);
    match (rate, total) {
        (Some(rate), Some(total)) if total > 0.0 => Ok(Sample { rate, cpu_us: busy / total }),
        _ => Err(format!("wrk got nothing from {url}: {said}")),
    }
}

/// Client network, server network, and a third for the direct way and for replies past the
/// director. A server's second address on the server network has its replies on the third.
fn build() -> Result<Bench, String> {
    let mut hosts = BTreeMap::from([
        (
            "client".to_owned(),
            vec![Wire::new("br0", "10.96.0.1/24"), Wire::new("br2", "10.96.2.1/24")],
        ),
        (
            "lb1".to_owned(),
            vec![Wire::new("br0", "10.96.0.2/24"), Wire::new("br1", "10.96.1.2/24")],
        ),
        // Apart: netfilter's connection tracking would slow everything else in its namespace.
        (
            "nft".to_owned(),
            vec![Wire::new("br0", "10.96.0.3/24"), Wire::new("br1", "10.96.1.3/24")],
        ),
    ]);
    for n in SERVERS {
        let wires = [("br1", 1), ("br2", 2)]
            .map(|(bridge, net)| Wire::new(bridge, &format!("10.96.{net}.{n}/24")));
        hosts.insert(format!("s{n}"), wires.to_vec());
    }
    let b = Bench::build(hosts)?;
    let set = |host: &str, sysctls: &'static [(&str, &str)]| {
        let write = move || {
            sysctls.iter().try_for_each(|(k, v)| fs::write(format!("/proc/sys/net/ipv4/{k}"), v))
        };
        b.lab.within(host, write).map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    };
    for n in SERVERS {
        let host = format!("s{n}");
        for words in [
            format!("addr add 10.96.1.1{n}/32 dev eth0"),
            "route add 10.96.0.0/24 via 10.96.2.1".into(),
            "route add table 100 10.96.1.0/24 dev eth0".into(),
            "route add table 100 default via 10.96.1.2".into(),
            format!("rule add from 10.96.1.{n} table 100"),
            "addr add 10.96.0.110/32 dev lo".into(),
            format!("addr add 10.96.1.2{n}/32 dev eth0"),
            // A port of the client that a translated flow has used stays that flow's for a while.
            format!("addr add 10.96.1.2{}/32 dev eth0", n + 20),
            format!("rule add from 10.96.1.2{} table 100", n + 20),
            "route add table 101 10.96.1.0/24 dev eth0".into(),
            "route add table 101 default via 10.96.1.3".into(),
            format!("rule add from 10.96.1.2{n} table 101"),
        ] {
            b.ip(&host, &words)?;
        }
        // A port left in TIME_WAIT by one variant would stall another's SYN.
        set(&host, &[("tcp_max_tw_buckets", "1"), ("conf/all/rp_filter", "0")])?;
    }
    b.ip("client", "route add 10.96.1.0/24 via 10.96.0.2")?;
    b.ip("nft", "addr add 10.96.0.102/32 dev eth0")?;
    set("client", &[PORTS, ("tcp_tw_reuse", "1")])?;
    b.ip("client", "route add 10.96.0.110/32 via 10.96.0.2")?;
    b.ip("lb1", "route add 10.96.0.110/32 nexthop via 10.96.1.11 nexthop via 10.96.1.12")?;
    set("lb1", &[("ip_forward", "1"), ("fib_multipath_hash_policy", "1"), PORTS])?;
    set("nft", &[("ip_forward", "1")])?;
    Ok(b)
}

fn peers(b: &mut Bench) -> Result<(), String> {
    let home = b.home.to_string_lossy().into_owned();
    let head = |name: &str| {
        format!("worker_processes 1; daemon off; pid {home}/{name}.pid; error_log /dev/null;\n")
    };
    for n in SERVERS {
        let conf = b.write(
            &format!("s{n}.conf"),
            &format!(
                "{}events {{ worker_connections 8192; }}\nhttp {{ access_log off; \
                 keepalive_requests 1000000000; server {{ listen 80 backlog=4096; \
                 location / {{ return 200 'ok'; }} }} }}\n",
                head(&format!("s{n}"))
            ),
        )?;
        b.spawn(&format!("s{n}"), Path::new("nginx"), &["-c", &conf])?;
    }
    let backends = |form: &dyn Fn(u8) -> String| SERVERS.map(form).concat();
    let haproxy = b.write(
        "haproxy.cfg",
        &format!(
            "global\n nbthread 1\n maxconn 4000\ndefaults\n mode tcp\n timeout connect 5s\n timeout \
             client 60s\n timeout server 60s\nfrontend f\n bind :8080\n default_backend s\nbackend \
             s\n balance roundrobin\n{}",
            backends(&|n| format!(" server s{n} 10.96.1.{n}:80\n"))
        ),
    )?;
    b.spawn("lb1", Path::new("haproxy"), &["-db", "-f", &haproxy])?;
    let stream = b.write(
        "stream.conf",
        &format!(
            "load_module {STREAM};\n{}\
             events {{ worker_connections 8192; }}\nstream {{ upstream u {{ {} }} \
             server {{ listen 8081 backlog=4096; proxy_pass u; }} }}\n",
            head("stream"),
            backends(&|n| format!("server 10.96.1.{n}:80; "))
        ),
    )?;
    b.spawn("lb1", Path::new("nginx"), &["-c", &stream])?;
    let rules = b.write(
        "dnat.nft",
        "table ip t {\n chain p {\n type nat hook prerouting priority -100\n ip daddr \
         10.96.0.102 tcp dport 80 dnat to numgen inc mod 2 map { 0: 10.96.1.211, 1: 10.96.1.212 }\n \
         }\n}\n",
    )?;
    b.done("nft", Path::new("nft"), &["-f", &rules])?;
    // A closed connection's entry would make the next one from the same port wait a second.
    let forget = || {
        ["time_wait", "close", "close_wait", "last_ack", "fin_wait"].iter().try_for_each(|state| {
            fs::write(format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}"), "1")
        })
    };
    b.lab.within("nft", forget).map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

fn director(b: &mut Bench, nines: &Path) -> Result<(), String> {
    let home = b.home.to_string_lossy().into_owned();
    for n in SERVERS {
        let (own, state) = (format!("10.96.0.1{}", n + 10), format!("{home}/s{n}"));
        let words = ["--state", &state, "server", "prepare", "10.96.0.100", &own];
        b.done(&format!("s{n}"), nines, &words)?;
    }
    let (state, socket) = (format!("{home}/lb1"), format!("{home}/lb1.sock"));
    let common = ["--state", &state, "--socket", &socket];
    let init = ["init", "bench", "--node", "lb1", "--address", "10.96.0.2"];
    b.done("lb1", nines, &[&common[..], &init].concat())?;
    b.spawn("lb1", nines, &[&common[..], &["agent"]].concat())?;
    std::thread::sleep(Duration::from_millis(800));
    let file = b.write(
        "cluster.toml",
        "[cluster]\nname = \"bench\"\n[nodes]\nlb1 = \"10.96.0.2\"\n[service.direct]\n\
         listen = \"10.96.0.100:80/tcp\"\nservers = { s11 = \"10.96.1.11\", s12 = \"10.96.1.12\" }\n\
         [service.own1]\nlisten = \"10.96.0.121:80/tcp\"\nservers = { s11 = \"10.96.1.11\" }\n\
         [service.own2]\nlisten = \"10.96.0.122:80/tcp\"\nservers = { s12 = \"10.96.1.12\" }\n\
         [service.translated]\nlisten = \"10.96.0.101:80/tcp\"\nforward = \"nat\"\n\
         servers = { s11 = \"10.96.1.231\", s12 = \"10.96.1.232\" }\n",
    )?;
    b.done("lb1", nines, &[&common[..], &["apply", &file]].concat())?;
    std::thread::sleep(Duration::from_millis(1_500));
    Ok(())
}

/// Runs `cargo xtask bench http`. Fails if a part of it does.
pub fn http(json: bool) -> Result<(), String> {
    installed(&["nginx", "wrk", "haproxy", "nft"], PACKAGES)?;
    if !Path::new(STREAM).exists() {
        return Err(format!("{STREAM} is not there: apt-get install {PACKAGES}"));
    }
    let nines = crate::release().join("nines");
    let mut b = build()?;
    peers(&mut b)?;
    director(&mut b, &nines)?;
    for keep in [true, false] {
        let mut got: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
        for _ in 0..ROUNDS {
            for (name, dial, port, _) in VARIANTS {
                let one = sample(&b, dial, port, keep).map_err(|e| format!("{name}: {e}"))?;
                got.entry(name).or_default().push(one);
            }
        }
        print(&got, if keep { "keep-alive" } else { "close" }, json);
    }
    Ok(())
}

fn print(got: &BTreeMap<&str, Vec<Sample>>, mode: &str, json: bool) {
    let ratio = |a: &str, b: &str, of: fn(&Sample) -> f64| {
        median(got[a].iter().zip(&got[b]).map(|(x, y)| of(x) / of(y)).collect())
    };
    for (name, .., beside) in VARIANTS {
        let rate = median(got[name].iter().map(|s| s.rate).collect());
        let [direct, plain, proxy] =
            [VARIANTS[0].0, beside, PROXY].map(|to| ratio(name, to, |s| s.rate));
        let cpu = ratio(name, beside, |s| s.cpu_us);
        if json {
            println!(
                "{{\"mode\":\"{mode}\",\"variant\":\"{name}\",\"requests_per_s\":{rate:.0},\
                 \"to_direct\":{direct:.3},\"beside\":\"{beside}\",\"to_ip_forward\":{plain:.3},\
                 \"to_haproxy\":{proxy:.3},\"cpu_to_ip_forward\":{cpu:.3}}}"
            );
        } else {
            println!(
                "{mode:<10} {name:<28} {rate:>7.0} req/s  {direct:.2} of direct  {plain:.2} of \
                 its ip_forward  {proxy:.2} of haproxy  CPU a request {cpu:.2} of its ip_forward"
            );
        }
    }
}
