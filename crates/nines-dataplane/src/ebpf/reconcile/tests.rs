//! Every step of every change leaves no hole.

use nines_model::{Listen, Proto, Scheduler, Traffic};
use proptest::prelude::*;

use super::{entries::prefix_mask, *};

fn service(port: u16, scheduler: u8, servers: &[(u8, u8, u32)]) -> TableService {
    let listen = Listen::new(SocketAddr::new("10.0.0.100".parse().unwrap(), port), Proto::Tcp);
    let server = |(n, state, weight): &(u8, u8, u32)| {
        let state = match state {
            0 => ServerState::Draining,
            1 => ServerState::Down,
            _ => ServerState::Up,
        };
        let addr = SocketAddr::new(format!("10.0.1.{n}").parse().unwrap(), port);
        let forward = if n % 2 == 0 { Forward::Nat } else { Forward::Dr };
        (
            format!("r{n}").into(),
            TableServer { weight: *weight, state, ..TableServer::new(addr, forward) },
        )
    };
    let scheduler = Scheduler::ALL[scheduler as usize % Scheduler::ALL.len()].1;
    let servers = servers.iter().map(server).collect();
    TableService { servers, ..TableService::new(Traffic::To(listen), scheduler) }
}

fn plan(
    installed: &Installed,
    before: Option<&ForwardingTable>,
    table: &ForwardingTable,
) -> Result<Vec<Write>> {
    // For three tables that share no service: that before, one that died in the middle, the next.
    let sizes = Sizes { services: 16, servers: 128, picks: 1 << 17, buckets: 8 };
    super::plan(Ask { installed, before, table, sizes, route: &route, detour: 0 })
}

fn tables() -> impl Strategy<Value = ForwardingTable> {
    let servers = prop::collection::vec((1u8..6, 0u8..5, 0u32..3), 0..5);
    let sources = prop::collection::btree_map(0u8..6, any::<bool>(), 0..4);
    let services =
        prop::collection::btree_map(8u16..12, (0u8..15, servers, sources, 0u16..4), 0..4);
    let network = |(n, may): (u8, bool)| ((IpAddr::from([10, n, 0, 0]), 8 + 8 * (n % 2)), may);
    services.prop_map(move |services| ForwardingTable {
        services: services
            .into_iter()
            .map(|(ten, (s, servers, sources, more))| {
                let port = 10 * ten;
                let sources = sources.into_iter().map(network).collect();
                let mut service = TableService { sources, ..service(port, s, &servers) };
                if let Traffic::To(listen) = service.traffic {
                    service.traffic = Traffic::To(Listen { last: port + more, ..listen });
                }
                (format!("s{port}").into(), service)
            })
            .collect(),
        ..ForwardingTable::default()
    })
}

/// What a new flow could meet in this picture must be a live server of the same service.
fn no_hole(at: &Installed) {
    for (place, id) in &at.spread {
        let known = at.services.values().any(|(named, _)| named == id);
        assert!(known, "{place:?} leads to a service that has left");
    }
    for (key, (id, service)) in &at.services {
        assert_eq!(at.places.get(&key.addr).copied().unwrap_or(0) & abi::PLACE_VIP, abi::PLACE_VIP);
        let Some(picks) = at.picks.get(&service.table_base()) else {
            assert_eq!(service.table_len(), 0);
            continue;
        };
        if service.table_len() == 0 {
            continue;
        }
        assert!(service.table_base() % 2 == 0, "two picks lie in one entry of the kernel's array");
        for slot in picks {
            let server = at.servers[slot];
            assert_eq!((server.service, server.vip), (*id, key.addr));
            // These tables name servers that take nothing; the kernel looks.
            let kept = lookup_tables::keeps_places(scheduler_of(service.scheduler));
            assert!(server.state == SERVER_UP || kept, "slot {slot}");
            if server.forward == abi::FORWARD_NAT {
                assert_eq!(at.places[&server.addr] & abi::PLACE_SERVER, abi::PLACE_SERVER);
                assert_eq!(at.settings.flags & SETTING_NAT, SETTING_NAT);
            }
        }
    }
}

