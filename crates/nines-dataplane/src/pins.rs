//! Where the tables of a network namespace are pinned.
//!
//! Decides: the file system, and the directory in it. Tables belong to the network namespace and
//! not to the caller's mounts: `ip netns exec` gives each command a /sys of its own, and a BPF file
//! system mounted there ends with the command. So it is that of the process with the lowest number,
//! of those with the caller's root directory: process 1, as a rule, or the first that the caller
//! may look into. Where there is none but the caller, it is told so and nothing is done.

use std::{
    ffi::CString,
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsRawFd as _, IntoRawFd as _},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nines_abi::ABI;

use crate::{Error, Result};

/// Where the BPF file system belongs.
const OWN: &str = "/sys/fs/bpf";

/// A directory of this name and the cookie says whose tables lie beside it.
pub(crate) const WHOSE: &str = "of-";

/// Where this namespace's maps are pinned.
pub fn pin_directory() -> Result<PathBuf> {
    Ok(own_directory()?.join(format!("v{ABI}")))
}

/// What there is of this namespace. Kernels give the number of a namespace that ended to another:
/// what that one left goes, as its cookie tells, which none has twice.
pub(crate) fn own_directory() -> Result<PathBuf> {
    let netns = fs::metadata("/proc/thread-self/ns/net")
        .map_err(|e| Error::new("cannot tell the network namespace", e))?;
    let own = root().join("nines").join(netns.ino().to_string());
    let whose = own.join(format!("{WHOSE}{}", cookie()?));
    if own.exists() && !whose.exists() {
        let entries = fs::read_dir(&own).into_iter().flatten().flatten();
        if entries.into_iter().any(|e| e.file_name().to_string_lossy().starts_with(WHOSE)) {
            // Aside first: a process that looks at the same time finds all of it or nothing.
            let aside = own.with_file_name(format!("{}-gone-{}", netns.ino(), std::process::id()));
            match fs::rename(&own, &aside).and_then(|()| fs::remove_dir_all(&aside)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    let what = format!("cannot clear {}", own.display());
                    return Err(crate::privileged(what, &e));
                }
                _ => {}
            }
        } else {
            // A process that may not write there reads only.
            let _ = fs::create_dir(&whose);
        }
    }
    Ok(own)
}

/// `SO_NETNS_COOKIE` (Linux 5.14): one for each network namespace since the machine started.
fn cookie() -> Result<u64> {
    let failed = |e| Error::new("cannot tell one network namespace from another", e);
    let socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
    let (mut cookie, mut len) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: a live socket, and a buffer of the length that is told.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if rc < 0 { Err(failed(io::Error::last_os_error())) } else { Ok(cookie) }
}
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The number of the file system at `path`, if that is a BPF file system.
fn bpffs(path: &str) -> Option<u64> {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let name = CString::new(path).ok()?;
    // SAFETY: all-zero bytes are a valid statfs.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated path and a live struct.
    let rc = unsafe { libc::statfs(name.as_ptr(), &raw mut found) };
    let is_bpf = rc == 0 && found.f_type as i64 == BPF_FS_MAGIC;
    if is_bpf { fs::metadata(path).ok().map(|m| m.dev()) } else { None }
}

/// A process whose mounts are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    process: u32,
    /// The number of its BPF file system.
    bpffs: Option<u64>,
}

fn of(process: u32) -> String {
    format!("/proc/{process}/root{OWN}")
}

/// Processes with this one's root directory, by number: in a container others have another.
fn seen() -> impl Iterator<Item = Seen> {
    let root = |path: String| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let own = root("/".into());
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    let mut all: Vec<u32> = all.collect();
    all.sort_unstable();
    let there =
        all.into_iter().filter(move |p| own.is_some() && root(format!("/proc/{p}/root/")) == own);
    there.map(|process| Seen { process, bpffs: bpffs(&of(process)) })
}

/// The process whose BPF file system is everybody's.
fn first(seen: impl Iterator<Item = Seen>) -> Option<Seen> {
    let mut seen = seen;
    seen.find(|process| process.bpffs.is_some())
}

