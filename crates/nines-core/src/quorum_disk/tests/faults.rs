//! Hosts on one simulated disk, with faults: slow reads and writes, hosts that stand still before a
//! write lands and after, lost paths, processes that are killed, clocks of different rates.
//!
//! Judged after each event: never may two voters speak; a log that an owner goes by has everything
//! that was acknowledged before; and when faults have ended, some host owns the disk.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const MS: u64 = 1_000_000;
/// Faults end after so long, and healing takes at most so long.
const FAULTS: u64 = 60_000 * MS;
const HEALED: u64 = 15_000 * MS;

/// What is put in to show that the judges find it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sabotage {
    None,
    /// A claim counts as ended after so long, ms.
    Take(u64),
    /// A voter speaks without asking for its deadline.
    NoDeadline,
    /// The log is copied from another host than the newest.
    WrongArea,
    /// Reads come from a cache.
    OldReads,
    /// An owner does not see the claims of others.
    BlindOwner,
}

/// Numbers from a seed (splitmix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// The process looks what to do.
    Wake,
    /// A block comes to the disk.
    Lands(Block),
    /// A read sees the disk.
    Looks,
    /// The disk has answered: when it was asked, and what of.
    Answers(Time, Answer),
    /// The voter's log gets an entry on the disk; its process hears of it later.
    LogLands(u64),
    LogAnswers(u64),
    /// The voter writes an entry.
    Appends,
    /// The copy reads the other's area; it is in this one's.
    CopyReads(HostNumber),
    CopyEnds(Vec<u64>),
    /// Faults.
    Freezes(u64),
    LosesPath(u64),
    Dies(u64),
}

#[derive(Clone, Debug)]
enum Answer {
    Wrote(Block),
    Read,
    Failed,
}

/// A host and its process.
struct Host {
    lease: Lease,
    /// Millionths that its clock is fast, and what it showed at first.
    rate: i64,
    offset: u64,
    frozen_until: u64,
    no_path_until: u64,
    /// Process number: answers for an earlier one come to nobody.
    process: u64,
    /// What a read under way has seen.
    looked: Option<Vec<Seen>>,
    /// The voter runs: from the start of the copy on.
    votes: bool,
    copied: bool,
    ends: bool,
    writing: bool,
    spoke: bool,
}

struct World {
    draw: Draw,
    sabotage: Sabotage,
    now: u64,
    /// One in so many reads and writes is slow while there are faults.
    slow: u64,
    events: BTreeMap<(u64, u64), (usize, u64, Event)>,
    count: u64,
    hosts: Vec<Host>,
    blocks: Vec<Seen>,
    before: Vec<Seen>,
    areas: Vec<Vec<u64>>,
    acknowledged: BTreeSet<u64>,
    owners: BTreeSet<usize>,
    spoken: u64,
}

impl World {
    fn new(seed: u64, sabotage: Sabotage) -> Self {
        let mut draw = Draw(seed);
        let count = draw.between(2, 5) as usize;
        let take = match sabotage {
            Sabotage::Take(ms) => Millis(ms),
            _ => T.take,
        };
        let timing = Timing { take, ..T };
        let host = |number: usize| Host {
            lease: Lease::new(HostNumber(number as u8), count as u8, 1 + number as u64, timing),
            rate: 0,
            offset: 0,
            frozen_until: 0,
            no_path_until: 0,
            process: 1 + number as u64,
            looked: None,
            votes: false,
            copied: false,
            ends: false,
            writing: false,
            spoke: false,
        };
        let blocks = vec![Seen::Block(Block::default()); count];
        let slow = draw.between(2, 30);
        let mut world = Self {
            draw,
            sabotage,
            now: 0,
            slow,
            events: BTreeMap::new(),
            count: 0,
            hosts: (0..count).map(host).collect(),
            before: blocks.clone(),
            blocks,
            areas: vec![Vec::new(); count],
            acknowledged: BTreeSet::new(),
            owners: BTreeSet::new(),
            spoken: 0,
        };
        for number in 0..count {
            let host = &mut world.hosts[number];
            host.rate = world.draw.between(0, 4_001) as i64 - 2_000;
            host.offset = world.draw.between(1, 1 << 50);
            let start = world.draw.between(0, 3_000 * MS);
            world.put(number, start, Event::Wake);
            world.faults(number);
        }
        world
    }

