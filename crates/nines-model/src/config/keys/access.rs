//! Keys of `[access]`.

use super::{Key, Shape, key};

const GROUP: &str = "the name of a group on the nodes, or its number";

/// Keys of the section `[access]`.
pub const ACCESS: &[Key] = &[
    key(
        "viewer",
        Shape::Texts(GROUP),
        "Groups whose members may see everything and change nothing: `status`, `why`, `events`, \
         `metrics`, `plan`, `config show`.",
    )
    .means("no group")
    .like("viewer = [\"staff\"]"),
    key(
        "operator",
        Shape::Texts(GROUP),
        "Groups whose members may also change what runs: `drain`, `undrain`, `standby`, `ready`, \
         `move`, `fence test`.",
    )
    .means("no group")
    .like("operator = [\"nines\", \"netops\"]"),
    key(
        "admin",
        Shape::Texts(GROUP),
        "Groups whose members may do everything: also `apply`, `node remove`, `fence off`, \
         `token create`.",
    )
    .means("no group: only root")
    .like("admin = [\"sre\"]"),
];
