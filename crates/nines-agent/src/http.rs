//! API v1 over the unix socket, and with a token over TLS: JSON, described by `/v1/openapi.json`.
//!
//! Decides: which requests there are, and how a config becomes a proposal. The CLI uses nothing
//! else. What a view shows is in `view.rs`, what other nodes tell for it in `seen.rs`, what callers
//! may do in `access.rs`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, FromRef, Query, State as Shared},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use nines_api::{
    failure::{Failure, Kind, Outcome},
    types::{
        ActRequest, Change, ConfigText, Done, Event, FileError, MoveRequest, Plan, Problem, Status,
        TokenMade, TokenName, TokenRequest, TokenStatus, Why,
    },
};
use nines_core::{
    Node,
    action::Refusal,
    edit::Following,
    spec_edit,
    wire::{ApplySpec, Command, command::Kind as What},
};
use nines_model::{Backend, Spec, Time, config, diff};
use serde::Deserialize;
use utoipa::OpenApi as _;

use self::{access::Access, caller::Caller};
pub use self::{
    caller::this_user,
    listeners::{listen, open as serve_router},
};
use crate::{
    convert::{Answer, refusal_text},
    core_thread::CoreHandle,
    flow_sync::Flows,
};

pub mod access;
mod acts;
mod backup;
mod caller;
mod listeners;
mod metrics;
mod secret;
mod seen;
mod tokens;
mod verdict;
pub mod view;

use self::seen::seen;
pub use self::seen::{Sight, counters_json, tell_systemd};
pub use view::one_line;

/// Everything the API offers, as OpenAPI.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "nines API",
        version = "1",
        description = "Over the unix socket of the agent, and with a token over TLS."
    ),
    paths(
        get_status,
        get_events,
        get_why,
        get_config,
        backup::get_backup,
        post_plan,
        post_apply,
        acts::post_act,
        acts::post_move,
        tokens::get_tokens,
        tokens::post_token,
        tokens::post_revoke
    ),
    components(schemas(
        Status,
        Event,
        Why,
        Plan,
        Done,
        Problem,
        ActRequest,
        MoveRequest,
        ConfigText,
        TokenRequest,
        TokenMade,
        TokenName,
        TokenStatus
    ))
)]
pub struct Document;

/// The OpenAPI document as JSON.
pub fn openapi() -> String {
    secret::with(Document::openapi()).to_pretty_json().expect("made from types")
}

/// What the API works on. Each request takes the part that it needs.
#[derive(Clone)]
pub struct Api {
    /// What the status is made from.
    pub sight: Sight,
    /// Flows told to other directors; a witness has none.
    pub flows: Option<Arc<Flows>>,
    /// What callers may do.
    pub access: Arc<Access>,
}

/// What changes the cluster.
#[derive(Clone)]
struct Commands {
    core: CoreHandle,
    /// Name of this node: commands come from its users.
    node: String,
    access: Arc<Access>,
}

impl FromRef<Api> for Sight {
    fn from_ref(api: &Api) -> Self {
        api.sight.clone()
    }
}

impl FromRef<Api> for CoreHandle {
    fn from_ref(api: &Api) -> Self {
        api.sight.core.clone()
    }
}

impl FromRef<Api> for Commands {
    fn from_ref(api: &Api) -> Self {
        let node = api.sight.credentials.identity.me.name.clone();
        Self { core: api.sight.core.clone(), node, access: Arc::clone(&api.access) }
    }
}

/// All requests, each asked first whether its caller may.
fn whole(api: Api) -> Router {
    let authorize =
        axum::middleware::from_fn_with_state(Arc::clone(&api.access), access::authorize);
    observed()
        .merge(secret::routes())
        .route("/livez", get(get_livez))
        .route("/v1/status", get(get_status))
        .route("/v1/events", get(get_events))
        .route("/v1/why", get(get_why))
        .route("/v1/config", get(get_config))
        .route("/v1/backup", get(backup::get_backup))
        .route("/v1/plan", post(post_plan))
        .route("/v1/apply", post(post_apply))
        .route("/v1/act", post(acts::post_act))
        .route("/v1/move", post(acts::post_move))
        .route("/v1/tokens", get(tokens::get_tokens).post(tokens::post_token))
        .route("/v1/tokens/revoke", post(tokens::post_revoke))
        .route("/v1/openapi.json", get(|| async { openapi() }))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(authorize)
        .with_state(api)
}

