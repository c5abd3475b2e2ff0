//! The log in a host's area of the disk, and how it gets from one area to another.
//!
//! Decides: when a copied log is whole. A host writes its own area only. It reads another's in one
//! piece and checks that before it believes a word: the former owner may still be writing there.

use std::sync::{Arc, Mutex, PoisonError};

use nines_api::failure::Outcome;
use nines_core::{
    quorum_disk::{Ballot, HostNumber},
    wire::{Persist, Persisted},
};
use redb::StorageBackend;

use super::{
    device::{BLOCK, Device},
    layout::{Header, content, failed, name, piece},
};
use crate::storage::store::{Opened, Store};

/// A copy that is not whole is read again so often: the former owner may have been writing.
const TRIES: usize = 5;
/// Zeros are written in pieces of this size.
const PIECE: u64 = 1 << 20;

/// The area of a host, as the store's file.
#[derive(Debug)]
struct Area {
    device: Arc<Device>,
    start: u64,
    room: u64,
    claim: Ballot,
    /// Bytes that are in use. Held during each write: parts of a block are read first.
    length: Mutex<u64>,
}

impl Area {
    fn new(device: Arc<Device>, header: &Header, host: HostNumber, claim: Ballot) -> Self {
        let (start, room) = (header.area_of(host), header.area - BLOCK);
        Self { device, start, room, claim, length: Mutex::new(0) }
    }

    fn at(&self, offset: u64) -> u64 {
        self.start + BLOCK + offset
    }

    fn note(&self, length: u64) -> std::io::Result<()> {
        let numbers = [self.claim.epoch, u64::from(self.claim.host.0), length];
        let text: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.device.write(self.start, &piece(name::AREA, 1, &text))?;
        self.device.sync()
    }
}

