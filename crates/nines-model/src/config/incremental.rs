//! A text that differs from the one before in a few services.
//!
//! Decides: when the rest need not be read again. A hundred thousand servers take a good part of a
//! second to read, and most changes are about one of them. Whatever is not plain, or concerns
//! another service, is left to [`super::parse`], which also tells what is wrong.

use std::{collections::BTreeSet, net::IpAddr, ops::Range, sync::Arc};

use super::{
    TEXT_MAX,
    reader::{Reader, Table},
    services::service,
};
use crate::spec::{ServiceSpec, Spec};

/// Services that are read by themselves at most.
const FEW: usize = 64;

/// What `text` says, where `before` says `spec`; `None`: read it whole.
pub fn parse_after(before: &str, spec: &Spec, text: &str) -> Option<Spec> {
    if text.len() > TEXT_MAX {
        return None;
    }
    let sections = sections(before)?;
    let (old, new) = changed(before, text, &sections)?;
    let touched = |s: &&Section<'_>| old.contains(&s.range.start);
    let names: Option<BTreeSet<&str>> =
        sections.iter().filter(touched).map(|s| s.service).collect();
    let names = names.filter(|names| names.len() <= FEW)?;

    let mut reader = Reader::default();
    let document = reader.document(&text[new])?;
    let root = document.root();
    let [(section, services)] = &root.entries()[..] else { return None };
    let services = services.as_table().filter(|_| section.text == "service")?.entries();
    if !services.iter().map(|(name, _)| name.text.as_str()).eq(names.iter().copied()) {
        return None;
    }
    let mut spec = spec.clone();
    for (name, value) in services {
        let new = read(&mut reader, &value.as_table()?)?;
        let old = spec.services.get(name.text.as_str())?;
        if !stands_alone(&spec, old, &new) {
            return None;
        }
        spec.services.insert(name.text.into(), Arc::new(new));
    }
    Some(spec)
}

fn read(reader: &mut Reader, table: &Table<'_>) -> Option<ServiceSpec> {
    let (service, _) = service(reader, table)?;
    reader.diagnostics.is_empty().then_some(service)
}

/// Whether a service that becomes another concerns no other service, node or VIP.
fn stands_alone(spec: &Spec, old: &ServiceSpec, new: &ServiceSpec) -> bool {
    let asks_alike = old.listen == new.listen && old.mark == new.mark;
    let no_pool = old.pool.is_empty() && new.pool.is_empty();
    // A server that is a director gets duties, and a source of a pool is nobody's server: both are
    // looked at in the whole config.
    let is_known = |ip: IpAddr| {
        spec.vips.contains_key(&ip) || spec.nodes.values().any(|n| n.addresses.contains(&ip))
    };
    let mut servers = old.servers.values().chain(new.servers.values());
    asks_alike && no_pool && !servers.any(|server| is_known(server.addr.ip()))
}

/// A part of a text, from its header to the next one's.
struct Section<'a> {
    range: Range<usize>,
    /// Where its first line ends.
    header_end: usize,
    /// Of which service; a service's own tables are parts of it. `None`: something else.
    service: Option<&'a str>,
}

/// The sections of a text that is right, if it is plain: each begins with a header of bare words at
/// the start of a line, each service has one, and nothing else can look like a header.
fn sections(text: &str) -> Option<Vec<Section<'_>>> {
    if text.contains("\"\"\"") || text.contains("'''") {
        return None;
    }
    let (mut all, mut seen) = (Vec::<Section<'_>>::new(), BTreeSet::new());
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let (start, end) = (at, at + line.len());
        at = end;
        let shown = line.trim_ascii_start();
        if !shown.starts_with('[') {
            // A key before the first header may be part of any table.
            let says = !shown.is_empty() && !shown.starts_with('#');
            if all.is_empty() && says {
                return None;
            }
            continue;
        }
        let words = header(line)?;
        let service = match words.strip_prefix("service") {
            Some("") => return None,
            Some(rest) => rest.strip_prefix('.').and_then(|rest| rest.split('.').next()),
            None => None,
        };
        if service.is_some() && all.last().is_some_and(|last| last.service == service) {
            continue;
        }
        if service.is_some_and(|name| !seen.insert(name)) {
            return None;
        }
        all.push(Section { range: start..end, header_end: end, service });
    }
    let ends: Vec<usize> = all.iter().skip(1).map(|s| s.range.start).chain([text.len()]).collect();
    all.iter_mut().zip(ends).for_each(|(section, end)| section.range.end = end);
    Some(all)
}

