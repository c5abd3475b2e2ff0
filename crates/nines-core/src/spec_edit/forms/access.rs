//! Which groups of users may do what.
//!
//! Decides: that a config in the log which says nothing about it leaves it to the API's socket.

use nines_model::Access;

use crate::wire::AccessEntry;

pub(super) fn access(access: &Access) -> AccessEntry {
    let Access { viewer, operator, admin } = access;
    AccessEntry { viewer: viewer.clone(), operator: operator.clone(), admin: admin.clone() }
}

pub(super) fn read_access(entry: &AccessEntry) -> Access {
    let AccessEntry { viewer, operator, admin } = entry;
    Access { viewer: viewer.clone(), operator: operator.clone(), admin: admin.clone() }
}
