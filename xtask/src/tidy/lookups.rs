//! Words that a newcomer searches for, and the files that must be found by them.
//!
//! Decides: what "found" means. The word, or its parts joined by "_", stands in the path of the
//! right file; or the right file is the first one, tests aside, that has the word in it.

use super::File;

/// What is searched for, the form it has in paths, and the beginning of the right files' names.
const LOOKUPS: &[(&str, &str, &[&str])] = &[
    ("gratuitous ARP", "gratuitous_arp", &["crates/nines-dataplane/"]),
    ("scheduler", "scheduler", &["crates/nines-bpf/src/schedule.rs", "crates/nines-abi/"]),
    ("join code", "join_code", &["crates/nines-agent/src/identity/"]),
    ("flow key", "flow_key", &["crates/nines-abi/"]),
    ("heartbeat", "heartbeat", &["crates/nines-core/src/node/"]),
    ("replay", "replay", &["crates/nines-agent/src/transport/"]),
    (
        "connection sync",
        "connection_sync",
        &["crates/nines-agent/src/flow_sync.rs", "crates/nines-bpf/src/flow_sync.rs"],
    ),
    ("persistence", "persistence", &["crates/nines-bpf/"]),
    ("SNAT", "snat", &["crates/nines-bpf/src/nat/full_nat/"]),
    ("failover", "failover", &["crates/nines-core/src/node/"]),
    ("event log", "event_log", &["crates/nines-core/"]),
    ("fsync", "fsync", &["crates/nines-agent/src/storage/store.rs"]),
    ("guard", "guard", &["crates/nines-dataplane/src/ebpf/"]),
    ("rise", "rise", &["crates/nines-core/src/health.rs"]),
    ("certificate", "certificate", &["crates/nines-agent/src/identity/"]),
    ("arp_ignore", "arp_ignore", &["crates/nines-dataplane/src/real_server.rs"]),
    ("reconcile", "reconcile", &["crates/nines-dataplane/src/ebpf/"]),
    ("voter", "voter", &["crates/nines-core/src/"]),
    ("feature level", "feature_level", &["crates/nines-core/src/"]),
];
/// How many of them may miss.
const MISSES_MAX: usize = 1;

/// What is not found, if that is too much.
pub fn check(files: &[File]) -> Vec<String> {
    // Only in a whole checkout.
    if !files.iter().any(|file| file.name.starts_with("crates/nines-core/")) {
        return Vec::new();
    }
    let missed: Vec<&str> = LOOKUPS
        .iter()
        .filter(|(word, form, right)| !is_found(files, word, form, right))
        .map(|(word, ..)| *word)
        .collect();
    match missed.len() {
        n if n > MISSES_MAX => vec![format!("searched for and not found: {}", missed.join(", "))],
        _ => Vec::new(),
    }
}

fn is_found(files: &[File], word: &str, form: &str, right: &[&str]) -> bool {
    let is_right = |file: &&File| right.iter().any(|start| file.name.starts_with(start));
    let in_path = files.iter().filter(is_right).any(|file| {
        let path = file.name.rsplit('/').take(2).collect::<Vec<_>>();
        path.iter().any(|part| part.contains(form))
    });
    let word = word.to_lowercase();
    let mut ours = files.iter().filter(|file| file.name.starts_with("crates/") && !file.is_test());
    in_path || ours.find(|f| f.text.to_lowercase().contains(&word)).is_some_and(|f| is_right(&f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_in_the_path_or_in_the_first_file_that_has_it() {
        let file = |name: &str, text: &str| File { name: name.into(), text: text.into() };
        let files = [
            file("crates/a/src/flow.rs", ""),
            file("crates/b/src/disk.rs", "//! Fsync"),
            file("crates/c/src/other.rs", "fsync"),
        ];
        assert!(is_found(&files, "flow", "flow", &["crates/a/"]));
        assert!(!is_found(&files, "flow", "flow", &["crates/b/"]));
        assert!(is_found(&files, "fsync", "fsync", &["crates/b/src/disk.rs"]));
        assert!(!is_found(&files, "fsync", "fsync", &["crates/c/"]), "it is the second hit");
        assert!(!is_found(&files, "nothing", "nothing", &["crates/"]));
    }
}
