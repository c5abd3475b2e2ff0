//! The demo's hosts: a client, two directors, a witness, three real servers.
//!
//! Decides: the picture. Everything in it is the real thing: agents of this very binary, the real
//! data path, real connections.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nines_api::{
    client::Client,
    failure::{Failure, Kind, Outcome},
    types::Status,
};
use nines_lab::{Lab, Wire};
use nines_model::config;

use super::{probe::Probe, sampler::Heard};
use crate::local::init::{self, PORT};

/// What is shown, as a user would write it.
pub const CONFIG: &str = r#"[cluster]
name = "web"

[nodes]
lb1 = "10.99.0.2"
lb2 = "10.99.0.3"
wit1 = { addresses = "10.99.0.4", role = "witness" }

[service.web]
listen = "10.99.0.100:80/tcp"
forward = "dr"
scheduler = "maglev"
servers = { r1 = "10.99.0.11", r2 = "10.99.0.12", r3 = "10.99.0.13" }
check = { http = "/healthz", every = "200ms", timeout = "200ms", fall = 2, rise = 2 }

[vip.web]
address = "10.99.0.100"
prefer = ["lb1"]
"#;

/// VIP of the demo's service.
pub const VIP: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 99, 0, 100);
/// Directors, in the sampler's order.
pub const DIRECTORS: [&str; 2] = ["lb1", "lb2"];
/// Nodes with an agent.
pub const NODES: [&str; 3] = ["lb1", "lb2", "wit1"];
/// Names of the real servers.
pub const SERVERS: [&str; 3] = ["r1", "r2", "r3"];
/// Shell lines by which the lab's janitor takes out what agents pinned.
pub const CLEANUP: &str = "rm -rf /sys/fs/bpf/nines/$inode; \
    rmdir /sys/fs/bpf/nines 2>/dev/null; rm -rf /tmp/nines-$id-state";

/// The demo's hosts and all that runs on them.
pub struct Stage {
    /// The network. Dropped last but one: it ends what runs in it.
    pub lab: Lab,
    /// Agents by node; `None`: killed.
    pub agents: BTreeMap<String, Option<Child>>,
    /// Web servers by real server.
    pub servers: BTreeMap<String, Option<Child>>,
    /// The client that sends requests to the VIP.
    pub probe: Probe,
    /// Which directors answer for the VIP.
    pub heard: Heard,
    /// From the start of the agents to the first good answer.
    pub cold_start: Duration,
    /// Building hosts and wires.
    pub built: Duration,
    path: String,
    busy: Vec<Child>,
    home: TempHome,
}

/// A directory that goes with the process.
struct TempHome(PathBuf);

