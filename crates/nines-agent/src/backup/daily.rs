//! Backups that the agent makes by itself.
//!
//! Decides: when, and how many stay. One a day at most, into `backups` of the state directory, and
//! only when something has changed that a person would miss: the config, the members, or what
//! operators have set. The newest seven stay.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nines_api::{failure::Outcome, text::rfc3339};
use nines_core::state::State;

use super::{Backup, Taken, write};
use crate::{
    core_thread::CoreHandle,
    identity::{self, Credentials, StateDir},
    logger::Logger,
};

/// Directory in the state directory.
pub const DIRECTORY: &str = "backups";
/// So many stay.
const KEPT: usize = 7;
/// How a file's name ends.
const ENDING: &str = ".backup";
/// It is looked at so often.
const EVERY: Duration = Duration::from_secs(600);
/// And for the first time after a start: the node knows the newest state by then.
const FIRST: Duration = Duration::from_secs(60);

/// Makes backups until the process ends.
pub async fn keep(
    core: CoreHandle,
    credentials: std::sync::Arc<Credentials>,
    home: StateDir,
    log: Logger,
) {
    let generation = credentials.identity.generation;
    let mut wait = FIRST;
    loop {
        tokio::time::sleep(wait).await;
        wait = EVERY;
        let Some(taken) = core.inspect(move |n, now| Taken::of(n, now, generation)).await else {
            return;
        };
        let directory = home.file(DIRECTORY);
        let made = tokio::task::spawn_blocking(move || make(&directory, taken)).await;
        if let Ok(Err(why)) = made {
            log.line(&format!("no backup was made: {why}"));
        }
    }
}

/// "2026-12-01": days of the universal time.
fn day(at_ms: u64) -> String {
    rfc3339(at_ms).chars().take(10).collect()
}

/// Backups in a directory, the oldest first.
fn all(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let is_ours = |path: &PathBuf| path.to_str().is_some_and(|name| name.ends_with(ENDING));
    let mut found: Vec<PathBuf> = paths.filter(is_ours).collect();
    found.sort();
    found
}

/// What a person would miss.
fn worth(state: &State) -> impl PartialEq + '_ {
    let members: Vec<_> = state.members.values().collect();
    let admin = &state.admin;
    (&state.text, members, admin.drains(), admin.standbys(), admin.removals())
}

/// Makes the backup of a day, if there is none and something has changed.
fn make(directory: &Path, taken: Taken) -> Outcome<()> {
    let state = taken.state.clone();
    if state.members.is_empty() {
        return Ok(());
    }
    let path = directory.join(day(taken.backup.at_ms) + ENDING);
    let kept = all(directory);
    // A clock that was set back makes none before the newest.
    if kept.last().is_some_and(|newest| *newest >= path) {
        return Ok(());
    }
    let newest = kept.last().and_then(|newest| Backup::read(newest).ok()?.state("").ok());
    if newest.is_some_and(|newest| worth(&newest) == worth(&state)) {
        return Ok(());
    }
    identity::make_directory(directory)?;
    write(&path, &taken.backup()?.encoded())?;
    let all = all(directory);
    for old in &all[..all.len().saturating_sub(KEPT)] {
        let _ = std::fs::remove_file(old);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nines_core::wire::Member;

    use super::*;

    const DAY: u64 = 86_400_000;

    #[test]
    fn seven_stay_one_a_day_and_none_that_says_nothing_new() {
        let folder = std::env::temp_dir().join(format!("nines-daily-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let taken = |at_ms: u64, text: &str| {
            let text = format!("[cluster]\nname = \"{text}\"\n[nodes]\nlb1 = \"10.0.0.2\"\n");
            let spec = nines_model::config::parse(&text).unwrap();
            let member = Member { id: 1, name: "lb1".into(), ..Member::default() };
            let state = State::founded(text.into(), spec.into(), [member]);
            Taken { state, backup: Backup { at_ms, ..Backup::default() } }
        };
        let names = || -> Vec<String> {
            let names = all(&folder);
            names.iter().map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
        };
        make(&folder, Taken { state: State::default(), ..taken(0, "a") }).unwrap();
        assert_eq!(names(), [""; 0], "it has no log yet");
        make(&folder, taken(DAY, "a")).unwrap();
        make(&folder, taken(DAY + 5, "b")).unwrap();
        assert_eq!(names(), ["1970-01-02"], "one a day");
        make(&folder, taken(2 * DAY, "a")).unwrap();
        assert_eq!(names(), ["1970-01-02"], "nothing has changed");
        for n in 3..12 {
            make(&folder, taken(n * DAY, if n % 2 == 0 { "a" } else { "b" })).unwrap();
        }
        make(&folder, taken(5 * DAY, "c")).unwrap();
        assert_eq!(names().len(), KEPT);
        assert_eq!(names()[0], "1970-01-06");
        // One that is damaged is worth nothing, and not in the way.
        std::fs::write(folder.join("1970-01-12.backup"), "x").unwrap();
        make(&folder, taken(12 * DAY, "b")).unwrap();
        assert_eq!(names().last().unwrap(), "1970-01-13");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
