//! Sockets on addresses that may come later: an agent starts before its network card has its
//! address, and goes on when an address goes and comes back.
//!
//! Decides: `IP_FREEBIND` for all of them, and how many datagrams may wait. What such a socket
//! receives and sends begins with the address.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// Connections that wait to be accepted.
const BACKLOG: libc::c_int = 1_024;

/// Bytes of datagrams that may wait to be read: some thousand small ones, of a flood's 20 ms.
const UNREAD: libc::c_int = 4 << 20;

/// For datagrams; not blocking.
pub fn udp(at: SocketAddr) -> io::Result<UdpSocket> {
    let fd = bound(at, libc::SOCK_DGRAM)?;
    // Beyond the kernel's usual limit takes CAP_NET_ADMIN. A smaller buffer works, too.
    if set_to(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, UNREAD).is_err() {
        let _ = set_to(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, UNREAD);
    }
    Ok(fd.into())
}

/// For connections; not blocking.
pub fn tcp(at: SocketAddr) -> io::Result<TcpListener> {
    let fd = bound(at, libc::SOCK_STREAM)?;
    // SAFETY: a live socket.
    done(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
    Ok(fd.into())
}

fn done(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bound(at: SocketAddr, kind: libc::c_int) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: socket(2) takes no pointers; the result is checked before it is owned.
    let raw = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    done(raw)?;
    // SAFETY: `raw` is a fresh, open descriptor that nothing else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    if kind == libc::SOCK_STREAM {
        set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    }
    // Linux takes the option of IPv4 for both families (IPV6_FREEBIND is the same bit).
    set(&fd, libc::IPPROTO_IP, libc::IP_FREEBIND)?;
    match at {
        SocketAddr::V4(at) => {
            // SAFETY: all-zero bytes are a valid sockaddr_in.
            let mut name: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            name.sin_family = libc::AF_INET as libc::sa_family_t;
            name.sin_port = at.port().to_be();
            name.sin_addr.s_addr = u32::from_ne_bytes(at.ip().octets());
            let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            // SAFETY: `name` lives through the call and `size` is its size.
            done(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), size) })?;
        }
        SocketAddr::V6(at) => {
            // SAFETY: all-zero bytes are a valid sockaddr_in6.
            let mut name: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_port = at.port().to_be();
            name.sin6_addr.s6_addr = at.ip().octets();
            name.sin6_scope_id = at.scope_id();
            let size = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            // SAFETY: `name` lives through the call and `size` is its size.
            done(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), size) })?;
        }
    }
    Ok(fd)
}

fn set(fd: &OwnedFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    set_to(fd, level, option, 1)
}

fn set_to(
    fd: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    let at = (&raw const value).cast();
    // SAFETY: the value lives through the call, and `size` is its size.
    done(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, at, size) })
}

/// Groups of the process at the other end of a unix socket, as they were when it connected. Its own
/// group is not among them.
pub fn groups_of_peer(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // The kernel's own limit of groups of a process.
    let mut groups = vec![0u32; 65_536];
    let mut size = (groups.len() * size_of::<u32>()) as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERGROUPS);
    let at = groups.as_mut_ptr().cast();
    // SAFETY: `groups` has room for `size` bytes and lives through the call, as does `size`.
    done(unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, at, &raw mut size) })?;
    groups.truncate(size as usize / size_of::<u32>());
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_of_a_socket_is_in_groups() {
        use std::os::fd::AsFd as _;
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        let mut own: Vec<u32> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let mut told = groups_of_peer(one.as_fd()).unwrap();
        own.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, own);
    }

    #[test]
    fn an_address_that_is_not_here_yet_is_no_obstacle_and_a_taken_port_is() {
        // TEST-NET-3 and the documentation prefix: on no machine.
        for absent in ["203.0.113.9:0", "[2001:db8::9]:0"] {
            let at: SocketAddr = absent.parse().unwrap();
            if at.is_ipv6() && !std::path::Path::new("/proc/sys/net/ipv6").exists() {
                continue;
            }
            assert_eq!(udp(at).unwrap().local_addr().unwrap().ip(), at.ip());
            assert_eq!(tcp(at).unwrap().local_addr().unwrap().ip(), at.ip());
        }
        let first = tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = first.local_addr().unwrap();
        assert_eq!(tcp(taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        std::net::TcpStream::connect(taken).unwrap();
    }
}
