//! Replay protection: which incarnation of a peer is heard, and whether a datagram is fresh.
//!
//! Every datagram carries a challenge of its sender and echoes of challenges that the sender heard
//! from the receiver. A challenge is valid for two [`Sessions::pace`] intervals at most, so a
//! datagram that echoes a valid one was made a moment ago: no recording is ever fresh, whatever
//! its incarnation, its link or its receiver. A new incarnation (a new salt) is first a candidate;
//! it becomes the session when it echoes a valid challenge. Of the incarnation before it only
//! datagrams made after that pass from then on: they prove that two agents run under one id, which
//! the node must see. Older incarnations are retired, and never candidates again.
//!
//! Decides: what is fresh. Memory per peer is constant; only a holder of the cluster key can make
//! an entry.

use std::collections::{BTreeMap, VecDeque};

use nines_model::{Millis, Time};
use ring::{aead, hmac};

/// A value that only its maker can have chosen a moment ago.
pub type Challenge = [u8; 8];
/// Number of a cluster key.
pub type KeyId = u64;
/// The random beginning of each datagram of an incarnation.
pub type Salt = [u8; 16];

/// New incarnations of a peer that may prove themselves at the same time. Recordings of several old
/// incarnations take places here, too.
const CANDIDATES: usize = 4;
/// Ended incarnations of a peer that are remembered.
const RETIRED: usize = 32;
/// Challenges that can be valid at the same time.
const CHALLENGES: usize = 8;

/// What is known of one incarnation of a peer.
pub struct Session {
    pub salt: Salt,
    /// Cluster key that its key comes from.
    pub cluster: KeyId,
    pub key: aead::LessSafeKey,
    /// Newest sequence by link.
    newest: BTreeMap<u8, u64>,
    /// Newest sequence on any link.
    top: u64,
    /// The newest challenge it told.
    told: Challenge,
    /// When a newer datagram of it last came.
    grew: Time,
}

impl Session {
    /// An incarnation that is heard for the first time.
    pub fn new(salt: Salt, cluster: KeyId, key: aead::LessSafeKey) -> Self {
        let (newest, told) = (BTreeMap::new(), Challenge::default());
        Self { salt, cluster, key, newest, top: 0, told, grew: Time(0) }
    }

    /// Whether a datagram with this sequence has been heard, or a later one.
    pub fn has(&self, link: u8, sequence: u64) -> bool {
        self.newest.get(&link).is_some_and(|newest| sequence <= *newest)
    }

    fn hear(&mut self, now: Time, link: u8, sequence: u64, told: Challenge) {
        self.newest.insert(link, sequence);
        self.grew = now;
        if sequence > self.top {
            self.top = sequence;
            self.told = told;
        }
    }
}

/// All incarnations of a peer.
#[derive(Default)]
struct Peer {
    current: Option<Session>,
    /// The session before, and the first challenge that was made after its end.
    older: Option<(Session, u64)>,
    candidates: Vec<Session>,
    /// Incarnations before that, each with such a challenge.
    retired: VecDeque<(Salt, u64)>,
    turn: usize,
}

/// What an authentic datagram says about its incarnation.
pub struct Heard {
    pub link: u8,
    pub sequence: u64,
    /// Its sender's challenge.
    pub told: Challenge,
    /// Ours, as its sender heard them.
    pub echoes: [Challenge; 2],
}

/// Sessions of all peers, and the challenges of this incarnation.
pub struct Sessions {
    maker: hmac::Key,
    salt: Salt,
    pace: Millis,
    /// Number, when it was made, value; the newest last.
    challenges: VecDeque<(u64, Time, Challenge)>,
    peers: BTreeMap<u64, Peer>,
}

impl Sessions {
    /// Nothing heard yet.
    pub fn new(maker: hmac::Key, salt: Salt) -> Self {
        let (challenges, peers) = (VecDeque::new(), BTreeMap::new());
        Self { maker, salt, pace: Millis(500), challenges, peers }
    }

    /// Peers hear this node's challenge with each of its heartbeats, one `beat` after
    /// the other.
    pub fn set_beat(&mut self, beat: Millis) {
        self.pace = Millis(beat.0.saturating_mul(8)).max(Millis(500));
    }

    /// The challenge to tell now.
    pub fn challenge(&mut self, now: Time) -> Challenge {
        match self.challenges.back() {
            Some((_, at, value)) if now.since(*at) < self.pace.ns() => *value,
            _ => self.renew(now),
        }
    }

    fn renew(&mut self, now: Time) -> Challenge {
        let number = self.challenges.back().map_or(0, |(n, ..)| n + 1);
        let message = [self.salt.as_slice(), &number.to_be_bytes()].concat();
        let tag = hmac::sign(&self.maker, &message);
        let value = tag.as_ref()[..8].try_into().expect("a SHA-256 has 32 bytes");
        self.challenges.push_back((number, now, value));
        if self.challenges.len() > CHALLENGES {
            self.challenges.pop_front();
        }
        value
    }

