//! Two voters, one of which is off: how the other goes on without a majority.
//!
//! Two of two are needed to decide anything, so a log that both have is all that was ever decided.
//! One of them that loses the other may go on only with proof that the other is off: its fence
//! devices say so, or a person does. Then it votes for the other, once, to take that one's vote
//! away; from there on it is a cluster of one vote, and the other gets its vote back when it is
//! heard again and has the log.
//!
//! ```text
//! silent for `after` (for who holds less: `delay` more) -> its devices -> off -> its vote is taken
//!       heard again: all of it is forgotten                                       -> one vote
//! ```
//!
//! Why it is safe: the other one, when it starts again, can decide nothing without this node's vote
//! and may not do the same, because this node has not answered it since its start. What it alone
//! had in its log was never decided. The vote that is cast for it is in a term that no one has led.
//! Votes are taken by the same kind of log entry as any other change, so that later changes keep
//! apart as always (`voter/voters.rs`).
//!
//! Decides: when a node alone may have the other switched off, and what counts as proof.

use nines_model::{AdminCommand, Codes as _, Incarnation, Millis, NodeId, Switch, Time};

use super::{
    Node,
    fence_run::Run,
    fencing::{HOUR, RETRY},
};
use crate::{
    action::{Action, Refusal},
    event_log::EventKind,
    feature_level::FENCING,
    state::fencing::{self, ATTEMPTS},
    voter::consensus::Change,
    wire::{Act, Command, Fence, FenceStep, command::Kind},
};

/// Heartbeats that were on their way when the power went arrive within this.
const ON_THEIR_WAY: Millis = Millis(500);

/// Why a node that has lost the other one of two does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AloneWait {
    /// No device switches the other one.
    NoDevice,
    /// It has not heard the other one since it started: it may be the one that was switched off.
    NotHeardYet,
    /// The other one may go by older members, or this one has a change of members ahead.
    MembersChange,
    /// It is not certain yet that the other one is gone, or its devices are being asked.
    Soon,
    /// Its devices have failed too often.
    TriedTooOften,
    /// The other one says that it stops.
    Stops,
}

/// Proof that the other one is off.
struct Proof {
    other: NodeId,
    incarnation: Incarnation,
    text: String,
    level: u32,
    by_person: bool,
    at: Time,
}

/// What a node remembers of going on alone.
#[derive(Default)]
pub(super) struct Alone {
    run: Option<Run>,
    /// When the other one's devices were asked.
    tried: Vec<Time>,
    /// What they said last.
    said: String,
    proof: Option<Proof>,
    /// The vote is taken, and the library still believes what was said for the other one.
    stale: bool,
    /// Another one went on alone as well.
    split: bool,
}

impl Node {
    /// The other one of two voters.
    fn other_of_two(&self) -> Option<NodeId> {
        let voters = self.voter.consensus().voters();
        let me = self.config.id;
        match voters.as_slice() {
            [a, b] if *a == me => Some(*b),
            [a, b] if *b == me => Some(*a),
            _ => None,
        }
    }

    /// Why this node, one of two voters, does not go on without the other; `None`: there are more
    /// voters, or it hears the other, or it may.
    fn alone_waits(&self, now: Time) -> Option<AloneWait> {
        let other = self.other_of_two()?;
        if self.membership.speaks(now, other, self.lease()) {
            return None;
        }
        self.alone_wait(now, other).or(Some(AloneWait::Soon))
    }

    /// The name of the other one of two voters, if this node has lost it.
    pub fn alone_other(&self) -> Option<String> {
        self.other_of_two().map(|other| self.name_of(other))
    }

    /// Why this node, one of two voters, does not go on without the other, in words.
    pub fn alone_text(&self, now: Time) -> Option<String> {
        let waits = self.alone_waits(now)?;
        let name = self.alone_other()?;
        if self.alone.run.is_some() {
            return Some(format!("{name} is silent; its fence devices are asked to switch it off"));
        }
        Some(match waits {
            AloneWait::NoDevice => format!(
                "{name} is silent, and no fence device switches it: nobody knows that it is off"
            ),
            AloneWait::NotHeardYet => format!(
                "{name} was not heard since this node started: it may serve, and may have had this \
                 node switched off"
            ),
            AloneWait::MembersChange => {
                format!("{name} is silent, and may go by other members than this node")
            }
            AloneWait::Soon if self.alone.said.is_empty() => {
                format!("{name} is silent; if it stays so, it is switched off")
            }
            AloneWait::Soon => self.alone.said.clone(),
            AloneWait::TriedTooOften => format!("tried too often: {}", self.alone.said),
            AloneWait::Stops => format!("{name} was about to stop, and is silent"),
        })
    }

