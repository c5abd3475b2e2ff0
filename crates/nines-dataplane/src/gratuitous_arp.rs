//! Tells the neighbours where an address lives now: gratuitous ARP (RFC 5227 section 3) and
//! unsolicited neighbour advertisement (RFC 4861 section 7.2.6).
//!
//! Decides: the bytes. How often and when is the caller's. A frame sent past the guard's deadline
//! is dropped by the egress program, so a late announcement cannot steal the address back.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use crate::{Announcer, Error, Result, privileged};

/// A raw Ethernet socket on one interface.
pub struct Link {
    fd: OwnedFd,
}

impl Link {
    /// Opens it for frames of every protocol, or for sending only.
    pub fn open(index: u32, receive: bool) -> Result<Self> {
        let failed = |e: &std::io::Error| {
            privileged(format!("cannot open a packet socket on interface {index}"), e)
        };
        let protocol = if receive { (libc::ETH_P_ALL as u16).to_be() } else { 0 };
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: socket(2) takes no pointers; the result is checked before it is owned.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(protocol)) };
        if raw < 0 {
            return Err(failed(&std::io::Error::last_os_error()));
        }
        // SAFETY: `raw` is a fresh, open descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        addr.sll_family = libc::AF_PACKET as u16;
        addr.sll_protocol = protocol;
        addr.sll_ifindex = index as i32;
        let size = std::mem::size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: `addr` lives through the call and `size` is its size.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), size) };
        if bound < 0 {
            return Err(failed(&std::io::Error::last_os_error()));
        }
        Ok(Self { fd })
    }

    /// Hears only frames that this classic BPF program lets through: on a busy link the others
    /// would push the wanted ones out.
    pub fn filter(&self, code: &[libc::sock_filter]) -> Result<()> {
        let len = u16::try_from(code.len()).unwrap_or(u16::MAX);
        let program = libc::sock_fprog { len, filter: code.as_ptr().cast_mut() };
        let size = size_of::<libc::sock_fprog>() as u32;
        // SAFETY: the program lives through the call, which copies it and writes nothing.
        let set = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size,
            )
        };
        if set < 0 {
            return Err(Error::new("cannot filter frames", std::io::Error::last_os_error()));
        }
        Ok(())
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: pointer and length are of one live slice.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            return Err(Error::new("cannot send a frame", std::io::Error::last_os_error()));
        }
        Ok(())
    }

    /// The next frame that waits and whether this host sent it itself; `None`: nothing waits.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<(usize, bool)> {
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut size = std::mem::size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: buffer, address and size live through the call and their lengths are true.
        let got = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut from).cast(),
                &raw mut size,
            )
        };
        (got >= 0).then_some((got as usize, from.sll_pkttype == libc::PACKET_OUTGOING))
    }
}

impl Announcer for Link {
    fn announce(&self, addr: IpAddr, mac: [u8; 6]) -> Result<()> {
        self.send(&frame(addr, mac))
    }
}

/// The frame that announces `addr` at `mac`.
pub fn frame(addr: IpAddr, mac: [u8; 6]) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => arp(a, mac, a, [0xff; 6]),
        IpAddr::V6(a) => advertisement(a, mac),
    }
}

/// "Who has `target`?", asked by `mac`. The sender's address is 0.0.0.0, so no cache learns it
/// (RFC 5227 section 2.1.1).
pub fn who_has(target: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    arp(Ipv4Addr::UNSPECIFIED, mac, target, [0xff; 6])
}

