//! A cgroup for each run, so that a process that makes a session of its own, or forks twice, is
//! stopped with the others.
//!
//! Decides: where the cgroups are (below the one that this process is in, in version 2 of the
//! hierarchy), their names, when one is taken away (with the last process in it), and what becomes
//! of those that a runner which is no more has left.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, WaitOptions, waitpid},
    rand::{GetRandomFlags, getrandom},
    time::{ClockId, clock_gettime},
};

use crate::{
    process::{self, Stat},
    run::Survivors,
};

/// What the names of our cgroups begin with, by what becomes of processes that are left in one.
const PREFIXES: [(&str, Survivors); 2] =
    [("nines-run-", Survivors::Kill), ("nines-keep-", Survivors::Keep)];
/// Characters of a caller's name that are used.
const NAME_CHARS_MAX: usize = 64;
/// How often an emptying cgroup is tried to be removed.
const AGAIN: Duration = Duration::from_millis(2);
/// How long leftovers may take to die when a runner is made.
const LEFTOVERS: Duration = Duration::from_secs(1);

/// Those that could not be removed with their runs, because a process was in them.
static KEPT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The cgroup of one run. Empty when it is dropped, it goes.
pub struct Cgroup {
    directory: PathBuf,
}

/// Where runs get their cgroups, or why they get none.
pub type Parent = Result<PathBuf, String>;

/// The cgroup of this process.
pub fn parent() -> Parent {
    let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
    let (mounts, cgroups) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
    let mount = mount_of(&mounts).ok_or("no cgroup file system of version 2")?;
    let own = own_of(&cgroups).ok_or("in no cgroup of version 2")?;
    Ok(mount.join(own.trim_start_matches('/')))
}

/// A cgroup of a runner that is no more, because its process has ended or become another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its directory.
    pub cgroup: PathBuf,
    /// Processes that were found in it.
    pub processes: usize,
    /// What became of them, as their run had asked: with [`Survivors::Keep`] they run on, and
    /// whether their program has done all that it should do is not known.
    pub survivors: Survivors,
    /// Some were killed and are still there.
    pub lingers: bool,
}

/// Finds what runners that are no more have left, kills what was to be killed, and takes empty
/// cgroups away. Those in which something ran are returned.
pub fn leftovers(parent: &Path) -> Vec<Leftover> {
    reap_children();
    let mut found = Vec::new();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(name) = Name::parse(&name).filter(Name::is_left) else { continue };
        let cgroup = Cgroup { directory: entry.path() };
        let processes = cgroup.processes();
        if name.survivors == Survivors::Kill {
            let _ = cgroup.kill();
        }
        if processes > 0 {
            found.push((cgroup, processes, name.survivors));
        }
    }
    let until = Instant::now() + LEFTOVERS;
    let told = found.into_iter().map(|(cgroup, processes, survivors)| {
        let left = until.saturating_duration_since(Instant::now());
        let lingers = survivors == Survivors::Kill && !cgroup.remove(left);
        Leftover { cgroup: cgroup.directory.clone(), processes, survivors, lingers }
    });
    told.collect()
}

/// Children of this process from the time before it became another program: nobody else reaps them.
fn reap_children() {
    let (me, is_left) = (std::process::id(), |name: Name| name.is_left());
    for (pid, _) in process::all().filter(|(_, stat)| stat.parent == me) {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let path = own_of(&text).map(|path| path.trim_end_matches(" (deleted)"));
        let name = path.and_then(|path| Name::parse(path.rsplit('/').next()?));
        if let (true, Some(pid)) = (name.is_some_and(is_left), Pid::from_raw(pid as i32)) {
            let reap = move || {
                let _ = waitpid(Some(pid), WaitOptions::empty());
            };
            // If there can be no thread it stays until this process ends.
            let _ = thread::Builder::new().name("child-left".into()).spawn(reap);
        }
    }
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

/// The name of a cgroup of ours: what becomes of what is left in it, what its caller calls it, the
/// process that made it and when that was started, the program that this process was then, and a
/// number. A process that becomes another program, as a restart in place does, keeps its number and
/// its start, and counts from 0 again.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    survivors: Survivors,
    maker: u32,
    since: u64,
    program: u64,
}

/// A number for what this process is now. It would be another one after `exec`.
fn this_program() -> u64 {
    static DRAWN: OnceLock<u64> = OnceLock::new();
    *DRAWN.get_or_init(|| {
        let mut bytes = [0; 8];
        // Only before the kernel has gathered its first random bits, at boot; the clock will do.
        if !matches!(getrandom(&mut bytes, GetRandomFlags::NONBLOCK), Ok(8)) {
            let boot = clock_gettime(ClockId::Boottime);
            bytes = (boot.tv_sec * 1_000_000_000 + boot.tv_nsec).to_ne_bytes();
        }
        u64::from_ne_bytes(bytes)
    })
}

