//! The voter's part of the lease rule for whole sets, and the acks that say so.
//!
//! Decides: which VIPs of a set are renewed. The answer for a set is worked out once and kept as
//! long as everything that it was worked out from is the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nines_model::{Incarnation, LogIndex, Millis, NodeId};
use prost::Message as _;

use super::{Context, Voter};
use crate::{
    batch, peek,
    vip_set::{self, Arriving, VipSet},
    wire::{Ack, Command, Heartbeat, SetPart},
};

/// Everything that decides whether a VIP of a known set is renewed: what is applied, where the log
/// ends, what waits to be appended, what others were promised.
type Basis = (LogIndex, (LogIndex, u64), u64, u64);

/// A set of a holder, and what this voter said about it last.
#[derive(Default)]
struct Known {
    set: VipSet,
    incarnation: Incarnation,
    refused: BTreeSet<IpAddr>,
    basis: Option<Basis>,
}

/// What a voter knows of holders' sets.
#[derive(Default)]
pub(super) struct HolderSets {
    known: BTreeMap<NodeId, Known>,
    arriving: BTreeMap<NodeId, Arriving>,
}

/// The answer to a heartbeat's request to renew.
pub enum Granted {
    /// Nothing is renewed.
    Nothing,
    /// Nothing, for it is not known what the set contains.
    Unknown,
    /// All of the set but some.
    But {
        /// VIPs of the set that are not renewed.
        refused: Vec<IpAddr>,
        /// The answer is the first one in this incarnation of the holder.
        first: bool,
    },
}

impl Voter {
    /// Some of what a holder's set contains.
    pub fn learn(&mut self, from: NodeId, part: &SetPart) {
        let name = (part.name_a, part.name_b);
        if self.sets.known.get(&from).is_some_and(|known| known.set.name() == name) {
            return;
        }
        if let Some(set) = self.sets.arriving.entry(from).or_default().take(part) {
            self.sets.known.insert(from, Known { set, ..Known::default() });
        }
    }

    /// This node knows its own set without being told.
    pub fn learn_own(&mut self, set: &VipSet) {
        let me = self.identity.id;
        if self.sets.known.get(&me).is_none_or(|known| known.set.name() != set.name()) {
            self.sets.known.insert(me, Known { set: set.clone(), ..Known::default() });
        }
    }

    /// Index of the newest entry after what is applied here, committed or not, that gives each VIP
    /// to anybody. Entries that wait for a promise count: it must run out, not be renewed for ever.
    fn newest_tokens(&self) -> BTreeMap<IpAddr, LogIndex> {
        let mut newest = BTreeMap::new();
        let mut take = |index: LogIndex, bytes: &[u8]| {
            if peek::applies_config(bytes) {
                return;
            }
            let kind = Command::decode(bytes).ok().and_then(|command| command.kind);
            for vip in kind.iter().flat_map(batch::gives) {
                let token = newest.entry(vip).or_insert(index);
                *token = index.max(*token);
            }
        };
        for (index, bytes) in self.consensus.tail() {
            take(index, &bytes);
        }
        for entry in self.gate.entries() {
            take(entry.index(), &entry.data);
        }
        newest
    }

    fn basis(&self, cx: &Context<'_>) -> Basis {
        let (state, last) = (cx.state.applied, self.consensus.last());
        (state, last, self.gate.changes(), self.promises.changes())
    }

    /// Whether this node promises anything. One that is about to get its vote does so before: what
    /// it renews counts from its vote on, and without that every holder would have to stop until
    /// the new voter has renewed, too.
    fn may_promise(&mut self, cx: &Context<'_>) -> bool {
        let me = self.identity.id;
        let answered = |leader| self.has_answered(leader);
        let learns = self.consensus.learners().contains(&me)
            && self.consensus.leader().is_some_and(answered)
            && self.consensus.applied_index() >= self.consensus.committed();
        learns || self.may_vote(cx)
    }

