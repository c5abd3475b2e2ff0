//! A disk in memory that fails at one moment.
//!
//! Decides: what a power cut leaves. Synced data stays. Of what was written since the last sync,
//! each sector of 512 bytes has any of the contents that it had meanwhile, independently of the
//! others, and the file has any of its lengths.

use std::{
    collections::BTreeMap,
    io::{Error, ErrorKind, Result},
    sync::{Arc, Mutex, MutexGuard},
};

use redb::StorageBackend;

/// A disk writes so many bytes whole or not at all.
const SECTOR: usize = 512;

/// Numbers that look random (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is gone, be it for itself or with the power.
    Ends,
    /// There is no room for more.
    Full,
    /// Half of a write is done, then the disk reports an error.
    ShortWrite,
    /// The disk reports an error to those who wait for it, and forgets some of what they wrote.
    SyncFails,
    /// Reading fails.
    ReadFails,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn to(&self, image: &mut Vec<u8>) {
        match self {
            Self::Length(length) => image.resize(*length, 0),
            Self::Write(offset, bytes) => {
                let end = offset + bytes.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[*offset..end].copy_from_slice(bytes);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Platter {
    /// What is read: the memory of the system.
    seen: Vec<u8>,
    /// What a power cut leaves for certain.
    durable: Vec<u8>,
    /// What is not synced, in order.
    pending: Vec<Change>,
    /// The fault, after so many more operations.
    planned: Option<(Fault, u64)>,
    /// It has begun.
    faulty: Option<Fault>,
    /// Syncs do nothing.
    lies: bool,
    random: Option<Random>,
}

/// The disk. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    pub fn new(seed: u64) -> Self {
        let disk = Self::default();
        disk.lock().random = Some(Random(seed));
        disk
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().expect("nobody panics with it")
    }

    /// The fault begins after so many more operations.
    pub fn plan(&self, fault: Fault, after: u64) {
        let mut platter = self.lock();
        (platter.planned, platter.faulty) = (Some((fault, after)), None);
    }

    /// The fault that has begun.
    pub fn fault(&self) -> Option<Fault> {
        self.lock().faulty
    }

    /// Syncs say that all is well, and nothing is kept.
    pub fn lie(&self) {
        self.lock().lies = true;
    }

    /// Nothing more is done: the process ends now, wherever it is.
    pub fn end(&self) {
        self.lock().faulty = Some(Fault::Ends);
    }

    /// A process opens the file anew, as `from_the_disk` does: what is to be written is, and what
    /// only memory has is forgotten. `forgets`: that too.
    pub fn reopen(&self, forgets: bool) {
        let mut platter = self.lock();
        (platter.planned, platter.faulty) = (None, None);
        platter.sync();
        if forgets {
            platter.seen = platter.durable.clone();
        }
    }

    /// The power goes.
    pub fn power_cut(&self) {
        let mut platter = self.lock();
        platter.power_cut();
    }

    /// What it has, to be put back later.
    pub fn image(&self) -> Vec<u8> {
        self.lock().seen.clone()
    }

    /// It has this from now on.
    pub fn put_back(&self, image: Vec<u8>) {
        let mut platter = self.lock();
        platter.pending.clear();
        (platter.durable, platter.seen) = (image.clone(), image);
    }
}

impl Platter {
    fn random(&mut self) -> &mut Random {
        self.random.as_mut().expect("it was given")
    }

    /// Whether an operation is carried out.
    fn operate(&mut self) -> Option<Fault> {
        if let Some((fault, after)) = &mut self.planned {
            if *after == 0 {
                self.faulty = Some(*fault);
                self.planned = None;
            } else {
                *after -= 1;
            }
        }
        self.faulty
    }

    fn sync(&mut self) {
        if self.lies {
            return;
        }
        for change in self.pending.drain(..) {
            change.to(&mut self.durable);
        }
    }

    /// A sync that fails: some sectors have reached the disk, and nobody writes the others again.
    fn lose(&mut self) {
        self.power_cut_but_memory();
        self.pending.clear();
    }

    fn power_cut(&mut self) {
        self.power_cut_but_memory();
        self.pending.clear();
        self.seen = self.durable.clone();
    }

    fn power_cut_but_memory(&mut self) {
        // All contents of each sector since the last sync, and all lengths.
        let mut image = self.durable.clone();
        let mut lengths = vec![image.len()];
        let mut versions: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        for change in &self.pending.clone() {
            let before = image.len();
            let sectors = match change {
                Change::Write(offset, bytes) => {
                    offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR)
                }
                Change::Length(_) => 0..0,
            };
            for sector in sectors.clone() {
                let old = || vec![part(&image, sector)];
                versions.entry(sector).or_insert_with(old);
            }
            change.to(&mut image);
            if image.len() != before {
                lengths.push(image.len());
            }
            for sector in sectors {
                versions.entry(sector).or_default().push(part(&image, sector));
            }
        }
        let random = self.random();
        let (way, share) = (random.below(6), random.below(101));
        let length = lengths[random.below(lengths.len() as u64) as usize];
        let missing = random.below(versions.len() as u64);
        let end = lengths.iter().copied().max().unwrap_or(0);
        let mut left = std::mem::take(&mut self.durable);
        left.resize(end, 0);
        for (place, (sector, contents)) in versions.into_iter().enumerate() {
            let random = self.random();
            let newest = contents.len() - 1;
            let version = match way {
                // The newest of nearly all, and of the first one: the header.
                0 if place as u64 == missing => 0,
                0 => newest,
                1 if sector == 0 => newest,
                2 if sector == 0 => 0,
                1..=3 => {
                    if random.percent(share) {
                        newest
                    } else {
                        0
                    }
                }
                _ => random.below(contents.len() as u64) as usize,
            };
            let (at, bytes) = (sector * SECTOR, &contents[version]);
            let end = (at + bytes.len()).min(left.len());
            if at < end {
                left[at..end].copy_from_slice(&bytes[..end - at]);
            }
        }
        // The file has grown in most cases: else there is nothing of interest in it.
        let length = if self.random().percent(80) { end } else { length };
        left.resize(length, 0);
        self.durable = left;
    }
}