    /// What keeps this node from asking the devices of the other one now.
    fn alone_wait(&self, now: Time, other: NodeId) -> Option<AloneWait> {
        let spec = &self.state.spec;
        let peer = self.membership.peer(other).filter(|peer| peer.at != Time(0));
        if !spec.can_fence(&self.name_of(other)) {
            return Some(AloneWait::NoDevice);
        }
        if !self.agrees_on_members(other) {
            return Some(AloneWait::MembersChange);
        }
        let Some(peer) = peer.filter(|_| self.incarnation.current(other) != Incarnation::NONE)
        else {
            return Some(AloneWait::NotHeardYet);
        };
        if peer.beat.leaving {
            return Some(AloneWait::Stops);
        }
        let tried = self.alone.tried.iter().filter(|at| now.since(**at) < HOUR.ns()).count();
        if tried >= ATTEMPTS {
            return Some(AloneWait::TriedTooOften);
        }
        let delay = if self.holds_less_than(other) { spec.fencing.delay } else { Millis(0) };
        let patience = Millis(spec.fencing.after.0 + delay.0).ns();
        let again = self.alone.tried.last().is_none_or(|at| now.since(*at) >= RETRY.ns());
        let silent = now.since(peer.at) >= patience && self.membership.listening(now) >= patience;
        (!(silent && again)).then_some(AloneWait::Soon)
    }

    /// Whether the two go by the same members, and nobody else could still count as a voter.
    fn agrees_on_members(&self, other: NodeId) -> bool {
        let voters = self.voter.consensus().voters();
        if self.voter.newest_voters(&self.state) != voters {
            return false;
        }
        let members = &self.state.members;
        let knows = self.membership.peer(other).is_some_and(|peer| {
            peer.beat.applied() >= members.newest_change() && peer.at != Time(0)
        });
        let nobody_else = members.highest().max(members.keys().max().copied().unwrap_or_default());
        // It has applied what this node has not got: that was decided without this one.
        let ahead = self
            .membership
            .peer(other)
            .is_some_and(|peer| peer.beat.applied() > self.voter.consensus().last().0);
        // Who only begins to get the log, or gets its vote taken, decides nothing.
        let harmless =
            |(id, change): &(NodeId, Change)| *change == Change::Learns && *id != self.config.id;
        let changes = self.voter.consensus().changes_ahead();
        changes.iter().all(harmless) && !ahead && (knows || nobody_else <= NodeId(2))
    }

    /// Of two that lose each other the one that holds less waits longer: both cannot win.
    fn holds_less_than(&self, other: NodeId) -> bool {
        let held = |id: NodeId| {
            let name = self.name_of(id);
            self.state.vips.values().filter(|h| *h.node() == name).count()
        };
        let (mine, its) = (held(self.config.id), held(other));
        mine < its || (mine == its && self.config.id > other)
    }

    /// Goes on alone as far as it may.
    pub(super) fn run_alone(&mut self, now: Time) {
        if self.alone.stale && self.voter.forget_borrowed_vote() {
            self.alone.stale = false;
        }
        let Some(other) = self.other_of_two() else {
            self.drop_proof();
            return;
        };
        if !self.may_go_alone(now) {
            return;
        }
        if let Some(proof) = &self.alone.proof {
            let heard = self.membership.peer(other).is_some_and(|peer| {
                peer.at > proof.at && peer.at.since(proof.at) >= ON_THEIR_WAY.ns()
            });
            if proof.other != other || heard || self.incarnation.current(other) != proof.incarnation
            {
                self.proof_is_void(now, other);
                return;
            }
            self.take_vote(now);
            return;
        }
        let (voter, cx) = self.voter(now);
        // Whoever answers also tells of changes that this node has slept through.
        let lost = voter.may_vote(&cx) && !self.membership.speaks(now, other, self.lease());
        if lost && self.alone.run.is_none() && self.alone_wait(now, other).is_none() {
            self.ask_about(now, other);
        }
    }

    fn may_go_alone(&self, now: Time) -> bool {
        self.voter.takes_part()
            && !self.is_double(now, self.config.id)
            && !self.is_removed()
            && !self.leaving.stops()
            && !self.voter.disk_lags(now)
    }

    /// What counted as proof does so no more, and neither does what was said for the other one.
    fn drop_proof(&mut self) -> Option<Proof> {
        let proof = self.alone.proof.take()?;
        self.voter.vouch(false);
        self.alone.stale = true;
        Some(proof)
    }

