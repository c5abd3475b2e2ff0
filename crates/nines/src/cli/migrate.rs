//! `nines move`

use std::time::{Duration, Instant};

use clap::Args;
use nines_api::{
    failure::{Failure, Kind, Outcome},
    types::{Done, MoveRequest, Status},
};

use crate::{context::Context, output::print_json};

/// Move a service's VIP to another director.
#[derive(Args)]
pub struct MoveArgs {
    /// Service, name of a VIP, or address.
    vip: String,
    /// Director to move it to.
    #[arg(long)]
    to: String,
    /// Do not wait until the VIP has moved.
    #[arg(long)]
    no_wait: bool,
}

/// Runs `nines move`.
pub fn run(context: &Context, args: &MoveArgs) -> Outcome<u8> {
    let request = MoveRequest { vip: args.vip.clone(), to: args.to.clone() };
    let done: Done = context.client().post("/v1/move", &request)?;
    let until = Instant::now() + Duration::from_secs(10);
    if !args.no_wait {
        arrived(context, args, until)?;
    }
    if context.json() {
        print_json(&done);
    } else if args.no_wait {
        outln!("{}", done.text);
    } else {
        outln!("{} is on {}", args.vip, args.to);
    }
    Ok(0)
}

/// Waits until the log says that the VIP is there.
fn arrived(context: &Context, args: &MoveArgs, until: Instant) -> Outcome<()> {
    loop {
        let status: Status = context.client().get("/v1/status?servers=false")?;
        let service = status.services.iter().find(|s| s.name == args.vip);
        let first = service.and_then(|s| s.vips.first());
        let here = status
            .vips
            .iter()
            .find(|v| v.name == args.vip || v.address == args.vip || first == Some(&v.address));
        if here.is_some_and(|v| v.node == args.to) {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Failure::new(Kind::TimedOut, "not moved within 10 s", "")
                .next(format!("nines why {}", args.vip)));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
