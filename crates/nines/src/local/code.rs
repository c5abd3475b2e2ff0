//! `nines code`, `nines code list`, `nines code revoke`

use clap::{Args, Subcommand};
use nines_agent::{Admits, JoinCode, PORT, StateDir, now_s};
use nines_api::{
    failure::{Failure, Kind, Outcome},
    text::{ago, rfc3339},
};
use nines_model::{Millis, names};

use crate::{
    context::Context,
    output::{columns, print_json},
};

/// How long a join code is valid if nobody says otherwise.
const DAY: Millis = Millis(86_400_000);

/// Print a new join command. Its code lets one machine in.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CodeArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// Print a code for a witness.
    #[arg(long)]
    witness: bool,
    /// Print a code for a real server; a node cannot join with it.
    #[arg(long, conflicts_with = "witness")]
    server: bool,
    /// The only name that the code admits.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// How long the code is valid.
    #[arg(long = "for", value_name = "TIME", default_value = "24h")]
    valid: String,
}

#[derive(Subcommand)]
enum What {
    /// List the join codes of this node: whom each admits, until when, who came with it.
    List,
    /// Take join codes back. Machines that came with them stay.
    Revoke {
        /// Name of a code, as `nines code list` shows it, or all.
        id: String,
    },
}

/// Runs `nines code`.
pub fn run(context: &Context, args: &CodeArgs) -> Outcome<u8> {
    let home = StateDir::at(&context.state);
    admitting(&home)?;
    match &args.what {
        Some(What::List) => list(context, &home)?,
        Some(What::Revoke { id }) => revoke(context, &home, id)?,
        None => {
            let admits = match (args.server, args.witness) {
                (true, _) => Admits::Server,
                (_, true) => Admits::Witness,
                _ => Admits::Director,
            };
            let node = args.node.as_deref().unwrap_or_default();
            if !node.is_empty() && !names::is_name(node) {
                let why = "a name has 1 to 63 letters, digits, dots, dashes and _";
                return Err(Failure::new(Kind::Usage, format!("\"{node}\" is no name"), why)
                    .next("nines code --node lb3"));
            }
            let valid = crate::cli::act::some_time("--for", &args.valid)?;
            print(context, &home, admits, node, valid)?;
        }
    }
    Ok(0)
}

/// Refuses where no machine can be let in.
pub fn can_admit(context: &Context) -> Outcome<()> {
    admitting(&StateDir::at(&context.state))
}

fn admitting(home: &StateDir) -> Outcome<()> {
    let identity = home.identity()?;
    let why = if identity.server {
        "a real server cannot let machines join"
    } else if identity.witness {
        "a witness cannot let machines join"
    } else {
        return Ok(());
    };
    Err(Failure::new(Kind::Usage, why, "it has not the key of the certificate authority")
        .next("nines code   on a director"))
}

/// Prints how another machine joins under the name of a member that has left.
pub fn print_for(context: &Context, name: &str, witness: bool) -> Outcome<u8> {
    let admits = if witness { Admits::Witness } else { Admits::Director };
    print(context, &StateDir::at(&context.state), admits, name, DAY)?;
    Ok(0)
}

/// Prints how a second machine joins a cluster that was just made.
pub fn print_first(context: &Context, home: &StateDir) -> Outcome<()> {
    print(context, home, Admits::Director, "", DAY)?;
    if !context.json() {
        outln!(
            "Each machine needs a code of its own:\n  nines code             for another director\n  \
             nines code --witness   for a witness\n  nines code --server    for a real server"
        );
    }
    Ok(())
}

fn print(
    context: &Context,
    home: &StateDir,
    admits: Admits,
    node: &str,
    valid: Millis,
) -> Outcome<()> {
    let identity = home.identity()?;
    let (code, kept) = home.new_code(admits, node, (valid.0 / 1_000).max(1), now_s())?;
    let me = &identity.me;
    let port = if me.port == PORT { String::new() } else { format!(":{}", me.port) };
    if context.json() {
        print_json(&serde_json::json!({
            "schema": 1, "cluster": identity.cluster, "node": me.name,
            "address": format!("{}{port}", me.addresses[0]), "code": code,
            "code_until": kept.until, "id": kept.id, "admits": kept.admits,
        }));
        return Ok(());
    }
    let named = if node.is_empty() { String::new() } else { format!(" --node {node}") };
    let machine = match admits {
        Admits::Director | Admits::Node => "director",
        Admits::Witness => "witness",
        Admits::Server => "real server",
    };
    outln!(
        "On the new {machine}, within {}:\n  nines join {}{port} {code}{named}{}",
        if valid == DAY { "a day".to_owned() } else { valid.to_string() },
        me.addresses[0],
        admits.option()
    );
    Ok(())
}

fn list(context: &Context, home: &StateDir) -> Outcome<()> {
    let now = now_s();
    let codes = home.codes(now)?;
    if context.json() {
        let one = |code: &JoinCode| {
            let over = code.over(now).map(|why| why.to_string());
            serde_json::json!({
                "id": code.id, "admits": code.admits, "node": code.node, "made": code.made,
                "until": code.until, "used_by": code.used_by, "revoked": code.revoked,
                "over": over,
            })
        };
        let codes: Vec<_> = codes.iter().map(one).collect();
        print_json(&serde_json::json!({ "schema": 1, "codes": codes }));
        return Ok(());
    }
    out!("{}", table(&codes, now));
    Ok(())
}

fn table(codes: &[JoinCode], now: u64) -> String {
    if codes.is_empty() {
        return "This node has no join codes. nines code prints one.\n".into();
    }
    let titles = ["CODE", "ADMITS", "NODE", "MADE", "STATE"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(codes.iter().map(|code| {
        let state = match code.over(now) {
            None => format!("valid until {}", rfc3339(code.until * 1_000)),
            Some(_) if code.revoked => "revoked".into(),
            Some(_) if code.used_by.is_empty() => "ended".into(),
            Some(_) => format!("used by {}", code.used_by),
        };
        let node = if code.node.is_empty() { "any" } else { &code.node };
        let admits = code.admits.words().trim_start_matches("a ").to_owned();
        let made = format!("{} ago", ago(now.saturating_sub(code.made)));
        vec![code.id.clone(), admits, node.into(), made, state]
    }));
    columns(&rows)
}

fn revoke(context: &Context, home: &StateDir, id: &str) -> Outcome<()> {
    let all = id == "all";
    let gone = home.revoke_codes((!all).then_some(id), now_s())?;
    if gone.is_empty() && !all {
        let why = "it is unknown here, or admits nobody any more";
        return Err(Failure::new(Kind::NotFound, format!("no join code {id} to revoke"), why)
            .next("nines code list"));
    }
    if context.json() {
        print_json(&serde_json::json!({ "schema": 1, "revoked": gone }));
    } else if gone.is_empty() {
        outln!("no join code was valid");
    } else {
        outln!("revoked: {}", gone.join(" "));
    }
    Ok(())
}
