//! The agent of a real server: asks members which VIPs are this machine's, and keeps them there.
//!
//! Decides: whom to believe (whoever knows the newest config), and what stays while nobody answers:
//! everything. A stopped agent leaves all as it is, too: the server serves.

use std::{collections::BTreeSet, fs::File, net::IpAddr, sync::Arc, time::Duration};

use nines_dataplane::{address, realserver::Keeper};
use nines_model::Duty;
use serde::{Deserialize, Serialize};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{interval, sleep},
};

use super::{
    End, Logger,
    peer_port::duties::{Answer, Line, Question},
};
use crate::{
    failure::{Failure, Kind, Outcome},
    identity::{Home, Papers, Peer},
};

/// File of what members last said.
pub const SAID: &str = "duty.json";
/// File of what this machine was before.
pub const MEMORY: &str = "realserver";
/// Locked by the agent as long as it runs.
pub const LOCK: &str = "real-server.lock";
/// How often it is seen to that all is there.
const LOOK: Duration = Duration::from_secs(5);
/// A member is asked so often, then the next one: one that is cut off from the others hears nothing.
const ASKED: usize = 6;

/// What members last said, as it is on disk.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The newest answer.
    pub answer: Answer,
    /// VIPs that were put on this machine because members said so.
    put: BTreeSet<IpAddr>,
}

impl Said {
    /// Nothing, if members have said nothing yet.
    pub fn read(home: &Home) -> Self {
        let text = home.read(SAID).ok();
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }
}

struct RealServer {
    name: String,
    home: Home,
    keeper: Keeper,
    said: Said,
    trouble: String,
    log: Logger,
}

impl RealServer {
    fn new(home: Home, name: String, log: &Logger) -> Self {
        let said = Said::read(&home);
        let keeper = Keeper::new(&home.file(MEMORY));
        Self { name, home, keeper, said, trouble: String::new(), log: log.clone() }
    }

    /// Does what was said; trouble is told once.
    fn keep(&mut self) {
        let Answer { vips, tunnels, .. } = self.said.answer.clone();
        let gone = self.said.put.difference(&vips).copied().collect();
        let trouble = match self.keeper.keep(&Duty { vips, tunnels }, &gone) {
            Ok(done) => {
                done.iter().for_each(|line| self.log.line(line));
                if !gone.is_empty() {
                    self.said.put.clone_from(&self.said.answer.vips);
                    self.write();
                }
                String::new()
            }
            Err(why) => why.to_string(),
        };
        if trouble != self.trouble && !trouble.is_empty() {
            self.log.line(&trouble);
        }
        self.trouble = trouble;
    }

    fn write(&self) {
        let text = serde_json::to_string_pretty(&self.said).expect("plain data");
        if let Err(why) = self.home.write(SAID, &text) {
            self.log.line(&why.to_string());
        }
    }

    fn question(&self) -> Question {
        let all = address::interfaces().unwrap_or_default();
        let Answer { vips, revision, .. } = &self.said.answer;
        let addresses = all.iter().flat_map(|i| i.addresses.iter().map(|(a, _)| *a));
        Question {
            name: self.name.clone(),
            // Its VIPs do not make it a server of its own.
            addresses: addresses.filter(|a| !vips.contains(a)).collect(),
            revision: *revision,
        }
    }

    /// Takes an answer, unless it comes from a member that knows less than another did.
    fn take(&mut self, answer: Answer) {
        if answer.revision < self.said.answer.revision {
            return;
        }
        if answer != self.said.answer {
            self.said.put.extend(&answer.vips);
            self.said.answer = answer;
            self.write();
        }
        self.keep();
    }

    /// For `systemctl status`.
    fn tell(&self, by: Option<&str>) {
        let vips: Vec<String> = self.said.answer.vips.iter().map(ToString::to_string).collect();
        let vips = if vips.is_empty() { "no VIP".to_owned() } else { vips.join(" ") };
        let by = by.map_or_else(|| "no member answers".to_owned(), |name| format!("asks {name}"));
        let line = match &self.trouble[..] {
            "" => format!("real server of {vips}; {by}"),
            trouble => format!("real server of {vips}; {by}; {trouble}"),
        };
        let _ = sd_notify::notify(&[
            sd_notify::NotifyState::Watchdog,
            sd_notify::NotifyState::Status(&line),
        ]);
    }
}

fn lock(home: &Home) -> std::io::Result<File> {
    let file = File::options().create(true).append(true).open(home.file(LOCK))?;
    file.try_lock()?;
    Ok(file)
}

/// Whether its agent runs on this machine.
pub fn is_running(home: &Home) -> bool {
    lock(home).is_err()
}

/// Runs until stopped.
pub async fn serve(home: Home, papers: Arc<Papers>, log: &Logger) -> Outcome<End> {
    let listen = |kind| signal(kind).map_err(|e| Failure::new(Kind::Io, "cannot start", e));
    let (mut term, mut int, mut hup) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
        listen(SignalKind::hangup())?,
    );
    let _lock = lock(&home).map_err(|e| {
        let what = "another agent of this real server runs";
        Failure::new(Kind::Unsafe, what, e).next("systemctl status nines")
    })?;
    let mut server = RealServer::new(home, papers.identity.me.name.clone(), log);
    log.line(&format!(
        "nines {} runs on real server {} of cluster {}",
        env!("CARGO_PKG_VERSION"),
        server.name,
        papers.identity.cluster
    ));
    // After a boot it serves before anybody answers.
    server.keep();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let (questions, question) = watch::channel(server.question());
    let (answers, mut heard) = mpsc::channel(1);
    let members = server.said.answer.members.clone();
    tokio::spawn(ask_on(Arc::clone(&papers), members, question, answers));
    let (mut look, mut alive) = (interval(LOOK), interval(Duration::from_secs(1)));
    let mut by = Some(String::new());
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(End::Stopped),
            _ = int.recv() => return Ok(End::Stopped),
            _ = hup.recv() => return Ok(End::Replace),
            _ = alive.tick() => {
                server.tell(by.as_deref());
                continue;
            }
            _ = look.tick() => server.keep(),
            Some(now) = heard.recv() => {
                let (from, answer) = now.unzip();
                match (&by, &from) {
                    (None, Some(name)) => log.line(&format!("{name} answers")),
                    (Some(_), None) => log.line("no member answers; all stays as it is"),
                    _ => {}
                }
                by = from;
                answer.into_iter().for_each(|answer| server.take(answer));
            }
        }
        questions.send_replace(server.question());
    }
}

/// Asks one member after the other; `None`: nobody answers.
async fn ask_on(
    papers: Arc<Papers>,
    mut members: Vec<Peer>,
    mut question: watch::Receiver<Question>,
    answers: mpsc::Sender<Option<(String, Answer)>>,
) {
    loop {
        let seeds = papers.identity.peers.iter();
        let others = seeds.filter(|seed| members.iter().all(|m| m.id != seed.id));
        let all: Vec<Peer> = members.iter().chain(others).cloned().collect();
        let mut heard = false;
        for member in all {
            let Ok(mut line) = Line::to(&papers, &member).await else { continue };
            for _ in 0..ASKED {
                let asked = question.borrow_and_update().clone();
                let Ok(answer) = line.ask(&asked).await else { break };
                if answer.revision < asked.revision || answer.revision == 0 {
                    break;
                }
                heard = true;
                members.clone_from(&answer.members);
                // The next question follows from this answer.
                let told = answers.send(Some((member.name.clone(), answer))).await;
                if told.is_err() || question.changed().await.is_err() {
                    return;
                }
            }
        }
        if !heard {
            if answers.send(None).await.is_err() {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}
