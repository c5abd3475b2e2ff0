//! The log on disk, in redb: entries by index, and a few values beside them.
//!
//! Decides: the layout. A write returns after fsync. An error ends this node's votes: the core
//! hears of it and acknowledges nothing more. `torn.rs` shows what is left when a write is cut off
//! at any place; each write has a number, so that `floor.rs` can tell that one is missing.

use std::{fs::File, io, os::unix::fs::OpenOptionsExt as _, path::Path};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::{
    DiskFault,
    wire::{
        Begun, HardState, KeptIncarnation, LogEntry, LongPromise, Persist, Persisted, Snapshot,
    },
};
use prost::Message as _;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageBackend,
    StorageError, TableDefinition, backends::FileBackend,
};

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const WORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("words");
/// How many writes there have been.
const WRITES: &str = "writes";

/// The open log.
pub struct Store {
    database: Database,
    /// It is on a disk.
    kept: bool,
}

/// What there is at a path.
pub enum Opened {
    /// A log that can be read.
    Store(Store),
    /// Something that is no log, or was one: why it cannot be read.
    Damaged(String),
    /// It can be opened only when the disk has room again.
    Full(String),
}

/// A write that failed.
#[derive(Debug)]
pub struct WriteError {
    /// Whether room on the disk mends it.
    pub fault: DiskFault,
    /// What the system said.
    pub why: String,
}

fn failed(e: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Io, "the log cannot be read or written", e)
        .next("see whether the disk is full; without its log a node has no vote")
}

/// Whether the disk, or what this user may have of it, is used up.
fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<redb::Error> for WriteError {
    fn from(e: redb::Error) -> Self {
        let fault = match &e {
            redb::Error::Io(e) if is_full(e) => DiskFault::Full,
            _ => DiskFault::Failed,
        };
        Self { fault, why: e.to_string() }
    }
}

impl Store {
    /// Opens or makes it. Only one process can.
    pub fn open(path: &Path) -> Outcome<Self> {
        match Self::look(path)? {
            Opened::Store(store) => Ok(store),
            Opened::Damaged(why) | Opened::Full(why) => Err(failed(why)),
        }
    }

