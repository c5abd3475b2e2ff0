//! One field of an encoded message, without reading the rest.
//!
//! Decides: nothing. A command may carry megabytes, and most who ask want to know whether it does.

/// The contents of the first field of this number that has a length; `None`: there is none, or
/// the bytes are no message.
pub fn field(bytes: &[u8], number: u64) -> Option<&[u8]> {
    find(bytes, |tag| tag == number << 3 | 2)
}

/// Whether a message has a field of one of these numbers. Not beyond what is no message.
pub fn has_any(bytes: &[u8], numbers: &[u64]) -> bool {
    find(bytes, |tag| numbers.contains(&(tag >> 3))).is_some()
}

/// The same of a field that is a number, which is 0 where it is not written.
pub fn number(bytes: &[u8], number: u64) -> Option<u64> {
    Some(varint(find(bytes, |tag| tag == number << 3)?)?.0)
}

/// Contents of the first field whose tag is wanted: its number, and its kind in the lowest three
/// bits.
fn find(mut bytes: &[u8], wanted: impl Fn(u64) -> bool) -> Option<&[u8]> {
    while !bytes.is_empty() {
        let (tag, rest) = varint(bytes)?;
        let (rest, size) = match tag & 7 {
            0 => (rest, rest.len() - varint(rest)?.1.len()),
            1 => (rest, 8),
            2 => {
                let (length, rest) = varint(rest)?;
                (rest, usize::try_from(length).ok()?)
            }
            5 => (rest, 4),
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(size)?;
        if wanted(tag) {
            return Some(contents);
        }
        bytes = rest;
    }
    None
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i).min(63);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

/// Fields of [`crate::wire::Command`] that put a config in force: as text, and as values.
const APPLIES_TEXT: u64 = 10;
pub(crate) const APPLIES_SPEC: u64 = 21;
/// Field of a command about the power of a node.
pub(crate) const FENCE: u64 = 51;
/// Field of a command that takes the vote of a member.
pub(crate) const TAKES_VOTE: u64 = 61;

/// Whether this encoded [`crate::wire::Command`] applies a config: then it does nothing else.
pub fn applies_config(bytes: &[u8]) -> bool {
    has_any(bytes, &[APPLIES_TEXT, APPLIES_SPEC])
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::wire::{Apply, Command, command::Kind};

    #[test]
    fn a_config_is_found_in_a_command() {
        let command = |kind| Command { number: 300, at_ms: 1 << 40, kind, ..Command::default() };
        let text = "x".repeat(70_000);
        let apply = Apply { text: text.clone(), expected: 3, head: 1 << 30, tail: 0 };
        let bytes = command(Some(Kind::Apply(apply))).encode_to_vec();
        let within = field(&bytes, 10).unwrap();
        assert_eq!(field(within, 1), Some(text.as_bytes()));
        assert_eq!([2, 3, 4].map(|n| number(within, n)), [Some(3), Some(1 << 30), None]);
        for cut in 0..40 {
            assert!(!applies_config(&bytes[..cut]));
        }
        let other = command(Some(Kind::Remove(text.clone()))).encode_to_vec();
        assert!(!applies_config(&other));
        assert!(has_any(&bytes, &[11, 10]) && has_any(&bytes, &[2]) && !has_any(&bytes, &[1, 11]));
        assert!(!has_any(&[0xff; 12], &[10]));
        assert!(!applies_config(&[0xff; 12]));
        assert_eq!(number(&[0xff; 12], 1), None);
    }
}
