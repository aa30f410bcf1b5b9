//! `backup`: what is in one, in words that people may read; nothing of it is secret.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is in a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Inside {
    /// The cluster it is of.
    pub cluster: String,
    /// Tag of its foundation.
    pub tag: String,
    /// How much of the control log is in it.
    pub index: u64,
    /// When it was made.
    pub made_at: String,
    /// Who asked for it.
    pub made_by: String,
    /// The node that made it.
    pub node: String,
    /// Version of its agent.
    pub version: String,
    /// The cluster's feature level.
    pub level: u32,
    /// A leader confirmed that nothing newer was confirmed to anybody when it was made.
    pub confirmed: bool,
    /// The mark of the authority: the beginning of its fingerprint.
    pub authority: String,
    /// Names of the nodes.
    pub nodes: Vec<String>,
    /// Names of the applications.
    pub apps: Vec<String>,
    /// Names of the secrets; those of an application with its name.
    pub secrets: Vec<String>,
    /// Names of the certificates of the front door.
    #[serde(default)]
    pub certificates: Vec<String>,
    /// How many events.
    pub events: usize,
    /// Size of the file.
    pub bytes: u64,
}

/// How the file is to be sealed: the key, which the asker made of a passphrase or drew, and how it is made again.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupFields {
    /// `passphrase` or `recovery_key`.
    pub by: String,
    /// Rounds of PBKDF2.
    pub rounds: u32,
    /// 32 bytes, in hexadecimal digits.
    pub salt: String,
    /// 32 bytes, in hexadecimal digits.
    pub key: String,
}

/// 32 bytes from hexadecimal digits.
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Hexadecimal digits of bytes.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_their_digits_and_nothing_else_is_taken() {
        let bytes: [u8; 32] = std::array::from_fn(|at| (at * 7) as u8);
        assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        for wrong in ["", "00", &"g".repeat(64), &"+1".repeat(32), &"ü".repeat(32)] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }
}
