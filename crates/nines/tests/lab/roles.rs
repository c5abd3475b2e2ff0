//! Who may do what: users of a node by their groups, and tokens over TLS.

use std::{
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Output, Stdio},
};

use super::{BINARY, Net, can_run, text};

/// A user that no file knows.
const USER: u32 = 54_321;
const CLUSTER: &str = "[cluster]\nname = \"lab\"\n[nodes]\nlb1 = \"10.97.123.2\"\n[service.web]\n\
                       listen = \"10.97.123.100:80\"\ncheck = \"none\"\n\
                       servers = { r1 = \"10.97.123.11\", r2 = \"10.97.123.12\" }\n";
const API: &str = "10.97.123.2:9120";

/// The binary where every user may run it.
fn for_everybody(net: &Net) -> PathBuf {
    let path = net.home.join("nines");
    if std::fs::hard_link(BINARY, &path).is_err() {
        std::fs::copy(BINARY, &path).unwrap();
    }
    path
}

/// Runs nines on lb1 as a user in this group.
fn as_member(net: &Net, group: u32, words: &[&str]) -> Output {
    let line = net.command("lb1", words);
    let mut command = std::process::Command::new(net.home.join("nines"));
    command.args(line.get_args()).uid(USER).gid(group).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    net.lab.spawn("lb1", command).unwrap().wait_with_output().unwrap()
}

fn is_refused(out: &Output, why: &str) {
    let told = text(&out.stderr);
    assert_eq!(out.status.code(), Some(8), "{told}");
    assert!(told.contains(why) && told.contains("next: "), "{told}");
}

fn is_done(out: &Output) -> String {
    assert!(out.status.success(), "{}", text(&out.stderr));
    text(&out.stdout)
}

fn lone(net: &mut Net, more: &[&str]) {
    net.ok("lb1", &["init", "lab", "--node", "lb1", "--address", "10.97.123.2"]);
    net.start_with("lb1", more);
    let file = net.write("cluster.toml", CLUSTER);
    net.ok("lb1", &["apply", "-y", &file]);
}

#[test]
fn groups_of_users_may_what_the_config_says() {
    if !can_run() {
        return;
    }
    let mut net = Net::new(&[("lb1", &[("br0", "10.97.123.2/24")])]);
    for_everybody(&net);
    lone(&mut net, &[]);
    // Without roles: whom the socket lets in, and nobody else.
    is_refused(&as_member(&net, 61_001, &["status"]), "no agent answers");
    let roles = "[access]\nviewer = [\"61001\"]\noperator = [\"61002\"]\nadmin = [\"61003\"]\n";
    let file = net.write("roles.toml", &format!("{CLUSTER}{roles}"));
    let plan = net.ok("lb1", &["plan", &file]);
    assert!(plan.contains("access") && plan.contains("operator 61002"), "{plan}");
    net.ok("lb1", &["apply", "-y", &file]);
    net.until("members of the groups may connect", |n| {
        as_member(n, 61_001, &["status"]).status.success()
    });
    let plain = net.write("plain.toml", CLUSTER);
    for file in [&file, &plain] {
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .unwrap();
    }
    // A viewer sees, an operator drains, an admin applies.
    let viewer = |words: &[&str]| as_member(&net, 61_001, words);
    let operator = |words: &[&str]| as_member(&net, 61_002, words);
    for words in [&["events"][..], &["why", "web"], &["config", "show"], &["metrics"]] {
        is_done(&viewer(words));
    }
    is_done(&viewer(&["plan", &plain]));
    is_refused(&viewer(&["drain", "r1"]), "needs the role operator");
    is_refused(&viewer(&["move", "web", "--to", "lb1"]), "needs the role operator");
    is_refused(&viewer(&["apply", "-y", &plain]), "needs the role admin");
    is_done(&operator(&["drain", "r1", "--reason", "new kernel"]));
    for words in [
        &["apply", "-y", &plain][..],
        &["node", "remove", "lb1"],
        &["fence", "off", "lb1", "-y"],
        &["fence", "confirm", "lb1", "-y"],
        &["token", "create", "x", "--role", "viewer"],
        &["token", "list"],
    ] {
        is_refused(&operator(words), "needs the role admin");
    }
    is_refused(&as_member(&net, 61_009, &["status"]), "has no role");
    let status = net.status("lb1");
    assert_eq!(status["revision"], 3, "{status:#}");
    // The history has the user as the kernel names it, and the log the one who was refused.
    let events = net.ok("lb1", &["events"]);
    assert!(events.contains("uid 54321@lb1"), "{events}");
    let log = net.log("lb1");
    for line in [
        "refused: uid 54321@lb1 is viewer and asked for apply, which needs admin",
        "refused: uid 54321@lb1 is operator and asked for remove, which needs admin",
        "refused: uid 54321@lb1 has no role and asked for status, which needs viewer",
    ] {
        assert!(log.contains(line), "no \"{line}\" in\n{log}");
    }
    // An admin takes the roles away, and the socket is shut for others again.
    is_done(&as_member(&net, 61_003, &["apply", "-y", &plain]));
    is_refused(&viewer(&["drain", "r2"]), "");
    net.until("the socket is shut", |n| {
        text(&as_member(n, 61_001, &["status"]).stderr).contains("no agent answers")
    });
}

