//! The one encoding of everything that crosses nodes or reaches a disk: MessagePack with field names, so that a field may be added
//! while old and new agents talk to each other.
//!
//! What is soft (reports, calls) passes over fields that are unknown and has `Unknown` variants. What Raft keeps (entries, snapshots)
//! does neither: its types say `deny_unknown_fields`, and [`DecodeError::is_newer`] tells such bytes from damaged ones.

use rmp_serde::Deserializer;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How deep values nest at most. Ours need a dozen; the stack of the reader bears a few hundred whatever a peer sends.
const DEPTH_MAX: usize = 64;

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A field or variant that this build does not know, where nothing may be passed over.
    #[error("{what} of {bytes} bytes was written by a newer hirsel, upgrade this node: {words}")]
    Newer {
        /// The type that was expected.
        what: &'static str,
        /// How many bytes there were.
        bytes: usize,
        /// Which field or variant.
        words: String,
    },
    /// Anything else: damaged, cut off, or no encoding of this type at all.
    #[error("cannot decode {what} of {bytes} bytes: {words}")]
    Damaged {
        /// The type that was expected.
        what: &'static str,
        /// How many bytes there were.
        bytes: usize,
        /// What is wrong with them.
        words: String,
    },
}

impl DecodeError {
    /// Whether the bytes were written by a newer hirsel.
    pub fn is_newer(&self) -> bool {
        matches!(self, DecodeError::Newer { .. })
    }
}

/// Encodes `value`.
///
/// # Panics
/// If the type of `value` cannot be encoded at all, for example a map nested deeper than 1024 levels: a mistake of the programmer.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("a type of ours can be encoded")
}

/// Decodes what [`encode`] wrote, all of it. Unknown fields are passed over, unless the type says `deny_unknown_fields`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let what = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
    let mut from = Deserializer::new(bytes);
    from.set_max_depth(DEPTH_MAX);
    let value = T::deserialize(&mut from).map_err(|error| {
        let words = error.to_string();
        let bytes = bytes.len();
        match error {
            rmp_serde::decode::Error::Syntax(text) if is_unknown(&text) => DecodeError::Newer { what, bytes, words },
            _ => DecodeError::Damaged { what, bytes, words },
        }
    })?;
    match from.get_ref().len() {
        0 => Ok(value),
        rest => Err(DecodeError::Damaged { what, bytes: bytes.len(), words: format!("{rest} bytes follow it") }),
    }
}

