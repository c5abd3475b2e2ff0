//! Backups: the replicated state of a cluster as one file.
//!
//! ```text
//! "nines backup 1\n" | SHA-256 of the rest, 32 bytes | length of the rest, u64 | Backup (protobuf)
//! ```
//! Decides: what is in a backup, and when a file is one. No key is: a cluster that begins anew from
//! a backup makes new ones, so the old ones would be good for thieves only. A file that is not
//! whole is refused, whatever of it could be read.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::{Node, feature_level, snapshot, state::State};
use nines_model::{Time, config};
use prost::Message as _;
use ring::digest::{SHA256, digest};

pub mod daily;
mod restore;

pub use restore::{Anew, begin_anew};

/// What a file begins with, up to the number of its format.
const MAGIC: &[u8] = b"nines backup ";
/// This build's format.
const FORMAT: &[u8] = b"1\n";
const HEAD: usize = MAGIC.len() + FORMAT.len() + 32 + 8;
/// No state is so large: configs have a limit, and so have the other parts.
const SIZE_MAX: u64 = 16 * config::TEXT_MAX as u64;

/// What a backup says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Backup {
    /// Name of the cluster.
    #[prost(string, tag = "1")]
    pub cluster: String,
    /// Its generation.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// Node whose state it is.
    #[prost(string, tag = "3")]
    pub node: String,
    /// When it was made, ms since 1970.
    #[prost(uint64, tag = "4")]
    pub at_ms: u64,
    /// Version of the nines that made it.
    #[prost(string, tag = "5")]
    pub version: String,
    /// Feature level of the cluster.
    #[prost(uint32, tag = "6")]
    pub feature_level: u32,
    /// Revision of the config.
    #[prost(uint64, tag = "7")]
    pub revision: u64,
    /// Log index up to which the state goes.
    #[prost(uint64, tag = "8")]
    pub index: u64,
    /// Term of the consensus then.
    #[prost(uint64, tag = "9")]
    pub term: u64,
    /// The state as `snapshot::encode` makes it.
    #[prost(bytes = "vec", tag = "10")]
    pub state: Vec<u8>,
}

/// A node's state, to be made a backup of; the rest can be done elsewhere.
pub struct Taken {
    state: State,
    backup: Backup,
}

impl Taken {
    /// What a node knows now.
    pub fn of(node: &Node, now: Time, generation: u64) -> Self {
        let state = node.state().clone();
        let backup = Backup {
            cluster: state.spec.name.clone(),
            generation,
            node: node.config().name.to_string(),
            at_ms: node.wall_ms(now),
            version: env!("CARGO_PKG_VERSION").into(),
            feature_level: state.members.feature_level(),
            revision: state.revision,
            index: state.applied.number(),
            term: node.consensus().term(),
            state: Vec::new(),
        };
        Self { state, backup }
    }

    /// Fails for a node that has no state yet.
    pub fn backup(self) -> Outcome<Backup> {
        if self.state.members.is_empty() {
            let why = "this node has not got the log of its cluster yet";
            return Err(Failure::new(Kind::Unreachable, "there is nothing to save", why)
                .next("nines status   shows what it waits for; or save on another node"));
        }
        Ok(Backup { state: snapshot::encode(&self.state), ..self.backup })
    }
}

fn refused(file: &str, why: impl std::fmt::Display) -> Failure {
    let next = "take another backup: /var/lib/nines/backups of each node has the last seven";
    Failure::new(Kind::Usage, format!("{file} cannot be used"), why).next(next)
}

impl Backup {
    /// The bytes of a file.
    pub fn encoded(&self) -> Vec<u8> {
        let body = self.encode_to_vec();
        let (sum, length) = (digest(&SHA256, &body), (body.len() as u64).to_be_bytes());
        [MAGIC, FORMAT, sum.as_ref(), &length, &body].concat()
    }

