//! Walls that no manifest shows: which names a crate or a folder may not use, and which foreign
//! crates the pure rings may have.
//!
//! Decides: the walls and their exceptions, each with its reason. An exception that is needed no
//! more is wrong, too, so that the list only shrinks.

use std::{collections::BTreeSet, fs, path::Path};

use super::File;

/// Names that files below one of `within` may not use.
struct Wall {
    title: &'static str,
    within: &'static [&'static str],
    /// Files that may, by the beginning of their names, and why.
    except: &'static [(&'static str, &'static str)],
    never: &'static [&'static str],
}

const INSIDE_OF_THE_AGENT: &[&str] =
    &["nines_agent", "nines_core", "nines_dataplane", "nines_planner"];

const WALLS: &[Wall] = &[
    Wall {
        title: "the API's clients know neither the node nor the kernel",
        within: &["crates/nines-api/"],
        except: &[],
        never: INSIDE_OF_THE_AGENT,
    },
    Wall {
        title: "the command line and the demo use the API and local/, nothing else of the agent",
        within: &["crates/nines/src/"],
        except: &[("crates/nines/src/local", "its commands work on this machine, not on an agent")],
        never: INSIDE_OF_THE_AGENT,
    },
    Wall {
        title: "local/ asks the agent's library, not the node",
        within: &["crates/nines/src/local"],
        except: &[],
        never: &["nines_core", "nines_planner"],
    },
    Wall {
        title: "what nodes send each other does not depend on the API",
        within: &["crates/nines-agent/src/transport"],
        except: &[],
        never: &["crate::http"],
    },
    Wall {
        title: "rings 0 and 1 do no I/O",
        within: &[
            "crates/nines-abi/src/",
            "crates/nines-core/src/",
            "crates/nines-import/src/",
            "crates/nines-model/src/",
            "crates/nines-planner/src/",
        ],
        except: &[],
        never: &[
            "libc",
            "std::env",
            "std::fs",
            "std::io",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::UdpSocket",
            "std::os",
            "std::process",
            "std::thread",
            "tokio",
        ],
    },
    Wall {
        title: "nothing but nines-exec starts programs",
        within: &["crates/"],
        except: &[
            ("crates/nines-exec/", "it is the door to child processes"),
            ("crates/nines-agent/src/stop.rs", "a restart replaces the agent in its own process"),
            ("crates/nines-lab/", "hosts are made by ip and nft, and ended by a shell"),
            ("crates/nines/src/demo", "it starts the agents, servers and peers that it shows"),
            (
                "crates/nines/src/local/ipvsadm/follow_devices.rs",
                "tables without an agent need a process that follows interfaces",
            ),
        ],
        never: &[
            "libc::execv",
            "libc::execve",
            "libc::fork",
            "libc::posix_spawn",
            "std::os::unix::process::CommandExt",
            "std::process::Command",
            "tokio::process",
        ],
    },
];

/// Foreign crates of rings 0 and 1, and why each does no I/O. A crate that is not here has none.
const PURE: &[(&str, &[(&str, &str)])] = &[
    ("nines-abi", &[]),
    (
        "nines-core",
        &[
            ("prost", "turns values into bytes and back"),
            ("raft", "consensus as a library without I/O; its log and transport are ours"),
            ("slog", "the type that raft wants for its log lines; they become actions"),
        ],
    ),
    ("nines-import", &[]),
    ("nines-model", &[("toml", "reads a text")]),
    ("nines-planner", &[]),
];

/// What is wrong, a line each.
pub fn check(root: &Path, files: &[File]) -> Vec<String> {
    let code: Vec<(&str, BTreeSet<String>)> = files
        .iter()
        .filter(|file| !file.is_test() && file.name.contains("/src/"))
        .map(|file| (file.name.as_str(), names(&file.name, &file.text)))
        .collect();
    let mut wrong: Vec<String> = WALLS.iter().flat_map(|wall| broken(wall, &code)).collect();
    for (name, allowed) in PURE {
        let manifest = root.join("crates").join(name).join("Cargo.toml");
        let manifest = fs::read_to_string(manifest).unwrap_or_default();
        let foreign = foreign(&manifest).into_iter();
        let foreign = foreign.filter(|one| !allowed.iter().any(|(known, _)| known == one));
        wrong.extend(foreign.map(|one| format!("{name} is pure and depends on {one}")));
    }
    wrong
}

fn broken(wall: &Wall, code: &[(&str, BTreeSet<String>)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut there, mut needed) = (BTreeSet::new(), BTreeSet::new());
    for (file, names) in code {
        if !wall.within.iter().any(|start| file.starts_with(start)) {
            continue;
        }
        let except = wall.except.iter().find(|(start, _)| file.starts_with(start));
        there.extend(except.map(|(start, _)| *start));
        let is = |name: &&String| wall.never.iter().any(|never| is_or_in(name, never));
        let Some(name) = names.iter().find(is) else { continue };
        match except {
            Some((start, _)) => drop(needed.insert(*start)),
            None => wrong.push(format!("{file} names {name}: {}", wall.title)),
        }
    }
    let stale = there.difference(&needed);
    wrong.extend(stale.map(|start| format!("{start} is no exception any more: {}", wall.title)));
    wrong
}

