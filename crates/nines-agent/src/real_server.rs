//! The agent of a real server: asks members which VIPs are this machine's, and keeps them there.
//!
//! Decides: whom to believe (whoever knows the newest config), and what stays while nobody answers:
//! everything. A stopped agent leaves all as it is, too: the server serves.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io::ErrorKind,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_dataplane::{
    address,
    real_server::{Done, Keeper},
};
use nines_model::RealServerRole;
use serde::{Deserialize, Serialize};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{interval, sleep},
};

use crate::{
    executors::local_server,
    identity::{Credentials, Peer, StateDir, authorities::name_of},
    logger::Logger,
    stop::End,
    transport::peer_port::{
        real_servers::{Answer, Line, Question},
        renewal,
    },
};

/// File of what members last said.
const SAID: &str = "duty.json";
/// File of what this machine was before.
pub const MEMORY: &str = "realserver";
/// Locked by the agent as long as it runs, and by who undoes what it did.
const LOCK: &str = "real-server.lock";
/// How often it is seen to that all is there.
const LOOK: Duration = Duration::from_secs(5);
/// Questions to one member before the next member is asked: a member that is cut off from
/// the others hears nothing new.
const ASKED: usize = 6;

/// What members last said, as it is on disk.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The newest answer.
    pub answer: Answer,
    /// What was put on this machine because members said so, and by nobody before.
    put: Put,
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Put {
    vips: BTreeSet<IpAddr>,
    tunnels: BTreeSet<u16>,
}

impl StateDir {
    /// What members last said to this real server; nothing, if they have said nothing yet.
    pub fn said(&self) -> Outcome<Said> {
        if !self.file(SAID).exists() {
            return Ok(Said::default());
        }
        serde_json::from_str(&self.read(SAID)?).map_err(|e| {
            Failure::new(Kind::Io, format!("{SAID} is damaged"), e)
                .next(format!("remove {}; the cluster says it again", self.file(SAID).display()))
        })
    }

    /// Forgets what members of another cluster once said.
    pub fn forget_said(&self) {
        let _ = fs::remove_file(self.file(SAID));
    }

