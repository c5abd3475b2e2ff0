//! `nines guard`

use nines_api::failure::{Failure, Kind, Outcome};

use crate::context::Context;

/// Feeds this machine's watchdog until it is told to end.
pub fn run(context: &Context) -> Outcome<u8> {
    nines_agent::feed_watchdog(&context.socket)
        .map_err(|why| Failure::new(Kind::Io, "the watchdog is not fed", why))?;
    Ok(0)
}
