//! Names of nodes, services and servers.
//!
//! Decides: which characters a name has, and which names are one to certificates: those do not tell
//! letters by their case, and have no underscore.

/// Whether this can be a name: 1 to 63 ASCII letters, digits, dots, dashes and underscores, a
/// letter or digit first. Letters that only look like those of ASCII are none.
pub fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    starts && text.len() <= 63 && text.chars().all(good)
}

/// The name as a certificate has it: names with the same result cannot be told apart.
pub fn in_certificate(name: &str) -> String {
    name.replace('_', "-").trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_certificates_confuse_are_one() {
        for (one, two) in [("lb1", "LB1"), ("lb-1", "Lb_1"), ("lb1", "lb1.")] {
            assert_eq!(in_certificate(one), in_certificate(two), "{one} {two}");
        }
        assert_ne!(in_certificate("lb1"), in_certificate("lb-1"));
        assert!(is_name("LB1.site_a-2"));
        // Cyrillic, the Kelvin sign, full-width digits, what is not seen.
        for name in
            ["", "-a", "lb 1", "lb\u{430}", "\u{212a}1", "lb\u{ff11}", "lb1\u{200b}", "a\nb"]
        {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
