//! Numbers, times and addresses as people read them, the same on both sides of the API.

/// RFC 3339 in UTC.
pub fn rfc3339(ms: u64) -> String {
    jiff::Timestamp::from_millisecond(ms as i64)
        .map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}

/// "3 m 10 s"
pub fn ago(seconds: u64) -> String {
    match seconds {
        s if s < 60 => format!("{s} s"),
        s if s < 3_600 => format!("{} m {} s", s / 60, s % 60),
        s if s < 86_400 => format!("{} h {} m", s / 3_600, s % 3_600 / 60),
        s => format!("{} d", s / 86_400),
    }
}

/// "1 service", "2 services"
pub fn count(n: u64, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural}")
}

/// A MAC address as text, such as "02:00:00:00:00:07".
pub fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
