//! The feature level of the cluster: which forms of commands may be written.
//!
//! Decides: which level each form of a command needs, what its older form is, and which commands
//! this build cannot read. A level is a number that only grows. Each build reads all levels up to
//! its own ([`BUILD`]); builds from before there were levels are at 0. The level in force is part
//! of the replicated state ([`crate::state::Members`]). The leader raises it once every member can
//! read the next one (`node/feature_level.rs`), and nothing lowers it. So no build meets a command
//! that it would take for another one (S27).

use nines_model::{AdminCommand, Codes as _};

use crate::{
    action::Refusal,
    edit::Following,
    peek, spec_edit,
    wire::{Act, Apply, command::Kind},
};

/// From this level on an [`Apply`] command may hold just the piece of the config that changed.
pub const PIECES: u32 = 1;
/// From this level on a new config is written as its proposer read it
/// ([`crate::wire::ApplySpec`]), not only as text.
pub const VALUES: u32 = 2;

/// From this level on an operator's command may say that members leave.
pub const REMOVALS: u32 = 3;

/// From this level on a config may have fence devices, and commands may be about them.
pub const FENCING: u32 = 4;

/// From this level on a config may name watchdogs, and programs of the operator as fence devices;
/// and the state counts what fence devices answer.
pub const SELF_FENCING: u32 = 5;
/// From this level on no two members have names that certificates cannot tell apart.
pub const KEYS: u32 = 5;
/// From this level on a config may say which users may do what, and there are tokens of the API.
pub const ROLES: u32 = 5;
/// From this level on a member may lose its vote and stay a member.
pub const LINKS: u32 = 5;
/// From this level on a member may float: it runs on one of several hosts.
pub const FLOATING: u32 = 5;

/// From this level on an event that is written twice counts once, so that a node can write again
/// what may have been lost on its way to the leader.
pub const EVENTS_ONCE: u32 = 6;

/// Highest level that this build reads and writes.
pub const BUILD: u32 = 6;

/// Fields of [`crate::wire::Command`] that say what it does, by number.
const KINDS: [u64; 17] =
    [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, RAISES, 21, 50, peek::FENCE, peek::TAKES_VOTE, 62, 63];
/// The one that raises the level.
const RAISES: u64 = 20;

/// Lowest level at which every member takes a command for what it is.
pub fn needed(kind: &Kind) -> u32 {
    match kind {
        Kind::Apply(apply) if !apply.is_whole() => PIECES,
        Kind::ApplySpec(apply) if apply.edit.has_self_fencing() => SELF_FENCING,
        Kind::ApplySpec(apply) if apply.edit.has_access() => ROLES,
        Kind::ApplySpec(apply) if apply.edit.has_fencing() => FENCING,
        Kind::ApplySpec(_) => VALUES,
        Kind::Act(act) if is_of_members(act) => REMOVALS,
        Kind::Act(act) if is_of_power(act) => FENCING,
        Kind::Fence(_) => FENCING,
        Kind::Token(_) => ROLES,
        Kind::TakeVote(_) | Kind::LearnAgain(_) => LINKS,
        Kind::Join(member) if member.floats => FLOATING,
        Kind::FeatureLevel(raise) => raise.level,
        _ => 0,
    }
}

fn is_of_members(act: &Act) -> bool {
    AdminCommand::from_code(&act.verb).is_some_and(AdminCommand::is_of_members)
}

fn is_of_power(act: &Act) -> bool {
    AdminCommand::from_code(&act.verb).is_some_and(AdminCommand::is_of_power)
}

/// The same for a command that is written now. Only what a config says shows whether it has fence
/// devices or roles, and a build that does not know them refuses the text that others apply.
pub fn needed_to_write(level: u32, kind: &Kind, following: &Following) -> u32 {
    match kind {
        Kind::Apply(text) if level < SELF_FENCING.max(ROLES) => {
            needed(kind).max(needed_by_text(text, following))
        }
        _ => needed(kind),
    }
}

fn needed_by_text(apply: &Apply, following: &Following) -> u32 {
    let text = apply.text_after(following.revision, &following.text);
    let Some(spec) = text.and_then(|text| following.read(&text).ok()) else { return 0 };
    let has = [
        (spec.has_self_fencing(), SELF_FENCING),
        (spec.access.is_some(), ROLES),
        (spec.has_fencing(), FENCING),
    ];
    has.into_iter().filter(|(has, _)| *has).map(|(_, level)| level).max().unwrap_or(0)
}

