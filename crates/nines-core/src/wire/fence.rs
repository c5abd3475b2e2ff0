//! Fencing, as the log and a snapshot hold it.

use nines_model::{Codes as _, Incarnation, LogIndex, NodeId, Switch, codes};

codes! {
    /// What a command says of the power of a node.
    pub enum FenceStep {
        /// A node is to have the devices of another one switch it.
        Order = "order",
        /// They have done so.
        Done = "done",
        /// They have not, or nobody knows.
        Failed = "failed",
        /// They were not asked, or nobody waits for them any more: nothing is known of them.
        Void = "void",
        /// The node is heard.
        Heard = "heard",
        /// A person has seen that it is off.
        Confirmed = "confirmed",
        /// Of two voters one is off, and has no vote until it is back.
        Alone = "alone",
        /// Of two voters one stops, and gives its vote up until it is back.
        Rests = "rests",
    }
}

/// A command about the power of a node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fence {
    /// Code of a [`FenceStep`].
    #[prost(string, tag = "1")]
    pub step: String,
    /// Number of the node that is switched.
    #[prost(uint64, tag = "2")]
    pub target: u64,
    /// Its incarnation that is meant.
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
    /// Code of a [`Switch`].
    #[prost(string, tag = "4")]
    pub switch: String,
    /// In an order: number of the node that speaks to the devices.
    #[prost(uint64, tag = "5")]
    pub by: u64,
    /// In an order: Raft term of the leader that gives it.
    #[prost(uint64, tag = "6")]
    pub term: u64,
    /// In an answer to an order: log index of that.
    #[prost(uint64, tag = "7")]
    pub order: u64,
    /// In such an answer: the level of devices that did it, from 0.
    #[prost(uint32, tag = "8")]
    pub level: u32,
    /// Why, or what the devices said.
    #[prost(string, tag = "9")]
    pub text: String,
    /// A person says so, and no device; of an order: a person wants it.
    #[prost(bool, tag = "10")]
    pub by_person: bool,
    /// In an order: incarnation of the node that speaks to the devices.
    #[prost(uint64, tag = "11")]
    pub by_incarnation: u64,
}

impl Fence {
    /// A step of fencing with no more to it than its target.
    pub(crate) fn about(
        step: FenceStep,
        target: NodeId,
        incarnation: Incarnation,
        text: String,
    ) -> Self {
        Self {
            step: step.code().into(),
            target: target.number(),
            incarnation: incarnation.number(),
            text,
            ..Self::default()
        }
    }

    /// The node that is switched.
    pub fn target(&self) -> NodeId {
        NodeId(self.target)
    }

    /// Its incarnation that is meant.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }

    /// Whether it says that a node goes on which was said to be off.
    pub fn is_lie(&self, power: &Power) -> bool {
        let heard = FenceStep::from_code(&self.step) == Some(FenceStep::Heard);
        heard && power.off.as_ref().is_some_and(|off| off.incarnation == self.incarnation)
    }

    /// Whether it goes with a change of voters.
    pub fn is_about_votes(&self) -> bool {
        let step = FenceStep::from_code(&self.step);
        matches!(step, Some(FenceStep::Alone | FenceStep::Rests))
    }
}

/// An order that nobody has answered yet.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FenceOrder {
    /// Log index of the order.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Code of a [`Switch`].
    #[prost(string, tag = "2")]
    switch: String,
    /// The incarnation that is meant.
    #[prost(uint64, tag = "3")]
    incarnation: u64,
    /// Number of the node that speaks to the devices.
    #[prost(uint64, tag = "4")]
    by: u64,
    /// Raft term of the leader that gave it.
    #[prost(uint64, tag = "5")]
    pub term: u64,
    /// When, ms since 1970.
    #[prost(uint64, tag = "6")]
    pub at_ms: u64,
    /// A person wants it.
    #[prost(bool, tag = "7")]
    pub by_person: bool,
    /// Incarnation of the node that speaks to the devices.
    #[prost(uint64, tag = "8")]
    by_incarnation: u64,
}

impl FenceOrder {
    /// The order that a command at this index gives.
    pub(crate) fn of(index: LogIndex, at_ms: u64, fence: &Fence) -> Self {
        let Fence { switch, incarnation, by, term, by_person, by_incarnation, .. } = fence.clone();
        let index = index.number();
        Self { index, switch, incarnation, by, term, at_ms, by_person, by_incarnation }
    }

    /// What the devices are to do; what no build knows changes nothing.
    pub fn switch(&self) -> Switch {
        Switch::from_code(&self.switch).unwrap_or(Switch::Test)
    }

    /// The incarnation that is meant.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }

