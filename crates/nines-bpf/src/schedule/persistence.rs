//! Persistence: a client's new flows go to the server of its last one.
//!
//! Decides: how long a client stays with its server, and that it stays as long as one of its flows
//! lives.

use nines_abi::{Packet, Server, Template, TemplateKey, SERVER_UP, SERVICE_SIP};

use crate::{
    flow::{
        entry::{EntryRef, Seen},
        table,
    },
    maps::{find_lru, shared_lru, SERVERS, SERVICES, TEMPLATES},
    service::{server::server, ServiceRef},
};

/// The template's key. SIP's call was read only for packets that begin a flow; for others it is 0.
#[inline(always)]
fn template_of(packet: &Packet, of: ServiceRef, begins: bool) -> TemplateKey {
    let (a, m) = (&packet.src, &of.service.mask);
    let client = [a[0] & m[0], a[1] & m[1], a[2] & m[2], a[3] & m[3]];
    let has_call = begins && of.service.flags & SERVICE_SIP != 0;
    let call = if has_call { packet.call } else { 0 };
    TemplateKey { client, service: of.id, call, pad: 0 }
}

/// The server that a client's last flow went to, if the service remembers and it takes new flows:
/// one that is drained or down lets go of its clients (IPVS: expire_quiescent_template). A
/// threshold does not part them.
#[inline(always)]
pub fn held(packet: &Packet, of: ServiceRef, now: u32) -> Option<(u32, &'static Server)> {
    if of.service.persist == 0 {
        return None;
    }
    let template = find_lru(&TEMPLATES, &template_of(packet, of, true))?;
    let server = SERVERS.get(template.server)?;
    let valid = template.generation == server.generation
        && server.service == of.id
        && server.state == SERVER_UP
        // Another processor's reading of the clock may be a little ahead.
        && now.wrapping_add(2).wrapping_sub(template.seen) <= of.service.persist.saturating_add(2);
    valid.then_some((template.server, server))
}

/// A client is still there: one of its flows goes on. An old flow to a server that the client has
/// since left changes nothing. What a call remembers lasts from its last new flow.
#[inline(always)]
pub fn renew(packet: &Packet, of: ServiceRef, flow: &Seen, now: u32) {
    if of.service.persist == 0 {
        return;
    }
    if let Some(template) = shared_lru(&TEMPLATES, &template_of(packet, of, false)) {
        if (template.server, template.generation) == (flow.server, flow.generation) {
            template.seen = now;
        }
    }
}

/// Remembers where a client's flow went.
#[inline(always)]
pub fn hold(packet: &Packet, of: ServiceRef, server: u32, generation: u32, now: u32) {
    if of.service.persist != 0 {
        let template = Template { server, generation, seen: now, pad: 0 };
        // A full map forgets another client; a failed insert, this one.
        let _ = TEMPLATES.insert(&template_of(packet, of, true), &template, 0);
    }
}

/// A packet of a flow that is known.
#[inline(always)]
pub fn goes_on(packet: &Packet, entry: EntryRef, seen: &Seen, state: u8, clock: u32) {
    if table::stale(seen.word, clock) {
        // As long as a flow lives its client stays (IPVS: a template lives while it controls
        // connections).
        let id = server(seen.server).map_or(u32::MAX, |server| server.service);
        if let Some(service) = SERVICES.get(id) {
            renew(packet, ServiceRef { id, service }, seen, clock);
        }
    }
    table::touch(entry, *seen, state, clock);
}
