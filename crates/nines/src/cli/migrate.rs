//! `nines move`

use std::time::{Duration, Instant};

use clap::Args;

use super::{Context, actor};
use crate::{
    api::types::{Done, MoveRequest, Status},
    failure::{Failure, Kind, Outcome},
};

/// Move a service's VIP to a node, planned.
#[derive(Args)]
pub struct MoveArgs {
    /// Service, VIP's name or address.
    vip: String,
    /// Node.
    #[arg(long)]
    to: String,
    /// Do not wait for it.
    #[arg(long)]
    no_wait: bool,
}

/// Runs it.
pub fn run(context: &Context, args: &MoveArgs) -> Outcome<u8> {
    let request = MoveRequest { vip: args.vip.clone(), to: args.to.clone(), actor: actor() };
    let done: Done = context.client().post("/v1/move", &request)?;
    let until = Instant::now() + Duration::from_secs(10);
    while !args.no_wait {
        let status: Status = context.client().get("/v1/status")?;
        let on = |v: &&crate::api::types::VipStatus| {
            v.name == args.vip
                || v.address == args.vip
                || status.services.iter().any(|s| {
                    s.name == args.vip && s.listen.starts_with(&v.address)
                        || s.listen.starts_with(&format!("[{}]", v.address)) && s.name == args.vip
                })
        };
        if status.vips.iter().find(on).is_some_and(|v| v.node == args.to) {
            break;
        }
        if Instant::now() > until {
            return Err(Failure::new(Kind::TimedOut, "not moved within 10 s", "")
                .next(format!("nines why {}", args.vip)));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    if context.json() {
        super::print_json(&done);
    } else if args.no_wait {
        println!("{}", done.text);
    } else {
        println!("{} is on {}", args.vip, args.to);
    }
    Ok(0)
}
