//! Seals datagrams: authenticated, encrypted, fresh.
//!
//! ```text
//! "N9" | version 1 | link | sender u16 | salt 16 | sequence u64 | sealed { echo 8 | frame } | tag
//! ```
//! Each life of a node has a random salt; its key is HKDF-SHA256(cluster key, salt), its nonce is
//! (link, sequence): never used twice. `echo` is the beginning of the receiver's salt: only a
//! packet made for this very life of the receiver counts, so an old recording never does (S28).
//! ChaCha20-Poly1305, RFC 8439.
//!
//! Decides: what is authentic and fresh. Memory per peer is constant.

use std::collections::BTreeMap;

use nines_model::Time;
use ring::{aead, hkdf};

const MAGIC: [u8; 3] = [b'N', b'9', 1];
const HEADER: usize = 30;
/// Sealing adds so many bytes.
pub const OVERHEAD: usize = HEADER + 8 + 16;
/// A peer's new life is believed when its old one has been silent for so long, ns.
const NEW_LIFE_AFTER_NS: u64 = 50_000_000;

struct PeerSeal {
    salt: [u8; 16],
    key: aead::LessSafeKey,
    /// Newest sequence by link.
    newest: BTreeMap<u8, u64>,
    live_at: Time,
    /// It has shown that it lives now.
    confirmed: bool,
}

/// Keys of this node and its peers.
pub struct Seals {
    cluster: hkdf::Prk,
    me: u16,
    salt: [u8; 16],
    key: aead::LessSafeKey,
    sequence: u64,
    peers: BTreeMap<u64, PeerSeal>,
}

/// What a datagram was.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// From this node, over this of its links.
    Frame(u64, Vec<u8>),
    /// Authentic, but made for no or another life of ours: answer with anything, so that the
    /// sender learns our salt.
    Greeting(u64),
    /// Forged, replayed, damaged or of another cluster.
    Nothing,
}

struct KeyLength;

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

fn derive(cluster: &hkdf::Prk, salt: &[u8; 16]) -> aead::LessSafeKey {
    let mut key = [0; 32];
    let info = [b"nines beat".as_slice(), salt.as_slice()];
    cluster
        .expand(&info, KeyLength)
        .and_then(|okm| okm.fill(&mut key))
        .expect("32 bytes are few for HKDF");
    aead::LessSafeKey::new(
        aead::UnboundKey::new(&aead::CHACHA20_POLY1305, &key).expect("the key has 32 bytes"),
    )
}

fn nonce(link: u8, sequence: u64) -> aead::Nonce {
    let mut bytes = [0; 12];
    bytes[0] = link;
    bytes[4..].copy_from_slice(&sequence.to_be_bytes());
    aead::Nonce::assume_unique_for_key(bytes)
}

impl Seals {
    /// Keys of a new life.
    pub fn new(cluster_key: &[u8], me: u64, salt: [u8; 16]) -> Self {
        let cluster = hkdf::Salt::new(hkdf::HKDF_SHA256, b"nines").extract(cluster_key);
        let key = derive(&cluster, &salt);
        Self { cluster, me: me as u16, salt, key, sequence: 0, peers: BTreeMap::new() }
    }

    /// Seals a frame for a peer on one of our links.
    pub fn seal(&mut self, to: u64, link: u8, frame: &[u8]) -> Vec<u8> {
        self.sequence += 1;
        let mut out = Vec::with_capacity(frame.len() + OVERHEAD);
        out.extend(MAGIC);
        out.push(link);
        out.extend(self.me.to_be_bytes());
        out.extend(self.salt);
        out.extend(self.sequence.to_be_bytes());
        let echo = self
            .peers
            .get(&to)
            .map_or([0; 8], |p| p.salt[..8].try_into().expect("a salt has 16 bytes"));
        let mut body = echo.to_vec();
        body.extend(frame);
        let aad = aead::Aad::from(out.clone());
        self.key
            .seal_in_place_append_tag(nonce(link, self.sequence), aad, &mut body)
            .expect("frames are short");
        out.extend(body);
        out
    }

