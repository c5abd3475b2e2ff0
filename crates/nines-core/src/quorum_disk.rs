//! The lease of a quorum disk: which of the hosts that share the disk runs its voter, and until
//! when that voter may speak.
//!
//! Each host writes its own block only, and reads all of them. An owner renews: it writes its
//! block, and after that it reads all others. Another host takes over when it has seen no change of
//! the owner's block for longer than an owner may speak.
//!
//! ```text
//!            nobody claims, or no claim has changed         no block of another
//!            from one of my reads to another, take apart    has changed since
//!  Watching ------------------------------------> Claiming ------------------> Holding
//!    ^  ^                                            | one has                   | copies the log,
//!    |  |            the block says: no claim        v                           | then the voter
//!    |  +---------------------------------------- Releasing <--+                 | may speak
//!    |                                                         | the voter has   |
//!    |                                                         | ended           |
//!    |                                                      Ending <-------------+
//!    |                              a higher claim, or no renewal in time
//! Stopped: asked to, or another process writes this host's block
//! ```
//!
//! Why never two may speak: docs/adr/0022-a-quorum-disk-is-a-lease-by-two-reads.md.
//!
//! Decides: when to write and read, who owns, until when, and whose log is the newest. Does no I/O:
//! the caller carries out one [`Step`] at a time and says how it went.

use nines_model::{Millis, Time};

#[cfg(test)]
mod tests;

/// Place of a host among those that share the disk, from 0 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostNumber(pub u8);

impl HostNumber {
    /// The place in a list of all hosts.
    pub const fn place(self) -> usize {
        self.0 as usize
    }
}

/// A claim of the disk. No two hosts ever have the same, and each new claim is higher than all that
/// its host has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// One more than the highest that was seen; 0: no claim.
    pub epoch: u64,
    /// Host that claims.
    pub host: HostNumber,
}

impl Ballot {
    /// No claim.
    pub const NONE: Self = Self { epoch: 0, host: HostNumber(0) };

    fn is_some(self) -> bool {
        self.epoch > 0
    }
}

/// What a host says on the disk. A block that was never written is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Number of the process that wrote it; no two have the same.
    pub run: u64,
    /// One more with each write.
    pub sequence: u64,
    /// The claim under which this host owns the disk or wants to; [`Ballot::NONE`]: neither.
    pub claim: Ballot,
    /// The claim under which this host's log became the newest one. It stays when the claim ends.
    pub owned: Ballot,
}

/// What a read found in a host's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its block.
    Block(Block),
    /// Nothing that can be read: it may hide a claim, or the newest log.
    Damaged,
}

/// How long things take, each by the boot clock of the host that measures it.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From the start of a renewal to the next; a watching host reads as often.
    pub beat: Millis,
    /// The voter may speak for so long after the start of a renewal.
    pub own: Millis,
    /// A claim that does not change for so long has ended.
    pub take: Millis,
    /// A host that met another one's claim waits at most so long at random.
    pub pause: Millis,
}

impl Timing {
    /// What hosts go by. They must all go by the same.
    pub const USUAL: Self =
        Self { beat: Millis(500), own: Millis(2_000), take: Millis(2_500), pause: Millis(1_500) };
    /// Largest difference between the rates of two clocks, in millionths.
    pub const RATES_DIFFER: u64 = 2_000;

    /// Whether a claim ends only after its voter may speak no more, by the fastest and the slowest
    /// clock: take > own x (1 + 2 e).
    pub const fn is_sound(&self) -> bool {
        self.take.0 * 1_000_000 > self.own.0 * (1_000_000 + 2 * Self::RATES_DIFFER)
            && self.beat.0 * 2 < self.own.0
    }
}

const _: () = assert!(Timing::USUAL.is_sound());

/// Why the voter of this host has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// This process was asked to stop.
    Asked,
    /// No renewal was in time: the disk does not answer, or this host stood still.
    Late,
    /// This host claims with a higher ballot.
    Outbid(HostNumber),
    /// Another process writes the block of this host.
    Twice,
}