fn is_or_in(name: &str, never: &str) -> bool {
    name.strip_prefix(never).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// All paths that the code of a file names, those of its unit tests and comments aside; `self` and
/// `super` are resolved.
fn names(file: &str, text: &str) -> BTreeSet<String> {
    let (_, inside) = file.split_once("/src/").unwrap_or_default();
    let inside = inside.strip_suffix(".rs").unwrap_or(inside);
    let module: Vec<&str> =
        inside.split('/').filter(|part| !["lib", "main"].contains(part)).collect();
    let code = text.split("\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = lines.flat_map(|line| [line, "\n"]).collect();
    let mut found = BTreeSet::new();
    for statement in code.split(';') {
        let begin = statement.trim_start();
        let begin = begin.strip_prefix("pub ").unwrap_or(begin);
        match begin.strip_prefix("use ") {
            Some(tree) => leaves(&module, "", tree, &mut found),
            None => {
                let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
                let words = statement.split(|c| !is_path(c)).filter(|word| word.contains("::"));
                found.extend(words.map(|word| resolved(&module, word.trim_matches(':'))));
            }
        }
    }
    found
}

/// The paths of a `use` tree.
fn leaves(module: &[&str], before: &str, tree: &str, found: &mut BTreeSet<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        found.insert(resolved(module, &format!("{before}{path}")));
        return;
    };
    let rest = rest.strip_suffix('}').unwrap_or(rest);
    let before = format!("{before}{}", head.trim());
    let (mut depth, mut start) = (0, 0);
    for (at, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                leaves(module, &before, &rest[start..at], found);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !rest[start..].trim().is_empty() {
        leaves(module, &before, &rest[start..], found);
    }
}

/// A path from the root of its crate, or of a foreign one.
fn resolved(module: &[&str], path: &str) -> String {
    let mut parts: Vec<&str> = path.split("::").collect();
    if !["self", "super"].contains(&parts[0]) {
        return path.to_owned();
    }
    let mut base = module.to_vec();
    while let Some(first) = parts.first().copied().filter(|p| ["self", "super"].contains(p)) {
        if first == "super" {
            base.pop();
        }
        parts.remove(0);
    }
    ["crate"].into_iter().chain(base).chain(parts).collect::<Vec<_>>().join("::")
}

/// Crates of others that a manifest names as dependencies, tests' aside.
fn foreign(manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut counts = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            counts = line == "[dependencies]";
            continue;
        }
        let name = line.split([' ', '.', '=']).next().unwrap_or_default();
        if counts && !name.is_empty() && !name.starts_with('#') && !name.starts_with("nines-") {
            found.push(name.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_behind_a_wall_is_found_however_it_is_written() {
        let names = |text: &str| names("crates/nines-agent/src/transport/peer_port.rs", text);
        for text in [
            "use crate::http;\n",
            "use crate::{\n    daemon::Agent,\n    http::{self, view::status},\n};\n",
            "use super::super::http::view;\n",
            "fn a() { crate::http::view::status(); }\n",
        ] {
            assert!(names(text).iter().any(|name| is_or_in(name, "crate::http")), "{text}");
        }
        for text in [
            "use axum::http::StatusCode;\n",
            "// crate::http::view\n",
            "use crate::http_like;\n",
            "mod a {}\nmod tests {\n    use crate::http;\n}\n",
        ] {
            assert!(!names(text).iter().any(|name| is_or_in(name, "crate::http")), "{text}");
        }
    }

    #[test]
    fn an_exception_ends_when_nothing_needs_it() {
        let wall = Wall {
            title: "no forks",
            within: &["crates/"],
            except: &[("crates/a/", "it must")],
            never: &["std::process::Command"],
        };
        let forks = names("crates/a/src/lib.rs", "use std::{fs, process::{Child, Command}};\n");
        assert!(broken(&wall, &[("crates/a/src/lib.rs", forks.clone())]).is_empty());
        let found = broken(&wall, &[("crates/b/src/lib.rs", forks)]);
        assert_eq!(found, ["crates/b/src/lib.rs names std::process::Command: no forks"]);
        let found = broken(&wall, &[("crates/a/src/lib.rs", BTreeSet::new())]);
        assert_eq!(found, ["crates/a/ is no exception any more: no forks"]);
    }

    #[test]
    fn foreign_crates_are_those_of_the_dependencies() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\nnines-model.workspace = true\n\
            toml = \"1\"\n[dev-dependencies]\nproptest = \"1\"\n";
        assert_eq!(foreign(manifest), ["toml"]);
    }
}