    /// The voter's part of the lease rule: which of the VIPs a heartbeat names are renewed.
    pub fn grant(&mut self, cx: &mut Context<'_>, from: NodeId, beat: &Heartbeat) -> Granted {
        if beat.set_size == 0 || self.clock_off || !self.takes_part() || !self.may_promise(cx) {
            return Granted::Nothing;
        }
        // No promise is longer than what the config allows a restart to take.
        let longest = cx.state.spec.timing.restart.max(cx.lease());
        let length = Millis(beat.lease_ms);
        if length > longest || (self.is_long(cx, length) && !self.may_promise_long(cx, length)) {
            return Granted::Nothing;
        }
        let basis = self.basis(cx);
        let known = self.sets.known.get_mut(&from);
        let Some(known) = known.filter(|k| k.set.name() == (beat.set_a, beat.set_b)) else {
            return Granted::Unknown;
        };
        if known.incarnation == beat.incarnation() && known.basis == Some(basis) {
            self.promises.renew(cx.now, from, length, beat.shortened);
            return Granted::But { refused: known.refused.iter().copied().collect(), first: false };
        }
        let mut known = std::mem::take(known);
        let first = known.basis.is_none() || known.incarnation != beat.incarnation();
        let newest = self.newest_tokens();
        let refuse = |(vip, token): &(IpAddr, LogIndex)| {
            // What nobody holds by what is applied here, every entry until then is over for: a
            // holder that let go and starts anew with an older log is not renewed. And a holder
            // with a newer token is known from its own renewals also where the log is behind;
            // without that, a late node would renew itself over it.
            let applied = cx.state.vips.get(vip).map_or(cx.state.applied, |h| h.token());
            let after = newest.get(vip).copied().unwrap_or(LogIndex::ZERO);
            applied.max(after).max(self.promises.token(*vip)) > *token
        };
        known.refused = known.set.iter().filter(refuse).map(|(vip, _)| vip).collect();
        known.incarnation = beat.incarnation();
        let granted = known.set.iter().filter(|(vip, _)| !known.refused.contains(vip));
        let holder = (from, beat.incarnation(), beat.heir_of());
        let not_yet = self.promises.give(cx.now, holder, granted, length, beat.shortened);
        // Those are asked about again with each heartbeat: what holds them back ends by itself.
        known.basis = Some(self.basis(cx)).filter(|_| not_yet.is_empty());
        known.refused.extend(not_yet);
        let refused = known.refused.iter().copied().collect();
        self.sets.known.insert(from, known);
        Granted::But { refused, first }
    }

    /// The ack of a heartbeat, and whether it should not wait for the next heartbeat. Nothing is
    /// granted where the sender `may` not ask.
    pub fn answer(
        &mut self,
        cx: &mut Context<'_>,
        from: NodeId,
        beat: &Heartbeat,
        may: bool,
    ) -> (Ack, bool) {
        if let Some(part) = &beat.part {
            self.learn(from, part);
        }
        let granted = if may { self.grant(cx, from, beat) } else { Granted::Nothing };
        let (term, acked) = self.remembered(from);
        let mut ack = Ack {
            term,
            acked: acked.number(),
            sent_ns: beat.sent_ns,
            lease_ms: beat.lease_ms,
            membership: cx.state.members.newest_change().number(),
            incarnation: beat.incarnation,
            voters: self.voters_for(cx, beat.applied()),
            ..Ack::default()
        };
        // The first renewal decides when a VIP comes up; later ones have a lease's time.
        let mut urgent = beat.lease_ms != cx.lease().0;
        match granted {
            Granted::Nothing => {}
            Granted::Unknown => (ack.unknown, urgent) = (true, true),
            Granted::But { refused, first } => {
                (ack.set_a, ack.set_b) = (beat.set_a, beat.set_b);
                urgent |= first;
                if !refused.is_empty()
                    && let Some(known) = self.sets.known.get(&from)
                {
                    let all = known.set.iter().map(|(vip, _)| vip);
                    ack.refused = vip_set::marks(all, |vip| known.refused.contains(&vip));
                }
            }
        }
        (ack, urgent)
    }
}
