//! What one director tells of its flows, and what another makes of it: two namespaces, each with
//! tables of its own in which the same servers have other places.

use std::{collections::BTreeMap, os::fd::AsFd as _, time::Duration};

use nines_dataplane::{DataPlane as _, ebpf::FlowExport, flow_sync::Batch};
use nines_model::{ClientRate, Forward, ForwardingTable, Millis, Persist, Proto, Rate, Scheduler};

use super::{Bench, NEXT, REDIRECT, bench, build::*, service, table};

/// Four services: weighing by NAT, by turn with direct routing, by hash, and one that remembers.
fn services() -> ForwardingTable {
    let servers = |forward| ["10.0.0.11:80", "10.0.0.12:80", "10.0.0.13:80"].map(|s| (s, forward));
    let (dr, nat) = (servers(Forward::Dr), servers(Forward::Nat));
    let mut remembers = service("10.0.0.100:84", Proto::Tcp, Scheduler::Rr, &dr);
    remembers.persist = Some(Persist { time: Millis(600_000), prefix: 24 });
    table(vec![
        service("10.0.0.100:81", Proto::Tcp, Scheduler::Lc, &nat),
        service("10.0.0.100:82", Proto::Tcp, Scheduler::Rr, &dr),
        service("10.0.0.100:83", Proto::Tcp, Scheduler::Maglev, &dr),
        remembers,
        service("10.0.0.100:85", Proto::Tcp, Scheduler::Maglev, &servers(Forward::FullNat)),
    ])
}

/// The same where every service and server got its place after others.
fn elsewhere() -> Option<Bench> {
    let mut b = bench()?;
    let before = [("10.0.0.21:80", Forward::Dr), ("10.0.0.22:80", Forward::Dr)];
    let first = service("10.0.0.99:80", Proto::Udp, Scheduler::Rr, &before);
    let mut both = services();
    both.services.insert("0".into(), first.clone());
    b.plane.apply(&table(vec![first])).unwrap();
    b.plane.apply(&both).unwrap();
    Some(b)
}

fn gathered(look: impl FnOnce(&mut dyn FnMut(Batch)) -> nines_dataplane::Result<()>) -> Vec<Batch> {
    let mut all = Vec::new();
    look(&mut |batch| all.push(batch)).unwrap();
    all
}

fn changed(out: &mut FlowExport) -> Vec<Batch> {
    gathered(|each| out.changed(each))
}

fn all_of(out: &mut FlowExport) -> Vec<Batch> {
    let (buckets, middle) = (out.buckets().unwrap(), 20_000);
    gathered(|each| {
        out.some(0..middle, each)?;
        out.some(middle..buckets, each)?;
        out.remembered(each)
    })
}

fn flows(batches: &[Batch]) -> usize {
    batches.iter().map(|b| b.flows.len()).sum()
}

fn rings(out: &FlowExport) -> bool {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&out.as_fd());
    let mut wait = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one live structure.
    unsafe { libc::poll(&raw mut wait, 1, 200) > 0 }
}

fn packet(port: u16, client: u16, flags: u8) -> Frame {
    tcp(&format!("10.0.0.1:{client}"), &format!("10.0.0.100:{port}"), flags)
}

/// A packet to the service by full NAT, as the client sends it and as its server sees it.
fn asked_and_seen(b: &Bench, client: u16, flags: u8) -> [Frame; 2] {
    let asked = packet(85, client, flags);
    let (src, dst, _) = read(&b.tc(&asked.bytes()).1);
    let seen = Frame { src, dst, ..asked.clone() };
    [asked, seen]
}

/// Opens so many connections to a port and gives who got each.
fn open(b: &mut Bench, port: u16, clients: std::ops::Range<u16>) -> BTreeMap<u16, String> {
    let one = |client| {
        let who = b.hit(&packet(port, client, SYN));
        assert_eq!(b.hit(&packet(port, client, ACK)), who);
        (client, who)
    };
    clients.map(one).collect()
}

