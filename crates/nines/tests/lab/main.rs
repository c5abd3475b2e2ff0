//! The real binary on real packets, in namespaces of its own. Needs root and says so without.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nines_lab::{Lab, Wire, power::PowerSwitch};
use serde_json::Value;

mod backup;
mod devices;
mod disk;
mod faults;
mod fence;
mod fence_two;
mod flood;
mod flows;
mod forming;
mod interfaces;
mod ipvsadm;
mod keys;
mod lost_log;
mod manual;
mod marks;
mod packets;
mod probe;
mod proxy;
mod quarantine;
mod quorum_disk;
mod quorumd;
mod removal;
mod roles;
mod servers;
mod unserved;
mod watchdog;

const BINARY: &str = env!("CARGO_BIN_EXE_nines");
/// Bound for hangs only.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether these tests can run; CI must.
fn can_run() -> bool {
    let root = nines_lab::is_root();
    assert!(root || std::env::var_os("CI").is_none(), "lab tests need root, and CI has it");
    if !root {
        eprintln!("SKIPPED: lab tests need root");
    }
    root
}

/// Hosts with a state directory each, and the agents that run on them.
struct Net {
    lab: Lab,
    home: PathBuf,
    agents: BTreeMap<String, Child>,
    /// Switches hosts off, as the fence agent of their agents.
    power: PowerSwitch,
}

