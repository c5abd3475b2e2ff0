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
    Frame { src, dst, proto: 6, flags, ttl: 64, mac, payload, udp_checksum: true, options: 0 }
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

fn fold(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
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
        let sum_at = if self.proto == 6 {
            l4.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
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
    let no_sum = proto == 17 && l4[6..8] == [0, 0];
    assert!(no_sum || fold(&pseudo(src, dst, proto, l4)) == 0xffff, "transport checksum");
    let port = |i: usize| u16::from_be_bytes([l4[i], l4[i + 1]]);
    ((src, port(0)), (dst, port(2)), ttl)
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
