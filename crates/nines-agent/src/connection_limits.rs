//! How many connections a listener keeps, and whose.
//!
//! Decides: who gives way when there is no room. Of one address (or user, or certificate) only so
//! many stay, the newest; when all places are taken, the oldest of the one that has most goes. So a
//! crowd from one place pushes itself out, and everybody else gets in.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// The places of a listener; `K` says whose a connection is.
pub struct Gate<K> {
    room: usize,
    each: usize,
    inside: Mutex<Inside<K>>,
}

struct Inside<K> {
    next: u64,
    guests: BTreeMap<u64, (K, Arc<Notify>)>,
    count: HashMap<K, usize>,
}

/// A place that is taken; free again when this is dropped.
pub struct Guest<K: Clone + Eq + Hash> {
    gate: Arc<Gate<K>>,
    number: u64,
    shed: Arc<Notify>,
}

impl<K: Clone + Eq + Hash> Inside<K> {
    fn remove(&mut self, number: u64) -> Option<Arc<Notify>> {
        let (key, shed) = self.guests.remove(&number)?;
        if let Some(count) = self.count.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.count.remove(&key);
            }
        }
        Some(shed)
    }

    fn oldest_of(&self, key: &K) -> Option<u64> {
        self.guests.iter().find(|(_, (of, _))| of == key).map(|(number, _)| *number)
    }

    /// The oldest of the key that has most; among equals the one that came first.
    fn to_shed(&self) -> Option<u64> {
        let most = self.count.values().max()?;
        let has_most = |key: &K| self.count.get(key) == Some(most);
        self.guests.iter().find(|(_, (key, _))| has_most(key)).map(|(number, _)| *number)
    }
}

impl<K: Clone + Eq + Hash> Gate<K> {
    /// No connection is open yet.
    pub fn new(room: usize, each: usize) -> Arc<Self> {
        let (guests, count) = (BTreeMap::new(), HashMap::new());
        Arc::new(Self { room, each, inside: Mutex::new(Inside { next: 0, guests, count }) })
    }

    fn inside(&self) -> MutexGuard<'_, Inside<K>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place; another connection is closed if there is none.
    pub fn enter(self: &Arc<Self>, key: K) -> Guest<K> {
        let mut inside = self.inside();
        let leaving = if inside.count.get(&key).is_some_and(|count| *count >= self.each) {
            inside.oldest_of(&key)
        } else if inside.guests.len() >= self.room {
            inside.to_shed()
        } else {
            None
        };
        if let Some(shed) = leaving.and_then(|number| inside.remove(number)) {
            shed.notify_one();
        }
        let (number, shed) = (inside.next, Arc::new(Notify::new()));
        inside.next += 1;
        *inside.count.entry(key.clone()).or_default() += 1;
        inside.guests.insert(number, (key, Arc::clone(&shed)));
        Guest { gate: Arc::clone(self), number, shed }
    }
}

impl<K: Clone + Eq + Hash> Guest<K> {
    /// `work`, unless this connection has to give way first.
    pub async fn unless_shed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.shed.notified() => None,
            done = work => Some(done),
        }
    }
}

impl<K: Clone + Eq + Hash> Drop for Guest<K> {
    fn drop(&mut self) {
        self.gate.inside().remove(self.number);
    }
}

/// Whose a connection from the network is: one IPv4 address, or one IPv6 network of 64 bits, which
/// a single machine may have all addresses of.
pub fn origin(from: SocketAddr) -> IpAddr {
    match from.ip().to_canonical() {
        v6 @ IpAddr::V6(_) => nines_model::network(v6, 64),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_shed<K: Clone + Eq + Hash>(guest: &Guest<K>) -> bool {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.build().unwrap();
        runtime.block_on(guest.unless_shed(std::future::ready(()))).is_none()
    }

    #[test]
    fn a_crowd_pushes_itself_out_and_nobody_else() {
        let gate = Gate::new(10, 4);
        let member = gate.enter("member");
        let mut crowd: Vec<_> = (0..100).map(|_| gate.enter("crowd")).collect();
        assert_eq!(gate.inside().guests.len(), 5, "each has 4 places at most");
        let kept = crowd.split_off(96);
        assert!(crowd.iter().all(is_shed) && !kept.iter().any(is_shed));
        // From many addresses: those that have most give way first.
        let others: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| gate.enter(name)).into();
        let late = gate.enter("late");
        assert!(is_shed(&kept[0]) && !kept[1..].iter().any(is_shed));
        assert!(!is_shed(&member) && !others.iter().any(is_shed) && !is_shed(&late));
        drop((kept, others, late, crowd));
        assert_eq!(gate.inside().guests.len(), 1);
        drop(member);
        assert!(gate.inside().count.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_origin() {
        let at = |text: &str| origin(text.parse().unwrap());
        assert_eq!(at("[2001:db8::1]:1"), at("[2001:db8::ffff:2]:9"));
        assert_ne!(at("[2001:db8::1]:1"), at("[2001:db8:0:1::1]:1"));
        assert_eq!(at("[::ffff:10.0.0.1]:1"), at("10.0.0.1:7"));
        assert_ne!(at("10.0.0.2:7"), at("10.0.0.1:7"));
    }
}