    /// Draws what goes wrong with a host.
    fn faults(&mut self, number: usize) {
        let mut at = self.draw.between(0, 8_000 * MS);
        while at < FAULTS {
            let short = self.draw.between(1, 3_000 * MS);
            let long = self.draw.between(1, 12_000 * MS);
            let event = match self.draw.between(0, 8) {
                0..=3 => Event::Freezes(if self.draw.one_in(2) { short } else { long }),
                4..=5 => Event::LosesPath(long),
                _ => Event::Dies(short),
            };
            self.put(number, at, event);
            at += self.draw.between(10 * MS, 9_000 * MS);
        }
    }

    fn put(&mut self, host: usize, after: u64, event: Event) {
        self.count += 1;
        let process = self.hosts[host].process;
        self.events.insert((self.now + after, self.count), (host, process, event));
    }

    fn local(&self, host: usize, at: u64) -> Time {
        let Host { rate, offset, .. } = &self.hosts[host];
        let drift = i128::from(at) * i128::from(*rate) / 1_000_000;
        Time((i128::from(*offset) + i128::from(at) + drift) as u64)
    }

    fn clock(&self, host: usize) -> Time {
        self.local(host, self.now)
    }

    /// How long a read or write takes: a few ms mostly, seconds at times while there are faults.
    fn latency(&mut self) -> u64 {
        let slow = self.now < FAULTS && self.draw.one_in(self.slow);
        let longest = match self.draw.between(0, 6) {
            _ if !slow => 15,
            0 => 6_000,
            1..=2 => 2_500,
            _ => 900,
        };
        self.draw.between(MS / 10, longest * MS)
    }

    /// Whether the voter of a host may speak now.
    fn may_speak(&self, number: usize) -> bool {
        let host = &self.hosts[number];
        let until = host.lease.speaks_until();
        match self.sabotage {
            Sabotage::NoDeadline => host.votes && until != Time(0),
            _ => host.votes && self.clock(number) < until,
        }
    }