    /// Has the devices of the other one switch it off.
    fn ask_about(&mut self, now: Time, other: NodeId) {
        self.alone.tried.push(now);
        if self.alone.tried.len() > ATTEMPTS {
            self.alone.tried.remove(0);
        }
        let (me, name) = (self.config.name.clone(), self.name_of(other));
        let text = format!("{me} has {name} switched off: it is silent, and no third node votes");
        self.record_event(now, EventKind::Fence, name.clone(), text, "auto", String::new());
        let levels = self.state.spec.fence_levels(&name);
        let incarnation = self.incarnation.current(other);
        let mut run = Run::of(other, (0, 0), (Switch::Off, incarnation), levels);
        self.ask_level(now, &mut run);
        self.alone.run = Some(run);
        self.alone_answer(now);
    }

    /// A device has answered.
    pub(super) fn alone_done(&mut self, now: Time, id: u64, result: Result<(), String>) {
        let Some(mut run) = self.alone.run.take() else { return };
        run.answered(id, result);
        if run.is_through() {
            let name = self.name_of(run.target);
            run.sum_up(now, &name);
        }
        self.alone.run = Some(run);
        self.alone_answer(now);
    }

    /// What the devices of the other one have come to.
    fn alone_answer(&mut self, now: Time) {
        let Some(mut run) = self.alone.run.take() else { return };
        let gone = |node: &Self, run: &Run| {
            node.other_of_two() == Some(run.target)
                && node.incarnation.current(run.target) == run.incarnation
                && !node.membership.speaks(now, run.target, node.lease())
                && node.listens(now)
        };
        while run.needs_next() {
            if !gone(self, &run) {
                run.is_void(&self.name_of(run.target), "it is heard again");
            } else {
                self.ask_level(now, &mut run);
            }
        }
        let Some((ok, text)) = run.answer().cloned() else {
            self.alone.run = Some(run);
            return;
        };
        let (other, level) = (run.target, run.level());
        let current = self.incarnation.current(other);
        if run.was_void() || (ok && current != run.incarnation) {
            // It is heard again, or has started again meanwhile, before it was off or after.
            self.alone.tried.pop();
            return;
        }
        self.alone.said.clone_from(&text);
        if ok && self.other_of_two() == Some(other) {
            self.log(text.clone());
            let (incarnation, by_person) = (run.incarnation, false);
            let proof = Proof { other, incarnation, text, level, by_person, at: now };
            self.alone.proof = Some(proof);
        } else if !ok {
            let name = self.name_of(other);
            self.record_event(now, EventKind::FenceFailed, name, text, "auto", String::new());
        }
    }

    fn proof_is_void(&mut self, now: Time, other: NodeId) {
        let Some(proof) = self.drop_proof() else { return };
        let name = self.name_of(other);
        if self.incarnation.current(other) == proof.incarnation && !proof.by_person {
            let text = format!(
                "{name} was said to be off, and goes on: nothing that rests on it counts; look at \
                 its fence devices"
            );
            self.record_event(now, EventKind::FenceFailed, name, text, "auto", String::new());
        }
    }

    /// Takes the vote of the other one, step by step: each waits for this node's own disk.
    fn take_vote(&mut self, now: Time) {
        let Some(proof) = &self.alone.proof else { return };
        let other = proof.other;
        if !self.voter.consensus().leads() {
            self.voter.vote_for(other);
            return;
        }
        if !self.voter.consensus().has_change_ahead() && self.voter.may_change_voters(now) {
            let said = Fence {
                level: proof.level,
                by_person: proof.by_person,
                ..Fence::about(FenceStep::Alone, other, proof.incarnation, proof.text.clone())
            };
            self.propose_own(now, Kind::Fence(said), String::new());
        }
        self.voter.vote_for(other);
    }

    /// Voters have changed: once the vote of the other one is taken, what was said for it is
    /// forgotten.
    pub(super) fn vote_taken(&mut self) {
        let voters = self.voter.consensus().voters();
        if self.alone.proof.as_ref().is_some_and(|proof| !voters.contains(&proof.other)) {
            self.drop_proof();
        }
    }

