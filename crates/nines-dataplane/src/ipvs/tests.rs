use std::collections::BTreeMap;

use nines_model::{
    ClientRate, Forward, Limit, Listen, Millis, Persist, Proto, QuicId, Rate, Scheduler,
    ServerState, TableServer, TableService, Tunnel, TunnelChecksum, TunnelKind,
};
use proptest::prelude::*;

use super::*;

/// A kernel that refuses what the real one does, and one change of a number.
#[derive(Default)]
struct Fake {
    state: State,
    refuses: Option<usize>,
}

impl Tables for Fake {
    fn list(&mut self) -> Result<State> {
        Ok(self.state.clone())
    }

    fn carry_out(&mut self, change: &Change) -> Result<()> {
        if let Some(left) = &mut self.refuses {
            if *left == 0 {
                self.refuses = None;
                return Err(refused("no", "the test says so"));
            }
            *left -= 1;
        }
        let wrong = || refused("no", format!("EEXIST, ENOENT or EBUSY: {change}"));
        match change {
            Change::Add(t, service) => {
                let held = Held { service: service.clone(), dests: Vec::new() };
                self.state.insert(*t, held).map_or(Ok(()), |_| Err(wrong()))
            }
            Change::Set(t, service) => {
                self.state.get_mut(t).ok_or_else(wrong)?.service = service.clone();
                Ok(())
            }
            Change::Remove(t) => {
                let empty = self.state.remove(t).ok_or_else(wrong)?.dests.is_empty();
                if empty { Ok(()) } else { Err(wrong()) }
            }
            Change::AddDest(t, dest) => {
                let held = self.state.get_mut(t).ok_or_else(wrong)?;
                if held.dests.iter().any(|d| d.at == dest.at) {
                    return Err(wrong());
                }
                held.dests.push(dest.clone());
                Ok(())
            }
            Change::SetDest(t, dest) => {
                let held = self.state.get_mut(t).ok_or_else(wrong)?;
                let at = held.dests.iter_mut().find(|d| d.at == dest.at).ok_or_else(wrong)?;
                *at = dest.clone();
                Ok(())
            }
            Change::RemoveDest(t, dest) => {
                let held = self.state.get_mut(t).ok_or_else(wrong)?;
                let at = held.dests.iter().position(|d| d.at == dest.at).ok_or_else(wrong)?;
                held.dests.remove(at);
                Ok(())
            }
        }
    }
}

/// Without the order of servers, in which an update may leave others than a fresh table has.
fn sorted(state: &State) -> BTreeMap<Traffic, (Service, Vec<Dest>)> {
    let one = |(t, held): (&Traffic, &Held)| {
        let mut dests = held.dests.clone();
        dests.sort_by_key(|d| d.at);
        (*t, (held.service.clone(), dests))
    };
    state.iter().map(one).collect()
}

#[test]
fn what_ipvs_has_not_is_refused_by_its_name() {
    let rate = Rate { count: 1, seconds: 1 };
    let one = Listen::new(([10, 0, 0, 100], 80).into(), Proto::Tcp);
    let with = |how: &dyn Fn(&mut TableService)| {
        let mut service = TableService::new(Traffic::To(one), Scheduler::Rr);
        let server = TableServer::new(([10, 0, 0, 1], 80).into(), Forward::Dr);
        service.servers.insert("r1".into(), server);
        how(&mut service);
        let services = [("web".into(), service)].into();
        convert::state(&ForwardingTable { services, ..ForwardingTable::default() })
    };
    assert!(with(&|_| ()).is_ok());
    let id = QuicId::parse("0a01");
    for (what, how) in [
        ("ranges", &(|s| s.traffic = Traffic::To(Listen { last: 90, ..one }))),
        ("networks", &|s| s.traffic = Traffic::To(Listen { prefix: 31, ..one })),
        ("rate", &|s| s.rate = Some(ClientRate { rate, burst: 1, prefix: 32 })),
        ("syn-cookies", &|s| s.cookies = Some(rate)),
        ("quic-id", &|s| s.servers.get_mut("r1").unwrap().quic_id = id),
    ] as [(&str, &dyn Fn(&mut TableService)); 5]
    {
        let told = with(how).unwrap_err().to_string();
        assert!(told.contains(what), "{told}");
    }
}

