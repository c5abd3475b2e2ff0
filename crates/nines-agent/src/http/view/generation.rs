//! Nodes that were met as members of another generation of this cluster.
//!
//! Decides: what is said of them. Nothing proves what they say of themselves, so nothing but this
//! line follows from it.

use std::net::IpAddr;

use nines_api::{
    states::Subject,
    types::{ProblemLine, Status},
};

/// Tells of each node of the status at whose address another generation was met.
pub fn problems(status: &mut Status, met: &[(IpAddr, u64)]) {
    for (address, generation) in met {
        let at = address.to_string();
        let Some(node) = status.nodes.iter().find(|node| node.addresses.contains(&at)) else {
            continue;
        };
        let (cluster, own) = (&status.cluster, status.generation);
        let next = if *generation > own {
            format!(
                "if that is the cluster now: on {} stop the agent, move its state directory away, \
                 and join again",
                status.node
            )
        } else {
            format!(
                "stop the agent of {}, move its state directory away, and join again",
                node.name
            )
        };
        status.problems.push(ProblemLine {
            subject: Subject::Node(node.name.clone()),
            text: format!(
                "the agent at {at} says that it belongs to generation {generation} of cluster \
                 {cluster}; this is generation {own}, so neither believes the other"
            ),
            next,
        });
    }
}

#[cfg(test)]
mod tests {
    use nines_api::types::NodeStatus;

    use super::*;

    #[test]
    fn a_node_of_another_generation_is_told_of_by_its_name() {
        let node = |name: &str, at: &str| NodeStatus {
            name: name.into(),
            addresses: vec![at.into()],
            ..NodeStatus::default()
        };
        let mut status = Status {
            cluster: "shop".into(),
            generation: 1,
            node: "lb2".into(),
            nodes: vec![node("lb1", "10.0.0.2"), node("lb2", "10.0.0.3")],
            ..Status::default()
        };
        let at = |n: u8| IpAddr::from([10, 0, 0, n]);
        problems(&mut status, &[(at(2), 2), (at(77), 2)]);
        let [line] = &status.problems[..] else { panic!("{:?}", status.problems) };
        assert_eq!(line.subject, Subject::Node("lb1".into()));
        assert!(
            line.text.contains("belongs to generation 2 of cluster shop; this is generation 1")
        );
        assert!(line.next.contains("on lb2 stop the agent"), "{}", line.next);
        status.generation = 3;
        problems(&mut status, &[(at(2), 2)]);
        assert!(status.problems[1].next.starts_with("stop the agent of lb1"));
    }
}
