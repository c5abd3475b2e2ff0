//! The status as this node tells it: its own view, and what the nodes that serve count and check.
//!
//! Decides: which nodes are asked, how often and how long; that systemd hears the same verdict.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::StatusCode;
use nines_api::{failure::Outcome, types::Status};
use nines_core::Node;
use nines_model::{NodeId, Time, printable::clean};
use tokio::time::Instant;

use super::{one_line, stopping, view};
use crate::{
    checks::proof::AllUnusable,
    core_thread::CoreHandle,
    executors::forwarding::DataplaneHandle,
    identity::Credentials,
    own_status::OwnStatus,
    transport::peer_port::{ask_counters, heartbeat_keys::Secrets},
};

/// What the status is made from.
#[derive(Clone)]
pub struct Sight {
    /// The node.
    pub core: CoreHandle,
    /// Credentials with which other nodes are asked.
    pub credentials: Arc<Credentials>,
    /// Keys of the cluster.
    pub secrets: Secrets,
    /// This node's data plane; a witness has none.
    pub dataplane: Option<DataplaneHandle>,
    /// How this node forwards.
    pub shown: Arc<Mutex<OwnStatus>>,
    /// Servers that this holder found not to serve the VIP.
    pub unusable: Arc<Mutex<AllUnusable>>,
    /// The last answer of `/readyz`, and when it was found.
    pub ready: Arc<tokio::sync::Mutex<Option<(std::time::Instant, StatusCode, String)>>>,
}

/// What the local data plane counts and checks.
async fn own_told(sight: &Sight) -> view::Told {
    let counters = match &sight.dataplane {
        Some(dataplane) => dataplane.counters().await,
        None => nines_model::Counters::default(),
    };
    let unusable = sight.unusable.lock().expect("nobody panics with it").clone();
    let look = |n: &Node, _: Time| {
        let failing = n.results().iter().filter(|(_, result)| !result.ok);
        let failing = failing.map(|(subject, result)| (subject.clone(), result.clone())).collect();
        (n.health().clone(), failing)
    };
    let (health, results) = sight.core.inspect(look).await.unwrap_or_default();
    view::traffic(&counters, &health, &results, unusable)
}

/// The same for other nodes.
pub async fn counters_json(sight: Sight) -> Vec<u8> {
    serde_json::to_vec(&own_told(&sight).await).expect("plain data")
}

/// What each other node that serves told; `None`: it gave no answer.
type Answers = BTreeMap<NodeId, Option<Vec<u8>>>;

/// Asks nodes that serve, this one excepted.
async fn answers(sight: &Sight, active: &[NodeId]) -> Answers {
    let mut answers = Answers::new();
    // One second is all a person waits for, so a frozen peer gets less.
    let patience = Duration::from_millis(150);
    for id in active.iter().filter(|id| id.number() != sight.credentials.identity.me.id) {
        answers.insert(*id, ask_counters(&sight.core, &sight.credentials, *id, patience).await);
    }
    answers
}

/// The status without what other nodes count and check, and ids of nodes that serve.
async fn own_view(sight: &Sight) -> Outcome<(Status, Vec<NodeId>)> {
    let shown = sight.shown.lock().expect("nobody panics with it").clone();
    let look = move |node: &Node, now: Time| (view::status(node, now, &shown), view::active(node));
    let ((mut status, services), active) = sight.core.inspect(look).await.ok_or_else(stopping)?;
    services.fill(&mut status);
    Ok((status, active))
}

/// The status with its verdict, for everything that tells one; and this node's own counts.
pub(super) async fn seen(sight: &Sight) -> Outcome<(view::Seen, view::Told)> {
    let (status, active) = own_view(sight).await?;
    // Others count while this node does.
    let (answers, own) = tokio::join!(answers(sight, &active), own_told(sight));
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
pub async fn tell_systemd(sight: Sight) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let mut asked = (Vec::new(), Answers::new(), Instant::now());
    loop {
        if let Ok((status, active)) = own_view(&sight).await {
            if active != asked.0 || asked.2 <= Instant::now() {
                let answers = answers(&sight, &active).await;
                asked = (active, answers, Instant::now() + ASKED);
            }
            let status = judged(status, &asked.1, own_told(&sight).await).status;
            let absent = sight.shown.lock().expect("nobody panics with it").absent.clone();
            let line = if absent.is_empty() { one_line(&status) } else { absent };
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&clean(&line))]);
        }
        tokio::time::sleep(TOLD).await;
    }
}