    /// Likewise; a file that can be opened and makes no sense is no failure.
    pub fn look(path: &Path) -> Outcome<Opened> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = match options.open(path) {
            Ok(file) => file,
            Err(e) if is_full(&e) => return Ok(Opened::Full(e.to_string())),
            Err(e) => return Err(failed(e)),
        };
        from_the_disk(&file).map_err(failed)?;
        let backend = match FileBackend::new(file) {
            Ok(backend) => backend,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(in_use(path)),
            Err(e) => return Err(failed(e)),
        };
        Self::on(backend, path)
    }

    /// Likewise on something that `path` names.
    pub fn on(backend: impl StorageBackend, path: &Path) -> Outcome<Opened> {
        match Self::of(backend) {
            Ok(store) => Ok(Opened::Store(store)),
            Err(DatabaseError::DatabaseAlreadyOpen) => Err(in_use(path)),
            Err(DatabaseError::Storage(StorageError::Io(e))) => match e.kind() {
                _ if is_full(&e) => Ok(Opened::Full(e.to_string())),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                    Ok(Opened::Damaged(e.to_string()))
                }
                _ => Err(failed(e)),
            },
            Err(e) => Ok(Opened::Damaged(e.to_string())),
        }
    }

    /// The log that is kept there, verified whole.
    pub(super) fn of(backend: impl StorageBackend) -> Result<Self, DatabaseError> {
        let mut database =
            Database::builder().set_cache_size(1 << 20).create_with_backend(backend)?;
        // What it mends is a commit that never ended, or the lists of free pages.
        database.check_integrity()?;
        Self::with(database).map_err(|e| match e {
            redb::Error::Io(e) => DatabaseError::Storage(StorageError::Io(e)),
            e => DatabaseError::Storage(StorageError::Corrupted(e.to_string())),
        })
    }

    /// One that keeps nothing, for a node that votes no more.
    pub fn in_memory() -> Outcome<Self> {
        let memory = redb::backends::InMemoryBackend::new();
        let database = Database::builder().create_with_backend(memory).map_err(failed)?;
        Ok(Self { kept: false, ..Self::with(database).map_err(failed)? })
    }

    /// Whether it keeps anything.
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    fn with(database: Database) -> Result<Self, redb::Error> {
        let store = Self { database, kept: true };
        let tables = store.database.begin_write()?;
        tables.open_table(ENTRIES)?;
        tables.open_table(WORDS)?;
        tables.commit()?;
        Ok(store)
    }

    /// How many writes it has had since builds count them.
    pub fn writes(&self) -> Outcome<u64> {
        let tables = self.database.begin_read().map_err(failed)?;
        let words = tables.open_table(WORDS).map_err(failed)?;
        let found = words.get(WRITES).map_err(failed)?;
        Ok(found.map_or(0, |found| number(found.value())))
    }

    /// Everything that the file keeps. Fails if it cannot be read.
    pub fn read(&self) -> Outcome<Persisted> {
        let tables = self.database.begin_read().map_err(failed)?;
        let words = tables.open_table(WORDS).map_err(failed)?;
        let word = |key: &str| -> Outcome<Vec<u8>> {
            let found = words.get(key).map_err(failed)?;
            Ok(found.map(|v| v.value().to_vec()).unwrap_or_default())
        };
        let hard_state = HardState::decode(word("hard-state")?.as_slice()).map_err(failed)?;
        let snapshot = Snapshot::decode(word("snapshot")?.as_slice()).map_err(failed)?;
        let long_promise = LongPromise::decode(word("long-promise")?.as_slice()).map_err(failed)?;
        let incarnation = KeptIncarnation::decode(word("life")?.as_slice()).map_err(failed)?;
        let retired = String::from_utf8_lossy(&word("retired")?).into_owned();
        let removed = !word("removed")?.is_empty();
        let begun = Begun::decode(word("begun")?.as_slice()).map_err(failed)?;
        let mut entries = Vec::new();
        let table = tables.open_table(ENTRIES).map_err(failed)?;
        for item in table.range(snapshot.index + 1..).map_err(failed)? {
            let (index, value) = item.map_err(failed)?;
            let entry = LogEntry::decode(value.value()).map_err(failed)?;
            let wanted = snapshot.index + entries.len() as u64 + 1;
            if index.value() != wanted {
                return Err(failed(format!(
                    "entry {wanted} is missing, {} is there",
                    index.value()
                )));
            }
            entries.push(entry);
        }
        Ok(Persisted {
            hard_state,
            snapshot,
            entries,
            long_promise,
            incarnation,
            retired,
            removed,
            full: false,
            begun,
        })
    }

    /// Writes and syncs; gives how many writes there have been.
    pub fn write(&self, persist: &Persist) -> Result<u64, WriteError> {
        Ok(self.commit(persist)?)
    }

    fn commit(&self, persist: &Persist) -> Result<u64, redb::Error> {
        let tables = self.database.begin_write()?;
        let writes;
        {
            let mut words = tables.open_table(WORDS)?;
            let mut entries = tables.open_table(ENTRIES)?;
            let mut put = |key: &str, bytes: &[u8]| words.insert(key, bytes).map(drop);
            if let Some(snapshot) = &persist.snapshot {
                put("snapshot", &snapshot.encode_to_vec())?;
            }
            let stay = persist.keeps();
            entries.retain_in(..stay.start, |_, _| false)?;
            entries.retain_in(stay.end.., |_, _| false)?;
            for entry in &persist.entries {
                entries.insert(entry.index, entry.encode_to_vec().as_slice())?;
            }
            if let Some(why) = &persist.retired {
                put("retired", why.as_bytes())?;
            }
            if persist.removed {
                put("removed", b"yes")?;
            }
            if let Some(promise) = &persist.long_promise {
                put("long-promise", &promise.encode_to_vec())?;
            }
            if let Some(incarnation) = &persist.incarnation {
                put("life", &incarnation.encode_to_vec())?;
            }
            if let Some(hard_state) = &persist.hard_state {
                put("hard-state", &hard_state.encode_to_vec())?;
            }
            writes = words.get(WRITES)?.map_or(0, |found| number(found.value())) + 1;
            words.insert(WRITES, writes.to_be_bytes().as_slice())?;
        }
        tables.commit()?;
        Ok(writes)
    }

    /// Starts the log of a node that begins anew; of its earlier one goes on what it promised, and
    /// how often it has started.
    pub fn begin_anew(&self, begun: Begun, before: &Persisted) -> Outcome<()> {
        let Persisted { incarnation, long_promise, .. } = before.clone();
        let tables = self.database.begin_write().map_err(failed)?;
        {
            let mut words = tables.open_table(WORDS).map_err(failed)?;
            words.insert("begun", begun.encode_to_vec().as_slice()).map_err(failed)?;
            let (life, promise) = (incarnation.encode_to_vec(), long_promise.encode_to_vec());
            words.insert("life", life.as_slice()).map_err(failed)?;
            words.insert("long-promise", promise.as_slice()).map_err(failed)?;
        }
        tables.commit().map_err(failed)
    }

    /// Starts a log from what founding members share.
    pub fn found(&self, kept: &Persisted) -> Outcome<()> {
        self.write(&Persist {
            hard_state: Some(kept.hard_state.clone()),
            entries: kept.entries.clone(),
            snapshot: Some(kept.snapshot.clone()),
            ..Persist::default()
        })
        .map(drop)
        .map_err(|e| failed(e.why))
    }
}