    /// The leader's part: of two voters one that stops gives its vote up, so that the other can go
    /// on. It holds nothing by then. A leader that stops hands over first.
    pub(super) fn let_other_rest(&mut self, now: Time) {
        let Some(other) = self.other_of_two() else { return };
        if self.leaving.stops() {
            if let Some(to) = self.next_leader(now, |_| true) {
                self.hand_over(now, to);
            }
            return;
        }
        let stops = self.membership.alive(now, other, self.lease())
            && self.membership.peer(other).is_some_and(|peer| peer.beat.leaving);
        let name = self.name_of(other);
        let holds = self.state.vips.values().any(|holding| *holding.node() == name);
        let may =
            self.voter.may_change_voters(now) && self.state.members.feature_level() >= FENCING;
        if stops && !holds && may && !self.voter.consensus().has_change_ahead() {
            let text = format!("{name} stops, and gets its vote back when it is here again");
            let rests = Fence::about(FenceStep::Rests, other, Incarnation::NONE, text);
            self.propose_own(now, Kind::Fence(rests), String::new());
        }
    }

    /// Whether this node, which stops, should wait until the other one of two goes on without its
    /// vote.
    pub(super) fn gives_vote_up(&self, now: Time) -> bool {
        let level = self.state.members.feature_level();
        let other = self.other_of_two().filter(|_| level >= FENCING && self.broken().is_none());
        other.is_some_and(|other| self.membership.alive(now, other, self.lease()))
    }

    /// If a person says that a node is off: the command that it comes to. `None`: there is none,
    /// and the person has an answer. Other commands stay as they are.
    pub(super) fn with_confirmation(
        &mut self,
        now: Time,
        request: u64,
        command: Command,
    ) -> Option<Command> {
        let act = match &command.kind {
            Some(Kind::Act(act))
                if AdminCommand::from_code(&act.verb) == Some(AdminCommand::ConfirmOff) =>
            {
                act
            }
            _ => return Some(command),
        };
        match self.confirm_off(now, act, &command.actor) {
            Ok(kind) => Some(Command { kind: Some(kind), ..command }),
            Err(answer) => {
                let result = answer.map(|text| (self.state.applied, text));
                self.actions.push(Action::Reply { request, result });
                None
            }
        }
    }

    /// Another member went on alone, too: by a person's word about a node that was not off. What
    /// each has decided since cannot be put together, so neither goes on.
    pub(super) fn split_from(&mut self, other: NodeId) {
        if self.broken().is_some() {
            return;
        }
        let name = self.name_of(other);
        let why = format!(
            "{name} went on alone as well, and each has decided what the other does not know; keep \
             one of the two: on the other, stop the agent, move its state directory away, and join \
             it again"
        );
        self.log(format!("this node votes no more: {why}"));
        self.voter.breaks(why);
        self.alone.split = true;
        self.all_vips_changed();
    }

    /// Whether this node and another one both went on alone.
    pub(super) fn is_split(&self) -> bool {
        self.alone.split
    }

    /// The command that a person's word comes to, or the answer if there is none.
    fn confirm_off(
        &mut self,
        now: Time,
        act: &Act,
        actor: &str,
    ) -> Result<Kind, Result<String, Refusal>> {
        let refuse = |why: String| Err(Err(Refusal::Unsafe(why)));
        let [name] = act.subjects.as_slice() else {
            return Err(Err(Refusal::Invalid("name one node".into())));
        };
        let Some(id) = self.id_of(name) else {
            return Err(Err(Refusal::NotFound(format!("{name} is no member"))));
        };
        if id == self.config.id {
            return refuse(format!("this is {name}: it is not off"));
        }
        if self.membership.speaks(now, id, self.lease()) || self.is_heard_elsewhere(now, id) {
            return refuse(format!("{name} is heard: it is not off"));
        }
        let incarnation = self.incarnation.current(id);
        let kind = fencing::confirmed(act, id, incarnation.number(), actor);
        if self.other_of_two() != Some(id) || self.state.members.feature_level() < FENCING {
            return Ok(kind);
        }
        if !self.may_go_alone(now) {
            return refuse(format!(
                "this node takes no part, stops, or its disk is slow: it cannot go on without \
                 {name}"
            ));
        }
        if !self.agrees_on_members(id) {
            return refuse(format!(
                "{name} may have decided what this node does not know, or goes by other members: \
                 start {name}"
            ));
        }
        let Kind::Fence(Fence { text, .. }) = kind else { return Ok(kind) };
        let mut answer = format!("{name} counts as off: this node goes on alone");
        if incarnation == Incarnation::NONE {
            answer.push_str("; if that one went on alone before, what it decided then is lost");
        }
        let (level, by_person, at) = (0, true, now);
        self.log(text.clone());
        self.voter.vouch(true);
        self.alone.proof = Some(Proof { other: id, incarnation, text, level, by_person, at });
        Err(Ok(answer))
    }
}
