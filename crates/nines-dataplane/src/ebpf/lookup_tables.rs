//! The pick table of one service: which server the next flow, or a hash, gets.
//!
//! Decides: rr, wrr, Maglev, sh, dh and mh as sequences of server slots; one mechanism in the
//! kernel (index into a table) serves all of them. For the schedulers that weigh flows at the
//! moment the sequence is the list of servers.

use std::net::{IpAddr, SocketAddr};

use nines_abi::{HASH_TABLE_LEN, MH_KEY_1, MH_KEY_2, MH_TABLE_LEN, TABLE_LEN_MAX, hsiphash};
use nines_model::{Scheduler, TableService};

/// Lengths of Maglev tables: primes, or a skip would not visit every entry.
const MAGLEV_LENS: [u32; 3] = [1_021, MH_TABLE_LEN, TABLE_LEN_MAX];
/// Weights of Maglev are told apart up to one so many times another.
const SHARES_MAX: u32 = 64;

/// A server that a table may name.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its slot in the kernel's map.
    pub slot: u32,
    /// What identifies it on every director.
    pub addr: SocketAddr,
    /// Share; at least 1 but for sh, dh and mh, whose tables keep the places of a server that
    /// takes none at the moment.
    pub weight: u32,
    /// The last one that was not 0.
    pub last_weight: u32,
}

/// Whether a server without weight keeps its places in the table (IPVS).
pub const fn keeps_places(scheduler: Scheduler) -> bool {
    matches!(scheduler, Scheduler::Sh | Scheduler::Dh | Scheduler::Mh)
}

/// Entries of the Maglev table of a service: a hundred for each share of each server. It goes by
/// all servers and never by their health, which each director judges for itself: tables of two
/// directors differ only where their candidates do.
pub fn maglev_len(service: &TableService) -> u32 {
    let weights = || service.servers.values().map(|s| s.weight).filter(|w| *w > 0);
    let (least, most) = (weights().min().unwrap_or(1), weights().max().unwrap_or(1));
    let wanted = 100 * service.servers.len() as u64 * u64::from((most / least).min(SHARES_MAX));
    let enough = MAGLEV_LENS.into_iter().find(|len| u64::from(*len) >= wanted);
    enough.unwrap_or(TABLE_LEN_MAX)
}

/// The table; empty without candidates. `maglev_len`: see there.
pub fn table(scheduler: Scheduler, candidates: &[Candidate], maglev_len: u32) -> Vec<u32> {
    if candidates.is_empty() {
        return Vec::new();
    }
    match scheduler {
        Scheduler::Rr => candidates.iter().map(|c| c.slot).collect(),
        Scheduler::Wrr => in_turns(candidates),
        Scheduler::Maglev => maglev(candidates, maglev_len),
        // One by one in the kernel.
        Scheduler::Lc
        | Scheduler::Wlc
        | Scheduler::Sed
        | Scheduler::Nq
        | Scheduler::Fo
        | Scheduler::Ovf
        | Scheduler::Lblc
        | Scheduler::Lblcr
        | Scheduler::Twos => candidates.iter().map(|c| c.slot).collect(),
        Scheduler::Dh => assigned(candidates, |_| 1),
        Scheduler::Sh => assigned(candidates, |c| c.weight),
        Scheduler::Mh => mh(candidates),
    }
}

/// IPVS's 256 entries of source and destination hashing: servers in order, each so many times in a
/// row, round and round (net/netfilter/ipvs/ip_vs_sh.c, ip_vs_dh.c).
fn assigned(candidates: &[Candidate], times: fn(&Candidate) -> u32) -> Vec<u32> {
    let len = HASH_TABLE_LEN as usize;
    let round = candidates.iter().flat_map(|c| {
        let times = times(c).clamp(1, HASH_TABLE_LEN) as usize;
        std::iter::repeat_n(c.slot, times)
    });
    round.cycle().take(len).collect()
}