impl Drop for TempHome {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn lab_failure(e: nines_lab::LabError) -> Failure {
    Failure::new(Kind::Io, "the demo's network cannot be built", e).next(
        "the kernel needs network namespaces, veth and bridge; apt-get install iproute2 nftables",
    )
}

/// Hosts of the demo, and extra ones.
pub fn hosts() -> BTreeMap<String, Vec<Wire>> {
    let card = |n: u8| Wire::new("br0", &format!("10.99.0.{n}/24"));
    // Directors have a second card on the same segment, which must be as silent as the first.
    let list: [(&str, &[u8]); 7] = [
        ("client", &[1]),
        ("lb1", &[2, 22]),
        ("lb2", &[3, 23]),
        ("wit1", &[4]),
        ("r1", &[11]),
        ("r2", &[12]),
        ("r3", &[13]),
    ];
    let host =
        |(name, cards): (&str, &[u8])| (name.to_owned(), cards.iter().map(|n| card(*n)).collect());
    list.into_iter().map(host).collect()
}

fn this_binary() -> Outcome<PathBuf> {
    std::env::current_exe().map_err(|e| Failure::new(Kind::Io, "cannot find this program", e))
}

impl Stage {
    /// Builds it and waits until the client is served.
    pub fn build(path: &str, timing: Option<&str>, busy: u32) -> Outcome<Self> {
        let began = Instant::now();
        let lab = Lab::build(hosts(), CLEANUP).map_err(lab_failure)?;
        let home = TempHome(PathBuf::from("/tmp").join(lab.namespace("state")));
        fs::create_dir_all(&home.0)
            .map_err(|e| Failure::new(Kind::Io, format!("cannot make {}", home.0.display()), e))?;
        let timing = timing.map(|word| format!("timing = \"{word}\"\n\n"));
        let text = timing.unwrap_or_default() + CONFIG;
        let spec = config::parse(&text).expect("the config above is right");
        init::make_nodes(&home.0, &text, &spec, PORT)?;
        let probe = Probe::default();
        let heard = Heard::start(&lab, &DIRECTORS, VIP).map_err(lab_failure)?;
        let mut stage = Self {
            lab,
            agents: BTreeMap::new(),
            servers: BTreeMap::new(),
            probe,
            heard,
            cold_start: Duration::ZERO,
            built: began.elapsed(),
            path: path.to_owned(),
            busy: Vec::new(),
            home,
        };
        for server in SERVERS {
            stage.prepare_server(server)?;
            stage.start_server(server)?;
        }
        let probing = stage.probe.clone();
        let to = std::net::SocketAddr::new(VIP.into(), 80);
        stage.lab.thread("client", move || probing.run(to)).map_err(lab_failure)?;
        let started = Instant::now();
        for node in NODES {
            stage.start_agent(node)?;
        }
        stage.await_service(started)?;
        for _ in 0..busy {
            let mut command = Command::new(this_binary()?);
            command.args(["demo-part", "busy"]);
            let child = stage.lab.spawn("client", command).map_err(lab_failure)?;
            stage.busy.push(child);
        }
        stage.probe.fill();
        Ok(stage)
    }

