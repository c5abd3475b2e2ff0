//! The log on a disk that fails in the middle of a write, many thousand times.
//!
//! Decides: what must be left (S25). After each end of a process and each power cut the log is
//! opened again. Everything whose write returned is there, and nothing that nobody wrote: the write
//! that was cut off is there whole or not at all. Or the log is recognised as damaged, and then the
//! node has no vote; power cuts alone never come to that.
//!
//! `NINES_TORN_TRIALS` says how many trials (`cargo xtask torn-writes`), `NINES_TORN_SEED` where
//! they begin.

use nines_core::{
    DiskFault,
    wire::{HardState, KeptIncarnation, LogEntry, LongPromise, Persist, Persisted, Snapshot},
};

use self::disk::{Disk, Fault, Random};
use super::store::Store;

mod disk;

/// Trials of an ordinary run of the tests.
const TRIALS: u64 = 2_000;

/// What a log must have: what was acknowledged, and perhaps the write that was cut off.
#[derive(Clone, Default)]
struct Expected {
    acknowledged: (Persisted, u64),
    cut_off: Option<(Persisted, u64)>,
}

/// What came of the trials.
#[derive(Debug, Default)]
struct Counts {
    writes: u64,
    ends: u64,
    /// The write that was cut off was there.
    whole: u64,
    damaged: u64,
}

/// What a log has after a write.
fn after(before: &(Persisted, u64), persist: &Persist) -> (Persisted, u64) {
    let (mut kept, writes) = before.clone();
    let (persist, stay) = (persist.clone(), persist.keeps());
    kept.entries.retain(|e| stay.contains(&e.index));
    kept.snapshot = persist.snapshot.unwrap_or(kept.snapshot);
    kept.entries.extend(persist.entries);
    kept.long_promise = persist.long_promise.unwrap_or(kept.long_promise);
    kept.incarnation = persist.incarnation.unwrap_or(kept.incarnation);
    kept.hard_state = persist.hard_state.unwrap_or(kept.hard_state);
    kept.retired = persist.retired.unwrap_or(kept.retired);
    (kept, writes + 1)
}

fn bytes(random: &mut Random) -> Vec<u8> {
    let most = match random.below(12) {
        0 => 70_000,
        1 | 2 => 6_000,
        _ => 200,
    };
    vec![random.next() as u8; random.below(most) as usize]
}

/// A write as a voter asks for it.
fn some_write(random: &mut Random, kept: &Persisted) -> Persist {
    let first = kept.snapshot.index + 1;
    let last = kept.snapshot.index + kept.entries.len() as u64;
    let term = kept.hard_state.term + random.below(2);
    let mut persist = Persist {
        hard_state: Some(HardState { term, vote: random.below(4), commit: kept.snapshot.index }),
        ..Persist::default()
    };
    let entries = |random: &mut Random, from: u64| -> Vec<LogEntry> {
        let count = random.below(4);
        let entry = |index| LogEntry { index, term, data: bytes(random), ..LogEntry::default() };
        (from..from + count).map(entry).collect()
    };
    match random.below(8) {
        // A snapshot of its own, and of another node.
        0 if last > first => {
            let index = first + random.below(last - first);
            persist.snapshot = Some(snapshot(random, index, term));
        }
        1 => {
            let index = last + random.below(20);
            persist.snapshot = Some(snapshot(random, index.max(1), term));
            persist.received = true;
        }
        // A tail that replaces another one.
        2 if last >= first => {
            let from = first + random.below(last - first + 1);
            persist.entries = entries(random, from);
        }
        3 => {
            let long_promise = LongPromise { until_ns: random.next(), ..LongPromise::default() };
            let incarnation = KeptIncarnation { starts: random.next(), ..Default::default() };
            persist = Persist {
                long_promise: Some(long_promise),
                incarnation: Some(incarnation),
                ..Persist::default()
            };
        }
        4 if random.percent(5) => persist.retired = Some("it is too old".into()),
        _ => persist.entries = entries(random, last + 1),
    }
    persist
}

fn snapshot(random: &mut Random, index: u64, term: u64) -> Snapshot {
    Snapshot { index, term, voters: vec![1, 2, 3], learners: Vec::new(), data: bytes(random) }
}

