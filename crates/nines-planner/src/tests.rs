use nines_model::{Vip, config};
use proptest::prelude::*;

use super::*;

fn spec() -> Spec {
    config::parse(
        "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\nlb2 = \"10.0.0.3\"\nlb3 = \"10.0.0.4\"\n\
         wit = { addresses = \"10.0.0.5\", role = \"witness\" }\n\
         [vip.a]\naddress = \"10.0.0.100\"\nprefer = [\"lb2\"]\n[vip.b]\naddress = \"10.0.0.101\"\n",
    )
    .unwrap()
}

/// The same, and 10.0.0.102 goes with the first.
fn with_source() -> Spec {
    let mut spec = spec();
    let source = Vip { with: Some(vip(100)), prefer: Vec::new(), ..spec.vips[&vip(100)].clone() };
    spec.vips.insert(vip(102), source);
    spec
}

fn failed(vip: IpAddr) -> (IpAddr, Unfit) {
    (vip, Unfit::Failed)
}

fn vip(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

/// "lb1+ lb2" reads: lb1 alive and ready, lb2 silent; flags: s standby, u unable, l leaving, n not
/// ready, b without lb1's flows, j joining, v without a vote for good, d running twice, h not heard
/// just now.
fn seen(nodes: &str, held: &[(u8, &str)]) -> Observed {
    let mut observed = Observed::default();
    for word in nodes.split(' ') {
        let (name, flags) = word.split_at(3);
        let view = NodeView {
            alive: flags.contains('+'),
            heard: flags.contains('+') && !flags.contains('h'),
            doubt: flags.contains('d').then_some(Doubt::RunsTwice),
            joining: flags.contains('j'),
            no_vote: flags.contains('v'),
            ready: !flags.contains(['n', 'h']),
            standby: flags.contains('s'),
            leaving: flags.contains('l'),
            unable: if flags.contains('u') {
                [vip(100), vip(101)].map(failed).into()
            } else {
                [].into()
            },
            behind: flags.contains('b').then(|| "lb1".to_owned()).into_iter().collect(),
        };
        observed.nodes.insert(name.into(), view);
    }
    for (n, node) in held {
        let held = match node.split_once('>') {
            Some((from, to)) => Held::Releasing(from.into(), to.into()),
            None => Held::By((*node).into()),
        };
        observed.vips.insert(vip(*n), held);
    }
    observed
}

fn told(observed: &Observed) -> Vec<String> {
    told_of(&spec(), observed)
}

fn told_of(spec: &Spec, observed: &Observed) -> Vec<String> {
    let made = plan(spec, observed);
    check(spec, observed, &made).unwrap();
    made.steps
        .iter()
        .map(|(step, why)| match step {
            Step::Give(vip, to) => format!("give {vip} to {to}: {why}"),
            Step::Move(vip, from, to) => format!("move {vip} {from}>{to}: {why}"),
            Step::Blocked(vip) => format!("blocked {vip}: {why}"),
        })
        .collect()
}

#[test]
fn plans_read_aloud() {
    assert_eq!(
        told(&seen("lb1+ lb2+ lb3+", &[])),
        [
            "give 10.0.0.100 to lb2: no director held it",
            "give 10.0.0.101 to lb1: no director held it"
        ]
    );
    let both_on_1 = [(100, "lb1"), (101, "lb1")];
    assert!(told(&seen("lb1+ lb2+", &both_on_1)).is_empty(), "no failback");
    assert!(told(&seen("lb1+n lb2+", &both_on_1)).is_empty(), "not ready for a moment");
    assert_eq!(
        told(&seen("lb1 lb2+ lb3+", &both_on_1)),
        ["give 10.0.0.100 to lb2: lb1 is silent", "give 10.0.0.101 to lb3: lb1 is silent"]
    );
    assert_eq!(
        told(&seen("lb1+s lb2+ lb3+", &[(100, "lb1"), (101, "lb3")])),
        ["move 10.0.0.100 lb1>lb2: lb1 is on standby"]
    );
    assert_eq!(
        told(&seen("lb1+u lb2+n lb3", &[(100, "lb1"), (101, "lb1")]))[0],
        "blocked 10.0.0.100: lb1 could not take it, but lb2 is not ready, lb3 is silent"
    );
    assert!(told(&seen("lb1+ lb2+", &[(100, "lb1>lb2"), (101, "lb1")])).is_empty(), "under way");
    assert_eq!(
        told(&seen("lb1 lb2+", &[(100, "lb1>lb2"), (101, "lb2")])),
        ["give 10.0.0.100 to lb2: lb1 is silent"]
    );
    let mut move_request = seen("lb1+ lb2+ lb3+", &both_on_1);
    move_request.move_requests.insert(vip(100), "lb3".into());
    assert_eq!(told(&move_request), ["move 10.0.0.100 lb1>lb3: an operator asked for it"]);
}

#[test]
fn a_source_goes_where_its_vip_goes() {
    let told = |observed: &Observed| told_of(&with_source(), observed);
    assert_eq!(
        told(&seen("lb1+ lb2+ lb3+", &[(101, "lb2")])),
        [
            "give 10.0.0.100 to lb2: no director held it",
            "give 10.0.0.102 to lb2: 10.0.0.100 is on lb2"
        ],
        "not where there is least"
    );
    // A takeover, a standby and a move take it along at once.
    let all_on_1 = [(100, "lb1"), (101, "lb1"), (102, "lb1")];
    assert_eq!(
        told(&seen("lb1 lb2+ lb3+", &all_on_1)),
        [
            "give 10.0.0.100 to lb2: lb1 is silent",
            "give 10.0.0.101 to lb3: lb1 is silent",
            "give 10.0.0.102 to lb2: 10.0.0.100 is on lb2",
        ]
    );
    let mut move_request = seen("lb1+ lb2+ lb3+", &all_on_1);
    move_request.move_requests.insert(vip(100), "lb3".into());
    move_request.move_requests.insert(vip(102), "lb2".into());
    assert_eq!(
        told(&move_request),
        [
            "move 10.0.0.100 lb1>lb3: an operator asked for it",
            "move 10.0.0.102 lb1>lb3: 10.0.0.100 is on lb3",
        ]
    );
    // It joins where it was left behind, once connections are there; it does not pull its VIP.
    assert_eq!(
        told(&seen("lb1+ lb2+ lb3+", &[(100, "lb1"), (101, "lb1"), (102, "lb3")])),
        ["move 10.0.0.102 lb3>lb1: 10.0.0.100 is on lb1"]
    );
    let apart = [(100, "lb2"), (101, "lb1"), (102, "lb1")];
    assert!(told(&seen("lb1+ lb2+b lb3+", &apart)).is_empty(), "lb2 has not got lb1's flows");
    assert!(told(&seen("lb1+ lb2+n lb3+", &apart)).is_empty(), "lb2 is not ready for a moment");
    assert_eq!(
        told(&seen("lb1+ lb2+ lb3+", &[(100, "lb1>lb2"), (101, "lb1"), (102, "lb1")])),
        ["move 10.0.0.102 lb1>lb2: 10.0.0.100 is on lb2"]
    );
    // Not ready for a moment is no reason to leave connections behind.
    assert!(
        told(&seen("lb1+n lb2+b lb3+", &[(100, "lb2"), (101, "lb1"), (102, "lb1")])).is_empty()
    );
    // Where it could not start it is tried again; it goes nowhere else, and never back and forth.
    let mut unable = seen("lb1+ lb2+ lb3+", &all_on_1);
    unable.nodes.get_mut("lb1").unwrap().unable.extend([failed(vip(102))]);
    assert!(told(&unable).is_empty());
    unable.vips.remove(&vip(102));
    assert_eq!(
        told(&unable),
        ["blocked 10.0.0.102: 10.0.0.100 is on lb1, which could not take it"]
    );
    let observed = seen("lb1+ lb2+", &[(100, "lb1"), (101, "lb1"), (102, "lb2")]);
    let apart = check(&with_source(), &observed, &Plan::default()).unwrap_err();
    assert!(apart.contains("rule 6"), "{apart}");
}

#[test]
fn the_checker_finds_bad_plans() {
    let observed = seen("lb1+ lb2+s", &[(100, "lb1")]);
    let bad = |step: Step| {
        let steps = vec![(step, Why::Asked)];
        check(&spec(), &observed, &Plan { steps }).unwrap_err()
    };
    assert!(bad(Step::Give(vip(100), "lb1".into())).contains("rule 4"));
    assert!(bad(Step::Give(vip(101), "lb2".into())).contains("rule 3"));
    assert!(bad(Step::Move(vip(100), "lb1".into(), "lb1".into())).contains("rule 1"));
    assert!(bad(Step::Blocked(vip(101))).contains("could take it"));
    assert!(check(&spec(), &observed, &Plan::default()).unwrap_err().contains("silent"));
}

#[test]
fn a_move_waits_for_flows_and_a_takeover_does_not() {
    let both_on_1 = [(100, "lb1"), (101, "lb1")];
    let mut observed = seen("lb1+ lb2+b lb3+", &both_on_1);
    observed.move_requests.insert(vip(101), "lb2".into());
    assert_eq!(told(&observed), ["blocked 10.0.0.101: lb2 has not got all connections of lb1 yet"]);
    observed.nodes.get_mut("lb2").unwrap().behind.clear();
    assert_eq!(told(&observed), ["move 10.0.0.101 lb1>lb2: an operator asked for it"]);
    // It has to go: to the one that has them, else to any.
    let target = |nodes: &str| told(&seen(nodes, &[(100, "lb1")]))[0].clone();
    assert!(target("lb1 lb2+b lb3+").starts_with("give 10.0.0.100 to lb3"));
    assert!(target("lb1 lb2+b lb3+b").starts_with("give 10.0.0.100 to lb2"));
    assert!(target("lb1+s lb2+b lb3+").starts_with("move 10.0.0.100 lb1>lb3"));
    assert!(target("lb1+s lb2+b lb3").starts_with("move 10.0.0.100 lb1>lb2"));
}

#[test]
fn what_has_no_vote_gets_nothing() {
    for outside in ["j", "v", "d"] {
        let two = told(&seen(&format!("lb1 lb2+{outside} lb3+"), &[(100, "lb1")]));
        assert!(two[0].starts_with("give 10.0.0.100 to lb3"), "{two:?}");
        let none = told(&seen(&format!("lb1 lb2+{outside} lb3+{outside}"), &[(100, "lb1")]));
        assert!(!none.iter().any(|step| step.contains("give")), "{none:?}");
        let why = [("j", "is joining"), ("v", "votes no more"), ("d", "is running twice")];
        let (_, why) = why.iter().find(|(flag, _)| *flag == outside).unwrap();
        assert!(none[0].contains(&format!("lb2 {why}")), "{none:?}");
    }
    let none = told(&seen("lb1 lb2+h", &[(100, "lb1"), (101, "lb2")]));
    let why =
        "blocked 10.0.0.100: lb1 is silent, and lb2 is not heard at the moment, lb3 has not joined";
    assert_eq!(none, [why], "and what lb2 holds stays there");
}

fn node() -> impl Strategy<Value = NodeView> {
    (
        any::<bool>(),
        any::<[bool; 4]>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        prop::collection::btree_set(100u8..103, 0..4),
        prop::collection::btree_set("lb[123]", 0..3),
    )
        .prop_map(|(alive, outside, ready, standby, leaving, unable, behind)| NodeView {
            alive,
            joining: outside[0],
            no_vote: outside[1],
            doubt: (outside[2] && outside[3]).then_some(Doubt::Unconfirmed),
            heard: outside[3],
            ready,
            standby,
            leaving,
            unable: unable.into_iter().map(vip).map(failed).collect(),
            behind,
        })
}

proptest! {
    #[test]
    fn every_plan_passes_the_checker(
        views in prop::collection::vec(node(), 4),
        held in prop::collection::btree_map(
            100u8..103,
            (0usize..4, 0usize..4, any::<bool>()),
            0..4,
        ),
        move_request in prop::option::of((100u8..103, 0usize..4)),
    ) {
        let names = ["lb1", "lb2", "lb3", "wit"];
        let nodes = names.iter().map(|n| (*n).to_owned()).zip(views).collect();
        let mut observed = Observed { nodes, ..Observed::default() };
        for (n, (a, b, releasing)) in held {
            let a = names[a].to_owned();
            let held = if releasing { Held::Releasing(a, names[b].into()) } else { Held::By(a) };
            observed.vips.insert(vip(n), held);
        }
        if let Some((of, move_request)) = move_request {
            observed.move_requests.insert(vip(of), names[move_request].into());
        }
        for spec in [spec(), with_source()] {
            let made = plan(&spec, &observed);
            prop_assert_eq!(check(&spec, &observed, &made), Ok(()));
        }
    }
}
