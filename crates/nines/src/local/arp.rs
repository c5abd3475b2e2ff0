//! Who answers ARP for an address, asked over interfaces of this network namespace.
//!
//! Decides: nothing; it sends the question and reads the answers.

use std::{collections::BTreeMap, net::Ipv4Addr};

use nines_dataplane::{
    address,
    gratuitous_arp::{Link, answers_for, who_has},
};

/// Address that the questions come from.
const ASKER: [u8; 6] = [0x02, 0x9e, 0, 0, 0, 1];
/// Packets read of an interface in one round at most: data also passes there.
const READ_MAX: usize = 4_096;

/// Interfaces, each with the number of the machine behind it.
pub struct Askers {
    links: Vec<(usize, Link)>,
    machines: usize,
    question: Vec<u8>,
    vip: Ipv4Addr,
}

impl Askers {
    /// Asks for `vip` over the interfaces named; `ports` has those of one machine each. What cannot
    /// be opened hears nothing.
    pub fn open(ports: &[Vec<String>], vip: Ipv4Addr) -> Self {
        let all = address::interfaces().unwrap_or_default();
        let index: BTreeMap<&str, u32> = all.iter().map(|i| (i.name.as_str(), i.index)).collect();
        let open = |p: &String| Link::open(*index.get(p.as_str())?, true).ok();
        let of_machine = |(of, ports): (usize, &Vec<String>)| {
            ports.iter().filter_map(open).map(|link| (of, link)).collect::<Vec<_>>()
        };
        let links = ports.iter().enumerate().flat_map(of_machine).collect();
        Self { links, machines: ports.len(), question: who_has(vip, ASKER), vip }
    }

    /// Sends the question over all interfaces.
    pub fn ask(&self) {
        for (_, link) in &self.links {
            let _ = link.send(&self.question);
        }
    }

    /// Which machines have answered since the last time.
    pub fn answered(&self) -> Vec<bool> {
        let mut answered = vec![false; self.machines];
        let mut buffer = [0; 2_048];
        for (of, link) in &self.links {
            for _ in 0..READ_MAX {
                let Some((length, outgoing)) = link.receive(&mut buffer) else { break };
                if !outgoing && answers_for(&buffer[..length], self.vip.into()).is_some() {
                    answered[*of] = true;
                }
            }
        }
        answered
    }
}
