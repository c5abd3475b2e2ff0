//! How far the log has got, beside the log.
//!
//! Decides: whether a log that can be read is one that was written. After each write of the log its
//! number is written here, without waiting for the disk. A log that has had fewer writes than that
//! lacks something that was acknowledged: an older copy of its file was put back, the disk had not
//! kept what it said it had, or the newest record is damaged, which the library takes for a write
//! that never ended.
//!
//! What this does not see: both files taken back to an earlier time together, and what was lost in
//! a power cut within [`SYNC_EVERY`] of its write together with this file's newest number. Other
//! nodes remember both as long as their agents run.

use std::{
    fs::File,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    time::{Duration, Instant},
};

use crate::identity::StateDir;

/// Name of the file in the state directory.
pub const FILE: &str = "log.floor";
/// The disk is waited for so often.
pub const SYNC_EVERY: Duration = Duration::from_secs(10);
/// A number, and the first bytes of the digest of it: a torn write is no number.
const LENGTH: usize = 16;

fn encoded(writes: u64) -> [u8; LENGTH] {
    let number = writes.to_be_bytes();
    let digest = ring::digest::digest(&ring::digest::SHA256, &number);
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&number);
    bytes[8..].copy_from_slice(&digest.as_ref()[..8]);
    bytes
}

/// The file, open.
pub struct Floor {
    /// `None`: it cannot be written, and nothing depends on it.
    file: Option<File>,
    /// What it says: it never says less.
    writes: u64,
    synced: Option<Instant>,
}

impl Floor {
    /// Opens or makes it.
    pub fn open(home: &StateDir) -> Self {
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(home.file(FILE)).ok();
        Self { file, writes: known(home), synced: None }
    }

    /// None, for what is no log.
    pub fn none() -> Self {
        Self { file: None, writes: 0, synced: None }
    }

    /// The log has had so many writes, which are on the disk.
    pub fn note(&mut self, writes: u64) {
        let Some(file) = self.file.as_ref().filter(|_| writes > self.writes) else { return };
        if file.write_all_at(&encoded(writes), 0).is_err() {
            return;
        }
        self.writes = writes;
        if self.synced.is_none_or(|at| at.elapsed() >= SYNC_EVERY) {
            self.sync();
        }
    }

    /// Waits for the disk.
    pub fn sync(&mut self) {
        if let Some(file) = &self.file {
            let _ = file.sync_data();
        }
        self.synced = Some(Instant::now());
    }
}

/// How many writes the log of this state directory has had at least; 0: nothing is known.
pub fn known(home: &StateDir) -> u64 {
    let bytes = std::fs::read(home.file(FILE)).unwrap_or_default();
    let number = bytes.first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first));
    if bytes == encoded(number) { number } else { 0 }
}

/// A new log begins here.
pub fn forget(home: &StateDir) {
    let _ = std::fs::remove_file(home.file(FILE));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_a_number_or_nothing() {
        let folder = std::env::temp_dir().join(format!("nines-floor-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let home = StateDir(folder.clone());
        assert_eq!(known(&home), 0, "there is none");
        let mut floor = Floor::open(&home);
        floor.note(7);
        assert_eq!(known(&home), 7);
        floor.note(8);
        floor.note(5);
        assert_eq!(known(&home), 8);
        let mut floor = Floor::open(&home);
        floor.note(6);
        assert_eq!(known(&home), 8, "an older log is written to");
        for (place, byte) in (0..LENGTH).map(|place| (place, 0xa5)) {
            let mut torn = encoded(8);
            torn[place] = byte;
            std::fs::write(home.file(FILE), torn).unwrap();
            assert_eq!(known(&home), 0, "{place}");
        }
        std::fs::write(home.file(FILE), &encoded(8)[..9]).unwrap();
        assert_eq!(known(&home), 0);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
