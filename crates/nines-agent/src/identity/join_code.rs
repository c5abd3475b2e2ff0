//! The join code: a secret, and the fingerprint of the cluster's certificate authority, as one
//! word.
//!
//! Decides: its form, and whether a secret is that of a valid code.

use std::time::{SystemTime, UNIX_EPOCH};

use nines_api::failure::Outcome;

use super::{StateDir, der, fingerprint, random};

/// How long a join code is valid, in seconds.
const VALID: u64 = 86_400;

impl StateDir {
    /// Makes a join code in the place of the one before; gives it, and the time it ends at, in
    /// seconds since 1970. `server`: one that lets real servers in and no node.
    pub fn new_code(&self, server: bool) -> Outcome<(String, u64)> {
        let ca_pem = self.read("ca.pem")?;
        let secret = random::<10>();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let until = now + VALID;
        let kept = data_encoding::HEXLOWER.encode(&secret);
        self.write(Self::code_file(server), &format!("{until} {kept}"))?;
        Ok((join_code(&secret, &der(&ca_pem)), until))
    }

    fn code_file(server: bool) -> &'static str {
        if server { "join-code-server" } else { "join-code" }
    }

    /// Whether `secret` is that of a living join code.
    pub fn code_is(&self, secret: &str, now: u64, server: bool) -> bool {
        let Ok(text) = self.read(Self::code_file(server)) else { return false };
        let Some((until, kept)) = text.split_once(' ') else { return false };
        let alive = until.parse::<u64>().is_ok_and(|until| now < until);
        let digest = |s: &str| ring::digest::digest(&ring::digest::SHA256, s.as_bytes());
        // Digests, so that the time of comparing tells nothing about the secret.
        alive && digest(kept).as_ref() == digest(secret).as_ref()
    }
}

/// Secret and fingerprint as one word for people.
fn join_code(secret: &[u8; 10], ca_der: &[u8]) -> String {
    let mut bytes = secret.to_vec();
    bytes.extend(fingerprint(ca_der));
    let text = data_encoding::BASE32_NOPAD.encode(&bytes).to_lowercase();
    let groups: Vec<&str> = (0..text.len()).step_by(8).map(|i| &text[i..i + 8]).collect();
    groups.join("-")
}

/// Back: secret (as text) and fingerprint; `None`: no join code.
pub fn read_code(code: &str) -> Option<(String, [u8; 10])> {
    let text: String = code.chars().filter(|c| *c != '-').collect::<String>().to_uppercase();
    let bytes = data_encoding::BASE32_NOPAD.decode(text.as_bytes()).ok()?;
    let print = bytes.get(10..20)?.try_into().ok()?;
    (bytes.len() == 20).then(|| (data_encoding::HEXLOWER.encode(&bytes[..10]), print))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::random;

    #[test]
    fn a_join_code_reads_back_and_a_wrong_one_does_not() {
        let secret = random::<10>();
        let code = join_code(&secret, b"certificate");
        assert_eq!(code.len(), 35, "{code}");
        let (read, print) = read_code(&code).unwrap();
        assert_eq!(read, data_encoding::HEXLOWER.encode(&secret));
        assert_eq!(print, fingerprint(b"certificate"));
        assert!(read_code(&code[1..]).is_none());
        assert!(read_code("hello").is_none());
    }
}
