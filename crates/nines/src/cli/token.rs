//! `nines token create`, `list`, `revoke`

use clap::{Args, Subcommand};
use nines_api::{
    failure::Outcome,
    text::rfc3339,
    types::{Done, TokenMade, TokenName, TokenRequest, TokenStatus},
};

use super::act::{now_ms, show, some_time};
use crate::{
    context::Context,
    output::{columns, print_json},
};

/// Tokens for the API over TLS.
#[derive(Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Make a token and print it, this once. The cluster keeps only its digest.
    Create(CreateArgs),
    /// List the tokens with their roles and ends.
    List,
    /// Revoke a token: from now on it opens nothing.
    Revoke {
        /// Name of the token.
        name: String,
    },
}

#[derive(Args)]
struct CreateArgs {
    /// Name of the token; events name it as the actor.
    name: String,
    /// What the token may do: see everything, change what runs, or everything.
    #[arg(long, value_parser = ["viewer", "operator", "admin"])]
    role: String,
    /// Time after which it ends by itself, such as "90d"; by default it is valid until it is
    /// revoked.
    #[arg(long = "for", value_name = "TIME")]
    valid: Option<String>,
}

/// Runs it.
pub fn run(context: &Context, args: &TokenArgs) -> Outcome<u8> {
    match &args.what {
        What::Create(args) => create(context, args),
        What::List => list(context),
        What::Revoke { name } => {
            let request = TokenName { name: name.clone() };
            let done: Done = context.client().post("/v1/tokens/revoke", &request)?;
            show(context, &done);
            Ok(0)
        }
    }
}

fn create(context: &Context, args: &CreateArgs) -> Outcome<u8> {
    let until_ms = match &args.valid {
        Some(text) => now_ms() + some_time("--for", text)?.0,
        None => 0,
    };
    let request = TokenRequest { name: args.name.clone(), role: args.role.clone(), until_ms };
    let made: TokenMade = context.client().post("/v1/tokens", &request)?;
    if context.json() {
        print_json(&made);
    } else {
        errln!("{}; it is printed this once, keep it in a file of mode 0600", made.text);
        outln!("{}", made.token);
    }
    Ok(0)
}

fn list(context: &Context) -> Outcome<u8> {
    let tokens: Vec<TokenStatus> = context.client().get("/v1/tokens")?;
    if context.json() {
        print_json(&serde_json::json!({ "schema": 1, "tokens": tokens }));
    } else {
        out!("{}", table(&tokens));
    }
    Ok(0)
}

fn table(tokens: &[TokenStatus]) -> String {
    let mut rows =
        vec![["TOKEN", "ROLE", "VALID UNTIL", "MADE BY", "AT"].map(str::to_owned).to_vec()];
    rows.extend(tokens.iter().map(|token| {
        let until = match (token.until_ms, token.expired) {
            (0, _) => "no end".to_owned(),
            (at, false) => rfc3339(at),
            (at, true) => format!("{} (expired)", rfc3339(at)),
        };
        let (role, made) = (token.role.to_string(), rfc3339(token.at_ms));
        vec![token.name.clone(), role, until, token.actor.clone(), made]
    }));
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use nines_model::AccessRole;

    use super::*;

    #[test]
    fn the_list_says_who_made_a_token_and_when_it_ends() {
        let token = |name: &str, until_ms, expired| TokenStatus {
            name: name.into(),
            role: AccessRole::Viewer.into(),
            until_ms,
            expired,
            actor: "alice@lb1".into(),
            at_ms: 1_000,
        };
        let text = table(&[token("ci", 0, false), token("old", 2_000, true)]);
        assert_eq!(
            text,
            "TOKEN  ROLE    VALID UNTIL                         MADE BY    AT\n\
             ci     viewer  no end                              alice@lb1  1970-01-01T00:00:01.000Z\n\
             old    viewer  1970-01-01T00:00:02.000Z (expired)  alice@lb1  1970-01-01T00:00:01.000Z\n"
        );
    }
}
