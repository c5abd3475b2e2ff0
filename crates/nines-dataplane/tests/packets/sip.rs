//! Persistence by SIP's calls (persistence engine sip), and how they are told.

use nines_dataplane::{DataPlane as _, flow_sync::Batch};
use nines_model::{Forward, ForwardingTable, Millis, Persist, Proto, Scheduler};

use super::{Bench, bench, build::*, service, table, ways::*};

fn message(from: &str, to: &str, lines: &[&str]) -> Frame {
    let mut text = String::from("INVITE sip:bob@example.org SIP/2.0\r\n");
    for line in lines {
        text += &format!("{line}\r\n");
    }
    text += "\r\nv=0\r\n";
    Frame { payload: text.into_bytes(), ..udp(from, to) }
}

fn pool(vip: &str, single: bool) -> ForwardingTable {
    let servers: Vec<(String, Forward)> = (11..14)
        .map(|n| {
            let v6 = vip.starts_with('[');
            let addr =
                if v6 { format!("[2001:db8::{n}]:5060") } else { format!("10.0.0.{n}:5060") };
            (addr, Forward::Dr)
        })
        .collect();
    let servers: Vec<(&str, Forward)> = servers.iter().map(|(a, f)| (a.as_str(), *f)).collect();
    let mut all = table(vec![service(vip, Proto::Udp, Scheduler::Rr, &servers)]);
    let sip = all.services.get_mut("s0").unwrap();
    let prefix = if vip.starts_with('[') { 128 } else { 32 };
    (sip.sip, sip.one_packet) = (true, single);
    sip.persist = Some(Persist { time: Millis(60_000), prefix });
    all
}

fn to_three(b: &mut Bench, mut each: impl FnMut(u16) -> Frame) -> Vec<String> {
    let mut of: Vec<String> = (0..3).map(|n| b.hit(&each(n))).collect();
    of.sort();
    of
}

#[test]
fn a_call_stays_with_its_server_whichever_datagram_brings_it() {
    let Some(mut b) = bench() else { return };
    neighbours();
    for (client, vip, single) in [
        ("10.0.0.1", "10.0.0.100:5060", true),
        ("10.0.0.1", "10.0.0.100:5060", false),
        ("[2001:db8::1]", "[2001:db8::100]:5060", true),
    ] {
        b.plane.apply(&pool(vip, single)).unwrap();
        // One port, as proxies use: without `single` it would be one flow.
        let mut next = 20_000 + u16::from(single) * 1_000;
        let mut from = |moves: bool| {
            next += u16::from(moves || !single);
            format!("{client}:{next}")
        };
        let via = "Via: SIP/2.0/UDP pc33.example.org;branch=z9hG4bK776asdhds";
        let calls = to_three(&mut b, |n| {
            message(&from(false), vip, &[via, &format!("Call-ID: call{n}@example.org")])
        });
        assert_eq!(calls, ["r1", "r2", "r3"], "calls of one client are spread");
        // However it is written, and from whichever of the client's ports.
        let of = b.hit(&message(&from(false), vip, &[via, "Call-ID: call1@example.org"]));
        for line in [
            "Call-ID: call1@example.org",
            "call-id:call1@example.org",
            "CALL-ID \t:  call1@example.org",
            "i: call1@example.org",
            "I:call1@example.org",
        ] {
            for moves in [false, true] {
                let max = "Max-Forwards: 70";
                let said = b.hit(&message(&from(moves), vip, &[max, line, via]));
                assert_eq!(said, of, "{line}, another port: {moves}");
            }
        }
        // As far as a wire of 1,500 bytes goes.
        let long = format!("Route: {}", "x".repeat(1_380 - 35));
        let far = message(&from(true), vip, &[&long, "i: call1@example.org"]);
        assert!(far.payload.len() > 1_400);
        assert_eq!(b.hit(&far), of, "far behind");
        // Another client's call of the same name is another.
        let other = client.replace('1', "9").replace("90", "10").replace("200", "2001");
        let other = if client.starts_with('[') { "[2001:db8::9]".to_owned() } else { other };
        let spread = to_three(&mut b, |n| {
            message(&format!("{other}:{}", 5_000 + n), vip, &[&format!("i: call{n}@example.org")])
        });
        assert_eq!(spread, ["r1", "r2", "r3"]);
        // Of no call: the client stays, whatever it sends.
        let plain = b.hit(&Frame { payload: b"\r\n\r\n".to_vec(), ..udp(&from(true), vip) });
        for lines in [
            &["Info: call1@example.org", "Call-Info: <sip:x>", "X-Call-ID: call1@example.org"][..],
            &["Call-ID"],
            &["Call-ID:"],
            &[" i: folded"],
        ] {
            let said = b.hit(&message(&from(true), vip, lines));
            assert_eq!(said, plain, "{lines:?}");
        }
        let cut =
            Frame { payload: b"INVITE x SIP/2.0\r\ni: call1@ex".to_vec(), ..udp(&from(true), vip) };
        assert_eq!(b.hit(&cut), plain, "a value that does not end is none");
        assert!(b.plane.observe().unwrap().is_empty());
        b.plane.apply(&ForwardingTable::default()).unwrap();
    }
}

#[test]
fn another_director_knows_the_calls() {
    let Some(mut b) = bench() else { return };
    neighbours();
    let (vip, all) = ("10.0.0.100:5060", pool("10.0.0.100:5060", true));
    b.plane.apply(&all).unwrap();
    let call = |n: u16| message("10.0.0.1:5060", vip, &[&format!("Call-ID: told{n}@example.org")]);
    let of: Vec<String> = (0..20).map(|n| b.hit(&call(n))).collect();
    let (mut out, _) = b.plane.exchange().unwrap();
    let mut told = Vec::new();
    out.remembered(&mut |batch| told.push(batch)).unwrap();
    let mut alone = Vec::new();
    out.clients_alone(60_000, &mut |batch| alone.push(batch)).unwrap();
    let calls = |of: &[Batch]| of.iter().map(|b| b.flows.len()).sum::<usize>();
    assert_eq!((calls(&told), calls(&alone)), (20, 20), "no flow says it of single datagrams");
    assert!(told.iter().flat_map(|b| &b.flows).all(|f| f.call != 0 && f.state == 0));
    // A table that was emptied is another director's.
    b.plane.apply(&ForwardingTable::default()).unwrap();
    b.plane.apply(&all).unwrap();
    let (_, mut learns) = b.plane.exchange().unwrap();
    for batch in &told {
        assert_eq!(learns.learn(batch).unwrap(), 0);
    }
    // A turn in between, so that only what is remembered gives the same servers.
    b.hit(&call(999));
    let again: Vec<String> = (0..20).map(|n| b.hit(&call(n))).collect();
    assert_eq!(again, of);
}
