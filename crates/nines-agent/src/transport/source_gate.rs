//! Whose datagrams are looked at: by the source address, before any key is used.
//!
//! Decides: a datagram from an address of a member costs one look-up and goes on. One from any
//! other address is dropped, but for a few each second: a member whose address has changed, or
//! which is behind NAT, and a node that joined after what this node's log says, are heard by those
//! few. The first of them that proves itself to be fresh makes its address known. A datagram of an
//! incarnation that was never heard needs a key of its own to be derived: so many a second for each
//! address, so that forged ones with the address of a member leave time for its real ones.
//!
//! Memory is constant: strangers share [`SLOTS`], and only members prove addresses.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::RandomState},
    hash::BuildHasher as _,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nines_model::{Millis, Time};

use crate::connection_limits::origin;

/// Buckets that all addresses share which are no member's: a crowd of one address empties one.
const SLOTS: usize = 64;
/// A stranger's bucket: one datagram in so many ms, and so many at once. A beat in 20 ms is heard
/// within a second.
const STRANGER: (Millis, u64) = (Millis(100), 10);
/// New incarnations from one address of a member: one key in a ms. A key takes 3 us.
const NEW_KEY: (Millis, u64) = (Millis(1), 100);
/// Addresses that members have proven beyond those the log names; the oldest goes.
const PROVEN: usize = 256;

/// A count that refills with time.
#[derive(Clone, Copy, Default)]
struct Bucket {
    /// When it is full again.
    full: Time,
}

impl Bucket {
    /// Takes one, if there is one: `each` is refilled in that time, `most` at once.
    fn take(&mut self, now: Time, (each, most): (Millis, u64)) -> bool {
        let full = self.full.max(now);
        if full.since(now) > (most - 1) * each.ns() {
            return false;
        }
        self.full = full.plus(each);
        true
    }
}

/// Datagrams that were dropped since the start, by reason; other threads read it.
#[derive(Default)]
pub struct Dropped {
    counts: [AtomicU64; Reason::ALL.len()],
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its source is the address of no member, and strangers have had their share.
    Stranger,
    /// Too many incarnations that were never heard, from one address.
    NewKeys,
    /// No datagram of this cluster's nodes, or heard before.
    NotAuthentic,
    /// One of many clusters on this machine gets more than its members send.
    OverBudget,
}

impl Reason {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Stranger, "unknown-source"),
        (Self::NewKeys, "too-many-new"),
        (Self::NotAuthentic, "not-authentic"),
        (Self::OverBudget, "over-budget"),
    ];
}

impl Dropped {
    /// Counts so many.
    fn count(&self, reason: Reason, number: u64) {
        self.counts[reason as usize].fetch_add(number, Ordering::Relaxed);
    }

    /// Each reason with its count.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let count = |(reason, name): (Reason, _)| {
            (name, self.counts[reason as usize].load(Ordering::Relaxed))
        };
        Reason::ALL.into_iter().map(count)
    }
}

/// What is known of source addresses.
pub struct SourceGate {
    /// Addresses of members, by log and credentials.
    named: HashSet<IpAddr>,
    /// Further ones that members have proven, the newest last.
    proven: VecDeque<IpAddr>,
    strangers: [Bucket; SLOTS],
    new_keys: HashMap<IpAddr, Bucket>,
    /// Nobody outside knows which addresses share a slot.
    hasher: RandomState,
    dropped: Arc<Dropped>,
    /// For how many dropped datagrams each one stands that is read and came from nobody known.
    stands_for: u64,
    /// What [`Self::untold`] has told.
    told: u64,
}

impl SourceGate {
    /// Knows nobody yet.
    pub fn new(dropped: Arc<Dropped>) -> Self {
        Self {
            named: HashSet::new(),
            proven: VecDeque::new(),
            strangers: [Bucket::default(); SLOTS],
            new_keys: HashMap::new(),
            hasher: RandomState::new(),
            dropped,
            stands_for: 1,
            told: 0,
        }
    }

