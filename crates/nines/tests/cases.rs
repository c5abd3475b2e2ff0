//! Screens as text: what commands print for fixed answers of the agent.
//!
//! The real binary asks a socket of this test. The lines above the first case of a file are the
//! answer (JSON); a case changes parts of it ("/services/0/up: 1") or all ("answer: []"). "HTTP 404 ..." makes it a
//! failure.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use nines_cases::Case;
use serde_json::Value;

static NEXT: AtomicU32 = AtomicU32::new(0);

#[test]
fn cases() {
    nines_cases::walk(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases"), screen);
}

/// What the command of a case prints, what it asked the agent, and how it ends.
fn screen(case: &Case) -> String {
    let mut command = None;
    let mut http = "HTTP/1.1 200 OK".to_owned();
    let mut answer: Value = serde_json::from_str(&case.given).expect("JSON above the first case");
    for line in case.input.lines().filter(|line| !line.is_empty()) {
        if let Some(words) = line.strip_prefix("$ ") {
            command = Some(words);
        } else if let Some(status) = line.strip_prefix("HTTP ") {
            http = format!("HTTP/1.1 {status}");
        } else if let Some(json) = line.strip_prefix("answer: ") {
            answer = serde_json::from_str(json).unwrap_or_else(|e| panic!("{line}: {e}"));
        } else {
            change(&mut answer, line);
        }
    }
    let command = command.unwrap_or_else(|| panic!("{}: no \"$ nines ...\"", case.title));
    let answer = answer.to_string();
    let length = answer.len();
    let json = "content-type: application/json\r\nconnection: close";
    run(command, format!("{http}\r\n{json}\r\ncontent-length: {length}\r\n\r\n{answer}"))
}

/// "/services/0/up: 1": a place in the answer (RFC 6901) and its new value; "-" as the last part of
/// a place appends to a list.
fn change(answer: &mut Value, line: &str) {
    let (place, value) = line.split_once(": ").unwrap_or_else(|| panic!("not understood: {line}"));
    let value: Value = serde_json::from_str(value).unwrap_or_else(|e| panic!("{line}: {e}"));
    let (room, key) = place.rsplit_once('/').unwrap_or_else(|| panic!("no place: {line}"));
    match answer.pointer_mut(room) {
        Some(Value::Array(list)) if key == "-" => list.push(value),
        Some(Value::Array(list)) => list[key.parse::<usize>().expect("a number")] = value,
        Some(Value::Object(fields)) => drop(fields.insert(key.to_owned(), value)),
        _ => panic!("the answer has no place {room}"),
    }
}

/// Runs "NAME=VALUE nines WORD ..." in an empty directory, with an agent that always answers that.
fn run(command: &str, answer: String) -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let room = std::env::temp_dir().join(format!("nines-screen-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&room).unwrap();
    std::fs::write(room.join("cluster.toml"), "").unwrap();
    let listener = UnixListener::bind(room.join("sock")).unwrap();
    let mut nines = Command::new(env!("CARGO_BIN_EXE_nines"));
    nines.current_dir(&room).env("NINES_SOCKET", "sock").env("NINES_STATE", "state");
    nines.env("TZ", "UTC").env("NO_COLOR", "1");
    let mut words = command.split(' ').peekable();
    while let Some((name, value)) = words.peek().and_then(|word| word.split_once('=')) {
        nines.env(name, value);
        words.next();
    }
    assert_eq!(words.next(), Some("nines"), "{command}");
    nines.args(words);
    let agent = thread::spawn(move || {
        let mut asked = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            match serve(stream, &answer) {
                Some(line) => asked.push(line),
                None => break,
            }
        }
        asked
    });
    let out = nines.output().unwrap();
    // A connection that asks for nothing ends the agent.
    drop(UnixStream::connect(room.join("sock")).unwrap());
    let asked = agent.join().unwrap();
    std::fs::remove_dir_all(&room).unwrap();
    // Editors take blanks at the end of a line away.
    let stdout = String::from_utf8(out.stdout).unwrap();
    let mut text: String = stdout.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    for line in String::from_utf8(out.stderr).unwrap().lines() {
        text.push_str(format!("stderr: {line}").trim_end());
        text.push('\n');
    }
    let code = out.status.code().expect("it ended by itself");
    text.push_str(&format!("[exit code {code}; asked: {}]", asked.join(", ")));
    text
}

/// Answers one request; its first line without the version. `None`: there was none.
fn serve(stream: UnixStream, answer: &str) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let line = line.trim_end().to_owned();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.parse().expect("a length");
        }
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    reader.into_inner().write_all(answer.as_bytes()).ok()?;
    Some(lines[0].trim_end_matches(" HTTP/1.1").to_owned())
}
