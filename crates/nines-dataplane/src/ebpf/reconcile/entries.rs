//! Services and servers as the kernel's entries, and what the kernel program cannot do.

use nines_abi::{
    self as abi, Addr, FORWARD_DR, FORWARD_FULL_NAT, FORWARD_GRE, FORWARD_GUE, FORWARD_IPIP,
    FORWARD_LOCAL, FORWARD_NAT, POOL_MAX, SERVER_DOWN, SERVER_DRAIN, SERVER_UP, SERVICE_COOKIES,
    SERVICE_FALLBACK, SERVICE_LIVE, SERVICE_ONE_PACKET, SERVICE_POOL, SERVICE_PORT, SERVICE_QUIC,
    SERVICE_RATE, SERVICE_SIP, SERVICE_SOURCES, Server, Service, ServiceKey,
};
use nines_model::{
    Forward, Scheduler, ServerState, TableServer, TableService, Traffic, TunnelChecksum, TunnelKind,
};

use crate::{
    Error, Result,
    address::{self, Way},
    ebpf::{installed::scheduler_word, lookup_tables},
};

/// The leading bits of a client's address of the service's family, as four words on the wire.
pub(super) fn prefix_mask(v6: bool, prefix: u8) -> [u32; 4] {
    let whole = if v6 { 128 } else { 32 };
    let bits = 128 - u32::from(whole - prefix.min(whole));
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0).to_be_bytes();
    std::array::from_fn(|i| {
        u32::from_ne_bytes([mask[4 * i], mask[4 * i + 1], mask[4 * i + 2], mask[4 * i + 3]])
    })
}

/// Picks of a service at most.
pub fn picks_of(service: &TableService) -> u64 {
    let each = service.servers.len() as u64;
    u64::from(match service.scheduler {
        Scheduler::Maglev => lookup_tables::maglev_len(service) + 1,
        Scheduler::Mh => abi::MH_TABLE_LEN + 1,
        Scheduler::Sh | Scheduler::Dh => abi::HASH_TABLE_LEN,
        Scheduler::Wrr => {
            let weights = service.servers.values().map(|s| u64::from(s.weight));
            return weights.sum::<u64>().min(u64::from(abi::TABLE_LEN_MAX)) + 1;
        }
        _ => return each + 1,
    })
}

/// The kernel's entry of a service, without its table.
pub(super) fn service_of(key: ServiceKey, wanted: &TableService) -> Service {
    let v6 = wanted.traffic.is_ipv6();
    let quic = wanted.servers.values().find_map(|s| s.quic_id);
    let quic_bytes = quic.map_or(0, |id| id.bytes.into());
    let mut flags = SERVICE_LIVE;
    for (flag, set) in [
        (SERVICE_FALLBACK, wanted.flags.fallback),
        (SERVICE_PORT, wanted.flags.port),
        (SERVICE_ONE_PACKET, wanted.one_packet),
        (SERVICE_SIP, wanted.sip),
        (SERVICE_SOURCES, !wanted.sources.is_empty()),
        (SERVICE_RATE, wanted.rate.is_some()),
        (SERVICE_COOKIES, wanted.cookies.is_some()),
        (SERVICE_QUIC, quic_bytes != 0),
        (SERVICE_POOL, !wanted.pool.is_empty()),
    ] {
        flags |= if set { flag } else { 0 };
    }
    let (persist, seconds, mask) = wanted.persist.map_or((0, 0, [0; 4]), |p| {
        let seconds = (p.time.0 / 1_000) as u32;
        (abi::idle_units(seconds).max(1), seconds, prefix_mask(v6, p.prefix))
    });
    let (last, prefix) = match wanted.traffic {
        Traffic::To(l) => (l.last.to_be(), l.prefix + if v6 { 0 } else { 96 }),
        Traffic::Marked { .. } => (0, 0),
    };
    Service {
        table: 0,
        scheduler: scheduler_word(wanted.scheduler),
        flags,
        persist,
        persist_seconds: seconds,
        mask,
        key,
        order: 0,
        last,
        prefix,
        pad: 0,
        quic_bytes,
        client_every: wanted.rate.map_or(0, |r| r.rate.every_ns()),
        client_burst: wanted.rate.map_or(0, |r| r.rate.every_ns() * u64::from(r.burst - 1)),
        client_mask: wanted.rate.map_or([0; 4], |r| prefix_mask(v6, r.prefix)),
        cookies_every: wanted.cookies.map_or(0, |r| r.every_ns()),
        pool: [[0; 16]; POOL_MAX],
    }
}

/// The pool with every address that stays in its place.
pub(super) fn pool(old: &[Addr; POOL_MAX], wanted: &TableService) -> [Addr; POOL_MAX] {
    let wanted: Vec<Addr> = wanted.pool.iter().map(|addr| address::mapped(*addr)).collect();
    let mut pool = old.map(|addr| if wanted.contains(&addr) { addr } else { [0; 16] });
    for addr in wanted {
        if !pool.contains(&addr) {
            // One that nobody had before if there is one: old flows are known by their place.
            let free = |i: &usize| pool[*i] == [0; 16];
            let never = (0..POOL_MAX).find(|i| free(i) && old[*i] == [0; 16]);
            if let Some(place) = never.or_else(|| (0..POOL_MAX).find(free)) {
                pool[place] = addr;
            }
        }
    }
    pool
}