/// The log with what it has; `None`: it does not open. The library stops the process at some
/// damaged files; the next one goes by a note of that (`own_log.rs`).
fn looked(disk: &Disk) -> Option<(Store, (Persisted, u64))> {
    let look = || {
        let store = Store::of(disk.clone()).ok()?;
        let has = (store.read().ok()?, store.writes().ok()?);
        Some((store, has))
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(look)).unwrap_or_default()
}

/// Opens the log and compares it; `Ok(None)`: it does not open.
fn opened(
    disk: &Disk,
    expected: &mut Expected,
    counts: &mut Counts,
) -> Result<Option<Store>, String> {
    let Some((store, has)) = looked(disk) else { return Ok(None) };
    if expected.cut_off.as_ref() == Some(&has) {
        counts.whole += 1;
    } else if has != expected.acknowledged {
        let wanted = expected.acknowledged.1;
        return Err(format!("the log has had {wanted} writes, and has {}", has.1));
    }
    // From now on the node goes by this.
    *expected = Expected { acknowledged: has, cut_off: None };
    Ok(Some(store))
}

/// Writes until it fails.
fn write_some(
    store: &Store,
    random: &mut Random,
    expected: &mut Expected,
    counts: &mut Counts,
) -> Option<DiskFault> {
    for _ in 0..=random.below(8) {
        let persist = some_write(random, &expected.acknowledged.0);
        let next = after(&expected.acknowledged, &persist);
        match store.write(&persist) {
            Ok(writes) => {
                assert_eq!(writes, next.1);
                counts.writes += 1;
                expected.acknowledged = next;
            }
            Err(e) => {
                expected.cut_off = Some(next);
                return Some(e.fault);
            }
        }
    }
    None
}

/// What a trial does besides.
#[derive(Clone, Copy, Default)]
struct Options {
    /// Faults besides the end of a process.
    faults: &'static [Fault],
    /// A process believes what memory has of a file whose sync has failed.
    remembers: bool,
    /// The disk keeps nothing that it says it keeps.
    lies: bool,
}

/// One disk, some processes one after the other.
fn trial(seed: u64, options: Options, counts: &mut Counts) -> Result<(), String> {
    let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let disk = Disk::new(random.next());
    let mut expected = Expected::default();
    // The file is made, and a cluster founded: that is not torn.
    let first = Persist { snapshot: Some(snapshot(&mut random, 1, 1)), ..Persist::default() };
    let store = Store::of(disk.clone()).map_err(|e| e.to_string())?;
    store.write(&first).map_err(|e| e.why)?;
    drop(store);
    expected.acknowledged = after(&expected.acknowledged, &first);
    if options.lies {
        disk.lie();
    }
    for _ in 0..=random.below(4) {
        disk.reopen(!options.remembers);
        let fault = match options.faults {
            [] => Fault::Ends,
            all => all[random.below(all.len() as u64) as usize],
        };
        // In some trials while the log is being opened.
        disk.plan(fault, random.below(90));
        if let Some(store) = opened(&disk, &mut expected, counts)? {
            let failed = write_some(&store, &mut random, &mut expected, counts);
            if failed.is_some() && disk.fault() == Some(Fault::Full) {
                assert_eq!(failed, Some(DiskFault::Full), "seed {seed}");
            }
            if random.percent(80) {
                disk.end();
            }
        } else if disk.fault().is_none() {
            counts.damaged += 1;
            return Ok(());
        }
        counts.ends += 1;
        if random.percent(70) {
            disk.power_cut();
        }
    }
    disk.reopen(!options.remembers);
    if opened(&disk, &mut expected, counts)?.is_none() {
        counts.damaged += 1;
    }
    Ok(())
}

fn run(trials: u64, options: Options) -> (Counts, Vec<String>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let from: u64 = number("NINES_TORN_SEED").unwrap_or(1);
    let (mut counts, mut wrong) = (Counts::default(), Vec::new());
    for seed in from..from + trials {
        if let Err(why) = trial(seed, options, &mut counts) {
            wrong.push(format!("seed {seed}: {why}"));
        }
    }
    (counts, wrong)
}