    /// Forgets the cluster of this real server. The name goes first: half a forgotten machine is
    /// none.
    pub fn forget_cluster(&self) -> Outcome<()> {
        let credentials =
            ["identity.json", "node.key", "node.pem", "ca.key", "ca.pem", "authorities"];
        for name in credentials.into_iter().chain([SAID, LOCK]) {
            let path = self.file(name);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    let what = format!("cannot remove {}", path.display());
                    return Err(Failure::new(Kind::Io, what, e).next("remove it by hand"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The lock of a real server's agent; `None`: another process has it.
    pub fn lock_real_server(&self) -> Outcome<Option<File>> {
        let failed = |e: std::io::Error| Failure::new(Kind::Io, format!("cannot lock {LOCK}"), e);
        let open = File::options().create(true).append(true).open(self.file(LOCK));
        let file = open.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(failed(e)),
        }
    }
}

struct RealServer {
    name: String,
    home: StateDir,
    keeper: Keeper,
    said: Said,
    /// All addresses of the machine when last looked.
    addresses: BTreeSet<IpAddr>,
    trouble: String,
    log: Logger,
}

impl RealServer {
    fn new(home: StateDir, name: String, log: &Logger) -> Outcome<Self> {
        let (said, keeper) = (home.said()?, Keeper::new(&home.file(MEMORY)));
        let (addresses, trouble) = (BTreeSet::new(), String::new());
        Ok(Self { name, home, keeper, said, addresses, trouble, log: log.clone() })
    }

    /// Does what was said; trouble is told once.
    fn keep(&mut self) {
        let Said { answer, put } = &self.said;
        let duty = RealServerRole { vips: answer.vips.clone(), tunnels: answer.tunnels.clone() };
        let put = RealServerRole { vips: put.vips.clone(), tunnels: put.tunnels.clone() };
        let gone = put.beyond(&duty);
        let all = self
            .keeper
            .keep(&duty, &gone)
            .unwrap_or_else(|why| Done { trouble: vec![why], ..Done::default() });
        if gone != RealServerRole::default()
            && let Ok(held) = self.keeper.held()
        {
            self.said.put.vips.retain(|vip| held.vips.contains(vip));
            self.said.put.tunnels.retain(|port| held.tunnels.contains(port));
            self.write();
        }
        local_server::tell(&all, &mut self.trouble, &self.log);
    }

    fn write(&self) {
        let text = serde_json::to_string_pretty(&self.said).expect("plain data");
        if let Err(why) = self.home.write(SAID, &text) {
            self.log.line(&why.to_string());
        }
    }

    fn question(&mut self) -> Question {
        let Answer { vips, tunnels, revision, .. } = self.said.answer.clone();
        if let Ok(all) = address::interfaces() {
            let all = all.iter().flat_map(|i| i.addresses.iter().map(|(a, _)| *a));
            // Its VIPs do not make it a server of its own.
            self.addresses = all.filter(|a| !vips.contains(a)).collect();
        }
        let (name, addresses) = (self.name.clone(), self.addresses.clone());
        // Who asks says which authorities it has then.
        Question { name, addresses, vips, tunnels, revision, authorities: None }
    }

    /// Takes the answer to a question, unless it is about addresses that have changed since.
    fn take(&mut self, asked: &Question, answer: Answer) {
        if asked.addresses != self.question().addresses {
            return;
        }
        let Some(answer) = believed(&self.said.answer, answer) else { return };
        if answer != self.said.answer {
            // What a person put there stays that person's.
            let held = self.keeper.held().unwrap_or_default();
            let put = &mut self.said.put;
            put.vips.extend(answer.vips.difference(&held.vips));
            put.tunnels.extend(answer.tunnels.difference(&held.tunnels));
            self.said.answer = answer;
            self.write();
        }
        self.keep();
    }

    /// For `systemctl status`.
    fn tell(&self, by: Option<&str>, certificate: &str) {
        let vips: Vec<String> = self.said.answer.vips.iter().map(ToString::to_string).collect();
        let vips = if vips.is_empty() { "no VIP".to_owned() } else { vips.join(" ") };
        let by = by.map_or_else(|| "no member answers".to_owned(), |name| format!("asks {name}"));
        let mut line = format!("real server of {vips}; {by}");
        for wrong in [&self.trouble, certificate].into_iter().filter(|wrong| !wrong.is_empty()) {
            line.push_str(&format!("; {wrong}"));
        }
        let _ = sd_notify::notify(&[
            sd_notify::NotifyState::Watchdog,
            sd_notify::NotifyState::Status(&line),
        ]);
    }
}

/// What holds after an answer; `None`: as before, for it comes from a member that knows less than
/// another did. What the same config gave this machine it keeps, also while it has lost an address.
fn believed(known: &Answer, mut answer: Answer) -> Option<Answer> {
    if answer.revision == known.revision {
        answer.vips.extend(&known.vips);
        answer.tunnels.extend(&known.tunnels);
    }
    (answer.revision >= known.revision).then_some(answer)
}

/// Runs until stopped.
pub async fn serve(home: StateDir, credentials: Arc<Credentials>, log: &Logger) -> Outcome<End> {
    let listen = |kind| signal(kind).map_err(|e| Failure::new(Kind::Io, "cannot start", e));
    let (mut term, mut int, mut hup) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
        listen(SignalKind::hangup())?,
    );
    let Some(_lock) = home.lock_real_server()? else {
        return Err(Failure::new(Kind::Unsafe, "another agent of this real server runs", "")
            .next("systemctl status nines"));
    };
    let mut server = RealServer::new(home, credentials.identity.me.name.clone(), log)?;
    log.line(&format!(
        "nines {} runs on real server {} of cluster {}",
        env!("CARGO_PKG_VERSION"),
        server.name,
        credentials.identity.cluster
    ));
    // After a boot it serves before anybody answers.
    server.keep();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let first = server.question();
    let (questions, question) = watch::channel(first);
    let (answers, mut heard) = mpsc::channel(1);
    let members = server.said.answer.members.clone();
    let (home, said) = (server.home.clone(), String::new());
    let own = Own { credentials: Arc::clone(&credentials), home, log: log.clone(), said };
    tokio::spawn(ask_on(own, members, question, answers));
    let wrong = renew(&server.home, &credentials, log);
    let (mut look, mut alive) = (interval(LOOK), interval(Duration::from_secs(1)));
    let (mut by, mut silent) = (None, false);
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(End::Stopped),
            _ = int.recv() => return Ok(End::Stopped),
            _ = hup.recv() => return Ok(End::Replace),
            _ = alive.tick() => {
                server.tell(by.as_deref(), &wrong.borrow());
                continue;
            }
            _ = look.tick() => server.keep(),
            Some(now) = heard.recv() => match now {
                Heard::Nobody(why) => {
                    if !silent {
                        log.line(&format!("no member answers; all stays as it is ({why})"));
                    }
                    (by, silent) = (None, true);
                }
                Heard::From(name, asked, answer) => {
                    if silent {
                        log.line(&format!("{name} answers"));
                    }
                    (by, silent) = (Some(name), false);
                    server.take(&asked, answer);
                }
            },
        }
        questions.send_replace(server.question());
    }
}

