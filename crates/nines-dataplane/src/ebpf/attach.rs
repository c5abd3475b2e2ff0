//! Programs onto interfaces: tcx links (6.6) or clsact filters (before), XDP where the driver has
//! it. Everything stays when the process goes, and is replaced in place by the next one.
//!
//! Decides: how programs are put on a device and taken off it. Which hooks it gets is decided in
//! `hook.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    fs,
    num::NonZero,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, ProgramArray},
    programs::{
        Program, ProgramError, ProgramFd, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, LinkOrder, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
};

use nines_abi::{
    PROGRAM_ADMIT, PROGRAM_CHANCE, PROGRAM_COOKIE, PROGRAM_DELIVER, PROGRAM_ERROR,
    PROGRAM_FRAGMENT, PROGRAM_FULL, PROGRAM_KEEP, PROGRAM_KEEP_FULL, PROGRAM_NEW, PROGRAM_PORT,
    PROGRAM_PROXY, PROGRAM_PUT_FULL, PROGRAM_QUIC, PROGRAM_REFUSE, PROGRAM_REMEMBER, PROGRAM_REPLY,
    PROGRAM_SIP, PROGRAM_SOURCE, PROGRAM_TELL, PROGRAM_TELL_FULL, PROGRAM_WEIGH, XDP_OUT_MAX,
};

use super::{
    INSTALL, NEEDS, card,
    hook::{self, CLSACT, Device, Hook, Hooks, TCX},
};
use crate::{Error, Result, address::Interface};

/// Filter priority and handle with clsact: fixed, so that the next process finds its own.
const PRIORITY: u16 = 9;
/// Of the programs of a real server, behind the director's.
const SERVER_PRIORITY: u16 = 10;
const HANDLE: TcHandle = TcHandle::new(0, 9);

/// Programs at tc, and where the entry program finds those that go on for it.
const CLASSIFIERS: [(&str, Option<u32>); 25] = [
    ("nines_tc_admit", Some(PROGRAM_ADMIT)),
    ("nines_tc_cookie", Some(PROGRAM_COOKIE)),
    ("nines_tc_quic", Some(PROGRAM_QUIC)),
    ("nines_tc_sip", Some(PROGRAM_SIP)),
    ("nines_tc_source", Some(PROGRAM_SOURCE)),
    ("nines_tc_port", Some(PROGRAM_PORT)),
    ("nines_tc_proxy", Some(PROGRAM_PROXY)),
    ("nines_tc_full", Some(PROGRAM_FULL)),
    ("nines_tc_reply", Some(PROGRAM_REPLY)),
    ("nines_tc_tell", Some(PROGRAM_TELL)),
    ("nines_tc_put_full", Some(PROGRAM_PUT_FULL)),
    ("nines_tc_tell_full", Some(PROGRAM_TELL_FULL)),
    ("nines_tc_keep_full", Some(PROGRAM_KEEP_FULL)),
    ("nines_tc_fragment", Some(PROGRAM_FRAGMENT)),
    ("nines_tc_chance", Some(PROGRAM_CHANCE)),
    ("nines_tc_keep", Some(PROGRAM_KEEP)),
    ("nines_tc_weigh", Some(PROGRAM_WEIGH)),
    ("nines_tc_remember", Some(PROGRAM_REMEMBER)),
    ("nines_tc_deliver", Some(PROGRAM_DELIVER)),
    ("nines_tc_new", Some(PROGRAM_NEW)),
    ("nines_tc_error", Some(PROGRAM_ERROR)),
    ("nines_tc_refuse", Some(PROGRAM_REFUSE)),
    ("nines_tc_ingress", None),
    ("nines_tc_egress", None),
    ("nines_learn", None),
];

const XDP: [(&str, Option<u32>); 19] = [
    ("nines_xdp_admit", Some(PROGRAM_ADMIT)),
    ("nines_xdp_cookie", Some(PROGRAM_COOKIE)),
    ("nines_xdp_quic", Some(PROGRAM_QUIC)),
    ("nines_xdp_source", Some(PROGRAM_SOURCE)),
    ("nines_xdp_port", Some(PROGRAM_PORT)),
    ("nines_xdp_proxy", Some(PROGRAM_PROXY)),
    ("nines_xdp_full", Some(PROGRAM_FULL)),
    ("nines_xdp_reply", Some(PROGRAM_REPLY)),
    ("nines_xdp_tell", Some(PROGRAM_TELL)),
    ("nines_xdp_put_full", Some(PROGRAM_PUT_FULL)),
    ("nines_xdp_tell_full", Some(PROGRAM_TELL_FULL)),
    ("nines_xdp_keep_full", Some(PROGRAM_KEEP_FULL)),
    ("nines_xdp_chance", Some(PROGRAM_CHANCE)),
    ("nines_xdp_keep", Some(PROGRAM_KEEP)),
    ("nines_xdp_weigh", Some(PROGRAM_WEIGH)),
    ("nines_xdp_remember", Some(PROGRAM_REMEMBER)),
    ("nines_xdp_deliver", Some(PROGRAM_DELIVER)),
    ("nines_xdp_new", Some(PROGRAM_NEW)),
    ("nines_xdp", None),
];