/// Why a command that needs this level cannot be written, and which members keep the cluster below
/// it.
pub fn not_in_force(needed: u32, held_back: Option<String>) -> String {
    let (what, who) = match needed {
        FENCING => ("fencing", ": every member must run a build that knows fencing"),
        level if level > FENCING => ("this", ": every member must run a build that knows it"),
        _ => ("this", ""),
    };
    let members = held_back.or_else(|| {
        let next = "`nines status` shows the versions of the members";
        (needed >= FENCING).then(|| next.to_owned())
    });
    let members = members.map_or_else(String::new, |members| format!("; {members}"));
    format!("{what} needs feature level {needed}, which is not in force{who}{members}")
}

/// The form of a command that every build reads at this `level`. `Ok(None)`: it has none. An
/// error: the command does not fit `following`, the config that its proposer knows to be in force.
pub fn form_at(level: u32, kind: Kind, following: &Following) -> Result<Option<Kind>, Refusal> {
    let needed_now = needed_to_write(level, &kind, following);
    if needed_now <= level {
        return Ok(Some(kind));
    }
    // A text with fence devices is no older form of them.
    if needed_now >= FENCING {
        return Ok(None);
    }
    let text = match kind {
        Kind::Apply(text) => text,
        Kind::ApplySpec(apply) if level >= needed(&Kind::Apply(apply.text.clone())) => {
            return Ok(Some(Kind::Apply(apply.text)));
        }
        Kind::ApplySpec(apply) => apply.text,
        _ => return Ok(None),
    };
    let Following { revision, text: before, .. } = following;
    let expected = text.expected;
    match text.text_after(*revision, before) {
        Some(whole) => Ok(Some(Kind::Apply(Apply::whole(whole.into_owned(), expected)))),
        None => {
            let why = format!("revision {revision} is in force, not {expected}");
            Err(Refusal::Changed(why))
        }
    }
}

/// Whether an encoded command raises the level.
pub fn raises(command: &[u8]) -> bool {
    peek::has_any(command, &[RAISES])
}

/// Why this build must not go on with a log that has this encoded command; `None`: it reads it.
pub fn unreadable(command: &[u8]) -> Option<String> {
    let unread =
        || (!spec_edit::is_read_whole(command)).then(|| newer("a config with something in it"));
    unknown(command).or_else(unread)
}

fn newer(what: &str) -> String {
    format!(
        "the log has {what} that this build (nines {}, feature level {BUILD}) does not know; \
         install the version of the other nodes",
        env!("CARGO_PKG_VERSION")
    )
}

/// The same, but for what a config says: whoever goes by that finds it out.
pub fn unknown(command: &[u8]) -> Option<String> {
    // A new leader's first entry and a promotion say nothing.
    if command.is_empty() {
        return None;
    }
    if !peek::has_any(command, &KINDS) {
        return Some(newer("a command"));
    }
    let raised = peek::field(command, RAISES).and_then(|raise| peek::number(raise, 1));
    raised.and_then(|level| beyond(u32::try_from(level).unwrap_or(u32::MAX)))
}

