//! `check`: how servers prove that they live.

use super::{
    keys,
    reader::{Reader, Table},
};
use crate::{
    listen::Proto,
    spec::{Check, CheckKind},
};

pub fn check(r: &mut Reader, table: &Table<'_>, proto: Proto) -> Check {
    // A TCP check of a UDP port takes every server down for ever. Nothing that asks by SCTP can be
    // told from a kernel without SCTP.
    let usual = match proto {
        Proto::Tcp => CheckKind::Tcp,
        Proto::Udp => CheckKind::Udp,
        Proto::Sctp => CheckKind::None,
    };
    let mut check = Check { kind: usual.clone(), ..Check::default() };
    let Some(value) = table.get("check") else {
        return check;
    };
    let Some(inner) = value.as_table() else {
        let kinds = [("tcp", CheckKind::Tcp), ("udp", CheckKind::Udp), ("none", CheckKind::None)];
        check.kind = r.choice(&value, &kinds).unwrap_or(usual);
        return check;
    };
    r.known(&inner, keys::CHECK);
    check.kind = check_kind(r, &inner, proto, usual);
    check.port = r.number(&inner, "port", 1..=65_535).map(|p| p as u16);
    check.every = r.millis(&inner, "every").unwrap_or(check.every);
    check.timeout = r.millis(&inner, "timeout").unwrap_or(check.timeout.min(check.every));
    let ways = [("direct", false), ("forwarded", true)];
    check.forwarded = inner.get("way").and_then(|v| r.choice(&v, &ways)).unwrap_or(false);
    check.rise = r.number(&inner, "rise", 1..=100).unwrap_or(check.rise);
    check.fall = r.number(&inner, "fall", 1..=100).unwrap_or(check.fall);
    for (name, ms) in [("every", check.every), ("timeout", check.timeout)] {
        if ms.0 < 10 {
            r.error(inner.span.clone(), format!("{name} is under 10ms"), None);
        }
    }
    check
}

fn check_kind(r: &mut Reader, inner: &Table<'_>, proto: Proto, usual: CheckKind) -> CheckKind {
    let (http, https) = (inner.get("http"), inner.get("https"));
    if let (Some(_), Some(second)) = (&http, &https) {
        r.error(second.span.clone(), "a check asks http or https, not both", None);
    }
    let tls = http.is_none();
    let Some(path_value) = http.or(https) else {
        for key in ["host", "status", "contains"] {
            if let Some(value) = inner.get(key) {
                let help = "add http = \"/path\"";
                r.error(value.span, format!("{key} needs an HTTP check"), Some(help.into()));
            }
        }
        let asked = inner
            .get("proto")
            .and_then(|v| r.choice(&v, &[("tcp", CheckKind::Tcp), ("udp", CheckKind::Udp)]));
        if asked.is_none() && proto == Proto::Sctp {
            let help = "add proto = \"tcp\" and a port that speaks TCP, or check = \"none\"";
            let why = "an SCTP port cannot be checked by itself";
            r.error(inner.span.clone(), why, Some(help.into()));
        }
        return asked.unwrap_or(usual);
    };
    if let Some(value) = inner.get("proto") {
        r.error(value.span, "an HTTP check is made over TCP", Some("remove proto".into()));
    }
    let path = r.string(&path_value).unwrap_or_default();
    let plain = |c: char| c.is_ascii_graphic() && !"#<>\\^`".contains(c);
    if !path.starts_with('/') || !path.chars().all(plain) {
        let help = "write \"/healthz\"; %20 is a blank, other characters are encoded likewise";
        let why = "a path begins with / and has only characters that a URL may have";
        r.error(path_value.span, why, Some(help.into()));
    }
    let host = inner.get("host");
    let name = host.as_ref().and_then(|v| r.string(v));
    let in_name = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if let (Some(value), Some(name)) = (host, &name)
        && (name.is_empty() || !name.chars().all(in_name))
    {
        let help = Some("write \"shop.example\" or \"shop.example:8443\"".into());
        r.error(
            value.span,
            format!("\"{}\" is not a valid host name", name.escape_default()),
            help,
        );
    }
    CheckKind::Http {
        tls,
        path,
        host: name,
        // 1xx only announce the answer.
        status: r.number(inner, "status", 200..=599).map_or(200, |s| s as u16),
        contains: inner.get("contains").and_then(|v| r.string(&v)),
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        config,
        spec::{Check, CheckKind},
    };

    fn read(proto: &str, check: &str) -> Result<Check, String> {
        let text = format!(
            "[cluster]\nname = \"web\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
             listen = \"10.0.0.100:514/{proto}\"\nservers = {{ r1 = \"10.0.0.11\" }}\n{check}\n"
        );
        let spec = config::parse(&text).map_err(|found| found[0].message.clone())?;
        Ok(spec.services["web"].check.clone())
    }

    #[test]
    fn each_protocol_has_a_check_that_can_pass() {
        let kind = |proto, check| read(proto, check).unwrap().kind;
        assert_eq!(kind("tcp", ""), CheckKind::Tcp);
        assert_eq!(kind("udp", ""), CheckKind::Udp);
        assert_eq!(kind("udp", "check = { every = \"5s\", port = 53 }"), CheckKind::Udp);
        assert_eq!(kind("sctp", ""), CheckKind::None);
        assert_eq!(kind("udp", "check = \"tcp\""), CheckKind::Tcp);
        assert_eq!(kind("udp", "check = { proto = \"tcp\", port = 53 }"), CheckKind::Tcp);
        assert_eq!(kind("tcp", "check = \"udp\""), CheckKind::Udp);
        assert!(read("sctp", "check = { every = \"5s\" }").unwrap_err().contains("by itself"));
        assert!(read("udp", "check = { proto = \"sctp\" }").is_err());
    }

    #[test]
    fn what_cannot_be_asked_over_http_is_refused() {
        let http = |keys: &str| read("tcp", &format!("check = {{ {keys} }}"));
        assert!(http("http = \"/a%20b?c={d}&e\", host = \"[2001:db8::1]:80\"").is_ok());
        for keys in [
            "http = \"x\"",
            "http = \"/a b\"",
            "http = \"/\\u001b\"",
            "http = \"/#top\"",
            "http = \"/\", host = \"\"",
            "http = \"/\", host = \"a\\r\\nX: y\"",
            "http = \"/\", status = 100",
            "http = \"/\", proto = \"udp\"",
        ] {
            let why = http(keys).unwrap_err();
            assert!(!why.contains(char::is_control), "{keys}: {why}");
        }
    }
}
