//! What leaves: services and servers that packets may still know.

use std::mem::offset_of;

use aya::maps::{Array, HashMap};
use nines_abi::{NO_SERVICE, Server, Service};
use nines_dataplane::DataPlane as _;
use nines_model::{Forward, ForwardingTable, Listen, Proto, Scheduler, TableService, Traffic};

use super::{
    Bench, NEXT, REDIRECT, SHOT, bench, build::*, instructions::dropped, is_unserved, map, service,
    table, web,
};

const VIP: &str = "10.0.0.100:80";

/// A service with one server.
fn one(listen: &str, server: &str) -> TableService {
    service(listen, Proto::Tcp, Scheduler::Rr, &[(server, Forward::Nat)])
}

/// Where a service was found last is no place to find it once it has left, or another has its name.
#[test]
fn a_service_that_leaves_is_found_no_more() {
    let Some(mut b) = bench() else { return };
    let other = one("10.0.0.100:81", "10.0.0.12:80");
    let web = |server| one(VIP, server);
    let every = one("10.0.0.100:0", "10.0.0.13:80");
    let mut clients = 2_000..;
    for (services, goes_to) in [
        (vec![other.clone(), web("10.0.0.11:80")], Some("10.0.0.11:80")),
        (vec![other.clone()], None),
        (vec![every.clone(), other.clone()], Some("10.0.0.13:80")),
        (vec![every.clone(), other.clone(), web("10.0.0.14:80")], Some("10.0.0.14:80")),
        (vec![other.clone(), every], Some("10.0.0.13:80")),
        (vec![other.clone(), web("10.0.0.15:80")], Some("10.0.0.15:80")),
        (vec![other], None),
    ] {
        b.plane.apply(&table(services)).unwrap();
        for _ in 0..2 {
            let from = format!("10.0.0.1:{}", clients.next().unwrap());
            let frame = tcp(&from, "10.0.0.100:80", SYN);
            let (verdict, packet) = b.tc(&frame.bytes());
            let Some(server) = goes_to else {
                assert_eq!((verdict, packet), (NEXT, frame.bytes()));
                continue;
            };
            let (ip, port) = read(&packet).1;
            assert_eq!(format!("{ip}:{port}"), server);
        }
    }
}

/// A service whose key somebody took away by hand is not found where it was once the agent has put
/// things right, though another one has that place.
#[test]
fn a_service_without_a_key_is_found_no_more() {
    let Some(mut b) = bench() else { return };
    let web = |server| [("web".to_owned(), one(VIP, server))];
    let other = |port: u16| {
        let listen = format!("10.0.0.100:{port}");
        [(format!("a{port}"), one(&listen, "10.0.0.12:80"))]
    };
    let table = |services: &[[(String, TableService); 1]]| ForwardingTable {
        services: services.iter().flatten().map(|(n, s)| (n.as_str().into(), s.clone())).collect(),
        ..ForwardingTable::default()
    };
    let goes_to = |b: &Bench, client: u16| {
        let frame = tcp(&format!("10.0.0.1:{client}"), "10.0.0.100:80", SYN);
        let (ip, port) = read(&b.tc(&frame.bytes()).1).1;
        format!("{ip}:{port}")
    };
    b.plane.apply(&table(&[other(81), other(82), web("10.0.0.11:80")])).unwrap();
    assert_eq!(goes_to(&b, 2_000), "10.0.0.11:80");
    // The first id is free now, and the key of the last one goes.
    b.plane.apply(&table(&[other(82), web("10.0.0.11:80")])).unwrap();
    let mut keys: HashMap<_, [u8; 20], u32> = HashMap::try_from(map("SERVICE_KEYS")).unwrap();
    let asked = keys.keys().flatten().find(|key| key[16..18] == 80u16.to_be_bytes());
    keys.remove(&asked.unwrap()).unwrap();
    assert!(!b.plane.observe().unwrap().is_empty());
    b.plane.apply(&table(&[other(82), web("10.0.0.13:80")])).unwrap();
    assert_eq!(goes_to(&b, 2_001), "10.0.0.13:80");
    assert!(b.plane.observe().unwrap().is_empty());
}

/// Whoever was chosen and has left is not taken, however often he is chosen again; the end is
/// counted as what it is.
#[test]
fn who_finds_nobody_after_all_is_counted_so() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&web(Scheduler::Rr)).unwrap();
    const SIZE: usize = size_of::<Server>();
    let mut servers: Array<_, [u8; SIZE]> = Array::try_from(map("SERVERS")).unwrap();
    for slot in 0..3 {
        let mut server = servers.get(&slot, 0).unwrap();
        server[offset_of!(Server, service)..][..4].copy_from_slice(&NO_SERVICE.to_ne_bytes());
        servers.set(slot, server, 0).unwrap();
    }
    // In the middle of a flow the table alone says who; a new one looks at servers.
    let frame = |client: u16, flags| tcp(&format!("10.0.0.1:{client}"), "10.0.0.100:80", flags);
    assert_eq!(b.tc(&frame(2_000, ACK).bytes()).0, SHOT);
    assert_eq!(dropped(&mut b), [("no-server".to_owned(), 1)].into());
    assert!(is_unserved(b.tc(&frame(2_001, SYN).bytes()).0));
    assert!(!b.plane.observe().unwrap().is_empty());
    b.plane.apply(&web(Scheduler::Rr)).unwrap();
    for (client, flags) in [(2_002, ACK), (2_003, SYN)] {
        assert_eq!(b.tc(&frame(client, flags).bytes()).0, REDIRECT);
    }
}

/// A service that is just leaving has lost its packets to whoever has them next.
#[test]
fn what_a_leaving_service_had_is_others_at_once() {
    let Some(mut b) = bench() else { return };
    let mut range = one("10.0.0.100:80", "10.0.0.12:80");
    let Traffic::To(listen) = range.traffic else { unreachable!() };
    range.traffic = Traffic::To(Listen { last: 90, ..listen });
    let mut services = vec![one("10.0.0.100:0", "10.0.0.13:80")];
    let mut clients = 2_000u16..;
    for (more, server) in [
        (None, "10.0.0.13"),
        (Some(range), "10.0.0.12"),
        (Some(one(VIP, "10.0.0.11:80")), "10.0.0.11"),
    ] {
        services.extend(more);
        b.plane.apply(&table(services.clone())).unwrap();
        let goes_to = |b: &Bench, client: u16| {
            let frame = tcp(&format!("10.0.0.1:{client}"), VIP, SYN);
            read(&b.tc(&frame.bytes()).1).1.0.to_string()
        };
        for _ in 0..2 {
            assert_eq!(goes_to(&b, clients.next().unwrap()), server);
        }
        // As user space does it: the flag, and later its names.
        const SIZE: usize = size_of::<Service>();
        let mut map: Array<_, [u8; SIZE]> = Array::try_from(map("SERVICES")).unwrap();
        let newest = services.len() as u32 - 1;
        let whole = map.get(&newest, 0).unwrap();
        let mut leaving = whole;
        leaving[offset_of!(Service, flags)..][..4].fill(0);
        map.set(newest, leaving, 0).unwrap();
        let client = clients.next().unwrap();
        match newest {
            0 => {
                let frame = tcp(&format!("10.0.0.1:{client}"), VIP, SYN).bytes();
                assert_eq!(b.tc(&frame), (NEXT, frame));
            }
            1 => assert_eq!(goes_to(&b, client), "10.0.0.13"),
            _ => assert_eq!(goes_to(&b, client), "10.0.0.12"),
        }
        map.set(newest, whole, 0).unwrap();
    }
}
