//! Which director answers for the VIP, asked on the wire.
//!
//! Decides: nothing; it asks each director over each of its cables, at the switch's end, every 5
//! ms. So it also hears a director that is cut off from everybody else, and what it hears is the
//! kernel, not anybody's belief.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nines_lab::Lab;

use crate::local::arp::Askers;

/// From one question to the next.
pub const PERIOD: Duration = Duration::from_millis(5);

/// Each answer: when, and which director (by place in the list given).
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<(Instant, Vec<bool>)>>>, Arc<AtomicBool>);

impl Heard {
    /// Asks from now on, until dropped.
    pub fn start(
        lab: &Lab,
        directors: &[&str],
        vip: Ipv4Addr,
    ) -> Result<Self, nines_lab::LabError> {
        let heard = Self::default();
        let (rounds, stop) = (Arc::clone(&heard.0), Arc::clone(&heard.1));
        let ports: Vec<Vec<String>> = directors.iter().map(|d| lab.ports(d)).collect();
        lab.thread_at_switch(move || {
            let askers = Askers::open(&ports, vip);
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                askers.ask();
                std::thread::sleep(PERIOD);
                let answered = askers.answered();
                let mut rounds = rounds.lock().expect("nobody panics with it");
                rounds.push((began, answered));
                if rounds.len() > 100_000 {
                    rounds.drain(..50_000);
                }
            }
        })?;
        Ok(heard)
    }

    /// For how long, ms, two answered at once since then.
    pub fn two_at_once_ms(&self, since: Instant) -> u64 {
        let rounds = self.0.lock().expect("nobody panics with it");
        let mut total = Duration::ZERO;
        let mut before: Option<Instant> = None;
        for (at, answered) in rounds.iter().filter(|(at, _)| *at >= since) {
            let two = answered.iter().filter(|a| **a).count() > 1;
            if two {
                total += before.map_or(PERIOD, |b| at.duration_since(b)).max(PERIOD);
            }
            before = Some(*at);
        }
        total.as_millis() as u64
    }

    /// Whether each director answered the last request, in the order of the demo's directors.
    pub fn now(&self) -> Vec<bool> {
        let rounds = self.0.lock().expect("nobody panics with it");
        rounds.last().map_or_else(Vec::new, |(_, answered)| answered.clone())
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        // The thread holds one count of each; the last handle outside ends it.
        if Arc::strong_count(&self.1) <= 2 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}