/// Whether serde says that it met a field or variant it has no name for (`serde::de::Error::unknown_field`, `unknown_variant`).
fn is_unknown(text: &str) -> bool {
    text.starts_with("unknown field") || text.starts_with("unknown variant")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::control::{Command, ControlState, Entry};
    use crate::id::NodeId;
    use crate::plan::Plan;
    use crate::report::{InstanceFacts, InstanceState, NodeReport, RoleFacts, RoleReport, RoleState};

    /// What encodes like `value` with one more field.
    fn with_field<T: Serialize>(value: &T) -> Vec<u8> {
        let mut map: BTreeMap<String, rmp_value::Value> = decode(&encode(value)).expect("a struct");
        map.insert("invented_later".into(), rmp_value::Value::U64(1));
        encode(&map)
    }

    /// Just enough of a self-describing value to rewrite what was encoded.
    mod rmp_value {
        use std::collections::BTreeMap;

        use serde::{Deserialize, Serialize};

        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[serde(untagged)]
        pub enum Value {
            Nil(()),
            Bool(bool),
            U64(u64),
            Text(String),
            List(Vec<Value>),
            Map(BTreeMap<String, Value>),
            Numbered(BTreeMap<u64, Value>),
        }
    }

    fn entry() -> Entry {
        Entry {
            at: Default::default(),
            by: "n1".into(),
            if_index: None,
            command: Command::RemoveNode { node: NodeId(3) },
        }
    }

    #[test]
    fn a_log_entry_with_an_unknown_field_is_refused_as_newer() {
        let error = decode::<Entry>(&with_field(&entry())).expect_err("must not be passed over");
        assert!(error.is_newer());
        assert!(error.to_string().contains("written by a newer hirsel, upgrade this node"), "{error}");
        assert!(error.to_string().contains("invented_later"), "{error}");
    }

    #[test]
    fn a_log_entry_with_an_unknown_command_is_refused_as_newer() {
        #[derive(Serialize)]
        struct Newer {
            at: u64,
            by: String,
            if_index: Option<u64>,
            command: NewerCommand,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "snake_case")]
        enum NewerCommand {
            MoveTheMoon { to: u64 },
            RemoveNode { node: u64, gently: bool },
        }
        for command in [NewerCommand::MoveTheMoon { to: 1 }, NewerCommand::RemoveNode { node: 1, gently: true }] {
            let bytes = encode(&Newer { at: 0, by: String::new(), if_index: None, command });
            assert!(decode::<Entry>(&bytes).expect_err("must not be passed over").is_newer());
        }
    }

    #[test]
    fn a_snapshot_with_an_unknown_field_at_any_depth_is_refused_as_newer() {
        assert!(decode::<ControlState>(&with_field(&ControlState::default())).expect_err("top").is_newer());
        assert!(decode::<Plan>(&with_field(&Plan::default())).expect_err("plan").is_newer());
        let mut map: BTreeMap<String, rmp_value::Value> = decode(&encode(&ControlState::default())).expect("a map");
        let plan = decode(&with_field(&Plan::default())).expect("a map");
        map.insert("plan".into(), plan);
        assert!(decode::<ControlState>(&encode(&map)).expect_err("inside").is_newer());
    }

    #[test]
    fn a_duty_from_a_newer_plan_is_refused_as_newer() {
        assert!(decode::<crate::duty::Duty>(&encode("conductor")).expect_err("unknown duty").is_newer());
    }

    #[test]
    fn damage_is_not_taken_for_a_newer_version() {
        let bytes = encode(&entry());
        for end in 0..bytes.len() {
            assert!(!decode::<Entry>(&bytes[..end]).expect_err("cut off").is_newer());
        }
        let mut longer = bytes;
        longer.push(0);
        let error = decode::<Entry>(&longer).expect_err("too long");
        assert!(!error.is_newer());
        assert!(error.to_string().ends_with("1 bytes follow it"), "{error}");
    }

    #[test]
    fn nesting_without_end_is_refused_instead_of_filling_the_stack() {
        // A list in a list in a list …
        let bytes = vec![0x91; 100_000];
        assert!(decode::<NodeReport>(&bytes).is_err());
        let mut soft = encode(&"invented_later");
        soft.insert(0, 0x81);
        soft.extend(vec![0x91; 100_000]);
        assert!(decode::<NodeReport>(&soft).is_err());
    }

    #[test]
    fn a_report_with_unknown_fields_is_read() {
        let report = NodeReport { version: 7, load: 3, ..Default::default() };
        assert_eq!(decode::<NodeReport>(&with_field(&report)).expect("soft"), report);
        let facts = InstanceFacts { port: 80, ..Default::default() };
        assert_eq!(decode::<InstanceFacts>(&with_field(&facts)).expect("soft"), facts);
    }

    #[test]
    fn a_report_without_fields_that_came_later_is_read() {
        assert_eq!(decode::<NodeReport>(&[0x80]).expect("an empty map"), NodeReport::default());
    }

    #[test]
    fn states_from_a_newer_agent_are_unknown() {
        assert_eq!(decode::<RoleState>(&encode("meditating")).expect("soft"), RoleState::Unknown);
        assert_eq!(decode::<InstanceState>(&encode("hovering")).expect("soft"), InstanceState::Unknown);
    }

    #[test]
    fn facts_from_a_newer_agent_are_unknown_whatever_they_carry() {
        #[derive(Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum NewerFacts {
            Plain,
            One(u64),
            Two(u64, String),
            Named { map: BTreeMap<String, Vec<u64>>, text: Option<String> },
        }
        #[derive(Serialize)]
        struct NewerReport {
            state: RoleState,
            facts: NewerFacts,
            message: Option<String>,
        }
        let map = BTreeMap::from([("a".to_owned(), vec![1, 2, 3])]);
        let all = [
            NewerFacts::Plain,
            NewerFacts::One(1),
            NewerFacts::Two(2, "b".into()),
            NewerFacts::Named { map, text: None },
        ];
        for facts in all {
            let bytes = encode(&NewerReport { state: RoleState::Running, facts, message: Some("after".into()) });
            let report: RoleReport = decode(&bytes).expect("soft");
            assert_eq!(report.facts, RoleFacts::Unknown);
            // What follows the unknown facts is still understood.
            assert_eq!(report.message.as_deref(), Some("after"));
            assert_eq!(report.state, RoleState::Running);
        }
    }

    #[test]
    fn known_facts_are_read_as_they_were_written() {
        let id = "shop/web/1".parse().expect("an instance");
        let compute = RoleFacts::Compute(BTreeMap::from([(id, InstanceFacts { healthy: true, ..Default::default() })]));
        let lb = RoleFacts::Lb(BTreeMap::from([("shop/web/2".parse().expect("an instance"), 4)]));
        for facts in [RoleFacts::None, RoleFacts::Unknown, compute, lb] {
            assert_eq!(decode::<RoleFacts>(&encode(&facts)).expect("ours"), facts);
            let json = serde_json::to_string(&facts).expect("json");
            assert_eq!(serde_json::from_str::<RoleFacts>(&json).expect("ours"), facts);
        }
        // One that has lost its content, or has it twice, is damaged rather than unknown.
        assert!(decode::<RoleFacts>(&encode("compute")).is_err());
        assert!(decode::<RoleFacts>(&[0x82, 0xa1, b'a', 1, 0xa1, b'b', 1]).is_err());
    }
}
