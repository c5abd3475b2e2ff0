//! What packets are known by: addresses that matter, ranges, clients' networks, connection ids.

use std::{collections::BTreeMap, net::SocketAddr};

use nines_abi::{self as abi, Addr, PLACE_REAL, PLACE_SERVER, PLACE_VIP, QuicKey};
use nines_model::{Forward, TableService};

use super::{super::addresses::halves_of, Planner, Write};
use crate::address;

impl Planner<'_> {
    /// Who may begin flows: what is new before the service needs it, what is old after.
    pub(super) fn sources(&mut self, id: u32, wanted: &TableService) {
        let installed = self.ask.installed;
        let mut old: BTreeMap<(Addr, u8), u32> =
            installed.sources_of(id).map(|(addr, prefix, said)| ((addr, prefix), said)).collect();
        for ((addr, prefix), may) in &wanted.sources {
            let (addr, more) = (address::mapped(*addr), if addr.is_ipv4() { 96 } else { 0 });
            let said = if *may { abi::SOURCE_ALLOWED } else { abi::SOURCE_DENIED };
            if old.remove(&(addr, prefix + more)) != Some(said) {
                self.before.push(Write::Source(id, addr, prefix + more, said));
            }
        }
        self.after.extend(old.into_keys().map(|(addr, len)| Write::Source(id, addr, len, 0)));
    }

    /// What this service had goes, unless somebody gets it.
    pub(super) fn forget_spread(&mut self, id: u32) {
        for (place, _) in self.ask.installed.spread.iter().filter(|(_, of)| **of == id) {
            self.spread.entry(*place).or_insert(None);
        }
    }

    /// Which servers connection ids name.
    pub(super) fn quic(
        &mut self,
        id: u32,
        wanted: &TableService,
        slots: &BTreeMap<SocketAddr, u32>,
    ) {
        let mut old: BTreeMap<QuicKey, u32> = self.ask.installed.quic_of(id).collect();
        for server in wanted.servers.values() {
            let (Some(quic), Some(slot)) = (server.quic_id, slots.get(&server.addr)) else {
                continue;
            };
            let key = QuicKey { id: quic.id, service: id, pad: 0 };
            if old.remove(&key) != Some(*slot) {
                self.before.push(Write::Quic(key, Some(*slot)));
            }
        }
        self.after.extend(old.into_keys().map(|key| Write::Quic(key, None)));
    }

    /// Which addresses matter: told before the first service needs it, forgotten after the last.
    pub(super) fn places(&mut self) {
        let wanted = self.ask.table.services.values();
        let mut places: BTreeMap<Addr, u32> = BTreeMap::new();
        for service in wanted {
            for vip in service.traffic.vips().chain(service.pool.iter().copied()) {
                *places.entry(address::mapped(vip)).or_default() |= PLACE_VIP;
            }
            for server in service.servers.values().filter(|s| s.forward != Forward::Local) {
                let flag = if server.forward.translates() { PLACE_SERVER } else { PLACE_REAL };
                *places.entry(address::mapped(server.addr.ip())).or_default() |= flag;
            }
        }
        let old = &self.ask.installed.places;
        let bit = |addr: &Addr| abi::named_bit(halves_of(*addr));
        self.named = Some(places.keys().map(bit).fold(0, |all, bit| all | bit));
        let mut first = Vec::new();
        for (addr, flags) in &places {
            let had = old.get(addr).copied().unwrap_or(0);
            if had | flags != had {
                first.push(Write::Place(*addr, had | flags));
            }
        }
        self.before.splice(0..0, first);
        for (addr, had) in old {
            let flags = places.get(addr).copied().unwrap_or(0);
            if had | flags != flags {
                self.after.push(Write::Place(*addr, flags));
            }
        }
    }
}
