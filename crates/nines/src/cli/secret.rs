//! `nines secret rotate`, `nines secret status`

use clap::{Args, Subcommand};
use nines_api::{
    failure::Outcome,
    types::{Done, RotateRequest, SecretStatus},
};

use crate::{
    context::Context,
    output::{columns, print_json},
};

/// Keys of the cluster.
#[derive(Args)]
pub struct SecretArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Make a new key, have all members use it, and forget the old one. No VIP moves.
    Rotate {
        /// The key of the heartbeats.
        #[arg(long, required = true)]
        beat: bool,
    },
    /// Show which member uses which key, by name, and when the certificate of this node ends.
    Status,
}

/// Runs it.
pub fn run(context: &Context, args: &SecretArgs) -> Outcome<u8> {
    match args.what {
        What::Rotate { beat } => {
            let request = RotateRequest { beat };
            let done: Done = context.client().post("/v1/secret/rotate", &request)?;
            super::act::show(context, &done);
        }
        What::Status => {
            let status: SecretStatus = context.client().get("/v1/secret")?;
            if context.json() {
                print_json(&status);
            } else {
                out!("{}", table(&status));
            }
        }
    }
    Ok(0)
}

fn table(status: &SecretStatus) -> String {
    let mut rows = vec![["NODE", "HEARTBEAT KEY", "ROTATION"].map(str::to_owned).to_vec()];
    rows.extend(status.members.iter().map(|member| {
        let rotation = match (member.trouble.as_str(), member.rotating) {
            ("", false) => "none".to_owned(),
            ("", true) => "not ended: nines secret rotate --beat   finishes it".to_owned(),
            (trouble, _) => format!("unknown: {trouble}"),
        };
        let key = match member.heartbeat_key.as_str() {
            "" => "-".to_owned(),
            key => key.to_owned(),
        };
        vec![member.member.clone(), key, rotation]
    }));
    let until = &status.certificate_until;
    format!("{}\nThe certificate of this node ends at {until}.\n", columns(&rows))
}

#[cfg(test)]
mod tests {
    use nines_api::types::MemberKeys;

    use super::*;

    #[test]
    fn the_table_names_keys_and_what_is_not_finished() {
        let member = |member: &str, key: &str, rotating, trouble: &str| MemberKeys {
            member: member.into(),
            heartbeat_key: key.into(),
            rotating,
            trouble: trouble.into(),
        };
        let status = SecretStatus {
            members: vec![
                member("lb1", "0a1b2c3d", false, ""),
                member("lb2", "0a1b2c3d", true, ""),
                member("wit1", "", false, "no answer"),
            ],
            certificate_until: "2027-03-01T00:00:00.000Z".into(),
            ..SecretStatus::default()
        };
        let table = table(&status);
        let rows: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["lb1", "0a1b2c3d", "none"]);
        assert_eq!(rows[2][..4], ["lb2", "0a1b2c3d", "not", "ended:"]);
        assert_eq!(rows[3], ["wit1", "-", "unknown:", "no", "answer"]);
        assert!(table.ends_with("ends at 2027-03-01T00:00:00.000Z.\n"), "{table}");
    }
}