    /// Number of the valid challenge that is echoed.
    fn proof(&self, now: Time, echoes: &[Challenge; 2]) -> Option<u64> {
        let valid = self.challenges.iter().rev();
        let mut valid = valid.filter(|(_, at, _)| now.since(*at) <= 2 * self.pace.ns());
        valid.find(|(_, _, value)| echoes.contains(value)).map(|(number, ..)| *number)
    }

    /// What to echo to a peer: its session's challenge, and in turn those of
    /// its other incarnations.
    pub fn echoes(&mut self, to: u64) -> [Challenge; 2] {
        let Some(peer) = self.peers.get_mut(&to) else { return Default::default() };
        peer.turn = peer.turn.wrapping_add(1);
        let older = peer.older.iter().map(|(session, _)| session);
        let others = older.chain(&peer.candidates);
        let count = others.clone().count().max(1);
        let other = others.clone().nth(peer.turn % count);
        let told = |session: Option<&Session>| session.map_or(Challenge::default(), |s| s.told);
        [told(peer.current.as_ref()), told(other)]
    }

    /// The session or candidate with this salt.
    pub fn known(&self, from: u64, salt: &Salt) -> Option<&Session> {
        let peer = self.peers.get(&from)?;
        let older = peer.older.iter().map(|(session, _)| session);
        peer.current.iter().chain(older).chain(&peer.candidates).find(|s| s.salt == *salt)
    }

    /// All sessions and candidates of all peers.
    pub fn all(&mut self) -> impl Iterator<Item = &mut Session> {
        self.peers.values_mut().flat_map(|peer| {
            let older = peer.older.iter_mut().map(|(session, _)| session);
            peer.current.iter_mut().chain(older).chain(&mut peer.candidates)
        })
    }

    /// Salts of all sessions and candidates.
    pub fn salts(&self) -> impl Iterator<Item = Salt> {
        self.peers.values().flat_map(|peer| {
            let older = peer.older.iter().map(|(session, _)| session);
            peer.current.iter().chain(older).chain(&peer.candidates).map(|session| session.salt)
        })
    }

    /// An incarnation goes on with the key of `with`, which has its salt.
    pub fn change_key(&mut self, from: u64, with: Session) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let older = peer.older.iter_mut().map(|(session, _)| session);
        let mut all = peer.current.iter_mut().chain(older).chain(&mut peer.candidates);
        if let Some(session) = all.find(|session| session.salt == with.salt) {
            (session.cluster, session.key) = (with.cluster, with.key);
        }
    }

    /// Takes the word of an authentic datagram; `fresh`: the session, if [`Self::known`] has none.
    /// Whether it was made a moment ago: only then anything in it counts.
    pub fn hear(
        &mut self,
        now: Time,
        from: u64,
        salt: &Salt,
        heard: &Heard,
        fresh: Option<Session>,
    ) -> bool {
        let proof = self.proof(now, &heard.echoes);
        let peer = self.peers.entry(from).or_default();
        if let Some((_, ended)) = peer.retired.iter().find(|(retired, _)| retired == salt) {
            return proof.is_some_and(|number| number >= *ended);
        }
        if let Some((session, ended)) = peer.older.as_mut().filter(|(s, _)| s.salt == *salt) {
            session.hear(now, heard.link, heard.sequence, heard.told);
            return proof.is_some_and(|number| number >= *ended);
        }
        if let Some(session) = peer.current.as_mut().filter(|s| s.salt == *salt) {
            session.hear(now, heard.link, heard.sequence, heard.told);
            return proof.is_some();
        }
        let mut session = match peer.candidates.iter().position(|c| c.salt == *salt) {
            Some(at) => peer.candidates.swap_remove(at),
            None => match fresh {
                Some(session) => session,
                None => return false,
            },
        };
        session.hear(now, heard.link, heard.sequence, heard.told);
        if proof.is_none() {
            if peer.candidates.len() >= CANDIDATES {
                // A recording ends; an incarnation goes on.
                let stalest = (0..CANDIDATES).min_by_key(|i| peer.candidates[*i].grew);
                peer.candidates.swap_remove(stalest.unwrap_or(0));
            }
            peer.candidates.push(session);
            return false;
        }
        if let Some(before) = peer.current.replace(session) {
            self.renew(now);
            let number = self.challenges.back().map_or(0, |(number, ..)| *number);
            let peer = self.peers.entry(from).or_default();
            if let Some((oldest, ended)) = peer.older.replace((before, number)) {
                peer.retired.push_back((oldest.salt, ended));
            }
            if peer.retired.len() > RETIRED {
                peer.retired.pop_front();
            }
        }
        true
    }
}
