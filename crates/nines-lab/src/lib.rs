//! Hosts, links and faults in network namespaces: a whole network on one machine.
//!
//! Decides: names, wiring, and that everything is gone on every exit. A janitor process holds a
//! pipe from this one: when it closes, by return, panic or kill -9, the janitor kills what ran in
//! the namespaces and removes them. Depends on nothing of nines; needs root, `ip`, and `nft` for
//! one-way cuts and splits.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Write as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

pub mod power;

/// What went wrong while building or breaking the network.
#[derive(Debug)]
pub struct LabError(pub String);

impl std::fmt::Display for LabError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LabError {}

/// `Result` of this crate.
pub type Result<T> = std::result::Result<T, LabError>;

/// One interface of a host: on which bridge, with which addresses ("10.99.0.2/24").
#[derive(Clone, Debug)]
pub struct Wire {
    /// Bridge, made when first named.
    pub bridge: String,
    /// Addresses with prefix lengths.
    pub addresses: Vec<String>,
}

impl Wire {
    /// One interface with one address.
    pub fn new(bridge: &str, address: &str) -> Self {
        Self { bridge: bridge.into(), addresses: vec![address.into()] }
    }
}

/// A network of hosts that is gone when this is dropped.
pub struct Lab {
    id: String,
    hosts: BTreeMap<String, Vec<Wire>>,
    janitor: Child,
    /// Closing it tells the janitor to clean up.
    leash: Option<ChildStdin>,
}

/// The switch's own name among the hosts.
const SWITCH: &str = "sw";

fn run(program: &str, args: &[&str], stdin: &str) -> Result<()> {
    let failed =
        |why: &dyn std::fmt::Display| LabError(format!("{program} {}: {why}", args.join(" ")));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(&e))?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(stdin.as_bytes()).map_err(|e| failed(&e))?;
    }
    let out = child.wait_with_output().map_err(|e| failed(&e))?;
    if !out.status.success() {
        return Err(failed(&String::from_utf8_lossy(&out.stderr)));
    }
    Ok(())
}

/// The process that cleans up, and the pipe that keeps it waiting.
fn janitor(id: &str, cleanup: &str) -> Result<(Child, ChildStdin)> {
    // Signals of the terminal go to the whole group: the janitor has one of its own and outlives
    // them. `ip netns pids` names only what runs in namespaces of this very lab.
    let script = format!(
        "trap '' INT TERM HUP; id={id}; cat >/dev/null\n\
         all=$(ip netns list | cut -d' ' -f1 | grep '^nines-{id}-')\n\
         for ns in $all; do kill -9 $(ip netns pids $ns) 2>/dev/null; done\n\
         for ns in $all; do inode=$(stat -L -c %i /run/netns/$ns)\n{cleanup}\nip netns del $ns; done"
    );
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| LabError(format!("cannot start the janitor: {e}")))?;
    let leash = child.stdin.take().ok_or_else(|| LabError("no pipe to the janitor".into()))?;
    Ok((child, leash))
}

