//! Properties; what the planner does is told by the cases in tests/cases.

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

fn node() -> impl Strategy<Value = NodeView> {
    (
        any::<bool>(),
        any::<[bool; 5]>(),
        any::<bool>(),
        any::<bool>(),
        any::<[bool; 2]>(),
        prop::collection::btree_set(100u8..103, 0..4),
        prop::collection::btree_set("lb[123]", 0..3),
    )
        .prop_map(|(alive, outside, ready, standby, [removal, leaving], unable, behind)| {
            NodeView {
                alive: alive && !(standby && (leaving || outside[3])),
                deaf: standby && leaving,
                clock_off: standby && outside[3],
                joining: outside[0],
                no_vote: outside[1],
                doubt: (outside[2] && outside[3]).then_some(Doubt::Unconfirmed),
                heard: outside[3],
                ready,
                quarantined: outside[4],
                standby,
                removal,
                leaving,
                unable: unable.into_iter().map(vip).map(failed).collect(),
                behind: behind.into_iter().map(NodeName::from).collect(),
            }
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
        let nodes = names.iter().map(|n| NodeName::from(*n)).zip(views).collect();
        let mut observed = Observed { nodes, ..Observed::default() };
        for (n, (a, b, releasing)) in held {
            let a = NodeName::from(names[a]);
            let to = Some(names[b].into());
            let held = if releasing { Held::Releasing(a, to) } else { Held::By(a) };
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
