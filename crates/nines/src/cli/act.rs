//! `nines drain`, `undrain`, `standby`, `ready`

use std::time::{Duration, Instant};

use clap::Args;
use nines_api::{
    failure::{Failure, Kind, Outcome},
    types::{ActRequest, Done, Status},
};
use nines_model::{AdminCommand, Codes as _, Millis, SafetyRule};

use crate::{context::Context, output::print_json};

/// Set something, until it is undone.
#[derive(Args)]
pub struct SetArgs {
    /// Real servers: "r2" is the server of that name in every service, "web/r2" the one in web. For
    /// standby: directors.
    #[arg(required = true)]
    subjects: Vec<String>,
    /// Reason in your words; every node shows it.
    #[arg(long, default_value = "")]
    reason: String,
    /// Time after which it ends by itself, such as "2h".
    #[arg(long)]
    until: Option<String>,
    /// Wait until no connection is left (drain) or no VIP (standby).
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "60s")]
    wait: Option<String>,
    /// Do it although this safety rule forbids it.
    #[arg(long, value_name = "RULE", value_parser = ["last-server", "last-director"])]
    force: Option<String>,
}

/// End a drain or a standby.
#[derive(Args)]
pub struct UnsetArgs {
    /// Real servers, or for ready directors: named as when they were drained or set on standby.
    #[arg(required = true)]
    subjects: Vec<String>,
}

fn length(text: &str) -> Outcome<Millis> {
    Millis::parse(text).map_err(|why| Failure::new(Kind::Usage, "not understood", why))
}

/// The time, in ms since 1970.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_millis() as u64)
}

/// Prints what the cluster answered.
pub fn show(context: &Context, done: &Done) {
    if context.json() {
        print_json(done);
    } else {
        outln!("{}", done.text);
    }
}

/// A length of time that is not zero.
pub fn some_time(option: &str, text: &str) -> Outcome<Millis> {
    match length(text)? {
        Millis(0) => {
            Err(Failure::new(Kind::Usage, format!("{option} {text} is not a valid time"), "")
                .next(format!("{option} 2h")))
        }
        time => Ok(time),
    }
}

/// A safety rule that the other command has.
fn foreign_rule(admin: AdminCommand, rule: &str) -> Option<Failure> {
    let own = admin.rule();
    (SafetyRule::from_code(rule) != Some(own)).then(|| {
        let what = format!("nines {admin} has no rule {rule}");
        Failure::new(Kind::Usage, what, "").next(format!("its only rule is --force={own}"))
    })
}

/// `drain` and `standby`
pub fn set(context: &Context, admin: AdminCommand, args: &SetArgs) -> Outcome<u8> {
    let until_ms = match &args.until {
        Some(text) => now_ms() + some_time("--until", text)?.0,
        None => 0,
    };
    let wait = args.wait.as_deref().map(|text| some_time("--wait", text)).transpose()?;
    if let Some(failure) = args.force.as_deref().and_then(|rule| foreign_rule(admin, rule)) {
        return Err(failure);
    }
    let request = ActRequest {
        verb: admin.code().into(),
        subjects: args.subjects.clone(),
        reason: args.reason.clone(),
        until_ms,
        force: args.force.clone(),
    };
    let done: Done = context.client().post("/v1/act", &request)?;
    // One JSON object for programs: the result, or what went wrong while it was waited for.
    if !context.json() {
        show(context, &done);
    }
    if let Some(limit) = wait {
        wait_for(context, admin, &args.subjects, limit)?;
    }
    if context.json() {
        show(context, &done);
    }
    Ok(0)
}

fn wait_for(
    context: &Context,
    admin: AdminCommand,
    subjects: &[String],
    limit: Millis,
) -> Outcome<()> {
    let until = Instant::now() + Duration::from_millis(limit.0);
    loop {
        let status: Status = context.client().get("/v1/status")?;
        let left = if admin.is_of_servers() {
            let mut open = 0;
            for service in &status.services {
                for server in &service.servers {
                    let full = format!("{}/{}", service.name, server.name);
                    if subjects.iter().any(|s| *s == server.name || *s == full) {
                        open += server.traffic.active;
                    }
                }
            }
            (open > 0).then(|| format!("{open} connections are left"))
        } else {
            let holds: Vec<&str> = status
                .nodes
                .iter()
                .filter(|n| subjects.contains(&n.name) && !n.holds.is_empty())
                .map(|n| n.name.as_str())
                .collect();
            (!holds.is_empty()).then(|| format!("{} still holds VIPs", holds.join(", ")))
        };
        let Some(left) = left else {
            if !context.json() {
                errln!("done");
            }
            return Ok(());
        };
        if Instant::now() >= until {
            return Err(Failure::new(Kind::TimedOut, format!("{left} after {limit}"), "")
                .next("it goes on; nines status shows how far it is"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// `undrain` and `ready`
pub fn unset(context: &Context, admin: AdminCommand, args: &UnsetArgs) -> Outcome<u8> {
    let request = ActRequest {
        verb: admin.code().into(),
        subjects: args.subjects.clone(),
        ..ActRequest::default()
    };
    show(context, &context.client().post("/v1/act", &request)?);
    Ok(0)
}
