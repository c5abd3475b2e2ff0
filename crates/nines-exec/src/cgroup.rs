//! A cgroup for each run, so that a process that makes a session of its own, or forks twice, is
//! stopped with the others.
//!
//! Decides: where the cgroups are (below the one that this process is in, in version 2 of the
//! hierarchy), their names, and when one is taken away: with the last process in it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// What the names of our cgroups begin with.
const PREFIX: &str = "nines-run-";
/// Characters of a caller's name that are used.
const NAME_CHARS_MAX: usize = 64;
/// How often an emptying cgroup is tried to be removed.
const AGAIN: Duration = Duration::from_millis(2);

/// The cgroup of one run. Empty when it is dropped, it goes.
pub struct Cgroup {
    directory: PathBuf,
}

/// Where runs get their cgroups, or why they get none.
pub type Parent = Result<PathBuf, String>;

/// The cgroup of this process. Takes away what runs of processes that ended have left empty in it.
pub fn parent() -> Parent {
    let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
    let (mounts, cgroups) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
    let mount = mount_of(&mounts).ok_or("no cgroup file system of version 2")?;
    let own = own_of(&cgroups).ok_or("in no cgroup of version 2")?;
    let parent = mount.join(own.trim_start_matches('/'));
    for entry in fs::read_dir(&parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if maker_of(&name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // One that still has a process stays.
            let _ = fs::remove_dir(entry.path());
        }
    }
    Ok(parent)
}

/// Where version 2 is mounted, by the lines of `mountinfo`: fields, " - ", type.
fn mount_of(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let whole = fields.split(' ').nth(3)? == "/";
        (whole && kind.starts_with("cgroup2 ")).then(|| fields.split(' ').nth(4))?.map(Into::into)
    })
}

/// The path in version 2, by the lines of `/proc/PID/cgroup`.
fn own_of(cgroups: &str) -> Option<&str> {
    cgroups.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The process that made the cgroup of this name, if the name is one of ours.
fn maker_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.rsplit('-').nth(1)?.parse().ok()
}

impl Cgroup {
    /// A new one below `parent`, with `name` in its own.
    pub fn new(parent: &Path, name: &str) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let name: String = name.chars().take(NAME_CHARS_MAX).map(plain).collect();
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = parent.join(format!("{PREFIX}{name}-{process}-{number}"));
        fs::create_dir(&directory)?;
        Ok(Self { directory })
    }

    /// A process that writes "0" here is in it from then on, with all that it forks.
    pub fn door(&self) -> io::Result<File> {
        File::options().write(true).open(self.directory.join("cgroup.procs"))
    }

    /// Whether this process, which was not reaped yet, is in it.
    pub fn has(&self, process: u32) -> bool {
        let name = self.directory.file_name().unwrap_or_default().to_string_lossy();
        fs::read_to_string(format!("/proc/{process}/cgroup"))
            .is_ok_and(|text| own_of(&text).is_some_and(|path| path.ends_with(&*name)))
    }

    /// Sends SIGKILL to every process in it, at once, so that none can fork away (Linux 5.14).
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.directory.join("cgroup.kill"), "1")
    }

    /// Waits until its last process has gone, and removes it; not longer than `patience`.
    pub fn remove(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            match fs::remove_dir(&self.directory) {
                Ok(()) => return true,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return true,
                Err(_) if Instant::now() >= until => return false,
                Err(_) => thread::sleep(AGAIN),
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_two_is_found_beside_version_one() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n\
                      32 30 0:28 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,name=systemd\n";
        assert_eq!(mount_of(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_of("30 23 0:26 / /sys/fs/cgroup ro - cgroup cgroup rw\n"), None);
        let part = "31 30 0:27 /part /mnt rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_of(part), None, "paths there are not those of /proc/self/cgroup");
        let own = "12:pids:/a\n1:name=systemd:/b\n0::/system.slice/nines.service\n";
        assert_eq!(own_of(own), Some("/system.slice/nines.service"));
        assert_eq!(own_of("1:name=systemd:/b\n"), None);
    }

    #[test]
    fn a_cgroup_tells_who_made_it() {
        assert_eq!(maker_of("nines-run-web-server-4711-3"), Some(4_711));
        assert_eq!(maker_of("nines.service"), None);
    }
}