#[test]
fn tokens_open_the_api_of_every_node_until_they_are_revoked() {
    if !can_run() {
        return;
    }
    let mut net = Net::new(&[
        ("client", &[("br0", "10.97.123.1/24")]),
        ("lb1", &[("br0", "10.97.123.2/24")]),
    ]);
    lone(&mut net, &["--api", API]);
    let ca = net.home.join("lb1/ca.pem").display().to_string();
    let url = format!("https://{API}");
    let ask = |net: &Net, token: &str, words: &[&str]| {
        let file = net.write("token", token);
        let line = ["--server", &url, "--token-file", &file, "--ca", &ca];
        net.nines("client", &[&line[..], words].concat())
    };
    let make = |net: &Net, name: &str, role: &str| {
        net.ok("lb1", &["token", "create", name, "--role", role, "--for", "1h"]).trim().to_owned()
    };
    let (viewer, operator) = (make(&net, "grafana", "viewer"), make(&net, "deploy", "operator"));
    assert!(viewer.starts_with("nines_") && viewer.len() == 70 && viewer != operator);
    net.fails("lb1", &["token", "create", "deploy", "--role", "viewer"], 6);
    let status = is_done(&ask(&net, &format!("{viewer}\n"), &["status", "-o", "json"]));
    assert!(status.contains("\"cluster\": \"lab\""), "{status}");
    is_refused(&ask(&net, &viewer, &["drain", "r1"]), "needs the role operator");
    is_done(&ask(&net, &operator, &["drain", "r1"]));
    let events = net.ok("lb1", &["events"]);
    assert!(events.contains("token deploy@lb1"), "{events}");
    is_refused(&ask(&net, &operator, &["token", "list"]), "needs the role admin");
    let list = net.ok("lb1", &["token", "list"]);
    assert!(list.contains("grafana") && !list.contains("nines_"), "{list}");
    // The log on disk has digests only.
    let log = std::fs::read(net.home.join("lb1/log.redb")).unwrap();
    let secret = &viewer.as_bytes()[6..];
    assert!(!log.windows(secret.len()).any(|window| window == secret));
    // Without a token; of another cluster; commands of this machine; revoked.
    let bare = net.nines("client", &["--server", &url, "--ca", &ca, "status"]);
    is_refused(&bare, "this needs a token");
    net.ok("client", &["init", "other", "--node", "x", "--address", "10.97.123.1"]);
    let file = net.write("token", &viewer);
    let line = ["--server", &url, "--token-file", &file, "status"];
    is_refused(&net.nines("client", &line), "not of this cluster");
    net.fails("client", &["--server", &url, "--ca", &ca, "doctor"], 2);
    net.ok("lb1", &["token", "revoke", "grafana"]);
    is_refused(&ask(&net, &viewer, &["status"]), "this token is not valid");
    // It is kept over a restart.
    let mut agent = net.agents.remove("lb1").unwrap();
    nines_lab::kill(&mut agent);
    net.start_with("lb1", &["--api", API]);
    // It has read its log again in a moment.
    net.until("the token is known again", |n| ask(n, &operator, &["status"]).status.success());
    for _ in 0..12 {
        assert_eq!(ask(&net, "nines_wrong", &["status"]).status.code(), Some(8));
    }
    is_refused(&ask(&net, "nines_wrong", &["status"]), "too many wrong tokens");
    assert!(ask(&net, &operator, &["status"]).status.success(), "a valid one is no guess");
    // The authority is rotated: a copy of its certificate from before is worth nothing.
    let old = net.write("old.pem", &std::fs::read_to_string(&ca).unwrap());
    let told = net.ok("lb1", &["secret", "rotate", "--ca"]);
    assert!(told.contains("clients of the API") && told.contains("need the new one"), "{told}");
    is_done(&ask(&net, &operator, &["status"]));
    let file = net.write("token", &operator);
    let line = ["--server", &url, "--token-file", &file, "--ca", &old, "status"];
    is_refused(&net.nines("client", &line), "not of this cluster");
}
