//! Open-addressed tables of addresses in kernel arrays: who is guarded, which addresses matter.
//!
//! Decides: where an entry lies. The kernel looks at `PROBES` places from [`nines_abi::place_of`]
//! on, up to the first that was never used.

use nines_abi::{
    ADDRESSES_PER_SERVICE, Addr, GUARD_USED, GUARDS, Guard, PLACE_USED, PROBES, Place, halves,
    place_of,
};

use super::shared::View;

const _: () = assert!(GUARDS.is_power_of_two() && ADDRESSES_PER_SERVICE.is_power_of_two());

/// What lies in such a table.
pub trait Entry: Copy + Default {
    /// Whose; zero where there is none.
    fn addr(&self) -> Addr;
    /// Was anything ever here?
    fn used(&self) -> bool;
    /// The same, marked as used.
    fn mark(self) -> Self;
}

impl Entry for Guard {
    fn addr(&self) -> Addr {
        self.addr
    }
    fn used(&self) -> bool {
        self.flags & GUARD_USED != 0
    }
    fn mark(self) -> Self {
        Self { flags: self.flags | GUARD_USED, ..self }
    }
}

impl Entry for Place {
    fn addr(&self) -> Addr {
        self.addr
    }
    fn used(&self) -> bool {
        self.flags & PLACE_USED != 0
    }
    fn mark(self) -> Self {
        Self { flags: self.flags | PLACE_USED, ..self }
    }
}

pub(super) fn halves_of(addr: Addr) -> [u64; 2] {
    let word = |i: usize| u32::from_ne_bytes([addr[i], addr[i + 1], addr[i + 2], addr[i + 3]]);
    halves([word(0), word(4), word(8), word(12)])
}

fn way<T: Entry>(view: &View<T>, addr: Addr) -> impl Iterator<Item = u32> + '_ {
    let first = place_of(halves_of(addr));
    (0..PROBES).map(move |step| first.wrapping_add(step) & (view.len() - 1))
}

/// Where the address is.
pub fn find<T: Entry>(view: &View<T>, addr: Addr) -> Option<u32> {
    way(view, addr)
        .take_while(|index| view.get(*index).used())
        .find(|index| view.get(*index).addr() == addr)
}

/// Writes the entry where its address is or where there is room; false: there is none.
pub fn put<T: Entry>(view: &View<T>, entry: T) -> bool {
    let at = find(view, entry.addr()).or_else(|| room(view, entry.addr(), None, 2));
    at.inspect(|index| view.set(*index, entry.mark())).is_some()
}

/// A place within reach of the address (behind `after`) that may be written. Where all are taken,
/// another entry makes room: it is copied to a place behind its own before that is given away, so
/// that a packet's search, which goes forward, finds it at any time.
fn room<T: Entry>(view: &View<T>, addr: Addr, after: Option<u32>, others: u32) -> Option<u32> {
    let mut reach = way(view, addr);
    if let Some(after) = after {
        reach.find(|index| *index == after)?;
    }
    let reach: Vec<u32> = reach.collect();
    let free = reach.iter().copied().find(|index| view.get(*index).addr() == [0; 16]);
    if free.is_some() || others == 0 {
        return free;
    }
    reach.into_iter().find(|index| {
        let moves = view.get(*index);
        let to = room(view, moves.addr(), Some(*index), others - 1);
        to.inspect(|to| view.set(*to, moves.mark())).is_some()
    })
}

/// Takes the address out; a search for others goes on behind its place.
pub fn remove<T: Entry>(view: &View<T>, addr: Addr) {
    if let Some(index) = find(view, addr) {
        view.set(index, T::default().mark());
    }
}

/// Every entry there is.
pub fn all<T: Entry>(view: &View<T>) -> impl Iterator<Item = T> + '_ {
    (0..view.len()).map(|index| view.get(index)).filter(|entry| entry.addr() != [0; 16])
}

#[cfg(test)]
mod tests {
    use nines_abi::{ADDRESSES_PER_SERVICE, PROBES, mapped, place_of};

    /// As many addresses as a table may hold: each has a place within reach, most at once.
    #[test]
    fn neighbouring_addresses_do_not_crowd() {
        const SERVICES: u32 = 1_024;
        let mask = SERVICES * ADDRESSES_PER_SERVICE - 1;
        for address in [
            |n: u32| mapped((0x0a00_0000 + n).to_be_bytes()),
            |n: u32| mapped((0x0a00_0000 + (n << 8)).to_be_bytes()),
            |n: u32| (0x2001_0db8_u128 << 96 | u128::from(n)).to_be_bytes(),
            |n: u32| (0x2001_0db8_u128 << 96 | u128::from(n) << 64).to_be_bytes(),
        ] {
            let mut used = std::collections::BTreeSet::new();
            let mut steps = 0;
            // VIPs and servers: four times as many as services.
            for n in 0..4 * SERVICES {
                let first = place_of(super::halves_of(address(n)));
                let step = (0..PROBES).find(|step| used.insert(first.wrapping_add(*step) & mask));
                steps += step.expect("a place within reach");
            }
            assert!(steps < 2 * SERVICES, "{steps} steps for {} addresses", 4 * SERVICES);
        }
    }
}