/// Why this build must not go on at this level; `None`: it may.
pub fn beyond(level: u32) -> Option<String> {
    (level > BUILD).then(|| {
        format!(
            "the cluster is at feature level {level}, and this build (nines {}) reads up to \
             {BUILD}; install the version of the other nodes",
            env!("CARGO_PKG_VERSION")
        )
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::wire::{
        self, ApplySpec, Batch, Command, Facts, FeatureLevel, Give, LogEvents, Member,
    };

    fn following(text: &str) -> Following {
        Following { revision: 3, text: text.into(), ..Following::default() }
    }

    const PLAIN: &str = "[cluster]\nname = \"c\"\n[nodes]\nlb1 = \"10.0.0.2\"\n";
    const COMMAND: &str = "[fence.x]\ncommand = \"/opt/power\"\nnode = \"lb1\"\n";
    const DEVICE: &str = "[fence.x]\nagent = \"fence_apc\"\noutlets = { lb1 = \"3\" }\n";

    /// A command that replaces the first config by the second one.
    fn change(before: &str, text: &str) -> ApplySpec {
        let read = |text: &str| match text {
            "" => nines_model::Spec::default(),
            text => nines_model::config::parse(text).unwrap(),
        };
        ApplySpec::in_place_of((before, &read(before)), (text, &read(text)), 3).unwrap()
    }

    fn values() -> ApplySpec {
        change("", PLAIN)
    }

    /// One command of each kind, with the level that it needs.
    fn all() -> Vec<(Kind, u32)> {
        let piece = Apply::in_place_of("a\nb\nc\n", "a\nd\nc\n", 3);
        vec![
            (Kind::Apply(Apply::whole("a".into(), 3)), 0),
            (Kind::Apply(piece), PIECES),
            (Kind::ApplySpec(values()), VALUES),
            (Kind::ApplySpec(change("", &format!("{PLAIN}{DEVICE}"))), FENCING),
            (Kind::ApplySpec(change("", &format!("{PLAIN}{COMMAND}"))), SELF_FENCING),
            (Kind::Give(Give::default()), 0),
            (Kind::Move(wire::Move::default()), 0),
            (Kind::Released(wire::Token::default()), 0),
            (Kind::Act(Act { verb: "drain".into(), ..Act::default() }), 0),
            (Kind::Act(Act { verb: "remove".into(), ..Act::default() }), REMOVALS),
            (Kind::Act(Act { verb: "keep".into(), ..Act::default() }), REMOVALS),
            (Kind::LogEvents(LogEvents::default()), 0),
            (Kind::Join(Member::default()), 0),
            (Kind::Join(Member { floats: true, ..Member::default() }), FLOATING),
            (Kind::Facts(Facts::default()), 0),
            (Kind::MoveRequest(Give::default()), 0),
            (Kind::Remove("lb2".into()), 0),
            (Kind::FeatureLevel(FeatureLevel { level: 1, membership: 7 }), 1),
            (Kind::Batch(Batch::default()), 0),
            (Kind::ApplySpec(change("", &format!("{PLAIN}[access]\n"))), ROLES),
            (Kind::Token(wire::TokenChange::default()), ROLES),
            (Kind::TakeVote(wire::VoteChange::default()), LINKS),
            (Kind::LearnAgain(wire::VoteChange::default()), LINKS),
        ]
    }

    #[test]
    fn this_build_reads_each_kind_that_it_writes_and_no_other() {
        for (kind, level) in all() {
            assert_eq!(needed(&kind), level, "{kind:?}");
            assert!(level <= BUILD);
            let command = Command { node: 1, kind: Some(kind), ..Command::default() };
            assert_eq!(unreadable(&command.encode_to_vec()), None, "{command:?}");
        }
        assert_eq!(unreadable(&[]), None);
        // Field 22 of a command, with two bytes; a command of no kind at all; no command.
        for bytes in [&[0x08, 1, 0xb2, 1, 2, 8, 1][..], &[0x08, 1], &[0xff; 3]] {
            assert!(unreadable(bytes).unwrap().contains("does not know"), "{bytes:?}");
        }
    }

    #[test]
    fn a_level_beyond_this_build_stops_it_and_says_both_numbers() {
        let raise = |level| {
            let kind = Some(Kind::FeatureLevel(FeatureLevel { level, membership: 7 }));
            unreadable(&Command { kind, ..Command::default() }.encode_to_vec())
        };
        assert_eq!(raise(BUILD), None);
        let why = raise(BUILD + 1).unwrap();
        let (at, up_to) =
            (format!("at feature level {}", BUILD + 1), format!("reads up to {BUILD};"));
        assert!(why.contains(&at) && why.contains(&up_to), "{why}");
    }

    #[test]
    fn a_config_is_written_in_a_form_that_every_build_reads() {
        let (before, after) = ("a\nb\nc\n", "a\nd\nc\n");
        let piece = Kind::Apply(Apply::in_place_of(before, after, 3));
        let whole = Kind::Apply(Apply::whole(after.into(), 3));
        let form = |level, kind: &Kind, revision| {
            let at = Following { revision, ..following(before) };
            form_at(level, kind.clone(), &at)
        };
        for (level, written) in [(0, &whole), (PIECES, &piece), (VALUES, &piece)] {
            assert_eq!(form(level, &piece, 3), Ok(Some(written.clone())), "{level}");
        }
        assert_eq!(needed(&whole), 0);
        assert!(matches!(form(0, &piece, 4), Err(Refusal::Changed(_))));
        // What its proposer read is left out where some build knows only texts.
        let text = Apply::in_place_of(before, after, 3);
        let spec = Kind::ApplySpec(ApplySpec { text, ..values() });
        for (level, written) in [(0, &whole), (PIECES, &piece), (VALUES, &spec)] {
            assert_eq!(form(level, &spec, 3), Ok(Some(written.clone())), "{level}");
        }
        assert!(matches!(form(0, &spec, 4), Err(Refusal::Changed(_))));
        let raise = Kind::FeatureLevel(FeatureLevel { level: 2, membership: 7 });
        assert_eq!(form(1, &raise, 3), Ok(None));
    }

    /// Each way in which a config can say something about fencing, and a change of something else
    /// while it does.
    #[test]
    fn a_config_with_fencing_waits_until_every_member_knows_it() {
        let fenced = format!("{PLAIN}{DEVICE}");
        let ordered = fenced
            .replace("lb1 = \"10.0.0.2\"", "lb1 = { addresses = \"10.0.0.2\", fence = [\"x\"] }");
        let later = format!("{fenced}[timing]\nbeat = \"15ms\"\n");
        let slow = format!("{PLAIN}[fencing]\nafter = \"5s\"\n");
        for (before, after) in [
            (PLAIN, &fenced),
            ("", &fenced),
            (PLAIN, &slow),
            (&fenced, &ordered),
            (&fenced, &later),
            (PLAIN, &ordered),
        ] {
            let spec = Kind::ApplySpec(change(before, after));
            let piece = Kind::Apply(Apply::in_place_of(before, after, 3));
            let whole = Kind::Apply(Apply::whole(after.clone(), 3));
            assert_eq!(needed(&spec), FENCING, "{after}");
            for level in [0, PIECES, VALUES, REMOVALS] {
                for kind in [&spec, &piece, &whole] {
                    let form = form_at(level, kind.clone(), &following(before));
                    assert_eq!(form, Ok(None), "{level} {kind:?}");
                }
            }
            for kind in [spec, piece, whole] {
                let form = form_at(FENCING, kind.clone(), &following(before));
                assert_eq!(form, Ok(Some(kind)));
            }
        }
        // What every cluster begins with needs no words, and no devices need no level.
        let usual = format!("{PLAIN}[fencing]\nafter = \"2s\"\n");
        for (before, after) in [(PLAIN, usual.as_str()), (&fenced, PLAIN), (&slow, PLAIN)] {
            assert_eq!(needed(&Kind::ApplySpec(change(before, after))), VALUES, "{after}");
            let whole = Kind::Apply(Apply::whole(after.into(), 3));
            let form = form_at(0, whole.clone(), &following(before));
            assert_eq!(form, Ok(Some(whole)));
        }
        let why = not_in_force(FENCING, Some("held back by lb2 (0.1.0)".into()));
        assert_eq!(
            why,
            "fencing needs feature level 4, which is not in force: every member must run a build \
             that knows fencing; held back by lb2 (0.1.0)"
        );
        assert!(
            not_in_force(FENCING, None)
                .ends_with("`nines status` shows the versions of the members")
        );
    }

    /// A build that knows fence devices would take one without an agent for a broken one, and would
    /// pass over a watchdog.
    #[test]
    fn a_fence_command_or_a_watchdog_waits_until_every_member_knows_it() {
        let command = format!("{PLAIN}{COMMAND}");
        let all = format!("{PLAIN}[fencing]\nwatchdog = \"/dev/watchdog\"\n");
        let own = "lb1 = { addresses = \"10.0.0.2\", watchdog = \"/dev/watchdog0\" }";
        let own = PLAIN.replace("lb1 = \"10.0.0.2\"", own);
        for after in [command, all, own] {
            let spec = Kind::ApplySpec(change(PLAIN, &after));
            let piece = Kind::Apply(Apply::in_place_of(PLAIN, &after, 3));
            let whole = Kind::Apply(Apply::whole(after.clone(), 3));
            assert_eq!(needed(&spec), SELF_FENCING, "{after}");
            for kind in [spec, piece, whole] {
                for level in [0, PIECES, VALUES, REMOVALS, FENCING] {
                    let form = form_at(level, kind.clone(), &following(PLAIN));
                    assert_eq!(form, Ok(None), "{level} {kind:?}");
                }
                let form = form_at(SELF_FENCING, kind.clone(), &following(PLAIN));
                assert_eq!(form, Ok(Some(kind)));
            }
        }
    }

    #[test]
    fn a_config_with_roles_waits_until_every_member_knows_them() {
        let roles = format!("{PLAIN}[access]\nviewer = [\"staff\"]\n");
        let later = format!("{roles}[timing]\nbeat = \"15ms\"\n");
        for (before, after) in [("", &roles), (PLAIN, &roles), (&roles, &later)] {
            let spec = Kind::ApplySpec(change(before, after));
            let whole = Kind::Apply(Apply::whole(after.clone(), 3));
            for kind in [spec, whole] {
                let form = |level| form_at(level, kind.clone(), &following(before));
                assert!([0, VALUES, FENCING].iter().all(|level| form(*level) == Ok(None)));
                assert_eq!(form(ROLES), Ok(Some(kind.clone())));
            }
        }
        // What takes them away, and what is about something else, goes by as before.
        assert_eq!(needed(&Kind::ApplySpec(change(&roles, PLAIN))), VALUES);
        assert!(not_in_force(ROLES, None).contains("a build that knows it; `nines status`"));
    }

    #[test]
    fn a_config_with_a_word_of_a_newer_build_is_not_read() {
        let command = |apply| {
            let kind = Some(Kind::ApplySpec(apply));
            Command { kind, ..Command::default() }.encode_to_vec()
        };
        assert_eq!(unreadable(&command(values())), None);
        let mut newer = values();
        newer.edit.nodes[0].role = "arbiter".into();
        let why = unreadable(&command(newer)).unwrap();
        assert!(why.contains("a config with something in it that this build"), "{why}");
    }
}
