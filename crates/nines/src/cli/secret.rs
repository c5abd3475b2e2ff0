//! `nines secret rotate`, `nines secret status`

use std::time::Duration;

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
    #[command(group = clap::ArgGroup::new("key").required(true))]
    Rotate {
        /// The key of the heartbeats.
        #[arg(long, group = "key")]
        beat: bool,
        /// The certificate authority, with the certificates of all members and real servers.
        #[arg(long, group = "key")]
        ca: bool,
    },
    /// Show which member uses which key and authority, by name, and when the certificate of this
    /// node ends.
    Status,
}

/// Runs it.
pub fn run(context: &Context, args: &SecretArgs) -> Outcome<u8> {
    match args.what {
        What::Rotate { beat, ca } => {
            let request = RotateRequest { beat, ca };
            let (path, limit) = ("/v1/secret/rotate", Duration::from_secs(60));
            let done: Done = context.client().post_within(path, &request, limit)?;
            if context.json() {
                print_json(&done);
            } else {
                outln!("{}", done.text.replace("; ", "\n"));
            }
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
    let mut rows =
        vec![["NODE", "HEARTBEAT KEY", "AUTHORITY", "ROTATION"].map(str::to_owned).to_vec()];
    let name = |name: &String| if name.is_empty() { "-".to_owned() } else { name.clone() };
    rows.extend(status.members.iter().map(|member| {
        let rotating = [
            (member.rotating, "nines secret rotate --beat"),
            (!member.also_believed.is_empty(), "nines secret rotate --ca"),
        ];
        let unfinished = rotating.iter().find(|(rotating, _)| *rotating);
        let rotation = match (member.trouble.as_str(), unfinished) {
            ("", None) => "none".to_owned(),
            ("", Some((_, command))) => format!("not ended: {command}   finishes it"),
            (trouble, _) => format!("unknown: {trouble}"),
        };
        let mut authority = name(&member.authority);
        if !member.also_believed.is_empty() {
            authority.push_str(&format!(" (also {})", member.also_believed.join(", ")));
        }
        vec![member.member.clone(), name(&member.heartbeat_key), authority, rotation]
    }));
    let mut text = columns(&rows);
    if !status.waits_for.is_empty() {
        let waits_for = status.waits_for.join("\n  ");
        let new = &status.authority;
        text.push_str(&format!(
            "\nThe authority before {new} is believed until these have a certificate of it, which \
             they\nget by themselves when they are heard. nines node remove NODE   if one stays \
             away for good.\n  {waits_for}\n"
        ));
    }
    let until = &status.certificate_until;
    format!("{text}\nThe certificate of this node ends at {until}.\n")
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
            authority: if key.is_empty() { String::new() } else { "ca1".into() },
            also_believed: Vec::new(),
        };
        let both = MemberKeys {
            also_believed: vec!["ca0".into()],
            ..member("lb3", "0a1b2c3d", false, "")
        };
        let mut status = SecretStatus {
            members: vec![
                member("lb1", "0a1b2c3d", false, ""),
                member("lb2", "0a1b2c3d", true, ""),
                member("wit1", "", false, "no answer"),
                both,
            ],
            certificate_until: "2027-03-01T00:00:00.000Z".into(),
            authority: "ca1".into(),
            ..SecretStatus::default()
        };
        let table = |status: &SecretStatus| super::table(status);
        let text = table(&status);
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["lb1", "0a1b2c3d", "ca1", "none"]);
        assert_eq!(rows[2][..5], ["lb2", "0a1b2c3d", "ca1", "not", "ended:"]);
        assert_eq!(rows[3], ["wit1", "-", "-", "unknown:", "no", "answer"]);
        assert_eq!(rows[4][..6], ["lb3", "0a1b2c3d", "ca1", "(also", "ca0)", "not"]);
        assert!(text.contains("rotate --ca   finishes it") && !text.contains("before ca1"));
        assert!(text.ends_with("ends at 2027-03-01T00:00:00.000Z.\n"), "{text}");
        status.waits_for = vec!["wit1 (no answer)".into()];
        let text = table(&status);
        assert!(text.contains("The authority before ca1 is believed until"), "{text}");
        assert!(text.contains("\n  wit1 (no answer)\n"), "{text}");
    }
}
