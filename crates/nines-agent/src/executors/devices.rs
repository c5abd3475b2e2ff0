//! Interfaces and addresses of this machine, as the agent needs them.
//!
//! Decides: on which interfaces the programs go, where the agent listens, and which of its own
//! addresses it waits for. `vip_addresses.rs` keeps VIPs where they are.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_dataplane::{address, director::Director, listen, new_interfaces, sysctl, watch::Watch};

use super::{addresses::AddressHandle, forwarding::DataplaneHandle, vip_addresses::Places};
use crate::{convert::kernel_failure, identity, logger::Logger, own_status::OwnStatus};

/// Binds heartbeats on each own address, also on one that is not there yet.
pub fn bind(me: &identity::Peer) -> Outcome<Vec<mio::net::UdpSocket>> {
    let one = |addr: &IpAddr| {
        let at = SocketAddr::new(*addr, me.port);
        let socket = listen::udp(at).map(mio::net::UdpSocket::from_std);
        socket.map_err(|e| {
            Failure::new(Kind::Io, format!("cannot listen on {at} (UDP)"), e)
                .next("see that no other agent runs: ss -lunp")
        })
    };
    me.addresses.iter().map(one).collect()
}

/// Binds a port for connections, also on an address that is not there yet.
pub fn bind_tcp(at: SocketAddr) -> Outcome<tokio::net::TcpListener> {
    let listener = listen::tcp(at).and_then(tokio::net::TcpListener::from_std);
    listener.map_err(|e| {
        let failed = Failure::new(Kind::Io, format!("cannot listen on {at} (TCP)"), e);
        failed.next("see what does: ss -ltnp")
    })
}

/// A director passes packets on, and asks for neighbours when it has to.
pub fn ready_kernel(log: &Logger) -> Outcome<()> {
    // Replies and clients may come from anywhere; strict reverse-path checks would drop them.
    // The greater of all and the interface holds.
    let all = std::fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten();
    let name = |of: &str| format!("net/ipv4/conf/{of}/rp_filter");
    let strict = |of: String| sysctl::read(&name(&of)).is_ok_and(|value| value == "1");
    if all.map(|of| of.file_name().to_string_lossy().into_owned()).any(strict) {
        sysctl::write(&name("all"), "2").map_err(kernel_failure)?;
    }
    if let Err(why) = new_interfaces::silence() {
        log.line(&format!(
            "an interface that appears while this agent is frozen may answer for VIPs: {why}"
        ));
    }
    Ok(())
}

/// Takes back what [`ready_kernel`] did for a machine with VIPs, once it has none.
pub fn leave_kernel(places: &Places, log: &Logger) {
    let vips = places.lock().expect("nobody panics with it").clone();
    let left = address::interfaces().unwrap_or_default();
    let held = left.iter().any(|i| i.addresses.iter().any(|(a, _)| vips.contains_key(a)));
    if !held && let Err(why) = new_interfaces::restore() {
        log.line(&why.to_string());
    }
}

/// Interfaces that need all programs: those of this node's addresses and of VIPs. The guard alone
/// is on every other, too.
pub fn cover(plane: &mut Director, own: &[IpAddr], places: &Places) -> Vec<String> {
    let mut notes = Vec::new();
    let mut names = Vec::new();
    let all = address::interfaces().unwrap_or_default();
    for interface in &all {
        if interface.ethernet && interface.addresses.iter().any(|(a, _)| own.contains(a)) {
            names.push(interface.name.clone());
        }
    }
    if let Some(first) = names.first() {
        plane.tell_on(first);
    }
    let vips = places.lock().expect("nobody panics with it").clone();
    for (vip, (_, interface)) in vips {
        match address::place_in(&all, vip, interface.as_deref()) {
            Ok(found) if found.ethernet => names.push(found.name.clone()),
            Ok(_) => {}
            Err(why) => notes.push(why.to_string()),
        }
    }
    plane.ebpf().on(names);
    notes
}

/// The own addresses that are on no interface, in words; empty: all are there.
fn absent(own: &[IpAddr]) -> String {
    let Ok(all) = address::interfaces() else { return String::new() };
    let there = |own: &&IpAddr| all.iter().any(|i| i.addresses.iter().any(|(a, _)| a == *own));
    words(&own.iter().filter(|a| !there(a)).copied().collect::<Vec<_>>())
}

fn words(absent: &[IpAddr]) -> String {
    let names: Vec<String> = absent.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => format!("waits for {one}: this node's address is on no interface"),
        all => {
            format!("waits for {}: this node's addresses are on no interface", all.join(" and "))
        }
    }
}

/// Lets the threads that keep something on interfaces know when one comes, goes or changes, counts
/// those changes, and says which of this node's own addresses it waits for.
pub fn watch(
    own: &[IpAddr],
    dataplane: Option<&DataplaneHandle>,
    addresses: &AddressHandle,
    changes: &AtomicU64,
    shown: &Mutex<OwnStatus>,
    log: &Logger,
) {
    let watch = Watch::open();
    if let Err(why) = &watch {
        log.line(&format!("{why}; looking once a second"));
    }
    loop {
        let now = absent(own);
        let before = {
            let mut shown = shown.lock().expect("nobody panics with it");
            std::mem::replace(&mut shown.absent, now.clone())
        };
        if now != before {
            let all_there = "this node's own addresses are there".to_owned();
            log.line(if now.is_empty() { &all_there } else { &now });
        }
        match &watch {
            // A thousand VIPs that come, or a hundred containers, are many changes: one look serves
            // all of a tenth of a second.
            Ok(watch) => {
                while !watch.wait(Duration::from_secs(60)) {}
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
        changes.fetch_add(1, Ordering::Relaxed);
        let told = dataplane.is_none_or(DataplaneHandle::devices_changed);
        if !told || !addresses.look() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_which_addresses_it_waits_for() {
        assert_eq!(words(&[]), "");
        let (a, b) = ("10.0.0.2".parse().unwrap(), "2001:db8::2".parse().unwrap());
        assert!(words(&[a]).starts_with("waits for 10.0.0.2: this node's address is on"));
        assert!(words(&[a, b]).starts_with("waits for 10.0.0.2 and 2001:db8::2: this node's"));
        assert_eq!(absent(&["127.0.0.1".parse().unwrap()]), "");
    }
}
