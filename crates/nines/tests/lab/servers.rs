//! Machines that joined as real servers: they get their VIPs, keep them, and give them back.

use super::{Net, can_run, packets::get, text};

const NODES: &str = "[cluster]\nname = \"lab\"\n[nodes]\nlb1 = \"10.97.0.2\"\nlb2 = \"10.97.0.3\"\n\
    wit1 = { addresses = \"10.97.0.4\", role = \"witness\" }\n";

fn web(listen: &str, name: &str) -> String {
    format!(
        "[service.{name}]\nlisten = \"{listen}:80\"\nscheduler = \"rr\"\n\
         check = {{ http = \"/\", every = \"100ms\", rise = 1 }}\n\
         servers = {{ r1 = \"10.97.0.11\", r2 = {{ address = \"10.97.0.12\", forward = \"gue\" }} }}\n"
    )
}

/// Its agent, which answers no question about the cluster.
pub fn start(net: &mut Net, host: &str) {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(net.home.join(format!("{host}.log")))
        .unwrap();
    let mut command = net.command(host, &["agent"]);
    command.stdin(std::process::Stdio::null()).stderr(log);
    let child = net.lab.spawn(host, command).unwrap();
    net.agents.insert(host.to_owned(), child);
}

fn stop(net: &mut Net, host: &str) {
    let mut child = net.agents.remove(host).unwrap();
    nines_lab::kill(&mut child);
}

fn has(net: &Net, host: &str, vip: &str) -> bool {
    let all = net.lab.within(host, nines_dataplane::address::interfaces).unwrap().unwrap();
    let lo = all.iter().find(|i| i.name == "lo").unwrap();
    lo.addresses.contains(&(vip.parse().unwrap(), 32))
}

/// Whether the programs that take packets out of tunnels are there.
fn unwraps() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let inode = std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
    std::path::Path::new(&format!("/sys/fs/bpf/nines/{inode}/server")).exists()
}

#[test]
fn a_real_server_that_joined_needs_no_other_word() {
    if !can_run() {
        return;
    }
    let mut net = Net::new(&[
        ("client", &[("br0", "10.97.0.1/24")]),
        ("lb1", &[("br0", "10.97.0.2/24")]),
        ("lb2", &[("br0", "10.97.0.3/24")]),
        ("wit1", &[("br0", "10.97.0.4/24")]),
        ("r1", &[("br0", "10.97.0.11/24")]),
        ("r2", &[("br0", "10.97.0.12/24")]),
    ]);
    net.form(&["lb1", "lb2"], "wit1");
    let code = net.ok("lb1", &["code", "--server"]);
    let line = code.lines().find(|l| l.contains("nines join")).unwrap().to_owned();
    let words: Vec<&str> = line.split_whitespace().skip(2).collect();
    let told = net.fails("r1", &["join", words[0], words[1], "--node", "r1"], 8);
    assert!(told.contains("admits a real server, not a director"), "{told}");
    net.fails("r1", &["join", words[0], words[1], "--server", "--node", "web 1"], 8);
    assert!(!net.home.join("r1/identity.json").exists(), "a refused join leaves nothing");
    for host in ["r1", "r2"] {
        net.join(host, "lb1", &["--server"]);
        start(&mut net, host);
        net.web(host, "0.0.0.0:80");
    }
    for secret in ["ca.key", "identity.json"] {
        let kept = std::fs::read_to_string(net.home.join("r1").join(secret)).unwrap();
        assert!(!kept.contains("PRIVATE") && !kept.contains("\"founding\": true"));
        assert!(secret != "identity.json" || kept.contains("\"beat_key\": \"\""), "{kept}");
    }
    assert_eq!(net.status("lb1")["voters"], 3, "real servers have no vote");

    let both = format!("{NODES}{}{}", web("10.97.0.100", "web"), web("10.97.0.101", "shop"));
    let file = net.write("cluster.toml", &both);
    net.ok("lb1", &["apply", &file]);
    for vip in ["10.97.0.100", "10.97.0.101"] {
        for server in ["r1", "r2"] {
            let to = format!("{vip}:80");
            net.until("each server answers", |n| get(n, "client", &to).as_deref() == Some(server));
        }
    }
    let told = text(&net.nines("lb1", &["doctor"]).stdout);
    assert!(told.contains("r1 10.97.0.11 dr: answers as") && !told.contains("BAD"), "{told}");
    assert!(net.lab.within("r2", unwraps).unwrap() && !net.lab.within("r1", unwraps).unwrap());
    let told = net.ok("r2", &["server", "show"]);
    assert!(told.contains("has       10.97.0.100 10.97.0.101\nunwraps   gue:6080\n"), "{told}");
    net.fails("r1", &["code"], 2);
    let told = net.fails("r1", &["status"], 3);
    assert!(told.contains("real server of cluster lab") && told.contains("lb1"), "{told}");

    // What somebody takes away comes back.
    net.lab.ip("r1", "addr del 10.97.0.100/32 dev lo").unwrap();
    net.until("it is back", |n| has(n, "r1", "10.97.0.100"));
    // What was prepared by hand is nobody else's, even where the cluster said the same since.
    net.ok("r1", &["server", "prepare", "10.97.0.200", "10.97.0.102"]);
    let three = format!("{both}{}", web("10.97.0.102", "mail"));
    let file = net.write("cluster.toml", &three);
    net.ok("lb1", &["apply", &file]);
    net.until("it is told", |n| n.ok("r1", &["server", "show"]).contains("10.97.0.102"));
    // r2 gets its packets as they are from now on.
    let one = web("10.97.0.100", "web").replace("r1 = \"10.97.0.11\", ", "");
    let one = one.replace(", forward = \"gue\"", "");
    let file = net.write("cluster.toml", &format!("{NODES}{one}"));
    net.ok("lb1", &["apply", &file, "--yes"]);
    net.until("they left", |n| {
        let r1 = ["10.97.0.100", "10.97.0.101"].iter().any(|vip| has(n, "r1", vip));
        !r1 && !has(n, "r2", "10.97.0.101")
    });
    assert!(has(&net, "r1", "10.97.0.200") && has(&net, "r1", "10.97.0.102"));
    assert!(has(&net, "r2", "10.97.0.100") && !has(&net, "r2", "10.97.0.102"));
    let told = net.ok("r1", &["server", "show"]);
    assert!(told.contains("config 4\nhas       nothing\n"), "{told}");
    net.until("nothing is taken out of tunnels", |n| !n.lab.within("r2", unwraps).unwrap());
    net.until("the VIP answers", |n| get(n, "client", "10.97.0.100:80").as_deref() == Some("r2"));

    // After a boot it serves by what it knows, whoever is there.
    for host in ["lb1", "lb2", "wit1", "r2"] {
        stop(&mut net, host);
    }
    net.lab.ip("r2", "addr del 10.97.0.100/32 dev lo").unwrap();
    start(&mut net, "r2");
    net.until("it has its VIP", |n| has(n, "r2", "10.97.0.100"));
    let told = net.fails("r2", &["server", "undo"], 4);
    assert!(told.contains("put everything there again"), "{told}");
    net.until("it says who is missing", |n| n.log("r2").contains("no member answers"));
    stop(&mut net, "r2");
    assert!(net.ok("r2", &["server", "undo"]).contains("has left its cluster"));
    assert!(!has(&net, "r2", "10.97.0.100") && !net.home.join("r2/identity.json").exists());
}
