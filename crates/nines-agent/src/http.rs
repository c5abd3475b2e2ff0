//! API v1 over the unix socket: JSON, described by `GET /v1/openapi.json`.
//!
//! Decides: which requests there are, and how each act becomes a proposal. The CLI uses nothing
//! else. What a view shows is in `view.rs`, what other nodes tell for it in `seen.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

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
        Why,
    },
};
use nines_core::{
    Node,
    action::Refusal,
    edit::Following,
    spec_edit,
    wire::{Act, ApplySpec, Command, Give, command::Kind as What, pack},
};
use nines_model::{
    AdminCommand, Backend, Codes as _, SafetyRule, Spec, Time, config, diff, printable::clean,
};
use serde::Deserialize;
use utoipa::OpenApi as _;

use self::caller::Caller;
pub use self::{caller::this_user, listeners::listen};
use crate::{
    convert::{Answer, refusal_text},
    core_thread::CoreHandle,
    flow_sync::Flows,
};

mod backup;
mod caller;
mod listeners;
mod metrics;
mod seen;
mod verdict;
pub mod view;

use self::seen::seen;
pub use self::seen::{Sight, counters_json, tell_systemd};
pub use view::one_line;

/// Everything the API offers, as OpenAPI.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "nines API", version = "1", description = "Over the unix socket of the agent."),
    paths(
        get_status,
        get_events,
        get_why,
        get_config,
        backup::get_backup,
        post_plan,
        post_apply,
        post_act,
        post_move
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
        ConfigText
    ))
)]
pub struct Document;

/// The OpenAPI document as JSON.
pub fn openapi() -> String {
    Document::openapi().to_pretty_json().expect("made from types")
}

/// What the API works on. Each request takes the part that it needs.
#[derive(Clone)]
pub struct Api {
    /// What the status is made from.
    pub sight: Sight,
    /// Flows told to other directors; a witness has none.
    pub flows: Option<Arc<Flows>>,
}

/// What changes the cluster.
#[derive(Clone)]
struct Commands {
    core: CoreHandle,
    /// Name of this node: commands come from its users.
    node: String,
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
        Self { core: api.sight.core.clone(), node }
    }
}

/// Serves until the process ends; `room`: connections at once.
pub async fn serve(listener: tokio::net::UnixListener, api: Api, room: usize) {
    let router = observed()
        .route("/v1/status", get(get_status))
        .route("/v1/events", get(get_events))
        .route("/v1/why", get(get_why))
        .route("/v1/config", get(get_config))
        .route("/v1/backup", get(backup::get_backup))
        .route("/v1/plan", post(post_plan))
        .route("/v1/apply", post(post_apply))
        .route("/v1/act", post(post_act))
        .route("/v1/move", post(post_move))
        .route("/v1/openapi.json", get(|| async { openapi() }))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(api);
    listeners::api(listener, router, room).await;
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
    let text = metrics::text(&status, &named.collect());
    Ok(([(axum::http::header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

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

async fn propose(commands: &Commands, caller: Caller, kind: What) -> Outcome<Json<Done>> {
    let actor = caller.actor(&commands.node);
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
    Ok(propose(&commands, caller, What::ApplySpec(apply)).await?)
}

#[utoipa::path(
    post,
    path = "/v1/act",
    request_body = ActRequest,
    responses((status = 200, body = Done), (status = 404, body = Problem))
)]
async fn post_act(
    Shared(commands): Shared<Commands>,
    Shared(sight): Shared<Sight>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<ActRequest>,
) -> Answer<Json<Done>> {
    let ActRequest { verb, subjects, reason, until_ms, force } = request;
    let Some(admin) = AdminCommand::from_code(&verb) else {
        return Err(refused(&Refusal::Invalid(format!("unknown act {verb}"))).into());
    };
    let reason = clean(&reason).into_owned();
    let names = subjects.clone();
    let look = move |node: &Node, now: Time| {
        let spec = &node.state().spec;
        let misnamed = if admin.is_of_members() || admin.is_of_power() {
            view::names::no_member(node.state(), admin, &names)
        } else {
            view::names::misnamed(spec, admin, &names)
        };
        if let Some(failure) = misnamed {
            return Err(failure);
        }
        let leaves = match admin {
            AdminCommand::Standby => view::harm_of_standby(node, now, &names),
            AdminCommand::Remove => view::harm_of_removal(node, now, &names),
            _ => None,
        };
        let servers = names.iter().filter(|_| admin == AdminCommand::Drain);
        let drained: BTreeSet<_> = servers.flat_map(|name| spec.find_servers(name)).collect();
        Ok((leaves, drained))
    };
    let (mut harm, drained) = commands.core.inspect(look).await.ok_or_else(stopping)??;
    if !drained.is_empty() {
        harm = view::harm_of_drain(&seen(&sight).await?.0.status, &drained);
    }
    if let Some(harm) = harm.as_ref().filter(|_| admin == AdminCommand::Remove) {
        return Err(Failure::new(Kind::Unsafe, "refused", harm.why.clone())
            .next("make another director ready, or take its services out of the config")
            .into());
    }
    if let Some(harm) = harm
        && force.as_deref().and_then(SafetyRule::from_code) != Some(harm.rule)
    {
        return Err(Failure::new(Kind::Unsafe, "refused", harm.why)
            .next(format!("add --force={} if that is what you want", harm.rule))
            .into());
    }
    Ok(propose(&commands, caller, What::Act(Act { verb, subjects, reason, until_ms })).await?)
}

#[utoipa::path(
    post,
    path = "/v1/move",
    request_body = MoveRequest,
    responses((status = 200, body = Done), (status = 404, body = Problem))
)]
async fn post_move(
    Shared(commands): Shared<Commands>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<MoveRequest>,
) -> Answer<Json<Done>> {
    let word = request.vip.clone();
    let find = move |node: &Node, _: Time| {
        let spec = &node.state().spec;
        (spec.find_vips(&word), view::names::not_movable(spec, &word))
    };
    let (vips, not_movable) = commands.core.inspect(find).await.ok_or_else(stopping)?;
    if let Some(failure) = not_movable {
        return Err(failure.into());
    }
    let Some((last, others)) = vips.split_last() else { return Err(stopping().into()) };
    let (to, all) = (request.to.clone(), vips.clone());
    let look = move |node: &Node, now: Time| {
        all.iter().find_map(|vip| view::cannot_take(node, now, Some(*vip), &to))
    };
    if let Some(why) = commands.core.inspect(look).await.ok_or_else(stopping)? {
        return Err(why.into());
    }
    // One command for all: none moves where another may not.
    let more = others.iter().copied().map(pack).collect();
    let move_request = Give { vip: pack(*last), to: request.to.clone(), more, ..Give::default() };
    Ok(propose(&commands, caller, What::MoveRequest(move_request)).await?)
}
