//! Proves that real servers accept packets for the VIP, by asking as the director's packets go.
//!
//! Decides: which servers are asked, and what their answers and silences mean. `nines doctor` asks
//! once and tells everything; the agent of a holder asks again and again, and `nines status` tells
//! what is wrong. With full NAT and NAT the health checks prove as much.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use nines_core::Node;
use nines_dataplane::{
    address,
    probe::{self, Answer, Hindrance, Question},
};
use nines_model::{Forward, Proto, ServerRef, Spec, Time};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::core_thread::CoreHandle;

/// How long answers may take.
const PATIENCE: Duration = Duration::from_millis(1_000);
/// Questions of one round; where there are more, the next round goes on with them.
const ROUND_MAX: usize = 256;
/// Between rounds while all is well, and while something is not.
const CALM: Duration = Duration::from_secs(30);
const TROUBLED: Duration = Duration::from_secs(3);

/// What an answer, or none, means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The server serves the VIP, as far as this shows.
    Fine,
    /// It does not: clients that are sent there get no answer.
    Unusable,
    /// It cannot be told.
    Unknown,
}

/// One question to one server.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The server.
    pub subject: ServerRef,
    /// The probe that answers it.
    pub question: Question,
    /// The service's protocol: only TCP always answers.
    pub proto: Proto,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What the result means for the server's state.
    pub meaning: Meaning,
    /// In words, without the server's name.
    pub text: String,
    /// What to do; the first line is the command, and on which machine.
    pub next: Vec<String>,
}

/// Forward mode that packets to a server take, if it can be asked at all.
pub fn asked_by(forward: Forward) -> Option<Forward> {
    match forward {
        Forward::Local | Forward::Dr => Some(Forward::Dr),
        Forward::Tunnel(tunnel) => Some(Forward::Tunnel(tunnel)),
        Forward::Nat | Forward::FullNat => None,
    }
}

/// The questions of all services with a VIP that `held` accepts; none to this machine itself.
pub fn questions(spec: &Spec, held: impl Fn(IpAddr) -> bool, here: &[IpAddr]) -> Vec<Asked> {
    let mut all = Vec::new();
    for (name, service) in &spec.services {
        let listen = service.listen;
        let port = listen.one_port().or(service.check.port).unwrap_or(listen.last);
        for (server, wanted) in &service.servers {
            let Some(forward) = asked_by(service.forward_of(wanted)) else { continue };
            if here.contains(&wanted.addr.ip()) {
                continue;
            }
            for vip in listen.vips().filter(|vip| held(*vip)) {
                let vip = SocketAddr::new(vip, port);
                let question = Question { vip, server: wanted.addr.ip(), forward };
                let subject = ServerRef::new(name.clone(), server.clone());
                all.push(Asked { subject, question, proto: listen.proto });
            }
        }
    }
    all
}

/// What a machine without nines is given by hand.
pub fn by_hand(vip: IpAddr, tunnel: bool) -> Vec<String> {
    let host = if vip.is_ipv4() { 32 } else { 128 };
    let flag = if tunnel { " --tunnel" } else { "" };
    let mut lines = vec![format!("nines server prepare {vip}{flag}")];
    let add = format!("ip addr add {vip}/{host} dev lo");
    if !tunnel {
        lines.push(format!("or by hand: {add}"));
    } else if vip.is_ipv4() {
        lines.push("or by hand (ipip): modprobe ipip; ip link set tunl0 up".into());
        lines.push(add);
    } else {
        lines.push("or by hand (ipip): modprobe ip6_tunnel; ip link set ip6tnl0 up".into());
        lines.push(add);
    }
    if vip.is_ipv4() {
        let quiet = "net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2";
        lines.push(format!("sysctl -w {quiet} net.ipv4.conf.all.rp_filter=2"));
    }
    lines
}

