//! Scenarios without a case of the simulator, and what they wait for.
//!
//! One leaves this list when its case is written: both at once are an error.

const FENCING: &str = "fencing ordered by the cluster";
const RESOURCES: &str = "resources";
const DISK: &str = "a quorum disk";

/// Number, what happens, what nines is to do, and what for it waits; empty: a test with real
/// processes covers it.
pub const WITHOUT_CASE: &[(u32, &str, &str, &str)] = &[
    (
        1,
        "Two nodes without a witness lose their link; both reach the fence devices.",
        "One node goes on and has the other switched off; never both, and never neither.",
        FENCING,
    ),
    (
        2,
        "The node that was switched off starts again, and the link is still cut.",
        "It fences nobody and starts nothing until it has heard the other node since this boot.",
        FENCING,
    ),
    (
        3,
        "Two nodes start, and one of them is dead for good.",
        "The other one starts nothing until a person confirms it, or a fence device does.",
        FENCING,
    ),
    (
        4,
        "The network of the heartbeats is that of the fence devices, and it fails.",
        "Nobody starts anything, and everybody says why.",
        FENCING,
    ),
    (
        12,
        "Two nodes with a quorum disk lose their link and both reach the disk.",
        "The node that has the disk keeps it; the other takes it only after silence on the disk.",
        DISK,
    ),
    (
        13,
        "One node loses its way to the quorum disk, and the link works.",
        "Nothing moves, and that node says what it has lost.",
        DISK,
    ),
    (
        14,
        "The active node loses disk and link at once.",
        "The other takes the disk over; late writes of the first are refused.",
        DISK,
    ),
    (
        15,
        "The storage array restarts and has forgotten its reservations.",
        "Nodes register anew before they write, and nothing starts before that.",
        DISK,
    ),
    (
        23,
        "A node answers, but its storage hangs, and what runs on it can be neither asked nor ended.",
        "It counts as running until the node is fenced.",
        RESOURCES,
    ),
    (
        24,
        "A resource cannot be stopped.",
        "It is started nowhere else before its node is fenced; without a fence device it is \
         blocked, visibly.",
        RESOURCES,
    ),
    (
        25,
        "A node restarts by itself before it is fenced.",
        "The new boot proves that the old one has ended; the order to fence it is void.",
        FENCING,
    ),
    (
        26,
        "A fence device says that it switched a node off, and did not.",
        "Reading the state back, or a heartbeat of the same boot, withdraws the proof.",
        FENCING,
    ),
    (
        27,
        "A fence device does what it was asked for after its time was over.",
        "It counts once, and the node is not switched off again after it is back.",
        FENCING,
    ),
    (
        28,
        "A node has two power supplies, and their devices switch one after the other.",
        "It is off only when both are off at the same time.",
        FENCING,
    ),
    (
        30,
        "A resource brings down each node that it starts on.",
        "It is banned before it has brought down the third.",
        RESOURCES,
    ),
    (
        32,
        "A virtual machine stands still for a minute, clocks included, and goes on.",
        "With a fence device it is off by then; without one the config is refused, or says so.",
        FENCING,
    ),
    (
        41,
        "A director fails while it sends its connections to the others.",
        "Established connections go on with the server that they have.",
        "",
    ),
    (42, "The agent is upgraded while programs that it started run.", "They go on.", RESOURCES),
];