/// The BPF file system, as far as there is one.
fn root() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return found;
    }
    let (own, first) = (bpffs(OWN), first(seen()));
    let path = match first {
        Some(first) if first.bpffs != own => held(&of(first.process)),
        _ if own.is_some() => Some(OWN.into()),
        _ => None,
    };
    match path {
        Some(path) => FOUND.get_or_init(|| path),
        None => Path::new(OWN),
    }
}

/// A path that lasts as long as this process: the other one may end.
fn held(path: &str) -> Option<PathBuf> {
    let directory = fs::File::open(path).ok()?;
    Some(format!("/proc/self/fd/{}", directory.into_raw_fd()).into())
}

/// Mounts the BPF file system if nobody has, where it lasts; only root may look into it.
pub(crate) fn ensure() -> Result<()> {
    if bpffs(OWN).is_some() || first(seen()).is_some() {
        return Ok(());
    }
    let next = format!("as root, outside of `ip netns exec`: mount -t bpf -o mode=0700 bpf {OWN}");
    let me = std::process::id();
    match seen().next() {
        Some(Seen { process, .. }) if process != me || me == 1 => {
            mount_for(process).map_err(|e| Error::new(format!("no BPF file system at {OWN}"), e))
        }
        _ => Err(Error::new(
            format!("no BPF file system at {OWN}"),
            "one mounted here might end with this command, and the tables with it: it may look into \
             no other process that could keep it",
        )),
    }
    .map_err(|e| e.next(next))
}

fn mount() -> io::Result<()> {
    let (bpf, at, mode) = (c"bpf".as_ptr(), c"/sys/fs/bpf".as_ptr(), c"mode=0700".as_ptr());
    // SAFETY: NUL-terminated strings.
    let rc = unsafe { libc::mount(bpf, at, bpf, 0, mode.cast()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Where this process sees it: in a thread that has left its own mounts.
fn mount_for(process: u32) -> io::Result<()> {
    let number = |of: &str| fs::metadata(format!("/proc/{of}/ns/mnt")).map(|m| m.ino());
    if number("thread-self")? == number(&process.to_string())? {
        return mount();
    }
    let thread = std::thread::spawn(move || {
        let mounts = fs::File::open(format!("/proc/{process}/ns/mnt"))?;
        // SAFETY: changes this thread only, which ends below.
        if unsafe { libc::unshare(libc::CLONE_FS) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a live descriptor of a mount namespace.
        if unsafe { libc::setns(mounts.as_raw_fd(), libc::CLONE_NEWNS) } < 0 {
            return Err(io::Error::last_os_error());
        }
        mount()
    });
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that mounts it ended")))
}

/// Makes a directory and those above it, for root alone.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    let all = root().join("nines");
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // An earlier binary may have left it open to all.
    if fs::metadata(&all).is_ok_and(|m| m.permissions().mode() & 0o077 != 0) {
        fs::set_permissions(&all, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Other layouts' directories: what a binary before or after this one left.
pub(crate) fn other_layouts(pins: &Path) -> Vec<PathBuf> {
    let siblings = pins.parent().and_then(|p| fs::read_dir(p).ok());
    let paths = siblings.into_iter().flatten().flatten().map(|e| e.path());
    let is_layout = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('v'));
    paths.filter(|p| p != pins && is_layout(p)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_with_a_bpf_file_system_has_everybodys() {
        let seen = |list: &[(u32, Option<u64>)]| {
            let list =
                list.iter().map(|(process, bpffs)| Seen { process: *process, bpffs: *bpffs });
            first(list.collect::<Vec<_>>().into_iter()).map(|seen| seen.process)
        };
        assert_eq!(seen(&[(1, Some(7)), (50, Some(9))]), Some(1));
        // `ip netns exec` gives a command a /sys without one.
        assert_eq!(seen(&[(40, None), (50, Some(7)), (60, None)]), Some(50));
        assert_eq!(seen(&[(40, None)]), None);
    }

    #[test]
    fn this_process_is_seen() {
        assert!(super::seen().any(|seen| seen.process == std::process::id()));
    }

    #[test]
    fn what_is_no_bpf_file_system_is_none() {
        assert_eq!(bpffs("/"), None);
        assert_eq!(bpffs("/nowhere"), None);
    }
}