/// What an answer means.
pub fn meaning(asked: &Asked, answer: Result<Option<Answer>, Hindrance>) -> Found {
    let Question { vip, server, forward } = &asked.question;
    let tunnel = matches!(forward, Forward::Tunnel(_));
    let tcp = asked.proto == Proto::Tcp;
    let found = |meaning, text: String, next| Found { meaning, text, next };
    let fine = |text: String| found(Meaning::Fine, text, Vec::new());
    match answer {
        Ok(Some(Answer::Accepts)) => fine(format!("answers as {vip}")),
        Ok(Some(Answer::Refuses)) if tcp && vip.port() != 0 => found(
            Meaning::Unusable,
            format!("has {}, but no program listens on {vip}", vip.ip()),
            vec![format!("on {server}: ss -tln sport = :{}", vip.port())],
        ),
        Ok(Some(Answer::Refuses)) => fine(format!("has {}", vip.ip())),
        Ok(None) if !tcp => found(
            Meaning::Unknown,
            format!(
                "does not answer a TCP probe to {vip}; that proves nothing about {}",
                asked.proto
            ),
            Vec::new(),
        ),
        Ok(None) => {
            let text = format!("does not accept packets for {}", vip.ip());
            let mut next = by_hand(vip.ip(), tunnel);
            next[0] = format!("on {server}: {}", next[0]);
            found(Meaning::Unusable, text, next)
        }
        Err(Hindrance::NoRoute) => found(
            Meaning::Unusable,
            "cannot be reached: the director has no route to it".into(),
            vec![format!("on the director: ip route get {server}")],
        ),
        Err(Hindrance::NoNeighbour(addr, interface)) => found(
            Meaning::Unusable,
            format!("cannot be reached: no machine answers for {addr} on {interface}"),
            vec![format!("on the director: ping {addr}")],
        ),
        Err(Hindrance::NoAddress) => found(
            Meaning::Unknown,
            format!("cannot be asked: the director has no address of {}'s family", vip.ip()),
            Vec::new(),
        ),
    }
}

/// Asks all of them; who keeps silent is asked once more, for a packet may be lost.
pub fn ask(all: &[Asked]) -> nines_dataplane::Result<Vec<Found>> {
    let questions: Vec<Question> = all.iter().map(|asked| asked.question.clone()).collect();
    let mut answers = probe::ask(&questions, PATIENCE)?;
    let silent = |answer: &Result<Option<Answer>, Hindrance>| {
        matches!(answer, Ok(None) | Err(Hindrance::NoNeighbour(..)))
    };
    let again: Vec<usize> =
        answers.iter().enumerate().filter(|(_, a)| silent(a)).map(|(i, _)| i).collect();
    if !again.is_empty() {
        let questions: Vec<Question> = again.iter().map(|i| questions[*i].clone()).collect();
        for (i, answer) in again.into_iter().zip(probe::ask(&questions, PATIENCE)?) {
            answers[i] = answer;
        }
    }
    Ok(all.iter().zip(answers).map(|(asked, answer)| meaning(asked, answer)).collect())
}

/// A server that clients are sent to in vain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// Why, without its name.
    pub text: String,
    /// The next command and where.
    pub next: String,
}

/// All such servers, by "service/server", as this holder found them.
pub type AllUnusable = BTreeMap<String, Unusable>;

/// What the proof depends on: config, who has which VIP, and which servers are down.
#[derive(Clone)]
struct Cause {
    spec: Arc<Spec>,
    held: BTreeSet<IpAddr>,
    /// What its check calls down gets no clients anyway.
    down: BTreeSet<ServerRef>,
}

/// Taken out of the core, which has no time for more.
fn cause(node: &Node, now: Time) -> Cause {
    let held = node.vips().keys().copied().filter(|vip| node.answers(*vip, now));
    let down = node.health().iter().filter(|(_, h)| h.state() == nines_model::ServerState::Down);
    Cause {
        spec: Arc::clone(&node.state().spec),
        held: held.collect(),
        down: down.map(|(subject, _)| subject.clone()).collect(),
    }
}

impl Cause {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.spec, &other.spec) && self.held == other.held && self.down == other.down
    }

    fn questions(&self) -> Vec<Asked> {
        let interfaces = address::interfaces().unwrap_or_default();
        let here: Vec<IpAddr> =
            interfaces.iter().flat_map(|i| i.addresses.iter().map(|(addr, _)| *addr)).collect();
        let mut asked = questions(&self.spec, |vip| self.held.contains(&vip), &here);
        asked.retain(|asked| !self.down.contains(&asked.subject));
        asked
    }
}

/// One round of questions, from the `from`th on; answers, and how many questions there are in all.
fn round(cause: &Cause, from: usize) -> nines_dataplane::Result<(Vec<Asked>, usize, Vec<Found>)> {
    let asked = cause.questions();
    let round: Vec<Asked> = asked.iter().skip(from).take(ROUND_MAX).cloned().collect();
    let found = ask(&round)?;
    Ok((asked, round.len(), found))
}

