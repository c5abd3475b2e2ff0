//! What nobody serves is answered, as IPVS does, to each client as often as the kernel would.

use nines_dataplane::{DataPlane as _, ebpf::testrun::Outcome};
use nines_model::{Forward, ForwardingTable, Proto, Scheduler, ServerState, TableService, Traffic};

use super::{Bench, REDIRECT, REFUSED, SHOT, bench, both_hooks, build::*, service, table};

const DETOUR: [u8; 6] = nines_abi::DETOUR_MAC;

fn nobody(proto: Proto, vip: &str, server: &str, scheduler: Scheduler) -> ForwardingTable {
    let mut all = table(vec![service(vip, proto, scheduler, &[(server, Forward::Dr)])]);
    all.services.get_mut("s0").unwrap().servers.get_mut("r1").unwrap().state = ServerState::Down;
    all
}

fn ask(b: &Bench, frame: &Frame) -> Outcome {
    b.plane.test_run("nines_tc_ingress", &frame.bytes(), 1).unwrap()
}

/// Asserts that this is an ICMP error of this type and code about the frame, from the VIP to the
/// client, with right checksums.
fn is_about(frame: &Frame, answer: &[u8], [kind, code]: [u8; 2]) {
    let asked = frame.bytes();
    assert_eq!(
        (&answer[0..6], &answer[6..12]),
        (&asked[6..12], &asked[0..6]),
        "back where it came from"
    );
    let v4 = frame.src.0.is_ipv4();
    let (icmp, addresses) = if v4 { (34, 26..34) } else { (54, 22..54) };
    let half = addresses.len() / 2;
    let (from, to) = answer[addresses.clone()].split_at(half);
    let (src, dst) = asked[addresses].split_at(half);
    assert_eq!((from, to), (dst, src), "in the VIP's name, to the client");
    assert_eq!(answer[icmp..icmp + 2], [kind, code]);
    let quoted = &answer[icmp + 8..];
    assert_eq!(*quoted, asked[14..14 + quoted.len()]);
    assert!(quoted.len() >= if v4 { 28 } else { 48 }, "ports and number are in it");
    let body = &answer[icmp..];
    if v4 {
        assert_eq!(usize::from(u16::from_be_bytes([answer[16], answer[17]])), answer.len() - 14);
        assert_eq!((fold(&answer[14..34]), fold(body)), (0xffff, 0xffff));
    } else {
        assert_eq!(usize::from(u16::from_be_bytes([answer[18], answer[19]])), body.len());
        let pseudo = [&answer[22..54], &(body.len() as u32).to_be_bytes(), &[0, 0, 0, 58], body];
        assert_eq!(fold(&pseudo.concat()), 0xffff);
    }
}

#[test]
fn a_client_whom_nobody_serves_hears_so() {
    let Some(mut b) = both_hooks() else { return };
    let (v4, v6) = ("10.0.0.100:80", "[2001:db8::100]:80");
    let (r4, r6) = ("10.0.0.11:80", "[2001:db8::11]:80");
    let mut client = 0;
    for scheduler in [Scheduler::Rr, Scheduler::Wlc, Scheduler::Maglev, Scheduler::Lblc] {
        client += 1;
        let four = &format!("10.0.{client}.1:4000")[..];
        let six = &format!("[2001:db8::{client}]:4000")[..];
        for (frame, proto, server) in [
            (tcp(four, v4, SYN), Proto::Tcp, r4),
            (Frame { options: 2, ..tcp(four, v4, SYN) }, Proto::Tcp, r4),
            (tcp(six, v6, SYN), Proto::Tcp, r6),
            (Frame { payload: Vec::new(), ..udp(four, v4) }, Proto::Udp, r4),
            (Frame { payload: vec![1; 900], ..udp(six, v6) }, Proto::Udp, r6),
        ] {
            let vip = if frame.src.0.is_ipv4() { v4 } else { v6 };
            b.plane.apply(&nobody(proto, vip, server, scheduler)).unwrap();
            let what = format!("{scheduler} {proto} {vip} {} bytes", frame.payload.len());
            let before = b.plane.counters().unwrap().drops["no-server"];
            assert_eq!(b.xdp(&frame.bytes()), (2, frame.bytes()), "{what}: tc says it");
            let out = ask(&b, &frame);
            let long = frame.options != 0 && frame.payload.len() < 16;
            if long {
                assert_eq!(out.verdict, SHOT, "{what}: less than what is quoted of such headers");
                continue;
            }
            assert_eq!(out.verdict, REDIRECT, "{what}");
            is_about(&frame, &out.packet, if vip == v4 { [3, 3] } else { [1, 4] });
            assert_eq!(b.plane.counters().unwrap().drops["no-server"], before + 1, "{what}");
        }
    }
}

/// Nor does an answer beget one, and nobody speaks for addresses that are not his.
#[test]
fn what_must_not_be_answered_is_not() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&nobody(Proto::Tcp, "10.0.0.100:80", "10.0.0.11:80", Scheduler::Rr)).unwrap();
    assert_eq!(b.tc(&tcp("10.0.0.1:1", "10.0.0.100:80", RST).bytes()).0, SHOT);
    let mut marked = TableService::new(Traffic::Marked { mark: 7, v6: false }, Scheduler::Rr);
    let mut all = nobody(Proto::Tcp, "10.0.0.100:80", "10.0.0.11:80", Scheduler::Rr);
    marked.servers = all.services["s0"].servers.clone();
    all.services.insert("marked".into(), marked);
    b.plane.apply(&all).unwrap();
    for to in ["192.0.2.7:80", "10.0.0.100:81"] {
        let frame = Frame { mac: DETOUR, ..tcp("10.0.0.1:2", to, SYN) };
        let out = b.plane.test_run_marked("nines_tc_ingress", &frame.bytes(), 7).unwrap();
        assert_eq!(out.verdict, SHOT, "{to} by its mark");
    }
}

#[test]
fn floods_are_answered_so_often() {
    let Some(mut b) = bench() else { return };
    b.plane.apply(&nobody(Proto::Udp, "10.0.0.100:80", "10.0.0.11:80", Scheduler::Rr)).unwrap();
    let processors = std::thread::available_parallelism().unwrap().get() as u64;
    let began = std::time::Instant::now();
    let answered = |from: &dyn Fn(u32) -> String| {
        let is = |n: &u32| b.tc(&udp(&from(*n), "10.0.0.100:80").bytes()).0 == REFUSED;
        (0..2_000).filter(is).count() as u64
    };
    let one = answered(&|n| format!("10.0.0.1:{}", 1_000 + n));
    let most = 7 + began.elapsed().as_secs();
    assert!((6..=most).contains(&one), "one client: {one}, {most} at most");
    let many = answered(&|n| format!("10.1.{}.{}:7", n / 250, 1 + n % 250));
    let most = processors * (51 + began.elapsed().as_millis() as u64 + 1);
    assert!((40..=most).contains(&many), "many clients: {many}, {most} at most");
}
