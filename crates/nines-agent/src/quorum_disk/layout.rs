//! What is where on a quorum disk, and how each piece is known to be whole.
//!
//! ```text
//! 0        header: version, cluster, hosts
//! 4 kB     of each host two copies of its block, written in turn: one of them is always whole
//! 128 kB   credentials of the voter, as it joined with them
//! 640 kB   of each host the credentials that its voter has got since
//! 1 MB     of each host an area with a log; log.rs
//! ```
//!
//! Decides: the layout. Each piece has a name, a length and a digest. Who owns the disk is decided
//! in `nines_core::quorum_disk`.

use std::net::IpAddr;

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::quorum_disk::{Ballot, Block, HostNumber, Seen};
use serde::{Deserialize, Serialize};

use super::device::{BLOCK, Device};
use crate::identity::{Admission, certificate::Validity, der, fingerprint};

/// Hosts that can share a disk.
pub const HOSTS_MAX: usize = 8;
/// Version of the layout that this build reads and writes.
const VERSION: u32 = 1;
/// Where the credentials start, and how much room they have.
const CREDENTIALS: u64 = 128 << 10;
const CREDENTIALS_ROOM: u64 = 512 << 10;
/// Where those are that hosts have written, and how much room each has.
const NEWER: u64 = 640 << 10;
const NEWER_ROOM: u64 = 48 << 10;
/// Where the first area starts.
const AREAS: u64 = 1 << 20;
/// An area has so much room at least, and at most.
const AREA_MIN: u64 = 16 << 20;
const AREA_MAX: u64 = 256 << 20;

/// Names of pieces.
pub mod name {
    pub const HEADER: [u8; 8] = *b"9s-qdisk";
    pub const BLOCK: [u8; 8] = *b"9s-block";
    pub const CREDENTIALS: [u8; 8] = *b"9s-creds";
    pub const AREA: [u8; 8] = *b"9s-qarea";
}

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Number of this formatting of the disk, unlike any other.
    pub disk: u64,
    /// Name of the cluster.
    pub cluster: String,
    /// Digest of the cluster's certificate authority, hex.
    pub authority: String,
    /// Name of the voter as a member.
    pub node: String,
    /// Address of each host, in their order.
    pub hosts: Vec<IpAddr>,
    /// Port of the voter on whichever host runs it.
    pub port: u16,
    /// Room of each area.
    pub area: u64,
}

impl Header {
    /// Where the area of a host starts.
    pub fn area_of(&self, host: HostNumber) -> u64 {
        AREAS + self.area * u64::from(host.0)
    }

    /// What a header says of the authority of this certificate.
    pub fn authority_of(ca_pem: &str) -> String {
        data_encoding::HEXLOWER.encode(&fingerprint(&der(ca_pem)))
    }

    /// Each host's number and address.
    pub fn numbered(&self) -> impl Iterator<Item = (HostNumber, IpAddr)> {
        (0..).map(HostNumber).zip(self.hosts.iter().copied())
    }

    /// The address of a host.
    pub fn address(&self, host: HostNumber) -> IpAddr {
        self.hosts[host.place()]
    }
}

/// The room of each area on a device of this size; `None`: it is too small.
pub fn area(size: u64, hosts: usize) -> Option<u64> {
    let each = size.saturating_sub(AREAS) / hosts as u64 / BLOCK * BLOCK;
    (each >= AREA_MIN).then_some(each.min(AREA_MAX))
}

/// The least size of a device for so many hosts.
pub fn least(hosts: usize) -> u64 {
    AREAS + AREA_MIN * hosts as u64
}

/// A piece with its name, version, length and digest.
pub fn piece(name: [u8; 8], version: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = name.to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend(content);
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    bytes.extend(digest.as_ref());
    bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
    bytes
}

/// What is wrong with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Something else is there.
    Absent,
    /// A newer nines wrote it: its version.
    Newer(u32),
    /// It is not whole.
    Damaged,
}

/// The content of a piece.
pub fn content(name: [u8; 8], bytes: &[u8]) -> Result<&[u8], Wrong> {
    let number = |at: usize| {
        let four = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        four.map(u32::from_le_bytes).ok_or(Wrong::Damaged)
    };
    if bytes.get(..8) != Some(&name) {
        return Err(Wrong::Absent);
    }
    let (version, end) = (number(8)?, 16 + number(12)? as usize);
    if version > VERSION {
        return Err(Wrong::Newer(version));
    }
    let (Some(whole), Some(digest)) = (bytes.get(..end), bytes.get(end..end + 32)) else {
        return Err(Wrong::Damaged);
    };
    let right = ring::digest::digest(&ring::digest::SHA256, whole);
    if right.as_ref() == digest { Ok(&whole[16..]) } else { Err(Wrong::Damaged) }
}