/// IPVS's Maglev (net/netfilter/ipvs/ip_vs_mh.c): in each round a server takes as many places as
/// its weight divided by the common divisor, and by two until the largest is under 64. It does not
/// look at the present weight, so a server that is drained keeps its places.
fn mh(candidates: &[Candidate]) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let common = candidates.iter().fold(0, |g, c| gcd(c.last_weight, g));
    let highest = candidates.iter().map(|c| c.last_weight).max().unwrap_or(0);
    if common == 0 {
        return Vec::new();
    }
    let shift = (u32::BITS - (highest / common).leading_zeros()).saturating_sub(6);
    let mut walks: Vec<(u32, u32, u32, u32)> = Vec::new();
    for c in candidates.iter().filter(|c| c.last_weight > 0) {
        let value = u32::from(c.addr.port()).wrapping_add(folded(c.addr.ip()));
        let offset = hsiphash(value, MH_KEY_1) % MH_TABLE_LEN;
        let skip = hsiphash(value, MH_KEY_2) % (MH_TABLE_LEN - 1) + 1;
        let turns = ((c.last_weight / common) >> shift).max(1);
        walks.push((offset, skip, turns, c.slot));
    }
    let mut table = vec![FREE; MH_TABLE_LEN as usize];
    let mut left = MH_TABLE_LEN;
    while left > 0 {
        for (at, skip, turns, slot) in &mut walks {
            for _ in 0..*turns {
                if left == 0 {
                    break;
                }
                while table[*at as usize] != FREE {
                    *at = (*at + *skip) % MH_TABLE_LEN;
                }
                table[*at as usize] = *slot;
                left -= 1;
            }
        }
    }
    table
}

/// An address as IPVS's hashes see it: four bytes, of IPv6 all words folded.
fn folded(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(a) => u32::from(a),
        IpAddr::V6(a) => {
            let [a, b, c, d] = split(u128::from(a));
            a ^ b ^ c ^ d
        }
    }
}

const fn split(addr: u128) -> [u32; 4] {
    [(addr >> 96) as u32, (addr >> 64) as u32, (addr >> 32) as u32, addr as u32]
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// IPVS's weighted round robin (net/netfilter/ipvs/ip_vs_wrr.c): the current weight falls from the
/// highest in steps of the greatest common divisor; at each level every server that has it goes
/// once. Weights too large for the table are scaled down.
fn in_turns(candidates: &[Candidate]) -> Vec<u32> {
    let common = candidates.iter().fold(0, |g, c| gcd(c.weight, g)).max(1);
    let total: u64 = candidates.iter().map(|c| u64::from(c.weight / common)).sum();
    let scale = total.div_ceil(u64::from(TABLE_LEN_MAX)).max(1) as u32;
    let share = |c: &Candidate| (c.weight / common / scale).max(1);
    let highest = candidates.iter().map(share).max().unwrap_or(1);
    let mut table = Vec::new();
    for level in (1..=highest).rev() {
        table.extend(candidates.iter().filter(|c| share(c) >= level).map(|c| c.slot));
    }
    table.truncate(TABLE_LEN_MAX as usize);
    table
}

/// Maglev's population (NSDI'16, section 3.4) with weights: in each round a server takes as many
/// slots as its weight, scaled so that the heaviest takes at most 64 and the lightest at least 1.
fn maglev(candidates: &[Candidate], size: u32) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let common = candidates.iter().fold(0, |g, c| gcd(c.weight, g)).max(1);
    let highest = candidates.iter().map(|c| c.weight / common).max().unwrap_or(1);
    let scale = highest.div_ceil(SHARES_MAX).max(1);
    // Identity order, so that slots and names do not matter.
    let mut order: Vec<&Candidate> = candidates.iter().collect();
    order.sort_by_key(|c| c.addr.to_string());
    let mut walks: Vec<(u64, u64, u32)> = order
        .iter()
        .map(|c| {
            let identity = c.addr.to_string();
            let offset = u64::from(hash(&identity, 0x9e37_79b9)) % u64::from(size);
            let skip = u64::from(hash(&identity, 0x85eb_ca6b)) % u64::from(size - 1) + 1;
            (offset, skip, (c.weight / common / scale).max(1))
        })
        .collect();
    let mut table = vec![FREE; size as usize];
    let mut left = size;
    while left > 0 {
        for (walk, candidate) in walks.iter_mut().zip(&order) {
            for _ in 0..walk.2 {
                if left == 0 {
                    break;
                }
                while table[walk.0 as usize] != FREE {
                    walk.0 = (walk.0 + walk.1) % u64::from(size);
                }
                table[walk.0 as usize] = candidate.slot;
                left -= 1;
            }
        }
    }
    table
}

