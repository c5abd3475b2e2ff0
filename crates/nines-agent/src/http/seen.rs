//! The status as this node tells it: its own view, and what the nodes that serve count and check.
//!
//! Decides: which nodes are asked, how often and how long; that systemd hears the same verdict.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nines_api::{failure::Outcome, types::Status};
use nines_core::Node;
use nines_model::{Time, printable::clean};
use tokio::time::Instant;

use super::{one_line, stopping, view};
use crate::daemon::Agent;

/// What the local data plane counts.
async fn local_counters(agent: &Agent) -> nines_model::Counters {
    let Some(forwarding) = &agent.forwarding else { return nines_model::Counters::default() };
    let (answer, answered) = tokio::sync::oneshot::channel();
    if forwarding.send(crate::executors::ForwardWork::Counters(answer)).is_err() {
        return nines_model::Counters::default();
    }
    tokio::time::timeout(Duration::from_millis(500), answered)
        .await
        .ok()
        .and_then(Result::ok)
        .unwrap_or_default()
}

/// What the local data plane counts and checks.
async fn own_told(agent: &Agent) -> view::Told {
    let counters = local_counters(agent).await;
    let unusable = agent.unusable.lock().expect("nobody panics with it").clone();
    let look = |n: &Node, _: Time| {
        let failing = n.results().iter().filter(|(_, result)| !result.ok);
        let failing = failing.map(|(subject, result)| (subject.clone(), result.clone())).collect();
        (n.health().clone(), failing)
    };
    let (health, results) = agent.core.inspect(look).await.unwrap_or_default();
    view::traffic(&counters, &health, &results, unusable)
}

/// The same for other nodes.
pub async fn counters_json(agent: &Agent) -> Vec<u8> {
    serde_json::to_vec(&own_told(agent).await).expect("plain data")
}

/// What each other node that serves told; `None`: it gave no answer.
type Answers = BTreeMap<u64, Option<Vec<u8>>>;

/// Asks nodes that serve, this one excepted.
async fn answers(agent: &Agent, active: &[u64]) -> Answers {
    let mut answers = Answers::new();
    // One second is all a person waits for, so a frozen peer gets less.
    let patience = Duration::from_millis(150);
    for id in active.iter().filter(|id| **id != agent.credentials.identity.me.id) {
        answers.insert(*id, crate::transport::peer_port::ask_counters(agent, *id, patience).await);
    }
    answers
}

/// The status without what other nodes count and check, and ids of nodes that serve.
async fn own_view(agent: &Agent) -> Outcome<(Status, Vec<u64>)> {
    let shown = agent.shown.lock().expect("nobody panics with it").clone();
    let look = move |node: &Node, now: Time| (view::status(node, now, &shown), view::active(node));
    let ((mut status, services), active) = agent.core.inspect(look).await.ok_or_else(stopping)?;
    services.fill(&mut status);
    Ok((status, active))
}

/// The status with its verdict, for everything that tells one; and this node's own counts.
pub(super) async fn seen(agent: &Agent) -> Outcome<(view::Seen, view::Told)> {
    let (status, active) = own_view(agent).await?;
    // Others count while this node does.
    let (answers, own) = tokio::join!(answers(agent, &active), own_told(agent));
    Ok((judged(status, &answers, own.clone()), own))
}

fn judged(mut status: Status, answers: &Answers, mut told: view::Told) -> view::Seen {
    for (id, answer) in answers {
        match answer {
            Some(bytes) => view::merge(&mut told, bytes),
            None => view::no_answer(&mut status, *id),
        }
    }
    view::fill_traffic(&mut status, &told);
    view::Seen { status, told }
}

/// How often systemd is told the verdict.
const TOLD: Duration = Duration::from_secs(2);
/// How often other nodes are asked for that: each answer is a TLS connection.
const ASKED: Duration = Duration::from_secs(10);

/// Tells systemd the verdict, where systemd started this agent.
pub async fn tell_systemd(agent: Arc<Agent>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let mut asked = (Vec::new(), Answers::new(), Instant::now());
    loop {
        if let Ok((status, active)) = own_view(&agent).await {
            if active != asked.0 || asked.2 <= Instant::now() {
                let answers = answers(&agent, &active).await;
                asked = (active, answers, Instant::now() + ASKED);
            }
            let status = judged(status, &asked.1, own_told(&agent).await).status;
            let absent = agent.shown.lock().expect("nobody panics with it").absent.clone();
            let line = if absent.is_empty() { one_line(&status) } else { absent };
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&clean(&line))]);
        }
        tokio::time::sleep(TOLD).await;
    }
}