/// What the caller does next. One read or write is under way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time.
    Wait(Time),
    /// Write this host's block durably, then [`Lease::wrote`] or [`Lease::failed`].
    Write(Block),
    /// Read all blocks, from the disk itself, then [`Lease::read`] or [`Lease::failed`].
    Read,
    /// Copy the log of that host to this one's area (`None`: begin an empty one), then
    /// [`Lease::copied`], and run the voter on it; renewals go on meanwhile.
    Start {
        /// Where the newest log is.
        from: Option<HostNumber>,
        /// The claim under which that is done.
        claim: Ballot,
    },
    /// End the voter, then [`Lease::voter_ended`]. Nothing may write this host's area afterwards.
    End(Why),
    /// This process has no claim any more and may end.
    Stopped(Why),
}

/// A block, and since when it has been unchanged: the end of the first read that saw it.
#[derive(Clone, Copy, Debug)]
struct Watched {
    seen: Seen,
    since: Time,
}

#[derive(Clone, Debug)]
enum Phase {
    Watching,
    Claiming {
        /// All blocks as the read showed them that led to the claim.
        before: Vec<Seen>,
        /// Start of the write of the claim, once it is done.
        wrote: Option<Time>,
    },
    Holding(Hold),
    Ending {
        why: Why,
        told: bool,
    },
    Releasing {
        /// How long to wait afterwards.
        pause: Millis,
    },
    Stopped(Why),
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    from: Option<HostNumber>,
    /// The caller was told to copy and to start.
    started: bool,
    /// The log is in this host's area.
    copied: bool,
    /// The block says so, and no higher claim was there afterwards.
    installed: bool,
    /// The caller was told to end the voter, because it was asked to.
    ends: bool,
    /// Ownership ends then unless it is renewed.
    deadline: Time,
    /// Start of the renewal's write, once that is done.
    wrote: Option<Time>,
}

/// The lease as one host sees it.
#[derive(Clone, Debug)]
pub struct Lease {
    me: HostNumber,
    run: u64,
    timing: Timing,
    /// This host's block as it was written or found last.
    own: Block,
    watched: Vec<Option<Watched>>,
    /// Highest epoch that any read has shown.
    epoch: u64,
    phase: Phase,
    /// Nothing is read or written before.
    next: Time,
    stopping: bool,
}

impl Lease {
    /// A process that starts. `run`: a number that no other process has. It knows nothing of an
    /// earlier process of this host, and watches its block like those of others.
    pub fn new(me: HostNumber, hosts: u8, run: u64, timing: Timing) -> Self {
        assert!(me.0 < hosts && run != 0, "a host is one of all");
        Self {
            me,
            run,
            timing,
            own: Block::default(),
            watched: vec![None; hosts as usize],
            epoch: 0,
            phase: Phase::Watching,
            next: Time(0),
            stopping: false,
        }
    }

    /// Until when the voter may speak: a message may leave if the boot clock shows less, after
    /// everything that it says is on the disk. Zero: not at all.
    pub fn speaks_until(&self) -> Time {
        match &self.phase {
            Phase::Holding(hold) if hold.installed => hold.deadline,
            _ => Time(0),
        }
    }

    /// Whether this host has won the disk, from before it copies the log to the end of its voter.
    pub fn holds(&self) -> bool {
        matches!(self.phase, Phase::Holding(_) | Phase::Ending { .. })
    }

    /// The process is to stop: its voter ends first.
    pub fn stop(&mut self) {
        self.stopping = true;
        match self.phase {
            Phase::Watching => self.phase = Phase::Stopped(Why::Asked),
            Phase::Claiming { .. } => self.phase = Phase::Releasing { pause: Millis(0) },
            _ => {}
        }
    }

