//! The packet core: one verdict for each packet, the same for tc and XDP.
//!
//! Decides: guard, service, flow, server. Does not change packets and knows no hook.
//! Order for a packet to a VIP: guard deadline, flow table, schedule. The guard comes first, so a
//! director whose lease ran out is silent also for flows it knows.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use nines_abi::{
    Addr, Flow, Flow4, Flow6, Server, Service, ServiceKey, DROP_GUARD, DROP_NO_ROUTE,
    DROP_NO_SERVER, FLOW_FIN, FLOW_OPEN, FLOW_RST, FLOW_SYN, FORWARD_DR, FORWARD_LOCAL,
    GUARD_SERVES, IDLE_FIN_NS, IDLE_OPEN_NS, IDLE_RST_NS, IDLE_SYN_NS, IDLE_UDP_NS, SCHED_TURN,
    SERVER_DOWN, SERVER_UP, SETTING_NAT,
};

use crate::{
    maps::{
        count, count_connection, FLOWS4, FLOWS6, GUARD, PEERS, PICKS, SERVERS, SERVICES, SETTINGS,
        TURNS,
    },
    packet::{Packet, ACK, ARP, FIN, ND_ADVERT, NEIGHBOUR, RST, SYN, TCP, TRANSPORT},
};

/// What happens to a packet.
pub enum Verdict {
    /// Not ours, or for this machine: up the stack.
    Pass,
    /// `DROP_*` says why.
    Drop(u32),
    /// To the server in this slot, addresses kept.
    Direct(u32, &'static Server),
    /// To the server, destination rewritten.
    Nat(&'static Server),
    /// From the server to the client, source rewritten to the VIP.
    Reply(&'static Server),
}

/// A packet that comes in. `counts`: this hook has the last word; XDP may still hand the packet to
/// tc, so it counts by itself what it really sent.
#[inline(always)]
pub fn ingress(packet: &Packet, counts: bool) -> Verdict {
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if silent(&packet.dst, now, &packet.mac) && !is_advert(packet) {
        return Verdict::Drop(DROP_GUARD);
    }
    if packet.kind != TRANSPORT {
        return Verdict::Pass;
    }
    let key =
        ServiceKey { addr: bytes(packet.dst), port: packet.dport, proto: packet.proto, pad: 0 };
    match unsafe { SERVICES.get(&key) } {
        Some(service) => forward(packet, service, now, counts),
        None if counts => reply(packet, now),
        None => Verdict::Pass,
    }
}

/// A packet that goes out: speaks it for a silent address?
#[inline(always)]
pub fn egress(packet: &Packet) -> Verdict {
    let speaks_for = match packet.kind {
        NEIGHBOUR if is_advert(packet) => packet.dst,
        _ => packet.src,
    };
    let Some(guard) = (unsafe { GUARD.get(&bytes(speaks_for)) }) else {
        return Verdict::Pass;
    };
    let now = unsafe { bpf_ktime_get_boot_ns() };
    // A real server on this node answers clients of another director with the VIP as source; it
    // still may not claim the address on the link.
    let claims = packet.kind == ARP || packet.kind == NEIGHBOUR;
    if now < guard.deadline_ns || (guard.flags & GUARD_SERVES != 0 && !claims) {
        return Verdict::Pass;
    }
    Verdict::Drop(DROP_GUARD)
}

/// Whether XDP may answer for this packet at all.
#[inline(always)]
pub fn xdp_takes(packet: &Packet) -> bool {
    packet.kind == TRANSPORT || packet.kind == ARP || packet.kind == NEIGHBOUR
}

#[inline(always)]
fn is_advert(packet: &Packet) -> bool {
    packet.kind == NEIGHBOUR && packet.flags == ND_ADVERT
}

#[inline(always)]
fn silent(addr: &[u32; 4], now: u64, mac: &[u8; 8]) -> bool {
    let Some(guard) = (unsafe { GUARD.get(&bytes(*addr)) }) else {
        return false;
    };
    if now < guard.deadline_ns {
        return false;
    }
    guard.flags & GUARD_SERVES == 0 || unsafe { PEERS.get(mac) }.is_none()
}

#[inline(always)]
pub fn bytes(words: [u32; 4]) -> Addr {
    unsafe { core::mem::transmute::<[u32; 4], Addr>(words) }
}

#[inline(always)]
fn flow(packet: &Packet) -> Option<&'static mut Flow> {
    let found = if packet.v6 {
        FLOWS6.get_ptr_mut(&key6(packet))
    } else {
        FLOWS4.get_ptr_mut(&key4(packet))
    };
    found.map(|flow| unsafe { &mut *flow })
}

#[inline(always)]
fn key4(packet: &Packet) -> Flow4 {
    Flow4 {
        src: packet.src[3],
        dst: packet.dst[3],
        sport: packet.sport,
        dport: packet.dport,
        proto: u32::from(packet.proto),
    }
}

#[inline(always)]
fn key6(packet: &Packet) -> Flow6 {
    Flow6 {
        src: packet.src,
        dst: packet.dst,
        sport: packet.sport,
        dport: packet.dport,
        proto: u32::from(packet.proto),
    }
}

#[inline(always)]
fn server(slot: u32) -> Option<&'static Server> {
    SERVERS.get(slot)
}

/// How long a flow may be idle before a packet of it is scheduled anew.
#[inline(always)]
fn idle_limit(state: u8, proto: u8) -> u64 {
    if proto != TCP {
        return IDLE_UDP_NS;
    }
    match state {
        FLOW_SYN => IDLE_SYN_NS,
        FLOW_FIN => IDLE_FIN_NS,
        FLOW_RST => IDLE_RST_NS,
        _ => IDLE_OPEN_NS,
    }
}

#[inline(always)]
fn next_state(packet: &Packet, state: u8) -> u8 {
    if packet.proto != TCP {
        return FLOW_OPEN;
    }
    if packet.flags & RST != 0 {
        return FLOW_RST;
    }
    if packet.flags & FIN != 0 {
        return FLOW_FIN;
    }
    if state == FLOW_SYN && packet.flags & (SYN | ACK) == ACK {
        return FLOW_OPEN;
    }
    state
}

/// A packet from a client to a service.
#[inline(always)]
fn forward(packet: &Packet, service: &Service, now: u64, counts: bool) -> Verdict {
    let opens = packet.proto == TCP && packet.flags & (SYN | ACK | RST) == SYN;
    if let Some(flow) = flow(packet) {
        if let Some(server) = server(flow.server) {
            if stays(packet, flow, server, now, opens) {
                let state = next_state(packet, flow.state);
                // One write a second at most: a shared cache line costs more than the precision.
                if state != flow.state || now.wrapping_sub(flow.seen_ns) > 1_000_000_000 {
                    flow.seen_ns = now;
                    flow.state = state;
                }
                return deliver(packet, flow.server, server, counts);
            }
        }
    }
    schedule(packet, service, now, opens, counts)
}

/// Whether a known flow keeps its server for this packet.
#[inline(always)]
fn stays(packet: &Packet, flow: &Flow, server: &Server, now: u64, opens: bool) -> bool {
    if flow.generation != server.generation || flow.reply != 0 {
        return false;
    }
    if now.wrapping_sub(flow.seen_ns) > idle_limit(flow.state, packet.proto) {
        return false;
    }
    if opens && (flow.state == FLOW_FIN || flow.state == FLOW_RST) {
        return false;
    }
    // A dead server keeps established TCP (its check may be wrong), nothing else.
    server.state != SERVER_DOWN || (packet.proto == TCP && !opens)
}

#[inline(always)]
fn schedule(packet: &Packet, service: &Service, now: u64, opens: bool, counts: bool) -> Verdict {
    if service.table_len == 0 {
        return Verdict::Drop(DROP_NO_SERVER);
    }
    // A TCP packet in mid-flow without an entry (this director took over, or the entry was
    // evicted) goes by hash under every scheduler: all directors agree, and with Maglev it is the
    // server that has the connection.
    let turn = if service.scheduler == SCHED_TURN && (opens || packet.proto != TCP) {
        let Some(turn) = TURNS.get_ptr_mut(service.id) else {
            return Verdict::Drop(DROP_NO_SERVER);
        };
        next_turn(turn)
    } else {
        hash(packet)
    };
    let entry = service.table_base + turn % service.table_len;
    let Some(&slot) = PICKS.get(entry) else {
        return Verdict::Drop(DROP_NO_SERVER);
    };
    let Some(server) = server(slot) else {
        return Verdict::Drop(DROP_NO_SERVER);
    };
    // The region of a table that was replaced this instant may be written again: never leave the
    // service.
    if server.service != service.id {
        return Verdict::Drop(DROP_NO_SERVER);
    }
    // Between two updates of the table a server may already be drained: the table follows in
    // microseconds; the old one still names it. No new flow goes there.
    if server.state != SERVER_UP && (opens || packet.proto != TCP) {
        return Verdict::Drop(DROP_NO_SERVER);
    }
    let fresh = Flow {
        seen_ns: now,
        server: slot,
        generation: server.generation,
        state: if opens { FLOW_SYN } else { next_state(packet, FLOW_OPEN) },
        reply: 0,
        pad: [0; 6],
    };
    // A full table evicts the least recently used; a failed insert only loses stickiness.
    if packet.v6 {
        let _ = FLOWS6.insert(&key6(packet), &fresh, 0);
    } else {
        let _ = FLOWS4.insert(&key4(packet), &fresh, 0);
    }
    if server.forward == nines_abi::FORWARD_NAT {
        remember_reply(packet, server, &fresh);
    }
    count_connection(slot, server.service);
    deliver(packet, slot, server, counts)
}

/// Takes the next turn of a service, all CPUs counting together (atomic fetch-and-add, Linux 5.12;
/// this target's `core` has no atomics).
#[inline(always)]
fn next_turn(turn: *mut u64) -> u32 {
    let mut taken: u64 = 1;
    unsafe {
        core::arch::asm!(
            "{taken} = atomic_fetch_add((u64 *)({turn} + 0), {taken})",
            turn = in(reg) turn,
            taken = inout(reg) taken,
        );
    }
    taken as u32
}

/// The entry by which the server's answers are known.
#[inline(always)]
fn remember_reply(packet: &Packet, server: &Server, fresh: &Flow) {
    let flow = Flow { reply: 1, ..*fresh };
    let from = unsafe { core::mem::transmute::<Addr, [u32; 4]>(server.addr) };
    if packet.v6 {
        let key = Flow6 {
            src: from,
            dst: packet.src,
            sport: server.port,
            dport: packet.sport,
            proto: u32::from(packet.proto),
        };
        let _ = FLOWS6.insert(&key, &flow, 0);
    } else {
        let key = Flow4 {
            src: from[3],
            dst: packet.src[3],
            sport: server.port,
            dport: packet.sport,
            proto: u32::from(packet.proto),
        };
        let _ = FLOWS4.insert(&key, &flow, 0);
    }
}

#[inline(always)]
fn deliver(packet: &Packet, slot: u32, server: &'static Server, counts: bool) -> Verdict {
    if counts {
        count(slot, server.service, packet.bytes, false);
    }
    if server.forward == FORWARD_LOCAL {
        return Verdict::Pass;
    }
    if server.ifindex == 0 {
        return Verdict::Drop(DROP_NO_ROUTE);
    }
    if server.forward == FORWARD_DR {
        Verdict::Direct(slot, server)
    } else {
        Verdict::Nat(server)
    }
}

/// A packet to an address that is no service: an answer of a real server behind NAT?
#[inline(always)]
fn reply(packet: &Packet, now: u64) -> Verdict {
    let Some(settings) = SETTINGS.get(0) else {
        return Verdict::Pass;
    };
    if settings.flags & SETTING_NAT == 0 {
        return Verdict::Pass;
    }
    let Some(flow) = flow(packet) else {
        return Verdict::Pass;
    };
    let Some(server) = server(flow.server) else {
        return Verdict::Pass;
    };
    if flow.reply == 0 || flow.generation != server.generation {
        return Verdict::Pass;
    }
    let vip = unsafe { core::mem::transmute::<Addr, [u32; 4]>(server.vip) };
    if silent(&vip, now, &[0; 8]) {
        return Verdict::Drop(DROP_GUARD);
    }
    if now.wrapping_sub(flow.seen_ns) > 1_000_000_000 {
        flow.seen_ns = now;
    }
    count(flow.server, server.service, packet.bytes, true);
    Verdict::Reply(server)
}

/// Hash of the 5-tuple, equal on every director: words mixed as MurmurHash3 mixes them
/// (public domain, A. Appleby), whose finaliser avalanches all 32 bits.
#[inline(always)]
fn hash(packet: &Packet) -> u32 {
    let mut h = u32::from(packet.proto);
    let ports = u32::from(packet.sport) | u32::from(packet.dport) << 16;
    for word in [
        packet.src[0],
        packet.src[1],
        packet.src[2],
        packet.src[3],
        packet.dst[0],
        packet.dst[1],
        packet.dst[2],
        packet.dst[3],
        ports,
    ] {
        let k = word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
        h = (h ^ k).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ h >> 16
}