/// Keeps the certificate of this machine; gives what is wrong with it, empty while nothing is.
fn renew(home: &StateDir, credentials: &Arc<Credentials>, log: &Logger) -> watch::Receiver<String> {
    let (told, wrong) = watch::channel(String::new());
    let (said, seeds) = (home.clone(), credentials.identity.peers.clone());
    let members = move || {
        let known = said.said().map(|said| said.answer.members).unwrap_or_default();
        std::future::ready(if known.is_empty() { seeds.clone() } else { known })
    };
    let tell = move |wrong| drop(told.send_replace(wrong));
    let (credentials, home, log) = (Arc::clone(credentials), home.clone(), log.clone());
    tokio::spawn(renewal::keep(credentials, home, log, members, tell));
    wrong
}

/// What came of asking.
enum Heard {
    /// A member's answer to this question.
    From(String, Question, Answer),
    /// No member's, and why not the last one's.
    Nobody(String),
}

/// Who asks.
struct Own {
    credentials: Arc<Credentials>,
    home: StateDir,
    log: Logger,
    /// What was said last of the authorities, so that it is said once.
    said: String,
}

impl Own {
    /// Gets the authorities that a member has, from that one first.
    async fn catch_up(&mut self, first: &Peer, others: &[Peer]) {
        let all = std::iter::once(first).chain(others).cloned().collect();
        let said = match renewal::catch_up(&self.credentials, &self.home, all).await {
            Ok(()) => {
                let name = name_of(self.credentials.keys().authorities.newest());
                format!("this machine believes authority {name}")
            }
            Err(why) => {
                sleep(Duration::from_secs(1)).await;
                why.to_string()
            }
        };
        if said != self.said {
            self.log.line(&said);
            self.said = said;
        }
    }
}

/// Asks one member after the other.
async fn ask_on(
    mut own: Own,
    mut members: Vec<Peer>,
    mut question: watch::Receiver<Question>,
    answers: mpsc::Sender<Heard>,
) {
    loop {
        let seeds = own.credentials.identity.peers.iter();
        let others = seeds.filter(|seed| members.iter().all(|m| m.id != seed.id));
        let all: Vec<Peer> = members.iter().chain(others).cloned().collect();
        let (mut heard, mut why) = (false, "it knows none".to_owned());
        for member in all {
            let asked = ask(&mut own, &member, &mut question, &answers, &mut members).await;
            match asked {
                Ok(true) => heard = true,
                Ok(false) => why = format!("{} knows less than another did", member.name),
                Err(e) => why = format!("{}: {e}", member.name),
            }
        }
        if !heard {
            if answers.send(Heard::Nobody(why)).await.is_err() {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Asks a member some times; whether it answered with something new enough.
async fn ask(
    own: &mut Own,
    member: &Peer,
    question: &mut watch::Receiver<Question>,
    answers: &mpsc::Sender<Heard>,
    members: &mut Vec<Peer>,
) -> std::io::Result<bool> {
    let mut line = Line::to(&own.credentials, member).await?;
    for n in 0..ASKED {
        let authorities = Some(own.credentials.keys().authorities.order);
        let asked = Question { authorities, ..question.borrow_and_update().clone() };
        let answer = match line.ask(&asked).await {
            Err(_) if n > 0 => break,
            answer => answer?,
        };
        if answer.revision < asked.revision || answer.revision == 0 {
            return Ok(n > 0);
        }
        members.clone_from(&answer.members);
        if answer.authorities > authorities {
            own.catch_up(member, members).await;
        }
        // The next question follows from this answer.
        let told = answers.send(Heard::From(member.name.clone(), asked, answer)).await;
        if told.is_err() || question.changed().await.is_err() {
            break;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(revision: u64, vips: &[&str], tunnels: &[u16]) -> Answer {
        let vips = vips.iter().map(|vip| vip.parse().unwrap()).collect();
        Answer { revision, vips, tunnels: tunnels.iter().copied().collect(), ..Answer::default() }
    }

    #[test]
    fn only_a_newer_config_takes_anything_away() {
        let known = answer(5, &["10.0.0.100"], &[0]);
        assert_eq!(believed(&known, answer(4, &["10.0.0.101"], &[])), None, "knows less");
        assert_eq!(believed(&known, answer(5, &[], &[])), Some(known.clone()), "lost its address");
        let more = answer(5, &["10.0.0.100", "10.0.0.101"], &[0]);
        assert_eq!(believed(&known, answer(5, &["10.0.0.101"], &[])), Some(more), "got another");
        let newer = answer(6, &["10.0.0.101"], &[]);
        assert_eq!(believed(&known, newer.clone()), Some(newer));
    }
}
