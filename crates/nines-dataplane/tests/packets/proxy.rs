//! The server is told who its client is: the header, the numbers on both sides, what is lost and
//! comes again; at both hooks.

use nines_dataplane::{DataPlane as _, flow_sync::Told};
use nines_model::{Forward, ForwardingTable, Proto, Scheduler};

use super::{Bench, REDIRECT, SHOT, both_hooks, build::*, service, table, ways::*};

const PSH: u8 = 8;

fn told(vip: &str, server: &str) -> ForwardingTable {
    let full = [(server, Forward::FullNat)];
    let mut all = table(vec![service(&format!("{vip}:80"), Proto::Tcp, Scheduler::Rr, &full)]);
    all.services.get_mut("s0").unwrap().servers.get_mut("r1").unwrap().proxy = true;
    all
}

/// A TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    flags: u8,
    number: u32,
    heard: u32,
    options: Vec<u8>,
    payload: Vec<u8>,
}

fn segment(flags: u8, number: u32, heard: u32, payload: &[u8]) -> Segment {
    Segment { flags, number, heard, options: Vec::new(), payload: payload.to_vec() }
}

fn l4(frame: &[u8]) -> usize {
    if frame[12] == 8 { 34 } else { 54 }
}

/// Between these ends.
fn frame(ends: ((std::net::IpAddr, u16), (std::net::IpAddr, u16)), s: &Segment) -> Vec<u8> {
    let payload = [&s.options[..], &s.payload].concat();
    let plain = Frame { payload, ..tcp("10.0.0.1:1", "10.0.0.1:1", s.flags) };
    let mut bytes = Frame { src: ends.0, dst: ends.1, ..plain }.bytes();
    let l4 = l4(&bytes);
    bytes[l4 + 4..l4 + 8].copy_from_slice(&s.number.to_be_bytes());
    bytes[l4 + 8..l4 + 12].copy_from_slice(&s.heard.to_be_bytes());
    bytes[l4 + 12] = (((20 + s.options.len()) / 4) << 4) as u8;
    bytes[l4 + 16..l4 + 18].fill(0);
    let addresses = if l4 == 34 { &bytes[26..34] } else { &bytes[22..54] };
    let length = (bytes.len() - l4) as u16;
    let sum = !fold(&[addresses, &[0, 6], &length.to_be_bytes(), &bytes[l4..]].concat());
    bytes[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Back, checksums and lengths verified.
fn read_segment(bytes: &[u8]) -> Segment {
    read(bytes);
    let at = l4(bytes);
    let says =
        u16::from_be_bytes(if at == 34 { [bytes[16], bytes[17]] } else { [bytes[18], bytes[19]] });
    assert_eq!(usize::from(says) + if at == 34 { 14 } else { 54 }, bytes.len(), "length");
    let word = |i: usize| u32::from_be_bytes(bytes[at + i..at + i + 4].try_into().unwrap());
    let end = at + usize::from(bytes[at + 12] >> 4) * 4;
    Segment {
        flags: bytes[at + 13],
        number: word(4),
        heard: word(8),
        options: bytes[at + 20..end].to_vec(),
        payload: bytes[end..].to_vec(),
    }
}

/// A client, its server, and the director between.
struct Talk<'a> {
    b: &'a Bench,
    client: (std::net::IpAddr, u16),
    vip: (std::net::IpAddr, u16),
    /// As the server sees the client, once it did.
    seen: Option<((std::net::IpAddr, u16), (std::net::IpAddr, u16))>,
}

impl Talk<'_> {
    fn run(&self, bytes: &[u8], at_xdp: bool) -> Vec<u8> {
        if at_xdp {
            let (verdict, sent) = self.b.xdp(bytes);
            if XDP_SENT.contains(&verdict) {
                return sent;
            }
            assert_eq!((verdict, &sent[..]), (2, bytes), "left to tc as it was");
        }
        let (verdict, sent) = self.b.tc(bytes);
        assert_eq!(verdict, REDIRECT);
        sent
    }

    /// What the server gets.
    fn says(&mut self, s: &Segment, at_xdp: bool) -> Segment {
        let sent = self.run(&frame((self.client, self.vip), s), at_xdp);
        let (src, dst, _) = read(&sent);
        assert_eq!(*self.seen.get_or_insert((src, dst)), (src, dst), "one flow");
        read_segment(&sent)
    }

    /// What the client gets.
    fn answers(&self, s: &Segment, at_xdp: bool) -> Segment {
        let (src, dst) = self.seen.unwrap();
        let sent = self.run(&frame((dst, src), s), at_xdp);
        let (from, to, _) = read(&sent);
        assert_eq!((from, to), (self.vip, self.client));
        read_segment(&sent)
    }
}

