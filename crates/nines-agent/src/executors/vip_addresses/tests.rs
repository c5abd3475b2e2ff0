//! Fights, flickers, and what the address thread does on a machine in memory.

use std::sync::Mutex;

use nines_dataplane::fake::addresses::FakeAddresses;
use tokio::sync::Notify;

use super::*;
use crate::{
    core_thread::{self, Inbox},
    executors::addresses::{self, AddressChanges, AddressHandle},
    own_status::OwnStatus,
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_vip_is_back_within_a_second_and_a_fight_is_slowed_down() {
    let (start, mut taken) = (Instant::now(), Taken::default());
    assert_eq!(taken.may(start), Err(start + PAUSE), "a flush goes on");
    assert_eq!(taken.may(start + PAUSE), Ok(()));
    // Taken again at once, ten times a second and more.
    let (mut now, mut puts) = (start + PAUSE, 0);
    while now < start + ms(9_000) {
        if taken.may(now).is_ok() {
            puts += 1;
            taken.back.push(now);
            taken.missing = None;
        }
        now += ms(10);
    }
    assert!((17..=22).contains(&puts), "{puts} times in 9 s");
    assert!(taken.is_fight());
    // Whatever came before, a second is enough.
    taken.missing = None;
    let _ = taken.may(now);
    assert_eq!(taken.may(now + ms(999)), Ok(()));
    taken.missing = None;
    let _ = taken.may(now + 2 * RECENT);
    assert!(!taken.is_fight(), "it is over");
}

#[test]
fn a_flicker_is_no_loss_and_a_loose_cable_no_recovery() {
    let start = Instant::now();
    let down = || Some("eth1 has no carrier".to_owned());
    let mut card = Fitness::default();
    assert_eq!(card.see(start, None), None);
    assert_eq!(card.see(start + ms(1_000), down()), Some(start + ms(1_200)));
    assert_eq!(card.see(start + ms(1_100), None), None);
    assert_eq!(card.told, None, "a flicker");
    card.see(start + ms(2_000), down());
    card.see(start + ms(2_100), Some("eth1 is down".to_owned()));
    assert_eq!(card.see(start + ms(2_200), Some("eth1 is down".to_owned())), None);
    assert_eq!(card.told.as_deref(), Some("eth1 is down"));
    // The first time a second of carrier is enough.
    assert_eq!(card.see(start + ms(3_000), None), Some(start + ms(4_000)));
    assert_eq!(card.see(start + ms(4_000), None), None);
    assert_eq!(card.told, None);
    // Then ten.
    card.see(start + ms(5_000), down());
    card.see(start + ms(5_200), down());
    assert!(card.told.is_some());
    assert_eq!(card.see(start + ms(6_000), None), Some(start + ms(16_000)));
    assert!(card.told.is_some());
}

#[test]
fn an_agent_that_starts_knows_at_once() {
    let mut card = Fitness::default();
    card.see(Instant::now(), Some("eth1 is down".to_owned()));
    assert_eq!(card.told.as_deref(), Some("eth1 is down"));
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 100));
/// The MAC address of the fake's interface 7.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// A machine with `lo` and one card in the VIP's subnet.
fn machine() -> FakeAddresses {
    let fake = FakeAddresses::default();
    let mut machine = fake.machine();
    machine.plug(1, "lo", &[(ip("127.0.0.1"), 8)]);
    machine.interfaces[0].ethernet = false;
    machine.plug(7, "eth0", &[(ip("10.0.0.1"), 24)]);
    drop(machine);
    fake
}

fn on(fake: &FakeAddresses, vip: IpAddr) -> Vec<u32> {
    fake.machine().addresses().filter(|(_, addr, _)| *addr == vip).map(|(at, ..)| at).collect()
}

fn places(interface: Option<&str>) -> Places {
    Arc::new(Mutex::new([(VIP, (32, interface.map(str::to_owned)))].into()))
}

