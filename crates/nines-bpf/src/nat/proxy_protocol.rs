//! PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt, section 2.2): a server behind full
//! NAT is told who its client is, in front of the first byte that the client sends.
//!
//! The client knows nothing of that header, so the two ends count differently from there on: what
//! the client numbers n the server numbers n plus the header's length. The header rides on the
//! client's acknowledgement of the server's SYN, which has room for it and comes before the server
//! may speak. It rides again as long as the server has not acknowledged it and the client says
//! nothing new.
//!
//! Decides: on which packets it rides, and how numbers change. The client's first number is in its
//! entry's [`nines_abi::Via`]; what has happened is in the entry's word: `WORD_SENT`, `WORD_DATA`,
//! `WORD_SHOWN`. Changes that XDP cannot make it leaves to tc.

mod header;
mod segment;
mod selective;

use aya_ebpf::{
    bindings::xdp_action,
    programs::{TcContext, XdpContext},
};
use nines_abi::{state_of, Packet, Server, STATE_ESTABLISHED, WORD_DATA, WORD_SENT, WORD_SHOWN};

use self::{
    header::carry,
    segment::{counts, is_whole, length, payload, replace, tcp_length, Words},
    selective::selective,
};
use crate::{
    atomic::opaque,
    flow::{
        entry::{EntryRef, Seen},
        table,
    },
    forward::{
        checksum::{difference, follow},
        xdp::{self, L4_MAX},
    },
    frame::Frame,
    kernel,
    parse::packet::{key, Ends, ACK, RST, SYN},
};

/// No options but a timestamp, as Linux writes it: NOP, NOP, kind 8, length 10.
const TIMESTAMP: u32 = u32::from_be_bytes([1, 1, 8, 10]).to_be();

/// What a client's packet becomes.
enum Onward {
    /// It is the same for the server.
    Same,
    /// Its number is another.
    Later,
    /// It carries the header, and nothing else.
    Carries,
    /// A SYN that brings data along: the server gets the SYN.
    Bare,
    /// It begins another connection than the one that is known.
    New,
}

/// By what has happened so far: bits of the entry's word.
#[inline(always)]
fn onward(packet: &Packet, words: &Words, done: u64) -> Onward {
    let number = u32::from_be(words[0]);
    let first = packet.via.addr;
    if packet.flags & SYN != 0 {
        if number != first && state_of(done) != STATE_ESTABLISHED {
            return Onward::New;
        }
        return if payload(packet, words) != 0 { Onward::Bare } else { Onward::Same };
    }
    if done & WORD_SHOWN != 0 {
        return Onward::Later;
    }
    // How much the client has said.
    let said = number.wrapping_sub(first).wrapping_sub(1);
    if said != 0 || packet.fragment != 0 {
        // A keepalive probe repeats the number before.
        return if (said as i32) < 0 { Onward::Same } else { Onward::Later };
    }
    // If the server has the header already it says so, and the next reset is exact.
    if packet.flags & RST != 0 {
        return Onward::Same;
    }
    if payload(packet, words) == 0 {
        return Onward::Carries;
    }
    // Its first words: right behind the header, or again, because the header may be lost.
    match done & (WORD_SENT | WORD_DATA) {
        WORD_SENT => Onward::Later,
        _ => Onward::Carries,
    }
}

/// What the server's acknowledgement becomes; `None`: it is the same for the client.
#[inline(always)]
fn acknowledged(packet: &Packet, number: u32, first: u32, shown: bool) -> Option<u32> {
    let both = packet.flags & (SYN | ACK) == ACK;
    (both && counts(packet, number, first, shown)).then(|| number.wrapping_sub(length(packet)))
}

/// Whether this is the server's answer to another SYN than the one that is known.
#[inline(always)]
fn is_of_another(packet: &Packet, number: u32, first: u32) -> bool {
    packet.flags & (SYN | ACK) == SYN | ACK && number != first.wrapping_add(1)
}

/// What the next program is to do with the packet.
pub enum Next {
    /// Translate its addresses.
    Full,
    /// See whose it is.
    New,
    /// It could not be changed.
    Drop,
}

