//! What a node finds of its own log when it starts.
//!
//! Decides: whether that is less than it once had. A log that is gone, empty or unreadable makes a
//! node that votes no more and says so to everybody, and so does one that is older than what
//! `floor.rs` knows. An older copy of the whole directory looks whole from here: other nodes
//! remember what it lacks.

use std::{fs::File, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::wire::{Begun, Persist, Persisted};

use super::{
    floor,
    store::{Opened, Store},
};
use crate::identity::{self, Identity, StateDir, copied_state};

/// Name of the log's file in the state directory.
pub const FILE: &str = "log.redb";
/// What is known of a file that the library stopped at: which one it was, and why.
const NOTE: &str = "log.damaged";

/// By what this node is to begin anew: it is there until it has.
const ANEW: &str = "log.anew";
/// The log that it had before.
const LOST: &str = "log.lost";
/// The log that it is to have, until it is in its place.
const NEXT: &str = "log.next";

/// Notes that this node is to begin anew: it does when it starts.
pub fn order_anew(home: &StateDir, begun: Begun) -> Outcome<()> {
    home.write(ANEW, &format!("{} {}\n", begun.index, begun.term))
}

/// Puts the log aside, and an empty one in its place, if that is ordered. The new one is whole
/// before the old one goes, so it can be done again from any place where it stopped.
fn begin_anew(home: &StateDir) -> Outcome<()> {
    let Ok(text) = home.read(ANEW) else { return Ok(()) };
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
    let (log, lost, next) = (home.file(FILE), home.file(LOST), home.file(NEXT));
    if let (Some(index), Some(term)) = (numbers.next(), numbers.next()) {
        let begun = Begun { index, term };
        // The library stops the process at some damaged files: what was noted is not opened again.
        let stops = if log.exists() { noted(home).is_some() } else { home.file(NOTE).exists() };
        let whole = |path: &Path| {
            if stops { Persisted::default() } else { whatever_can_be_read(path) }
        };
        if !next.exists() || whatever_can_be_read(&next).begun != begun {
            let from = if log.exists() { FILE } else { LOST };
            let mut before = whole(&home.file(from));
            if before.begun == begun {
                return carried_out(home);
            }
            let _ = std::fs::remove_file(&next);
            let store = Store::open(&next)?;
            // A log that was where this machine had put it is followed by one that is, too.
            if before.incarnation.place == copied_state::of(home, from) {
                before.incarnation.place = copied_state::of(home, NEXT);
            }
            store.begin_anew(begun, &before)?;
        }
        let move_to = |from: &Path, to: &Path| {
            std::fs::rename(from, to)
                .and_then(|()| File::open(&home.0)?.sync_all())
                .map_err(|e| identity::disk(format!("cannot rename {}", from.display()), e))
        };
        if log.exists() {
            move_to(&log, &lost)?;
        }
        // What the lost log had written says nothing of this one.
        floor::forget(home);
        move_to(&next, &log)?;
    }
    carried_out(home)
}

/// The order to begin anew is carried out.
fn carried_out(home: &StateDir) -> Outcome<()> {
    std::fs::remove_file(home.file(ANEW))
        .map_err(|e| identity::disk("cannot end the order to begin anew", e))
}

/// What a log says; nothing, if there is none or it cannot be read.
fn whatever_can_be_read(path: &Path) -> Persisted {
    match path.exists().then(|| Store::look(path)) {
        Some(Ok(Opened::Store(store))) => store.read().unwrap_or_default(),
        Some(Ok(Opened::Damaged(_) | Opened::Full(_)) | Err(_)) | None => Persisted::default(),
    }
}

/// The log to write to, and what it had. The library stops the process at some damaged files: the
/// agent then starts anew, once, with a note of that.
pub fn open_or_restart(
    home: &StateDir,
    identity: &Identity,
    restart: impl Fn() + Send + Sync + 'static,
) -> Outcome<(Store, Persisted)> {
    let (before, opener) = (Arc::new(std::panic::take_hook()), std::thread::current().id());
    let (of, usual) = (home.clone(), Arc::clone(&before));
    std::panic::set_hook(Box::new(move |what| {
        // Another thread of this process says nothing of this file.
        if std::thread::current().id() != opener {
            return usual(what);
        }
        let said = what.payload_as_str().unwrap_or("it contradicts itself");
        // Without the note it would stop there for ever.
        if note(&of, said).is_ok() {
            restart();
        }
    }));
    let opened = open(home, identity);
    std::panic::set_hook(Box::new(move |what| before(what)));
    opened
}

/// Which file it is, in which state.
fn stamp(home: &StateDir) -> Option<String> {
    let meta = std::fs::metadata(home.file(FILE)).ok()?;
    Some(format!("{} {} {}.{}", meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

fn note(home: &StateDir, why: &str) -> Outcome<()> {
    let stamp = stamp(home).unwrap_or_default();
    home.write(NOTE, &format!("{stamp}\n{}", nines_model::printable::clean(why)))
}

/// What was noted of the file that is there now.
fn noted(home: &StateDir) -> Option<String> {
    let text = home.read(NOTE).ok()?;
    let (of, why) = text.split_once('\n')?;
    (stamp(home).as_deref() == Some(of)).then(|| why.to_owned())
}

fn open(home: &StateDir, identity: &Identity) -> Outcome<(Store, Persisted)> {
    begin_anew(home)?;
    let path = home.file(FILE);
    let unreadable = |why: String| {
        let retired = format!("its log {} cannot be read: {why}", path.display());
        Ok((Store::in_memory()?, Persisted { retired, ..Persisted::default() }))
    };
    if let Some(why) = noted(home) {
        return unreadable(why);
    }
    let store = match Store::look(&path)? {
        Opened::Store(store) => store,
        Opened::Damaged(why) => return unreadable(why),
        Opened::Full(why) => {
            let retired = format!("its log {} cannot be opened: {why}", path.display());
            let kept = Persisted { retired, full: true, ..Persisted::default() };
            return Ok((Store::in_memory()?, kept));
        }
    };
    let mut kept = match store.read() {
        Ok(kept) => kept,
        Err(why) => return unreadable(why.why),
    };
    let empty = kept.snapshot.index == 0 && kept.entries.is_empty();
    if !empty {
        identity.note_log(home)?;
    } else if identity.has_log(home) && kept.retired.is_empty() && kept.begun.index == 0 {
        kept.retired = format!("its log is gone: {} has nothing in it", path.display());
    }
    let (writes, floor) = (store.writes()?, floor::known(home));
    if writes < floor && kept.retired.is_empty() {
        kept.retired = format!(
            "its log is older than what it wrote: {} has had {writes} writes, and by {} there were \
             {floor}",
            path.display(),
            floor::FILE
        );
        // Until a newer copy takes its place.
        let retired = Some(kept.retired.clone());
        let written = store.write(&Persist { retired, ..Persist::default() });
        written.map_err(|e| Failure::new(Kind::Io, "the log cannot be written", e.why))?;
    }
    Ok((store, kept))
}

#[cfg(test)]
mod tests {
    use nines_core::wire::{HardState, KeptIncarnation, Snapshot};

    use super::*;
    use crate::identity::PORT;

    /// A state directory of a node that founded a cluster, or joined one.
    fn member(name: &str, founding: bool) -> (StateDir, Identity) {
        let folder = std::env::temp_dir().join(format!("nines-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let home = StateDir(folder);
        let text = "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n";
        let spec = nines_model::config::parse(text).unwrap();
        let (mut credentials, kept) = identity::bootstrap(text, &spec, PORT).unwrap();
        credentials[0].identity.founding = founding;
        home.keep(&credentials[0]).unwrap();
        if founding {
            Store::open(&home.file(FILE)).unwrap().found(&kept).unwrap();
        }
        (home, credentials.remove(0).identity)
    }

    fn retired(home: &StateDir) -> String {
        open(home, &home.identity().unwrap()).unwrap().1.retired
    }

    #[test]
    fn a_founder_without_its_log_knows_it() {
        let (home, _) = member("founder", true);
        assert_eq!(retired(&home), "");
        std::fs::remove_file(home.file(FILE)).unwrap();
        assert!(retired(&home).contains("its log is gone"));
        assert!(retired(&home).contains("its log is gone"), "also the next time");
        std::fs::write(home.file(FILE), "").unwrap();
        assert!(retired(&home).contains("its log is gone"));
        std::fs::remove_dir_all(&home.0).unwrap();
    }

    #[test]
    fn one_that_joined_has_no_log_at_first_and_then_must_have_it() {
        let (home, identity) = member("joined", false);
        assert_eq!(retired(&home), "");
        assert_eq!(retired(&home), "", "restarted before the log came");
        {
            let (store, _) = open(&home, &identity).unwrap();
            let snapshot = Snapshot { index: 7, term: 2, ..Snapshot::default() };
            let hard_state = HardState { term: 2, vote: 0, commit: 7 };
            let (snapshot, hard_state) = (Some(snapshot), Some(hard_state));
            store.write(&Persist { snapshot, hard_state, ..Persist::default() }).unwrap();
        }
        identity.note_log(&home).unwrap();
        assert_eq!(retired(&home), "");
        std::fs::remove_file(home.file(FILE)).unwrap();
        assert!(retired(&home).contains("its log is gone"));
        std::fs::remove_dir_all(&home.0).unwrap();
    }

    #[test]
    fn an_older_copy_of_the_file_alone_is_noticed_without_anybody() {
        let (home, identity) = member("older", true);
        let write = |store: &Store| {
            let hard_state = Some(HardState { term: 2, vote: 1, commit: 1 });
            store.write(&Persist { hard_state, ..Persist::default() }).unwrap()
        };
        let older = std::fs::read(home.file(FILE)).unwrap();
        {
            let (store, _) = open(&home, &identity).unwrap();
            let mut floor = floor::Floor::open(&home);
            floor.note(write(&store));
            floor.note(write(&store));
        }
        let newest = std::fs::read(home.file(FILE)).unwrap();
        assert_eq!(retired(&home), "");
        std::fs::write(home.file(FILE), &older).unwrap();
        assert!(retired(&home).contains("its log is older than what it wrote"));
        {
            let (store, _) = open(&home, &identity).unwrap();
            (0..5).for_each(|_| assert!(write(&store) > 0));
        }
        assert!(retired(&home).contains("its log is older"), "for good, whatever it writes");
        std::fs::write(home.file(FILE), &newest).unwrap();
        assert_eq!(retired(&home), "", "the newest copy was put back");
        // A node that begins anew in its directory.
        std::fs::remove_file(home.file(FILE)).unwrap();
        home.make_log().unwrap();
        assert_eq!(floor::known(&home), 0);
        std::fs::remove_dir_all(&home.0).unwrap();
    }

    /// As often as it is ordered, and from wherever it stopped; what the node promised goes on.
    #[test]
    fn a_node_begins_anew_once_and_keeps_its_lost_log() {
        let (home, identity) = member("anew", true);
        let begun = Begun { index: 9, term: 3 };
        let place = copied_state::of(&home, FILE);
        let life = KeptIncarnation { incarnation: 5, starts: 4, place, machine_boot: 1 };
        let retired = Some("an older copy".to_owned());
        let persist = Persist { incarnation: Some(life), retired, ..Persist::default() };
        Store::open(&home.file(FILE)).unwrap().write(&persist).unwrap();
        order_anew(&home, begun).unwrap();
        // It stopped between two steps.
        std::fs::rename(home.file(FILE), home.file(LOST)).unwrap();
        for _ in 0..2 {
            let kept = open(&home, &identity).unwrap().1;
            assert_eq!((kept.begun, kept.incarnation.starts), (begun, 4));
            assert_eq!((kept.retired.as_str(), kept.snapshot.index), ("", 0));
            assert_eq!(kept.incarnation.place, copied_state::of(&home, FILE), "it did not move");
            assert!(home.file(LOST).exists() && !home.file(ANEW).exists());
        }
        // The order is still there though it was carried out.
        order_anew(&home, begun).unwrap();
        assert_eq!(open(&home, &identity).unwrap().1.begun, begun);
        // A later order, which stopped before the new log was whole; and the log that is lost is a
        // copy, which is at no place of its own.
        let copy = std::fs::read(home.file(FILE)).unwrap();
        std::fs::remove_file(home.file(FILE)).unwrap();
        std::fs::write(home.file(FILE), copy).unwrap();
        let begun = Begun { index: 12, term: 4 };
        order_anew(&home, begun).unwrap();
        std::fs::write(home.file(NEXT), "").unwrap();
        let kept = open(&home, &identity).unwrap().1;
        assert_eq!((kept.begun, kept.incarnation.starts), (begun, 4));
        assert_ne!(kept.incarnation.place, copied_state::of(&home, FILE), "others must confirm it");
        std::fs::remove_dir_all(&home.0).unwrap();
    }

    /// Cut off anywhere, or with other bytes anywhere: it is read, or it is said that it cannot be.
    #[test]
    fn a_damaged_file_stops_no_agent_twice() {
        let (home, _) = member("damaged", true);
        let whole = std::fs::read(home.file(FILE)).unwrap();
        let mut damaged: Vec<Vec<u8>> = Vec::new();
        for cut in [1, 100, 4_095, 4_096, 10_000, whole.len() / 2, whole.len() - 1] {
            damaged.push(whole[..cut.min(whole.len() - 1)].to_vec());
        }
        for (place, byte) in (0..whole.len().min(40_000)).step_by(613).zip(1..) {
            let mut other = whole.clone();
            other[place..(place + 40).min(whole.len())].fill(byte);
            damaged.push(other);
        }
        damaged.push(vec![0; 8_192]);
        damaged.push(b"this is no log".to_vec());
        let mut unread = 0;
        for bytes in damaged {
            std::fs::write(home.file(FILE), &bytes).unwrap();
            let identity = home.identity().unwrap();
            let look = || open(&home, &identity).map(|(_, kept)| kept.retired);
            // In the agent the hook does this.
            let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look))
                .unwrap_or_else(|_| {
                    note(&home, "the library stopped").unwrap();
                    look()
                })
                .unwrap();
            if said.contains("cannot be read") {
                unread += 1;
                assert!(said.contains(FILE));
            }
        }
        assert!(unread > 8, "{unread}");
        std::fs::write(home.file(FILE), &whole).unwrap();
        assert_eq!(retired(&home), "", "its newest copy was put back");
        std::fs::remove_dir_all(&home.0).unwrap();
    }
}