/// The failure of a read or write.
pub fn failed(device: &Device, what: &str, e: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Io, format!("cannot {what} {}", device.path().display()), e)
        .next("see the kernel's messages (dmesg) and the paths to the device (multipath -ll)")
}

/// Reads the header.
pub fn header(device: &Device) -> Outcome<Header> {
    let mut bytes = vec![0; BLOCK as usize];
    device.read(0, &mut bytes).map_err(|e| failed(device, "read", e))?;
    parse_header(device, &bytes)
}

fn parse_header(device: &Device, bytes: &[u8]) -> Outcome<Header> {
    let path = device.path().display();
    let again = "nines quorum-disk init DEVICE ... --force   makes it anew, once no host uses it";
    let wrong = match content(name::HEADER, bytes) {
        Ok(text) => match serde_json::from_slice::<Header>(text) {
            Ok(header) if (1..=HOSTS_MAX).contains(&header.hosts.len()) => return Ok(header),
            _ => Wrong::Damaged,
        },
        Err(wrong) => wrong,
    };
    Err(match wrong {
        Wrong::Absent => {
            Failure::new(Kind::NotFound, format!("{path} is no quorum disk"), "it has no header")
                .next("nines quorum-disk init DEVICE ADDRESS CODE --at ADDRESS --at ADDRESS")
        }
        Wrong::Newer(version) => Failure::new(
            Kind::Unsafe,
            format!("{path} was made by a newer nines"),
            format!("its layout is version {version}, and this build reads up to {VERSION}"),
        )
        .next("install the version of the other hosts"),
        Wrong::Damaged => Failure::new(
            Kind::Io,
            format!("the header of {path} is damaged"),
            "its digest is wrong; nothing else on the disk is believed",
        )
        .next(again),
    })
}

/// Where a copy of a host's block is.
fn block_at(host: HostNumber, sequence: u64) -> u64 {
    BLOCK * (1 + 2 * u64::from(host.0) + sequence % 2)
}

/// Now, in ms since 1970: for people's eyes only.
pub fn wall_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}

fn encode(disk: u64, block: &Block) -> Vec<u8> {
    let Block { run, sequence, claim, owned } = block;
    let numbers = [
        disk,
        *run,
        *sequence,
        claim.epoch,
        u64::from(claim.host.0),
        owned.epoch,
        u64::from(owned.host.0),
        wall_ms(),
    ];
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn decode(disk: u64, bytes: &[u8]) -> Option<Block> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    let numbers: Vec<u64> = numbers.iter().map(|n| u64::from_le_bytes(*n)).collect();
    let [of, run, sequence, claim, claims, owned, owns, _] = numbers.as_slice() else {
        return None;
    };
    let ballot =
        |epoch: u64, host: u64| Some(Ballot { epoch, host: HostNumber(u8::try_from(host).ok()?) });
    let (claim, owned) = (ballot(*claim, *claims)?, ballot(*owned, *owns)?);
    let block = Block { run: *run, sequence: *sequence, claim, owned };
    (*of == disk && rest.is_empty()).then_some(block)
}

/// Writes a block of a host in place of its last but one.
pub fn write_block(
    device: &Device,
    disk: u64,
    host: HostNumber,
    block: &Block,
) -> std::io::Result<()> {
    let bytes = piece(name::BLOCK, VERSION, &encode(disk, block));
    device.write(block_at(host, block.sequence), &bytes)
}

/// What a host says: the newer of its two copies. One that is half written is not the newest that
/// was ever whole.
fn block_in(disk: u64, copies: &[u8]) -> Seen {
    let mut found = None;
    let mut blank = true;
    for bytes in copies.chunks(BLOCK as usize) {
        blank &= bytes.iter().all(|byte| *byte == 0);
        let block = content(name::BLOCK, bytes).ok().and_then(|bytes| decode(disk, bytes));
        let newer = |block: &Block| found.is_none_or(|f: Block| f.sequence < block.sequence);
        found = block.filter(newer).or(found);
    }
    match found {
        Some(block) => Seen::Block(block),
        None if blank => Seen::Block(Block::default()),
        None => Seen::Damaged,
    }
}