/// A sector as an image has it; short at its end.
fn part(image: &[u8], sector: usize) -> Vec<u8> {
    let (from, to) = (sector * SECTOR, (sector + 1) * SECTOR);
    image.get(from..to.min(image.len())).unwrap_or_default().to_vec()
}

fn error(fault: Fault) -> Error {
    match fault {
        Fault::Full => Error::from(ErrorKind::StorageFull),
        other => Error::other(format!("{other:?}")),
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64> {
        Ok(self.lock().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut platter = self.lock();
        if let Some(fault @ (Fault::Ends | Fault::ReadFails)) = platter.operate() {
            return Err(error(fault));
        }
        let (from, to) = (offset as usize, offset as usize + out.len());
        let bytes = platter.seen.get(from..to).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<()> {
        let mut platter = self.lock();
        let fault = platter.operate();
        if fault.is_some_and(|fault| {
            fault == Fault::Ends || fault == Fault::Full && length > platter.seen.len() as u64
        }) {
            return Err(error(fault.expect("there is one")));
        }
        let change = Change::Length(length as usize);
        change.to(&mut platter.seen);
        platter.pending.push(change);
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        let mut platter = self.lock();
        match platter.operate() {
            Some(Fault::SyncFails) => platter.lose(),
            Some(Fault::Ends) => {}
            _ => {
                platter.sync();
                return Ok(());
            }
        }
        Err(error(platter.faulty.expect("it was matched")))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut platter = self.lock();
        let ended = platter.faulty == Some(Fault::Ends);
        let fault = platter.operate();
        let bytes = match fault {
            Some(Fault::Full) => &[][..],
            Some(Fault::ShortWrite) => &bytes[..bytes.len() / 2],
            // The write in which it ends may still reach the disk.
            Some(Fault::Ends) if ended => &[][..],
            _ => bytes,
        };
        if !bytes.is_empty() {
            let change = Change::Write(offset as usize, bytes.to_vec());
            change.to(&mut platter.seen);
            platter.pending.push(change);
        }
        match fault {
            Some(fault @ (Fault::Ends | Fault::Full | Fault::ShortWrite)) => Err(error(fault)),
            _ => Ok(()),
        }
    }
}
