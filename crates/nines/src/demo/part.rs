//! What runs inside the demo's hosts.

use std::path::Path;

use axum::{Router, http::StatusCode};
use nines_api::failure::{Failure, Kind, Outcome};

/// A web server that says its name.
pub fn web(listen: std::net::SocketAddr, name: &str, broken: &Path) -> Outcome<u8> {
    let failed = |e: std::io::Error| Failure::new(Kind::Io, format!("cannot serve on {listen}"), e);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (name, broken) = (format!("{name}\n"), broken.to_owned());
    runtime.block_on(async move {
        let answer = move || {
            let (name, broken) = (name.clone(), broken.exists());
            async move {
                if broken {
                    (StatusCode::INTERNAL_SERVER_ERROR, name)
                } else {
                    (StatusCode::OK, name)
                }
            }
        };
        let listener = tokio::net::TcpListener::bind(listen).await.map_err(failed)?;
        axum::serve(listener, Router::new().fallback(answer)).await.map_err(failed)?;
        Ok(0)
    })
}

/// Uses a CPU until it is killed.
pub fn busy() -> Outcome<u8> {
    loop {
        std::hint::black_box(0);
    }
}
