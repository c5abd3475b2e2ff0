//! Cookies for SYNs: a client shows that it gets what is sent to its address before a server, or a
//! place in the table, is spent on it.
//!
//! The director answers the SYN by an ACK that acknowledges a number that nobody asked for: the
//! cookie. RFC 9293 section 3.10.7.3 has the client answer that by a reset with this number, and
//! send its SYN again (Linux at once, others within their first second). Nothing is kept until
//! then, and the packets go the same way with direct routing, where the director could not take
//! over a handshake: it never sees the server's half.
//!
//! Decides: what a cookie is. SipHash of the flow and the time under a secret of this director; who
//! comes back after a takeover is asked again.

use aya_ebpf::{
    bindings::xdp_action,
    programs::{TcContext, XdpContext},
};
use nines_abi::{
    cookie_time, sip_hash, Packet, DROP_CHALLENGED, DROP_MANGLED, DROP_PROVEN, PROGRAM_NEW,
};

use crate::{
    clock,
    forward::{
        checksum::{difference, follow},
        tc::drop,
        xdp::L4_MAX,
    },
    frame::{Frame, Window},
    kernel,
    maps::{count_drop, COOKIE_CLIENTS, SETTINGS},
    parse::packet::{halves_of, ACK, ETH_LEN, RST},
    verdict::Verdict,
};

/// Hops that the answer may go.
const TTL: u8 = 64;

/// What becomes of the packet.
enum Say {
    /// It is answered by this cookie.
    Ask(u32),
    /// It shows a good one, and has done its duty.
    Shown,
    /// It is no business of this program.
    Nothing,
}

/// Sequence and acknowledgement numbers, and the word with the flags, as on the wire.
type Words = [u32; 3];

#[inline(always)]
fn judge(packet: &Packet, words: &Words) -> Say {
    let now = clock::exact();
    let Some(settings) = SETTINGS.get(0) else {
        return Say::Nothing;
    };
    let ([a, b], [c, d]) = (halves_of(&packet.src), halves_of(&packet.dst));
    let ports = u64::from(packet.sport) | u64::from(packet.dport) << 16;
    let at = |time: u64| sip_hash(settings.secret, [a, b, c, d, ports, time]) as u32;
    let time = cookie_time(now);
    if packet.flags & RST == 0 {
        return Say::Ask(at(time));
    }
    if words[0] != at(time) && words[0] != at(time.wrapping_sub(1)) {
        return Say::Nothing;
    }
    let _ = COOKIE_CLIENTS.insert(&packet.src, &packet.clock, 0);
    Say::Shown
}

/// The SYN's words as an ACK's; options stay, none of them means anything there.
#[inline(always)]
fn answer(words: &Words, cookie: u32) -> Words {
    let [length, _, low, high] = words[2].to_ne_bytes();
    [0, cookie, u32::from_ne_bytes([length, ACK, low, high])]
}

/// The packet goes back as it came, but for this.
#[inline(always)]
pub fn tc(ctx: &TcContext, packet: &Packet) -> Result<i32, Verdict> {
    let at = packet.l4 as usize + 4;
    let Ok(words) = ctx.skb.load::<Words>(at) else {
        return Err(Verdict::Pass);
    };
    match judge(packet, &words) {
        Say::Nothing => Err(Verdict::Go(PROGRAM_NEW)),
        Say::Shown => Ok(drop(DROP_PROVEN)),
        Say::Ask(cookie) => {
            if turn_skb(ctx, packet, &words, &answer(&words, cookie)).is_none() {
                return Ok(drop(DROP_MANGLED));
            }
            count_drop(DROP_CHALLENGED);
            Ok(kernel::redirect(kernel::skb(ctx).ifindex, 0) as i32)
        }
    }
}

