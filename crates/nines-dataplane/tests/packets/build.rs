//! A packet builder: complete frames with right checksums, and a checker for them.

use std::net::IpAddr;

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

#[derive(Clone)]
pub struct Frame {
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
    pub proto: u8,
    pub flags: u8,
    pub ttl: u8,
    pub mac: [u8; 6],
    pub payload: Vec<u8>,
    pub udp_checksum: bool,
    /// Of TCP: the largest segment that the sender takes, as the first option; 0: none.
    pub segment: u16,
    /// IPv4 options, or IPv6 destination options of 8 bytes each.
    pub options: usize,
}

pub fn at(text: &str) -> (IpAddr, u16) {
    let addr: std::net::SocketAddr = text.parse().unwrap();
    (addr.ip(), addr.port())
}

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
pub const FIN: u8 = 17;
pub const RST: u8 = 4;

pub fn tcp(src: &str, dst: &str, flags: u8) -> Frame {
    let payload = b"hello".to_vec();
    let (src, dst, mac) = (at(src), at(dst), CLIENT_MAC);
    let (segment, options) = (0, 0);
    Frame { src, dst, proto: 6, flags, ttl: 64, mac, payload, udp_checksum: true, segment, options }
}

pub fn udp(src: &str, dst: &str) -> Frame {
    Frame { proto: 17, ..tcp(src, dst, 0) }
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub fn fold(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Of an SCTP packet, whatever stands in its place (RFC 9260 appendix A); bit by bit.
pub fn crc32c(packet: &[u8]) -> [u8; 4] {
    let mut crc = !0u32;
    for (i, byte) in packet.iter().enumerate() {
        crc ^= u32::from(if (8..12).contains(&i) { 0 } else { *byte });
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).to_le_bytes()
}

fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, l4: &[u8]) -> Vec<u8> {
    let mut all = octets(src);
    all.extend(octets(dst));
    all.extend([0, proto]);
    all.extend((l4.len() as u16).to_be_bytes());
    all.extend(l4);
    all
}

impl Frame {
    pub fn bytes(&self) -> Vec<u8> {
        let mut l4 = Vec::new();
        l4.extend(self.src.1.to_be_bytes());
        l4.extend(self.dst.1.to_be_bytes());
        if self.proto == 132 {
            // SCTP (RFC 9260): tag, CRC32c, a chunk of this type.
            l4.extend([0, 0, 0, 7, 0, 0, 0, 0, self.flags, 0, 0, 4]);
            l4.extend(&self.payload);
            let sum = crc32c(&l4);
            l4[8..12].copy_from_slice(&sum);
            return self.around(l4);
        }
        let sum_at = if self.proto == 6 {
            let words = if self.segment == 0 { 5 } else { 6 };
            l4.extend([0, 0, 0, 1, 0, 0, 0, 0, words << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
            if self.segment != 0 {
                l4.extend([2, 4]);
                l4.extend(self.segment.to_be_bytes());
            }
            16
        } else {
            l4.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            l4.extend([0, 0]);
            6
        };
        l4.extend(&self.payload);
        if self.proto == 6 || self.udp_checksum {
            let sum = !fold(&pseudo(self.src.0, self.dst.0, self.proto, &l4));
            l4[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        self.around(l4)
    }

    fn around(&self, l4: Vec<u8>) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 9];
        frame.extend(self.mac);
        if self.src.0.is_ipv4() {
            let header = 20 + 4 * self.options;
            frame.extend([8, 0]);
            let mut ip = vec![0x40 | (header / 4) as u8, 0];
            ip.extend(((header + l4.len()) as u16).to_be_bytes());
            ip.extend([0, 1, 0x40, 0, self.ttl, self.proto, 0, 0]);
            ip.extend(octets(self.src.0));
            ip.extend(octets(self.dst.0));
            ip.extend(std::iter::repeat_n(1, 4 * self.options));
            let sum = !fold(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(ip);
        } else {
            let length = 8 * self.options + l4.len();
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((length as u16).to_be_bytes());
            frame.extend([if self.options > 0 { 60 } else { self.proto }, self.ttl]);
            frame.extend(octets(self.src.0));
            frame.extend(octets(self.dst.0));
            for i in 0..self.options {
                let last = i + 1 == self.options;
                frame.extend([if last { self.proto } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
            }
        }
        frame.extend(l4);
        frame
    }
}

/// Source, destination, TTL of a plain frame, after both its checksums have been verified.
pub fn read(frame: &[u8]) -> ((IpAddr, u16), (IpAddr, u16), u8) {
    let v4 = frame[12] == 8;
    let (src, dst, ttl, proto, l4): (IpAddr, IpAddr, u8, u8, &[u8]) = if v4 {
        let header = usize::from(frame[14] & 15) * 4;
        assert_eq!(fold(&frame[14..14 + header]), 0xffff, "IPv4 header checksum");
        let addr = |i: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[i..i + 4]).unwrap());
        (addr(26), addr(30), frame[22], frame[23], &frame[14 + header..])
    } else {
        let addr = |i: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[i..i + 16]).unwrap());
        (addr(22), addr(38), frame[21], frame[20], &frame[54..])
    };
    if proto == 132 {
        assert_eq!(l4[8..12], crc32c(l4), "CRC32c");
    }
    let no_sum = proto == 132 || proto == 17 && l4[6..8] == [0, 0];
    assert!(no_sum || fold(&pseudo(src, dst, proto, l4)) == 0xffff, "transport checksum");
    let port = |i: usize| u16::from_be_bytes([l4[i], l4[i + 1]]);
    ((src, port(0)), (dst, port(2)), ttl)
}

pub fn sctp(src: &str, dst: &str, chunk: u8) -> Frame {
    Frame { proto: 132, ..tcp(src, dst, chunk) }
}

/// The outer header of a tunnel, its checksums verified.
#[derive(Debug, PartialEq, Eq)]
pub struct Outer {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    /// Of UDP.
    pub dport: u16,
    /// The checksum covers the packet.
    pub summed: bool,
}

/// Takes the outer header off a frame: what it said, and the frame without it.
pub fn unwrap(frame: &[u8]) -> (Outer, Vec<u8>) {
    let v4 = frame[12] == 8;
    let (src, dst, proto, length, l4): (IpAddr, IpAddr, u8, usize, &[u8]) = if v4 {
        assert_eq!(fold(&frame[14..34]), 0xffff, "outer IPv4 header checksum");
        let addr = |i: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[i..i + 4]).unwrap());
        let length = usize::from(u16::from_be_bytes([frame[16], frame[17]])) - 20;
        (addr(26), addr(30), frame[23], length, &frame[34..])
    } else {
        let addr = |i: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[i..i + 16]).unwrap());
        let length = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
        (addr(22), addr(38), frame[20], length, &frame[54..])
    };
    assert_eq!(length, l4.len(), "outer length");
    let word = |i: usize| u16::from_be_bytes([l4[i], l4[i + 1]]);
    let (inner, ether, dport, summed) = match proto {
        4 => (0, 0x0800, 0, false),
        41 => (0, 0x86dd, 0, false),
        17 => {
            assert_eq!(usize::from(word(4)), l4.len(), "UDP length");
            let summed = word(6) != 0;
            assert!(!summed || fold(&pseudo(src, dst, 17, l4)) == 0xffff, "outer UDP checksum");
            assert_eq!((l4[8], word(10)), (0, 0), "GUE variant 0, no flags");
            (12, if l4[9] == 4 { 0x0800 } else { 0x86dd }, word(2), summed)
        }
        47 => {
            let summed = l4[0] & 0x80 != 0;
            assert!(!summed || fold(l4) == 0xffff, "GRE checksum");
            (if summed { 8 } else { 4 }, word(2), 0, summed)
        }
        other => panic!("no tunnel of protocol {other}"),
    };
    let mut frame = frame[..12].to_vec();
    frame.extend(u16::to_be_bytes(ether));
    frame.extend(&l4[inner..]);
    (Outer { src, dst, proto, dport, summed }, frame)
}

