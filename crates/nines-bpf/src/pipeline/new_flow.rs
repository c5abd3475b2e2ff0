//! Packets of no known flow: whose they are, and who chooses their server.
//!
//! Decides: which service a packet is of, whether it may come, and by which scheduler it goes on.

use nines_abi::{
    Packet, Service, DROP_DENIED, DROP_MARTIAN, DROP_NO_SERVER, PROGRAM_ADMIT, PROGRAM_INSERT,
    PROGRAM_SCHEDULE_FALLBACK, PROGRAM_SCHEDULE_LOAD, PROGRAM_SCHEDULE_LOCALITY,
    PROGRAM_SCHEDULE_RANDOM, SCHED_DH, SCHED_LBLC, SCHED_LBLCR, SCHED_LC, SCHED_TWOS,
    SERVICE_FALLBACK, SERVICE_ONE_PACKET, SERVICE_SIP, SERVICE_SOURCES,
};

use crate::{
    guard::martian::{self, Door},
    maps::SERVICES,
    parse::packet::begins,
    schedule::{self, locality, persistence, Table},
    service::{
        admit::{is_denied, ASKS},
        service_of,
    },
    verdict::Verdict,
};

/// A packet that [`crate::pipeline::ingress`] knew no flow for: finds its service and the program
/// that selects its server.
#[inline(always)]
pub fn new(packet: &mut Packet, mark: u32, door: impl FnOnce() -> Door, at_tc: bool) -> Verdict {
    let Some(of) = service_of(packet, mark) else {
        return Verdict::Pass;
    };
    if martian::is_martian(packet, door) {
        return Verdict::Drop(DROP_MARTIAN);
    }
    if of.service.flags & SERVICE_SOURCES != 0 && is_denied(packet, of.id) {
        return Verdict::Drop(DROP_DENIED);
    }
    // XDP may not be able to finish, and no flow would tell tc who was chosen; nor does it read
    // calls.
    if !at_tc && of.service.flags & (SERVICE_ONE_PACKET | SERVICE_SIP) != 0 {
        return Verdict::Pass;
    }
    if packet.service != of.id {
        // What another service asked, which has left since, it did not ask.
        packet.asked = 0;
    }
    packet.service = of.id;
    let begins = begins(packet);
    packet.middle = u32::from(!begins);
    if of.service.flags & ASKS != 0 && packet.asked == 0 {
        return Verdict::Go(PROGRAM_ADMIT);
    }
    if let Some((slot, _)) = persistence::held(packet, of, packet.clock) {
        packet.chosen = slot;
        return Verdict::Go(PROGRAM_INSERT);
    }
    let how = of.service.scheduler;
    if begins && how >= SCHED_LC && how <= SCHED_TWOS {
        return Verdict::Go(match how {
            SCHED_TWOS => PROGRAM_SCHEDULE_RANDOM,
            SCHED_LBLC | SCHED_LBLCR => PROGRAM_SCHEDULE_LOCALITY,
            _ => PROGRAM_SCHEDULE_LOAD,
        });
    }
    if begins && how >= SCHED_DH && of.service.flags & SERVICE_FALLBACK != 0 {
        return Verdict::Go(PROGRAM_SCHEDULE_FALLBACK);
    }
    let table = Table::noted(of.service, packet);
    let slot = schedule::by_turn_or_hash(packet, of, table, begins);
    take(packet, of.service, slot)
}

/// The schedulers that weigh what servers carry.
#[inline(always)]
pub fn by_load(packet: &mut Packet) -> Verdict {
    by(packet, |_, service, table| schedule::by_weighing(service, table))
}

/// Those that remember destinations.
#[inline(always)]
pub fn by_locality(packet: &mut Packet) -> Verdict {
    by(packet, locality::by_destination)
}

/// Those by hash, with fallback.
#[inline(always)]
pub fn fall_back(packet: &mut Packet) -> Verdict {
    by(packet, schedule::by_hash_or_next)
}

/// The one that draws lots.
#[inline(always)]
pub fn by_random(packet: &mut Packet) -> Verdict {
    by(packet, |_, _, table| schedule::two_choices(table))
}

#[inline(always)]
fn by(packet: &mut Packet, choose: impl FnOnce(&Packet, &Service, Table) -> u32) -> Verdict {
    let Some(service) = SERVICES.get(packet.service) else {
        return Verdict::Drop(DROP_NO_SERVER);
    };
    let table = Table::noted(service, packet);
    let slot = choose(packet, service, table);
    take(packet, service, slot)
}

/// Nobody may have been found only because the table was replaced meanwhile, or the service left:
/// then look again.
#[inline(always)]
fn take(packet: &mut Packet, service: &Service, slot: u32) -> Verdict {
    if slot == schedule::NOBODY {
        if Table::is_replaced(service, packet) {
            return Verdict::New;
        }
        return Verdict::Drop(DROP_NO_SERVER);
    }
    packet.chosen = slot;
    Verdict::Go(PROGRAM_INSERT)
}
