//! IPVS's sync protocol between a director of nines on kernel IPVS and a machine that has plain
//! IPVS with the daemons that ipvsadm starts.

use std::{fs::File, net::SocketAddr, os::fd::AsRawFd as _};

use nines_dataplane::{
    DataPlane as _,
    ipvs::{self, IpvsPlane, Kernel, Role, SyncDaemon, Tables as _},
    listing::Connection,
};
use nines_model::{Forward, Proto, Scheduler, Traffic};

use super::{
    build::*,
    ipvs::{Wire, run, to_w0},
    ipvs_shown::{connect, has, host, until},
    service, table,
};

/// A machine: what this thread sees while it is in.
struct Host {
    namespace: File,
    kernel: Kernel,
    wire: Wire,
}

impl Host {
    /// The thread is in it after.
    fn new() -> Option<Self> {
        let (kernel, wire) = host()?;
        let namespace = File::open("/proc/thread-self/ns/net").unwrap();
        Some(Self { namespace, kernel, wire })
    }

    fn enter(&self) {
        // SAFETY: a live descriptor of a network namespace; changes this thread only.
        assert_eq!(unsafe { libc::setns(self.namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
    }

    /// Packets that came for each of its servers.
    fn came(&mut self) -> Vec<(SocketAddr, u64)> {
        self.enter();
        let held = self.kernel.list().unwrap();
        let dests = held.values().flat_map(|held| &held.dests);
        dests.map(|dest| (dest.at, dest.tally.0.packets_in)).collect()
    }

    /// Its connection of that client, told by the other one or not.
    fn finds(&self, client: &str) -> Option<Connection> {
        self.enter();
        let all = until(|| ipvs::connections().unwrap(), |all| has(all, client));
        all.into_iter().find(|c| c.client == client.parse().unwrap())
    }
}

/// Two machines on one link, s0 in both; the thread is in the second one.
fn pair() -> Option<(Host, Host)> {
    let ours = Host::new()?;
    let theirs = Host::new()?;
    ours.enter();
    let there = format!("/proc/{}/fd/{}", std::process::id(), theirs.namespace.as_raw_fd());
    run("ip link add s0 type veth peer name s1");
    run(&format!("ip link set s1 netns {there}"));
    run("ip addr add 10.9.0.1/24 dev s0");
    run("ip link set s0 up");
    theirs.enter();
    run("ip link set s1 name s0");
    run("ip addr add 10.9.0.2/24 dev s0");
    run("ip link set s0 up");
    Some((ours, theirs))
}

#[test]
fn ipvs_daemons_are_started_listed_and_stopped() {
    let Some((_ours, theirs)) = pair() else { return };
    let kernel = &theirs.kernel;
    assert_eq!(kernel.daemons().unwrap(), []);
    let told = |e: std::io::Result<()>| e.unwrap_err().raw_os_error().unwrap();
    assert_eq!(told(kernel.stop_daemon(Role::Backup)), libc::ESRCH);
    let asked = SyncDaemon { sync_id: 7, ..SyncDaemon::new(Role::Master, "s0") };
    kernel.start_daemon(&asked).unwrap();
    assert_eq!(told(kernel.start_daemon(&asked)), libc::EEXIST);
    let usual = |daemon| SyncDaemon {
        len_max: 1472,
        group: Some([224, 0, 0, 81].into()),
        port: 8848,
        ttl: 1,
        ..daemon
    };
    assert_eq!(kernel.daemons().unwrap(), [usual(asked.clone())]);
    let second = SyncDaemon {
        sync_id: 8,
        len_max: 1400,
        group: Some([224, 0, 1, 9].into()),
        port: 9000,
        ttl: 3,
        ..SyncDaemon::new(Role::Backup, "s0")
    };
    kernel.start_daemon(&second).unwrap();
    assert_eq!(kernel.daemons().unwrap(), [usual(asked), second]);
    for role in Role::ALL {
        kernel.stop_daemon(role).unwrap();
    }
    assert_eq!(kernel.daemons().unwrap(), []);
}

fn connect_to(host: &Host, client: &str, vip: &str) {
    host.enter();
    connect(&host.wire, client, vip);
}

#[test]
fn ipvs_of_nines_and_plain_ipvs_tell_each_other_of_connections() {
    let Some((ours, mut theirs)) = pair() else { return };
    let servers = [("10.0.0.11:80", Forward::Dr), ("10.0.0.12:80", Forward::Dr)];
    let pool = service("10.0.0.100:80", Proto::Tcp, Scheduler::Rr, &servers);
    ours.enter();
    let mut plane = IpvsPlane::open().unwrap();
    plane.apply(&table(vec![pool.clone()])).unwrap();
    plane.synchronise(Some("s0")).unwrap();
    theirs.enter();
    let held = ipvs::held(&pool).unwrap();
    let Traffic::To(listen) = pool.traffic else { unreachable!() };
    theirs.kernel.tell(&ipvs::Change::Add(pool.traffic, held.service)).unwrap();
    for dest in held.dests {
        theirs.kernel.tell(&ipvs::Change::AddDest(pool.traffic, dest)).unwrap();
    }
    for role in Role::ALL {
        theirs.kernel.start_daemon(&SyncDaemon::new(role, "s0")).unwrap();
    }

    let vip = listen.addr.to_string();
    // A connection goes on, on the machine that was told, where it was.
    connect_to(&ours, "10.0.0.29:5000", &vip);
    let told = theirs.finds("10.0.0.29:5000").unwrap();
    let ack = tcp("10.0.0.29:5000", &vip, ACK);
    theirs.wire.put(&to_w0(&ack));
    let goes_on = |came: &Vec<(SocketAddr, u64)>| came.contains(&(told.server, 1));
    let came = until(|| theirs.came(), goes_on);
    assert!(goes_on(&came) && came.iter().map(|(_, n)| n).sum::<u64>() == 1, "{came:?}");

    for (from, to, host) in [(&ours, &theirs, 30), (&theirs, &ours, 40)] {
        for n in 0..3 {
            let client = format!("10.0.0.{}:5000", host + n);
            connect_to(from, &client, &vip);
            let here = from.finds(&client).unwrap();
            let there = to.finds(&client).unwrap_or_else(|| panic!("{client} was not told"));
            assert_eq!(here.server, there.server, "{client}");
            assert_eq!(here.virtual_service, there.virtual_service);
            assert_eq!((there.proto, there.state.as_ref()), (6, "ESTABLISHED"));
        }
    }

    ours.enter();
    plane.synchronise(None).unwrap();
    assert_eq!(ours.kernel.daemons().unwrap(), []);
    theirs.enter();
    for role in Role::ALL {
        theirs.kernel.stop_daemon(role).unwrap();
    }
}