/// The blocks of all hosts. Fails if the header is not the one that this process began with.
pub fn blocks(device: &Device, header: &Header) -> Outcome<Vec<Seen>> {
    let mut bytes = vec![0; BLOCK as usize * (1 + 2 * header.hosts.len())];
    device.read(0, &mut bytes).map_err(|e| failed(device, "read", e))?;
    let now = parse_header(device, &bytes)?;
    if now != *header {
        let what = format!("{} was formatted anew", device.path().display());
        return Err(Failure::new(Kind::Unsafe, what, format!("for cluster {}", now.cluster))
            .next("systemctl restart nines-quorum-disk   if this host belongs to it"));
    }
    let pairs = bytes[BLOCK as usize..].chunks(2 * BLOCK as usize);
    Ok(pairs.map(|copies| block_in(header.disk, copies)).collect())
}

/// When each host wrote its block last, by its wall clock, in ms since 1970; `None`: never.
pub fn written(device: &Device, header: &Header) -> Outcome<Vec<Option<u64>>> {
    let mut bytes = vec![0; BLOCK as usize * (1 + 2 * header.hosts.len())];
    device.read(0, &mut bytes).map_err(|e| failed(device, "read", e))?;
    let pairs = bytes[BLOCK as usize..].chunks(2 * BLOCK as usize);
    let at = |bytes: &[u8]| {
        let numbers = content(name::BLOCK, bytes).ok()?;
        numbers.last_chunk::<8>().map(|at| u64::from_le_bytes(*at))
    };
    Ok(pairs.map(|pair| pair.chunks(BLOCK as usize).filter_map(at).max()).collect())
}

/// The credentials of the voter: the newest that any host has written whole.
pub fn credentials(device: &Device) -> Outcome<Admission> {
    let mut bytes = vec![0; (AREAS - CREDENTIALS) as usize];
    device.read(CREDENTIALS, &mut bytes).map_err(|e| failed(device, "read", e))?;
    let (first, newer) = bytes.split_at((NEWER - CREDENTIALS) as usize);
    let read = |bytes: &[u8]| -> Option<Admission> {
        serde_json::from_slice(content(name::CREDENTIALS, bytes).ok()?).ok()
    };
    let first = read(first).ok_or_else(|| {
        let what = format!("the credentials on {} are damaged", device.path().display());
        Failure::new(Kind::Io, what, "the voter cannot prove who it is")
            .next("nines node remove NODE   on a member, then   nines quorum-disk init ... --force")
    })?;
    let age = |of: &Admission| {
        let made = Validity::of(&der(&of.cert_pem)).map_or(0, |validity| validity.from);
        (of.authorities().order, made)
    };
    let newer = newer.chunks(NEWER_ROOM as usize).filter_map(read);
    let newest = newer.filter(|of| of.identity.me.id == first.identity.me.id).max_by_key(age);
    Ok(newest.filter(|newest| age(newest) >= age(&first)).unwrap_or(first))
}

/// Keeps credentials that the voter on this host has got, beside those that it joined with.
pub fn write_credentials(device: &Device, host: HostNumber, of: &Admission) -> Outcome<()> {
    let cannot = |e: std::io::Error| failed(device, "write", e);
    let secrets = piece(name::CREDENTIALS, VERSION, &serde_json::to_vec(of).expect("plain data"));
    if secrets.len() as u64 > NEWER_ROOM {
        let what = "the credentials do not fit on the disk";
        return Err(Failure::new(Kind::Usage, what, "the cluster has too many members"));
    }
    device.write(NEWER + NEWER_ROOM * u64::from(host.0), &secrets).map_err(cannot)?;
    device.sync().map_err(cannot)
}

/// Writes all of it but logs; the header comes last: before it this is no quorum disk.
pub fn format(device: &Device, header: &Header, credentials: &Admission) -> Outcome<()> {
    let cannot = |e: std::io::Error| failed(device, "write", e);
    let text = serde_json::to_vec(credentials).expect("plain data");
    let secrets = piece(name::CREDENTIALS, VERSION, &text);
    if secrets.len() as u64 > CREDENTIALS_ROOM {
        let what = "the credentials do not fit on the disk";
        return Err(Failure::new(Kind::Usage, what, "the cluster has too many members"));
    }
    device.write(0, &vec![0; AREAS as usize]).map_err(cannot)?;
    for (host, _) in header.numbered() {
        device.write(header.area_of(host), &vec![0; BLOCK as usize]).map_err(cannot)?;
    }
    device.write(CREDENTIALS, &secrets).map_err(cannot)?;
    device.sync().map_err(cannot)?;
    let text = serde_json::to_vec(header).expect("plain data");
    device.write(0, &piece(name::HEADER, VERSION, &text)).map_err(cannot)?;
    device.sync().map_err(cannot)
}

#[cfg(test)]
pub mod tests;
