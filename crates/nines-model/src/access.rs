//! Who may ask what of an agent.
//!
//! Decides: the roles, what each command needs, and which role a user has by its groups.

use crate::{AdminCommand, codes};

codes! {
    /// What a user or a token may do. Each may do what those before it may.
    pub enum AccessRole {
        /// Sees everything and changes nothing.
        Viewer = "viewer",
        /// Changes what runs: drains, standby, moves.
        Operator = "operator",
        /// Changes what the cluster is: config, members, power, tokens.
        Admin = "admin",
    }
}

/// Section `[access]` of a config: groups of users on the nodes themselves. root is admin always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Groups whose members are viewers.
    pub viewer: Vec<String>,
    /// Groups whose members are operators.
    pub operator: Vec<String>,
    /// Groups whose members are admins.
    pub admin: Vec<String>,
}

impl Access {
    /// Groups of a role.
    pub fn groups(&self, role: AccessRole) -> &[String] {
        match role {
            AccessRole::Viewer => &self.viewer,
            AccessRole::Operator => &self.operator,
            AccessRole::Admin => &self.admin,
        }
    }

    /// The highest role of a user; `is_in`: whether the user is in the group of this name.
    pub fn role(&self, is_in: impl Fn(&str) -> bool) -> Option<AccessRole> {
        let has = |role: &AccessRole| self.groups(*role).iter().any(|group| is_in(group));
        [AccessRole::Admin, AccessRole::Operator, AccessRole::Viewer].into_iter().find(has)
    }
}

/// Whether this can be the name of a group: also one of a system's, such as `_ssh`. A number is
/// one, too: that of a group that the file of groups does not name.
pub fn is_group(text: &str) -> bool {
    crate::names::is_name(text.strip_prefix('_').unwrap_or(text))
}

impl AdminCommand {
    /// The role that may give it.
    pub const fn needs(self) -> AccessRole {
        match self {
            Self::Drain | Self::Undrain | Self::Standby | Self::Ready | Self::TestFence => {
                AccessRole::Operator
            }
            Self::Remove | Self::Keep | Self::PowerOff | Self::PowerOn | Self::ConfirmOff => {
                AccessRole::Admin
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Codes as _;

    #[test]
    fn the_highest_role_of_all_groups_counts() {
        let groups = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let access =
            Access { viewer: groups("all ops"), operator: groups("ops net"), admin: groups("sre") };
        let role = |of: &[&str]| access.role(|group| of.contains(&group));
        assert_eq!(role(&[]), None);
        assert_eq!(role(&["users"]), None);
        assert_eq!(role(&["all"]), Some(AccessRole::Viewer));
        assert_eq!(role(&["ops", "all"]), Some(AccessRole::Operator));
        assert_eq!(role(&["sre", "net"]), Some(AccessRole::Admin));
        assert_eq!(Access::default().role(|_| true), None);
    }

    #[test]
    fn each_role_may_do_what_those_before_it_may() {
        assert!(AccessRole::Viewer < AccessRole::Operator);
        assert!(AccessRole::Operator < AccessRole::Admin);
        assert_eq!(AccessRole::ALL.len(), 3);
    }
}