/// What the specification (section 2.2) says for TCP, written out.
fn header(client: (std::net::IpAddr, u16), vip: (std::net::IpAddr, u16)) -> Vec<u8> {
    let octets = |ip| match ip {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let family = if client.0.is_ipv4() { [0x21, 0x11, 0, 12] } else { [0x21, 0x21, 0, 36] };
    let mut all = b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A".to_vec();
    all.extend(family);
    all.extend(octets(client.0));
    all.extend(octets(vip.0));
    all.extend(client.1.to_be_bytes());
    all.extend(vip.1.to_be_bytes());
    all
}

/// Begun; numbers close to where they wrap.
const FIRST: u32 = u32::MAX - 3;
const SERVERS: u32 = 5_000;

fn begun<'a>(b: &'a Bench, port: u16, six: bool, at_xdp: bool) -> (Talk<'a>, Vec<u8>) {
    let (client, vip) = if six {
        (at(&format!("[2001:db8::1]:{port}")), at("[2001:db8::100]:80"))
    } else {
        (at(&format!("10.0.0.1:{port}")), at("10.0.0.100:80"))
    };
    let mut talk = Talk { b, client, vip, seen: None };
    let syn = segment(SYN, FIRST, 0, b"");
    assert_eq!(talk.says(&syn, at_xdp), syn, "the SYN as it is");
    let answer = segment(SYN | ACK, SERVERS, FIRST.wrapping_add(1), b"");
    assert_eq!(talk.answers(&answer, at_xdp), answer);
    (talk, header(client, vip))
}

fn plus(number: u32, by: usize) -> u32 {
    number.wrapping_add(by as u32)
}

#[test]
fn the_header_comes_first_and_nobody_misses_a_byte() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    let mut port = 4_000;
    for (vip, server) in
        [("10.0.0.100", "10.0.0.11:8080"), ("[2001:db8::100]", "[2001:db8::11]:8080")]
    {
        b.plane.apply(&told(vip, server)).unwrap();
        for at_xdp in [false, true] {
            port += 1;
            let (mut talk, header) = begun(&b, port, vip.starts_with('['), at_xdp);
            let (next, long) = (plus(FIRST, 1), header.len());
            let ack = segment(ACK, next, SERVERS + 1, b"");
            let with = Segment { payload: header.clone(), ..ack.clone() };
            assert_eq!(talk.says(&ack, at_xdp), with, "the handshake ends with the header");
            assert_eq!(talk.says(&ack, at_xdp), with, "nobody has acknowledged it");
            // A request right behind it.
            let get = segment(ACK | PSH, next, SERVERS + 1, b"GET / HTTP/1.0\r\n\r\n");
            let later = Segment { number: plus(next, long), ..get.clone() };
            assert_eq!(talk.says(&get, at_xdp), later);
            // What the server has: the header, then the request too.
            let has = segment(ACK, SERVERS + 1, plus(next, long), b"");
            assert_eq!(talk.answers(&has, at_xdp).heard, next);
            let said = get.payload.len();
            let has = segment(ACK | PSH, SERVERS + 1, plus(next, long + said), b"HTTP/1.0 200 OK");
            let answer = talk.answers(&has, at_xdp);
            assert_eq!(answer, Segment { heard: plus(next, said), ..has });
            // However much the client says.
            for far in [1 << 31, 3 << 30, u32::MAX - 1_000] {
                let heard = plus(next, long).wrapping_add(far);
                let has = segment(ACK, SERVERS + 16, heard, b"");
                let got = talk.answers(&has, at_xdp);
                assert_eq!(got.heard, next.wrapping_add(far), "{far} bytes on");
            }
            // From here on XDP does it alone: acknowledgements, data, a repetition, the end.
            for (s, number) in [
                (segment(ACK, plus(next, said), SERVERS + 16, b""), plus(next, said + long)),
                (get, plus(next, long)),
                (segment(FIN, plus(next, said), SERVERS + 16, b""), plus(next, said + long)),
                (segment(RST, plus(next, said), 0, b""), plus(next, said + long)),
            ] {
                assert_eq!(talk.says(&s, at_xdp), Segment { number, ..s.clone() });
                let (verdict, _) = b.xdp(&frame((talk.client, talk.vip), &s));
                assert!(XDP_SENT.contains(&verdict), "XDP said {verdict}");
            }
        }
    }
}

