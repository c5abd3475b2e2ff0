//! A real server's programs: the outer header off, segments that fit into the tunnel.

use nines_dataplane::DataPlane as _;
use nines_model::{Forward, Proto, Scheduler, TunnelChecksum, TunnelKind};

use super::{
    Bench, NEXT, REDIRECT, bench,
    build::*,
    service, table,
    ways::{FAMILIES, KINDS, tunnel},
};

/// What the largest of our outer headers takes.
const HEADERS: u16 = 52;
const GUE_PORT: u16 = 6_080;

/// Bytes that a test run wants: Ethernet's and IP's headers.
fn headers(frame: &[u8]) -> usize {
    if frame[12] == 8 { 34 } else { 54 }
}

/// A director, whose packets come to a server of these programs.
fn both_ends() -> Option<Bench> {
    let mut bench = bench()?;
    let vips = ["10.0.0.100", "2001:db8::100"].map(|vip| vip.parse().unwrap());
    bench.plane.load_server(&vips, &[GUE_PORT]).unwrap();
    Some(bench)
}

impl Bench {
    /// As it comes to the server: to its own MAC, which is `lo`'s in a test run.
    fn served(&self, frame: &[u8]) -> (i32, Vec<u8>) {
        let mut frame = frame.to_vec();
        frame[..6].fill(0);
        let out = self.plane.test_run("nines_decap", &frame, 1).unwrap();
        (out.verdict, out.packet)
    }

    fn is_left_alone(&self, frame: &[u8]) -> bool {
        let (verdict, packet) = self.served(frame);
        (verdict, &packet[6..]) == (NEXT, &frame[6..])
    }

    /// What a director makes of a client's packets: one of TCP, the smallest of UDP.
    fn wrapped(&mut self, vip: &str, server: &str, client: &str, forward: Forward) -> [Vec<u8>; 2] {
        let (listen, server) = (format!("{vip}:80"), format!("{server}:80"));
        let to = |proto| service(&listen, proto, Scheduler::Rr, &[(&server, forward)]);
        self.plane.apply(&table(vec![to(Proto::Tcp), to(Proto::Udp)])).unwrap();
        let client = format!("{client}:4000");
        let least = Frame { payload: Vec::new(), ..udp(&client, &listen) };
        [tcp(&client, &listen, SYN), least].map(|frame| {
            let (verdict, wrapped) = self.tc(&frame.bytes());
            assert_eq!(verdict, REDIRECT);
            wrapped
        })
    }
}

/// Every tunnel that a director makes.
fn each(mut check: impl FnMut(&mut Bench, &str, TunnelKind, Vec<u8>)) {
    let Some(mut b) = both_ends() else { return };
    for kind in KINDS {
        for checksum in [TunnelChecksum::None, TunnelChecksum::Full] {
            for (vip, server, client) in FAMILIES {
                let what = format!("{kind:?} {checksum:?} {vip} {server}");
                for wrapped in b.wrapped(vip, server, client, tunnel(kind, checksum)) {
                    check(&mut b, &what, kind, wrapped);
                }
            }
        }
    }
}

#[test]
fn what_a_director_wraps_a_server_unwraps() {
    each(|b, what, _, wrapped| {
        let (verdict, got) = b.served(&wrapped);
        let (_, inner) = unwrap(&wrapped);
        assert_eq!(got[6..], inner[6..], "{what}");
        // Another family comes in once more, under its own name.
        let same = wrapped[12..14] == inner[12..14];
        assert_eq!(verdict, if same { NEXT } else { REDIRECT }, "{what}");
    });
}