impl StorageBackend for Area {
    fn len(&self) -> std::io::Result<u64> {
        Ok(*self.length.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        if offset + out.len() as u64 > self.len()? {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.device.read(self.at(offset), out)
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        let mut now = self.length.lock().unwrap_or_else(PoisonError::into_inner);
        if length > self.room {
            let why = format!("the log needs {length} bytes, and its area has {}", self.room);
            return Err(std::io::Error::new(std::io::ErrorKind::StorageFull, why));
        }
        let mut from = *now;
        while from < length {
            let zeros = (length - from).min(PIECE);
            self.device.write(self.at(from), &vec![0; zeros as usize])?;
            from += zeros;
        }
        self.note(length)?;
        *now = length;
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.device.sync()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let length = self.length.lock().unwrap_or_else(PoisonError::into_inner);
        if offset + bytes.len() as u64 > *length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.device.write(self.at(offset), bytes)
    }
}

/// What an area held when it was read, in memory.
#[derive(Debug, Default)]
struct Copy(Mutex<Vec<u8>>);

impl StorageBackend for Copy {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = all.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(piece.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).resize(length as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = all.get_mut(offset as usize..offset as usize + bytes.len());
        piece.ok_or(std::io::ErrorKind::UnexpectedEof)?.copy_from_slice(bytes);
        Ok(())
    }
}

/// What the log in a host's area says. The inner error says why it is not whole.
fn look(
    device: &Device,
    header: &Header,
    (host, owned): (HostNumber, Ballot),
) -> Outcome<Result<Persisted, String>> {
    let cannot = |e| failed(device, "read", e);
    let mut head = vec![0; BLOCK as usize];
    device.read(header.area_of(host), &mut head).map_err(cannot)?;
    let Ok(text) = content(name::AREA, &head) else {
        return Ok(Err("its area has no header".into()));
    };
    let (numbers, _) = text.as_chunks::<8>();
    let numbers: Vec<u64> = numbers.iter().map(|n| u64::from_le_bytes(*n)).collect();
    let length = match numbers.as_slice() {
        [epoch, by, length] if (*epoch, *by) == (owned.epoch, u64::from(owned.host.0)) => *length,
        _ => return Ok(Err("its area has another log than its block says".into())),
    };
    if length > header.area - BLOCK {
        return Ok(Err("its area's header makes no sense".into()));
    }
    let mut all = vec![0; length as usize];
    device.read(header.area_of(host) + BLOCK, &mut all).map_err(cannot)?;
    match Store::of(Copy(Mutex::new(all)))? {
        Opened::Store(store) => Ok(store.read().map_err(|why| why.why)),
        Opened::Damaged(why) => Ok(Err(why)),
    }
}

/// Brings the newest log to the area of `me`, under a claim; gives the store there, and what the
/// log says. A log that cannot be read makes a voter that votes no more. `unreadable`: it is known
/// not to be.
pub fn take_over(
    device: &Arc<Device>,
    header: &Header,
    from: Option<(HostNumber, Ballot)>,
    (me, claim): (HostNumber, Ballot),
    unreadable: bool,
) -> Outcome<(Store, Persisted)> {
    let mut kept = Persisted::default();
    if let Some((host, owned)) = from {
        for tries in 1..=TRIES {
            let seen = if unreadable {
                Err("the library stops at it".to_owned())
            } else {
                look(device, header, (host, owned))?
            };
            match seen {
                Ok(whole) => {
                    kept = whole;
                    break;
                }
                Err(why) if tries == TRIES || unreadable => {
                    let of = header.address(host);
                    let retired = format!("its log, that of host {of}, cannot be read: {why}");
                    kept = Persisted { retired, ..Persisted::default() };
                    return Ok((Store::in_memory()?, kept));
                }
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
            }
        }
    }
    let area = Area::new(Arc::clone(device), header, me, claim);
    let store = match Store::of(area)? {
        Opened::Store(store) => store,
        Opened::Damaged(why) => return Err(failed(device, "make a log on", why)),
    };
    store.write(&whole(&kept))?;
    Ok((store, kept))
}

/// Everything that a log says, to be written into an empty one.
fn whole(kept: &Persisted) -> Persist {
    let some = |is: bool| is.then_some(());
    let Persisted { hard_state, snapshot, entries, long_promise, incarnation, retired, removed } =
        kept.clone();
    Persist {
        hard_state: Some(hard_state),
        snapshot: some(snapshot.index > 0).map(|()| snapshot),
        entries,
        received: false,
        long_promise: some(long_promise.until_ns > 0).map(|()| long_promise),
        incarnation: some(incarnation.starts > 0).map(|()| incarnation),
        retired: some(!retired.is_empty()).map(|()| retired),
        removed,
    }
}

#[cfg(test)]
mod tests {
    use nines_core::wire::{HardState, KeptIncarnation, LogEntry, LongPromise, Snapshot};

    use super::*;
    use crate::quorum_disk::{device::Use, layout::tests::formatted};

    const A: HostNumber = HostNumber(0);
    const B: HostNumber = HostNumber(1);

    fn ballot(epoch: u64, host: HostNumber) -> Ballot {
        Ballot { epoch, host }
    }

    fn entry(index: u64) -> LogEntry {
        LogEntry { index, term: 3, data: vec![7; 900], ..LogEntry::default() }
    }

    #[test]
    fn a_log_goes_from_area_to_area_with_all_that_it_says() {
        let (path, header) = formatted("areas");
        let device = Arc::new(Device::open(&path, Use::Log).unwrap());
        let claim = ballot(1, A);
        let (store, kept) = take_over(&device, &header, None, (A, claim), false).unwrap();
        assert_eq!(kept, Persisted::default());
        let all = Persist {
            hard_state: Some(HardState { term: 3, vote: 2, commit: 5 }),
            snapshot: Some(Snapshot { index: 4, term: 2, ..Snapshot::default() }),
            entries: (5..1_500).map(entry).collect(),
            long_promise: Some(LongPromise { until_ns: 9, ..LongPromise::default() }),
            incarnation: Some(KeptIncarnation { incarnation: 8, starts: 2, ..Default::default() }),
            ..Persist::default()
        };
        store.write(&all).unwrap();
        let before = store.read().unwrap();
        // While the former owner has it open: a host that stood still has not closed it either.
        let from = Some((A, claim));
        let (next, kept) = take_over(&device, &header, from, (B, ballot(2, B)), false).unwrap();
        assert_eq!(kept, before);
        // What the former owner writes now goes to nobody.
        store.write(&Persist { entries: vec![entry(1_500)], ..Persist::default() }).unwrap();
        drop(next);
        let from = Some((B, ballot(2, B)));
        let (again, kept) = take_over(&device, &header, from, (A, ballot(3, A)), false).unwrap();
        assert_eq!((kept, again.read().unwrap()), (before.clone(), before));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_log_that_is_damaged_or_another_makes_a_voter_without_a_vote() {
        let (path, header) = formatted("damaged");
        let device = Arc::new(Device::open(&path, Use::Log).unwrap());
        let claim = ballot(1, A);
        drop(take_over(&device, &header, None, (A, claim), false).unwrap());
        let retired = |owned| {
            let taken = take_over(&device, &header, Some((A, owned)), (B, ballot(9, B)), false);
            taken.unwrap().1.retired
        };
        assert_eq!(retired(claim), "");
        assert!(retired(ballot(2, A)).contains("another log"));
        device.write(header.area_of(A) + BLOCK, &[9; 64]).unwrap();
        assert!(retired(claim).contains("cannot be read"));
        device.write(header.area_of(A) + 20, &[9; 8]).unwrap();
        assert!(retired(claim).contains("has no header"));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_log_that_outgrows_its_area_fails_and_harms_no_other() {
        let (path, header) = formatted("full");
        let device = Arc::new(Device::open(&path, Use::Log).unwrap());
        let area = Area::new(Arc::clone(&device), &header, A, ballot(1, A));
        let mut before = [0; 64];
        device.read(header.area_of(B), &mut before).unwrap();
        let room = header.area - BLOCK;
        area.set_len(room).unwrap();
        area.write(room - 10, &[7; 10]).unwrap();
        assert!(area.write(room - 9, &[7; 10]).is_err());
        let full = area.set_len(room + 1).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        let mut after = [0; 64];
        device.read(header.area_of(B), &mut after).unwrap();
        assert_eq!(before, after);
        std::fs::remove_file(&path).unwrap();
    }
}