/// Loads the programs once; attaching is per interface. `before`: what must be done before the
/// first of them is at work.
pub fn load(ebpf: &mut Ebpf, before: impl FnOnce() -> Result<()>) -> Result<()> {
    load_all(ebpf, "PROGRAMS", &CLASSIFIERS, before)
}

/// Loads the XDP programs, which not every node needs.
pub fn load_xdp(ebpf: &mut Ebpf) -> Result<()> {
    load_all(ebpf, "XDP_PROGRAMS", &XDP, || Ok(()))
}

/// Loads what is not loaded yet, on all processors: the kernel walks every way through a program,
/// which is most of an agent's start. Then the entry program gets to know those that go on for it.
fn load_all(
    ebpf: &mut Ebpf,
    array: &str,
    list: &[(&str, Option<u32>)],
    before: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut array = programs(ebpf, array)?;
    let index: BTreeMap<&str, Option<u32>> = list.iter().copied().collect();
    let all = ebpf.programs_mut().filter(|(name, _)| index.contains_key(name));
    let all: BTreeMap<&str, &mut Program> = all.collect();
    if let Some((missing, _)) = list.iter().find(|(name, _)| !all.contains_key(name)) {
        return Err(damaged(missing));
    }
    let work = Mutex::new(all.into_iter());
    let loader = || {
        let mut loaded = Vec::new();
        loop {
            let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((name, program)) = next else { return Ok(loaded) };
            loaded.push((name, load_one(name, program)?));
        }
    };
    let processors = thread::available_parallelism().map_or(1, NonZero::get).min(list.len());
    let loaded: Vec<Result<Vec<(&str, ProgramFd)>>> = thread::scope(|scope| {
        let all: Vec<_> = (0..processors).map(|_| scope.spawn(loader)).collect();
        all.into_iter().map(|one| one.join().expect("a loader does not panic")).collect()
    });
    // All or none: those at work go on among themselves when the kernel refuses a new one.
    let loaded = loaded.into_iter().collect::<Result<Vec<_>>>()?;
    before()?;
    for (name, fd) in loaded.into_iter().flatten() {
        if let Some(at) = index[name] {
            array.set(at, &fd, 0).map_err(|e| refused(name, &e))?;
        }
    }
    Ok(())
}

fn load_one(name: &str, program: &mut Program) -> Result<ProgramFd> {
    let loaded = match program {
        Program::SchedClassifier(tc) if tc.fd().is_err() => tc.load(),
        Program::Xdp(xdp) if xdp.fd().is_err() => xdp.load(),
        Program::SchedClassifier(_) | Program::Xdp(_) => Ok(()),
        _ => return Err(damaged(name)),
    };
    loaded.map_err(|e| refused(name, &e))?;
    program.fd().and_then(|fd| fd.try_clone().map_err(Into::into)).map_err(|e| refused(name, &e))
}

fn refused(program: &str, why: &dyn std::fmt::Display) -> Error {
    Error::new(format!("the kernel refused program {program}"), why).next(NEEDS)
}

fn damaged(program: &str) -> Error {
    Error::new("the kernel object is damaged", format!("no program {program}")).next(INSTALL)
}

/// Another handle of the pinned array: programs and array are borrowed from `ebpf` at once.
fn programs(ebpf: &Ebpf, name: &str) -> Result<ProgramArray<MapData>> {
    let failed = |e: String| Error::new("the kernel object is damaged", e);
    let Some(Map::ProgramArray(data)) = ebpf.map(name) else {
        return Err(failed(format!("no map {name}")));
    };
    let id = data.info().map_err(|e| failed(e.to_string()))?.id();
    let data = MapData::from_id(id).map_err(|e| failed(e.to_string()))?;
    ProgramArray::try_from(Map::ProgramArray(data)).map_err(|e| failed(e.to_string()))
}

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
    [("nines_unwrap", TcAttachType::Ingress), ("nines_clamp", TcAttachType::Egress)];

/// Loads them, once.
pub fn load_server(ebpf: &mut Ebpf) -> Result<()> {
    for (program, _) in OF_SERVER {
        let loaded = classifier(ebpf, program)?;
        if loaded.fd().is_err() {
            let failed = |e| Error::new(format!("the kernel refused program {program}"), e);
            loaded.load().map_err(failed)?;
        }
    }
    Ok(())
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
