//! Other directors' flows come into this one's table.
//!
//! Decides: which server here a flow told elsewhere means, by service and address; and how it lies
//! in map `SYNC_IMPORT`. Whether it is believed the kernel program decides, one run a flow.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nines_abi::{
    self as abi, Entry, Flow, IDLE_SHIFT, STATE_NONE, SYNC_IMPORT_MAX, ServiceKey, Tail, Via,
    WORD_DATA, WORD_EARNED, WORD_PROXY, WORD_SENT, WORD_SHOWN,
};
use nines_model::Traffic;

use super::{
    super::{
        installed,
        programs::FLOW_IMPORT,
        shared::{Shared, View},
        tables::{pinned, shared},
        testrun,
    },
    Look, Pinned,
};
use crate::{
    Result, address,
    flow_sync::{Batch, Told},
    pins::pin_directory,
};

fn units_of_ms(ms: u32) -> u32 {
    ((u64::from(ms) * 1_000_000) >> IDLE_SHIFT) as u32
}

fn bits(told: Told) -> u64 {
    let bit = |set: bool, bit: u64| if set { bit } else { 0 };
    WORD_PROXY | bit(told.sent, WORD_SENT) | bit(told.data, WORD_DATA) | bit(told.shown, WORD_SHOWN)
}

/// Other directors' flows, for this one's table.
pub struct FlowImport {
    tables: Pinned,
    learned: View<Entry>,
    learnt: View<u64>,
    program: OwnedFd,
    slots: BTreeMap<(ServiceKey, SocketAddr), u32>,
}

impl FlowImport {
    pub(super) fn open(program: OwnedFd) -> Result<Self> {
        let pins = pin_directory()?;
        let learned: Shared<Entry> = shared(pinned(&pins, "SYNC_IMPORT")?)?;
        let learnt: Shared<u64> = shared(pinned(&pins, "SYNC_CURSOR")?)?;
        let (learned, learnt) = (learned.view()?, learnt.view()?);
        Ok(Self { tables: Pinned::open()?, learned, learnt, program, slots: BTreeMap::new() })
    }

    /// Takes them into the table; gives how many are of servers that this director does not have.
    pub fn learn(&mut self, batch: &Batch) -> Result<u32> {
        let look = self.tables.look()?;
        let servers: Vec<Option<(u32, u32)>> =
            batch.servers.iter().map(|(traffic, at)| self.slot(&look, *traffic, *at)).collect();
        let (mut unknown, mut filled) = (0, 0);
        for flow in &batch.flows {
            let known = servers.get(flow.server as usize).copied().flatten();
            let source = known.and_then(|(server, _)| look.source(server, flow.own_addr));
            let (Some((server, generation)), Some(source)) = (known, source) else {
                unknown += 1;
                continue;
            };
            let seen = look.clock.wrapping_sub(units_of_ms(flow.idle_ms));
            let dst = address::words(flow.asked.ip());
            let dport = flow.asked.port().to_be();
            self.learned.set(
                filled,
                Entry {
                    key: Flow {
                        src: address::words(flow.client.ip()),
                        dst,
                        sport: flow.client.port().to_be(),
                        dport,
                        proto: u32::from(flow.proto),
                    },
                    via: match flow.own_port {
                        0 if flow.state == STATE_NONE => abi::via_of_call(flow.call),
                        0 => Via { addr: dst[3], port: dport, source: 0 },
                        port => Via {
                            addr: flow.told.map_or(0, |told| told.first),
                            port: port.to_be(),
                            source,
                        },
                    },
                    tail: Tail {
                        word: u64::from(seen) << 32
                            | u64::from(flow.state & 15)
                            | if flow.earned { WORD_EARNED } else { 0 }
                            | flow.told.map_or(0, bits),
                        server,
                        generation,
                    },
                },
            );
            filled += 1;
            if filled == SYNC_IMPORT_MAX {
                self.run(filled)?;
                filled = 0;
            }
        }
        self.run(filled)?;
        Ok(unknown)
    }

    fn run(&self, count: u32) -> Result<()> {
        self.learnt.set(0, 0);
        let (packet, mut done) = ([0; 64], 0);
        while done < count {
            let ran = testrun::run(FLOW_IMPORT, self.program.as_raw_fd(), &packet, count - done, 0);
            let before = std::mem::replace(&mut done, self.learnt.get(0) as u32);
            // A signal ends a run early; it goes on from there.
            if let Err(why) = ran
                && done <= before
            {
                return Err(why);
            }
        }
        Ok(())
    }

    /// Slot and generation of a server, by what the tables hold now.
    fn slot(&mut self, look: &Look, traffic: Traffic, at: SocketAddr) -> Option<(u32, u32)> {
        let wanted = (installed::key(traffic), at);
        let generation = |slot: u32| {
            let server = look.servers.get(slot);
            let (server, service) = look.server(slot, server.generation)?;
            ((service.key, installed::identity(&server)) == wanted).then_some(server.generation)
        };
        let known = self.slots.get(&wanted).copied();
        if let Some((slot, generation)) = known.and_then(|slot| Some((slot, generation(slot)?))) {
            return Some((slot, generation));
        }
        self.slots.clear();
        for slot in 0..look.servers.len() {
            let server = look.servers.get(slot);
            if let Some((server, service)) = look.server(slot, server.generation) {
                self.slots.insert((service.key, installed::identity(&server)), slot);
            }
        }
        let slot = *self.slots.get(&wanted)?;
        Some((slot, generation(slot)?))
    }
}