/// Whether `bytes` are an answer for `addr`, ARP or neighbour advertisement, and from which MAC.
pub fn answers_for(bytes: &[u8], addr: IpAddr) -> Option<[u8; 6]> {
    match addr {
        IpAddr::V4(addr) => {
            let is_reply = bytes.get(12..22)? == [8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
            (is_reply && bytes.get(28..32)? == addr.octets())
                .then(|| bytes[22..28].try_into().ok())?
        }
        IpAddr::V6(addr) => {
            let is_advertisement = bytes.get(12..14)? == [0x86, 0xdd]
                && *bytes.get(20)? == ICMPV6
                && bytes.get(54..56)? == [136, 0]
                && bytes.get(62..78)? == addr.octets();
            if !is_advertisement {
                return None;
            }
            // The option of a solicited answer names the MAC; without it the frame does.
            let mac = match bytes.get(78..80) {
                Some([2, 1]) => bytes.get(80..86)?,
                _ => bytes.get(6..12)?,
            };
            mac.try_into().ok()
        }
    }
}

const ICMPV6: u8 = 58;

/// "Who has `target`?" over IPv6 (RFC 4861 section 4.3), asked by `own` at `mac`.
pub fn solicitation(target: Ipv6Addr, own: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let low = u16::from_be_bytes([b, c]);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low);
    let mut icmp = vec![135, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(target.octets());
    icmp.extend([1, 1]);
    icmp.extend(mac);
    icmp6([0x33, 0x33, 0xff, a, b, c], mac, (own, group), icmp)
}

/// The frame of an ICMPv6 message, with its checksum and hop limit 255.
fn icmp6(
    to: [u8; 6],
    mac: [u8; 6],
    (src, dst): (Ipv6Addr, Ipv6Addr),
    mut icmp: Vec<u8>,
) -> Vec<u8> {
    let sum = checksum6(src, dst, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = to.to_vec();
    frame.extend(mac);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((icmp.len() as u16).to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    frame.extend(icmp);
    frame
}

fn arp(sender: Ipv4Addr, mac: [u8; 6], target: Ipv4Addr, to: [u8; 6]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(to);
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

fn advertisement(addr: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    // Override flag; target; option 2: target link-layer address.
    let mut icmp = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    icmp.extend(addr.octets());
    icmp.extend([2, 1]);
    icmp.extend(mac);
    icmp6([0x33, 0x33, 0, 0, 0, 1], mac, (addr, all_nodes), icmp)
}

/// ICMPv6 checksum (RFC 4443 section 2.3).
fn checksum6(src: Ipv6Addr, dst: Ipv6Addr, icmp: &[u8]) -> u16 {
    let mut pseudo = Vec::with_capacity(40 + icmp.len());
    pseudo.extend(src.octets());
    pseudo.extend(dst.octets());
    pseudo.extend((icmp.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, 58]);
    pseudo.extend(icmp);
    let mut sum: u32 = 0;
    for pair in pseudo.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gratuitous_arp_asks_for_its_own_address() {
        let frame = frame("10.0.0.100".parse().unwrap(), [2, 0, 0, 0, 0, 7]);
        assert_eq!(&frame[..6], [0xff; 6]);
        assert_eq!(&frame[28..32], [10, 0, 0, 100]);
        assert_eq!(&frame[38..42], [10, 0, 0, 100]);
    }

    #[test]
    fn advertisement_checksum_verifies() {
        let addr: Ipv6Addr = "2001:db8::64".parse().unwrap();
        let frame = frame(addr.into(), [2, 0, 0, 0, 0, 7]);
        let all_nodes = "ff02::1".parse().unwrap();
        // The sum over a message with its checksum in place is all ones, so its complement is 0.
        assert_eq!(checksum6(addr, all_nodes, &frame[54..]), 0);
    }

    #[test]
    fn only_answers_for_the_address_count() {
        let addr = Ipv4Addr::new(10, 0, 0, 100);
        let mut reply = arp(addr, [2, 0, 0, 0, 0, 7], Ipv4Addr::new(10, 0, 0, 1), [9; 6]);
        assert_eq!(answers_for(&reply, addr.into()), None, "a request is no answer");
        reply[21] = 2;
        assert_eq!(answers_for(&reply, addr.into()), Some([2, 0, 0, 0, 0, 7]));
        assert_eq!(answers_for(&reply, Ipv4Addr::new(10, 0, 0, 101).into()), None);
        assert_eq!(answers_for(&reply[..20], addr.into()), None);
    }

    #[test]
    fn neighbours_are_asked_over_ipv6_and_only_their_answers_count() {
        let (vip, own): (Ipv6Addr, Ipv6Addr) =
            ("fd00::100".parse().unwrap(), "fd00::2".parse().unwrap());
        let question = solicitation(vip, own, [2, 0, 0, 0, 0, 1]);
        assert_eq!(question[..6], [0x33, 0x33, 0xff, 0, 1, 0]);
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x100);
        assert_eq!(question[38..54], group.octets());
        assert_eq!(checksum6(own, group, &question[54..]), 0);
        assert_eq!(answers_for(&question, vip.into()), None, "a question is no answer");
        let answer = frame(vip.into(), [2, 0, 0, 0, 0, 7]);
        assert_eq!(answers_for(&answer, vip.into()), Some([2, 0, 0, 0, 0, 7]));
        assert_eq!(answers_for(&answer, own.into()), None);
        for len in 0..answer.len() {
            let _ = answers_for(&answer[..len], vip.into());
        }
    }
}
