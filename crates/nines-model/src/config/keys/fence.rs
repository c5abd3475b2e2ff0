//! Keys of `[fence.NAME]` and `[fencing]`.

use super::{Key, Shape, key};

/// Keys of a section `[fence.NAME]`.
pub const FENCE: &[Key] = &[
    key(
        "agent",
        Shape::Text("`fence_` and what follows, without a path"),
        "Name of the fence agent, as the package fence-agents installs it in /usr/sbin. A device \
         has either this key or `command`.",
    )
    .means("the device has a `command`")
    .like("agent = \"fence_ipmilan\""),
    key(
        "command",
        Shape::Text("the absolute path of a program"),
        "A program of your own that switches the machines of the device, on every node that may \
         call it. It is called as root, without a shell, with the action (`on`, `off`, `status`) \
         and the name of the node. Exit code 0: done; of `status`: the machine is on. It says that \
         the machine is off by printing `Status: OFF` and exit code 2.",
    )
    .means("the device has an `agent`")
    .like("command = \"/usr/local/sbin/power\""),
    key(
        "node",
        Shape::Text("the name of a node"),
        "The node that the device switches, if it is the device of one machine, such as a \
         baseboard management controller. A device has either this key or `outlets`.",
    )
    .means("the device has `outlets`")
    .like("node = \"lb1\""),
    key(
        "outlets",
        Shape::Named(&Shape::Text("the outlet, slot or virtual machine of this node")),
        "The nodes that the device switches, each with its outlet. Several outlets of one node are \
         written as the agent takes them, \"1,2\". No two nodes share an outlet.",
    )
    .means("the device has a `node`")
    .like("outlets = { lb1 = \"3\", lb2 = \"4\" }"),
    key(
        "options",
        Shape::Named(&Shape::Scalar("the value of this option")),
        "What the agent is told on each call: `fence_ipmilan -o metadata` lists the options of an \
         agent. nines itself says which action and which outlet are meant. Secrets are not written \
         here.",
    )
    .means("no options")
    .like("options = { ip = \"10.0.9.1\", username = \"admin\", cipher = 3, lanplus = true }"),
    key(
        "secrets",
        Shape::Named(&Shape::Text("the absolute path of the file that has the value")),
        "Options whose values are secrets, such as `password`. The file is read on each call, on \
         the node that calls the agent: every node needs it, owned by root and with mode 0600. A \
         line end at the end of the file is not part of the value.",
    )
    .means("no secrets")
    .like("secrets = { password = \"/etc/nines/bmc-lb1.password\" }"),
    key(
        "trust-off",
        Shape::Flag,
        "Whether the device is believed when it says that it switched a machine off but cannot say \
         whether the machine is on. It makes no difference for a device that can.",
    )
    .is("false")
    .like("trust-off = true"),
    key(
        "timeout",
        Shape::Duration,
        "Time for one switching, until the device has said that the machine is off, 5 s to 10 \
         minutes.",
    )
    .is("\"60s\"")
    .like("timeout = \"90s\""),
];

/// Keys of the section `[fencing]`.
pub const FENCING: &[Key] = &[
    key(
        "after",
        Shape::Duration,
        "Silence after which a node is fenced, 500 ms to an hour. What runs under a lease moves \
         earlier and does not wait for it.",
    )
    .is("\"2s\"")
    .like("after = \"5s\""),
    key(
        "delay",
        Shape::Duration,
        "Of two nodes without a third vote that lose each other, the one that holds less waits so \
         much longer before it fences the other, up to 10 minutes: otherwise each might switch the \
         other one off.",
    )
    .is("\"10s\"")
    .like("delay = \"30s\""),
    key(
        "on-again",
        Shape::Flag,
        "Whether a node that was fenced is switched on again. Without it the machine stays off for \
         somebody to look at.",
    )
    .is("false")
    .like("on-again = true"),
    key(
        "test",
        Shape::Duration,
        "Time between two tests of each fence device, an hour to 365 days. A test asks whether the \
         machine is on and switches nothing. \"0s\": devices are not tested by themselves.",
    )
    .is("\"7d\"")
    .like("test = \"1d\""),
    key(
        "watchdog",
        Shape::Text("the path of a watchdog device below /dev, or \"none\""),
        "Watchdog of every node: a device that resets the machine when the agent hangs while the \
         node holds a VIP. It is fed by a process of its own, `nines guard`. A node may name \
         another one.",
    )
    .is("\"none\"")
    .like("watchdog = \"/dev/watchdog\""),
];
