//! Beats and their answers: who lives, and the renewal of leases.

use std::{collections::BTreeMap, net::IpAddr};

use nines_model::{Millis, Time};
use prost::Message as _;

use super::{Node, bulk::Way};
use crate::{
    action::Action,
    consensus,
    lives::Standing,
    resources::Want,
    wire::{self, Ack, Beat, Command, Frame, RaftMessage, Token, command::Kind, frame},
};

/// Frames larger than this do not fit a datagram on a 1500-byte link with our seal around them.
const DATAGRAM_MAX: usize = 1_350;

impl Node {
    /// Nodes whose flows this one does not have yet.
    pub fn behind(&self) -> &std::collections::BTreeSet<u64> {
        &self.behind
    }

    fn others(&self) -> Vec<u64> {
        let me = self.config.id;
        let mut ids: Vec<u64> = self.state.members.keys().copied().collect();
        ids.extend(self.unnamed());
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| *id != me);
        ids
    }

    fn send(&mut self, to: u64, kind: frame::Kind) {
        let frame = self.framed(kind);
        self.send_frame(to, &frame);
    }

    fn framed(&self, kind: frame::Kind) -> Frame {
        let (life, starts, moved) = (self.config.boot, self.life.starts, self.life.moved);
        Frame { kind: Some(kind), rest: Vec::new(), life, starts, moved }
    }

    fn send_frame(&mut self, to: u64, frame: &Frame) {
        self.send_by(to, frame, false);
    }

    fn send_by(&mut self, to: u64, frame: &Frame, bulk: bool) {
        let bytes = frame.encode_to_vec();
        let bulk = bulk || bytes.len() > DATAGRAM_MAX;
        self.actions.push(Action::Send { to, bytes, bulk });
    }

    /// Sends with the next beat. Half of what an idle cluster says can wait so long, and a
    /// datagram costs more than what is in it.
    fn send_later(&mut self, to: u64, kind: frame::Kind) {
        let waiting = self.with_beat.entry(to).or_default();
        // A peer that is no longer one of the others gets no beat.
        if waiting.len() < 8 {
            // Its life is that of the beat.
            waiting.push(Frame { kind: Some(kind), ..Frame::default() });
        }
    }

    pub(super) fn send_raft(&mut self, now: Time, messages: Vec<RaftMessage>) {
        if self.broken.is_some() || self.life.moved {
            return;
        }
        for message in messages {
            if consensus::may_wait(&message) {
                self.send_later(message.to, frame::Kind::Raft(message));
            } else {
                let (to, way) = (message.to, self.way(now, &message, DATAGRAM_MAX));
                let frame = self.framed(frame::Kind::Raft(message));
                if way != Way::None {
                    self.send_by(to, &frame, way == Way::Bulk);
                }
            }
        }
    }

    /// Tells everybody that this node lives, and renews what it holds, here first of all.
    pub(super) fn beat(&mut self, now: Time) {
        if self.broken.is_some() {
            return;
        }
        let length = self.restart.map_or(self.lease(), |(ms, _)| ms);
        let mut held = Vec::new();
        let mut shortened = true;
        for (addr, vip) in &self.vips {
            let Want::Hold(token) = self.want(now, *addr) else { continue };
            held.push(Token { vip: wire::pack(*addr), index: token, life: 0 });
            // Only what this process has set since it started is known.
            shortened &= vip.guard != Time(0) && vip.guard <= now.plus(length);
        }
        let unable = self.vips.iter().filter(|(_, v)| v.unable_until > now);
        let beat = Beat {
            sent_ns: now.0,
            lease_ms: length.0,
            held,
            ready: self.ready,
            behind: self.behind.iter().copied().collect(),
            leaving: self.stopping,
            unable: unable.map(|(addr, _)| wire::pack(*addr)).collect(),
            shortened: shortened && self.restart.is_none(),
            applied: self.state.applied,
            life: self.config.boot,
            heir_of: self.life.heir_of,
            double: self.hears_double(now),
            confirmed: self.confirmed_lives(),
            hears: self.hears(now),
        };
        let granted = self.grant(now, self.config.id, &beat);
        self.renewed((self.config.id, self.config.boot), now, length, &granted);
        for to in self.others() {
            let mut rest = self.with_beat.remove(&to).unwrap_or_default();
            for frame in &mut rest {
                if let Some(frame::Kind::Ack(ack)) = &mut frame.kind {
                    ack.waited_ns = now.0.saturating_sub(ack.waited_ns);
                }
            }
            let mut frame = self.framed(frame::Kind::Beat(beat.clone()));
            // A beat must fit a datagram, which goes over every link; what does not, goes alone.
            for more in rest {
                if frame.encoded_len() + more.encoded_len() + 8 > DATAGRAM_MAX {
                    self.send(to, more.kind.expect("made by send_later"));
                } else {
                    frame.rest.push(more);
                }
            }
            self.send_frame(to, &frame);
        }
        self.with_beat.clear();
    }

    /// Index of the newest entry, committed or not, that gives a VIP to anybody. Entries that wait
    /// for a promise count: it must run out, not be renewed for ever.
    fn newest_token(&self, vip: IpAddr, tail: &[(u64, Vec<u8>)]) -> u64 {
        let packed = wire::pack(vip);
        let gives = |bytes: &[u8]| {
            matches!(
                Command::decode(bytes).ok().and_then(|c| c.kind),
                Some(Kind::Give(wire::Give { vip, .. }) | Kind::Released(Token { vip, .. }))
                    if vip == packed
            )
        };
        let in_tail = tail.iter().filter(|(_, bytes)| gives(bytes)).map(|(index, _)| *index);
        let waiting = self.held.iter().flat_map(|(_, message)| &message.entries);
        let waiting = waiting.filter(|e| gives(&e.data)).map(|e| e.index);
        // What nobody holds by what is applied here, every entry until then is over for: a holder
        // that let go and starts anew with an older log is not renewed.
        let applied = self.state.vips.get(&vip).map_or(self.state.applied, |h| h.token());
        in_tail.chain(waiting).max().unwrap_or(0).max(applied)
    }

    /// The voter's part of the lease rule: which of the VIPs a beat names are renewed.
    fn grant(&mut self, now: Time, from: u64, beat: &Beat) -> Vec<Token> {
        if beat.held.is_empty() || self.broken.is_some() || self.life.moved {
            return Vec::new();
        }
        let tail = self.consensus.tail();
        let mut granted = Vec::new();
        // No promise is longer than what the config allows a restart to take.
        let longest = self.state.spec.timing.restart.max(self.lease());
        let length = Millis(beat.lease_ms);
        if length > longest || (self.is_long(length) && !self.may_promise_long(now, length)) {
            return Vec::new();
        }
        for token in &beat.held {
            let Some(vip) = wire::unpack(&token.vip) else { continue };
            // A holder with a newer token is known from its own renewals also where the log is
            // behind; without that, a late node would renew itself over it.
            let newest = self.newest_token(vip, &tail).max(self.promises.token(vip));
            if newest > token.index {
                continue;
            }
            let holder = (from, token.index, beat.life, beat.heir_of);
            if self.promises.give(now, vip, holder, length, beat.shortened) {
                granted.push(token.clone());
            }
        }
        granted
    }

    fn renewed(
        &mut self,
        (voter, life): (u64, u64),
        sent: Time,
        length: Millis,
        granted: &[Token],
    ) {
        for token in granted {
            let Some(addr) = wire::unpack(&token.vip) else { continue };
            let Some(vip) = self.vips.get_mut(&addr) else { continue };
            if vip.token == token.index {
                vip.renewals.acked(voter, life, sent.plus(length));
            }
        }
    }

    /// Takes a datagram in; false if it changed nothing that anything is decided by.
    pub(super) fn frame(&mut self, now: Time, from: u64, link: usize, bytes: &[u8]) -> bool {
        let Ok(mut frame) = Frame::decode(bytes) else { return false };
        let (Some(kind), rest) = (frame.kind.take(), std::mem::take(&mut frame.rest)) else {
            return false;
        };
        let standing = self.standing(now, from, &frame);
        let beat = matches!(kind, frame::Kind::Beat(_));
        match standing {
            Standing::Ended => return false,
            // It is heard, and nothing that it says decides.
            Standing::Moved if !beat => return false,
            Standing::Moved => return self.take(now, from, link, kind),
            Standing::Counts | Standing::New => {}
        }
        if !beat && self.is_double(now, from) {
            return false;
        }
        let mut news = self.take(now, from, link, kind);
        for kind in rest.into_iter().filter_map(|f| f.kind) {
            if self.is_double(now, from) {
                break;
            }
            news |= self.take(now, from, link, kind);
        }
        news
    }

    fn take(&mut self, now: Time, from: u64, link: usize, kind: frame::Kind) -> bool {
        if self.broken.is_some() {
            return false;
        }
        match kind {
            frame::Kind::Beat(beat) => {
                let same = self.membership.peer(from).is_some_and(|p| {
                    p.was_alive && p.beat == Beat { sent_ns: p.beat.sent_ns, ..beat.clone() }
                });
                // Nodes beat together: one wake-up hears and answers. Whose beat comes first leads;
                // others pull theirs forward, never back.
                let half = self.state.spec.timing.beat.ns() / 2;
                if self.next_beat.0.saturating_sub(now.0) <= half {
                    self.next_beat = self.next_beat.min(now);
                }
                // A beat that renews nothing is answered now and then, for the round trip.
                let answer = !beat.held.is_empty() || self.membership.owes_answer(now, from);
                if self.membership.heard(now, from, link, beat.clone()) && answer {
                    // The first renewal decides when a VIP comes up; later ones have a lease's time.
                    let news = |t: &Token| {
                        wire::unpack(&t.vip).is_none_or(|v| self.promises.token(v) != t.index)
                    };
                    let urgent = beat.held.iter().any(news) || beat.lease_ms != self.lease().0;
                    let granted = if self.may_ask(now, from) {
                        self.grant(now, from, &beat)
                    } else {
                        Vec::new()
                    };
                    let ack = Ack {
                        sent_ns: beat.sent_ns,
                        lease_ms: beat.lease_ms,
                        granted,
                        membership: self.state.membership,
                        life: beat.life,
                        waited_ns: if urgent { 0 } else { now.0 },
                    };
                    if urgent {
                        self.send(from, frame::Kind::Ack(ack));
                    } else {
                        self.send_later(from, frame::Kind::Ack(ack));
                    }
                }
                !same
            }
            frame::Kind::Ack(ack) => {
                // Sent by this life of this node and not in the future.
                if ack.life == self.config.boot && ack.sent_ns <= now.0 {
                    let trip = (now.0 - ack.sent_ns).saturating_sub(ack.waited_ns);
                    self.membership.round_trip(from, trip);
                    if ack.membership <= self.state.membership {
                        let length = Millis(ack.lease_ms);
                        let voter = (from, self.life.heard.current(from));
                        self.renewed(voter, Time(ack.sent_ns), length, &ack.granted);
                    }
                }
                !ack.granted.is_empty()
            }
            frame::Kind::Raft(_) if self.life.moved => false,
            frame::Kind::Raft(message) if message.from == from => {
                self.log_message(now, message);
                true
            }
            frame::Kind::Raft(_) => false,
        }
    }

    /// Until when an entry may not be appended here.
    pub(super) fn must_wait(&self, now: Time, index: u64, command: &[u8]) -> Option<Time> {
        let give = match Command::decode(command).ok()?.kind? {
            Kind::Give(give) => give,
            Kind::Released(Token { vip, index: token, life }) => {
                return self.promises.hold_release(now, wire::unpack(&vip)?, token, life);
            }
            _ => return None,
        };
        if give.from.is_empty() {
            // Nobody held it, by the log: its last holder, if any, has said that it stopped.
            return None;
        }
        let vip = wire::unpack(&give.vip)?;
        self.promises.hold(now, vip, self.id_of(&give.to), index)
    }

    pub(super) fn release_held(&mut self, now: Time) {
        let mut due = Vec::new();
        self.held.retain(|(until, message)| {
            if *until <= now {
                due.push(message.clone());
            }
            *until > now
        });
        for message in due {
            // A newer promise may have been given meanwhile.
            self.log_message(now, message);
        }
    }

    pub(super) fn watch_peers(&mut self, now: Time) {
        let lease = self.lease();
        for (id, alive) in self.membership.changes(now, lease) {
            let name = self.name_of(id);
            if alive {
                // It may have missed our announcements; after a cut its whole side has.
                for vip in self.vips.values_mut().filter(|v| v.answers(now)) {
                    vip.announce_from(now);
                }
            }
            let holds = self.state.vips.values().any(|h| h.node() == name);
            let me = &self.config.name;
            let (kind, text) = if alive {
                ("beat-back", format!("{me} hears {name} again"))
            } else {
                let ms = self.membership.peer(id).map_or(0, |p| now.since(p.at) / 1_000_000);
                let links = self.membership.peer(id).map_or(0, |p| p.heard.len());
                let links = if links == 1 { "1 link".into() } else { format!("{links} links") };
                ("beat-lost", format!("{me} heard nothing from {name} for {ms} ms on {links}"))
            };
            // The entry that gives its VIPs away tells the silence of a holder.
            if self.consensus.leads() && (alive || !holds) {
                self.tell(now, kind, name, text, "auto", String::new());
            } else {
                self.log(text);
            }
        }
    }

    /// Beats of a peer by link: up or not.
    pub fn links(&self, now: Time, id: u64) -> BTreeMap<usize, bool> {
        let heard = self.membership.peer(id).map(|p| p.heard.keys().copied().collect::<Vec<_>>());
        heard
            .unwrap_or_default()
            .into_iter()
            .filter_map(|l| Some((l, self.membership.link_up(now, id, l, self.lease())?)))
            .collect()
    }
}