#[test]
fn what_is_lost_comes_again() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    b.plane.apply(&told("10.0.0.100", "10.0.0.11:80")).unwrap();
    for (turn, at_xdp) in [false, true].into_iter().enumerate() {
        let port = |n: u16| 4_000 + 100 * turn as u16 + n;
        let next = plus(FIRST, 1);
        // Data with the last word of the handshake: there was no packet with room before it.
        for (n, len) in [(1, 1), (2, 511), (3, 512), (4, 1_023), (5, 1_400)] {
            let (mut talk, header) = begun(&b, port(n), false, at_xdp);
            let data = segment(FIN, next, SERVERS + 1, &vec![7; len]);
            let instead = segment(ACK, next, SERVERS + 1, &header);
            assert_eq!(talk.says(&data, at_xdp), instead, "{len} bytes give way, and the FIN");
            let has = segment(ACK, SERVERS + 1, plus(next, 28), b"");
            assert_eq!(talk.answers(&has, at_xdp).heard, next, "nothing of the client's");
            let later = Segment { number: plus(next, 28), ..data.clone() };
            assert_eq!(talk.says(&data, at_xdp), later);
        }
        // The header is lost: the request that the client repeats gives way to it.
        let (mut talk, header) = begun(&b, port(6), false, at_xdp);
        let (ack, get) =
            (segment(ACK, next, SERVERS + 1, b""), segment(ACK | PSH, next, SERVERS + 1, b"GET"));
        talk.says(&ack, at_xdp);
        assert_eq!(talk.says(&get, at_xdp).number, plus(next, 28));
        assert_eq!(talk.answers(&segment(ACK, SERVERS + 1, next, b""), at_xdp).heard, next);
        let again = talk.says(&get, at_xdp);
        assert_eq!((again.number, again.payload), (next, header));
        // More of the client's words only wait.
        let more = segment(ACK, plus(next, 3), SERVERS + 1, b"more");
        assert_eq!(talk.says(&more, at_xdp).number, plus(next, 31));
        // A probe of a silent client asks for nothing.
        let probe = segment(ACK, FIRST, SERVERS + 1, b"");
        assert_eq!(talk.says(&probe, at_xdp), probe);
        // A client that hangs up before the server has said that it knows: exact if it does not.
        let reset = segment(RST, next, 0, b"");
        assert_eq!(talk.says(&reset, at_xdp), reset);
        // A SYN that brings data comes without it; one of another connection begins one.
        let (client, vip) = (at(&format!("10.0.0.1:{}", port(7))), at("10.0.0.100:80"));
        let mut talk = Talk { b: &b, client, vip, seen: None };
        let syn = segment(SYN, 100, 0, b"early");
        assert_eq!(talk.says(&syn, at_xdp), segment(SYN, 100, 0, b""));
        talk.seen = None;
        assert_eq!(talk.says(&segment(SYN, 900, 0, b""), at_xdp).number, 900);
        let with = talk.says(&segment(ACK, 901, 1, b""), at_xdp);
        assert_eq!((with.number, with.payload.len()), (901, 28));
    }
}

