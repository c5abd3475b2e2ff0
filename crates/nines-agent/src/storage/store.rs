//! The log on disk, in redb: entries by index, and a few values beside them.
//!
//! Decides: the layout. A write returns after fsync. An error ends this node's votes: the core
//! hears of it and acknowledges nothing more.

use std::path::Path;

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::wire::{
    HardState, KeptIncarnation, LogEntry, LongPromise, Persist, Persisted, Snapshot,
};
use prost::Message as _;
use redb::{Database, ReadableDatabase as _, TableDefinition};

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const WORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("words");

/// The open log.
pub struct Store {
    database: Database,
}

/// What there is at a path.
pub enum Opened {
    /// A log that can be read.
    Store(Store),
    /// Something that is no log, or was one: why it cannot be read.
    Damaged(String),
}

fn failed(e: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Io, "the log cannot be read or written", e)
        .next("see whether the disk is full; without its log a node has no vote")
}

impl Store {
    /// Opens or makes it. Only one process can.
    pub fn open(path: &Path) -> Outcome<Self> {
        match Self::look(path)? {
            Opened::Store(store) => Ok(store),
            Opened::Damaged(why) => Err(failed(why)),
        }
    }

    /// Likewise; a file that can be opened and makes no sense is no failure.
    pub fn look(path: &Path) -> Outcome<Opened> {
        Self::opened(Database::builder().set_cache_size(1 << 20).create(path), path)
    }

    /// The same on something that is no file.
    pub fn of(backend: impl redb::StorageBackend) -> Outcome<Opened> {
        let opened = Database::builder().set_cache_size(1 << 20).create_with_backend(backend);
        Self::opened(opened, Path::new("the log"))
    }

    fn opened(opened: Result<Database, redb::DatabaseError>, path: &Path) -> Outcome<Opened> {
        use std::io::ErrorKind::{InvalidData, UnexpectedEof};
        match opened {
            Ok(mut database) => match database.check_integrity() {
                Ok(_) => Self::with(database).map(Opened::Store),
                Err(e) => Ok(Opened::Damaged(e.to_string())),
            },
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => Err(Failure::new(
                Kind::Unsafe,
                format!("{} is in use", path.display()),
                "another agent runs with this state directory",
            )
            .next("systemctl status nines")),
            Err(redb::DatabaseError::Storage(redb::StorageError::Io(e)))
                if ![InvalidData, UnexpectedEof].contains(&e.kind()) =>
            {
                Err(failed(e))
            }
            Err(e) => Ok(Opened::Damaged(e.to_string())),
        }
    }

    /// One that keeps nothing, for a node that votes no more.
    pub fn in_memory() -> Outcome<Self> {
        let memory = redb::backends::InMemoryBackend::new();
        Self::with(Database::builder().create_with_backend(memory).map_err(failed)?)
    }

    fn with(database: Database) -> Outcome<Self> {
        let store = Self { database };
        let tables = store.database.begin_write().map_err(failed)?;
        tables.open_table(ENTRIES).map_err(failed)?;
        tables.open_table(WORDS).map_err(failed)?;
        tables.commit().map_err(failed)?;
        Ok(store)
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
        Ok(Persisted { hard_state, snapshot, entries, long_promise, incarnation, retired, removed })
    }

    /// Writes and syncs.
    pub fn write(&self, persist: &Persist) -> Outcome<()> {
        let tables = self.database.begin_write().map_err(failed)?;
        {
            let mut words = tables.open_table(WORDS).map_err(failed)?;
            let mut entries = tables.open_table(ENTRIES).map_err(failed)?;
            if let Some(snapshot) = &persist.snapshot {
                words.insert("snapshot", snapshot.encode_to_vec().as_slice()).map_err(failed)?;
            }
            let stay = persist.keeps();
            entries.retain_in(..stay.start, |_, _| false).map_err(failed)?;
            entries.retain_in(stay.end.., |_, _| false).map_err(failed)?;
            for entry in &persist.entries {
                let bytes = entry.encode_to_vec();
                entries.insert(entry.index, bytes.as_slice()).map_err(failed)?;
            }
            if let Some(why) = &persist.retired {
                words.insert("retired", why.as_bytes()).map_err(failed)?;
            }
            if persist.removed {
                words.insert("removed", b"yes".as_slice()).map_err(failed)?;
            }
            if let Some(promise) = &persist.long_promise {
                words.insert("long-promise", promise.encode_to_vec().as_slice()).map_err(failed)?;
            }
            if let Some(incarnation) = &persist.incarnation {
                words.insert("life", incarnation.encode_to_vec().as_slice()).map_err(failed)?;
            }
            if let Some(hard_state) = &persist.hard_state {
                words
                    .insert("hard-state", hard_state.encode_to_vec().as_slice())
                    .map_err(failed)?;
            }
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
    }
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