/// Ends change places, which no sum notices.
#[inline(always)]
fn turn_skb(ctx: &TcContext, packet: &Packet, old: &Words, new: &Words) -> Option<()> {
    let (skb, l4) = (&ctx.skb, packet.l4 as usize);
    for i in 0..3 {
        skb.l4_csum_replace(l4 + 16, u64::from(old[i]), u64::from(new[i]), 4).ok()?;
    }
    skb.store(l4 + 4, new, 0).ok()?;
    skb.store(l4, &[packet.dport, packet.sport], 0).ok()?;
    if packet.v6 != 0 {
        skb.store(ETH_LEN + 7, &TTL, 0).ok()?;
        skb.store(ETH_LEN + 8, &packet.dst, 0).ok()?;
        skb.store(ETH_LEN + 24, &packet.src, 0).ok()?;
    } else {
        let (old, new) = (u64::from(packet.ttl as u8), u64::from(TTL));
        skb.l3_csum_replace(ETH_LEN + 10, old, new, 2).ok()?;
        skb.store(ETH_LEN + 8, &TTL, 0).ok()?;
        skb.store(ETH_LEN + 12, &[packet.dst[3], packet.src[3]], 0).ok()?;
    }
    let macs: [u16; 6] = skb.load(0).ok()?;
    skb.store(0, &[macs[3], macs[4], macs[5], macs[0], macs[1], macs[2]], 0).ok()
}

/// The same at XDP.
#[inline(always)]
pub fn xdp(ctx: &XdpContext, packet: &Packet) -> Result<u32, Verdict> {
    let Some(headers) = Headers::of(ctx, packet) else {
        return Err(Verdict::Pass);
    };
    let words = headers.tcp.get::<Words, 4>();
    match judge(packet, &words) {
        Say::Nothing => Err(Verdict::Go(PROGRAM_NEW)),
        Say::Shown => {
            count_drop(DROP_PROVEN);
            Ok(xdp_action::XDP_DROP)
        }
        Say::Ask(cookie) => {
            headers.turn(packet, &words, answer(&words, cookie));
            count_drop(DROP_CHALLENGED);
            Ok(xdp_action::XDP_TX)
        }
    }
}

/// What of a frame changes.
struct Headers {
    /// Ethernet and IPv4, or as much of IPv6.
    v4: Window<{ ETH_LEN + 20 }>,
    /// Ethernet and IPv6.
    v6: Option<Window<{ ETH_LEN + 40 }>>,
    /// TCP without options.
    tcp: Window<20>,
}

impl Headers {
    #[inline(always)]
    fn of(ctx: &XdpContext, packet: &Packet) -> Option<Self> {
        if packet.l4 > L4_MAX {
            return None;
        }
        let frame = Frame::of_xdp(ctx);
        let tcp = frame.window::<20>((packet.l4 & L4_MAX) as usize)?;
        let v6 = if packet.v6 != 0 { Some(frame.window::<{ ETH_LEN + 40 }>(0)?) } else { None };
        Some(Self { v4: frame.window::<{ ETH_LEN + 20 }>(0)?, v6, tcp })
    }

    /// As [`turn_skb`].
    #[inline(always)]
    fn turn(&self, packet: &Packet, old: &Words, new: Words) {
        let by = (0..3).fold(0, |by, i| by + difference(old[i], new[i]));
        self.tcp.put::<u16, 16>(follow(self.tcp.get::<u16, 16>(), by));
        self.tcp.put::<Words, 4>(new);
        self.tcp.put::<[u16; 2], 0>([packet.dport, packet.sport]);
        if let Some(v6) = self.v6 {
            v6.put::<u8, { ETH_LEN + 7 }>(TTL);
            v6.put::<[u32; 4], { ETH_LEN + 8 }>(packet.dst);
            v6.put::<[u32; 4], { ETH_LEN + 24 }>(packet.src);
        } else {
            let by = difference(packet.ttl, u32::from(TTL));
            self.v4
                .put::<u16, { ETH_LEN + 10 }>(follow(self.v4.get::<u16, { ETH_LEN + 10 }>(), by));
            self.v4.put::<u8, { ETH_LEN + 8 }>(TTL);
            self.v4.put::<[u32; 2], { ETH_LEN + 12 }>([packet.dst[3], packet.src[3]]);
        }
        let m = self.v4.get::<[u16; 6], 0>();
        self.v4.put::<[u16; 6], 0>([m[3], m[4], m[5], m[0], m[1], m[2]]);
    }
}
