//! `listen`: addresses, ports and protocol in one string; and who listens where.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use super::reader::{Reader, Value};
use crate::listen::{Listen, Proto, network};

pub fn listen(r: &mut Reader, value: &Value<'_>) -> Option<Listen> {
    let text = r.string(value)?;
    match read(&text) {
        Ok(listen) => Some(listen),
        Err((why, help)) => {
            let part = why.strip_prefix("port ").and_then(|rest| rest.split(' ').next());
            r.error(place_of(value, &text, part.unwrap_or_default()), why, help);
            None
        }
    }
}

/// Where a part of a string stands in the file: the last one, or the whole string where it has
/// escapes.
fn place_of(value: &Value<'_>, text: &str, part: &str) -> Range<usize> {
    let whole = value.span.clone();
    match text.rfind(part).filter(|_| !part.is_empty() && whole.len() == text.len() + 2) {
        Some(at) => whole.start + 1 + at..whole.start + 1 + at + part.len(),
        None => whole,
    }
}

/// What services listen on, to find two that a packet may belong to, neither of them being the
/// narrower one by its ports: one port goes before a range, a range before every port.
#[derive(Default)]
pub struct Taken(BTreeMap<(IpAddr, Proto, Breadth, u16), (Listen, String)>);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Breadth {
    OnePort,
    Range,
    EveryPort,
}

impl Taken {
    /// Whoever has a part of this already, and where it listens; else `name` has it now.
    pub fn take(&mut self, listen: Listen, name: &str) -> Result<(), (String, Listen)> {
        let breadth = match listen.one_port() {
            _ if listen.is_every_port() => Breadth::EveryPort,
            Some(_) => Breadth::OnePort,
            None => Breadth::Range,
        };
        // Ranges of one VIP do not overlap: the one that begins last before this one's end tells.
        for vip in listen.vips() {
            let at = |port| (vip, listen.proto, breadth, port);
            match self.0.range(at(0)..=at(listen.last)).next_back() {
                Some((_, (theirs, other))) if theirs.last >= listen.addr.port() => {
                    return Err((other.clone(), *theirs));
                }
                _ => {}
            }
        }
        for vip in listen.vips() {
            let at = (vip, listen.proto, breadth, listen.addr.port());
            self.0.insert(at, (listen, name.to_owned()));
        }
        Ok(())
    }
}

/// What is wrong, and what to write.
type Wrong = (String, Option<String>);

fn read(text: &str) -> Result<Listen, Wrong> {
    const SHAPE: &str = "write address:port/protocol, as \"10.0.0.100:80/tcp\" or \
                         \"[2001:db8::1]:53/udp\"";
    let shape = || Some(SHAPE.to_owned());
    // A prefix length is followed by a port.
    let (at, proto) = match text.rsplit_once('/') {
        Some((at, proto)) if !proto.contains(':') => (at, proto),
        _ => (text, "tcp"),
    };
    let proto = match proto {
        "tcp" => Proto::Tcp,
        "udp" => Proto::Udp,
        "sctp" => Proto::Sctp,
        other => {
            let why = format!("\"{other}\" is not a protocol that nines balances");
            return Err((why, Some("use tcp, udp or sctp".into())));
        }
    };
    let wrong = || (format!("\"{text}\" is not a valid address and port"), shape());
    let (host, ports) = at.rsplit_once(':').ok_or_else(wrong)?;
    let (host, len) = host_of(host).ok_or_else(wrong)?;
    let (first, last) = match ports {
        "*" => (0, 0),
        range => {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let port = |text: &str| match text.parse::<u16>() {
                Ok(port) => Ok(port),
                Err(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                    let why = format!("port {text} is out of range");
                    Err((why, Some("ports go from 1 to 65535".into())))
                }
                Err(_) => Err(wrong()),
            };
            (port(first)?, port(last)?)
        }
    };
    if first == 0 && ports != "*" {
        return Err(("port 0 is not a valid port; every port is *".into(), shape()));
    }
    if first > last {
        return Err((format!("\"{ports}\" ends before it begins"), shape()));
    }
    let one = Listen::new(SocketAddr::new(host, first), proto);
    let Some(prefix) = len else { return Ok(Listen { last, ..one }) };
    if prefix > one.prefix {
        return Err(wrong());
    }
    if network(host, prefix) != host {
        let help = format!("write \"{}/{prefix}\"", network(host, prefix));
        return Err((
            format!("{host}/{prefix} is not a network: it has bits set behind the prefix"),
            Some(help),
        ));
    }
    let least = one.prefix - Listen::VIPS_MAX.trailing_zeros() as u8;
    if prefix < least {
        let why = format!("/{prefix} has more than {} addresses", Listen::VIPS_MAX);
        return Err((why, Some(format!("use /{least} or longer"))));
    }
    Ok(Listen { last, prefix, ..one })
}

/// An address, and the prefix length if there is one: `192.0.2.0/28`, `[2001:db8::/124]`.
fn host_of(text: &str) -> Option<(IpAddr, Option<u8>)> {
    let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let bare = inside.unwrap_or(text);
    let (host, len) = match bare.split_once('/') {
        Some((host, len)) => (host, Some(len.parse().ok()?)),
        None => (bare, None),
    };
    let addr: IpAddr = host.parse().ok()?;
    (addr.is_ipv6() == inside.is_some()).then_some((addr, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equally_narrow_ones_clash() {
        let mut taken = Taken::default();
        let mut has = |text: &str| taken.take(read(text).unwrap(), text).err().map(|(who, _)| who);
        assert_eq!(has("10.0.0.1:80-90"), None);
        assert_eq!(has("10.0.0.1:85"), None, "one port is narrower");
        assert_eq!(has("10.0.0.1:*"), None, "every port is wider");
        assert_eq!(has("10.0.0.1:90-99").as_deref(), Some("10.0.0.1:80-90"));
        assert_eq!(has("10.0.0.1:70-80").as_deref(), Some("10.0.0.1:80-90"));
        assert_eq!(has("10.0.0.1:70-99").as_deref(), Some("10.0.0.1:80-90"));
        assert_eq!(has("10.0.0.1:91-99"), None);
        assert_eq!(has("10.0.0.1:80-90/udp"), None);
        assert_eq!(has("10.0.0.0/30:85").as_deref(), Some("10.0.0.1:85"));
        assert_eq!(has("10.0.0.4/30:85"), None);
        assert_eq!(has("10.0.0.6:85").as_deref(), Some("10.0.0.4/30:85"));
        assert_eq!(has("10.0.0.2:*"), None);
        assert_eq!(has("10.0.0.0/29:*").as_deref(), Some("10.0.0.1:*"));
    }
}
