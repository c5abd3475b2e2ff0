//! The far end of a wire: frames go in there as a neighbour sends them and are read as he gets
//! them, each with its VLAN's tag.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use super::live::index;

/// A raw socket on one interface.
pub struct Far(OwnedFd);

/// What came: its tag, and the frame without it.
pub type Came = (Option<u16>, Vec<u8>);

/// `libc` has the struct and not this (uapi/linux/if_packet.h).
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// Far ends stand for other machines, though they are in the director's namespace: as ports of a
/// bridge that is down they get no programs, and nothing answers there.
pub fn outside(ends: &[&str]) {
    if !std::path::Path::new("/proc/sys/net/ipv4/conf/outside").exists() {
        super::ip("link add outside type bridge");
    }
    for end in ends {
        if std::path::Path::new("/proc/sys/net/ipv4/conf").join(end).exists() {
            super::ip(&format!("link set {end} master outside"));
        }
    }
}

impl Far {
    pub fn at(interface: &str) -> Self {
        // What the host says of itself there would be counted too.
        let quiet = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
        std::fs::write(quiet, "1").unwrap();
        let all = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: socket(2) takes no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: a fresh, open descriptor that nothing else owns.
        let far = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        far.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 4 << 20);
        far.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1);
        far.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut addr: libc::sockaddr_ll = unsafe { mem::zeroed() };
        addr.sll_family = libc::AF_PACKET as u16;
        addr.sll_protocol = all;
        addr.sll_ifindex = index(interface) as i32;
        let size = size_of_val(&addr) as u32;
        // SAFETY: `addr` lives through the call and `size` is its size.
        let rc = unsafe { libc::bind(far.0.as_raw_fd(), (&raw const addr).cast(), size) };
        assert_eq!(rc, 0, "{}", io::Error::last_os_error());
        far
    }

    fn set(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
        let size = size_of_val(&value) as u32;
        // SAFETY: a live value of the size that is told.
        let rc = unsafe {
            libc::setsockopt(self.0.as_raw_fd(), level, name, (&raw const value).cast(), size)
        };
        assert_eq!(rc, 0, "{}", io::Error::last_os_error());
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: a live buffer of the length that is told.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        let said = io::Error::last_os_error();
        // So a sender hears of a program that drops what leaves.
        let dropped = said.raw_os_error() == Some(libc::ENOBUFS);
        assert!(sent == frame.len() as isize || sent < 0 && dropped, "{said}");
    }

    fn take(&self) -> Option<Came> {
        let mut frame = vec![0u8; 2_048];
        let mut beside = [0u64; 16];
        let mut piece = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
        // SAFETY: all-zero bytes are a valid msghdr.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = beside.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&beside) as _;
        // SAFETY: the message points to live buffers of the lengths that it tells.
        let came = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        if came < 0 {
            return None;
        }
        frame.truncate(came as usize);
        // SAFETY: the kernel has filled the message in.
        let head = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() }.expect("auxdata");
        // SAFETY: the only one asked for is of this type.
        let told =
            unsafe { libc::CMSG_DATA(head).cast::<libc::tpacket_auxdata>().read_unaligned() };
        let tagged = told.tp_status & TP_STATUS_VLAN_VALID != 0;
        Some((tagged.then_some(told.tp_vlan_tci), frame))
    }
}

/// What comes to these ends for one of the `macs`: as much as is `enough`, and whatever came before
/// the director has answered by ARP. Whoever sent frames asks it last ([`super::build::arp`]).
pub fn received(ends: &[Far], macs: &[[u8; 6]], enough: usize) -> Vec<Came> {
    let (mut all, mut answered) = (Vec::new(), false);
    // A VM's clock may be far ahead of it.
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until && !(answered && all.len() >= enough) {
        match ends.iter().find_map(Far::take) {
            Some((_, frame)) if frame[12..14] == [8, 6] && frame[20..22] == ARP_REPLY => {
                answered = true;
            }
            Some(came) if macs.iter().any(|mac| came.1.starts_with(mac)) => all.push(came),
            Some(_) => {}
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    assert!(answered, "the director answers");
    all
}

const ARP_REPLY: [u8; 2] = [0, 2];

/// With a tag in the frame.
pub fn tagged(tag: Option<u16>, frame: &[u8]) -> Vec<u8> {
    let Some(tag) = tag else { return frame.to_vec() };
    [&frame[..12], &[0x81, 0], &tag.to_be_bytes(), &frame[12..]].concat()
}
