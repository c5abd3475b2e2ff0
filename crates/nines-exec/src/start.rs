//! From a run to a child that waits at its gate, and from there to the program.
//!
//! ```text
//! watcher: fork ---- pidfd, cgroup ---- opens the gate ------------ reads: end, or errno
//! child:     setsid, streams, limits, signals ---- waits ---- exec (writes errno if it fails)
//! ```
//! Decides: what a child has of its parent (three streams, the environment of its run, and defaults
//! for the rest), and that none becomes the program before its gate is open. A child whose watcher
//! has gone ends there.

use std::{
    ffi::{CString, c_char, c_int},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, net::UnixStream},
    },
    ptr,
};

use rustix::{
    io::fcntl_dupfd_cloexec,
    process::{
        Pid, PidfdFlags, Resource, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions,
        getpriority_process, getrlimit, kill_process, pidfd_open, pidfd_send_signal,
        setpriority_process, waitid, waitpid,
    },
};

use crate::{
    cgroup::{Cgroup, Parent},
    run::{NotStarted, Run},
};

/// Open files that a child may have, unless it raises that: more breaks programs that use
/// `select(2)`, and slows those that close each number that they could have.
const OPEN_FILES: u64 = 1_024;
/// Number of the gate in a child, behind its streams.
const GATE: c_int = 3;
/// The last real-time signal.
const SIGNAL_MAX: c_int = 64;
/// Bytes of the kernel's set of signals.
const SIGNAL_SET: usize = 8;
/// Exit code of a child that did not become the program. Nobody reads it.
const NOT_BEGUN: c_int = 127;

/// A child that waits at its gate. Dropped, it ends there, and is reaped.
pub struct Waiting {
    /// Its number, which is also that of its session and its process group.
    pub pid: Pid,
    /// Becomes readable when it ends.
    pub ends: OwnedFd,
    /// Our end of the gate.
    pub gate: Option<UnixStream>,
    /// Where its input is written; `None`: it reads `/dev/null`.
    pub stdin: Option<OwnedFd>,
    /// Where its output is read.
    pub stdout: Option<OwnedFd>,
    /// Where its errors are read.
    pub stderr: Option<OwnedFd>,
    /// Its cgroup, or why it has none.
    pub cgroup: Result<Cgroup, String>,
    is_reaped: bool,
}

impl Waiting {
    /// Lets it become the program. The end of `gate` says that it has.
    pub fn open_gate(&self) -> io::Result<()> {
        let gate = self.gate.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        gate.set_nonblocking(true)?;
        rustix::io::write(gate, &[1])?;
        Ok(())
    }

    /// Reads how it ended, which frees its number. Waits for that.
    pub fn reap(&mut self) -> Option<WaitIdStatus> {
        self.is_reaped = true;
        loop {
            match waitid(WaitId::PidFd(self.ends.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => {}
                status => return status.ok().flatten(),
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.gate = None;
            let _ = pidfd_send_signal(&self.ends, Signal::KILL);
            let _ = self.reap();
        }
    }
}

/// Makes the child of a run. Nothing of the program has run yet.
pub fn start(run: &Run, parent: &Parent) -> Result<Waiting, NotStarted> {
    if !run.program.is_absolute() {
        return Err(NotStarted::Relative);
    }
    let refused = |why: io::Error| NotStarted::Refused(why.to_string());
    let mut cgroup = parent.clone().and_then(|parent| {
        let made = Cgroup::new(&parent, &run.cgroup, run.survivors);
        made.map_err(|why| format!("no cgroup in {}: {why}", parent.display()))
    });
    let (ours, theirs) = streams(!run.stdin.is_empty()).map_err(refused)?;
    let prepared = Prepared::new(run, theirs).map_err(refused)?;
    let pid = fork(&prepared).map_err(refused)?;
    // It has its copies.
    drop(prepared);
    let [gate, stdin, stdout, stderr] = ours;
    let ends = pidfd_open(pid, PidfdFlags::empty()).map_err(|why| {
        // Nobody could watch it.
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
        refused(why.into())
    })?;
    let entered = cgroup.as_ref().map(|cgroup| cgroup.enter(pid));
    if let Ok(Err(why)) = entered {
        cgroup = Err(format!("the kernel does not let it into its cgroup: {why}"));
    }
    let gate = gate.map(UnixStream::from);
    Ok(Waiting { pid, ends, gate, stdin, stdout, stderr, cgroup, is_reaped: false })
}

/// Both ends of the gate, of the input, the output and the errors: ours and the child's.
fn streams(has_input: bool) -> io::Result<([Option<OwnedFd>; 4], [OwnedFd; 4])> {
    let (gate, childs_gate) = UnixStream::pair()?;
    let (stdin, childs_stdin): (Option<OwnedFd>, OwnedFd) = if has_input {
        let (reader, writer) = io::pipe()?;
        (Some(writer.into()), reader.into())
    } else {
        (None, File::open("/dev/null")?.into())
    };
    let ((stdout, childs_stdout), (stderr, childs_stderr)) = (io::pipe()?, io::pipe()?);
    let ours = [Some(gate.into()), stdin, Some(stdout.into()), Some(stderr.into())];
    let theirs = [childs_gate.into(), childs_stdin, childs_stdout.into(), childs_stderr.into()];
    Ok((ours, theirs))
}

/// All that a child needs between `fork` and `exec`, where it cannot allocate.
struct Prepared {
    program: CString,
    args: Pointers,
    env: Pointers,
    streams: [OwnedFd; 4],
    open_files: libc::rlimit,
    has_rank: bool,
}

/// Texts and the list of pointers to them that `exec` takes, with a null at its end.
struct Pointers {
    list: Vec<*const c_char>,
    _texts: Vec<CString>,
}

impl Pointers {
    fn new(texts: impl Iterator<Item = Vec<u8>>) -> io::Result<Self> {
        let texts: Vec<CString> = texts.map(CString::new).collect::<Result<_, _>>()?;
        let list = texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Ok(Self { list, _texts: texts })
    }
}

impl Prepared {
    fn new(run: &Run, streams: [OwnedFd; 4]) -> io::Result<Self> {
        // One that had a number of those to come would be overwritten by another.
        let streams = streams.map(|fd| fcntl_dupfd_cloexec(&fd, GATE + 1));
        let [gate, stdin, stdout, stderr] = streams;
        let program = run.program.as_os_str().as_bytes();
        let args = run.args.iter().map(|arg| arg.clone().into_bytes());
        let env = run.env.iter().map(|(key, value)| format!("{key}={value}").into_bytes());
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(libc::RLIM_INFINITY);
        let rank = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        Ok(Self {
            program: CString::new(program)?,
            args: Pointers::new([program.to_vec()].into_iter().chain(args))?,
            env: Pointers::new(env)?,
            streams: [gate?, stdin?, stdout?, stderr?],
            open_files: libc::rlimit { rlim_cur: OPEN_FILES.min(hard), rlim_max: hard },
            has_rank: rank.trim() != "0",
        })
    }
}

/// Makes this thread fit to fork: an ordinary one, also if a thread in real time has started it,
/// and deaf to signals, so that no child runs a handler of ours before it has its own.
pub fn prepare_thread() {
    if getpriority_process(None).is_ok_and(|nice| nice < 0) {
        let _ = setpriority_process(None, 0);
    }
    let ordinary = libc::sched_param { sched_priority: 0 };
    // SAFETY: the set is filled before it is read, and both live through the calls.
    unsafe {
        let policy = libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK;
        if [libc::SCHED_FIFO, libc::SCHED_RR, libc::SCHED_DEADLINE].contains(&policy) {
            libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary);
        }
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut());
    }
}

