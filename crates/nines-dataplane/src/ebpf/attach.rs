//! Programs onto interfaces: tcx links (6.6) or clsact filters (before), XDP where the driver has
//! it. Everything stays when the process goes, and is replaced in place by the next one.
//!
//! Decides: how programs are put on a device and taken off it. Which hooks it gets is decided in
//! `hook.rs`.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::HashMap,
    programs::{
        ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, LinkOrder, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
};

use nines_abi::XDP_OUT_MAX;

use super::{
    card,
    hook::{self, CLSACT, Device, Hook, Hooks, TCX},
    programs::{damaged, load_alone, load_xdp},
};
use crate::{Error, Result, address::Interface};

/// Filter priority and handle with clsact: fixed, so that the next process finds its own.
const PRIORITY: u16 = 9;
/// Of the programs of a real server, behind the director's.
const SERVER_PRIORITY: u16 = 10;
const HANDLE: TcHandle = TcHandle::new(0, 9);

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name);
    program.and_then(|p| p.try_into().ok()).ok_or_else(|| damaged(name))
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name);
    program.and_then(|p| p.try_into().ok()).ok_or_else(|| damaged(name))
}

/// Puts all programs on an interface of `all`; gives what is there then.
pub fn attach(
    ebpf: &mut Ebpf,
    pins: &Path,
    interface: &str,
    hooks: Hooks,
    all: &[Interface],
) -> Result<Hook> {
    let side = |program, side| Side { pins, interface, program, side, priority: PRIORITY };
    let tc = tc_side(ebpf, side("nines_tc_ingress", TcAttachType::Ingress))?;
    tc_side(ebpf, side("nines_tc_egress", TcAttachType::Egress))?;
    let there = all.iter().find(|i| i.name == interface);
    let kind = there.map_or("", |i| &i.kind);
    let device = Device { kind, hides_vlans: there.is_some_and(|i| card::hides_vlans(i, all)) };
    let hook = hook::choose(hooks, &device, tc, || xdp_side(ebpf, pins, interface))?;
    if !hook.has_xdp() {
        // An earlier process may have had it there.
        forget_xdp(pins, interface);
    }
    Ok(hook)
}

/// The BPF file system takes no dots, which names of VLANs have; no name has a colon.
fn pin(pins: &Path, interface: &str, side: &str) -> PathBuf {
    pins.join(format!("link-{}-{side}", interface.replace('.', ":")))
}

/// The device that a pinned link is on; 0: it has gone, and another of its name may have come.
fn device_of(pin: &Path) -> Option<u32> {
    const BPF_OBJ_GET: libc::c_long = 7;
    // The part of `union bpf_attr` that this command reads (linux/bpf.h).
    #[repr(C)]
    struct Get {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(pin.as_os_str().as_bytes()).ok()?;
    let get = Get { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: a live struct of the size that is told, with a NUL-terminated path in it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const get, size_of::<Get>()) };
    // SAFETY: the kernel has just made it, and nobody else has it.
    let fd = (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })?;
    let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let index = told.lines().find_map(|line| line.strip_prefix("ifindex:"))?;
    index.trim().parse().ok()
}

/// Removes a pinned link that is on another device, one that has this name no longer, or on none.
fn forget_other(pin: &Path, interface: &str) {
    let Ok(name) = CString::new(interface) else { return };
    // SAFETY: a NUL-terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if device_of(pin).is_some_and(|device| device != index) {
        let _ = fs::remove_file(pin);
    }
}

/// Whether the programs are on `interface` by links that stay. Filters of clsact are not looked
/// for: putting them again is as cheap.
pub fn is_on(pins: &Path, interface: &Interface) -> bool {
    let side = |side| device_of(&pin(pins, &interface.name, side)) == Some(interface.index);
    ["ingress", "egress"].into_iter().all(side)
}

/// Takes the XDP program of these pins off: a device has room for one.
pub fn forget_xdp(pins: &Path, interface: &str) {
    let _ = fs::remove_file(pin(pins, interface, "xdp"));
}

/// A program for one side of an interface.
struct Side<'a> {
    pins: &'a Path,
    interface: &'a str,
    program: &'a str,
    side: TcAttachType,
    priority: u16,
}

/// Programs of a real server, and where they are.
const OF_SERVER: [(&str, TcAttachType); 2] =
    [("nines_decap", TcAttachType::Ingress), ("nines_clamp", TcAttachType::Egress)];

/// Loads them, once.
pub fn load_server(ebpf: &mut Ebpf) -> Result<()> {
    OF_SERVER.iter().try_for_each(|(program, _)| load_alone(ebpf, program))
}

/// Puts the programs of a real server on `interface`.
pub fn attach_server(ebpf: &mut Ebpf, pins: &Path, interface: &str) -> Result<()> {
    load_server(ebpf)?;
    for (program, side) in OF_SERVER {
        tc_side(ebpf, Side { pins, interface, program, side, priority: SERVER_PRIORITY })?;
    }
    Ok(())
}