/// Serves the unix socket until the process ends; `room`: connections at once.
pub async fn serve(listener: tokio::net::UnixListener, api: Api, room: usize) {
    let access = Arc::clone(&api.access);
    listeners::api(listener, whole(api), room, &access).await;
}

/// Serves the API over TLS until the process ends; `room`: connections at once.
pub async fn serve_remote(listener: tokio::net::TcpListener, api: Api, room: usize) {
    let credentials = Arc::clone(&api.sight.credentials);
    let tls = move || Arc::clone(&credentials.keys().api).into();
    listeners::remote(listener, tls, whole(api), room).await;
}

/// A config as a JSON string: quotes and line ends take two bytes each.
const BODY_MAX: usize = 2 * config::TEXT_MAX + 4_096;

/// Serves only the metrics and `/readyz`, to everybody who reaches the port; `room`: connections at
/// once.
pub async fn serve_metrics(listener: tokio::net::TcpListener, api: Api, room: usize) {
    listeners::metrics(listener, observed().with_state(api), room).await;
}

/// What monitoring asks for, over the socket and at the port for metrics.
fn observed() -> Router<Api> {
    Router::new().route("/metrics", get(get_metrics)).route("/readyz", get(metrics::get_readyz))
}

/// `GET /metrics`: Prometheus' text, this node's own counts.
async fn get_metrics(Shared(api): Shared<Api>) -> Answer<Response> {
    let (view::Seen { mut status, .. }, own) = seen(&api.sight).await?;
    view::own_traffic(&mut status, &own);
    let names = |node: &Node, _: Time| {
        let names = node.state().members.values().map(|m| (m.id, m.name.clone()));
        names.collect::<BTreeMap<u64, String>>()
    };
    let names = api.sight.core.inspect(names).await.ok_or_else(stopping)?;
    let told = api.flows.as_ref().map(|flows| flows.lag()).unwrap_or_default();
    let named = told.into_iter().filter_map(|(id, lag)| Some((names.get(&id)?.clone(), lag)));
    let datagrams = &api.sight.core.datagrams;
    let text = metrics::text(&status, &named.collect(), datagrams.all());
    Ok(([(axum::http::header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// `GET /livez`: 200 while the node's own thread answers.
async fn get_livez(Shared(core): Shared<CoreHandle>) -> Answer<&'static str> {
    let alive = tokio::time::timeout(LIVES, core.inspect(|_, _| ())).await;
    let why = "the node's thread gives no answer";
    let failed = || Failure::new(Kind::Unreachable, "no answer", why);
    alive.ok().flatten().ok_or_else(failed)?;
    Ok("alive\n")
}

/// How long the node's thread has to answer.
const LIVES: std::time::Duration = std::time::Duration::from_secs(1);

fn stopping() -> Failure {
    Failure::new(Kind::Unreachable, "no answer", "the agent is stopping")
}

fn refused(refusal: &Refusal) -> Failure {
    let (kind, next) = match refusal {
        Refusal::NoQuorum(_) => (Kind::Unreachable, "nines status   shows who is missing"),
        Refusal::Changed(_) => (Kind::Changed, "look again: nines status"),
        Refusal::NotFound(_) => (Kind::NotFound, "nines status   lists what there is"),
        Refusal::Unsafe(_) => (Kind::Unsafe, "nines status"),
        Refusal::Invalid(_) => (Kind::Usage, "nines status"),
        Refusal::Differs(_) => (Kind::Unsafe, "ask another node, and compare: nines config show"),
    };
    Failure::new(kind, "not done", refusal_text(refusal)).next(next)
}

async fn propose(commands: &Commands, caller: &Caller, kind: What) -> Outcome<Json<Done>> {
    let actor = caller.who.actor(&commands.node);
    let command = Command { actor, kind: Some(kind), ..Command::default() };
    let (index, text) = commands.core.propose(command).await.map_err(|e| refused(&e))?;
    Ok(Json(Done { index: index.number(), text }))
}

/// How much of the status.
#[derive(Deserialize, utoipa::IntoParams)]
struct StatusQuery {
    /// With real servers; without it: yes.
    servers: Option<bool>,
}

#[utoipa::path(
    get,
    path = "/v1/status",
    params(StatusQuery),
    responses((status = 200, body = Status))
)]
async fn get_status(
    Shared(sight): Shared<Sight>,
    Query(query): Query<StatusQuery>,
) -> Answer<Json<Status>> {
    let mut status = seen(&sight).await?.0.status;
    if query.servers == Some(false) {
        status.services.iter_mut().for_each(|service| service.servers.clear());
    }
    Ok(Json(status))
}

/// Which events a request asks for.
#[derive(Deserialize, utoipa::IntoParams)]
struct EventsQuery {
    /// Only about this subject.
    about: Option<String>,
    /// At most so many, the newest.
    limit: Option<usize>,
    /// Only those of the newest change of a holder.
    last_failover: Option<bool>,
}

#[utoipa::path(
    get,
    path = "/v1/events",
    params(EventsQuery),
    responses((status = 200, body = Vec<Event>))
)]
async fn get_events(
    Shared(core): Shared<CoreHandle>,
    Query(query): Query<EventsQuery>,
) -> Answer<Json<Vec<Event>>> {
    let limit = query.limit.unwrap_or(100);
    let last = query.last_failover.unwrap_or(false);
    let look = move |node: &Node, _: Time| {
        if last {
            view::events_of_last_failover(node)
        } else {
            view::events(node, query.about.as_deref(), limit)
        }
    };
    Ok(Json(core.inspect(look).await.ok_or_else(stopping)?))
}

