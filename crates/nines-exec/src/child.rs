//! Runs as real processes, each watched by a thread of its own.
//!
//! ```text
//! watcher --- start: cgroup, fork; the child waits at its gate --- opens it; output; end; reaps
//!    `-- guard of the start, a thread that waits with it: past the deadline, or cancelled, it
//!        tells the outcome, and whenever the start is done the gate stays shut
//! ```
//! Decides: what the deadline covers (everything, the start too), the order in which a child is
//! stopped, and that each is reaped: the watcher ends after its child, whoever still wants to know.

use std::{
    io::{self, ErrorKind},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nines_model::Millis;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
    process::{Signal, WaitIdStatus, kill_process_group, pidfd_send_signal},
};

use self::{limits::Places, stream::Streams};
use crate::{
    Done, Handle, Runner,
    cgroup::{self, Leftover},
    process,
    run::{Containment, Exit, NotStarted, Outcome, Run, Survivors},
    start::{self, Waiting},
    stop::{Limits, PATIENCE, Reason, Step, Stop},
};

mod limits;
mod stream;

/// How long output is still read, and a cgroup removed, after a child has ended and what it left
/// was killed.
const CLEANUP: Duration = Duration::from_secs(1);
/// How often those who were killed are looked for again where there is no cgroup.
const AGAIN: Duration = Duration::from_millis(10);
/// Stack of a thread that starts or watches a child: it calls nothing deep.
const STACK_BYTES: usize = 256 << 10;

/// Real processes.
///
/// A child has three streams, the environment of its run, `/` as its directory, and a session of
/// its own. Whatever the agent has set for itself, a child has the file mode mask 022, 1024 open
/// files (the hard limit stays), no signal blocked or ignored, an `oom_score_adj` of 0, and neither
/// real-time scheduling nor a higher priority than others.
#[derive(Debug)]
pub struct Processes {
    parent: cgroup::Parent,
    leftovers: Vec<Leftover>,
    places: Arc<Places>,
}

impl Processes {
    /// At most so many children at a time. Ends what earlier runners have left, as
    /// [`Processes::leftovers`] tells; that takes a second at most.
    pub fn new(children_max: usize) -> Self {
        let parent = cgroup::parent();
        let leftovers = parent.as_deref().map(cgroup::leftovers).unwrap_or_default();
        Self { parent, leftovers, places: Places::new(children_max) }
    }

    /// The same without cgroups, as where they cannot be written. What a run leaves behind is then
    /// found by its session, and leftovers of earlier runners are not found.
    pub fn without_cgroups(children_max: usize) -> Self {
        let parent = Err("cgroups are not wanted".to_owned());
        Self { parent, leftovers: Vec::new(), places: Places::new(children_max) }
    }

    /// Where runs get their cgroups, or why they get none. It may be refused later all the same:
    /// each outcome says what held its processes together.
    pub fn cgroups(&self) -> Result<&PathBuf, &String> {
        self.parent.as_ref()
    }

    /// Cancels all runs, and starts none any more: for an agent that ends. `true`: all that they
    /// had started has ended, which is waited for so long at most.
    pub fn end_all(&self, patience: Millis) -> bool {
        self.places.end_all(length(patience))
    }

    /// Processes that were found in cgroups of runners that are no more: their process had ended,
    /// or it was this one before it became another program by `exec`.
    pub fn leftovers(&self) -> &[Leftover] {
        &self.leftovers
    }
}

