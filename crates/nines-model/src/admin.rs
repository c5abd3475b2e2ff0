//! What an operator can ask of servers and nodes, and what acts without one.
//!
//! Decides: the commands and their codes in the log and in the API; which actors are operators.

use crate::{Codes as _, codes};

codes! {
    /// What an operator asks of servers or of nodes.
    pub enum AdminCommand {
        /// Servers get no new connections.
        Drain = "drain",
        /// A drain ends.
        Undrain = "undrain",
        /// Nodes hand their VIPs to others and get none.
        Standby = "standby",
        /// A standby ends.
        Ready = "ready",
        /// Members leave the cluster for good.
        Remove = "remove",
        /// Members that were to leave stay.
        Keep = "keep",
        /// A fence device switches nodes off.
        PowerOff = "power-off",
        /// A fence device switches nodes on.
        PowerOn = "power-on",
        /// The fence devices of nodes are tried; nothing is switched.
        TestFence = "test-fence",
        /// A person has seen that nodes are off.
        ConfirmOff = "confirm-off",
    }
}

codes! {
    /// A rule that keeps clients served; an operator can break it by its name.
    pub enum SafetyRule {
        /// A service keeps a server that takes new connections.
        LastServer = "last-server",
        /// VIPs keep a director that can hold them.
        LastDirector = "last-director",
    }
}

codes! {
    /// An actor that is no operator.
    pub enum Automatic {
        /// The cluster itself.
        Cluster = "auto",
        /// A health check.
        Check = "check",
    }
}

/// Whether an actor, as the log names it, is an operator ("alice@lb1"). Nothing is none.
pub fn is_operator(actor: &str) -> bool {
    !actor.is_empty() && Automatic::from_code(actor).is_none()
}

impl AdminCommand {
    /// Whether its subjects are servers; those of the others are nodes.
    pub const fn is_of_servers(self) -> bool {
        matches!(self, Self::Drain | Self::Undrain)
    }

    /// The rule that the command can break.
    pub const fn rule(self) -> SafetyRule {
        if self.is_of_servers() { SafetyRule::LastServer } else { SafetyRule::LastDirector }
    }

    /// Whether it is about who is a member of the cluster.
    pub const fn is_of_members(self) -> bool {
        matches!(self, Self::Remove | Self::Keep)
    }

    /// Whether it is about the power of machines.
    pub const fn is_of_power(self) -> bool {
        matches!(self, Self::PowerOff | Self::PowerOn | Self::TestFence | Self::ConfirmOff)
    }

    /// The command that does the same with nodes in place of servers, or the reverse, if there is
    /// one.
    pub const fn counterpart(self) -> Option<Self> {
        match self {
            Self::Drain => Some(Self::Standby),
            Self::Undrain => Some(Self::Ready),
            Self::Standby => Some(Self::Drain),
            Self::Ready => Some(Self::Undrain),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_commands_stay_as_logs_have_them() {
        let codes: Vec<&str> = AdminCommand::ALL.iter().map(|command| command.code()).collect();
        let first = ["drain", "undrain", "standby", "ready", "remove", "keep"];
        let power = ["power-off", "power-on", "test-fence", "confirm-off"];
        assert_eq!(codes, [&first[..], &power].concat());
    }

    #[test]
    fn operators_are_told_from_what_acts_by_itself() {
        assert!(is_operator("alice@lb1"));
        assert!(["", "auto", "check"].iter().all(|actor| !is_operator(actor)));
    }

    #[test]
    fn a_counterpart_takes_the_other_kind_of_subject() {
        for command in AdminCommand::ALL {
            let alone = command.is_of_members() || command.is_of_power();
            assert_eq!(command.counterpart().is_none(), alone);
            if let Some(other) = command.counterpart() {
                assert_eq!(other.counterpart(), Some(*command));
                assert_ne!(other.is_of_servers(), command.is_of_servers());
            }
        }
    }
}