    /// The node that speaks to the devices.
    pub fn by(&self) -> NodeId {
        NodeId(self.by)
    }

    /// Its incarnation: one that has started since does not know what became of the order.
    pub fn by_incarnation(&self) -> Incarnation {
        Incarnation(self.by_incarnation)
    }
}

/// What devices said, and when.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FenceAnswer {
    /// It was done.
    #[prost(bool, tag = "1")]
    pub ok: bool,
    /// When, ms since 1970.
    #[prost(uint64, tag = "2")]
    pub at_ms: u64,
    /// In words.
    #[prost(string, tag = "3")]
    pub text: String,
}

/// A node that is off.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FenceOff {
    /// The incarnation that was switched off.
    #[prost(uint64, tag = "1")]
    pub incarnation: u64,
    /// When, ms since 1970.
    #[prost(uint64, tag = "2")]
    pub at_ms: u64,
    /// Who says so, in words.
    #[prost(string, tag = "3")]
    pub text: String,
    /// The level of devices that did it, from 0.
    #[prost(uint32, tag = "4")]
    pub level: u32,
    /// A person says so, and no device.
    #[prost(bool, tag = "5")]
    pub by_person: bool,
    /// Log index at which that is written.
    #[prost(uint64, tag = "6")]
    pub index: u64,
    /// It was to be switched on again since.
    #[prost(bool, tag = "7")]
    pub on_tried: bool,
}

impl FenceOff {
    /// The incarnation that was switched off.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }
}

/// What an operator wants of a node's devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FenceWish {
    /// Code of a [`Switch`].
    #[prost(string, tag = "1")]
    pub switch: String,
    /// Operator, "alice@lb1".
    #[prost(string, tag = "2")]
    pub actor: String,
    /// Why, in the operator's words.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// Log index of the command.
    #[prost(uint64, tag = "4")]
    pub index: u64,
}

/// All about the power of one node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Power {
    /// The order under way.
    #[prost(message, optional, tag = "1")]
    pub order: Option<FenceOrder>,
    /// Log indexes of the orders to switch it off since it was last heard; the newest ones.
    #[prost(uint64, repeated, tag = "2")]
    pub attempts: Vec<u64>,
    /// It is off.
    #[prost(message, optional, tag = "3")]
    pub off: Option<FenceOff>,
    /// What the last try of its devices came to.
    #[prost(message, optional, tag = "4")]
    pub tested: Option<FenceAnswer>,
    /// What the last switching came to.
    #[prost(message, optional, tag = "5")]
    pub switched: Option<FenceAnswer>,
    /// What it held was given to another without its word, by the entry at this index; 0: nothing.
    #[prost(uint64, tag = "6")]
    pub taken: u64,
    /// What an operator wants.
    #[prost(message, optional, tag = "7")]
    pub wish: Option<FenceWish>,
    /// Its devices said that it was off, and it went on: they are not believed any more until they
    /// have been tried again.
    #[prost(bool, tag = "8")]
    pub lied: bool,
    /// How often its devices did what they were asked for, and how often not.
    #[prost(message, optional, tag = "9")]
    pub counts: Option<FenceCounts>,
}

/// Answers of the devices of a node since it joined, by what they were asked for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FenceCounts {
    /// Switched off.
    #[prost(uint64, tag = "1")]
    pub off_done: u64,
    /// Not switched off, or nobody knows.
    #[prost(uint64, tag = "2")]
    pub off_failed: u64,
    /// Switched on.
    #[prost(uint64, tag = "3")]
    pub on_done: u64,
    /// Not switched on, or nobody knows.
    #[prost(uint64, tag = "4")]
    pub on_failed: u64,
    /// Tests that succeeded.
    #[prost(uint64, tag = "5")]
    pub tests_done: u64,
    /// Tests that failed.
    #[prost(uint64, tag = "6")]
    pub tests_failed: u64,
    /// When the last test succeeded, ms since 1970; 0: none has.
    #[prost(uint64, tag = "7")]
    pub test_ok_ms: u64,
}

impl FenceCounts {
    /// Counts one answer.
    pub(crate) fn count(&mut self, switch: Switch, ok: bool, at_ms: u64) {
        let one = match (switch, ok) {
            (Switch::Off, true) => &mut self.off_done,
            (Switch::Off, false) => &mut self.off_failed,
            (Switch::On, true) => &mut self.on_done,
            (Switch::On, false) => &mut self.on_failed,
            (Switch::Test, true) => &mut self.tests_done,
            (Switch::Test, false) => &mut self.tests_failed,
        };
        *one += 1;
        if (switch, ok) == (Switch::Test, true) {
            self.test_ok_ms = at_ms;
        }
    }
}