/// Whom a packet could have been given before an update, it finds as he was, or as he is to be:
/// what sends it reads the slot after what chose it.
fn still_reached(before: &Installed, at: &Installed) {
    for (slot, old) in before.servers.iter().filter(|(_, old)| !is_free(old)) {
        let now = at.servers[slot];
        assert_eq!((now.addr, now.port, now.ifindex), (old.addr, old.port, old.ifindex), "{slot}");
        assert!(is_free(&now) || now.service == old.service, "{slot} is another service's");
        assert!(!is_free(&now) || now.generation != old.generation, "its flows end with it");
    }
}

/// The kernel's view of a table, without slots: servers that take flows by service.
fn view(at: &Installed) -> BTreeMap<(u16, u32), BTreeSet<(String, u8)>> {
    at.services
        .iter()
        .map(|(key, (id, service))| {
            let servers = at.servers_of(*id).map(|(_, s)| (identity(s).to_string(), s.state));
            let servers = servers.collect();
            ((u16::from_be(key.port), service.scheduler), servers)
        })
        .collect()
}

fn route(addr: IpAddr) -> Option<Way> {
    Some(Way { ifindex: 2, nexthop: addr, source: None, mtu: None })
}

proptest! {
    #[test]
    fn any_change_has_no_hole_reaches_its_target_and_can_be_taken_back(
        steps in prop::collection::vec(tables(), 1..6), fail_at in 0usize..40,
    ) {
        let mut kernel = Installed::default();
        let mut before = ForwardingTable::default();
        for table in steps {
            let start = kernel.clone();
            let writes = plan(&kernel, Some(&before), &table).unwrap();
            // A failure after any number of updates: undone, it is as before.
            let mut undone = kernel.clone();
            let done: Vec<_> =
                writes.iter().take(fail_at).filter_map(|w| undone.record(w)).collect();
            for inverse in done.iter().rev() {
                undone.record(inverse);
                no_hole(&undone);
                still_reached(&start, &undone);
            }
            // Whoever comes after one that died there puts all of it right.
            let mut left = start.clone();
            for write in writes.iter().take(fail_at) {
                left.record(write);
            }
            left.trim();
            for write in plan(&left, None, &table).unwrap() {
                left.record(&write);
                no_hole(&left);
            }
            prop_assert_eq!(left.strays(), BTreeSet::new());
            let named: BTreeSet<u32> = left.services.values().map(|(id, _)| *id).collect();
            let known = |s: &Server| is_free(s) || named.contains(&s.service);
            prop_assert!(left.servers.values().all(known), "a server of nobody");
            // Flows that began meanwhile, or ended, are nobody's afterwards, nor the next server's.
            let free = |at: &Installed, slot: u32| at.servers.get(&slot).is_none_or(is_free);
            for write in writes.iter().take(fail_at) {
                let Write::Server(slot, written) = write else { continue };
                let before = start.servers.get(slot).map_or(0, |server| server.generation);
                let now = undone.servers[slot].generation;
                let ends = !is_free(written) && written.generation != before;
                prop_assert!(!ends || ![before, written.generation].contains(&now), "{}", slot);
                prop_assert_eq!(free(&undone, *slot), free(&start, *slot));
            }
            prop_assert_eq!(&undone.services, &start.services);
            prop_assert_eq!(view(&undone), view(&start));
            prop_assert_eq!(&undone.sources, &start.sources);
            prop_assert_eq!(&undone.spread, &start.spread);
            let mut inverses = Vec::new();
            for write in &writes {
                inverses.extend(kernel.record(write));
                no_hole(&kernel);
                still_reached(&start, &kernel);
            }
            kernel.forget(&inverses);
            let forgot = kernel.picks.clone();
            kernel.trim();
            prop_assert_eq!(forgot, kernel.picks.clone(), "all that nobody uses, and no more");
            // Nothing was skipped that a look at everything finds.
            let again = plan(&kernel, None, &table).unwrap();
            prop_assert!(again.is_empty(), "not stable: {:?}", again);
            prop_assert_eq!(kernel.services.len(), table.services.len());
            let said: usize = table.services.values().map(|s| s.sources.len()).sum();
            prop_assert_eq!(kernel.sources.len(), said);
            for service in table.services.values() {
                let (_, in_kernel) = kernel.services[&key(service.traffic)];
                let takes = service.servers.values().filter(|s| s.takes_new()).count();
                let kept = lookup_tables::keeps_places(service.scheduler);
                let listed = in_kernel.flags & nines_abi::SERVICE_SOURCES != 0;
                prop_assert_eq!(listed, !service.sources.is_empty());
                prop_assert!(in_kernel.table_len() > 0 || takes == 0);
                prop_assert!(in_kernel.table_len() == 0 || takes > 0 || kept);
            }
            before = table;
        }
    }
}

