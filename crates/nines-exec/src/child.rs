//! Runs as real processes, each watched by a thread of its own.
//!
//! Decides: what a child has of its parent (nothing but three streams), the order in which one is
//! stopped, and that each is reaped: the thread ends after its child, whoever still wants to know.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, ErrorKind},
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nines_model::Millis;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{Errno, ioctl_fionbio},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

use crate::{
    Done, Handle, Runner,
    cgroup::{self, Cgroup},
    run::{Containment, Exit, NotStarted, Outcome, Output, Run, Survivors},
    stop::{Limits, Reason, Step, Stop},
};

/// How long output is still read, and a cgroup removed, after a child has ended and what it left
/// was killed.
const CLEANUP: Duration = Duration::from_secs(1);
/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;
/// Stack of a thread that watches a child: it calls nothing deep.
const STACK_BYTES: usize = 256 << 10;

/// Real processes.
#[derive(Debug)]
pub struct Processes {
    parent: cgroup::Parent,
    running: Arc<AtomicUsize>,
    children_max: usize,
}

impl Processes {
    /// At most so many children at a time.
    pub fn new(children_max: usize) -> Self {
        Self { parent: cgroup::parent(), running: Arc::default(), children_max }
    }

    /// The same without cgroups, as where they cannot be written.
    pub fn without_cgroups(children_max: usize) -> Self {
        let parent = Err("cgroups are not wanted".to_owned());
        Self { parent, running: Arc::default(), children_max }
    }
}

impl Runner for Processes {
    fn start(&self, run: Run, done: Done) -> Handle {
        let cancel = match eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) {
            Ok(cancel) => Arc::new(cancel),
            Err(why) => {
                done(not_started(&why.into()));
                return Handle::new(|| ());
            }
        };
        if self.running.fetch_add(1, Ordering::AcqRel) >= self.children_max {
            self.running.fetch_sub(1, Ordering::AcqRel);
            done(refused(NotStarted::TooMany(self.children_max)));
            return Handle::new(|| ());
        }
        let place = Place(Arc::clone(&self.running));
        // Here and in the thread: if there can be no thread, it is called here.
        let done = Arc::new(Mutex::new(Some(done)));
        let tell = {
            let done = Arc::clone(&done);
            move |outcome| {
                if let Some(done) = done.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    done(outcome);
                }
            }
        };
        let (parent, cancelled) = (self.parent.clone(), Arc::clone(&cancel));
        let watch = {
            let tell = tell.clone();
            move || {
                match Watched::start(run, &parent, cancelled) {
                    Ok(child) => child.watch(tell),
                    Err(why) => tell(refused(why)),
                }
                drop(place);
            }
        };
        let thread = thread::Builder::new().name("child".into()).stack_size(STACK_BYTES);
        if let Err(why) = thread.spawn(watch) {
            tell(not_started(&why));
        }
        Handle::new(move || {
            // It cannot be full: each handle writes a few times at most.
            let _ = rustix::io::write(&cancel, &1u64.to_ne_bytes());
        })
    }
}

/// One of the children that may run at a time.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn refused(why: NotStarted) -> Outcome {
    Outcome::new(Exit::NotStarted(why), Millis(0))
}

fn not_started(why: &io::Error) -> Outcome {
    refused(NotStarted::Refused(why.to_string()))
}

/// Why `exec` failed. It does not for a text without an interpreter, which `/bin/sh` reads.
fn why_not(why: &io::Error) -> NotStarted {
    match why.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => NotStarted::Missing,
        ErrorKind::PermissionDenied => NotStarted::NotExecutable,
        _ => NotStarted::Refused(why.to_string()),
    }
}

/// Lets the child make a session, and so a process group, of its own, enter its cgroup through
/// `door`, and keep no descriptor of ours but its three streams.
fn before_exec(command: &mut Command, door: Option<File>) {
    let prepare = move || {
        rustix::process::setsid()?;
        if let Some(door) = &door {
            // Refused: the parent sees that the child is not in there.
            let _ = rustix::io::write(door, b"0");
        }
        // SAFETY: no memory is passed. Descriptors stay open until `exec`, which closes them.
        let rc = unsafe {
            libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
        };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: after fork(2) in a process with threads only async-signal-safe calls are allowed:
    // these are system calls, and an error is made without allocating.
    unsafe { command.pre_exec(prepare) };
}

/// A stream from the child.
struct Stream {
    pipe: Option<OwnedFd>,
    read: Output,
}

impl Stream {
    fn new(pipe: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pipe, read: Output::default() })
    }

    /// Takes what is there; the pipe is closed when nobody writes any more.
    fn read(&mut self, buffer: &mut [u8], bytes_max: usize) {
        let Some(pipe) = &self.pipe else { return };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => self.read.take(&buffer[..count], bytes_max),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.pipe = None,
        }
    }
}

