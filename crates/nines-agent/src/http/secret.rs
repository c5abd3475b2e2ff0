//! Keys over the API: their rotation, and what may be told of them.
//!
//! Decides: nothing; how a rotation goes say `transport/peer_port/heartbeat_keys.rs` and
//! `transport/peer_port/authorities.rs`.

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
use crate::{
    convert::Answer,
    transport::peer_port::{
        Standing,
        heartbeat_keys::{Rotated, Secrets},
    },
};

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
    let (beats, authorities) = tokio::join!(secrets.told(), secrets.authorities_told());
    let (beats, (standing, mut authorities)) = (beats?, authorities?);
    let members = beats.into_iter().map(|told| {
        let (authority, also_believed) = authorities.remove(&told.member).unwrap_or_default();
        MemberKeys {
            member: told.member,
            heartbeat_key: told.key,
            rotating: told.rotating,
            trouble: told.why,
            authority,
            also_believed,
        }
    });
    let members = members.collect();
    let waits_for = if standing.ended { Vec::new() } else { standing.lacking() };
    let keys = secrets.credentials.keys();
    Ok(Json(SecretStatus {
        schema: SCHEMA,
        members,
        certificate_until: rfc3339(keys.validity.until * 1_000),
        authority: standing.authority,
        waits_for,
        authority_rotating: keys.authorities.is_rotating(),
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
    let actor = caller.who.actor(&secrets.credentials.identity.me.name);
    // Whoever asked may go: a rotation that has begun goes on.
    let work = secrets.clone();
    let text = match (request.beat, request.ca) {
        (true, false) => {
            secrets.log.line(&format!("{actor} rotates the heartbeat key"));
            let rotated = tokio::spawn(async move { work.rotate().await });
            of_heartbeats(&rotated.await.map_err(|_| super::stopping())??)
        }
        (false, true) => {
            secrets.log.line(&format!("{actor} rotates the certificate authority"));
            let rotated = tokio::spawn(async move { work.rotate_authority().await });
            of_authority(&rotated.await.map_err(|_| super::stopping())??)
        }
        (beat, _) => {
            let why = if beat { "one key at a time" } else { "no key is named" };
            return Err(Failure::new(Kind::Usage, "nothing is rotated", why)
                .next("nines secret rotate --beat, or   nines secret rotate --ca")
                .into());
        }
    };
    Ok(Json(Done { index: 0, text }))
}

fn of_heartbeats(rotated: &Rotated) -> String {
    let mut text =
        format!("the heartbeat key was rotated: {} have it now", rotated.have.join(", "));
    if !rotated.later.is_empty() {
        let later = rotated.later.join(", ");
        text.push_str(&format!("; not heard, so that they get it when they come back: {later}"));
    }
    text
}

fn of_authority(standing: &Standing) -> String {
    let Standing { authority, have, .. } = standing;
    let have = have.join(", ");
    let clients = "clients of the API that verify by a copy of ca.pem need the new one, which is \
                   in the state directory of each member";
    if standing.ended {
        return format!(
            "the certificate authority was rotated: it is {authority} now; {have} have \
             certificates of it, and believe no other; join codes from before are revoked; \
             {clients}"
        );
    }
    let lacking = standing.lacking().join(", ");
    format!(
        "certificate authority {authority} is in use; {have} have certificates of it; the one \
         before is believed until these have one, too, which they get by themselves: {lacking}; \
         nines secret status   shows how far it is, nines node remove NODE   ends the wait for a \
         member that stays away; join codes from before work until then; {clients}"
    )
}