/// Proves again and again, as long as the agent runs: soon after a config, a takeover or a server
/// that came back, then now and then.
pub async fn keep(core: CoreHandle, unusable: Arc<Mutex<AllUnusable>>) {
    let (mut last, mut next, mut from): (Option<Cause>, _, _) = (None, Instant::now(), 0);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(cause) = core.inspect(cause).await else { return };
        let changed = last.as_ref().is_none_or(|last| !last.is(&cause));
        if !changed && Instant::now() < next {
            continue;
        }
        if changed {
            from = 0;
        }
        last = Some(cause.clone());
        let made = tokio::task::spawn_blocking(move || round(&cause, from)).await;
        let Ok(Ok((asked, count, found))) = made else {
            next = Instant::now() + TROUBLED;
            continue;
        };
        let troubled = {
            let mut known = unusable.lock().expect("nobody panics with it");
            take(&mut known, &asked, &asked[from.min(asked.len())..][..count], found);
            !known.is_empty()
        };
        from += count;
        next = Instant::now();
        if from >= asked.len() {
            from = 0;
            next += if troubled { TROUBLED } else { CALM };
        }
    }
}

/// Takes a round in, a part of all questions. A server with several VIPs is unusable if it is for
/// one of them.
fn take(known: &mut AllUnusable, all: &[Asked], round: &[Asked], found: Vec<Found>) {
    let name = |asked: &Asked| asked.subject.to_string();
    if !known.is_empty() {
        let still: BTreeSet<String> = all.iter().map(name).collect();
        known.retain(|name, _| still.contains(name));
    }
    for asked in round {
        known.remove(&name(asked));
    }
    for (asked, found) in round.iter().zip(found) {
        if found.meaning == Meaning::Unusable {
            let next = found.next.first().cloned().unwrap_or_default();
            known.insert(name(asked), Unusable { text: found.text, next });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Vec<Asked> {
        let spec = nines_model::config::parse(text).unwrap();
        questions(&spec, |_| true, &["10.0.0.2".parse().unwrap()])
    }

    fn config(forward: &str, listen: &str, server: &str) -> String {
        format!(
            "[cluster]\nname = \"w\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
             listen = \"{listen}\"\nforward = \"{forward}\"\nservers = {{ r1 = \"{server}\" }}\n"
        )
    }

    #[test]
    fn only_servers_that_must_have_the_vip_are_asked() {
        let many = |forward, listen, server| asked(&config(forward, listen, server)).len();
        assert_eq!(many("dr", "10.0.0.100:80", "10.0.0.11"), 1);
        assert_eq!(many("dr", "[fd00::100]:80", "fd00::11"), 1);
        assert_eq!(many("ipip", "10.0.0.100:80", "10.1.0.11"), 1);
        assert_eq!(many("full-nat", "10.0.0.100:80", "10.0.0.11"), 0);
        assert_eq!(many("nat", "10.0.0.100:80", "10.0.0.11"), 0);
        assert_eq!(many("dr", "10.0.0.100:80", "10.0.0.2"), 0, "the machine itself");
    }

    #[test]
    fn silence_over_tcp_is_told_with_the_command_and_ends_when_it_answers() {
        let round = asked(&config("dr", "10.0.0.100:80", "10.0.0.11"));
        let mut known = AllUnusable::new();
        take(&mut known, &round, &round, vec![meaning(&round[0], Ok(None))]);
        let told = &known["web/r1"];
        assert_eq!(told.text, "does not accept packets for 10.0.0.100");
        assert_eq!(told.next, "on 10.0.0.11: nines server prepare 10.0.0.100");
        take(&mut known, &round, &round, vec![meaning(&round[0], Ok(Some(Answer::Accepts)))]);
        assert!(known.is_empty());
        let refused = meaning(&round[0], Ok(Some(Answer::Refuses)));
        assert_eq!(refused.meaning, Meaning::Unusable);
        // It is the director that has no way there.
        let (addr, card) = ("10.0.0.11".parse().unwrap(), "eth0".to_owned());
        for hindrance in [Hindrance::NoRoute, Hindrance::NoNeighbour(addr, card)] {
            let found = meaning(&round[0], Err(hindrance));
            assert!(found.text.starts_with("cannot be reached: "), "{found:?}");
            assert!(found.next[0].starts_with("on the director: "), "{found:?}");
        }
        let udp = asked(&config("dr", "10.0.0.100:53/udp", "10.0.0.11"));
        assert_eq!(meaning(&udp[0], Ok(None)).meaning, Meaning::Unknown);
    }
}
