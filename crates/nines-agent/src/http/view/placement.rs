//! Which VIPs would be elsewhere with another config.
//!
//! Decides: nothing; the cluster's own planner does, for the config in force and for the other one.
//! What it would do for both alike is no consequence of the change, and is not told.

use std::{collections::BTreeMap, net::IpAddr};

use nines_api::types::Placement;
use nines_model::Spec;
use nines_planner::{Held, Observed, Step, plan};

fn vip_of(step: &Step) -> IpAddr {
    let (Step::Give(vip, _) | Step::Move(vip, ..) | Step::Blocked(vip)) = step;
    *vip
}

/// What the planner would do because `spec` takes the place of the config in force.
pub fn placements(in_force: &Spec, spec: &Spec, observed: &Observed) -> Vec<Placement> {
    let now = plan(in_force, observed).steps.into_iter();
    let now: BTreeMap<IpAddr, Step> = now.map(|(step, _)| (vip_of(&step), step)).collect();
    let mut observed = observed.clone();
    observed.vips.retain(|vip, _| spec.vips.contains_key(vip));
    observed.move_requests.retain(|vip, _| spec.vips.contains_key(vip));
    let mut found: Vec<Placement> = Vec::new();
    for (step, why) in plan(spec, &observed).steps {
        let vip = vip_of(&step);
        if now.get(&vip) == Some(&step) {
            continue;
        }
        let to = match step {
            Step::Give(_, to) | Step::Move(_, _, to) => to.to_string(),
            Step::Blocked(_) => String::new(),
        };
        let from = match observed.vips.get(&vip) {
            Some(Held::By(node) | Held::Releasing(node, _)) => node.to_string(),
            None => String::new(),
        };
        let (name, why) = (spec.vip_name(vip), why.to_string());
        let same = |p: &&mut Placement| (&p.from, &p.to, &p.why) == (&from, &to, &why);
        match found.iter_mut().find(same) {
            Some(placement) => placement.vips.push(name),
            None => found.push(Placement { vips: vec![name], from, to, why }),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use nines_planner::NodeView;

    use super::*;

    /// lb1 and lb2 with these words after their addresses, and two VIPs.
    fn spec(lb1: &str, lb2: &str, more: &str) -> Spec {
        let text = format!(
            "[cluster]\nname = \"w\"\n[nodes]\nlb1 = {{ addresses = \"10.0.0.2\"{lb1} }}\n\
             lb2 = {{ addresses = \"10.0.0.3\"{lb2} }}\n\
             [vip.a]\naddress = \"10.0.0.100\"\n[vip.b]\naddress = \"10.0.0.101\"\n{more}"
        );
        nines_model::config::parse(&text).unwrap()
    }

    /// Both are alive, and lb1 holds both VIPs.
    fn both() -> Observed {
        let ready = || NodeView { alive: true, ready: true, ..NodeView::default() };
        let held = |vip: &str| (vip.parse().unwrap(), Held::By("lb1".into()));
        Observed {
            nodes: [("lb1".into(), ready()), ("lb2".into(), ready())].into(),
            vips: [held("10.0.0.100"), held("10.0.0.101")].into(),
            ..Observed::default()
        }
    }

    /// With this config in place of the one without more words.
    fn with(spec_then: &Spec, observed: &Observed) -> Vec<Placement> {
        placements(&spec("", "", ""), spec_then, observed)
    }

    fn placement(vips: &[&str], from: &str, to: &str, why: &str) -> Placement {
        let vips = vips.iter().map(|vip| (*vip).to_owned()).collect();
        Placement { vips, from: from.into(), to: to.into(), why: why.into() }
    }

    #[test]
    fn a_director_that_becomes_a_witness_loses_its_vips_to_the_other() {
        let witness = ", role = \"witness\"";
        let moved = placement(&["a", "b"], "lb1", "lb2", "lb1 is a witness");
        assert_eq!(with(&spec(witness, "", ""), &both()), [moved]);
    }

    #[test]
    fn a_vip_that_nobody_could_take_is_told_with_the_reason() {
        let mut observed = both();
        observed.nodes.get_mut("lb2").unwrap().standby = true;
        let found = with(&spec(", role = \"witness\"", "", ""), &observed);
        let why = "lb1 is a witness, but lb2 is on standby";
        assert_eq!(found, [placement(&["a", "b"], "lb1", "", why)]);
    }

    #[test]
    fn a_new_vip_goes_to_the_director_with_fewer_and_others_stay() {
        let three = spec("", "", "[vip.c]\naddress = \"10.0.0.102\"\n");
        let found = with(&three, &both());
        assert_eq!(found, [placement(&["c"], "", "lb2", "no director held it")]);
    }

    #[test]
    fn what_the_planner_does_anyway_is_not_told() {
        let mut observed = both();
        assert_eq!(with(&spec("", "", ""), &observed), []);
        // lb2 takes over in any case; a service more on a VIP changes nothing of that.
        observed.nodes.get_mut("lb1").unwrap().alive = false;
        let service = "[service.web]\nlisten = \"10.0.0.100:80\"\nforward = \"nat\"\n\
                       servers = { r1 = \"10.0.0.11\" }\n";
        assert_eq!(with(&spec("", "", service), &observed), []);
    }
}