    fn await_service(&mut self, started: Instant) -> Outcome<()> {
        loop {
            let first = self.probe.since(started).into_iter().find(|s| s.server.is_some());
            if let Some(sample) = first {
                self.cold_start = sample.ended.duration_since(started);
                return Ok(());
            }
            if started.elapsed() > Duration::from_secs(20) {
                let log = fs::read_to_string(self.home.0.join("lb1.log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                return Err(Failure::new(
                    Kind::TimedOut,
                    "no answer from the VIP within 20 s",
                    last.join(" | "),
                )
                .next("nines demo needs Linux 6.1 or newer with BPF; see the log lines above"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The API socket of a node.
    pub fn socket(&self, node: &str) -> PathBuf {
        self.home.0.join(format!("{node}.sock"))
    }

    /// The state directory of a node.
    pub fn state(&self, node: &str) -> PathBuf {
        self.home.0.join(node)
    }

    /// A search path on which `nines` is this very program, for a shell.
    pub fn programs(&self) -> Outcome<std::ffi::OsString> {
        let failed = |e: std::io::Error| Failure::new(Kind::Io, "cannot link this program", e);
        let folder = self.home.0.join("bin");
        let link = folder.join("nines");
        fs::create_dir_all(&folder).map_err(failed)?;
        if !link.exists() {
            std::os::unix::fs::symlink(this_binary()?, &link).map_err(failed)?;
        }
        let rest = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(folder).chain(std::env::split_paths(&rest));
        std::env::join_paths(all)
            .map_err(|e| Failure::new(Kind::Io, "cannot extend the search path", e))
    }

    fn command(&self, node: &str) -> Outcome<Command> {
        let mut command = Command::new(this_binary()?);
        command.arg("--socket").arg(self.socket(node)).arg("--state").arg(self.home.0.join(node));
        Ok(command)
    }

    /// Starts a node's agent.
    pub fn start_agent(&mut self, node: &str) -> Outcome<()> {
        let mut command = self.command(node)?;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.home.0.join(format!("{node}.log")))
            .map_err(|e| Failure::new(Kind::Io, "cannot write the demo's logs", e))?;
        command.args(["agent", "--path", &self.path]).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log);
        let child = self.lab.spawn(node, command).map_err(lab_failure)?;
        self.agents.insert(node.to_owned(), Some(child));
        Ok(())
    }

    /// Runs `nines WORDS` against a node; gives whether it succeeded.
    pub fn nines(&self, node: &str, words: &[&str]) -> Outcome<bool> {
        let mut command = self.command(node)?;
        command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = self.lab.spawn(node, command).map_err(lab_failure)?;
        child.wait().map(|s| s.success()).map_err(|e| Failure::new(Kind::Io, "cannot run nines", e))
    }

    /// The agent of a node, if it runs.
    pub fn agent(&mut self, node: &str) -> Option<&mut Child> {
        self.agents.get_mut(node).and_then(Option::as_mut)
    }

    /// Kills a node's agent.
    pub fn kill_agent(&mut self, node: &str) {
        if let Some(mut child) = self.agents.get_mut(node).and_then(Option::take) {
            nines_lab::kill(&mut child);
        }
    }

    fn prepare_server(&self, server: &str) -> Outcome<()> {
        let mut command = self.command(server)?;
        command.args(["server", "prepare", &VIP.to_string()]);
        command.stdout(Stdio::null());
        let done = self.lab.spawn(server, command).map_err(lab_failure)?.wait();
        match done {
            Ok(status) if status.success() => Ok(()),
            _ => Err(Failure::new(Kind::Io, format!("{server} could not be prepared"), "")),
        }
    }

    /// The file that breaks a server.
    pub fn broken(&self, server: &str) -> PathBuf {
        self.home.0.join(format!("{server}.broken"))
    }

    /// Starts a real server's web server.
    pub fn start_server(&mut self, server: &str) -> Outcome<()> {
        let mut command = Command::new(this_binary()?);
        command.args(["demo-part", "web", "0.0.0.0:80", server]).arg(self.broken(server));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = self.lab.spawn(server, command).map_err(lab_failure)?;
        self.servers.insert(server.to_owned(), Some(child));
        Ok(())
    }

    /// Kills a real server's web server.
    pub fn kill_server(&mut self, server: &str) {
        if let Some(mut child) = self.servers.get_mut(server).and_then(Option::take) {
            nines_lab::kill(&mut child);
        }
    }

    /// Status as a node sees it.
    pub fn status(&self, node: &str) -> Option<Status> {
        Client::Socket(&self.socket(node)).get("/v1/status").ok()
    }

    /// Holder of the VIP, by the first node that knows and has quorum.
    pub fn active(&self) -> Option<(String, Status)> {
        for node in ["wit1", "lb2", "lb1"] {
            let runs = self.agents.get(node).is_some_and(Option::is_some);
            let Some(status) = runs.then(|| self.status(node)).flatten() else { continue };
            let holder = status.vips.first().map(|v| v.node.clone()).unwrap_or_default();
            if status.quorate && !holder.is_empty() {
                return Some((holder, status));
            }
        }
        None
    }

    /// A log line of a node, for people who look.
    pub fn log_of(&self, node: &str) -> PathBuf {
        self.home.0.join(format!("{node}.log"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.probe.end();
        let agents = self.agents.values_mut().chain(self.servers.values_mut());
        for mut child in agents.filter_map(Option::take).chain(self.busy.drain(..)) {
            nines_lab::kill(&mut child);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_config_of_the_demo_is_right_and_short() {
        for timing in ["", "timing = \"fast\"\n"] {
            let text = format!("{timing}{}", super::CONFIG);
            assert!(nines_model::config::parse(&text).is_ok(), "{timing}");
        }
        let lines = super::CONFIG.lines().filter(|l| !l.trim().is_empty()).count();
        assert!(lines <= 23, "{lines}");
    }
}