impl Runner for Processes {
    fn start(&self, run: Run, done: Done) -> Handle {
        let started = Instant::now();
        let cancel = match eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) {
            Ok(cancel) => Arc::new(cancel),
            Err(why) => {
                done(not_started(&why.into()));
                return Handle::new(|| ());
            }
        };
        let place = match self.places.take(&cancel) {
            Ok(place) => place,
            Err(why) => {
                done(refused(why));
                return Handle::new(|| ());
            }
        };
        let tell = Tell::new(done);
        let parent = self.parent.clone();
        let watch = Watch { run: Arc::new(run), cancel: Arc::clone(&cancel), started };
        let work = {
            let tell = tell.clone();
            move || {
                start::prepare_thread();
                watch.carry_out(|run| start::start(run, &parent), &tell);
                drop(place);
            }
        };
        let thread = thread::Builder::new().name("child".into()).stack_size(STACK_BYTES);
        if let Err(why) = thread.spawn(work) {
            tell.once(not_started(&why));
        }
        Handle::new(move || limits::cancel(&cancel))
    }
}

/// Who is to be told, by the first of several that know an outcome.
#[derive(Clone)]
struct Tell(Arc<Mutex<Option<Done>>>);

impl Tell {
    fn new(done: Done) -> Self {
        Self(Arc::new(Mutex::new(Some(done))))
    }

    fn once(&self, outcome: Outcome) {
        let done = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(done) = done {
            done(outcome);
        }
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

/// A run, when it began, and what says that nobody wants it any more.
#[derive(Clone)]
struct Watch {
    run: Arc<Run>,
    cancel: Arc<OwnedFd>,
    started: Instant,
}

impl Watch {
    /// Starts and watches a child until it has ended and was reaped; tells the outcome once.
    fn carry_out(&self, start: impl FnOnce(&Run) -> Result<Waiting, NotStarted>, tell: &Tell) {
        let starting = match self.guard_start(tell) {
            Ok(starting) => starting,
            Err(why) => return tell.once(not_started(&why)),
        };
        let made = start(&self.run);
        drop(starting);
        if let Some(reason) = self.is_stopped(None, Duration::ZERO) {
            // Nobody opens its gate: nothing of the program runs.
            drop(made);
            return tell.once(self.unbegun(reason));
        }
        match made.map(|child| Watched::new(self, child)) {
            Ok(Ok(child)) => child.watch(tell),
            Ok(Err(why)) => tell.once(not_started(&why)),
            Err(why) => tell.once(refused(why)),
        }
    }

    /// Has a thread wait with the start, which may hang in `fork` or in the file system of cgroups:
    /// until what is returned is dropped. If that takes too long the thread tells the outcome.
    fn guard_start(&self, tell: &Tell) -> io::Result<io::PipeWriter> {
        let (ends, starting) = io::pipe()?;
        let (watch, tell, ends) = (self.clone(), tell.clone(), OwnedFd::from(ends));
        let guard = move || {
            start::prepare_thread();
            let deadline = length(watch.run.deadline);
            let left = deadline.saturating_sub(watch.started.elapsed());
            if let Some(reason) = watch.is_stopped(Some(&ends), left)
                && !is_readable(&ends, PATIENCE)
            {
                tell.once(Outcome { lingers: true, ..watch.unbegun(reason) });
            }
        };
        let thread = thread::Builder::new().name("child-start".into()).stack_size(STACK_BYTES);
        thread.spawn(guard)?;
        Ok(starting)
    }

    /// Why the run is not wanted any more, if it is not; waits for that so long, or until there is
    /// something to read from `until`.
    fn is_stopped(&self, until: Option<&OwnedFd>, patience: Duration) -> Option<Reason> {
        let mut watched = vec![PollFd::new(&*self.cancel, PollFlags::IN)];
        watched.extend(until.map(|fd| PollFd::new(fd, PollFlags::IN)));
        let _ = poll(&mut watched, Timespec::try_from(patience).ok().as_ref());
        let is_late = self.started.elapsed() >= length(self.run.deadline);
        if !watched[0].revents().is_empty() {
            Some(Reason::Cancelled)
        } else {
            is_late.then_some(Reason::Deadline)
        }
    }

    /// The outcome of a run whose program has not begun, and never will.
    fn unbegun(&self, reason: Reason) -> Outcome {
        let outcome = Outcome::new(stopped(reason), millis(self.started.elapsed()));
        Outcome { has_begun: false, ..outcome }
    }
}

/// Whether something can be read, or nothing any more, within `patience`.
fn is_readable(fd: &OwnedFd, patience: Duration) -> bool {
    let mut watched = [PollFd::new(fd, PollFlags::IN)];
    matches!(poll(&mut watched, Timespec::try_from(patience).ok().as_ref()), Ok(1..))
}

fn stopped(reason: Reason) -> Exit {
    match reason {
        Reason::Deadline => Exit::DeadlineKilled,
        Reason::Cancelled => Exit::Cancelled,
    }
}

/// A child whose gate is open, its streams, and how far its stop has come.
struct Watched {
    run: Arc<Run>,
    child: Waiting,
    cancel: Arc<OwnedFd>,
    streams: Streams,
    started: Instant,
    stop: Stop,
    begun: Begun,
    left_behind: usize,
}

/// Whether a child has become the program.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Begun {
    /// Its gate says nothing yet.
    NotYet,
    Yes,
    /// `exec` failed.
    Never(NotStarted),
}

impl Watched {
    /// Opens the gate.
    fn new(watch: &Watch, mut child: Waiting) -> io::Result<Self> {
        let (input, bytes_max) = (watch.run.stdin.clone(), watch.run.output_bytes_max);
        let streams = Streams::new(&mut child, input, bytes_max)?;
        child.open_gate()?;
        Ok(Self {
            run: Arc::clone(&watch.run),
            child,
            cancel: Arc::clone(&watch.cancel),
            streams,
            started: watch.started,
            stop: Stop::Running,
            begun: Begun::NotYet,
            left_behind: 0,
        })
    }