/// A child, its streams, and what holds its processes together.
struct Watched {
    run: Run,
    child: Child,
    pid: Pid,
    ends: OwnedFd,
    cancel: Arc<OwnedFd>,
    stdin: Option<ChildStdin>,
    unwritten: VecDeque<u8>,
    stdout: Stream,
    stderr: Stream,
    cgroup: Result<Cgroup, String>,
    started: Instant,
    stop: Stop,
}

impl Watched {
    fn start(
        mut run: Run,
        parent: &cgroup::Parent,
        cancel: Arc<OwnedFd>,
    ) -> Result<Self, NotStarted> {
        if !run.program.is_absolute() {
            return Err(NotStarted::Relative);
        }
        let made = parent.clone().and_then(|parent| {
            let made = Cgroup::new(&parent, &run.cgroup).and_then(|c| Ok((c.door()?, c)));
            made.map_err(|e| format!("no cgroup in {}: {e}", parent.display()))
        });
        let (door, mut cgroup) = match made {
            Ok((door, cgroup)) => (Some(door), Ok(cgroup)),
            Err(why) => (None, Err(why)),
        };
        let input = if run.stdin.is_empty() { Stdio::null() } else { Stdio::piped() };
        let mut command = Command::new(&run.program);
        command.args(&run.args).env_clear().envs(&run.env).current_dir("/");
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        before_exec(&mut command, door);
        let started = Instant::now();
        let mut child = command.spawn().map_err(|why| why_not(&why))?;
        // It holds the door open, which a cgroup must not outlive.
        drop(command);
        if cgroup.as_ref().is_ok_and(|cgroup| !cgroup.has(child.id())) {
            cgroup = Err("the kernel does not let it into its cgroup".to_owned());
        }
        let pid = Pid::from_child(&child);
        let taken = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let watched = || -> io::Result<_> {
            let (stdin, stdout, stderr) = taken;
            if let Some(stdin) = &stdin {
                ioctl_fionbio(stdin, true)?;
            }
            let stdout = Stream::new(stdout.map(Into::into))?;
            let stderr = Stream::new(stderr.map(Into::into))?;
            Ok((pidfd_open(pid, PidfdFlags::empty())?, stdin, stdout, stderr))
        };
        let (ends, stdin, stdout, stderr) = watched().map_err(|why| {
            // Nobody could watch it.
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = child.wait();
            NotStarted::Refused(why.to_string())
        })?;
        let unwritten = std::mem::take(&mut run.stdin).into();
        let stop = Stop::Running;
        Ok(Self {
            run,
            child,
            pid,
            ends,
            cancel,
            stdin,
            unwritten,
            stdout,
            stderr,
            cgroup,
            started,
            stop,
        })
    }

    /// Watches the child until it has ended and was reaped; tells the outcome once.
    fn watch(mut self, tell: impl FnOnce(Outcome)) {
        let limits = Limits { deadline: length(self.run.deadline), grace: length(self.run.grace) };
        let mut buffer = vec![0; READ_BYTES];
        let mut tell = Some(tell);
        let mut is_cancelled = false;
        loop {
            let due = self.stop.due(limits).map(|due| due.saturating_sub(self.started.elapsed()));
            let woken = self.wait(due, is_cancelled, &mut buffer);
            is_cancelled |= woken.is_cancelled;
            if woken.has_ended {
                break;
            }
            let (next, step) = self.stop.next(self.started.elapsed(), is_cancelled, limits);
            self.stop = next;
            match step {
                Some(Step::Terminate) => drop(kill_process_group(self.pid, Signal::TERM)),
                Some(Step::Kill) => self.kill(),
                Some(Step::GiveUp) => {
                    if let Some(tell) = tell.take() {
                        tell(self.outcome(None));
                    }
                }
                None => {}
            }
        }
        let duration = self.started.elapsed();
        let leaves = self.run.survivors == Survivors::Kill || self.stop != Stop::Running;
        // Before it is reaped: until then no other process group has its number.
        if leaves {
            self.kill();
        }
        self.read_rest(leaves, &mut buffer);
        let status = self.child.wait().ok();
        if let Ok(cgroup) = &self.cgroup {
            cgroup.remove(if leaves { CLEANUP } else { Duration::ZERO });
        }
        if let Some(tell) = tell {
            tell(Outcome { duration: millis(duration), ..self.outcome(status) });
        }
    }

