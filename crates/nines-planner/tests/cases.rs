//! Plans as text: what is known about nodes and VIPs, and what the planner does about it.
//!
//! Every plan is also judged by the checker, and carried out: planning again must find nothing
//! more to do.

use std::net::IpAddr;

use nines_model::{Spec, Unfit, Why, config};
use nines_planner::{Doubt, Held, NodeView, Observed, Plan, Step, check, plan};

#[test]
fn cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases");
    nines_cases::walk(folder, |case| {
        let spec = config::parse(&case.given).expect("the lines above the first case are a config");
        let mut observed = Observed::default();
        let mut proposed = None;
        for line in case.input.lines().filter(|line| !line.is_empty()) {
            match line.strip_prefix("proposed: ") {
                Some(step) => proposed.get_or_insert_with(Vec::new).extend(step_of(step)),
                None => note(&mut observed, line),
            }
        }
        match proposed {
            None => planned(&spec, &mut observed),
            Some(steps) => {
                let steps = steps.into_iter().map(|step| (step, Why::Asked)).collect();
                match check(&spec, &observed, &Plan { steps }) {
                    Ok(()) => "nothing is wrong with that".into(),
                    Err(why) => format!("refused: {why}"),
                }
            }
        }
    });
}

/// The plan, and what planning again would still do once it was carried out.
fn planned(spec: &Spec, observed: &mut Observed) -> String {
    let made = plan(spec, observed);
    let mut lines: Vec<String> = made.steps.iter().map(|(step, why)| told(step, why)).collect();
    if let Err(why) = check(spec, observed, &made) {
        lines.push(format!("but the checker refuses that: {why}"));
    }
    for (step, _) in made.steps {
        if let Step::Give(vip, to) | Step::Move(vip, _, to) = step {
            observed.vips.insert(vip, Held::By(to));
            observed.move_requests.remove(&vip);
        }
    }
    let again = plan(spec, observed).steps.into_iter();
    let again = again.filter(|(step, _)| !matches!(step, Step::Blocked(_)));
    lines.extend(again.map(|(step, why)| format!("and then: {}", told(&step, &why))));
    if lines.is_empty() { "nothing to do".into() } else { lines.join("\n") }
}

fn told(step: &Step, why: &impl std::fmt::Display) -> String {
    match step {
        Step::Give(vip, to) => format!("give {vip} to {to}: {why}"),
        Step::Move(vip, from, to) => format!("move {vip} from {from} to {to}: {why}"),
        Step::Blocked(vip) => format!("nobody can take {vip}: {why}"),
    }
}

/// "give 10.0.0.100 to lb1", "move 10.0.0.100 from lb1 to lb2", "nobody can take 10.0.0.100",
/// "nothing".
fn step_of(text: &str) -> Option<Step> {
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        ["give", vip, "to", to] => Some(Step::Give(address(vip), (*to).into())),
        ["move", vip, "from", from, "to", to] => {
            Some(Step::Move(address(vip), (*from).into(), (*to).into()))
        }
        ["nobody", "can", "take", vip] => Some(Step::Blocked(address(vip))),
        ["nothing"] => None,
        _ => panic!("no such step: {text:?}"),
    }
}

/// "lb1: up, on standby", "10.0.0.100 is on lb1", "10.0.0.100 is on its way from lb1 to lb2",
/// "10.0.0.100 is wanted on lb2 by an operator".
fn note(observed: &mut Observed, line: &str) {
    if let Some((node, states)) = line.split_once(": ") {
        observed.nodes.insert(node.into(), node_view(states));
        return;
    }
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        [vip, "is", "on", node] => {
            observed.vips.insert(address(vip), Held::By((*node).into()));
        }
        [vip, "is", "on", "its", "way", "from", from, "to", to] => {
            let held = Held::Releasing((*from).into(), Some((*to).into()));
            observed.vips.insert(address(vip), held);
        }
        [vip, "is", "wanted", "on", node, "by", "an", "operator"] => {
            observed.move_requests.insert(address(vip), (*node).into());
        }
        _ => panic!("not understood: {line:?}"),
    }
}

fn node_view(states: &str) -> NodeView {
    let mut view = NodeView { ready: true, ..NodeView::default() };
    for state in states.split(", ") {
        match state {
            "up" => (view.alive, view.heard) = (true, true),
            "silent" => (view.alive, view.heard) = (false, false),
            "not heard at the moment" => (view.heard, view.ready) = (false, false),
            "running twice" => view.doubt = Some(Doubt::RunsTwice),
            "waiting for confirmation" => view.doubt = Some(Doubt::Unconfirmed),
            "not ready" => view.ready = false,
            "deaf" => (view.deaf, view.ready) = (true, false),
            "on standby" => view.standby = true,
            "quarantined" => view.quarantined = true,
            "to leave" => view.removal = true,
            "stopping" => view.leaving = true,
            "joining" => view.joining = true,
            "without a vote for good" => view.no_vote = true,
            _ => {
                if let Some(node) = state.strip_prefix("without the flows of ") {
                    view.behind.insert(node.into());
                } else if let Some(vip) = state.strip_prefix("unable to start ") {
                    view.unable.insert(address(vip), Unfit::Failed);
                } else {
                    panic!("no such state: {state:?}");
                }
            }
        }
    }
    view
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("no address: {text:?}"))
}
