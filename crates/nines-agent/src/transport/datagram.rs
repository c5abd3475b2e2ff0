//! Seals datagrams: authenticated, encrypted, fresh.
//!
//! ```text
//! "N9" | version 2 | link | sender u16 | salt 16 | sequence u64
//!      | sealed { challenge 8 | echo 8 | echo 8 | frame } | tag
//! ```
//! Each incarnation of a node has a random salt; its key is HKDF-SHA256(cluster key, salt), its
//! nonce is (link, sequence): never used twice. While the cluster key is rotated, the keys from all
//! cluster keys in force are believed, and one is sent with. Only a datagram that echoes a
//! challenge which this very incarnation of the receiver told a moment ago counts, so a recording
//! never does (S28); `replay.rs` has the rule. ChaCha20-Poly1305, RFC 8439.
//!
//! Decides: what is authentic and fresh. Memory per peer is constant.

use nines_model::{Millis, Time};
use ring::{aead, hkdf, hmac};

use super::replay::{Challenge, Heard, KeyId, Salt, Session, Sessions};

const MAGIC: [u8; 3] = [b'N', b'9', 2];
const HEADER: usize = 30;
/// A challenge and two echoes.
const WORDS: usize = 24;
/// Sealing adds so many bytes.
pub const OVERHEAD: usize = HEADER + WORDS + 16;

/// Keys of this node and its peers.
pub struct DatagramCipher {
    /// Cluster keys that are believed, each with its number; the first is sent with.
    clusters: Vec<(KeyId, hkdf::Prk)>,
    me: u16,
    salt: Salt,
    key: aead::LessSafeKey,
    sequence: u64,
    sessions: Sessions,
}

/// What a datagram was.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// From this node, over this of its links.
    Frame(u64, Vec<u8>),
    /// Authentic, but without proof that it was made a moment ago: answer with anything, so that
    /// the sender hears our challenge.
    Greeting(u64),
    /// Forged, replayed, damaged or of another cluster.
    Nothing,
    /// Of an incarnation that was never heard, and no key may be derived now.
    NotTried,
}

struct KeyLength;

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

fn expand(cluster: &hkdf::Prk, what: &[u8], salt: &Salt) -> [u8; 32] {
    let mut key = [0; 32];
    let info = [what, salt.as_slice()];
    cluster
        .expand(&info, KeyLength)
        .and_then(|okm| okm.fill(&mut key))
        .expect("32 bytes are few for HKDF");
    key
}

