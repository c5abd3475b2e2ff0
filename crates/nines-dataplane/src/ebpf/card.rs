//! What network cards do with frames, as far as XDP depends on it.
//!
//! Decides: into which devices XDP may send, and on which it would not see that a frame is of a
//! VLAN.

use std::{
    fs,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use crate::address::Interface;

/// Drivers that take frames from XDP while a program is on their device (`ndo_xdp_xmit`). Others
/// refuse only after the program has said where a frame goes, and it is lost.
const TAKE_FRAMES: [&str; 12] = [
    "bnxt_en",
    "ena",
    "gve",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "mlx5_core",
    "qede",
    "sfc",
    "virtio_net",
];

/// Whether XDP may send into this device.
pub fn takes_frames(interface: &Interface) -> bool {
    let driver = fs::read_link(format!("/sys/class/net/{}/device/driver", interface.name));
    let driver = driver.ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    interface.kind == "veth" || driver.is_some_and(|d| TAKE_FRAMES.contains(&d.as_str()))
}

/// Whether a device of `all` has VLANs on it and takes their tags off before XDP.
pub fn hides_vlans(interface: &Interface, all: &[Interface]) -> bool {
    let on_it = |i: &Interface| i.kind == "vlan" && i.below == interface.index;
    all.iter().any(on_it) && takes_tags_off(&interface.name)
}

/// `rxvlan` as ethtool shows it. Who cannot say has no such feature.
fn takes_tags_off(name: &str) -> bool {
    // uapi/linux/ethtool.h
    const ETHTOOL_GFLAGS: u32 = 0x25;
    const ETH_FLAG_RXVLAN: u32 = 1 << 8;
    const SIOCETHTOOL: u32 = 0x8946;
    let mut flags = [ETHTOOL_GFLAGS, 0];
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = flags.as_mut_ptr().cast();
    // SAFETY: socket(2) takes no pointers; the result is checked before it is owned.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return false;
    }
    // SAFETY: a fresh, open descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: the request and the two words it points to (`struct ethtool_value`) outlive the call.
    let rc =
        unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as libc::Ioctl, &raw mut request) };
    rc == 0 && flags[1] & ETH_FLAG_RXVLAN != 0
}