#[test]
fn gaps_that_the_server_tells_of_are_the_clients() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    b.plane.apply(&told("10.0.0.100", "10.0.0.11:80")).unwrap();
    let timestamp = [8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut port = 5_000;
    for at_xdp in [false, true] {
        for before in [&[1, 1][..], &[1], &[], &[&[1, 1][..], &timestamp, &[1, 1]].concat()] {
            port += 1;
            let (mut talk, _) = begun(&b, port, false, at_xdp);
            let next = plus(FIRST, 1);
            talk.says(&segment(ACK, next, SERVERS + 1, b""), at_xdp);
            let has = |by: usize| {
                let mut options = before.to_vec();
                let edges = [100, 200, 300, 400].map(|edge| plus(next, edge + by).to_be_bytes());
                options.extend([5, 18]);
                options.extend(edges.concat());
                options.resize(options.len().next_multiple_of(4), 0);
                options
            };
            for heard in [plus(next, 0), plus(next, 28), plus(next, 60)] {
                let mut s = segment(ACK, SERVERS + 1, heard, b"");
                s.options = has(28);
                let got = talk.answers(&s, at_xdp);
                assert_eq!(got.options, has(0), "behind {before:?}");
                let less = if heard == next { 0 } else { 28 };
                assert_eq!(got.heard, heard.wrapping_sub(less));
            }
            // A timestamp alone is nothing to be changed.
            let mut s = segment(ACK, SERVERS + 1, plus(next, 60), b"");
            s.options = [&[1, 1][..], &timestamp].concat();
            assert_eq!(talk.answers(&s, at_xdp).options, s.options);
        }
    }
}

#[test]
fn connections_keep_what_they_began_with() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    let all = told("10.0.0.100", "10.0.0.11:80");
    let mut silent = all.clone();
    silent.services.get_mut("s0").unwrap().servers.get_mut("r1").unwrap().proxy = false;
    // What is left of a conversation while nobody looks.
    let left = |talk: Talk<'_>| (talk.client, talk.vip, talk.seen);
    b.plane.apply(&all).unwrap();
    let (old, header) = begun(&b, 4_001, false, false);
    let old = left(old);
    b.plane.apply(&silent).unwrap();
    let new = left(begun(&b, 4_002, false, false).0);
    b.plane.apply(&all).unwrap();
    let ack = segment(ACK, plus(FIRST, 1), SERVERS + 1, b"");
    let says = |(client, vip, seen)| Talk { b: &b, client, vip, seen }.says(&ack, false);
    assert_eq!(says(old).payload, header);
    assert_eq!(says(new), ack, "its server expects none");
}

/// The server has forgotten the connection, and its client begins another one from the same port.
#[test]
fn an_answer_to_another_syn_ends_the_flow() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    b.plane.apply(&told("10.0.0.100", "10.0.0.11:80")).unwrap();
    for (port, at_xdp) in [(4_001, false), (4_002, true)] {
        let (mut talk, header) = begun(&b, port, false, at_xdp);
        talk.says(&segment(ACK, plus(FIRST, 1), SERVERS + 1, b""), at_xdp);
        talk.answers(&segment(ACK, SERVERS + 1, plus(FIRST, 29), b""), at_xdp);
        let syn = segment(SYN, 70_000, 0, b"");
        assert_eq!(talk.says(&syn, at_xdp), syn);
        let (src, dst) = talk.seen.take().unwrap();
        let answer = frame((dst, src), &segment(SYN | ACK, 9_000, 70_001, b""));
        assert_eq!(b.tc(&answer).0, SHOT, "nobody's");
        assert_eq!(talk.says(&syn, at_xdp), syn);
        let answer = segment(SYN | ACK, 9_500, 70_001, b"");
        assert_eq!(talk.answers(&answer, at_xdp), answer);
        assert_eq!(talk.says(&segment(ACK, 70_001, 9_501, b""), at_xdp).payload, header);
    }
}