fn fork(prepared: &Prepared) -> io::Result<Pid> {
    // SAFETY: in the child only `become_program` runs, which makes system calls alone.
    match unsafe { libc::fork() } {
        // SAFETY: this is the child, and everything in `prepared` outlives it: it never returns.
        0 => unsafe { become_program(prepared) },
        pid => Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(io::Error::last_os_error),
    }
}

/// What a child does: it leaves everything of ours, waits at the gate, and becomes the program.
///
/// # Safety
///
/// Only in a child of `fork`, where other threads are gone and may have held any lock: it makes
/// async-signal-safe calls only, allocates nothing and does not return.
unsafe fn become_program(prepared: &Prepared) -> ! {
    // SAFETY: every pointer is into `prepared` or a local, and lives through its call.
    unsafe {
        let gate = prepared.streams[0].as_raw_fd();
        if libc::dup3(gate, GATE, libc::O_CLOEXEC) < 0 {
            tell_errno_and_end(gate);
        }
        if leave_parent(prepared).is_none() {
            tell_errno_and_end(GATE);
        }
        let mut opened = 0u8;
        loop {
            match libc::read(GATE, (&raw mut opened).cast(), 1) {
                1 => break,
                -1 if *libc::__errno_location() == libc::EINTR => {}
                // Nobody wants it any more.
                _ => libc::_exit(NOT_BEGUN),
            }
        }
        // The path is absolute: nothing is searched. A text without an interpreter is read by
        // `/bin/sh`, as a shell would have it.
        let (program, args) = (prepared.program.as_ptr(), prepared.args.list.as_ptr());
        libc::execvpe(program, args, prepared.env.list.as_ptr());
        tell_errno_and_end(GATE)
    }
}

/// Writes the last error to the gate.
///
/// # Safety
///
/// As for [`become_program`].
unsafe fn tell_errno_and_end(gate: c_int) -> ! {
    // SAFETY: `why` lives through the call, which only reads it.
    unsafe {
        let why: c_int = *libc::__errno_location();
        libc::write(gate, (&raw const why).cast(), size_of::<c_int>());
        libc::_exit(NOT_BEGUN)
    }
}

/// A session of its own, three streams, the root directory, and defaults for what it would have
/// inherited: file mode mask, open files, signals, and the rank among those that are killed when
/// memory runs out. `None`: one that it must have failed, and errno says why.
///
/// # Safety
///
/// As for [`become_program`].
unsafe fn leave_parent(prepared: &Prepared) -> Option<()> {
    let [_, stdin, stdout, stderr] = prepared.streams.each_ref().map(|fd| fd.as_raw_fd());
    let done = |rc: c_int| (rc >= 0).then_some(());
    // SAFETY: system calls on numbers; each pointer lives through its call, which only reads it.
    unsafe {
        done(libc::setsid())?;
        for (from, to) in [(stdin, 0), (stdout, 1), (stderr, 2)] {
            done(libc::dup2(from, to))?;
        }
        // Now, not with `exec`: a child that hangs there must hold nothing of ours open.
        done(libc::syscall(libc::SYS_close_range, GATE + 1, c_int::MAX, 0) as c_int)?;
        done(libc::chdir(c"/".as_ptr()))?;
        libc::umask(0o022);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const prepared.open_files);
        if prepared.has_rank {
            let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
            libc::write(score, c"0".as_ptr().cast(), 1);
            libc::close(score);
        }
        // Those that were ignored would stay so. By the kernel's own call: libc keeps two of them
        // for itself. All zero is the default; more bytes than the kernel's structure has.
        let default = [0u64; 8];
        for signal in 1..=SIGNAL_MAX {
            let action = default.as_ptr();
            libc::syscall(libc::SYS_rt_sigaction, signal, action, ptr::null::<u64>(), SIGNAL_SET);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        done(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()))
    }
}