#[test]
fn what_one_director_tells_another_goes_on_there() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&services()).unwrap();
    let (mut out, _) = b.plane.exchange().unwrap();
    assert!(!rings(&out), "nothing happened yet");
    let nat = open(&mut b, 81, 1..40);
    assert!(rings(&out), "flows came");
    let turn = open(&mut b, 82, 100..140);
    open(&mut b, 83, 200..240);
    let full: Vec<(u16, [Frame; 2])> =
        (300..340).map(|n| (n, asked_and_seen(&b, n, SYN))).collect();
    for (client, [_, seen]) in &full {
        assert_eq!(asked_and_seen(&b, *client, ACK)[1].src, seen.src, "its port stays");
    }
    assert_eq!(flows(&changed(&mut out)), 39 + 40 + 40, "hashed ones need no telling");
    assert!(!rings(&out), "told");
    assert_eq!(flows(&changed(&mut out)), 0);

    // A change is told again, together with its neighbours in the bucket at most.
    b.tc(&packet(82, 100, ACK).bytes());
    assert_eq!(flows(&changed(&mut out)), 0, "no change of state");
    b.tc(&packet(82, 100, FIN).bytes());
    assert!(rings(&out));
    let told = changed(&mut out);
    assert!((1..8).contains(&flows(&told)), "{told:?}");

    let all = all_of(&mut out);
    // A director of another version may hash otherwise: it is told of all.
    out.tell_all(true);
    assert_eq!(flows(&all_of(&mut out)), flows(&all) + 40);
    out.tell_all(false);
    let mut listed = services();
    let hashed = listed.services.get_mut("s2").unwrap();
    hashed.sources.insert(("192.0.2.0".parse().unwrap(), 24), false);
    let mut rated = services();
    let rate = Rate { count: 100, seconds: 1 };
    let hashed = rated.services.get_mut("s2").unwrap();
    hashed.rate = Some(ClientRate { rate, burst: 100, prefix: 32 });
    let mut strange = services();
    strange.services.get_mut("s2").unwrap().cookies = Some(rate);
    for (asks, why) in [(listed, "a list"), (rated, "a rate"), (strange, "cookies")] {
        b.plane.apply(&asks).unwrap();
        assert_eq!(
            flows(&all_of(&mut out)),
            flows(&all) + 40,
            "{why} could keep them from going on"
        );
        b.plane.apply(&services()).unwrap();
    }
    let kept = std::thread::spawn(move || {
        let Some(mut b) = elsewhere() else { return };
        let (mut out, mut learner) = b.plane.exchange().unwrap();
        for batch in &all {
            assert_eq!(learner.learn(batch).unwrap(), 0, "every server is known");
        }
        assert_eq!(flows(&changed(&mut out)), 0, "what was told is not told on");
        let loads: u64 = b.plane.counters().unwrap().services["s0"].active;
        assert_eq!(loads, 39, "they weigh as if they were its own");
        for (client, who) in &nat {
            assert_eq!(b.hit(&packet(81, *client, ACK)), *who);
        }
        // Answers are translated without a packet of the client's before.
        for (client, who) in &nat {
            let from = format!("10.0.0.1{}:80", who.trim_start_matches('r'));
            let answer = tcp(&from, &format!("10.0.0.1:{client}"), ACK);
            let (verdict, sent) = b.tc(&answer.bytes());
            assert_eq!((verdict, read(&sent).0), (REDIRECT, at("10.0.0.100:81")), "{client}");
        }
        for (client, who) in &turn {
            assert_eq!(b.hit(&packet(82, *client, ACK)), *who);
        }
        // By full NAT with the port that the server knows, whoever speaks first.
        for (client, [asked, seen]) in &full {
            if client % 2 == 0 {
                assert_eq!(asked_and_seen(&b, *client, ACK)[1].src, seen.src);
            }
            let answer = Frame { src: seen.dst, dst: seen.src, flags: ACK, ..asked.clone() };
            let (verdict, sent) = b.tc(&answer.bytes());
            assert_eq!((verdict, read(&sent)), (REDIRECT, (asked.dst, asked.src, 63)), "{client}");
        }
        let loads = &b.plane.counters().unwrap().services["s1"];
        assert_eq!((loads.active, loads.inactive), (39, 1), "one has ended there");
    });
    kept.join().unwrap();
}

#[test]
fn a_later_word_holds_and_an_earlier_one_does_not() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&services()).unwrap();
    let (mut out, mut learner) = b.plane.exchange().unwrap();
    open(&mut b, 82, 1..2);
    let mut told = changed(&mut out).remove(0);
    assert_eq!(told.flows.len(), 1);
    let state = |b: &mut Bench| {
        let load = b.plane.counters().unwrap().services["s1"];
        (load.active, load.inactive)
    };
    // Half a minute older than what is known here: the flow has not ended.
    told.flows[0].state = nines_abi::STATE_CLOSE;
    told.flows[0].idle_ms = 30_000;
    learner.learn(&told).unwrap();
    assert_eq!(state(&mut b), (1, 0));
    std::thread::sleep(Duration::from_millis(60));
    told.flows[0].idle_ms = 0;
    learner.learn(&told).unwrap();
    assert_eq!(state(&mut b), (0, 1));

    // Of a server that is not there, and of one whose flow was told of by mistake: nobody's.
    told.servers[0].1 = "10.0.0.77:80".parse().unwrap();
    told.flows[0].client = "10.0.0.1:999".parse().unwrap();
    assert_eq!(learner.learn(&told).unwrap(), 1);
    told.flows[0].server = 99;
    assert_eq!(learner.learn(&told).unwrap(), 1);
    assert_eq!(state(&mut b), (0, 1));

    // Idle for longer than its state allows: it is not there.
    let (mut out, _) = b.plane.exchange().unwrap();
    open(&mut b, 82, 7..8);
    let mut told = changed(&mut out).remove(0);
    for flow in &mut told.flows {
        flow.client.set_port(8);
        flow.idle_ms = 1_000_000;
    }
    learner.learn(&told).unwrap();
    let who = b.hit(&packet(82, 8, SYN));
    assert!(who.starts_with('r'), "scheduled anew: {who}");
}