#[test]
fn nobody_guesses_in_the_middle() {
    let Some(mut b) = both_hooks() else { return };
    neighbours();
    b.plane.apply(&told("10.0.0.100", "10.0.0.11:80")).unwrap();
    let ends = (at("10.0.0.1:4000"), at("10.0.0.100:80"));
    let middle = frame(ends, &segment(ACK, 9_000, 1, b"more"));
    assert_eq!((b.tc(&middle).0, b.xdp(&middle).0), (SHOT, 1));
    assert_eq!(b.plane.counters().unwrap().drops["middle"], 2);
}

/// A connection goes on through another director, whatever the first one had seen of it.
#[test]
fn another_director_goes_on_with_the_numbers() {
    let Some(mut b) = both_hooks() else { return };
    let all = told("10.0.0.100", "10.0.0.11:80");
    b.plane.apply(&all).unwrap();
    let (next, ack) = (plus(FIRST, 1), segment(ACK, plus(FIRST, 1), SERVERS + 1, b""));
    let get = segment(ACK | PSH, next, SERVERS + 1, b"GET");
    let mut talks = Vec::new();
    for port in 4_000..4_004 {
        let (mut talk, header) = begun(&b, port, false, false);
        if port > 4_000 {
            talk.says(&ack, false);
        }
        if port > 4_001 {
            talk.says(&get, false);
        }
        if port > 4_002 {
            talk.answers(&segment(ACK, SERVERS + 1, plus(next, header.len()), b""), false);
        }
        talks.push((talk.client, talk.vip, talk.seen, header));
    }
    let mut batches = Vec::new();
    let (mut out, _) = b.plane.exchange().unwrap();
    out.changed(&mut |batch| batches.push(batch)).unwrap();
    let there = std::thread::spawn(move || {
        let Some(mut b) = both_hooks() else { return };
        b.plane.apply(&all).unwrap();
        let (_, mut learner) = b.plane.exchange().unwrap();
        // First as they were half a minute ago, all bare, and one as another connection.
        for batch in &batches {
            let mut old = batch.clone();
            for (n, flow) in old.flows.iter_mut().enumerate() {
                let told = flow.told.as_mut().unwrap();
                let first = if n == 0 { told.first ^ 1 } else { told.first };
                *told = Told { first, sent: false, data: false, shown: false };
                flow.idle_ms += if n == 0 { 30_000 } else { 0 };
            }
            assert_eq!(learner.learn(&old).unwrap(), 0);
            assert_eq!(learner.learn(batch).unwrap(), 0);
        }
        for (n, (client, vip, seen, header)) in talks.into_iter().enumerate() {
            let mut talk = Talk { b: &b, client, vip, seen };
            let got = talk.says(&get, false);
            // Nobody had sent the header; it is on its way; it may be lost; it is there.
            let carries = [true, false, true, false][n];
            let wanted = if carries { (next, header) } else { (plus(next, 28), b"GET".to_vec()) };
            assert_eq!((got.number, got.payload), wanted, "the connection of port 400{n}");
            let has = segment(ACK, SERVERS + 1, plus(next, 28 + 3), b"");
            assert_eq!(talk.answers(&has, false).heard, plus(next, 3));
            let more = segment(ACK, plus(next, 3), SERVERS + 1, b"more");
            assert_eq!(talk.says(&more, true).number, plus(next, 31));
        }
    });
    there.join().unwrap();
}
