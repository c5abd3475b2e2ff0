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
        "\"10.0.0.300\" is no address",
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
    assert!(told(&out).contains("is no join code"));
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