impl Drop for Net {
    fn drop(&mut self) {
        for child in self.agents.values_mut() {
            nines_lab::kill(child);
        }
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

impl Net {
    fn new(hosts: &[(&str, &[(&str, &str)])]) -> Self {
        let wires = |list: &[(&str, &str)]| list.iter().map(|(b, a)| Wire::new(b, a)).collect();
        let hosts = hosts.iter().map(|(name, list)| ((*name).to_owned(), wires(list))).collect();
        let cleanup = "rm -rf /sys/fs/bpf/nines/$inode; rmdir /sys/fs/bpf/nines 2>/dev/null";
        let lab = Lab::build(hosts, cleanup).unwrap();
        let home = PathBuf::from("/tmp").join(lab.namespace("state"));
        std::fs::create_dir_all(&home).unwrap();
        let power = PowerSwitch::new(home.join("power")).unwrap();
        Self { lab, home, agents: BTreeMap::new(), power }
    }

    /// IPv6 beside IPv4: 2001:db8::N on the first interface of each.
    fn also_v6(&self, hosts: &[(&str, u8)]) {
        for (host, n) in hosts {
            self.lab.ip(host, &format!("addr add 2001:db8::{n}/64 dev eth0 nodad")).unwrap();
        }
    }

    fn command(&self, host: &str, words: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("--socket").arg(self.home.join(format!("{host}.sock")));
        command.arg("--state").arg(self.home.join(host)).args(words);
        command
    }

    fn nines(&self, host: &str, words: &[&str]) -> Output {
        let mut command = self.command(host, words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.lab.spawn(host, command).unwrap().wait_with_output().unwrap()
    }

    /// Succeeds, and gives stdout.
    fn ok(&self, host: &str, words: &[&str]) -> String {
        let out = self.nines(host, words);
        let (said, told) = (text(&out.stdout), text(&out.stderr));
        assert!(out.status.success(), "{host}: nines {words:?}\n{said}{told}{}", self.log(host));
        said
    }

    /// Fails with this exit code and names the next step; gives stderr.
    fn fails(&self, host: &str, words: &[&str], code: i32) -> String {
        let out = self.nines(host, words);
        let told = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{host}: nines {words:?}\n{told}");
        assert!(told.contains("next: "), "no next step: {told}");
        told
    }

    fn log(&self, host: &str) -> String {
        std::fs::read_to_string(self.home.join(format!("{host}.log"))).unwrap_or_default()
    }

    fn start(&mut self, host: &str) {
        self.start_with(host, &[]);
    }

    /// Starts an agent with more options.
    fn start_with(&mut self, host: &str, more: &[&str]) {
        let mut command = self.command(host, &["agent", "--fence-agents"]);
        command.arg(self.power.agents()).args(more);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.home.join(format!("{host}.log")))
            .unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = self.lab.spawn(host, command).unwrap();
        let namespace = self.lab.namespace(host);
        self.power.connect(host, Some(&namespace), &[child.id()]).unwrap();
        self.agents.insert(host.to_owned(), child);
        self.until("the agent answers", |n| n.nines(host, &["status"]).status.success());
    }

    /// A cluster of these directors and this witness, all running.
    fn form(&mut self, directors: &[&str], witness: &str) {
        self.ok(directors[0], &["init", "lab", "--node", directors[0]]);
        self.start(directors[0]);
        for node in &directors[1..] {
            self.join(node, directors[0], &[]);
            self.start(node);
        }
        self.join(witness, directors[0], &["--witness"]);
        self.start(witness);
        let all = directors.len() + 1;
        self.until("all are voters", |n| {
            n.status(witness)["voters"] == all && n.status(witness)["votes"] == all
        });
    }

    /// A host joins under its name, with a code that a member prints for it.
    fn join(&self, host: &str, by: &str, role: &[&str]) {
        let said = self.ok(by, &[&["code", "--node", host], role].concat());
        let line = said.lines().find(|l| l.contains("nines join")).unwrap();
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        self.ok(host, &words);
    }

    /// lb1, lb2 and wit1 in 10.97.N.0/24, with a VIP that one of them holds.
    fn of_three(n: u8) -> Self {
        Self::of_three_with(n, "")
    }

    /// The same with more in the config.
    fn of_three_with(n: u8, more: &str) -> Self {
        let at = |host: u8| format!("10.97.{n}.{host}");
        let wire = |host: u8| at(host) + "/24";
        let (lb1, lb2, wit1) = (wire(2), wire(3), wire(4));
        let mut net = Self::new(&[
            ("lb1", &[("br0", &lb1)]),
            ("lb2", &[("br0", &lb2)]),
            ("wit1", &[("br0", &wit1)]),
        ]);
        net.form(&["lb1", "lb2"], "wit1");
        let config = format!(
            "[cluster]\nname = \"lab\"\n[nodes]\nlb1 = \"{}\"\nlb2 = \"{}\"\n\
             wit1 = {{ addresses = \"{}\", role = \"witness\" }}\n[vip.v]\naddress = \"{}\"\n{more}",
            at(2),
            at(3),
            at(4),
            wire(100),
        );
        let file = net.write("vip.toml", &config);
        net.ok("lb1", &["apply", "-y", &file]);
        net.until("one holds the VIP, the other is ready", |n| {
            let status = n.status("wit1");
            status["verdict"] == "HEALTHY" && status["votes"] == 3
        });
        net
    }

    /// What a reboot of a host takes from its kernel.
    fn forget_kernel(&self, host: &str) {
        let inode = self.lab.within(host, || {
            use std::os::unix::fs::MetadataExt as _;
            std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
        });
        let pins = format!("/sys/fs/bpf/nines/{}", inode.unwrap());
        std::fs::remove_dir_all(&pins).unwrap();
    }

    fn status(&self, host: &str) -> Value {
        serde_json::from_str(&self.ok(host, &["status", "-o", "json"])).unwrap()
    }

    fn until(&self, what: &str, well: impl Fn(&Self) -> bool) {
        let limit = Instant::now() + PATIENCE;
        while !well(self) {
            if Instant::now() > limit {
                let hosts = self.agents.keys();
                let logs: Vec<String> = hosts.map(|h| format!("== {h}\n{}", self.log(h))).collect();
                panic!("never: {what}\n{}", logs.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn holder(&self, host: &str) -> String {
        self.status(host)["vips"][0]["node"].as_str().unwrap_or_default().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.home.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A web server of the demo on a host.
    fn web(&mut self, host: &str, listen: &str) {
        let mut command = Command::new(BINARY);
        command.args(["demo-part", "web", listen, host, "/nonexistent"]);
        let child = self.lab.spawn(host, command).unwrap();
        self.agents.insert(format!("{host}-web-{listen}"), child);
    }
}

/// The line of a node in a status.
fn node(status: &Value, name: &str) -> Value {
    let all = status["nodes"].as_array().unwrap();
    all.iter().find(|n| n["name"] == name).cloned().unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