    /// What to do next.
    pub fn step(&mut self, now: Time) -> Step {
        if let Phase::Holding(hold) = &self.phase
            && now >= hold.deadline
            // A renewal that is half done may still count.
            && hold.wrote.is_none_or(|wrote| now >= wrote.plus(self.timing.own))
        {
            self.end(Why::Late);
        }
        let (own, run, next, epoch) = (self.own, self.run, self.next, self.epoch);
        let write =
            |claim, owned| Step::Write(Block { run, sequence: own.sequence + 1, claim, owned });
        let ready = now >= next;
        match &mut self.phase {
            Phase::Stopped(why) => Step::Stopped(*why),
            Phase::Ending { why, told: told @ false } => {
                *told = true;
                Step::End(*why)
            }
            Phase::Ending { .. } => Step::Wait(now.plus(self.timing.beat)),
            Phase::Holding(hold) if !hold.started => {
                hold.started = true;
                Step::Start { from: hold.from, claim: own.claim }
            }
            Phase::Holding(hold) if self.stopping && !hold.ends => {
                hold.ends = true;
                Step::End(Why::Asked)
            }
            Phase::Holding(hold) if !ready => Step::Wait(next.min(hold.deadline)),
            _ if !ready => Step::Wait(next),
            Phase::Watching
            | Phase::Claiming { wrote: Some(_), .. }
            | Phase::Holding(Hold { wrote: Some(_), .. }) => Step::Read,
            Phase::Claiming { .. } => write(Ballot { epoch: epoch + 1, host: self.me }, own.owned),
            Phase::Holding(hold) => {
                write(own.claim, if hold.copied { own.claim } else { own.owned })
            }
            Phase::Releasing { .. } => write(Ballot::NONE, own.owned),
        }
    }

    /// The write that was asked for last is on the disk. `started`: when it was begun.
    pub fn wrote(&mut self, started: Time, ended: Time, block: Block) {
        self.own = block;
        match &mut self.phase {
            Phase::Claiming { wrote, .. } => *wrote = Some(started),
            Phase::Holding(hold) => hold.wrote = Some(started),
            Phase::Releasing { pause } => {
                let pause = *pause;
                self.watch(ended.plus(pause));
            }
            Phase::Watching | Phase::Ending { .. } | Phase::Stopped(_) => {}
        }
    }

    /// The read or write that was asked for last failed, or its outcome is not known. A write is
    /// tried again as it was: what it says counts only once it is done.
    pub fn failed(&mut self, now: Time) {
        if let Phase::Holding(hold) = &mut self.phase {
            hold.wrote = None;
        }
        if matches!(self.phase, Phase::Watching) {
            self.watched.fill(None);
        }
        self.next = now.plus(self.timing.beat);
    }

    /// All blocks were read, from `started` to `ended`. `random`: any number.
    pub fn read(&mut self, started: Time, ended: Time, blocks: &[Seen], random: u64) {
        assert_eq!(blocks.len(), self.watched.len(), "each host has a block");
        let own = Seen::Block(self.own);
        self.epoch = self.epoch.max(highest(blocks));
        match &self.phase {
            Phase::Watching => self.watched_read(started, ended, blocks),
            Phase::Claiming { before, wrote: Some(wrote) } => {
                let deadline = wrote.plus(self.timing.own);
                let me = self.me.place();
                let others = |(place, seen): (usize, &Seen)| place == me || *seen == before[place];
                let mine = blocks[me] == own;
                let won = mine && blocks.iter().enumerate().all(others) && ended < deadline;
                let from = newest(before);
                if !mine {
                    self.phase = Phase::Stopped(Why::Twice);
                } else if won {
                    self.next = wrote.plus(self.timing.beat);
                    self.phase = Phase::Holding(Hold {
                        from,
                        started: false,
                        copied: false,
                        installed: false,
                        ends: false,
                        deadline,
                        wrote: None,
                    });
                } else {
                    let pause = Millis(random % self.timing.pause.0.max(1));
                    self.phase = Phase::Releasing { pause };
                    self.next = ended;
                }
            }
            Phase::Holding(hold) => self.renewed(*hold, ended, blocks),
            _ => {}
        }
    }

    /// The log is in this host's area, as a whole and durably.
    pub fn copied(&mut self, now: Time) {
        if let Phase::Holding(hold) = &mut self.phase {
            hold.copied = true;
            self.next = now;
        }
    }

