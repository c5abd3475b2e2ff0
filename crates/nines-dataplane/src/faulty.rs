//! Any data plane, failing by a seed: the same seed fails the same calls.

use nines_model::{Counters, ForwardingTable};

use crate::{DataPlane, Error, Result};

/// Wraps `inner`; about `percent` of calls fail before they reach it.
pub struct Faulty<D> {
    /// The one that works.
    pub inner: D,
    state: u64,
    percent: u64,
}

impl<D: DataPlane> Faulty<D> {
    /// Fails by this seed.
    pub fn new(inner: D, seed: u64, percent: u64) -> Self {
        Self { inner, state: seed | 1, percent }
    }

    fn fails(&mut self, what: &str) -> Result<()> {
        // xorshift64 (Marsaglia 2003): enough to spread failures, and needs no crate.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        if self.state % 100 < self.percent {
            return Err(Error::new(what, "injected failure"));
        }
        Ok(())
    }
}

impl<D: DataPlane> DataPlane for Faulty<D> {
    fn apply(&mut self, table: &ForwardingTable) -> Result<()> {
        self.fails("cannot apply")?;
        self.inner.apply(table)
    }

    fn observe(&mut self) -> Result<Vec<String>> {
        self.fails("cannot observe")?;
        self.inner.observe()
    }

    fn counters(&mut self) -> Result<Counters> {
        self.fails("cannot count")?;
        self.inner.counters()
    }

    fn describe(&self) -> String {
        format!("faulty {}", self.inner.describe())
    }

    fn remove(&mut self) -> Result<()> {
        self.inner.remove()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[test]
    fn a_failed_apply_leaves_the_old_table_and_the_seed_repeats() {
        let run = |seed| {
            let fake = Fake::default();
            let mut plane = Faulty::new(fake.clone(), seed, 50);
            let mut outcome = Vec::new();
            for n in 0..20u8 {
                let before = fake.held.lock().unwrap().table.clone();
                let table =
                    ForwardingTable { director_macs: vec![[n; 6]], ..ForwardingTable::default() };
                let ok = plane.apply(&table).is_ok();
                let after = fake.held.lock().unwrap().table.clone();
                assert_eq!(after, if ok { table } else { before });
                outcome.push(ok);
            }
            outcome
        };
        assert_eq!(run(7), run(7));
        assert!(run(7).contains(&false) && run(7).contains(&true));
    }
}