/// The kernel's number of a forwarding method: one of the constants `FORWARD_*`.
pub(super) const fn forward_word(forward: Forward) -> u8 {
    match forward {
        Forward::Dr => FORWARD_DR,
        Forward::Nat => FORWARD_NAT,
        Forward::FullNat => FORWARD_FULL_NAT,
        Forward::Local => FORWARD_LOCAL,
        Forward::Tunnel(tunnel) => match tunnel.kind {
            TunnelKind::Ipip => FORWARD_IPIP,
            TunnelKind::Gue => FORWARD_GUE,
            TunnelKind::Gre => FORWARD_GRE,
        },
    }
}

/// Of the ways that change addresses, which; the entries of its flows are made for it.
pub(super) fn translation(forward: u8) -> Option<u8> {
    matches!(forward, FORWARD_NAT | FORWARD_FULL_NAT).then_some(forward)
}

/// The kernel's entry of a server, but for what depends on the entry before it: generation, last
/// weight, service and order. `way`: where packets to it go; `detour`: interface where marked
/// packets come in again.
pub(super) fn server_of(
    traffic: Traffic,
    wanted: &TableServer,
    way: Option<Way>,
    detour: u32,
) -> Server {
    let ip = wanted.addr.ip();
    // What a mark led away from this host must come to it the same way again.
    let marked = matches!(traffic, Traffic::Marked { .. });
    let home = if marked && wanted.forward == Forward::Local { detour } else { 0 };
    let mut server = Server {
        addr: address::mapped(ip),
        nexthop: address::mapped(way.map_or(ip, |w| w.nexthop)),
        source: way.and_then(|w| w.source).map_or([0; 16], address::mapped),
        ifindex: way.map_or(home, |w| w.ifindex),
        mtu: way.and_then(|w| w.mtu).map_or(1_500, |mtu| mtu.min(65_535) as u16),
        port: wanted.addr.port().to_be(),
        proxy: wanted.proxy.into(),
        v6: ip.is_ipv6().into(),
        state: match wanted.state {
            ServerState::Down => SERVER_DOWN,
            _ if wanted.takes_new() => SERVER_UP,
            _ => SERVER_DRAIN,
        },
        weight: wanted.weight,
        upper: wanted.limit.upper,
        lower: wanted.limit.lower,
        // What is the same for all packets of the service.
        vip: traffic.vip().map_or([0; 16], address::mapped),
        vip_port: traffic.one_port().unwrap_or(0).to_be(),
        ..Server::default()
    };
    set_forward(&mut server, wanted.forward);
    server
}

/// How packets get to a server.
fn set_forward(server: &mut Server, forward: Forward) {
    server.forward = forward_word(forward);
    if let Forward::Tunnel(tunnel) = forward {
        server.tunnel_port = tunnel.port.to_be();
        server.checksum = match tunnel.checksum {
            TunnelChecksum::None => abi::CHECKSUM_NONE,
            TunnelChecksum::Full => abi::CHECKSUM_FULL,
            TunnelChecksum::Remote => abi::CHECKSUM_REMOTE,
        };
    }
}

/// What the kernel program cannot do is said here and not found out by a packet.
pub(super) fn check(wanted: &TableService, candidates: usize) -> Result<()> {
    let refuse = |why: String, next: &str| {
        Err(Error::new("cannot apply the forwarding table", why).next(next))
    };
    let word = scheduler_word(wanted.scheduler);
    if (abi::SCHED_LC..=abi::SCHED_TWOS).contains(&word) && candidates > abi::SCAN_MAX as usize {
        let why = format!(
            "{} weighs every server for each new flow, {} at most; here are {candidates}",
            wanted.scheduler,
            abi::SCAN_MAX,
        );
        return refuse(why, "use maglev, rr, wrr, sh, dh or mh, or several services");
    }
    if wanted.pool.len() > POOL_MAX {
        let why = format!("{} sources for full NAT; {POOL_MAX} at most", wanted.pool.len());
        return refuse(why, "each has 64,512 ports for each server: use fewer");
    }
    for server in wanted.servers.values().filter(|s| s.forward.translates()) {
        if server.forward == Forward::FullNat && wanted.one_packet {
            return refuse(
                format!("{}: no full-nat: single datagrams have no port of their own", server.addr),
                "use nat, or no ops",
            );
        }
        let untold = wanted.traffic.vip().is_none() && server.forward == Forward::Nat;
        if untold && server.addr.is_ipv6() {
            return refuse(
                format!("{}: NAT of IPv6 needs a service with one address", server.addr),
                "use full-nat, dr or a tunnel",
            );
        }
    }
    Ok(())
}