/// What stands in `[...]` at the start of a line; `None`: it is not bare words, or more than a
/// comment follows.
fn header(line: &str) -> Option<&str> {
    let (words, rest) = line.strip_prefix('[')?.split_once(']')?;
    let bare = |word: &str| {
        let is = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !word.is_empty() && word.bytes().all(is)
    };
    let rest = rest.trim_ascii();
    (words.split('.').all(bare) && (rest.is_empty() || rest.starts_with('#'))).then_some(words)
}

/// The whole sections in which the texts differ: where they are in each.
fn changed(
    before: &str,
    text: &str,
    sections: &[Section<'_>],
) -> Option<(Range<usize>, Range<usize>)> {
    let (old, new) = (before.as_bytes(), text.as_bytes());
    let pieces = old.chunks(PIECE).zip(new.chunks(PIECE));
    let same = equal(pieces);
    let same_start = same + equal(old[same..].iter().zip(&new[same..]).map(one));
    let room = old.len().min(new.len()) - same_start;
    let pieces = old.rchunks(PIECE).zip(new.rchunks(PIECE));
    let same = equal(pieces);
    let (left, right) = (&old[..old.len() - same], &new[..new.len() - same]);
    let ends = left.iter().rev().zip(right.iter().rev());
    let same_end = (same + equal(ends.map(one))).min(room);
    // The last one whose header is the same.
    let first = sections.partition_point(|s| s.header_end <= same_start).checked_sub(1)?;
    let start = sections[first].range.start;
    let next = sections.partition_point(|s| s.range.start < old.len() - same_end).max(first + 1);
    let end = sections.get(next).map_or(old.len(), |s| s.range.start);
    let new_end = new.len() - (old.len() - end);
    // What follows begins a line there, too.
    let whole = end == old.len() || new[..new_end].ends_with(b"\n");
    (new_end > start && whole).then_some((start..end, start..new_end))
}

/// Bytes that are compared at once.
const PIECE: usize = 4_096;

fn one<'a>((old, new): (&'a u8, &'a u8)) -> (&'a [u8], &'a [u8]) {
    (std::slice::from_ref(old), std::slice::from_ref(new))
}

