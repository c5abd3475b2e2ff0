//! The command line without a cluster: help, bad files, bad words. Needs no root.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

fn nines(args: &[&str]) -> Output {
    let nowhere = std::env::temp_dir().join("nines-test-nowhere");
    Command::new(env!("CARGO_BIN_EXE_nines"))
        .args(args)
        .env("NINES_SOCKET", nowhere.join("sock"))
        .env("NINES_STATE", nowhere.join("state"))
        .output()
        .unwrap()
}

fn told(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("nines-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_typo_is_shown_with_its_place_and_the_word_meant() {
    let path = file(
        "typo.toml",
        "[cluster]\nname = \"web\"\n\n[service.web]\nlisten = \"10.0.0.100:80/tcp\"\n\
         shceduler = \"rr\"\nservers = { r1 = \"10.0.0.11\", r2 = \"10.0.0.300\" }\n",
    );
    let out = nines(&["config", "check", path.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(2));
    let text = told(&out);
    for wanted in [
        "unknown key \"shceduler\"",
        "did you mean \"scheduler\"?",
        ":6:1",
        "shceduler = \"rr\"",
        "\"10.0.0.300\" is not a valid address",
        ":7:36",
        "2 errors",
        "nothing was applied",
    ] {
        assert!(text.contains(wanted), "no {wanted} in\n{text}");
    }
    for command in ["plan", "apply"] {
        let out = nines(&[command, path.to_str().unwrap()]);
        assert_eq!(out.status.code(), Some(2), "{command} reads the file before it asks anybody");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn two_services_on_one_address_are_refused() {
    let path = file(
        "two.toml",
        "[cluster]\nname = \"w\"\n[service.a]\nlisten = \"10.0.0.9:80\"\nservers = { r = \"10.0.0.1\" }\n\
         [service.b]\nlisten = \"10.0.0.9:80\"\nservers = { r = \"10.0.0.1\" }\n",
    );
    let out = nines(&["config", "check", path.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(2));
    assert!(told(&out).contains("service a listens on 10.0.0.9:80/tcp already"));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn without_an_agent_every_command_says_what_to_do() {
    for words in [
        &["status"][..],
        &["why", "web"],
        &["events"],
        &["drain", "r1"],
        &["move", "web", "--to", "lb2"],
        &["agent"],
        &["code"],
    ] {
        let out = nines(words);
        assert_eq!(out.status.code(), Some(3), "{words:?}: {}", told(&out));
        assert!(told(&out).contains("next: "), "{words:?}: {}", told(&out));
    }
    let out = nines(&["status", "-o", "json"]);
    let problem: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(problem["type"], "urn:nines:unreachable");
}

#[test]
fn bad_words_are_usage_errors() {
    assert_eq!(nines(&["stauts"]).status.code(), Some(2));
    assert!(told(&nines(&["stauts"])).contains("status"));
    let out = nines(&["join", "10.0.0.1", "not-a-code"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(told(&out).contains("is not a valid join code"));
    assert_eq!(nines(&["join", "nowhere", "x"]).status.code(), Some(2));
    assert_eq!(nines(&["config", "check", "/no/such/file"]).status.code(), Some(5));
    assert_eq!(nines(&["drain", "r1", "--until", "soon"]).status.code(), Some(2));
    assert_eq!(nines(&["init", "bad name"]).status.code(), Some(2));
}

#[test]
fn help_always_works() {
    for words in [
        &["--help"][..],
        &["help", "exit-codes"],
        &["help", "api"],
        &["help", "keys"],
        &["config", "schema"],
        &["help", "completions", "bash"],
        &["drain", "--help"],
        &["version"],
    ] {
        let out = nines(words);
        assert_eq!(out.status.code(), Some(0), "{words:?}");
        assert!(!out.stdout.is_empty());
    }
    let schema = nines(&["config", "schema"]).stdout;
    let schema: serde_json::Value = serde_json::from_slice(&schema).unwrap();
    assert_eq!(
        schema["properties"]["service"]["additionalProperties"]["additionalProperties"],
        false
    );
    let api: serde_json::Value = serde_json::from_slice(&nines(&["help", "api"]).stdout).unwrap();
    assert!(api["paths"]["/v1/status"].is_object());
}

/// As a user without rights, whoever runs the tests; the home is that user's own.
fn as_nobody(home: &std::path::Path, args: &[&str]) -> Output {
    // SAFETY is not needed: `id` tells who we are.
    let uid = Command::new("id").arg("-u").output().unwrap().stdout;
    let binary = home.join("nines");
    std::fs::copy(env!("CARGO_BIN_EXE_nines"), &binary).unwrap();
    let mut command = if uid == b"0\n" {
        std::os::unix::fs::chown(home, Some(65_534), Some(65_534)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(binary);
        command
    } else {
        Command::new(binary)
    };
    command.env("NINES_SOCKET", home.join("sock")).env("NINES_STATE", home.join("state"));
    command.args(args).output().unwrap()
}

#[test]
fn without_root_the_demo_and_the_agent_say_so() {
    let home = std::env::temp_dir().join(format!("nines-{}-nobody", std::process::id()));
    std::fs::create_dir_all(&home).unwrap();
    let demo = as_nobody(&home, &["demo"]);
    let init = as_nobody(&home, &["init", "web", "--node", "lb1", "--address", "127.0.0.1"]);
    let agent = as_nobody(&home, &["agent"]);
    let left = home.join("sock").exists();
    std::fs::remove_dir_all(&home).unwrap();
    assert_eq!(demo.status.code(), Some(8), "{}", told(&demo));
    assert!(told(&demo).contains("sudo nines demo"));
    assert_eq!(init.status.code(), Some(0), "{}", told(&init));
    assert_eq!(agent.status.code(), Some(8), "{}", told(&agent));
    assert!(told(&agent).contains("next: ") && !left, "{}", told(&agent));
    assert_eq!(nines(&["demo", "--export", "/no/such/dir/x"]).status.code(), Some(9));
}

#[test]
fn init_tells_programs_how_others_join() {
    let home = std::env::temp_dir().join(format!("nines-init-{}", std::process::id()));
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_nines"))
        .arg("--state")
        .arg(&home)
        .args(["init", "shop", "--node", "lb1", "--address", "127.0.0.1", "-o", "json"])
        .output()
        .unwrap();
    let _ = std::fs::remove_dir_all(&home);
    let said: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((said["cluster"].as_str(), said["node"].as_str()), (Some("shop"), Some("lb1")));
    assert_eq!(said["address"], "127.0.0.1", "{said}");
    assert!(said["code"].as_str().is_some_and(|code| code.len() > 20), "{said}");
}

/// Runs with a stdout that nobody reads.
fn into_a_closed_pipe(args: &[&str]) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let nowhere = std::env::temp_dir().join("nines-test-nowhere");
    Command::new(env!("CARGO_BIN_EXE_nines"))
        .args(args)
        .env("NINES_SOCKET", nowhere.join("sock"))
        .env("NINES_STATE", nowhere.join("state"))
        .stdout(writer)
        .output()
        .unwrap()
}

#[test]
fn a_closed_pipe_ends_every_command_quietly() {
    use std::os::unix::process::ExitStatusExt as _;
    for words in [
        &["--help"][..],
        &["help", "exit-codes"],
        &["help", "drain"],
        &["help", "completions", "zsh"],
        &["config", "schema"],
        &["status", "-o", "json"],
        &["bogus", "-o", "json"],
        &["ipvsadm", "--help"],
        &["version"],
    ] {
        let out = into_a_closed_pipe(words);
        assert_eq!(told(&out), "", "{words:?}");
        assert_eq!(out.status.signal(), Some(13), "{words:?}: {:?}", out.status);
    }
}

#[test]
fn a_result_that_cannot_be_written_is_told() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_nines"))
        .args(["help", "exit-codes"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(9));
    assert!(told(&out).contains("cannot be written"), "{}", told(&out));
}

#[test]
fn json_is_json_whatever_happens() {
    let good = file("good.toml", "[cluster]\nname = \"w\"\n[nodes]\nlb1 = \"10.0.0.2\"\n");
    let bad = file("bad.toml", "[cluster]\nname = \"w\"\nnodez = 1\n[nodes]\nlb1 = \"10.0.0\"\n");
    let (good_path, bad_path) = (good.to_str().unwrap(), bad.to_str().unwrap());
    for words in [
        &["config", "check", good_path][..],
        &["config", "check", bad_path],
        &["apply", bad_path],
        &["config", "check", "/no/such/file"],
        &["bogus"],
        &["drain", "r1", "--force", "all"],
        &["drain", "r1", "--until", "soon"],
        &["help", "exit-codes"],
        &["help", "drain"],
        &["version"],
    ] {
        let out = nines(&[words, &["-o", "json"]].concat());
        let text = String::from_utf8_lossy(&out.stdout);
        let value = serde_json::from_str::<serde_json::Value>(&text);
        assert!(value.is_ok(), "{words:?}: {text}");
        assert_eq!(told(&out), "", "{words:?}");
    }
    let out = nines(&["-o", "json", "config", "check", bad_path]).stdout;
    let problem: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(problem["errors"][0]["line"], 3, "{problem}");
    assert_eq!(problem["errors"][1]["line"], 5, "{problem}");
    std::fs::remove_file(good).unwrap();
    std::fs::remove_file(bad).unwrap();
}

#[test]
fn values_that_make_no_sense_are_refused_at_once() {
    for words in [
        &["drain", "r1", "--force", "all"][..],
        &["drain", "r1", "--force", "last-director"],
        &["standby", "lb1", "--force", "last-server"],
        &["drain", "r1", "--until", "0s"],
        &["drain", "r1", "--wait", "0s"],
        &["demo", "--path", "foo"],
        &["demo", "--repeat", "0"],
        &["demo", "--compare", "heartbeat"],
        &["events", "-n", "0"],
        &["apply", "--revision", "0", "-"],
        &["init", "w", "--port", "0"],
        &["help", "dran"],
    ] {
        let out = nines(words);
        assert_eq!(out.status.code(), Some(2), "{words:?}: {}", told(&out));
    }
    assert_eq!(nines(&["demo", "--script", "nosuch"]).status.code(), Some(5));
    assert!(told(&nines(&["help", "dran"])).contains("did you mean drain?"));
}