    fn judge(&mut self) -> Result<(), String> {
        let speak: Vec<usize> = (0..self.hosts.len()).filter(|h| self.may_speak(*h)).collect();
        if speak.len() > 1 {
            return Err(format!("hosts {speak:?} may speak at once, {} ms", self.now / MS));
        }
        for number in speak {
            if std::mem::replace(&mut self.hosts[number].spoke, true) {
                continue;
            }
            self.owners.insert(number);
            let log: BTreeSet<u64> = self.areas[number].iter().copied().collect();
            if let Some(lost) = self.acknowledged.difference(&log).next() {
                return Err(format!("host {number} goes by a log without entry {lost}"));
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(((at, _), (host, process, event))) = self.events.pop_first() {
            if at > FAULTS + HEALED + 3_000 * MS {
                break;
            }
            self.now = at;
            self.happens(host, process, event);
            self.judge()?;
            if at > FAULTS + HEALED && !(0..self.hosts.len()).any(|host| self.may_speak(host)) {
                return Err("nobody owns the disk after all faults have ended".into());
            }
        }
        Ok(())
    }

    fn happens(&mut self, number: usize, process: u64, event: Event) {
        let frozen = self.hosts[number].frozen_until;
        let to_process = !matches!(
            event,
            Event::Lands(_)
                | Event::LogLands(_)
                | Event::Freezes(_)
                | Event::LosesPath(_)
                | Event::Dies(_)
        );
        if to_process && process != self.hosts[number].process {
            return;
        }
        if to_process && self.now < frozen {
            let later = frozen - self.now + self.draw.between(0, MS);
            return self.put(number, later, event);
        }
        match event {
            Event::Wake => self.step(number),
            Event::Lands(block) => {
                self.before.clone_from(&self.blocks);
                self.blocks[number] = Seen::Block(block);
            }
            Event::Looks => self.hosts[number].looked = Some(self.look(number)),
            Event::Answers(started, answer) => self.answers(number, started, answer),
            Event::LogLands(entry) => self.areas[number].push(entry),
            Event::Appends => self.appends(number),
            Event::LogAnswers(entry) => {
                self.hosts[number].writing = false;
                if self.may_speak(number) {
                    self.acknowledged.insert(entry);
                    self.spoken += 1;
                }
                self.voter_ends(number);
            }
            Event::CopyReads(from) => {
                let wrong = self.sabotage == Sabotage::WrongArea;
                let from = (from.place() + usize::from(wrong)) % self.areas.len();
                let log = self.areas[from].clone();
                let after = self.latency();
                self.put(number, after, Event::CopyEnds(log));
            }
            Event::CopyEnds(log) => {
                self.areas[number] = log;
                self.hosts[number].copied = true;
                let now = self.clock(number);
                self.hosts[number].lease.copied(now);
                self.put(number, 0, Event::Appends);
                self.voter_ends(number);
            }
            Event::Freezes(long) => {
                let host = &mut self.hosts[number];
                host.frozen_until = host.frozen_until.max(self.now + long);
            }
            Event::LosesPath(long) => self.hosts[number].no_path_until = self.now + long,
            Event::Dies(long) => self.dies(number, long),
        }
    }

    fn look(&self, number: usize) -> Vec<Seen> {
        let old = self.sabotage == Sabotage::OldReads;
        let mut seen = if old { self.before.clone() } else { self.blocks.clone() };
        for block in &mut seen {
            let Seen::Block(block) = block else { continue };
            if self.sabotage == Sabotage::BlindOwner && self.hosts[number].votes {
                block.claim = Ballot::NONE;
            }
        }
        seen[number] = self.blocks[number];
        seen
    }

    /// The process takes the next step, if none is under way.
    fn step(&mut self, number: usize) {
        let now = self.clock(number);
        let no_path = self.now < self.hosts[number].no_path_until;
        let (lands, answers) = (self.latency(), self.latency());
        match self.hosts[number].lease.step(now) {
            Step::Wait(until) => {
                let after = until.since(now).min(500 * MS) + self.draw.between(1, 3 * MS);
                self.put(number, after, Event::Wake);
            }
            // A path that is lost takes a while to say so; what it was asked for may be done.
            Step::Write(block) => {
                if !no_path || self.draw.one_in(2) {
                    // The host may stand still before the write leaves it.
                    let frozen = self.hosts[number].frozen_until.saturating_sub(self.now);
                    let held = if self.draw.one_in(2) { frozen } else { 0 };
                    self.put(number, lands.max(held), Event::Lands(block));
                    let answer = if no_path { Answer::Failed } else { Answer::Wrote(block) };
                    self.put(number, lands.max(held) + answers, Event::Answers(now, answer));
                } else {
                    self.put(number, answers, Event::Answers(now, Answer::Failed));
                }
            }
            Step::Read if no_path => {
                self.put(number, answers, Event::Answers(now, Answer::Failed));
            }
            Step::Read => {
                self.hosts[number].looked = None;
                self.put(number, lands, Event::Looks);
                self.put(number, lands + answers, Event::Answers(now, Answer::Read));
            }
            Step::Start { from, .. } => {
                let host = &mut self.hosts[number];
                (host.votes, host.copied, host.ends, host.spoke) = (true, false, false, false);
                match from {
                    Some(from) if from.place() != number => {
                        self.put(number, lands, Event::CopyReads(from));
                    }
                    _ => {
                        let log = self.areas[number].clone();
                        self.put(number, lands, Event::CopyEnds(log));
                    }
                }
                self.put(number, 0, Event::Wake);
            }
            Step::End(_) => {
                self.hosts[number].ends = true;
                self.voter_ends(number);
                self.put(number, 1, Event::Wake);
            }
            Step::Stopped(why) => assert_eq!(why, Why::Asked, "nobody else writes its block"),
        }
    }

    fn answers(&mut self, number: usize, started: Time, answer: Answer) {
        let (now, random) = (self.clock(number), self.draw.next());
        let host = &mut self.hosts[number];
        match answer {
            Answer::Wrote(block) => host.lease.wrote(started, now, block),
            Answer::Failed => host.lease.failed(now),
            Answer::Read => match host.looked.take() {
                Some(seen) => host.lease.read(started, now, &seen, random),
                // The look itself was held back, and comes after this.
                None => return self.put(number, MS, Event::Answers(started, answer)),
            },
        }
        self.put(number, 0, Event::Wake);
    }

    /// The voter writes the next entry, and speaks of it once it is on the disk.
    fn appends(&mut self, number: usize) {
        if !self.hosts[number].votes || self.hosts[number].ends || self.hosts[number].writing {
            return;
        }
        self.count += 1;
        let entry = self.count;
        let lands = self.latency();
        let answers = lands + self.latency();
        self.hosts[number].writing = true;
        self.put(number, lands, Event::LogLands(entry));
        self.put(number, answers, Event::LogAnswers(entry));
        let again = answers + self.draw.between(MS, 100 * MS);
        self.put(number, again, Event::Appends);
    }

    /// The voter has ended once nothing of it is on its way to the disk.
    fn voter_ends(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        if host.votes && host.ends && host.copied && !host.writing {
            host.votes = false;
            let now = self.clock(number);
            self.hosts[number].lease.voter_ended(now);
        }
    }

    /// The process dies; the next one starts when nothing of it is on its way any more.
    fn dies(&mut self, number: usize, long: u64) {
        let lands = |(host, _, event): &&(usize, u64, Event)| {
            *host == number && matches!(event, Event::Lands(_) | Event::LogLands(_))
        };
        let last = self.events.iter().filter(|(_, event)| lands(event)).map(|((at, _), _)| *at);
        let after = last.max().map_or(0, |at| at + 1 - self.now);
        self.count += 1;
        let (process, count) = (self.count + 100, self.hosts.len() as u8);
        let host = &mut self.hosts[number];
        host.process = process;
        host.lease = Lease::new(HostNumber(number as u8), count, process, host.lease.timing);
        (host.votes, host.writing, host.looked) = (false, false, None);
        self.put(number, after.max(long), Event::Wake);
    }
}

fn play(seed: u64, sabotage: Sabotage) -> Result<(u64, usize), String> {
    let mut world = World::new(seed, sabotage);
    world.run().map_err(|why| format!("seed {seed}: {why}"))?;
    Ok((world.spoken, world.owners.len()))
}

#[test]
fn hosts_on_one_disk_keep_what_they_promise_through_faults() {
    let (mut spoken, mut owners) = (0, 0);
    for seed in 0..1_000 {
        let (spoke, owned) = play(seed, Sabotage::None).unwrap();
        spoken += spoke;
        owners += usize::from(owned > 1);
    }
    assert!(spoken > 100_000 && owners > 750, "{spoken} entries, {owners} seeds with takeovers");
}

/// The judges find what they are for.
#[test]
fn each_sabotage_is_found() {
    let all = [
        Sabotage::Take(300),
        Sabotage::Take(1_000),
        Sabotage::NoDeadline,
        Sabotage::WrongArea,
        Sabotage::OldReads,
        Sabotage::BlindOwner,
    ];
    for (place, sabotage) in all.into_iter().enumerate() {
        let found = (0..2_000).find_map(|seed| play(seed, sabotage).err());
        assert!(found.is_some(), "sabotage {place}");
    }
}
