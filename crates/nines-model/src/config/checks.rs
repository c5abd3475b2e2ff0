//! `check`: how servers prove that they live.

use super::{
    keys,
    reader::{Reader, Table},
};
use crate::spec::{Check, CheckKind};

pub fn check(r: &mut Reader, table: &Table<'_>) -> Check {
    let mut check = Check::default();
    let Some(value) = table.get("check") else {
        return check;
    };
    let Some(inner) = value.as_table() else {
        let kinds = [("tcp", CheckKind::Tcp), ("none", CheckKind::None)];
        check.kind = r.choice(&value, &kinds).unwrap_or(CheckKind::Tcp);
        return check;
    };
    r.known(&inner, keys::CHECK);
    check.kind = check_kind(r, &inner);
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

fn check_kind(r: &mut Reader, inner: &Table<'_>) -> CheckKind {
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
        return CheckKind::Tcp;
    };
    let path = r.string(&path_value).unwrap_or_default();
    if !path.starts_with('/') || path.contains(char::is_whitespace) {
        let help = "write \"/healthz\"";
        r.error(path_value.span, "a path begins with / and has no blanks", Some(help.into()));
    }
    CheckKind::Http {
        tls,
        path,
        host: inner.get("host").and_then(|v| r.string(&v)),
        status: r.number(inner, "status", 100..=599).map_or(200, |s| s as u16),
        contains: inner.get("contains").and_then(|v| r.string(&v)),
    }
}