    /// Opens a datagram.
    pub fn open(&mut self, now: Time, datagram: &[u8]) -> Opened {
        let Some((header, sealed)) = datagram.split_at_checked(HEADER) else {
            return Opened::Nothing;
        };
        if header[..3] != MAGIC {
            return Opened::Nothing;
        }
        let link = header[3];
        let from = u64::from(u16::from_be_bytes([header[4], header[5]]));
        let salt: [u8; 16] = header[6..22].try_into().expect("sliced");
        let sequence = u64::from_be_bytes(header[22..30].try_into().expect("sliced"));
        if from == u64::from(self.me) {
            return Opened::Nothing;
        }
        let known = self.peers.get(&from).filter(|p| p.salt == salt);
        if known.is_some_and(|p| p.newest.get(&link).is_some_and(|newest| sequence <= *newest)) {
            return Opened::Nothing;
        }
        let fresh_key;
        let key = match known {
            Some(peer) => &peer.key,
            None => {
                fresh_key = derive(&self.cluster, &salt);
                &fresh_key
            }
        };
        let mut body = sealed.to_vec();
        let aad = aead::Aad::from(header);
        let Ok(plain) = key.open_in_place(nonce(link, sequence), aad, &mut body) else {
            return Opened::Nothing;
        };
        let Some((echo, frame)) = plain.split_at_checked(8) else { return Opened::Nothing };
        let live = echo == &self.salt[..8];
        let frame = frame.to_vec();
        self.note(now, from, link, salt, sequence, live);
        if !live {
            return Opened::Greeting(from);
        }
        Opened::Frame(from, frame)
    }

    fn note(&mut self, now: Time, from: u64, link: u8, salt: [u8; 16], sequence: u64, live: bool) {
        let known = self.peers.get(&from).is_some_and(|p| p.salt == salt);
        let replaceable = self
            .peers
            .get(&from)
            .is_none_or(|p| live || !p.confirmed || now.since(p.live_at) > NEW_LIFE_AFTER_NS);
        if !known && replaceable {
            let key = derive(&self.cluster, &salt);
            let (newest, live_at) = (BTreeMap::new(), now);
            self.peers.insert(from, PeerSeal { salt, key, newest, live_at, confirmed: live });
        }
        if let Some(peer) = self.peers.get_mut(&from).filter(|p| p.salt == salt) {
            peer.newest.insert(link, sequence);
            if live {
                peer.confirmed = true;
                peer.live_at = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"a cluster key of 32 bytes length";
    const T: Time = Time(1_000_000_000);

    fn pair() -> (Seals, Seals) {
        let (mut a, mut b) = (Seals::new(KEY, 1, [1; 16]), Seals::new(KEY, 2, [2; 16]));
        assert_eq!(b.open(T, &a.seal(2, 0, b"")), Opened::Greeting(1));
        assert_eq!(a.open(T, &b.seal(1, 0, b"x")), Opened::Frame(2, b"x".to_vec()));
        (a, b)
    }

    #[test]
    fn frames_arrive_once_and_only_whole() {
        let (mut a, mut b) = pair();
        let sealed = a.seal(2, 0, b"beat");
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert!(!matches!(b.open(T, &forged), Opened::Frame(..)), "byte {at}");
        }
        for length in 0..sealed.len() {
            assert_eq!(b.open(T, &sealed[..length]), Opened::Nothing);
        }
        assert_eq!(b.open(T, &sealed), Opened::Frame(1, b"beat".to_vec()));
        assert_eq!(b.open(T, &sealed), Opened::Nothing, "replayed");
    }

    #[test]
    fn another_cluster_is_not_heard() {
        let (_, mut b) = pair();
        let mut stranger = Seals::new(b"another key of 32 bytes, really!", 1, [1; 16]);
        assert_eq!(b.open(T, &stranger.seal(2, 0, b"beat")), Opened::Nothing);
    }

    #[test]
    fn a_recording_of_an_earlier_life_never_counts() {
        let (mut a, mut b) = pair();
        let recorded = a.seal(2, 0, b"I hold the VIP");
        let mut a2 = Seals::new(KEY, 1, [3; 16]);
        let late = Time(T.0 + NEW_LIFE_AFTER_NS + 1);
        // The new life is heard, then the recording is played to a new life of the receiver.
        assert_eq!(b.open(late, &a2.seal(2, 0, b"")), Opened::Greeting(1));
        let mut b2 = Seals::new(KEY, 2, [4; 16]);
        assert_eq!(b2.open(late, &recorded), Opened::Greeting(1), "its echo names the old b");
        assert_eq!(b2.open(late, &a2.seal(2, 0, b"")), Opened::Greeting(1));
        assert_eq!(a2.open(late, &b2.seal(1, 0, b"")), Opened::Frame(2, Vec::new()));
    }
}