fn tc_side(ebpf: &mut Ebpf, of: Side<'_>) -> Result<&'static str> {
    let Side { pins, interface, program, side, priority } = of;
    let name = if side == TcAttachType::Ingress { "ingress" } else { "egress" };
    let pin = pin(pins, interface, name);
    let classifier = classifier(ebpf, program)?;
    let failed = |why: String| {
        Error::new(format!("cannot attach {program} to {interface}"), why)
            .next("see whether another program holds the device: tc filter show dev; bpftool net")
    };
    forget_other(&pin, interface);
    if pin.exists() {
        let old = PinnedLink::from_pin(&pin).map_err(|e| failed(e.to_string()))?;
        let link = SchedClassifierLink::try_from(FdLink::from(old));
        if let Ok(link) = link
            && let Ok(id) = classifier.attach_to_link(link)
        {
            // The pin keeps the link; our descriptor may go.
            drop(classifier.take_link(id));
            return Ok(TCX);
        }
        // A link to an interface that has gone: make another.
        fs::remove_file(&pin).map_err(|e| failed(e.to_string()))?;
    }
    // A real server's programs come behind a director's.
    let order = if priority == PRIORITY { LinkOrder::first() } else { LinkOrder::last() };
    let options = TcAttachOptions::TcxOrder(order);
    if let Ok(id) = classifier.attach_with_options(interface, side, options) {
        let link = classifier.take_link(id).map_err(|e| failed(e.to_string()))?;
        let link: FdLink =
            link.try_into().map_err(|e: aya::programs::links::LinkError| failed(e.to_string()))?;
        link.pin(&pin).map_err(|e| failed(e.to_string()))?;
        return Ok(TCX);
    }
    clsact(classifier, interface, side, priority).map_err(failed)?;
    Ok(CLSACT)
}

fn clsact(
    classifier: &mut SchedClassifier,
    interface: &str,
    side: TcAttachType,
    priority: u16,
) -> std::result::Result<(), String> {
    // There already is success: another tool, or we before.
    let _ = tc::qdisc_add_clsact(interface);
    let old = SchedClassifierLink::attached(interface, side, priority, HANDLE, None)
        .map_err(|e| e.to_string())?;
    let id = match classifier.attach_to_link(old) {
        Ok(id) => id,
        Err(_) => {
            let options = NlOptions { priority, handle: HANDLE, ..NlOptions::default() };
            classifier
                .attach_with_options(interface, side, TcAttachOptions::Netlink(options))
                .map_err(|e| format!("{e}: {:?}", std::error::Error::source(&e)))?
        }
    };
    let link = classifier.take_link(id).map_err(|e| e.to_string())?;
    // A filter lives by itself; dropping this would remove it.
    std::mem::forget(link);
    Ok(())
}

/// How often XDP is tried while a link of ours is being given up: half a second.
const TRIES: u32 = 100;

fn xdp_side(ebpf: &mut Ebpf, pins: &Path, interface: &str) -> Result<()> {
    let failed = |why: &dyn std::fmt::Display| hook::refusal(interface, None, why);
    load_xdp(ebpf)?;
    let program = xdp(ebpf, "nines_xdp")?;
    let pin = pin(pins, interface, "xdp");
    forget_other(&pin, interface);
    let mut tries = 0;
    if pin.exists() {
        let old = PinnedLink::from_pin(&pin).map_err(|e| failed(&e))?;
        if let Ok(link) = aya::programs::xdp::XdpLink::try_from(FdLink::from(old))
            && let Ok(id) = program.attach_to_link(link)
        {
            drop(program.take_link(id));
            return Ok(());
        }
        fs::remove_file(&pin).map_err(|e| failed(&e))?;
        // The kernel takes it off a moment later.
        tries = TRIES;
    }
    let id = loop {
        match program.attach(interface, XdpMode::Driver) {
            Err(e) if tries > 0 && errno(&e) == Some(libc::EBUSY) => tries -= 1,
            done => break done.map_err(|e| hook::refusal(interface, errno(&e), &e))?,
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let link = program.take_link(id).map_err(|e| failed(&e))?;
    let link: FdLink = link.try_into().map_err(|e| failed(&e))?;
    link.pin(&pin).map_err(|e| failed(&e))?;
    Ok(())
}

/// What the kernel said, wherever it stands in there.
fn errno(error: &ProgramError) -> Option<i32> {
    let mut at: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = at {
        if let Some(told) = error.downcast_ref::<std::io::Error>() {
            return told.raw_os_error();
        }
        at = error.source();
    }
    None
}

/// Into which devices XDP may send.
pub fn tell_express(ebpf: &mut Ebpf, devices: &BTreeSet<u32>) -> Result<()> {
    let failed = |e: aya::maps::MapError| Error::new("cannot tell XDP of its devices", e);
    let map = ebpf.map_mut("XDP_OUT");
    let map = map.ok_or_else(|| Error::new("the kernel object is damaged", "no map XDP_OUT"))?;
    let mut known: HashMap<_, u32, u32> = HashMap::try_from(map).map_err(failed)?;
    let old: BTreeSet<u32> = known.keys().filter_map(std::result::Result::ok).collect();
    for gone in old.difference(devices) {
        known.remove(gone).map_err(failed)?;
    }
    // Beyond as many as there is room for, packets take tc's way.
    for new in devices.difference(&old).take(XDP_OUT_MAX as usize - old.len()) {
        known.insert(new, 1, 0).map_err(failed)?;
    }
    Ok(())
}

/// Takes all programs of a director off `interface`.
pub fn detach(pins: &Path, interface: &str) {
    take_off(pins, interface, PRIORITY);
}

/// Takes those of a real server off.
pub fn detach_server(pins: &Path, interface: &str) {
    take_off(pins, interface, SERVER_PRIORITY);
}

fn take_off(pins: &Path, interface: &str, priority: u16) {
    for side in ["ingress", "egress", "xdp"] {
        // A pinned link is detached when its last reference goes.
        let _ = fs::remove_file(pin(pins, interface, side));
    }
    for side in [TcAttachType::Ingress, TcAttachType::Egress] {
        if let Ok(link) = SchedClassifierLink::attached(interface, side, priority, HANDLE, None) {
            drop(link);
        }
    }
}