fn in_use(path: &Path) -> Failure {
    let why = "another agent runs with this state directory";
    Failure::new(Kind::Unsafe, format!("{} is in use", path.display()), why)
        .next("systemctl status nines")
}

/// The number in eight bytes; 0: there is none.
fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

/// What is read of the file from now on comes from the disk. Pages of a write whose fsync failed
/// are in memory and nowhere else: an earlier process did not acknowledge them, and the next one
/// must not take them for kept.
fn from_the_disk(file: &File) -> io::Result<()> {
    file.sync_data()?;
    nines_dataplane::process::forget_cached(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> LogEntry {
        LogEntry { index, term, data: vec![term as u8], ..LogEntry::default() }
    }

    #[test]
    fn what_was_written_is_read_and_a_new_tail_replaces_the_old() {
        let path = std::env::temp_dir().join(format!("nines-store-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let store = Store::open(&path).unwrap();
        let write = |entries: Vec<LogEntry>| {
            store.write(&Persist { entries, ..Persist::default() }).unwrap();
        };
        write(vec![entry(1, 1), entry(2, 1), entry(3, 1)]);
        write(vec![entry(2, 2)]);
        let terms = |p: &Persisted| p.entries.iter().map(|e| e.term).collect::<Vec<_>>();
        assert_eq!(terms(&store.read().unwrap()), [1, 2]);
        let snapshot = Snapshot { index: 1, term: 1, ..Snapshot::default() };
        let hard_state = HardState { term: 2, vote: 3, commit: 1 };
        store
            .write(&Persist {
                snapshot: Some(snapshot.clone()),
                hard_state: Some(hard_state.clone()),
                ..Persist::default()
            })
            .unwrap();
        assert!(Store::open(&path).is_err(), "one process at a time");
        drop(store);
        let kept = Store::open(&path).unwrap().read().unwrap();
        assert_eq!((kept.snapshot, kept.hard_state), (snapshot, hard_state));
        assert_eq!(kept.entries, [entry(2, 2)]);
        let store = Store::open(&path).unwrap();
        let snapshot = Snapshot { index: 5, term: 3, ..Snapshot::default() };
        let persist = |received, from| Persist {
            snapshot: Some(snapshot.clone()),
            received,
            entries: (from..=8).map(|i| entry(i, 2)).collect(),
            ..Persist::default()
        };
        store.write(&persist(false, 6)).unwrap();
        store.write(&persist(true, 9)).unwrap();
        assert_eq!(store.read().unwrap().entries, [], "another node's state ends the old log");
        std::fs::remove_file(&path).unwrap();
    }
}