    /// Waits for something to happen, for `due` at most, and carries what can be carried.
    fn wait(&mut self, due: Option<Duration>, is_cancelled: bool, buffer: &mut [u8]) -> Woken {
        let none = PollFlags::empty();
        // Once cancelled it stays so: its event must not wake us again.
        let watch_cancel = if is_cancelled { none } else { PollFlags::IN };
        let mut watched =
            vec![PollFd::new(&self.ends, PollFlags::IN), PollFd::new(&*self.cancel, watch_cancel)];
        let pipes = [&self.stdout.pipe, &self.stderr.pipe];
        watched.extend(pipes.into_iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        watched.extend(self.stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        let timeout = due.and_then(|due| Timespec::try_from(due).ok());
        if poll(&mut watched, timeout.as_ref()).is_err() {
            return Woken { has_ended: false, is_cancelled: false };
        }
        let has_ended = !watched[0].revents().is_empty();
        let is_cancelled = !watched[1].revents().is_empty();
        drop(watched);
        self.write();
        self.stdout.read(buffer, self.run.output_bytes_max);
        self.stderr.read(buffer, self.run.output_bytes_max);
        Woken { has_ended, is_cancelled }
    }

    /// Writes as much of its input as fits; closes the pipe after the last byte, or when the child
    /// has closed it.
    fn write(&mut self) {
        let Some(stdin) = &self.stdin else { return };
        match rustix::io::write(stdin, self.unwritten.as_slices().0) {
            Ok(count) => drop(self.unwritten.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.unwritten.clear(),
        }
        if self.unwritten.is_empty() {
            self.stdin = None;
        }
    }

    /// Reads what is left in the pipes. If all who could write were killed, to the end; a process
    /// that stays may hold them open for ever.
    fn read_rest(&mut self, to_the_end: bool, buffer: &mut [u8]) {
        self.stdin = None;
        let until = Instant::now() + CLEANUP;
        for stream in [&mut self.stdout, &mut self.stderr] {
            while let Some(pipe) = &stream.pipe {
                let left = until.saturating_duration_since(Instant::now());
                let patience = if to_the_end { left } else { Duration::ZERO };
                let mut watched = [PollFd::new(pipe, PollFlags::IN)];
                let timeout = Timespec::try_from(patience).ok();
                // One that writes without end would keep this from ever ending.
                let late = Instant::now() >= until;
                if late || !matches!(poll(&mut watched, timeout.as_ref()), Ok(1..)) {
                    break;
                }
                stream.read(buffer, self.run.output_bytes_max);
            }
        }
    }

    /// Sends SIGKILL to all of its processes. It was not reaped yet.
    fn kill(&self) {
        if let Ok(cgroup) = &self.cgroup {
            let _ = cgroup.kill();
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
    }

    /// `status`: how it ended; `None`: it did not.
    fn outcome(&mut self, status: Option<ExitStatus>) -> Outcome {
        let by_itself = |status: ExitStatus| match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or_default()),
        };
        let exit = match (self.stop.reason(), status) {
            (Some(Reason::Deadline), _) => Exit::DeadlineKilled,
            (Some(Reason::Cancelled), _) => Exit::Cancelled,
            (None, Some(status)) => by_itself(status),
            // The kernel has lost it: only if this process ignores SIGCHLD.
            (None, None) => Exit::NotStarted(NotStarted::Refused("its end was not told".into())),
        };
        Outcome {
            exit,
            stdout: std::mem::take(&mut self.stdout.read),
            stderr: std::mem::take(&mut self.stderr.read),
            duration: millis(self.started.elapsed()),
            containment: match &self.cgroup {
                Ok(_) => Containment::Cgroup,
                Err(why) => Containment::ProcessGroup(why.clone()),
            },
            lingers: status.is_none(),
        }
    }
}

/// What a child's thread was woken by.
struct Woken {
    has_ended: bool,
    is_cancelled: bool,
}

fn length(ms: Millis) -> Duration {
    Duration::from_millis(ms.0)
}

fn millis(length: Duration) -> Millis {
    Millis(length.as_millis() as u64)
}