/// FNV-1a with a seed, finished as MurmurHash3 (both public domain): spread is what counts here.
fn hash(text: &str, seed: u32) -> u32 {
    let mut h = 0x811c_9dc5 ^ seed;
    for byte in text.bytes() {
        h = (h ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

#[cfg(test)]
mod tests {
    use nines_model::{Forward, ServerState, TableServer, Traffic};

    use super::*;

    fn of(scheduler: Scheduler, candidates: &[Candidate]) -> Vec<u32> {
        table(scheduler, candidates, TABLE_LEN_MAX)
    }

    fn servers(weights: &[u32]) -> Vec<Candidate> {
        let one = |(i, w): (usize, &u32)| Candidate {
            slot: i as u32,
            addr: format!("10.0.0.{}:80", i + 1).parse().unwrap(),
            weight: *w,
            last_weight: *w,
        };
        weights.iter().enumerate().map(one).collect()
    }

    fn shares(table: &[u32], n: usize) -> Vec<usize> {
        (0..n).map(|s| table.iter().filter(|t| **t == s as u32).count()).collect()
    }

    #[test]
    fn turns_are_those_of_ipvs() {
        assert_eq!(of(Scheduler::Wrr, &servers(&[3, 1])), [0, 0, 0, 1]);
        assert_eq!(of(Scheduler::Wrr, &servers(&[4, 3, 2])), [0, 0, 1, 0, 1, 2, 0, 1, 2]);
        assert_eq!(of(Scheduler::Wrr, &servers(&[20, 10])), [0, 0, 1]);
        assert_eq!(of(Scheduler::Rr, &servers(&[3, 1])), [0, 1]);
        assert!(of(Scheduler::Wrr, &servers(&[65_535, 65_534])).len() <= 16_381);
        assert!(of(Scheduler::Maglev, &[]).is_empty());
        let sh = of(Scheduler::Sh, &servers(&[3, 1]));
        assert_eq!((sh.len(), &sh[..6]), (256, &[0, 0, 0, 1, 0, 0][..]));
        assert_eq!(of(Scheduler::Dh, &servers(&[3, 1]))[..4], [0, 1, 0, 1]);
    }

    #[test]
    fn maglev_shares_follow_weights_within_one_percent() {
        let even = shares(&of(Scheduler::Maglev, &servers(&[1; 10])), 10);
        let (low, high) = (even.iter().min().unwrap(), even.iter().max().unwrap());
        assert!((high - low) * 100 <= TABLE_LEN_MAX as usize / 10, "{even:?}");
        let uneven = shares(&of(Scheduler::Maglev, &servers(&[1, 2, 1])), 3);
        assert!(uneven[1].abs_diff(TABLE_LEN_MAX as usize / 2) < 200, "{uneven:?}");
    }

    #[test]
    fn maglev_tables_are_as_long_as_shares_need_whatever_the_health() {
        let traffic = Traffic::Marked { mark: 1, v6: false };
        let mut service = TableService::new(traffic, Scheduler::Maglev);
        let mut add = |n: u8, weight: u32| {
            let addr = SocketAddr::from(([10, 0, 0, n], 80));
            let server = TableServer { weight, ..TableServer::new(addr, Forward::Dr) };
            service.servers.insert(format!("r{n}").into(), server);
            maglev_len(&service)
        };
        assert_eq!((1..=10).map(|n| add(n, 5)).max(), Some(1_021));
        assert_eq!((add(11, 5), add(12, 0), add(13, 15)), (4_093, 4_093, 4_093));
        assert_eq!(add(14, 1_000), TABLE_LEN_MAX);
        let before = maglev_len(&service);
        service.servers.values_mut().for_each(|s| s.state = ServerState::Down);
        assert_eq!(maglev_len(&service), before);
        let even = shares(&table(Scheduler::Maglev, &servers(&[1; 10]), 1_021), 10);
        let (low, high) = (even.iter().min().unwrap(), even.iter().max().unwrap());
        assert!((high - low) * 100 <= 1_021 / 10 * 3, "{even:?}");
    }

    #[test]
    fn maglev_moves_little_more_than_it_must() {
        let all = servers(&[1; 10]);
        let before = of(Scheduler::Maglev, &all);
        let after = of(Scheduler::Maglev, &all[..9]);
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != 9 && b != a).count();
        // The paper allows a few percent of disruption beyond the tenth that must move.
        assert!(moved * 100 < before.len() * 5, "{moved} of {}", before.len());
    }

    #[test]
    fn maglev_does_not_depend_on_slots_or_order() {
        let mut swapped = servers(&[1, 1, 1]);
        swapped.reverse();
        let by_identity = |table: Vec<u32>| table;
        assert_eq!(
            by_identity(of(Scheduler::Maglev, &swapped)),
            by_identity(of(Scheduler::Maglev, &servers(&[1, 1, 1])))
        );
    }
}
