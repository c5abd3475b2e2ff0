//! `listen`: addresses, ports and protocol in one string.

use std::net::{IpAddr, SocketAddr};

use super::reader::{Reader, Value};
use crate::listen::{Listen, Proto, network};

pub fn listen(r: &mut Reader, value: &Value<'_>) -> Option<Listen> {
    let text = r.string(value)?;
    match read(&text) {
        Ok(listen) => Some(listen),
        Err((why, help)) => {
            r.error(value.span.clone(), why, help);
            None
        }
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
            let why = format!("\"{other}\" is no protocol nines balances; use tcp, udp or sctp");
            return Err((why, None));
        }
    };
    let wrong = || (format!("\"{text}\" is no address and port"), shape());
    let (host, ports) = at.rsplit_once(':').ok_or_else(wrong)?;
    let (host, len) = host_of(host).ok_or_else(wrong)?;
    let (first, last) = match ports {
        "*" => (0, 0),
        range => {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let port = |text: &str| text.parse::<u16>().map_err(|_| wrong());
            (port(first)?, port(last)?)
        }
    };
    if first == 0 && ports != "*" {
        return Err(("port 0 is no port; every port is *".into(), shape()));
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
        return Err((format!("{host}/{prefix} is no network: bits are set behind it"), Some(help)));
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