    /// Watches the child until it has ended and was reaped; tells the outcome once.
    fn watch(mut self, tell: &Tell) {
        let limits = Limits { deadline: length(self.run.deadline), grace: length(self.run.grace) };
        let mut is_cancelled = false;
        loop {
            let due = self.stop.due(limits).map(|due| due.saturating_sub(self.started.elapsed()));
            let woken = self.wait(due, is_cancelled);
            is_cancelled |= woken.is_cancelled;
            if woken.has_ended {
                break;
            }
            let (next, step) = self.stop.next(self.started.elapsed(), is_cancelled, limits);
            self.stop = next;
            match step {
                Some(Step::Terminate) => self.terminate(),
                Some(Step::Kill) => self.kill(),
                Some(Step::GiveUp) => tell.once(self.outcome(None, true)),
                None => {}
            }
        }
        let duration = self.started.elapsed();
        if self.begun == Begun::NotYet && self.stop == Stop::Running {
            // Its own end came before that of its gate, which another child held for a moment.
            self.begun = Begun::Yes;
        }
        let is_stopped = self.stop != Stop::Running;
        if !is_stopped {
            self.left_behind = self.others();
        }
        let leaves = self.run.survivors == Survivors::Kill || is_stopped;
        // Before it is reaped: until then no other process group, and no session, has its number.
        let is_alone = self.left_behind == 0 && !is_stopped;
        let is_gone = !leaves || is_alone || self.end_others();
        self.streams.read_rest(leaves, CLEANUP);
        let status = self.child.reap();
        let patience = if leaves { CLEANUP } else { Duration::ZERO };
        let is_removed = self.child.cgroup.as_ref().map(|cgroup| cgroup.remove(patience));
        let lingers = leaves && !(is_gone && is_removed.unwrap_or(true));
        tell.once(Outcome { duration: millis(duration), ..self.outcome(status, lingers) });
    }

