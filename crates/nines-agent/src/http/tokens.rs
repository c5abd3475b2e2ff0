//! Tokens of the API: made, listed, revoked.
//!
//! Decides: what a token looks like. It is told once, to whoever asked for it; the cluster keeps
//! its digest.

use axum::{Extension, Json, extract::State as Shared};
use nines_api::{
    failure::{Failure, Kind},
    types::{Done, Problem, TokenMade, TokenName, TokenRequest, TokenStatus},
};
use nines_core::{
    Node,
    wire::{ApiToken, TokenChange, command::Kind as What},
};
use nines_model::{AccessRole, Coded, Codes as _, Time};

use super::{
    Commands,
    access::{PREFIX, digest, is_over, now_ms},
    caller::Caller,
    propose, stopping,
};
use crate::{convert::Answer, core_thread::CoreHandle, identity::random};

#[utoipa::path(get, path = "/v1/tokens", responses((status = 200, body = Vec<TokenStatus>)))]
pub async fn get_tokens(Shared(core): Shared<CoreHandle>) -> Answer<Json<Vec<TokenStatus>>> {
    let look = |node: &Node, _: Time| node.state().tokens.clone();
    let tokens = core.inspect(look).await.ok_or_else(stopping)?;
    let now = now_ms();
    let one = |(name, token): (&String, &ApiToken)| TokenStatus {
        name: name.clone(),
        role: Coded::read(token.role.clone()),
        until_ms: token.until_ms,
        expired: is_over(token, now),
        actor: token.actor.clone(),
        at_ms: token.at_ms,
    };
    Ok(Json(tokens.iter().map(one).collect()))
}

#[utoipa::path(
    post,
    path = "/v1/tokens",
    request_body = TokenRequest,
    responses((status = 200, body = TokenMade), (status = 409, body = Problem))
)]
pub async fn post_token(
    Shared(commands): Shared<Commands>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<TokenRequest>,
) -> Answer<Json<TokenMade>> {
    let TokenRequest { name, role, until_ms } = request;
    if AccessRole::from_code(&role).is_none() {
        let why = format!("there is no role {role}");
        return Err(Failure::new(Kind::Usage, "not done", why)
            .next("choose viewer, operator or admin")
            .into());
    }
    let text = format!("{PREFIX}{}", data_encoding::HEXLOWER.encode(&random::<32>()));
    let token = ApiToken { digest: digest(&text), role, until_ms, ..ApiToken::default() };
    let change = TokenChange { name: name.clone(), token: Some(token) };
    let Json(done) = propose(&commands, &caller, What::Token(change)).await?;
    Ok(Json(TokenMade { name, token: text, text: done.text }))
}

#[utoipa::path(
    post,
    path = "/v1/tokens/revoke",
    request_body = TokenName,
    responses((status = 200, body = Done), (status = 404, body = Problem))
)]
pub async fn post_revoke(
    Shared(commands): Shared<Commands>,
    Extension(caller): Extension<Caller>,
    Json(TokenName { name }): Json<TokenName>,
) -> Answer<Json<Done>> {
    let change = TokenChange { name, token: None };
    Ok(propose(&commands, &caller, What::Token(change)).await?)
}