/// What a request for the reason is about.
#[derive(Deserialize, utoipa::IntoParams)]
struct WhyQuery {
    /// A service, VIP, node or server.
    subject: String,
}

#[utoipa::path(
    get,
    path = "/v1/why",
    params(WhyQuery),
    responses((status = 200, body = Why), (status = 404, body = Problem))
)]
async fn get_why(Shared(sight): Shared<Sight>, Query(query): Query<WhyQuery>) -> Answer<Json<Why>> {
    let seen = seen(&sight).await?.0;
    let look = move |node: &Node, now: Time| view::why(node, now, &query.subject, &seen);
    Ok(Json(sight.core.inspect(look).await.ok_or_else(stopping)??))
}

#[utoipa::path(get, path = "/v1/config", responses((status = 200, body = ConfigText)))]
async fn get_config(Shared(core): Shared<CoreHandle>) -> Answer<Json<ConfigText>> {
    let look = |node: &Node, _: Time| {
        let state = node.state();
        (Arc::clone(&state.text), state.revision)
    };
    let (text, revision) = core.inspect(look).await.ok_or_else(stopping)?;
    Ok(Json(ConfigText { text: text.to_string(), revision }))
}

/// The config in force, for whoever looks at what may follow it.
fn in_force(node: &Node, _: Time) -> Following {
    node.state().following()
}

/// Bytes of a config that takes much memory to be read.
const LARGE: usize = 1 << 20;

/// The log has no room for a config, or no form.
fn not_written(why: String) -> Failure {
    Failure::new(Kind::Usage, "not done", why).next("take something out of the file")
}