    /// The addresses of all members, in place of those before.
    pub fn set_named<'a>(&mut self, addresses: impl Iterator<Item = &'a SocketAddr>) {
        self.named = addresses.map(|address| address.ip().to_canonical()).collect();
        self.new_keys.clear();
    }

    fn knows(&self, address: IpAddr) -> bool {
        self.named.contains(&address) || self.proven.contains(&address)
    }

    /// Whether a datagram from there is looked at; one that is not is counted.
    pub fn admits(&mut self, now: Time, from: SocketAddr) -> bool {
        if self.knows(from.ip().to_canonical()) {
            return true;
        }
        let slot = self.hasher.hash_one(origin(from)) as usize % SLOTS;
        let admitted = self.strangers[slot].take(now, STRANGER);
        if !admitted {
            self.drop(Reason::Stranger, false);
        }
        admitted
    }

    /// Whether a key may be derived for a datagram from there, which was admitted.
    pub fn may_derive(&mut self, now: Time, from: SocketAddr) -> bool {
        let address = from.ip().to_canonical();
        // A stranger has paid already.
        !self.knows(address) || self.new_keys.entry(address).or_default().take(now, NEW_KEY)
    }

    /// A member has proven a moment ago that it sends from there.
    pub fn proved(&mut self, from: SocketAddr) {
        let address = from.ip().to_canonical();
        if self.knows(address) {
            return;
        }
        if self.proven.len() >= PROVEN
            && let Some(oldest) = self.proven.pop_front()
        {
            self.new_keys.remove(&oldest);
        }
        self.proven.push_back(address);
    }

    /// Datagrams that were dropped since this was last asked.
    pub fn untold(&mut self) -> u64 {
        let all = self.dropped();
        all - std::mem::replace(&mut self.told, all)
    }

    /// Counts a datagram that came to nothing. One of an incarnation that is not `known` stands for
    /// those too that the kernel has dropped.
    pub fn drop(&self, reason: Reason, known: bool) {
        self.dropped.count(reason, if known { 1 } else { self.stands_for });
    }

    /// From now on, one of so many datagrams of unknown incarnations is read.
    pub fn set_sample(&mut self, sample: u32) {
        self.stands_for = sample.into();
    }

    /// All datagrams that were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.all().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Time = Time(1_000_000_000);

    fn at(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 9119)
    }

    fn gate(members: &[&str]) -> SourceGate {
        let mut gate = SourceGate::new(Arc::default());
        let members: Vec<SocketAddr> = members.iter().map(|text| at(text)).collect();
        gate.set_named(members.iter());
        gate
    }

    /// How many of so many datagrams from there are admitted at once.
    fn admitted(gate: &mut SourceGate, now: Time, from: &str, count: usize) -> usize {
        (0..count).filter(|_| gate.admits(now, at(from))).count()
    }

    #[test]
    fn members_are_admitted_and_a_flood_of_a_stranger_is_counted() {
        let mut gate = gate(&["10.0.0.2", "2001:db8::2"]);
        assert_eq!(admitted(&mut gate, T, "10.0.0.9", 250_000), 10);
        for member in ["10.0.0.2", "2001:db8::2", "::ffff:10.0.0.2"] {
            assert_eq!(admitted(&mut gate, T, member, 1_000), 1_000, "{member}");
        }
        let counted: Vec<_> = gate.dropped.all().collect();
        gate.set_sample(64);
        assert_eq!(admitted(&mut gate, T, "10.0.0.9", 10), 0);
        assert_eq!(gate.dropped(), 249_990 + 640);
        assert_eq!(
            counted,
            [
                ("unknown-source", 249_990),
                ("too-many-new", 0),
                ("not-authentic", 0),
                ("over-budget", 0)
            ]
        );
    }

    #[test]
    fn a_member_whose_address_changed_is_heard_by_a_few_and_then_by_all() {
        let mut gate = gate(&["10.0.0.2"]);
        // Another stranger floods; it shares no bucket with most addresses.
        admitted(&mut gate, T, "10.0.0.9", 1_000);
        let heard = (10..30).filter(|n| gate.admits(T, at(&format!("10.0.1.{n}")))).count();
        assert!(heard >= 15, "{heard} of 20");
        let moved = "10.0.2.2";
        admitted(&mut gate, T, moved, 100);
        assert!(!gate.admits(T, at(moved)) && gate.admits(T.plus(Millis(100)), at(moved)));
        gate.proved(at(moved));
        assert_eq!(admitted(&mut gate, T, moved, 1_000), 1_000);
        // Also after a change of members.
        gate.set_named([at("10.0.0.3")].iter());
        assert!(gate.admits(T, at(moved)) && gate.admits(T, at("10.0.0.3")));
        assert!(admitted(&mut gate, T, "10.0.0.2", 100) <= 10);
    }

    #[test]
    fn proven_addresses_have_a_bound() {
        let mut gate = gate(&[]);
        (0..2 * PROVEN).for_each(|n| gate.proved(at(&format!("10.1.{}.{}", n / 256, n % 256))));
        assert_eq!(gate.proven.len(), PROVEN);
    }

    #[test]
    fn forged_incarnations_of_a_member_leave_time_for_its_real_ones() {
        let mut gate = gate(&["10.0.0.2", "10.0.0.3"]);
        let keys = |gate: &mut SourceGate, now, from: &str, count: usize| {
            (0..count).filter(|_| gate.may_derive(now, at(from))).count()
        };
        assert_eq!(keys(&mut gate, T, "10.0.0.2", 250_000), 100);
        assert_eq!(keys(&mut gate, T, "10.0.0.3", 1), 1, "another member's address");
        assert_eq!(keys(&mut gate, T.plus(Millis(50)), "10.0.0.2", 1_000), 50);
    }
}