fn server() -> impl Strategy<Value = TableServer> {
    let tunnel =
        |kind| Forward::Tunnel(Tunnel { kind, port: 6080, checksum: TunnelChecksum::Full });
    let ways = vec![Forward::Dr, Forward::Nat, tunnel(TunnelKind::Ipip), tunnel(TunnelKind::Gue)];
    let states = vec![ServerState::Up, ServerState::Draining, ServerState::Down];
    (1u8..6, prop::sample::select(ways), prop::sample::select(states), 0u32..4, 0u32..3).prop_map(
        |(host, forward, state, weight, upper)| TableServer {
            weight,
            state,
            limit: Limit { upper, lower: 0 },
            ..TableServer::new(([10, 0, 0, host], 80).into(), forward)
        },
    )
}

fn service() -> impl Strategy<Value = TableService> {
    let scheduler = prop::sample::select(Scheduler::ALL.map(|(_, s)| s).to_vec());
    let persist = prop::option::of(1u64..500);
    (80u16..84, scheduler, persist, any::<bool>(), prop::collection::vec(server(), 0..5)).prop_map(
        |(port, scheduler, persist, udp, servers)| {
            let proto = if udp { Proto::Udp } else { Proto::Tcp };
            let listen = Listen::new(([10, 0, 0, 100], port).into(), proto);
            let mut service = TableService::new(Traffic::To(listen), scheduler);
            service.persist = persist.map(|s| Persist { time: Millis(s * 1_000), prefix: 24 });
            service.one_packet = udp && port == 81;
            for server in servers {
                service.servers.insert(server.addr.to_string().into(), server);
            }
            service
        },
    )
}

fn table() -> impl Strategy<Value = ForwardingTable> {
    prop::collection::vec(service(), 0..4).prop_map(|services| {
        let named = services.into_iter().map(|s| (format!("{:?}", s.traffic).into(), s));
        ForwardingTable { services: named.collect(), ..ForwardingTable::default() }
    })
}

proptest! {
    #[test]
    fn any_table_leads_to_any_other(tables in prop::collection::vec(table(), 1..4)) {
        let mut plane = IpvsPlane::over(Fake::default());
        for table in &tables {
            plane.apply(table).unwrap();
            prop_assert_eq!(sorted(&plane.tables.state), sorted(&convert::state(table).unwrap()));
            prop_assert_eq!(plane.observe().unwrap(), Vec::<String>::new());
        }
        plane.remove().unwrap();
        prop_assert!(plane.tables.state.is_empty());
    }

    #[test]
    fn a_change_that_fails_leaves_the_old_table(
        before in table(),
        after in table(),
        at in 0usize..12,
    ) {
        let mut plane = IpvsPlane::over(Fake::default());
        plane.apply(&before).unwrap();
        plane.tables.refuses = Some(at);
        let result = plane.apply(&after);
        plane.tables.refuses = None;
        let holds = if result.is_ok() { &after } else { &before };
        prop_assert_eq!(sorted(&plane.tables.state), sorted(&convert::state(holds).unwrap()));
    }
}

#[test]
fn a_server_of_another_family_is_refused_but_by_tunnel() {
    let listen = Listen::new("10.0.0.100:80".parse().unwrap(), Proto::Tcp);
    let mut service = TableService::new(Traffic::To(listen), Scheduler::Rr);
    let at = "[2001:db8::1]:80".parse().unwrap();
    service.servers.insert("r1".into(), TableServer::new(at, Forward::Dr));
    let mut table = ForwardingTable::default();
    table.services.insert("web".into(), service);
    let told = convert::state(&table).unwrap_err();
    assert!(told.why.contains("tunnels only"), "{told}");
    let ipip = Tunnel { kind: TunnelKind::Ipip, port: 0, checksum: TunnelChecksum::None };
    table.services.get_mut("web").unwrap().servers.get_mut("r1").unwrap().forward =
        Forward::Tunnel(ipip);
    assert!(convert::state(&table).is_ok());
}
