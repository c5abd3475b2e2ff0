//! `GET /v1/backup`: the replicated state as a file.
//!
//! Decides: nothing; `crate::backup` says what is in it.

use axum::{
    extract::State as Shared,
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use nines_api::types::Problem;

use super::{Sight, elsewhere, stopping};
use crate::{backup::Taken, convert::Answer};

#[utoipa::path(
    get,
    path = "/v1/backup",
    responses(
        (status = 200, content_type = "application/octet-stream"),
        (status = 503, body = Problem)
    )
)]
pub async fn get_backup(Shared(sight): Shared<Sight>) -> Answer<Response> {
    let generation = sight.credentials.identity.generation;
    let look = move |node: &nines_core::Node, now| Taken::of(node, now, generation);
    let taken = sight.core.inspect(look).await.ok_or_else(stopping)?;
    let backup = elsewhere(move || taken.backup().map(|backup| backup.encoded())).await??;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], backup).into_response())
}