#[test]
fn an_address_that_is_refused_is_not_held() {
    let (fake, places) = (machine(), places(None));
    fake.machine().refused.insert(VIP, "Invalid argument".into());
    let mut kept = VipAddresses::on(Box::new(fake.clone()), false);
    let why = kept.up(VIP, &places).unwrap_err();
    assert!(why.contains("cannot add 10.0.0.100") && why.contains("Invalid argument"), "{why}");
    kept.announce(VIP).unwrap();
    assert_eq!((on(&fake, VIP), fake.machine().announced.len()), (vec![], 0));
    fake.machine().refused.clear();
    kept.up(VIP, &places).unwrap();
    assert_eq!(on(&fake, VIP), [7]);
}

#[test]
fn an_address_that_is_there_already_is_held_and_announced_once() {
    let (fake, places) = (machine(), places(None));
    fake.machine().interfaces[1].addresses.push((VIP, 32));
    let mut kept = VipAddresses::on(Box::new(fake.clone()), false);
    kept.up(VIP, &places).unwrap();
    kept.announce(VIP).unwrap();
    assert_eq!((on(&fake, VIP), fake.machine().announced.clone()), (vec![7], vec![(7, VIP, MAC)]));
    kept.down(VIP).unwrap();
    kept.down(VIP).expect("not there is success");
    assert!(on(&fake, VIP).is_empty());
}

#[test]
fn an_address_that_cannot_be_taken_off_is_still_known() {
    let (fake, places) = (machine(), places(None));
    let mut kept = VipAddresses::on(Box::new(fake.clone()), false);
    kept.up(VIP, &places).unwrap();
    fake.machine().stuck.insert(VIP, "Operation not permitted".into());
    assert!(kept.down(VIP).unwrap_err().contains("not permitted"));
    fake.machine().stuck.clear();
    kept.down(VIP).unwrap();
    assert!(on(&fake, VIP).is_empty());
}

#[test]
fn what_an_earlier_process_left_goes_from_every_card_and_stays_on_lo() {
    let fake = machine();
    fake.machine().plug(8, "eth1", &[(VIP, 24)]);
    for at in [0, 1] {
        fake.machine().interfaces[at].addresses.push((VIP, 32));
    }
    VipAddresses::on(Box::new(fake.clone()), false).down(VIP).unwrap();
    assert_eq!(on(&fake, VIP), [1]);
}

#[test]
fn many_vips_list_the_interfaces_once_and_a_new_card_again() {
    let (fake, places) = (machine(), places(Some("eth1")));
    let mut kept = VipAddresses::on(Box::new(fake.clone()), false);
    for n in 2..=99 {
        kept.up(IpAddr::from([10, 0, 0, n]), &places).unwrap();
    }
    assert!(fake.machine().listed < 25, "{} times", fake.machine().listed);
    assert!(kept.up(VIP, &places).unwrap_err().contains("interface eth1 is missing"));
    kept.up(IpAddr::from([10, 0, 0, 201]), &places).unwrap();
    // It was listed a moment ago, without that.
    fake.machine().plug(8, "eth1", &[]);
    kept.up(VIP, &places).unwrap();
    assert_eq!(on(&fake, VIP), [8]);
}

/// The address thread with a machine of its own.
struct Thread {
    fake: FakeAddresses,
    handle: AddressHandle,
    changes: AddressChanges,
    core: Inbox,
    shown: Arc<Mutex<OwnStatus>>,
    _poll: mio::Poll,
}

impl Thread {
    fn start(witness: bool) -> Self {
        let (fake, shown) = (machine(), Arc::new(Mutex::new(OwnStatus::default())));
        let (poll, core, events) = core_thread::channel().unwrap();
        let (handle, asked) = addresses::channel();
        let (kept, showing) =
            (VipAddresses::on(Box::new(fake.clone()), witness), Arc::clone(&shown));
        std::thread::spawn(move || {
            let (facts, log) = (Notify::new(), Logger::start(std::io::sink()));
            addresses::run(kept, &asked, &places(None), &showing, &facts, &core, &log);
        });
        let changes = handle.changes();
        Self { fake, handle, changes, core: events, shown, _poll: poll }
    }

    fn up(&mut self, id: u64) {
        assert!(self.changes.change(id, VIP, true).is_none());
    }

    fn look(&self) {
        assert!(self.handle.look(), "the thread has ended");
    }

    fn event(&self) -> Event {
        self.core.event(Duration::from_secs(30)).expect("no event")
    }

    fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !done(self) {
            assert!(Instant::now() < end, "{what}: not within 30 s");
            std::thread::sleep(ms(5));
        }
    }
}

#[test]
fn each_request_is_answered_in_order_failures_included() {
    let mut thread = Thread::start(false);
    let refused = ip("10.0.0.101");
    thread.fake.machine().refused.insert(refused, "Invalid argument".into());
    thread.fake.machine().interfaces[1].up = false;
    let answer = |thread: &Thread| match thread.event() {
        Event::Done { id, result } => (id, result.err().unwrap_or_default()),
        other => panic!("{other:?}"),
    };
    thread.up(1);
    assert_eq!(answer(&thread), (1, String::new()));
    thread.changes.change(2, refused, true);
    let why = "cannot add 10.0.0.101 to interface 7: Invalid argument".to_owned();
    assert_eq!(answer(&thread), (2, why));
    thread.changes.announce(3, VIP);
    let (id, why) = answer(&thread);
    assert!(id == 3 && why.contains("Network is down"), "{why}");
    thread.fake.machine().interfaces[1].up = true;
    thread.changes.announce(4, VIP);
    assert_eq!(answer(&thread), (4, String::new()));
    thread.changes.change(5, VIP, false);
    assert_eq!(answer(&thread), (5, String::new()));
    assert_eq!(thread.fake.machine().announced, [(7, VIP, MAC)]);
    assert!(on(&thread.fake, VIP).is_empty());
}

#[test]
fn what_somebody_takes_away_is_put_back_announced_and_told() {
    let mut thread = Thread::start(false);
    thread.up(1);
    assert!(matches!(thread.event(), Event::Done { result: Ok(()), .. }));
    assert!(thread.fake.machine().take_off(VIP));
    thread.look();
    let Event::Restored { vips, how } = thread.event() else { panic!("not restored") };
    assert_eq!((vips, how.as_str()), (vec![VIP], "taken off eth0 by another program"));
    assert_eq!(on(&thread.fake, VIP), [7]);
    assert_eq!(thread.fake.machine().announced, [(7, VIP, MAC)]);
    // Twice more is a fight, which people are told of.
    for _ in 0..2 {
        assert!(thread.fake.machine().take_off(VIP));
        thread.look();
        assert!(matches!(thread.event(), Event::Restored { .. }));
    }
    thread.until("the fight is told", |t| !t.shown.lock().unwrap().fight.is_empty());
    let fight = thread.shown.lock().unwrap().fight.clone();
    assert!(fight.contains("took 10.0.0.100 off eth0 3 times"), "{fight}");
}

#[test]
fn a_card_that_is_made_again_gets_its_vip_back_and_announces_by_the_new_one() {
    let mut thread = Thread::start(false);
    thread.up(1);
    assert!(matches!(thread.event(), Event::Done { result: Ok(()), .. }));
    thread.fake.machine().interfaces.retain(|i| i.index != 7);
    thread.look();
    thread.until("it looked", |t| t.fake.machine().listed >= 3);
    thread.fake.machine().plug(9, "eth0", &[(ip("10.0.0.1"), 24)]);
    thread.look();
    let Event::Restored { how, .. } = thread.event() else { panic!("not restored") };
    assert_eq!(how, "lost with eth0, which was made again");
    assert_eq!(on(&thread.fake, VIP), [9]);
    assert_eq!(thread.fake.machine().announced, [(9, VIP, [2, 0, 0, 0, 0, 9])]);
}

#[test]
fn a_director_without_carrier_is_unfit_and_a_witness_is_not_asked() {
    for witness in [false, true] {
        let thread = Thread::start(witness);
        thread.until("it looked at its start", |t| t.fake.machine().listed >= 1);
        thread.fake.machine().interfaces[1].carrier = false;
        thread.look();
        if witness {
            std::thread::sleep(LOST * 2);
            assert_eq!(thread.shown.lock().unwrap().unfit, []);
        } else {
            let unfit = vec![("eth0 has no carrier".to_owned(), vec![VIP])];
            thread.until("unfit", |t| t.shown.lock().unwrap().unfit == unfit);
        }
    }
}