impl Name {
    /// `None`: it is none of ours.
    fn parse(name: &str) -> Option<Self> {
        let of = |(prefix, survivors): &(&str, Survivors)| {
            let mut parts = name.strip_prefix(prefix)?.rsplit('-').skip(1);
            let program = u64::from_str_radix(parts.next()?, 16).ok()?;
            let since = parts.next()?.parse().ok()?;
            let maker = parts.next()?.parse().ok()?;
            Some(Self { survivors: *survivors, maker, since, program })
        };
        PREFIXES.iter().find_map(of)
    }

    /// Whether its runner is no more.
    fn is_left(&self) -> bool {
        let maker = Stat::of(self.maker).filter(|stat| stat.since == self.since);
        match maker {
            // Its number may have gone to another process.
            None => true,
            Some(_) if self.maker == std::process::id() => self.program != this_program(),
            Some(_) => false,
        }
    }
}

impl Cgroup {
    /// A new one below `parent`, with `name` in its own.
    pub fn new(parent: &Path, name: &str, survivors: Survivors) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let name: String = name.chars().take(NAME_CHARS_MAX).map(plain).collect();
        let prefix = PREFIXES.iter().find(|(_, of)| *of == survivors).map_or("", |(text, _)| text);
        let (maker, program) = (std::process::id(), this_program());
        let since = Stat::of(maker).map_or(0, |stat| stat.since);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if survivors == Survivors::Keep {
            kept.retain(|directory| remove_tree(directory).is_err());
        }
        drop(kept);
        let directory =
            parent.join(format!("{prefix}{name}-{maker}-{since}-{program:016x}-{number}"));
        fs::create_dir(&directory)?;
        Ok(Self { directory })
    }

    /// Moves a process into it that waits at its gate. All that it forks is in there too.
    pub fn enter(&self, process: Pid) -> io::Result<()> {
        let number = process.as_raw_nonzero().to_string();
        fs::write(self.directory.join("cgroup.procs"), number)
    }

    /// How many processes run in it, and in those that they have made in it. One that has ended and
    /// was not reaped does not count.
    pub fn processes(&self) -> usize {
        let in_one = |directory: &Path| {
            let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            text.lines().count()
        };
        let events = fs::read_to_string(self.directory.join("cgroup.events")).unwrap_or_default();
        if events.lines().any(|line| line == "populated 0") {
            return 0;
        }
        let (mut count, mut rooms) = (0, vec![self.directory.clone()]);
        while let Some(room) = rooms.pop() {
            count += in_one(&room);
            rooms.extend(below(&room));
        }
        count
    }

    /// Sends SIGKILL to every process in it, at once, so that none can fork away (Linux 5.14).
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.directory.join("cgroup.kill"), "1")
    }

    /// Waits until its last process has gone, and removes it; not longer than `patience`.
    pub fn remove(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            match remove_tree(&self.directory) {
                Ok(()) => return true,
                Err(_) if Instant::now() >= until => return false,
                Err(_) => thread::sleep(AGAIN),
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if remove_tree(&self.directory).is_err() {
            KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(self.directory.clone());
        }
    }
}

/// The cgroups in one.
fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let rooms = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    rooms.map(|entry| entry.path()).collect()
}

/// Removes a cgroup and those in it, unless a process is in one of them.
fn remove_tree(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(why) => {
            let below = below(directory);
            if below.is_empty() {
                return Err(why);
            }
            below.iter().try_for_each(|room| remove_tree(room))?;
            fs::remove_dir(directory)
        }
        removed => removed,
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
    fn a_cgroup_tells_who_made_it_and_what_that_was_then() {
        let name = Name { survivors: Survivors::Kill, maker: 4_711, since: 98, program: 0xab };
        assert_eq!(Name::parse("nines-run-web-server-4711-98-00000000000000ab-3"), Some(name));
        let kept = Name::parse("nines-keep-db-4711-98-00000000000000ab-3").unwrap();
        assert_eq!(kept.survivors, Survivors::Keep);
        assert_eq!(Name::parse("nines.service"), None);
        assert_eq!(Name::parse("nines-run-3"), None);
        let me = std::process::id();
        let since = |pid| Stat::of(pid).unwrap().since;
        let of = |maker, since, program| {
            Name { survivors: Survivors::Kill, maker, since, program }.is_left()
        };
        assert!(!of(me, since(me), this_program()), "a run of ours");
        assert!(of(me, since(me), this_program() ^ 1), "of the program that this one was before");
        assert!(!of(1, since(1), 7), "of another one that lives");
        assert!(of(1, since(1) + 1, 7), "of one whose number went to another");
        assert!(of(u32::MAX, 0, 7), "of one that is gone");
    }
}
