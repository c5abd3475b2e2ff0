//! Who may begin how many flows.
//!
//! Decides: that a client has begun enough, and that strangers must show that they get what is sent
//! to them. Packets of known flows never come here.

use aya_ebpf::maps::lpm_trie::Key;
use nines_abi::{
    Packet, Service, SourceKey, TemplateKey, ASKED, DROP_MIDDLE, DROP_RATE, PROGRAM_COOKIE,
    PROGRAM_NEW, PROGRAM_QUIC, PROGRAM_SIP, PROVEN_UNITS, SERVICE_COOKIES, SERVICE_QUIC,
    SERVICE_RATE, SERVICE_SIP, SOURCE_DENIED,
};

use crate::{
    atomic::Word,
    clock,
    maps::{find_lru, shared_lru, COOKIE_CLIENTS, COOKIE_RATE_USED, RATE_USED, SERVICES, SOURCES},
    parse::packet::{bytes, opens, RST, TCP, UDP},
    verdict::Verdict,
};

/// Flags of services whose new flows come here.
pub const ASKS: u32 = SERVICE_RATE | SERVICE_COOKIES | SERVICE_QUIC | SERVICE_SIP;
/// What strangers may save up, ns.
const SECOND: u64 = 1_000_000_000;

/// A packet of no known flow, to a service that asks. One from the middle of a flow counts as one
/// that begins: it may be forged as well.
#[inline(always)]
pub fn admit(packet: &mut Packet) -> Verdict {
    packet.asked = ASKED;
    packet.call = 0;
    let Some(service) = SERVICES.get(packet.service) else {
        return Verdict::Pass;
    };
    let now = clock::exact();
    if service.flags & SERVICE_COOKIES != 0 && packet.proto == TCP {
        // A reset without a flow may be the answer to a cookie.
        if packet.flags & RST != 0 {
            return Verdict::Go(PROGRAM_COOKIE);
        }
        if !is_proven(packet) && !may_strangers(packet.service, service, now) {
            // In the middle of a flow no cookie can be asked for.
            return match opens(packet) {
                true => Verdict::Go(PROGRAM_COOKIE),
                false => Verdict::Drop(DROP_MIDDLE),
            };
        }
    }
    if service.flags & SERVICE_RATE != 0 && !may(packet, service, now) {
        return Verdict::Drop(DROP_RATE);
    }
    if service.flags & SERVICE_QUIC != 0 && packet.proto == UDP {
        return Verdict::Go(PROGRAM_QUIC);
    }
    if service.flags & SERVICE_SIP != 0 && packet.proto == UDP {
        return Verdict::Go(PROGRAM_SIP);
    }
    Verdict::Go(PROGRAM_NEW)
}

/// Whether this client may not begin flows of this service; who is not named may.
#[inline(always)]
pub fn is_denied(packet: &Packet, service: u32) -> bool {
    let key = Key::new(32 + 128, SourceKey { service, addr: bytes(packet.src) });
    SOURCES.get(key).is_some_and(|said| *said == SOURCE_DENIED)
}

#[inline(always)]
fn is_proven(packet: &Packet) -> bool {
    let shown = find_lru(&COOKIE_CLIENTS, &packet.src);
    // Another processor's reading of the clock may be a little ahead.
    shown.is_some_and(|when| packet.clock.wrapping_add(2).wrapping_sub(*when) <= PROVEN_UNITS + 2)
}

/// Whether this service still takes those who have shown nothing.
#[inline(always)]
fn may_strangers(id: u32, service: &Service, now: u64) -> bool {
    match Word::in_array(&COOKIE_RATE_USED, id) {
        Some(pace) => passes(pace, now, service.cookies_every, SECOND),
        None => true,
    }
}

/// Whether this client may begin one more.
#[inline(always)]
fn may(packet: &Packet, service: &Service, now: u64) -> bool {
    let (a, m) = (&packet.src, &service.client_mask);
    let client = [a[0] & m[0], a[1] & m[1], a[2] & m[2], a[3] & m[3]];
    let key = TemplateKey { client, service: packet.service, call: 0, pad: 0 };
    paced(&key, now, service.client_every, service.client_burst)
}

/// Whether this client may hear once more that nobody serves: so often as the kernel would tell it
/// (net.ipv4.icmp_ratelimit, with six at once: `XRLIM_BURST_FACTOR`).
#[inline(always)]
pub fn may_hear(packet: &Packet, now: u64) -> bool {
    let key = TemplateKey { client: packet.src, service: u32::MAX, call: 0, pad: 0 };
    paced(&key, now, SECOND, 5 * SECOND)
}

#[inline(always)]
fn paced(key: &TemplateKey, now: u64, every: u64, burst: u64) -> bool {
    if let Some(pace) = shared_lru(&RATE_USED, key) {
        return passes(Word::of(pace), now, every, burst);
    }
    let _ = RATE_USED.insert(key, &(now + every), 0);
    true
}

/// The generic cell rate algorithm (ITU-T I.371): one more every so many ns, and `burst` ns of them
/// at once.
#[inline(always)]
fn passes(pace: Word, now: u64, every: u64, burst: u64) -> bool {
    // Whoever loses to another processor twice is not counted.
    for _ in 0..2 {
        let used = pace.read();
        // What lies further ahead was used up by another rate.
        let ours = used > now && used - now <= burst + every + SECOND;
        let from = if ours { used } else { now };
        if from - now > burst {
            return false;
        }
        if pace.swap_if(used, from + every) {
            break;
        }
    }
    true
}
