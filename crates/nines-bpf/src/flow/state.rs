//! How a flow's state follows its packets.
//!
//! Decides: the states of TCP as IPVS has them (net/netfilter/ipvs/ip_vs_proto_tcp.c), so that
//! operators read the same counts and a flow lives as long as behind LVS. An association of SCTP
//! goes by the same table.

use nines_abi::{Packet, Server, FORWARD_NAT, STATE_NONE, STATE_UDP};

use crate::{
    parse::packet::{ACK, FIN, RST, SYN, UDP},
    service::server::is_full_nat,
};

/// Client to server, the server's answers are seen too (NAT).
pub const BOTH: usize = 0;
/// Server to client.
pub const ANSWER: usize = 1;
/// Client to server, answers go past (direct routing, tunnel).
pub const ONE_WAY: usize = 2;

/// Next states: a word for each direction and flag (SYN, FIN, ACK, RST); the nibble of a state, the
/// lowest being `STATE_NONE`, is the one that follows it.
const NEXT: [u64; 12] = [
    // SYN, FIN, ACK, RST with both directions seen, from the client
    0x333_3333_3113,
    0x598_7655_5276,
    0x196_7654_1211,
    0x398_6666_3666,
    // from the server
    0x392_2222_3212,
    0x598_5654_5245,
    0x118_7654_1211,
    0x666_6656_6266,
    // only the client seen
    0x333_3333_3113,
    0x598_7654_5246,
    0x196_7654_1211,
    0x698_6666_3666,
];

/// Which packets of a flow through this server pass here.
#[inline(always)]
pub fn direction(server: &Server) -> usize {
    if server.forward == FORWARD_NAT || is_full_nat(server) {
        BOTH
    } else {
        ONE_WAY
    }
}

/// The state after this packet.
#[inline(always)]
pub fn next(packet: &Packet, direction: usize, state: u8) -> u8 {
    if packet.proto == UDP {
        return STATE_UDP;
    }
    let flag = if packet.flags & RST != 0 {
        3
    } else if packet.flags & SYN != 0 {
        0
    } else if packet.flags & FIN != 0 {
        1
    } else if packet.flags & ACK != 0 {
        2
    } else {
        return state;
    };
    // Every read is in bounds: three directions of four flags.
    let row = match direction {
        BOTH => [NEXT[0], NEXT[1], NEXT[2], NEXT[3]],
        ANSWER => [NEXT[4], NEXT[5], NEXT[6], NEXT[7]],
        _ => [NEXT[8], NEXT[9], NEXT[10], NEXT[11]],
    };
    let word = match flag {
        0 => row[0],
        1 => row[1],
        2 => row[2],
        _ => row[3],
    };
    ((word >> ((state & 15) as u64 * 4)) & 15) as u8
}

/// Of a flow that is new.
#[inline(always)]
pub fn first(packet: &Packet, direction: usize) -> u8 {
    next(packet, direction, STATE_NONE)
}