fn trials() -> u64 {
    let asked = std::env::var("NINES_TORN_TRIALS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(TRIALS)
}

/// For `cargo xtask torn-writes`.
#[expect(clippy::print_stdout, reason = "a test shows it only to those who ask")]
fn tell(trials: u64, counts: &Counts) {
    println!("{trials} trials: {counts:?}");
}

#[test]
fn a_power_cut_in_a_write_loses_nothing_that_was_acknowledged() {
    let (counts, wrong) = run(trials(), Options::default());
    assert_eq!(wrong, [""; 0]);
    assert_eq!(counts.damaged, 0, "{counts:?}");
    // Some writes that were cut off are there, and some are not.
    assert!(counts.whole > 0 && counts.whole < counts.ends, "{counts:?}");
    tell(trials(), &counts);
}

#[test]
fn a_disk_that_reports_errors_loses_nothing_that_was_acknowledged() {
    let faults =
        &[Fault::Full, Fault::ShortWrite, Fault::SyncFails, Fault::ReadFails, Fault::Ends][..];
    let (counts, wrong) = run(trials() / 2, Options { faults, ..Options::default() });
    assert_eq!(wrong, [""; 0]);
    tell(trials() / 2, &counts);
}

/// The trials can fail.
#[test]
fn a_disk_that_keeps_nothing_is_found_out() {
    let (counts, wrong) = run(100, Options { lies: true, ..Options::default() });
    assert!(wrong.len() > 10 && wrong.len() as u64 + counts.damaged > 50, "{counts:?} {wrong:?}");
}

/// Why a file is read anew from the disk before it is opened (`from_the_disk`).
#[test]
fn what_only_memory_has_is_not_taken_for_kept() {
    let faults = &[Fault::SyncFails][..];
    let (counts, wrong) = run(500, Options { faults, remembers: true, ..Options::default() });
    assert!(wrong.len() as u64 + counts.damaged > 0, "{counts:?}");
    let (counts, wrong) = run(500, Options { faults, ..Options::default() });
    assert_eq!((wrong.len(), counts.damaged), (0, 0), "{wrong:?}");
}

/// A log with some writes, whose process has ended somewhere, and all images that it went through.
fn written(random: &mut Random) -> (Disk, Expected, Vec<Vec<u8>>) {
    let disk = Disk::new(random.next());
    let (mut expected, mut images) = (Expected::default(), Vec::new());
    let store = Store::of(disk.clone()).unwrap();
    let first = Persist { snapshot: Some(snapshot(random, 1, 1)), ..Persist::default() };
    for persist in (0..8).scan(first, |next, _| {
        let now = next.clone();
        *next = some_write(random, &after(&expected.acknowledged, &now).0);
        expected.acknowledged = after(&expected.acknowledged, &now);
        Some(now)
    }) {
        store.write(&persist).unwrap();
        images.push(disk.image());
    }
    disk.end();
    drop(store);
    (disk, expected, images)
}

/// What is read of a damaged or older file; `None`: that it is none.
fn read(disk: &Disk) -> Option<(Persisted, u64)> {
    disk.reopen(true);
    looked(disk).map(|(_, has)| has)
}

/// A record that was there before the last acknowledged write ended, and is bad: the library goes
/// back to the write before. The count of writes tells (`floor.rs`).
#[test]
fn a_damaged_record_is_no_write_that_was_cut_off() {
    let (mut damaged, mut older) = (0, 0);
    for seed in 0..trials() / 4 {
        let mut random = Random(seed);
        let (disk, expected, _) = written(&mut random);
        let mut image = disk.image();
        let at = random.below(image.len() as u64 - 40) as usize;
        image[at..at + 40].fill(random.next() as u8);
        disk.put_back(image);
        match read(&disk) {
            None => damaged += 1,
            Some(has) if has == expected.acknowledged => {}
            Some((_, writes)) => {
                assert!(writes < expected.acknowledged.1, "seed {seed}: nobody would notice");
                older += 1;
            }
        }
    }
    assert!(damaged > 0 && older > 0, "{damaged} {older}");
}

/// A disk that gives back what it had once, after another controller took over.
#[test]
fn an_older_image_has_had_fewer_writes() {
    for seed in 0..trials() / 20 {
        let mut random = Random(seed);
        let (disk, expected, images) = written(&mut random);
        for (place, image) in images.into_iter().enumerate() {
            let newest = place as u64 + 1 == expected.acknowledged.1;
            disk.put_back(image);
            let has = read(&disk).expect("each was whole once");
            assert_eq!(has == expected.acknowledged, newest, "seed {seed}");
            assert_eq!(has.1, place as u64 + 1);
        }
    }
}