    /// The voter, or what was to start it, has ended, and nothing of it writes any more.
    pub fn voter_ended(&mut self, now: Time) {
        match self.phase {
            Phase::Holding(_) => {
                self.phase = Phase::Releasing { pause: self.timing.pause };
                self.next = now;
            }
            Phase::Ending { why: Why::Twice, .. } => self.phase = Phase::Stopped(Why::Twice),
            Phase::Ending { .. } => {
                self.phase = Phase::Releasing { pause: Millis(0) };
                self.next = now;
            }
            _ => {}
        }
    }

    /// A read of a host that has no claim.
    fn watched_read(&mut self, started: Time, ended: Time, blocks: &[Seen]) {
        for (watched, seen) in self.watched.iter_mut().zip(blocks) {
            if watched.is_none_or(|watched| watched.seen != *seen) {
                *watched = Some(Watched { seen: *seen, since: ended });
            }
        }
        let take = self.timing.take.ns();
        let has_ended = |watched: &Option<Watched>| match watched {
            Some(Watched { seen: Seen::Block(block), since }) => {
                !block.claim.is_some() || started.since(*since) >= take
            }
            // What it hides may be a claim that lives, or the newest log.
            Some(Watched { seen: Seen::Damaged, .. }) | None => false,
        };
        if self.watched.iter().all(has_ended)
            && let Seen::Block(own) = blocks[self.me.place()]
        {
            self.own = own;
            self.phase = Phase::Claiming { before: blocks.to_vec(), wrote: None };
            self.next = ended;
        } else {
            self.next = started.plus(self.timing.beat);
        }
    }

    /// The read that ends a renewal. Only what it shows makes the renewal count: a claim that this
    /// read does not show was written after it, and its host reads the renewed block.
    fn renewed(&mut self, hold: Hold, ended: Time, blocks: &[Seen]) {
        let Some(wrote) = hold.wrote else { return };
        if blocks[self.me.place()] != Seen::Block(self.own) {
            return self.end(Why::Twice);
        }
        let mut all = (0..).map(HostNumber).zip(blocks);
        let higher = |seen: &Seen| matches!(seen, Seen::Block(b) if b.claim > self.own.claim);
        if let Some((host, _)) = all.find(|(_, seen)| higher(seen)) {
            return self.end(Why::Outbid(host));
        }
        if blocks.contains(&Seen::Damaged) {
            return self.failed(ended);
        }
        let installed = self.own.owned == self.own.claim;
        let deadline = wrote.plus(self.timing.own);
        self.phase = Phase::Holding(Hold { installed, deadline, wrote: None, ..hold });
        let at_once = hold.copied && !installed;
        self.next = if at_once { ended } else { wrote.plus(self.timing.beat) };
    }

    fn end(&mut self, why: Why) {
        let started = matches!(&self.phase, Phase::Holding(hold) if hold.started);
        self.phase = match (started, why) {
            (true, _) => Phase::Ending { why, told: false },
            (false, Why::Twice) => Phase::Stopped(why),
            (false, _) => Phase::Releasing { pause: Millis(0) },
        };
    }

    /// Watches from then on, as if it had seen nothing yet.
    fn watch(&mut self, next: Time) {
        self.watched.fill(None);
        self.next = next;
        self.phase = if self.stopping { Phase::Stopped(Why::Asked) } else { Phase::Watching };
    }
}

fn blocks(all: &[Seen]) -> impl Iterator<Item = (HostNumber, &Block)> {
    (0..).map(HostNumber).zip(all).filter_map(|(host, seen)| match seen {
        Seen::Block(block) => Some((host, block)),
        Seen::Damaged => None,
    })
}

/// Highest epoch of any claim, of now or of earlier.
fn highest(all: &[Seen]) -> u64 {
    blocks(all).map(|(_, b)| b.claim.epoch.max(b.owned.epoch)).max().unwrap_or(0)
}

/// The host whose log is the newest: the one that owned the disk under the highest claim. `None`:
/// nobody ever did. Never told by a time.
pub fn newest(all: &[Seen]) -> Option<HostNumber> {
    let owned = blocks(all).filter(|(_, block)| block.owned.is_some());
    owned.max_by_key(|(_, block)| block.owned).map(|(host, _)| host)
}