/// Changes numbers, and adds the header.
#[inline(always)]
pub fn tc(ctx: &TcContext, packet: &mut Packet) -> Next {
    let at = packet.l4 as usize + 4;
    let Ok(words) = ctx.skb.load::<Words>(at) else {
        return Next::Drop;
    };
    if !is_whole(packet, &words) {
        return Next::Drop;
    }
    let done = if packet.answer != 0 {
        tc_answer(ctx, packet, &words)
    } else {
        let Some((entry, seen)) = table::look_up(&key(packet), packet.hash) else {
            return Next::New;
        };
        let number = u32::from_be(words[0]);
        match onward(packet, &words, seen.word) {
            Onward::Same => Some(()),
            Onward::Later => {
                if number == packet.via.addr.wrapping_add(1) && seen.word & WORD_SHOWN == 0 {
                    table::add_bits(entry, &seen, WORD_DATA);
                }
                let later = number.wrapping_add(length(packet));
                replace(ctx, at + 12, at, words[0], later.to_be(), 0)
            }
            Onward::Carries => {
                table::add_bits(entry, &seen, WORD_SENT);
                carry(ctx, packet, &words, true)
            }
            Onward::Bare => carry(ctx, packet, &words, false),
            Onward::New => {
                table::retire(entry, seen);
                packet.asked = 0;
                return Next::New;
            }
        }
    };
    if done.is_some() {
        Next::Full
    } else {
        Next::Drop
    }
}

/// A packet of the server's.
#[inline(always)]
fn tc_answer(ctx: &TcContext, packet: &Packet, words: &Words) -> Option<()> {
    // Of a flow that has just ended: the next program sees that, too.
    let Some((first, (entry, seen))) = client_of(packet) else {
        return Some(());
    };
    let at = packet.l4 as usize + 4;
    let number = u32::from_be(words[1]);
    if is_of_another(packet, number, first) {
        // The client sends its SYN again, and both begin anew.
        if let Some((entry, seen)) = table::look_up(&key(packet), packet.hash) {
            table::retire(entry, seen);
        }
        return None;
    }
    let mut shown = seen.word & WORD_SHOWN != 0;
    if let Some(new) = acknowledged(packet, number, first, shown) {
        if !shown {
            table::show(entry, &seen);
        }
        shown = true;
        replace(ctx, at + 12, at + 4, words[1], new.to_be(), 0)?;
    }
    if tcp_length(words) > 20 && packet.flags & SYN == 0 {
        return selective(ctx, packet, tcp_length(words) - 20, first, shown);
    }
    Some(())
}

/// The client's first number, and its entry.
#[inline(always)]
fn client_of(packet: &Packet) -> Option<(u32, (EntryRef, Seen))> {
    let (entry, seen) = table::client_of(packet.via.addr, packet.via.name(), packet.chosen)?;
    let first = entry.via(&seen)?.addr;
    Some((first, (entry, seen)))
}

/// The same at XDP, which sends the packet on, too, or leaves it as it is.
#[inline(always)]
pub fn xdp(ctx: &XdpContext, packet: &Packet, server: &Server, ends: &Ends) -> u32 {
    const PASS: u32 = xdp_action::XDP_PASS;
    let Some(words) = kernel::xdp_load::<Words>(ctx, packet.l4 + 4) else {
        return PASS;
    };
    if !is_whole(packet, &words) {
        return PASS;
    }
    let (old, new) = if packet.answer != 0 {
        let Some((first, (entry, seen))) = client_of(packet) else {
            return PASS;
        };
        if !is_plain(ctx, packet, &words) {
            return PASS;
        }
        let number = u32::from_be(words[1]);
        if is_of_another(packet, number, first) {
            return PASS;
        }
        let shown = seen.word & WORD_SHOWN != 0;
        let new = acknowledged(packet, number, first, shown);
        if new.is_some() && !shown {
            table::show(entry, &seen);
        }
        (words[1], new.unwrap_or(number).to_be())
    } else {
        match onward(packet, &words, u64::from(packet.proxied)) {
            Onward::Same => (words[0], words[0]),
            // The client's first words are told apart from their repetition.
            Onward::Later if packet.proxied & WORD_SHOWN as u32 == 0 => return PASS,
            Onward::Later => {
                (words[0], u32::from_be(words[0]).wrapping_add(length(packet)).to_be())
            }
            _ => return PASS,
        }
    };
    let sent = xdp::full(ctx, packet, server, ends);
    if sent == PASS {
        return PASS;
    }
    // The code that sent it on has seen that it is no more.
    let l4 = (opaque(u64::from(packet.l4)) as u32 & L4_MAX) as usize;
    let Some(tcp) = Frame::of_xdp(ctx).window::<20>(l4) else {
        return xdp_action::XDP_DROP;
    };
    tcp.put::<u16, 16>(follow(tcp.get::<u16, 16>(), difference(old, new)));
    if packet.answer != 0 {
        tcp.put::<u32, 8>(new);
    } else {
        tcp.put::<u32, 4>(new);
    }
    sent
}

/// Whether no option can hold numbers.
#[inline(always)]
fn is_plain(ctx: &XdpContext, packet: &Packet, words: &Words) -> bool {
    let len = tcp_length(words);
    len == 20
        || (len == 32 && kernel::xdp_load(ctx, packet.l4 + 20) == Some(TIMESTAMP))
        || packet.flags & SYN != 0
}
