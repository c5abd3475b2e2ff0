//! Failures where they cross a border: of the kernel into the API's, of the API into HTTP's.
//!
//! Decides: which exit code a refusal of the kernel has, and which HTTP status a failure.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use nines_api::failure::{Failure, Kind};
use nines_core::action::Refusal;

/// A refusal of the kernel, as a failure with its exit code.
pub fn kernel_failure(e: nines_dataplane::Error) -> Failure {
    let denied = e.why.contains("os error 1)") || e.why.contains("os error 13)");
    let kind = if denied { Kind::Denied } else { Kind::Io };
    Failure { kind, what: e.what, why: e.why, next: e.next, errors: Vec::new() }
}

/// A refusal in words.
pub fn refusal_text(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NoQuorum(why)
        | Refusal::Changed(why)
        | Refusal::NotFound(why)
        | Refusal::Unsafe(why)
        | Refusal::Invalid(why)
        | Refusal::Differs(why) => why.clone(),
    }
}

/// A failure as HTTP answers it.
pub struct HttpFailure(Failure);

/// What a handler gives.
pub type Answer<T> = Result<T, HttpFailure>;

impl From<Failure> for HttpFailure {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for HttpFailure {
    fn into_response(self) -> Response {
        let status = match self.0.kind {
            Kind::Usage | Kind::No => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::Unreachable | Kind::TimedOut => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Unsafe | Kind::Changed => StatusCode::CONFLICT,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Denied => StatusCode::FORBIDDEN,
            Kind::Io => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self.0.problem())).into_response()
    }
}
