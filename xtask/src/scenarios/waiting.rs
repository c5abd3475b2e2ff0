//! Scenarios without a case of the simulator, and what they wait for.
//!
//! One leaves this list when its case is written: both at once are an error.

const RESOURCES: &str = "resources";
const RESERVATIONS: &str = "SCSI reservations";

/// Number, what happens, what nines is to do, and what for it waits; empty: a test with real
/// processes covers it.
pub const WITHOUT_CASE: &[(u32, &str, &str, &str)] = &[
    (
        12,
        "Two nodes with a quorum disk lose their link and both reach the disk.",
        "The node that has the disk keeps it; the other takes it only after silence on the disk.",
        "",
    ),
    (
        13,
        "One node loses its way to the quorum disk, and the link works.",
        "Nothing moves, and another node continues the disk's vote.",
        "",
    ),
    (
        14,
        "The active node loses disk and link at once.",
        "The other takes the disk over; the first says nothing more for it when it wakes, and its \
         late writes go where nobody reads.",
        "",
    ),
    (
        15,
        "The storage array restarts and has forgotten its reservations.",
        "Nodes register anew before they write, and nothing starts before that.",
        RESERVATIONS,
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
        30,
        "A resource brings down each node that it starts on.",
        "It is banned before it has brought down the third.",
        RESOURCES,
    ),
    (
        41,
        "A director fails while it sends its connections to the others.",
        "Established connections go on with the server that they have.",
        "",
    ),
    (42, "The agent is upgraded while programs that it started run.", "They go on.", RESOURCES),
];