#[test]
fn clients_that_are_remembered_are_told() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&services()).unwrap();
    let (mut out, _) = b.plane.exchange().unwrap();
    // By turn the second one's would be another's.
    let who = open(&mut b, 84, 1..2).remove(&1).unwrap();
    let mut all = all_of(&mut out);
    let clients_only = all.iter_mut().map(|batch| {
        batch.flows.retain(|f| f.state == 0);
        batch.flows.len()
    });
    assert_eq!(clients_only.sum::<usize>(), 1);
    let kept = std::thread::spawn(move || {
        let Some(mut b) = elsewhere() else { return };
        let (_, mut learner) = b.plane.exchange().unwrap();
        for batch in &all {
            learner.learn(batch).unwrap();
        }
        for client in 50..60 {
            let syn = tcp(&format!("10.0.0.9:{client}"), "10.0.0.100:84", SYN);
            assert_eq!(b.hit(&syn), who, "the same /24");
        }
    });
    kept.join().unwrap();
}

#[test]
fn flows_that_live_are_told_again_by_who_answers_only() {
    use nines_dataplane::{Guard as _, process::boot_time};
    let Some(mut b) = bench() else { return };
    b.plane.apply(&services()).unwrap();
    let (mut out, _) = b.plane.exchange().unwrap();
    open(&mut b, 82, 1..5);
    changed(&mut out);
    assert_eq!(flows(&gathered(|each| out.alive(30_000, each))), 4, "nobody guards the address");
    let vip = "10.0.0.100".parse().unwrap();
    b.guard.cover(&[(vip, false)]).unwrap();
    assert_eq!(flows(&gathered(|each| out.alive(30_000, each))), 0, "another director answers");
    b.guard.set(vip, boot_time().plus(Millis(5_000))).unwrap();
    assert_eq!(flows(&gathered(|each| out.alive(30_000, each))), 4);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(flows(&gathered(|each| out.alive(100, each))), 0, "silent for longer");
    assert_eq!(b.tc(&[0; 64]).0, NEXT);
}

/// What lives is told again and again; what is told late ends nothing that lives.
#[test]
fn full_nat_is_told_again_and_again() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&services()).unwrap();
    let (mut out, _) = b.plane.exchange().unwrap();
    let [asked, seen] = asked_and_seen(&b, 300, SYN);
    asked_and_seen(&b, 300, ACK);
    let told = changed(&mut out).remove(0);
    assert_eq!(told.flows.len(), 1);
    std::thread::spawn(move || {
        let Some(mut b) = elsewhere() else { return };
        let (_, mut learner) = b.plane.exchange().unwrap();
        let both_ways = |b: &Bench, what: &str| {
            assert_eq!(asked_and_seen(b, 300, ACK)[1].src, seen.src, "{what}");
            let answer = Frame { src: seen.dst, dst: seen.src, flags: ACK, ..asked.clone() };
            let (verdict, sent) = b.tc(&answer.bytes());
            assert_eq!((verdict, read(&sent)), (REDIRECT, (asked.dst, asked.src, 63)), "{what}");
        };
        for n in 0..4 {
            learner.learn(&told).unwrap();
            both_ways(&b, &format!("told {n} times"));
            // Heard of later each time.
            std::thread::sleep(Duration::from_millis(40));
        }
        // Another client's, of long ago, by the same port.
        let mut late = told.clone();
        late.flows[0].client.set_port(999);
        late.flows[0].idle_ms = 30_000;
        learner.learn(&late).unwrap();
        both_ways(&b, "after a late word");
        late.flows[0].idle_ms = 0;
        std::thread::sleep(Duration::from_millis(40));
        learner.learn(&late).unwrap();
        assert_ne!(asked_and_seen(&b, 300, ACK)[1].src, seen.src, "another one has it by now");
    })
    .join()
    .unwrap();
}
