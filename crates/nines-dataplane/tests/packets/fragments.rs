//! Packets in fragments.

use nines_dataplane::DataPlane as _;
use nines_model::{Forward, ForwardingTable, Proto, Scheduler, TunnelChecksum, TunnelKind};

use super::{NEXT, REDIRECT, SHOT, bench, both_hooks, build::*, service, table, ways::*};

/// A packet in pieces of `size` bytes of what follows its IP header (RFC 791; RFC 8200 section
/// 4.5).
fn pieces(whole: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    let v4 = whole[12] == 8;
    let header = if v4 { 34 } else { 54 };
    let (head, body) = whole.split_at(header);
    let last = body.len().div_ceil(size) - 1;
    let piece = |(n, part): (usize, &[u8])| {
        let mut frame = head.to_vec();
        let place = (n * size / 8) as u16;
        let more = u16::from(n < last);
        if v4 {
            frame[16..18].copy_from_slice(&(part.len() as u16 + 20).to_be_bytes());
            frame[18..20].copy_from_slice(&id.to_be_bytes());
            frame[20..22].copy_from_slice(&(more << 13 | place).to_be_bytes());
            frame[24..26].fill(0);
            let sum = !fold(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            frame[18..20].copy_from_slice(&(part.len() as u16 + 8).to_be_bytes());
            frame.extend([frame[20], 0]);
            frame[20] = 44;
            frame.extend((place << 3 | more).to_be_bytes());
            frame.extend(u32::from(id).to_be_bytes());
        }
        frame.extend(part);
        frame
    };
    body.chunks(size).enumerate().map(piece).collect()
}

/// The packet that these pieces are of.
fn whole(pieces: &[Vec<u8>]) -> Vec<u8> {
    let v4 = pieces[0][12] == 8;
    let mut frame = pieces[0][..if v4 { 34 } else { 54 }].to_vec();
    let body: Vec<u8> =
        pieces.iter().flat_map(|p| p[if v4 { 34 } else { 62 }..].to_vec()).collect();
    if v4 {
        assert!(pieces.iter().all(|p| fold(&p[14..34]) == 0xffff), "IPv4 header checksums");
        frame[16..18].copy_from_slice(&(body.len() as u16 + 20).to_be_bytes());
        frame[20..22].fill(0);
        frame[24..26].fill(0);
        let sum = !fold(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[18..20].copy_from_slice(&(body.len() as u16).to_be_bytes());
        frame[20] = pieces[0][54];
    }
    frame.extend(body);
    frame
}

#[test]
fn fragments_go_where_their_first_one_goes() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    let nat = Forward::Nat;
    let ipip = tunnel(TunnelKind::Ipip, TunnelChecksum::None);
    let gue = tunnel(TunnelKind::Gue, TunnelChecksum::Full);
    let mut id = 100;
    let (v4, v6) = ("10.0.0.151", "2001:db8::151");
    for (vip, client, server, forward, source) in [
        ("10.0.0.100", "10.0.0.1", "10.0.0.11:80", Forward::Dr, None),
        ("10.0.0.100", "10.0.0.1", "10.0.0.11:8080", nat, None),
        ("10.0.0.100", "10.0.0.1", "10.0.0.11:80", ipip, None),
        ("10.0.0.100", "10.0.0.1", "10.0.0.11:80", gue, None),
        ("10.0.0.100", "10.0.0.1", "10.0.0.11:8080", Forward::FullNat, None),
        ("10.0.0.100", "10.0.0.1", "10.0.0.11:8080", Forward::FullNat, Some(v4)),
        ("[2001:db8::100]", "[2001:db8::1]", "[2001:db8::11]:8080", Forward::FullNat, None),
        ("[2001:db8::100]", "[2001:db8::1]", "[2001:db8::11]:8080", Forward::FullNat, Some(v6)),
        ("[2001:db8::100]", "[2001:db8::1]", "[2001:db8::11]:80", Forward::Dr, None),
        ("[2001:db8::100]", "[2001:db8::1]", "[2001:db8::11]:8080", nat, None),
    ] {
        let (to, from) = (format!("{vip}:80"), format!("{client}:4000"));
        let mut all = table(vec![service(&to, Proto::Udp, Scheduler::Rr, &[(server, forward)])]);
        let source = source.map(|source| source.parse::<std::net::IpAddr>().unwrap());
        all.services.get_mut("s0").unwrap().pool = source.into_iter().collect();
        b.plane.apply(&ForwardingTable::default()).unwrap();
        b.plane.apply(&all).unwrap();
        let payload: Vec<u8> = (0..2_000u32).map(|n| n as u8).collect();
        let there = Frame { payload: payload.clone(), ..udp(&from, &to) };
        id += 10;
        let sent = pieces(&there.bytes(), id, 800);
        assert_eq!(b.tc(&sent[1]).0, NEXT, "without the first one nobody knows");
        let arrived: Vec<Vec<u8>> = sent
            .iter()
            .map(|piece| {
                assert_eq!(b.xdp(piece), (2, piece.clone()), "XDP leaves pieces to tc");
                let (verdict, packet) = b.tc(piece);
                assert_eq!(verdict, REDIRECT, "{forward} {to}");
                if matches!(forward, Forward::Tunnel(_)) { unwrap(&packet).1 } else { packet }
            })
            .collect();
        let dst = if forward.translates() { at(server) } else { there.dst };
        let seen = read(&whole(&arrived));
        let src = if forward == Forward::FullNat {
            (source.unwrap_or(there.dst.0), seen.0.1)
        } else {
            there.src
        };
        assert_eq!(seen, (src, dst, 63), "{forward} {to}");
        let other = pieces(&there.bytes(), id + 1, 800);
        assert_eq!(b.tc(&other[1]).0, NEXT, "of another packet");
        if forward.translates() {
            let back = Frame { payload, src: dst, dst: src, ..there.clone() };
            let sent = pieces(&back.bytes(), id + 2, 800);
            let arrived: Vec<Vec<u8>> = sent.iter().map(|piece| b.tc(piece).1).collect();
            assert_eq!(read(&whole(&arrived)), (there.dst, there.src, 63), "back from {to}");
        }
    }
}

#[test]
fn no_byte_of_a_packet_goes_to_its_server_twice() {
    let Some(mut b) = bench() else { return };
    neighbours();
    let mut services = Vec::new();
    let mut ways = Vec::new();
    for (i, forward) in [Forward::Dr, Forward::Nat, Forward::FullNat].into_iter().enumerate() {
        for (vip, client, server) in [
            ("10.0.0.100", "10.0.0.1", "10.0.0.11"),
            ("[2001:db8::100]", "[2001:db8::1]", "[2001:db8::11]"),
        ] {
            let (to, server) = (format!("{vip}:{}", 80 + i), format!("{server}:{}", 80 + i));
            for proto in [Proto::Udp, Proto::Tcp] {
                services.push(service(&to, proto, Scheduler::Rr, &[(&server, forward)]));
            }
            ways.push((to, format!("{client}:4000")));
        }
    }
    b.plane.apply(&table(services)).unwrap();
    let (mut id, mut lost) = (0, 0);
    for (to, from) in ways {
        for frame in [udp(&from, &to), tcp(&from, &to, SYN)] {
            let whole = Frame { payload: vec![7; 2_000], ..frame.clone() }.bytes();
            let cut = |id: u16, size: usize| pieces(&whole, id, size);
            let send = |frame: &[u8]| b.tc(frame).0;
            // In order, out of order, and with others between them that overlap.
            for order in [[0, 1, 2], [0, 2, 1]] {
                id += 1;
                for n in order {
                    assert_eq!(send(&cut(id, 800)[n]), REDIRECT, "{to}");
                    assert_eq!(send(&cut(id, 400)[1]), SHOT, "{to}: in the first one");
                    assert_eq!(send(&cut(id, 8)[1]), SHOT, "{to}: where flags are");
                    lost += 2;
                    if n > 0 {
                        assert_eq!(send(&cut(id, 800)[n]), SHOT, "{to}: the same again");
                        lost += 1;
                    }
                }
                assert_eq!(send(&cut(id, 1_600)[1]), SHOT, "{to}: all of it went");
                lost += 1;
            }
            id += 1;
            // Eight apart from one another: more are missing than honest wires lose.
            assert_eq!(send(&cut(id, 80)[0]), REDIRECT);
            let apart: Vec<i32> = (1..8).map(|n| send(&cut(id, 80)[2 * n])).collect();
            assert_eq!(apart, [REDIRECT, REDIRECT, REDIRECT, SHOT, SHOT, SHOT, SHOT], "{to}");
            assert_eq!(send(&cut(id, 80)[1]), REDIRECT, "{to}: two become one");
            assert_eq!(send(&cut(id, 80)[8]), REDIRECT, "{to}: and there is room");
            lost += 4;
            if frame.proto == 6 {
                id += 1;
                assert_eq!(send(&cut(id, 16)[0]), SHOT, "{to}: flags in another one");
                lost += 1;
            }
        }
    }
    assert_eq!(b.plane.counters().unwrap().drops["fragment"], lost);
}