#[test]
fn masks_are_as_on_the_wire() {
    let all = u32::MAX;
    assert_eq!(prefix_mask(false, 32), [all; 4]);
    assert_eq!(prefix_mask(false, 24), [all, all, all, 0xffff_ff00u32.to_be()]);
    assert_eq!(prefix_mask(true, 64), [all, all, 0, 0]);
    assert_eq!(prefix_mask(true, 1), [0x8000_0000u32.to_be(), 0, 0, 0]);
}

#[test]
fn more_servers_than_the_kernel_weighs_are_refused() {
    let servers: Vec<(u8, u8, u32)> = (0..65).map(|n| (n, 2, 1)).collect();
    let wlc = Scheduler::ALL.iter().position(|(name, _)| *name == "wlc").unwrap() as u8;
    let table = |scheduler: u8, servers: &[(u8, u8, u32)]| ForwardingTable {
        services: BTreeMap::from([("s".into(), service(80, scheduler, servers))]),
        ..ForwardingTable::default()
    };
    let kernel = Installed::default();
    assert!(plan(&kernel, None, &table(wlc, &servers[..64])).is_ok());
    assert!(plan(&kernel, None, &table(0, &servers)).is_ok(), "rr takes any number");
    let refused = plan(&kernel, None, &table(wlc, &servers)).unwrap_err();
    assert!(refused.why.contains("64 at most; here are 65"), "{refused}");
}

#[test]
fn a_slot_used_again_ends_the_flows_of_the_server_before() {
    let mut kernel = Installed::default();
    let table = |servers: &[(u8, u8, u32)]| ForwardingTable {
        services: BTreeMap::from([("s".into(), service(80, 0, servers))]),
        ..ForwardingTable::default()
    };
    let mut seen = BTreeSet::new();
    for n in 1..5u8 {
        for write in plan(&kernel, None, &table(&[(n, 2, 1)])).unwrap() {
            kernel.record(&write);
        }
        let live: Vec<_> = kernel.servers.iter().filter(|(_, s)| !is_free(s)).collect();
        assert_eq!(live.len(), 1);
        assert!(seen.insert((*live[0].0, live[0].1.generation)), "flow would hit a stranger");
    }
}

/// The service that packets to a port of the VIP are of: the longest prefix says.
fn service_at(at: &Installed, port: u16) -> Option<u32> {
    let holds = |(key, len): &(ServiceRangeKey, u8)| {
        let bits = u32::from(*len) - abi::SPREAD_BITS;
        let differs = (u16::from_be(key.port) ^ port).checked_shr(16u32.saturating_sub(bits));
        differs.unwrap_or(0) == 0
    };
    let all = at.spread.iter().filter(|(place, _)| holds(place));
    all.max_by_key(|((_, len), _)| *len).map(|(_, id)| *id)
}

#[test]
fn a_range_that_changes_keeps_what_stays() {
    let table = |(first, last): (u16, u16)| {
        let mut wide = service(first, 0, &[(1, 2, 1)]);
        let one = Listen::new(SocketAddr::new("10.0.0.100".parse().unwrap(), first), Proto::Tcp);
        wide.traffic = Traffic::To(Listen { last, ..one });
        let services = [("wide".into(), wide)].into();
        ForwardingTable { services, ..ForwardingTable::default() }
    };
    let mut at = Installed::default();
    for write in plan(&at, None, &table((80, 95))).unwrap() {
        at.record(&write);
    }
    // One that begins at another port is another service.
    let all = [(80, 95), (80, 90), (80, 99), (80, 82), (80, 95), (85, 99), (82, 90), (90, 99)];
    for (old, next) in all.into_iter().zip(all.into_iter().skip(1)) {
        for write in plan(&at, Some(&table(old)), &table(next)).unwrap() {
            at.record(&write);
            for port in old.0.max(next.0)..=old.1.min(next.1) {
                let id = service_at(&at, port);
                let there = at.services.values().any(|(named, _)| Some(*named) == id);
                assert!(there, "{port} after {write:?}");
            }
        }
        assert!(service_at(&at, next.0).is_some() && service_at(&at, next.1).is_some());
        assert_eq!((service_at(&at, next.0 - 1), service_at(&at, next.1 + 1)), (None, None));
    }
}