fn derive(cluster: &hkdf::Prk, salt: &Salt) -> aead::LessSafeKey {
    let key = expand(cluster, b"nines beat", salt);
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

/// A cluster key as it is used, and its number: it names the key, and says nothing about it.
fn cluster(key: &[u8]) -> (KeyId, hkdf::Prk) {
    let digest = ring::digest::digest(&ring::digest::SHA256, key);
    let id = digest.as_ref()[..8].try_into().expect("SHA-256 has 32 bytes");
    (u64::from_be_bytes(id), hkdf::Salt::new(hkdf::HKDF_SHA256, b"nines").extract(key))
}

impl DatagramCipher {
    /// Keys of a new incarnation, from one cluster key.
    pub fn new(cluster_key: &[u8], me: u64, salt: Salt) -> Self {
        let first = cluster(cluster_key);
        let key = derive(&first.1, &salt);
        let maker = expand(&first.1, b"nines challenge", &salt);
        let sessions = Sessions::new(hmac::Key::new(hmac::HMAC_SHA256, &maker), salt);
        Self { clusters: vec![first], me: me as u16, salt, key, sequence: 0, sessions }
    }

    /// These cluster keys are believed from now on, no others; the first is sent with. Incarnations
    /// and what was heard of them stay: sequences go on, so no nonce is used twice.
    pub fn set_keys(&mut self, cluster_keys: &[Vec<u8>]) {
        let clusters: Vec<_> = cluster_keys.iter().map(|key| cluster(key)).collect();
        let Some((_, first)) = clusters.first() else { return };
        self.key = derive(first, &self.salt);
        self.clusters = clusters;
        let (id, first) = &self.clusters[0];
        for session in self.sessions.all() {
            if self.clusters.iter().all(|(known, _)| *known != session.cluster) {
                (session.cluster, session.key) = (*id, derive(first, &session.salt));
            }
        }
    }

    /// The session of an incarnation by the first of the keys in force that opens its datagram.
    fn try_keys(
        &self,
        salt: &Salt,
        open: &mut dyn FnMut(&aead::LessSafeKey) -> bool,
    ) -> Option<Session> {
        self.clusters.iter().find_map(|(id, cluster)| {
            let key = derive(cluster, salt);
            open(&key).then(|| Session::new(*salt, *id, key))
        })
    }

    /// Whether a datagram says that it is of an incarnation that was heard.
    pub fn knows(&self, datagram: &[u8]) -> bool {
        let salt = datagram.get(6..22).and_then(|salt| salt.try_into().ok());
        salt.is_some_and(|salt: Salt| self.sessions.salts().any(|known| known == salt))
    }

    /// Salts of the incarnations that were heard.
    pub fn known_salts(&self) -> Vec<Salt> {
        self.sessions.salts().collect()
    }

    /// Sets the time between this node's heartbeats: peers cannot echo a newer challenge than
    /// that of the last heartbeat.
    pub fn set_beat(&mut self, beat: Millis) {
        self.sessions.set_beat(beat);
    }

    /// Seals a frame for a peer on one of our links.
    pub fn seal(&mut self, now: Time, to: u64, link: u8, frame: &[u8]) -> Vec<u8> {
        self.sequence += 1;
        let mut out = Vec::with_capacity(frame.len() + OVERHEAD);
        out.extend(MAGIC);
        out.push(link);
        out.extend(self.me.to_be_bytes());
        out.extend(self.salt);
        out.extend(self.sequence.to_be_bytes());
        let mut body = self.sessions.challenge(now).to_vec();
        body.extend(self.sessions.echoes(to).concat());
        body.extend(frame);
        let aad = aead::Aad::from(out.clone());
        self.key
            .seal_in_place_append_tag(nonce(link, self.sequence), aad, &mut body)
            .expect("frames are short");
        out.extend(body);
        out
    }

    /// Opens a datagram. What the header says of its sender comes first: a known incarnation has
    /// its key already. `may_derive` is asked before a key is derived for any other.
    pub fn open(
        &mut self,
        now: Time,
        datagram: &[u8],
        may_derive: impl FnOnce() -> bool,
    ) -> Opened {
        let Some((header, sealed)) = datagram.split_at_checked(HEADER) else {
            return Opened::Nothing;
        };
        if header[..3] != MAGIC || datagram.len() < OVERHEAD {
            return Opened::Nothing;
        }
        let link = header[3];
        let from = u64::from(u16::from_be_bytes([header[4], header[5]]));
        let salt: Salt = header[6..22].try_into().expect("sliced");
        let sequence = u64::from_be_bytes(header[22..30].try_into().expect("sliced"));
        if from == u64::from(self.me) {
            return Opened::Nothing;
        }
        let known = self.sessions.known(from, &salt);
        if known.is_some_and(|session| session.has(link, sequence)) {
            return Opened::Nothing;
        }
        let is_known = known.is_some();
        let mut plain = None;
        let mut open = |key: &aead::LessSafeKey| {
            let mut body = sealed.to_vec();
            let opened =
                key.open_in_place(nonce(link, sequence), aead::Aad::from(header), &mut body);
            plain = opened.ok().map(|plain| plain.to_vec());
            plain.is_some()
        };
        let fresh = match known {
            Some(session) if open(&session.key) => None,
            // One key: nobody can have another.
            Some(_) if self.clusters.len() == 1 => return Opened::Nothing,
            _ if !may_derive() => return Opened::NotTried,
            _ => match self.try_keys(&salt, &mut open) {
                Some(session) => Some(session),
                None => return Opened::Nothing,
            },
        };
        let fresh = match (is_known, fresh) {
            // It goes on with another key.
            (true, Some(session)) => {
                self.sessions.change_key(from, session);
                None
            }
            (_, fresh) => fresh,
        };
        let Some((words, frame)) = plain.as_deref().and_then(|plain| plain.split_at_checked(WORDS))
        else {
            return Opened::Nothing;
        };
        let word = |at: usize| -> Challenge { words[at..at + 8].try_into().expect("sliced") };
        let heard = Heard { link, sequence, told: word(0), echoes: [word(8), word(16)] };
        if self.sessions.hear(now, from, &salt, &heard, fresh) {
            Opened::Frame(from, frame.to_vec())
        } else {
            Opened::Greeting(from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"a cluster key of 32 bytes length";
    const T: Time = Time(1_000_000_000);

    impl DatagramCipher {
        /// Opens a datagram, whatever it costs.
        fn opened(&mut self, now: Time, datagram: &[u8]) -> Opened {
            self.open(now, datagram, || true)
        }
    }

    fn incarnation(id: u64, salt: u8) -> DatagramCipher {
        DatagramCipher::new(KEY, id, [salt; 16])
    }

    /// `to` hears one datagram of `from`.
    fn say(now: Time, from: &mut DatagramCipher, to: &mut DatagramCipher) -> Opened {
        let sealed = from.seal(now, u64::from(to.me), 0, b"beat");
        to.opened(now, &sealed)
    }

    fn beat(from: u64) -> Opened {
        Opened::Frame(from, b"beat".to_vec())
    }

    /// Two that have heard each other.
    fn meet(now: Time, a: &mut DatagramCipher, b: &mut DatagramCipher) {
        let mut heard = false;
        for _ in 0..6 {
            heard |= say(now, a, b) == beat(u64::from(a.me));
            if say(now, b, a) == beat(u64::from(b.me)) && heard {
                return;
            }
        }
        panic!("they do not hear each other");
    }

    fn pair() -> (DatagramCipher, DatagramCipher) {
        let (mut a, mut b) = (incarnation(1, 1), incarnation(2, 2));
        meet(T, &mut a, &mut b);
        (a, b)
    }

    fn later(ms: u64) -> Time {
        T.plus(Millis(ms))
    }

    #[test]
    fn frames_arrive_once_and_only_whole() {
        let (mut a, mut b) = pair();
        let sealed = a.seal(T, 2, 0, b"beat");
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert!(!matches!(b.opened(T, &forged), Opened::Frame(..)), "byte {at}");
        }
        for length in 0..sealed.len() {
            assert_eq!(b.opened(T, &sealed[..length]), Opened::Nothing);
        }
        assert_eq!(b.opened(T, &sealed), Opened::Frame(1, b"beat".to_vec()));
        assert_eq!(b.opened(T, &sealed), Opened::Nothing, "replayed");
        assert!(b.knows(&sealed) && !a.knows(&sealed) && !b.knows(&sealed[..20]));
    }

    #[test]
    fn no_key_is_derived_for_what_is_short_known_or_not_allowed() {
        let (mut a, mut b) = pair();
        let never = || -> bool { panic!("a key would be derived") };
        let known = a.seal(T, 2, 0, b"beat");
        for length in 0..OVERHEAD {
            assert_eq!(b.open(T, &known[..length], never), Opened::Nothing);
        }
        assert_eq!(b.open(T, &known, never), beat(1));
        let mut forged = a.seal(T, 2, 0, b"beat");
        forged[OVERHEAD] ^= 1;
        assert_eq!(b.open(T, &forged, never), Opened::Nothing);
        let new = incarnation(1, 8).seal(T, 2, 0, b"beat");
        assert_eq!(b.open(T, &new, || false), Opened::NotTried);
        assert_eq!(b.open(T, &new, || true), Opened::Greeting(1));
    }

    #[test]
    fn another_cluster_is_not_heard() {
        let (_, mut b) = pair();
        let mut stranger = DatagramCipher::new(b"another key of 32 bytes, really!", 1, [1; 16]);
        assert_eq!(b.opened(T, &stranger.seal(T, 2, 0, b"beat")), Opened::Nothing);
    }

    const NEW: &[u8] = b"the next key of 32 bytes length!";

    #[test]
    fn a_rotation_in_any_order_loses_no_frame_and_the_old_key_ends() {
        let (mut a, mut b) = pair();
        let both = |a: &mut DatagramCipher, b: &mut DatagramCipher, ms| {
            for ms in [ms, ms + 1] {
                assert_eq!(say(later(ms), a, b), beat(1), "{ms}");
                assert_eq!(say(later(ms), b, a), beat(2), "{ms}");
            }
        };
        let (old, new) = (KEY.to_vec(), NEW.to_vec());
        let recorded = a.seal(later(1), 2, 0, b"beat");
        a.set_keys(&[old.clone(), new.clone()]);
        both(&mut a, &mut b, 10);
        b.set_keys(&[old.clone(), new.clone()]);
        both(&mut a, &mut b, 20);
        b.set_keys(&[new.clone(), old.clone()]);
        both(&mut a, &mut b, 30);
        a.set_keys(&[new.clone(), old.clone()]);
        both(&mut a, &mut b, 40);
        assert_eq!(b.opened(later(45), &recorded), Opened::Nothing, "replayed");
        // One that starts with the key before has asked for the other.
        let mut c = incarnation(3, 5);
        c.set_keys(&[old, new.clone()]);
        meet(later(46), &mut c, &mut a);
        let late = c.seal(later(47), 2, 0, b"beat");
        a.set_keys(std::slice::from_ref(&new));
        both(&mut a, &mut b, 50);
        b.set_keys(std::slice::from_ref(&new));
        both(&mut a, &mut b, 60);
        assert_eq!(b.opened(later(61), &late), Opened::Nothing);
        assert_eq!(say(later(62), &mut c, &mut a), Opened::Nothing, "the old key is worth nothing");
        let mut thief = incarnation(1, 9);
        assert_eq!(b.opened(later(63), &thief.seal(later(63), 2, 0, b"beat")), Opened::Nothing);
        // One that was off gets the key, and is heard again with the sequence that it had.
        c.set_keys(&[new]);
        meet(later(70), &mut c, &mut a);
    }

    #[test]
    fn a_recording_of_an_earlier_life_never_counts() {
        let (mut a, mut b) = pair();
        let recorded: Vec<_> = (0..50).map(|_| a.seal(T, 2, 0, b"I hold the VIP")).collect();
        assert_eq!(b.opened(T, &recorded[0]), Opened::Frame(1, b"I hold the VIP".to_vec()));
        let mut a2 = incarnation(1, 3);
        meet(later(100), &mut a2, &mut b);
        for old in &recorded {
            assert!(!matches!(b.opened(later(101), old), Opened::Frame(..)));
        }
        assert_eq!(say(later(102), &mut a2, &mut b), beat(1), "the life that lives is heard");
        // A new incarnation of the receiver has forgotten which incarnations have ended.
        let mut b2 = incarnation(2, 4);
        for old in &recorded {
            assert!(!matches!(b2.opened(later(103), old), Opened::Frame(..)));
        }
        meet(later(104), &mut a2, &mut b2);
        for old in &recorded {
            assert!(!matches!(b2.opened(later(105), old), Opened::Frame(..)));
        }
    }

    #[test]
    fn a_recording_of_this_life_counts_neither_elsewhere_nor_later() {
        let (mut a, mut b) = pair();
        let mut c = incarnation(3, 5);
        meet(T, &mut a, &mut c);
        let to_c = a.seal(T, 3, 0, b"beat");
        assert!(!matches!(b.opened(T, &to_c), Opened::Frame(..)), "it was made for another node");
        // Sent over a link that was cut, and delivered by a stranger after the sender has died.
        let held_back = a.seal(T, 2, 1, b"beat");
        assert!(!matches!(b.opened(later(1_500), &held_back), Opened::Frame(..)));
    }

    #[test]
    fn two_lives_within_a_moment_are_both_heard_at_once() {
        let (_, mut b) = pair();
        for (ms, salt) in [(1, 6), (2, 7), (3, 8)] {
            meet(later(ms), &mut incarnation(1, salt), &mut b);
        }
    }

    #[test]
    fn recordings_of_many_lives_do_not_keep_a_new_life_out() {
        let mut b = incarnation(2, 2);
        let mut recorded = Vec::new();
        for salt in 10..18 {
            let mut a = incarnation(1, salt);
            meet(T, &mut a, &mut b);
            recorded.push((0..200).map(|_| a.seal(T, 2, 0, b"beat")).collect::<Vec<_>>());
        }
        let (mut b, mut a) = (incarnation(2, 3), incarnation(1, 30));
        let mut beats = 0;
        for round in 0..200_u64 {
            for old in &recorded {
                assert!(!matches!(b.opened(later(round), &old[round as usize]), Opened::Frame(..)));
            }
            say(later(round), &mut b, &mut a);
            beats += 1;
            if say(later(round), &mut a, &mut b) == beat(1) {
                break;
            }
        }
        assert!(beats < 20, "heard after {beats} beats");
    }

    #[test]
    fn a_peer_that_is_quiet_or_paused_is_heard_again() {
        let (mut a, mut b) = pair();
        for ms in (20..10_000).step_by(20) {
            assert_eq!(say(later(ms), &mut a, &mut b), beat(1), "after {ms} ms");
            assert_eq!(say(later(ms), &mut b, &mut a), beat(2), "after {ms} ms");
        }
        let after = later(70_000);
        say(after, &mut a, &mut b);
        meet(after, &mut a, &mut b);
        b.set_beat(Millis(2_000));
        say(after, &mut b, &mut a);
        let slow = after.plus(Millis(8_000));
        assert_eq!(say(slow, &mut a, &mut b), beat(1), "slow beats renew challenges slowly");
    }

    #[test]
    fn a_life_that_goes_on_after_its_end_shows_itself() {
        let (mut a, mut b) = pair();
        let mut clone = incarnation(1, 9);
        let before = a.seal(later(5), 2, 0, b"beat");
        meet(later(10), &mut clone, &mut b);
        assert!(!matches!(b.opened(later(11), &before), Opened::Frame(..)), "sent before its end");
        say(later(20), &mut b, &mut a);
        assert_eq!(say(later(21), &mut a, &mut b), beat(1), "and this after it");
        // It is answered, too: it can hear that it is one of two.
        let answers = (22..32).map(|ms| say(later(ms), &mut b, &mut a));
        assert!(answers.filter(|o| *o == beat(2)).count() > 3);
    }
}