impl Lab {
    /// Builds hosts and wires. `cleanup` are shell lines that the janitor runs for each namespace
    /// before it goes, with `$ns` its name, `$inode` its number and `$id` the lab's.
    pub fn build(hosts: BTreeMap<String, Vec<Wire>>, cleanup: &str) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(LabError("network namespaces need root".into()));
        }
        let mut random = [0; 4];
        File::open("/dev/urandom")
            .and_then(|mut f| f.read_exact(&mut random))
            .map_err(|e| LabError(format!("no random numbers: {e}")))?;
        let id: String = random.iter().map(|b| format!("{b:02x}")).collect();
        let (janitor, leash) = janitor(&id, cleanup)?;
        let lab = Self { id, hosts, janitor, leash: Some(leash) };
        lab.wire()?;
        Ok(lab)
    }

    /// Name of a host's namespace.
    pub fn namespace(&self, host: &str) -> String {
        format!("nines-{}-{host}", self.id)
    }

    /// The switch port of a host's interface.
    pub fn port(host: &str, interface: usize) -> String {
        format!("p{interface}-{host}")
    }

    fn wire(&self) -> Result<()> {
        let switch = self.namespace(SWITCH);
        let mut adds = format!("netns add {switch}\n");
        for host in self.hosts.keys() {
            adds.push_str(&format!("netns add {}\n", self.namespace(host)));
        }
        run("ip", &["-batch", "-"], &adds)?;
        let mut bridges: Vec<&str> =
            self.hosts.values().flatten().map(|w| w.bridge.as_str()).collect();
        bridges.sort_unstable();
        bridges.dedup();
        let mut inside = String::new();
        for bridge in bridges {
            inside.push_str(&format!(
                "link add {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
                 link set {bridge} up\n"
            ));
        }
        run("ip", &["-n", &switch, "-batch", "-"], &inside)?;
        let (mut links, mut ports) = (String::new(), String::new());
        for (host, wires) in &self.hosts {
            for (i, wire) in wires.iter().enumerate() {
                let (port, namespace) = (Self::port(host, i), self.namespace(host));
                links.push_str(&format!(
                    "link add name {port} netns {switch} type veth peer name eth{i} netns {namespace}\n"
                ));
                ports.push_str(&format!("link set {port} master {} up\n", wire.bridge));
            }
        }
        run("ip", &["-batch", "-"], &links)?;
        run("ip", &["-n", &switch, "-batch", "-"], &ports)?;
        for (host, wires) in &self.hosts {
            let mut lines = String::from("link set lo up\n");
            for (i, wire) in wires.iter().enumerate() {
                lines.push_str(&format!("link set eth{i} up\n"));
                for address in &wire.addresses {
                    let nodad = if address.contains(':') { " nodad" } else { "" };
                    lines.push_str(&format!("addr add {address} dev eth{i}{nodad}\n"));
                }
            }
            run("ip", &["-n", &self.namespace(host), "-batch", "-"], &lines)?;
        }
        Ok(())
    }

    fn namespace_file(&self, host: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(self.namespace(host))
    }

    /// Runs `work` in a thread that lives in the host's network.
    pub fn within<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.namespace_file(host);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(&path)?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|_| Err(LabError("a thread panicked".into())))
        })
    }

    /// A thread of its own in the host's network, until it returns.
    pub fn thread(&self, host: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let path = self.namespace_file(host);
        std::thread::Builder::new()
            .name(host.to_owned())
            .spawn(move || {
                if enter(&path).is_ok() {
                    work();
                }
            })
            .map(drop)
            .map_err(|e| LabError(e.to_string()))
    }

    /// Starts a program in the host's network. It ends with the lab.
    pub fn spawn(&self, host: &str, mut command: Command) -> Result<Child> {
        // A child inherits the network of the thread that forks it.
        self.within(host, move || command.spawn().map_err(|e| LabError(e.to_string())))?
    }

    /// `ip` with these words, in the host's network.
    pub fn ip(&self, host: &str, words: &str) -> Result<()> {
        let namespace = self.namespace(host);
        let mut args = vec!["-n", namespace.as_str()];
        args.extend(words.split(' '));
        run("ip", &args, "")
    }

    /// Pulls all cables of a host silently: carrier stays, nothing passes.
    pub fn cut(&self, host: &str) -> Result<()> {
        let one = |port| self.ip(SWITCH, &format!("link set {port} nomaster"));
        self.ports(host).into_iter().try_for_each(one)
    }

    /// Puts all cables of a host back.
    pub fn mend(&self, host: &str) -> Result<()> {
        for (port, wire) in self.ports(host).into_iter().zip(self.wires(host)) {
            self.ip(SWITCH, &format!("link set {port} master {}", wire.bridge))?;
        }
        Ok(())
    }

    fn wires(&self, host: &str) -> &[Wire] {
        self.hosts.get(host).map_or(&[], Vec::as_slice)
    }

    /// The switch ports of all interfaces of a host.
    pub fn ports(&self, host: &str) -> Vec<String> {
        (0..self.wires(host).len()).map(|i| Self::port(host, i)).collect()
    }

    /// The machine's links go down, as when its power goes.
    pub fn links(&self, host: &str, up: bool) -> Result<()> {
        for i in 0..self.wires(host).len() {
            self.ip(host, &format!("link set eth{i} {}", if up { "up" } else { "down" }))?;
        }
        Ok(())
    }

    /// Drops IPv4 packets from one host to these addresses, in this direction only.
    pub fn drop_one_way(&self, host: &str, to: &[String]) -> Result<()> {
        self.filter(host, &format!("ip daddr {{ {} }} drop", to.join(", ")))
    }

    /// Drops one of so many IP packets from a host, in their order.
    pub fn lose(&self, host: &str, one_of: u32) -> Result<()> {
        self.filter(host, &format!("ether type {{ ip, ip6 }} numgen inc mod {one_of} 0 drop"))
    }

    /// Drops IPv4 packets of more than so many bytes from one host to these addresses, without a
    /// word to the sender: an MTU black hole.
    pub fn drop_large(&self, host: &str, bytes_max: u32, to: &[String]) -> Result<()> {
        let to = to.join(", ");
        self.filter(host, &format!("ip daddr {{ {to} }} ip length > {bytes_max} drop"))
    }

    /// A rule for whatever comes from any card of a host.
    fn filter(&self, host: &str, rule: &str) -> Result<()> {
        let (table, ports) = (Self::port(host, 0), self.ports(host).join(", "));
        self.nft(&format!(
            "table netdev {table} {{ chain in {{ type filter hook ingress \
             devices = {{ {ports} }} priority 0; {rule}\n}}\n}}\n"
        ))
    }

    /// Ends what [`Lab::drop_one_way`], [`Lab::lose`] or [`Lab::drop_large`] began for a host.
    pub fn pass_again(&self, host: &str) -> Result<()> {
        self.nft(&format!("delete table netdev {}\n", Self::port(host, 0)))
    }

    fn nft(&self, rules: &str) -> Result<()> {
        let switch = self.namespace(SWITCH);
        run("ip", &["netns", "exec", &switch, "nft", "-f", "-"], rules)
    }

    /// A thread of its own where all cables end.
    pub fn thread_at_switch(&self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        self.thread(SWITCH, work)
    }
}