    /// Waits for something to happen, for `due` at most, and carries what can be carried.
    fn wait(&mut self, due: Option<Duration>, is_cancelled: bool) -> Woken {
        let none = PollFlags::empty();
        // Once cancelled it stays so: its event must not wake us again.
        let watch_cancel = if is_cancelled { none } else { PollFlags::IN };
        let mut watched = vec![
            PollFd::new(&self.child.ends, PollFlags::IN),
            PollFd::new(&*self.cancel, watch_cancel),
        ];
        watched.extend(self.streams.watched());
        watched.extend(self.child.gate.iter().map(|gate| PollFd::new(gate, PollFlags::IN)));
        let timeout = due.and_then(|due| Timespec::try_from(due).ok());
        if poll(&mut watched, timeout.as_ref()).is_err() {
            return Woken { has_ended: false, is_cancelled: false };
        }
        let has_ended = !watched[0].revents().is_empty();
        let is_cancelled = !watched[1].revents().is_empty();
        drop(watched);
        self.hear_gate();
        self.streams.carry();
        Woken { has_ended, is_cancelled }
    }

    /// Takes what the gate says: nothing yet; an errno of `exec`; or its end, which is the
    /// program's beginning, unless it was stopped on the way there: then nobody knows.
    fn hear_gate(&mut self) {
        let Some(gate) = &self.child.gate else { return };
        let mut errno = [0; size_of::<i32>()];
        match rustix::io::read(gate, &mut errno) {
            Ok(0) if self.stop == Stop::Running => self.begun = Begun::Yes,
            Ok(count) if count == errno.len() => {
                let why = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
                self.begun = Begun::Never(why_not(&why));
            }
            Err(Errno::AGAIN | Errno::INTR) => return,
            _ => {}
        }
        self.child.gate = None;
    }

    /// Asks its process group to end.
    fn terminate(&self) {
        if kill_process_group(self.child.pid, Signal::TERM).is_err() {
            // It has not made its group yet.
            let _ = pidfd_send_signal(&self.child.ends, Signal::TERM);
        }
    }

    /// Sends SIGKILL to all of its processes. It was not reaped yet.
    fn kill(&self) {
        match &self.child.cgroup {
            Ok(cgroup) => drop(cgroup.kill()),
            Err(_) => drop(process::kill_others_of_session(self.child.pid)),
        }
        let _ = kill_process_group(self.child.pid, Signal::KILL);
        let _ = pidfd_send_signal(&self.child.ends, Signal::KILL);
    }

    /// How many processes it has left behind, as far as they can be found.
    fn others(&self) -> usize {
        match &self.child.cgroup {
            Ok(cgroup) => cgroup.processes(),
            Err(_) => process::others_of_session(self.child.pid).len(),
        }
    }

    /// Kills what it has left behind; `false`: some of its session do not end. Without a cgroup one
    /// that forks while it is looked for is found the next time.
    fn end_others(&self) -> bool {
        self.kill();
        if self.child.cgroup.is_ok() {
            return true;
        }
        let until = Instant::now() + CLEANUP;
        while process::kill_others_of_session(self.child.pid) > 0 {
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(AGAIN);
        }
        true
    }

    /// `status`: how it ended; `None`: it did not.
    fn outcome(&mut self, status: Option<WaitIdStatus>, lingers: bool) -> Outcome {
        let by_itself =
            |status: WaitIdStatus| match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, signal) => Exit::Signal(signal.unwrap_or_default()),
            };
        let exit = match (&self.begun, self.stop.reason(), status) {
            (Begun::Never(why), ..) => Exit::NotStarted(why.clone()),
            (_, Some(reason), _) => stopped(reason),
            (_, None, Some(status)) => by_itself(status),
            // The kernel has lost it: only if this process ignores SIGCHLD.
            (_, None, None) => Exit::NotStarted(NotStarted::Refused("its end was not told".into())),
        };
        let [stdout, stderr] = self.streams.take();
        Outcome {
            exit,
            stdout,
            stderr,
            duration: millis(self.started.elapsed()),
            containment: match &self.child.cgroup {
                Ok(_) => Containment::Cgroup,
                Err(why) => Containment::ProcessGroup(why.clone()),
            },
            has_begun: self.begun == Begun::Yes,
            left_behind: self.left_behind,
            lingers,
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

#[cfg(test)]
mod tests;
