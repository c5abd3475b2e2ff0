//! `nines events`

use clap::Args;
use nines_api::{
    client::percent_encoded,
    failure::{Failure, Kind, Outcome},
    types::Event,
};

use crate::{
    context::Context,
    output::{columns, print_json},
};

/// List what happened in the cluster.
#[derive(Args)]
pub struct EventsArgs {
    /// List only events about this service, node or server.
    #[arg(long)]
    about: Option<String>,
    /// Maximum number of events; the newest are listed.
    #[arg(short = 'n', long, default_value_t = 50, value_parser = at_least_one)]
    limit: usize,
    /// List only the last change of holder and what led to it.
    #[arg(long)]
    last_failover: bool,
}

fn at_least_one(word: &str) -> Result<usize, String> {
    match word.parse() {
        Ok(0) => Err("write 1 or more".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("not a number".into()),
    }
}

/// Local time of day, ms.
pub fn clock(at_ms: u64) -> String {
    jiff::Timestamp::from_millisecond(at_ms as i64).map_or_else(
        |_| String::new(),
        |t| t.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S%.3f").to_string(),
    )
}

/// Runs `nines events`.
pub fn run(context: &Context, args: &EventsArgs) -> Outcome<u8> {
    let client = context.client();
    let events: Vec<Event> = if args.last_failover {
        let chain: Vec<Event> = client.get("/v1/events?last_failover=true")?;
        if chain.is_empty() {
            return Err(Failure::new(Kind::No, "no VIP has ever changed its holder", "")
                .next("nines status"));
        }
        chain
    } else {
        let about = args
            .about
            .as_deref()
            .map_or_else(String::new, |a| format!("&about={}", percent_encoded(a)));
        client.get(&format!("/v1/events?limit={}{about}", args.limit))?
    };
    if context.json() {
        print_json(&events);
        return Ok(0);
    }
    let row = |e: &Event| {
        vec![clock(e.at_ms), e.kind.clone(), e.text.clone(), e.node.clone(), e.actor.clone()]
    };
    out!("{}", columns(&events.iter().map(row).collect::<Vec<_>>()));
    Ok(0)
}