    /// Reads the bytes of a file of this name.
    pub fn decoded(file: &str, bytes: &[u8]) -> Outcome<Self> {
        let refused = |why: String| refused(file, why);
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Err(refused("it is no backup of nines".into()));
        };
        let short = || {
            let why = format!("it is cut short: {} bytes are no whole backup", bytes.len());
            refused(why)
        };
        let Some(rest) = rest.strip_prefix(FORMAT) else {
            let line = rest.iter().position(|byte| *byte == b'\n');
            let number = line.map(|end| String::from_utf8_lossy(&rest[..end]).into_owned());
            return match number.as_deref().map(str::parse::<u32>) {
                Some(Ok(number)) => Err(refused(format!(
                    "it has format {number}, and this nines ({}) reads format 1",
                    env!("CARGO_PKG_VERSION")
                ))),
                _ => Err(short()),
            };
        };
        let (Some(sum), Some(length)) = (rest.get(..32), rest.get(32..40)) else {
            return Err(short());
        };
        let (body, wanted) = (&rest[40..], u64::from_be_bytes(length.try_into().expect("eight")));
        if (body.len() as u64) < wanted {
            let (has, all) = (bytes.len(), HEAD as u64 + wanted);
            return Err(refused(format!("it is cut short: it has {has} of {all} bytes")));
        }
        if body.len() as u64 > wanted || digest(&SHA256, body).as_ref() != sum {
            return Err(refused("it is damaged: its checksum is another one".into()));
        }
        Self::decode(body).map_err(|e| refused(format!("it is damaged: {e}")))
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Outcome<Self> {
        let file = path.display().to_string();
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|f| f.take(SIZE_MAX).read_to_end(&mut bytes));
        read.map_err(|e| match e.kind() {
            ErrorKind::NotFound => Failure::new(Kind::NotFound, format!("{file} is not there"), "")
                .next("ls /var/lib/nines/backups   shows those that the agent made"),
            _ => Failure::new(Kind::Io, format!("cannot read {file}"), e).next("ls -l"),
        })?;
        Self::decoded(&file, &bytes)
    }

    /// The state in it.
    pub fn state(&self, file: &str) -> Outcome<State> {
        snapshot::decode(&self.state).ok_or_else(|| {
            let (version, level) = (&self.version, self.feature_level);
            let why = format!(
                "nines {version} made it at feature level {level}, and this nines ({}) reads up \
                 to {}",
                env!("CARGO_PKG_VERSION"),
                feature_level::BUILD
            );
            let what = format!("{file} cannot be used");
            Failure::new(Kind::Usage, what, why).next(format!("install nines {version}"))
        })
    }
}

/// Writes a new file that only its owner can read: whole, or not at all, also if the machine stops
/// meanwhile.
pub fn write(path: &Path, bytes: &[u8]) -> Outcome<()> {
    let what = || format!("cannot write {}", path.display());
    let mut half = path.as_os_str().to_owned();
    half.push(".new");
    let half = Path::new(&half);
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(half);
    let mut file =
        file.map_err(|e| Failure::new(Kind::Io, what(), e).next("choose another directory"))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    // A link takes no file's place.
    let done = written.and_then(|()| std::fs::hard_link(half, path));
    let _ = std::fs::remove_file(half);
    done.map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => Failure::new(Kind::Unsafe, what(), "the file is there already")
            .next("choose another name; no backup is overwritten"),
        _ => Failure::new(Kind::Io, what(), e).next("see whether the disk is full"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> Backup {
        Backup { cluster: "shop".into(), generation: 2, state: vec![7; 300], ..Backup::default() }
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused_by_its_name() {
        let whole = backup().encoded();
        assert_eq!(Backup::decoded("f", &whole).unwrap(), backup());
        for length in 0..whole.len() {
            let refused = Backup::decoded("shop.backup", &whole[..length]).unwrap_err();
            assert!(refused.what.contains("shop.backup"), "{length}");
            let says = if length < MAGIC.len() { "is no backup" } else { "is cut short" };
            assert!(refused.why.contains(says), "{length}: {}", refused.why);
        }
        for place in 0..whole.len() {
            let mut other = whole.clone();
            other[place] ^= 0x10;
            assert!(Backup::decoded("f", &other).is_err(), "{place}");
        }
        let longer = [&whole[..], b"x"].concat();
        assert!(Backup::decoded("f", &longer).unwrap_err().why.contains("is damaged"));
        let newer = [MAGIC, b"2\n", &whole[MAGIC.len() + 2..]].concat();
        assert!(Backup::decoded("f", &newer).unwrap_err().why.contains("it has format 2"));
        let unread = backup().state("f").unwrap_err();
        assert!(unread.why.contains("feature level 0"), "{}", unread.why);
    }

    #[test]
    fn no_file_is_overwritten() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = std::env::temp_dir().join(format!("nines-backup-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        write(&path, &backup().encoded()).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(write(&path, b"other").unwrap_err().kind, Kind::Unsafe);
        assert_eq!(Backup::read(&path).unwrap(), backup());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Backup::read(&path).unwrap_err().kind, Kind::NotFound);
    }
}
