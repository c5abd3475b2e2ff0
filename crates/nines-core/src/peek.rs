//! One field of an encoded message, without reading the rest.
//!
//! Decides: nothing. A command may carry megabytes, and most who ask want to know whether it does.

/// The contents of the first field of this number that has a length; `None`: there is none, or
/// the bytes are no message.
pub fn field(mut bytes: &[u8], number: u64) -> Option<&[u8]> {
    while !bytes.is_empty() {
        let (tag, rest) = varint(bytes)?;
        let size = match tag & 7 {
            0 => rest.len() - varint(rest)?.1.len(),
            1 => 8,
            2 => {
                let (length, rest) = varint(rest)?;
                let (contents, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                if tag >> 3 == number {
                    return Some(contents);
                }
                bytes = rest;
                continue;
            }
            5 => 4,
            _ => return None,
        };
        bytes = rest.get(size..)?;
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

/// Whether this encoded [`crate::wire::Command`] applies a config: then it does nothing else.
pub fn applies_config(bytes: &[u8]) -> bool {
    field(bytes, 10).is_some()
}

/// The text of the config that this encoded [`crate::wire::Command`] applies, if it is such a one.
pub fn config_of_command(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(field(field(bytes, 10)?, 1)?).ok()
}

/// The text of the config of this encoded state ([`crate::snapshot`]).
pub fn config_of_state(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(field(bytes, 1)?).ok()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::{
        snapshot,
        state::State,
        wire::{Apply, Command, command::Kind},
    };

    #[test]
    fn a_config_is_found_in_a_command_and_in_a_state() {
        let command = |kind| Command { number: 300, at_ms: 1 << 40, kind, ..Command::default() };
        let text = "x".repeat(70_000);
        let apply = Apply { text: text.clone(), expected: 3 };
        let bytes = command(Some(Kind::Apply(apply))).encode_to_vec();
        assert_eq!(config_of_command(&bytes), Some(text.as_str()));
        for cut in 0..40 {
            assert_eq!(config_of_command(&bytes[..cut]), None);
        }
        let other = command(Some(Kind::Remove(text.clone()))).encode_to_vec();
        assert_eq!(config_of_command(&other), None);
        let state = State { text: text.as_str().into(), revision: 1, ..State::default() };
        assert_eq!(config_of_state(&snapshot::encode(&state)), Some(text.as_str()));
        assert_eq!(config_of_state(&[]), None);
        assert_eq!(config_of_command(&[0xff; 12]), None);
    }
}