/// What a text says. It is read on another thread.
async fn read(core: &CoreHandle, text: String) -> Outcome<(String, Arc<Spec>)> {
    let before = core.inspect(in_force).await.ok_or_else(stopping)?;
    let read = elsewhere(move || {
        let read = before.read(&text).map(Arc::new);
        // A config that no state has room for is refused by `plan`, too.
        let fits = read.as_ref().map_or(Ok(()), |spec| spec_edit::fits(&text, spec));
        let found = if read.is_err() { config::parse(&text).err() } else { None };
        if text.len() > LARGE {
            nines_dataplane::process::give_memory_back();
        }
        (text, read, fits, found.unwrap_or_default())
    });
    let (text, read, fits, found) = read.await?;
    fits.map_err(not_written)?;
    if let Ok(spec) = read {
        return Ok((text, spec));
    }
    let (place, why) = found.first().map_or_else(Default::default, |first| {
        let (line, col) = first.line_col(&text);
        (format!("line {line}, column {col}"), first.message.clone())
    });
    let errors = found.iter().map(|one| FileError::new(&text, one)).collect();
    let failure = Failure::new(Kind::Usage, place, why)
        .next("nines config check   with this file shows all its errors");
    Err(Failure { errors, ..failure })
}

/// Long work, while this thread goes on with others'.
async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| stopping())
}

/// Refuses what the tables of no director have room for.
pub fn no_table_holds(spec: &Spec) -> Outcome<()> {
    if spec.backend != Backend::Ebpf {
        return Ok(());
    }
    let services = spec.services.values().map(|s| (s.traffic(), s.sources.len()));
    nines_dataplane::ebpf::can_hold(services).map_err(|why| {
        let next = why.next.clone().unwrap_or_default();
        Failure::new(Kind::Usage, why.what, why.why).next(next)
    })
}

/// A config against the cluster and its machines as they are: what changes, and what cannot work.
async fn compared(sight: &Sight, spec: Arc<Spec>) -> Outcome<Plan> {
    let mut cluster =
        sight.core.inspect(view::feasibility::Cluster::of).await.ok_or_else(stopping)?;
    if sight.dataplane.is_none() {
        cluster.told_down(seen(sight).await?.0.told.useless());
    }
    elsewhere(move || {
        possible(&cluster, &spec)?;
        let mut changes = diff::diff(&cluster.spec, &spec);
        changes.extend(cluster.losses(&spec));
        let changes = changes.iter().map(Change::from).collect();
        Ok(Plan {
            revision: cluster.revision,
            changes,
            placements: cluster.placements(&spec),
            warnings: cluster.warnings(&spec),
        })
    })
    .await?
}

/// Refuses what cannot work on the machines as they are.
fn possible(cluster: &view::feasibility::Cluster, spec: &Spec) -> Outcome<()> {
    no_table_holds(spec)?;
    cluster.impossible(spec).into_iter().next().map_or(Ok(()), Err)
}

#[utoipa::path(
    post,
    path = "/v1/plan",
    request_body = ConfigText,
    responses((status = 200, body = Plan), (status = 422, body = Problem))
)]
async fn post_plan(
    Shared(sight): Shared<Sight>,
    Json(request): Json<ConfigText>,
) -> Answer<Json<Plan>> {
    let (_, spec) = read(&sight.core, request.text).await?;
    Ok(Json(compared(&sight, spec).await?))
}

#[utoipa::path(
    post,
    path = "/v1/apply",
    request_body = ConfigText,
    responses((status = 200, body = Done), (status = 409, body = Problem))
)]
async fn post_apply(
    Shared(commands): Shared<Commands>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<ConfigText>,
) -> Answer<Json<Done>> {
    let (text, spec) = read(&commands.core, request.text).await?;
    let look =
        |node: &Node, now: Time| (view::feasibility::Cluster::of(node, now), in_force(node, now));
    let (cluster, before) = commands.core.inspect(look).await.ok_or_else(stopping)?;
    let apply = elsewhere(move || -> Outcome<ApplySpec> {
        possible(&cluster, &spec)?;
        let apply = match request.revision {
            expected if expected == before.revision => before.change_to(&text, &spec),
            expected => ApplySpec::whole(text, &spec, expected),
        };
        apply.map_err(not_written)
    });
    let apply = apply.await??;
    Ok(propose(&commands, &caller, What::ApplySpec(apply)).await?)
}
