//! QUIC packets that name their server, wherever they come from: a client whose address changes
//! keeps its connection.
//!
//! Connection ids that servers choose hold, after a first byte, the id of the server, plain
//! (draft-ietf-quic-load-balancers, section 5.2). Ids that clients choose do not: packets that
//! may have one (Initial, 0-RTT: RFC 9000 section 17.2) are scheduled as any others.
//!
//! Decides: which server a payload names, and that it gets the flow as long as it is not down.

use nines_abi::{Packet, QuicKey, NAMED, PROGRAM_INSERT, PROGRAM_NEW, QUIC_ID_MAX, SERVER_DOWN};

use crate::{
    maps::{find, QUIC_IDS, SERVERS, SERVICES},
    verdict::Verdict,
};

/// What is looked at: up to the end of the longest id, in a long header.
pub const LOOKED_AT: usize = 7 + QUIC_ID_MAX as usize;
/// The first byte says that the header is long; its type is Handshake.
const LONG: u8 = 0x80;
const TYPE: u8 = 0x30;
const HANDSHAKE: u8 = 0x20;
/// The id's first byte: this rotation of configs means that nothing is said.
const SAYS_NOTHING: u8 = 7;

/// Where in the packet its payload is.
#[inline(always)]
pub fn payload(packet: &Packet) -> u32 {
    packet.l4 + 8
}

/// The server that a payload names takes the flow, else whoever is chosen.
#[inline(always)]
pub fn route(packet: &mut Packet, payload: &[u8; LOOKED_AT]) -> Verdict {
    let slot = match SERVICES.get(packet.service) {
        Some(service) => named(packet.service, service.quic_bytes, payload),
        None => None,
    };
    if let Some(slot) = slot {
        packet.chosen = slot;
        packet.asked = NAMED;
        return Verdict::Go(PROGRAM_INSERT);
    }
    Verdict::Go(PROGRAM_NEW)
}

#[inline(always)]
fn named(service: u32, bytes: u32, payload: &[u8; LOOKED_AT]) -> Option<u32> {
    // Type, four bytes of version and one of length come before the id in a long header.
    let mut from = 1;
    if payload[0] & LONG != 0 {
        if payload[0] & TYPE != HANDSHAKE || u32::from(payload[5]) <= bytes {
            return None;
        }
        from = 6;
    }
    let mut id = 0;
    if payload[from] >> 5 == SAYS_NOTHING {
        return None;
    }
    for i in 0..QUIC_ID_MAX as usize {
        if (i as u32) < bytes {
            id = id << 8 | u64::from(if from == 1 { payload[2 + i] } else { payload[7 + i] });
        }
    }
    let slot = *find(&QUIC_IDS, &QuicKey { id, service, pad: 0 })?;
    let server = SERVERS.get(slot)?;
    (server.service == service && server.state != SERVER_DOWN).then_some(slot)
}
