use std::time::{Duration, SystemTime};

use super::*;
use crate::{
    fake::{Fake, FenceDevice, Script},
    run::{Outcome, Output},
};

const TIME: Millis = Millis(5_000);

/// A directory with these empty files, and a runner for which each is the agent of a device.
fn directory(name: &str, agents: &[&str]) -> (PathBuf, Fake) {
    let room = std::env::temp_dir().join(format!("nines-agents-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&room);
    fs::create_dir_all(&room).unwrap();
    let fake = Fake::default();
    for agent in agents {
        fs::write(room.join(agent), "").unwrap();
        fake.device(room.join(agent), &FenceDevice::default());
    }
    (room, fake)
}

#[test]
fn metadata_is_kept_until_the_program_changes() {
    let (room, fake) = directory("kept", &["fence_a", "fence_b"]);
    let installed = Installed::in_directory(&room);
    let ask = |agent: &str| installed.metadata(&fake, agent, TIME).unwrap();
    assert_eq!(ask("fence_a").name, "fence_fake");
    let _ = (ask("fence_a"), ask("fence_b"), ask("fence_b"));
    assert_eq!(fake.calls().len(), 2, "once each");
    assert_eq!(fake.calls()[0].args, ["-o", "metadata"]);
    assert_eq!(fake.calls()[0].stdin, b"");
    let file = fs::File::options().append(true).open(room.join("fence_a")).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    let _ = (ask("fence_a"), ask("fence_a"));
    assert_eq!(fake.calls().len(), 3, "of another time");
    std::io::Write::write_all(&mut &file, b"x").unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    let _ = (ask("fence_a"), ask("fence_b"));
    assert_eq!(fake.calls().len(), 4, "of another size");
    fs::remove_dir_all(room).unwrap();
}

#[test]
fn an_agent_without_metadata_says_why() {
    let (room, fake) = directory("without", &["fence_apc"]);
    let installed = Installed::in_directory(&room);
    let why = |agent: &str| installed.metadata(&fake, agent, TIME).unwrap_err();
    for name in ["apc", "fence_", "fence_a/../x", "fence_a b", ""] {
        assert_eq!(why(name), NoMetadata::Name(name.into()));
    }
    assert_eq!(why("fence_acp"), NoMetadata::NotInstalled(Some("fence_apc".into())));
    assert_eq!(why("fence_something"), NoMetadata::NotInstalled(None));
    let program = room.join("fence_apc");
    let ends = |exit, text: &str, is_cut| {
        let stdout = Output { bytes: text.into(), is_cut };
        let outcome = Outcome { stdout, ..Outcome::new(exit, Millis(1)) };
        fake.script(&program, Script::Ends(outcome));
        why("fence_apc")
    };
    assert_eq!(ends(Exit::Code(1), "", false), NoMetadata::Failed(Exit::Code(1)));
    assert_eq!(ends(Exit::Code(0), "<a", true), NoMetadata::TooLong);
    let misread = ends(Exit::Code(0), "Usage:", false);
    assert!(matches!(misread, NoMetadata::Misread(Misread::NotXml(_))));
    fake.script(&program, Script::Overruns);
    assert_eq!(why("fence_apc").to_string(), "no answer before the deadline");
    let not_started = ends(Exit::NotStarted(NotStarted::NotExecutable), "", false);
    assert_eq!(not_started.to_string(), "not started: it is not executable");
    assert!(installed.metadata(&fake, "fence_apc", TIME).is_ok(), "no failure is kept");
    fs::write(room.join("fence.txt"), "").unwrap();
    assert_eq!(installed.names(), ["fence_apc"]);
    fs::remove_dir_all(room).unwrap();
}