/// How many bytes are the same before the first difference.
fn equal<'a>(pieces: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> usize {
    pieces.take_while(|(old, new)| old == new).map(|(old, _)| old.len()).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::parse;

    const HEAD: &str = "# ours\n[cluster]\nname = \"c\"\n[nodes]\nlb1 = \"10.0.0.2\"\n\
        lb2 = \"10.0.0.3\"\n[vip.v]\naddress = \"10.0.0.100/24\"\n";

    fn text(services: usize) -> String {
        let one = |n: usize| {
            format!(
                "[service.s{n}]\nlisten = \"10.0.0.100:{}/tcp\"\nforward = \"nat\"\n\
                 servers = {{ r1 = \"10.0.1.{n}\", r2 = {{ address = \"10.0.2.{n}:81\", \
                 weight = 3 }} }}\n[service.s{n}.check]\nhttp = \"/s{n}\"\n\n",
                8_000 + n
            )
        };
        (1..=services).fold(HEAD.to_owned(), |text, n| text + &one(n))
    }

    fn after(before: &str, text: &str) -> Option<Spec> {
        parse_after(before, &parse(before).unwrap(), text)
    }

    #[test]
    fn one_service_is_read_by_itself() {
        let before = text(9);
        for (what, by) in [
            ("10.0.2.5:81\", weight = 3", "10.0.2.5:81\", weight = 700"),
            ("r1 = \"10.0.1.1\",", ""),
            ("r1 = \"10.0.1.9\"", "r0 = \"10.0.1.77\", r1 = \"10.0.1.9\""),
            ("http = \"/s9\"\n\n", "http = \"/s9x\""),
            ("http = \"/s4\"\n", "http = \"/s4\"\n\n# a comment\n"),
            ("8004/tcp\"\n", "8004/tcp\"\nscheduler = \"lc\"\n"),
        ] {
            assert!(before.contains(what), "{what}");
            let text = before.replace(what, by);
            let spec = after(&before, &text).unwrap_or_else(|| panic!("{what} became {by}"));
            assert_eq!(spec, parse(&text).unwrap());
            let same = spec.services.iter().filter(|(name, s)| {
                let old = parse(&before).unwrap();
                **s == old.services[*name]
            });
            assert!(same.count() >= 8);
        }
    }

    #[test]
    fn whatever_concerns_others_is_left_to_the_whole() {
        let before = text(9);
        for (what, by) in [
            // Another listener, node, service, pool; a server that is a director, or a VIP.
            ("8004/tcp", "8005/tcp"),
            ("8004/tcp", "8044/tcp"),
            ("10.0.0.3", "10.0.0.4"),
            ("[service.s4]", "[service.x4]"),
            ("[service.s4.check]", "[service.s5.check]"),
            ("10.0.1.4\"", "10.0.0.2\""),
            ("10.0.1.4\"", "10.0.0.100\""),
            // What is wrong.
            ("10.0.1.4\"", "10.0.1.4"),
            ("http = \"/s4\"", "http = \"/s4\"\nhtpt = \"/\""),
            ("http = \"/s4\"", "http = \"\"\"/s4"),
            ("http = \"/s4\"", "http = [\n"),
        ] {
            assert!(before.contains(what), "{what}");
            assert_eq!(after(&before, &before.replacen(what, by, 1)), None, "{what} became {by}");
        }
        let longer = text(10);
        assert_eq!((after(&before, &longer), after(&longer, &before)), (None, None));
    }

    /// Texts that only look plain.
    #[test]
    fn a_header_is_a_header() {
        for (what, by) in [
            ("http = \"/s2\"", "http = \"\"\"/s2\n[service.s9]\n\"\"\""),
            ("[service.s2]", "[service.\"s2\"]"),
            ("[service.s2]", "  [service.s2]"),
            ("[service.s2.check]", "[ service.s2.check ]"),
        ] {
            let odd = text(5).replace(what, by);
            let changed = odd.replace("10.0.1.3", "10.0.1.33");
            if parse(&odd).is_ok() {
                assert_eq!(after(&odd, &changed), None, "{by}");
            }
        }
        assert_eq!(header("[a.b-c] # d\n"), Some("a.b-c"));
        for line in ["[[a]]\n", "[a] b\n", "[\"a\"]\n", "[a..b]\n", "[]\n", "[a\n", " [a]\n"] {
            assert_eq!(header(line), None, "{line}");
        }
    }

    proptest! {
        /// Whatever is done to a text: it is read as a whole would be, or left to the whole.
        #[test]
        fn it_says_what_the_whole_says(
            first in prop::collection::vec(edits(), 0..3),
            then in prop::collection::vec(edits(), 1..3),
        ) {
            let before = edited(&text(6), &first);
            let Ok(spec) = parse(&before) else { return Ok(()) };
            let text = edited(&before, &then);
            if let Some(spec) = parse_after(&before, &spec, &text) {
                prop_assert_eq!(parse(&text), Ok(spec), "{}", text);
            }
        }
    }

    type Edit = (prop::sample::Index, usize, usize);

    fn edits() -> impl Strategy<Value = Edit> {
        (any::<prop::sample::Index>(), 0..11usize, 0..6usize)
    }

    fn edited(text: &str, edits: &[Edit]) -> String {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (place, how, other) in edits {
            let at = place.index(lines.len());
            let from = (at + other * 7) % lines.len();
            let copy = lines[from].clone();
            match how {
                0 => drop(lines.remove(at)),
                1 => lines.insert(at, copy),
                2 => lines.swap(at, from),
                3 => lines[at] = lines[at].replace(['1', '2', '3'], "4"),
                4 => lines[at].push_str(["\"\"\"", "'''", "[", "]", "#", "\""][*other]),
                5 => lines[at] = lines[at].replacen(['"', ']', '='], "", 1),
                6 => lines.insert(at, "scheduler = \"lc\"".into()),
                7 => lines.insert(at, "[service.s3.servers]".into()),
                8 => lines[at] = lines[at].replace("10.0.1", "10.0.0"),
                9 => {
                    lines[at] =
                        lines[at].replace("http = \"", "http = \"\"\"/\n[service.s1]\n\"\"\" # ");
                }
                _ => lines[at] = lines[at].replace("[service.s", " [ service . s"),
            }
        }
        lines.join("\n")
    }
}
