//! What an operator asks of servers, nodes and VIPs.
//!
//! Decides: what is refused before anything is written, and which safety rules an act would break.

use std::collections::BTreeSet;

use axum::{Extension, Json, extract::State as Shared};
use nines_api::{
    failure::{Failure, Kind},
    types::{ActRequest, Done, MoveRequest, Problem},
};
use nines_core::{
    Node,
    action::Refusal,
    wire::{Act, Give, command::Kind as What, pack},
};
use nines_model::{AdminCommand, Codes as _, SafetyRule, Time, printable::clean};

use super::{Commands, Sight, caller::Caller, propose, refused, seen::seen, stopping, view};
use crate::convert::Answer;

#[utoipa::path(
    post,
    path = "/v1/act",
    request_body = ActRequest,
    responses((status = 200, body = Done), (status = 404, body = Problem))
)]
pub async fn post_act(
    Shared(commands): Shared<Commands>,
    Shared(sight): Shared<Sight>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<ActRequest>,
) -> Answer<Json<Done>> {
    let ActRequest { verb, subjects, reason, until_ms, force } = request;
    let Some(admin) = AdminCommand::from_code(&verb) else {
        return Err(refused(&Refusal::Invalid(format!("unknown act {verb}"))).into());
    };
    commands.access.may(&caller, admin.needs(), &verb)?;
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
    Ok(propose(&commands, &caller, What::Act(Act { verb, subjects, reason, until_ms })).await?)
}

#[utoipa::path(
    post,
    path = "/v1/move",
    request_body = MoveRequest,
    responses((status = 200, body = Done), (status = 404, body = Problem))
)]
pub async fn post_move(
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
    Ok(propose(&commands, &caller, What::MoveRequest(move_request)).await?)
}