fn enter(namespace: &PathBuf) -> Result<()> {
    let failed =
        |e: &dyn std::fmt::Display| LabError(format!("cannot enter {}: {e}", namespace.display()));
    let file = File::open(namespace).map_err(|e| failed(&e))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| failed(&e))
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.leash.take());
        let _ = self.janitor.wait();
    }
}

/// Sends a signal to a child that this process started.
fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).map_err(|e| LabError(e.to_string()))
}

/// Whether this process may build labs.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Stops a process as if its CPU were gone.
pub fn freeze(child: &Child) -> Result<()> {
    signal(child, Signal::STOP)
}

/// Lets it go on.
pub fn thaw(child: &Child) -> Result<()> {
    signal(child, Signal::CONT)
}

/// Asks it to restart in place.
pub fn hang_up(child: &Child) -> Result<()> {
    signal(child, Signal::HUP)
}

/// Asks it to stop.
pub fn terminate(child: &Child) -> Result<()> {
    signal(child, Signal::TERM)
}

/// Kills it and waits until it is gone.
pub fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Option<Lab> {
        let mut hosts = BTreeMap::new();
        hosts.insert("a".to_owned(), vec![Wire::new("br0", "10.98.0.1/24")]);
        hosts.insert("b".to_owned(), vec![Wire::new("br0", "10.98.0.2/24")]);
        match Lab::build(hosts, "") {
            Ok(lab) => Some(lab),
            Err(why) => {
                assert!(std::env::var_os("CI").is_none(), "{why}");
                eprintln!("SKIPPED: {why}");
                None
            }
        }
    }

    /// A socket belongs to the network it was made in, whoever uses it.
    fn reaches(lab: &Lab) -> bool {
        let bind = |addr: &'static str| move || std::net::UdpSocket::bind((addr, 7_000)).unwrap();
        let from = lab.within("a", bind("10.98.0.1")).unwrap();
        let to = lab.within("b", bind("10.98.0.2")).unwrap();
        to.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        from.send_to(b"x", "10.98.0.2:7000").unwrap();
        to.recv(&mut [0; 8]).is_ok()
    }

    #[test]
    fn hosts_talk_cuts_cut_and_nothing_is_left() {
        let Some(lab) = two() else { return };
        assert!(reaches(&lab));
        lab.cut("b").unwrap();
        assert!(!reaches(&lab));
        lab.mend("b").unwrap();
        assert!(reaches(&lab));
        lab.drop_one_way("a", &["10.98.0.2".into()]).unwrap();
        assert!(!reaches(&lab));
        lab.pass_again("a").unwrap();
        assert!(reaches(&lab));
        let (namespace, mut sleep) = (lab.namespace("a"), Command::new("sleep"));
        sleep.arg("600");
        let mut child = lab.spawn("a", sleep).unwrap();
        drop(lab);
        assert!(!PathBuf::from("/run/netns").join(namespace).exists());
        assert!(!child.wait().unwrap().success(), "killed with its host");
    }
}
