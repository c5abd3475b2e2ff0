//! Keys over the API: their rotation, and what may be told of them.
//!
//! Decides: nothing; how a rotation goes says `transport/peer_port/heartbeat_keys.rs`.

use axum::{
    Extension, Json, Router,
    extract::{FromRef, State as Shared},
    routing::{get, post},
};
use nines_api::{
    failure::{Failure, Kind},
    text::rfc3339,
    types::{Done, MemberKeys, Problem, RotateRequest, SCHEMA, SecretStatus},
};

use utoipa::OpenApi as _;

use super::{Api, caller::Caller};
use crate::{convert::Answer, transport::peer_port::heartbeat_keys::Secrets};

#[derive(utoipa::OpenApi)]
#[openapi(paths(get_secret, post_secret_rotate), components(schemas(SecretStatus, RotateRequest)))]
struct Document;

/// The OpenAPI document with these requests.
pub fn with(document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    document.merge_from(Document::openapi())
}

impl FromRef<Api> for Secrets {
    fn from_ref(api: &Api) -> Self {
        api.sight.secrets.clone()
    }
}

/// Requests about keys.
pub fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/secret", get(get_secret))
        .route("/v1/secret/rotate", post(post_secret_rotate))
}

#[utoipa::path(get, path = "/v1/secret", responses((status = 200, body = SecretStatus)))]
async fn get_secret(Shared(secrets): Shared<Secrets>) -> Answer<Json<SecretStatus>> {
    let members = secrets.told().await?.into_iter().map(|told| MemberKeys {
        member: told.member,
        heartbeat_key: told.key,
        rotating: told.rotating,
        trouble: told.why,
    });
    Ok(Json(SecretStatus {
        schema: SCHEMA,
        members: members.collect(),
        certificate_until: rfc3339(secrets.credentials.keys().validity.until * 1_000),
    }))
}

#[utoipa::path(
    post,
    path = "/v1/secret/rotate",
    request_body = RotateRequest,
    responses((status = 200, body = Done), (status = 409, body = Problem))
)]
async fn post_secret_rotate(
    Shared(secrets): Shared<Secrets>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<RotateRequest>,
) -> Answer<Json<Done>> {
    if !request.beat {
        return Err(Failure::new(Kind::Usage, "nothing to rotate", "no key is named")
            .next("nines secret rotate --beat")
            .into());
    }
    let actor = caller.who.actor(&secrets.credentials.identity.me.name);
    secrets.log.line(&format!("{actor} rotates the heartbeat key"));
    // Whoever asked may go: a rotation that has begun goes on.
    let work = secrets.clone();
    let rotated = tokio::spawn(async move { work.rotate().await });
    let rotated = rotated.await.map_err(|_| super::stopping())??;
    let mut text =
        format!("the heartbeat key was rotated: {} have it now", rotated.have.join(", "));
    if !rotated.later.is_empty() {
        let later = rotated.later.join(", ");
        text.push_str(&format!("; not heard, so that they get it when they come back: {later}"));
    }
    Ok(Json(Done { index: 0, text }))
}