#[test]
fn what_is_not_for_this_server_is_left_alone() {
    each(|b, what, kind, wrapped| {
        // Others' frames that a switch floods.
        let out = b.plane.test_run("nines_decap", &wrapped, 1).unwrap();
        assert_eq!((out.verdict, &out.packet), (NEXT, &wrapped), "{what}");
        let at = headers(&wrapped);
        let changed = |offset: usize, byte: u8| {
            let mut frame = wrapped.clone();
            assert_ne!(frame[offset], byte);
            frame[offset] = byte;
            frame
        };
        // The last byte of the inner destination: no address of ours.
        let inner = wrapped.len() - unwrap(&wrapped).1.len();
        let to = inner + if unwrap(&wrapped).1[12] == 8 { 33 } else { 53 };
        assert!(b.is_left_alone(&changed(to, 99)), "{what}: to another address");
        if wrapped[12] == 8 {
            assert!(b.is_left_alone(&changed(20, 0x20)), "{what}: a first fragment");
            assert!(b.is_left_alone(&changed(21, 1)), "{what}: a later one");
            assert!(b.is_left_alone(&changed(23, 6)), "{what}: no tunnel");
        }
        match kind {
            TunnelKind::Gue => {
                assert!(b.is_left_alone(&changed(at + 3, 1)), "{what}: another port");
                assert!(b.is_left_alone(&changed(at + 8, 0x40)), "{what}: variant 1");
                assert!(b.is_left_alone(&changed(at + 8, 1)), "{what}: options");
                assert!(b.is_left_alone(&changed(at + 9, 6)), "{what}: what is inside");
                assert!(b.is_left_alone(&changed(at + 10, 1)), "{what}: flags");
            }
            TunnelKind::Gre => {
                let first = wrapped[at];
                assert!(b.is_left_alone(&changed(at, first | 0x40)), "{what}: routing");
                assert!(b.is_left_alone(&changed(at + 1, 1)), "{what}: version 1");
                assert!(b.is_left_alone(&changed(at + 3, 6)), "{what}: what is inside");
            }
            TunnelKind::Ipip => {}
        }
    });
}

#[test]
fn what_is_cut_short_is_left_alone_or_is_all_that_came() {
    let Some(mut b) = both_ends() else { return };
    for kind in KINDS {
        for (vip, server, client) in FAMILIES {
            let [wrapped, _] = b.wrapped(vip, server, client, tunnel(kind, TunnelChecksum::None));
            let begins = wrapped.len() - unwrap(&wrapped).1.len() + 14;
            for len in headers(&wrapped)..wrapped.len() {
                let cut = &wrapped[..len];
                let (verdict, got) = b.served(cut);
                assert!([NEXT, REDIRECT].contains(&verdict), "{kind:?} {vip}: {len} bytes");
                let (alone, inside) = (got[6..] == cut[6..], got.get(14..) == cut.get(begins..));
                assert!(alone || inside, "{kind:?} {vip} {server}: {len} bytes became {got:x?}");
            }
        }
    }
}

#[test]
fn clients_are_asked_for_segments_that_fit() {
    let Some(b) = both_ends() else { return };
    let leaving = |frame: &Frame| {
        let out = b.plane.test_run("nines_clamp", &frame.bytes(), 1).unwrap();
        assert_eq!(out.verdict, NEXT, "nothing is held back");
        out.packet
    };
    for (vip, client) in [("10.0.0.100", "10.0.0.1"), ("[2001:db8::100]", "[2001:db8::1]")] {
        let answer = |flags, segment| {
            let (from, to) = (format!("{vip}:80"), format!("{client}:4000"));
            Frame { segment, payload: Vec::new(), ..tcp(&from, &to, flags) }
        };
        for flags in [SYN, SYN | ACK] {
            // By what the tunnel takes, and the checksum with it.
            let got = leaving(&answer(flags, 1_460));
            assert_eq!(got, answer(flags, 1_460 - HEADERS).bytes(), "{vip}");
        }
        for same in [
            answer(SYN | ACK, HEADERS),
            answer(SYN | ACK, 0),
            answer(ACK, 1_460),
            Frame { src: at(&format!("{client}:80")), ..answer(SYN | ACK, 1_460) },
            Frame { proto: 17, ..answer(0, 0) },
        ] {
            assert_eq!(leaving(&same), same.bytes(), "{vip}: as it was");
        }
        let whole = answer(SYN | ACK, 1_460).bytes();
        for len in headers(&whole)..whole.len() {
            let out = b.plane.test_run("nines_clamp", &whole[..len], 1).unwrap();
            assert_eq!((out.verdict, &out.packet[..]), (NEXT, &whole[..len]), "{vip}: {len} bytes");
        }
    }
}