/// An ICMP error of this type and code from `sender` about a frame, which it quotes.
pub fn error(sender: &str, kind: u8, code: u8, about: &[u8]) -> Vec<u8> {
    let sender: IpAddr = sender.parse().unwrap();
    let v4 = about[12] == 8;
    let mut icmp = vec![kind, code, 0, 0, 0, 0, 5, 0x78];
    icmp.extend(&about[14..(14 + 60).min(about.len())]);
    let to: IpAddr = if v4 {
        <[u8; 4]>::try_from(&about[26..30]).unwrap().into()
    } else {
        <[u8; 16]>::try_from(&about[22..38]).unwrap().into()
    };
    let sum = !if v4 { fold(&icmp) } else { fold(&pseudo(sender, to, 58, &icmp)) };
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let proto = if v4 { 1 } else { 58 };
    let outer = Frame { src: (sender, 0), dst: (to, 0), proto, ..tcp("[::1]:0", "[::1]:0", 0) };
    outer.around(icmp)
}

/// What an ICMP error says, checksums verified: sender, receiver, type and code, the last 16 bits
/// of its header, and source and destination of the packet it is about.
pub type Said = (IpAddr, IpAddr, [u8; 2], u16, (IpAddr, u16), (IpAddr, u16));

pub fn read_error(frame: &[u8]) -> Said {
    let v4 = frame[12] == 8;
    let (src, dst, icmp): (IpAddr, IpAddr, &[u8]) = if v4 {
        assert_eq!(fold(&frame[14..34]), 0xffff, "IPv4 header checksum");
        let addr = |i: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[i..i + 4]).unwrap());
        assert_eq!(fold(&frame[34..]), 0xffff, "ICMP checksum");
        (addr(26), addr(30), &frame[34..])
    } else {
        let addr = |i: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[i..i + 16]).unwrap());
        assert_eq!(fold(&pseudo(addr(22), addr(38), 58, &frame[54..])), 0xffff, "ICMPv6 checksum");
        (addr(22), addr(38), &frame[54..])
    };
    let word = |i: usize| u16::from_be_bytes([icmp[i], icmp[i + 1]]);
    let (from, to, l4): (IpAddr, IpAddr, usize) = if v4 {
        assert_eq!(fold(&icmp[8..28]), 0xffff, "checksum of the header inside");
        let addr = |i: usize| IpAddr::from(<[u8; 4]>::try_from(&icmp[i..i + 4]).unwrap());
        (addr(20), addr(24), 28)
    } else {
        let addr = |i: usize| IpAddr::from(<[u8; 16]>::try_from(&icmp[i..i + 16]).unwrap());
        (addr(16), addr(32), 48)
    };
    (src, dst, [icmp[0], icmp[1]], word(6), (from, word(l4)), (to, word(l4 + 2)))
}

/// ARP request of `sender` for `target`.
pub fn arp(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(CLIENT_MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(CLIENT_MAC);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

/// Neighbour solicitation (135) or advertisement (136) for `target`.
pub fn neighbour(kind: u8, src: &str, target: &str) -> Vec<u8> {
    let (src, target): (IpAddr, IpAddr) = (src.parse().unwrap(), target.parse().unwrap());
    let mut frame = vec![0x33, 0x33, 0xff, 0, 0, 1];
    frame.extend(CLIENT_MAC);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]);
    frame.extend(octets(src));
    frame.extend(octets("ff02::1:ff00:1".parse().unwrap()));
    frame.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend(octets(target));
    frame
}

/// SplitMix64 (public domain): the same sequence at each run.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % sides
    }
}
