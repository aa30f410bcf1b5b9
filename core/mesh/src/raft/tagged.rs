//! Messages say which foundation of the group they belong to, and one of another is refused with both tags.
//!
//! A message of the first foundation is as it always was. Any other begins with a byte that no MessagePack value begins with, then the
//! length of the tag, the tag, and the message.

use hirsel_model::tag::TAG_BYTES_MAX;
use hirsel_model::{NodeId, Tag};

/// "Never used" (MessagePack specification, formats).
const MARK: u8 = 0xc1;

/// `body` as a message of the foundation `tag`.
pub(super) fn tagged(tag: &Tag, body: Vec<u8>) -> Vec<u8> {
    if tag.is_first() {
        return body;
    }
    let text = tag.to_string();
    let length = u8::try_from(text.len()).expect("a tag is shorter than its limit");
    [&[MARK, length], text.as_bytes(), &body].concat()
}

/// The message inside, if it is of the foundation `mine` of the node `me`.
pub(super) fn untagged<'a>(mine: &Tag, me: NodeId, body: &'a [u8]) -> Result<&'a [u8], String> {
    let (theirs, message) = split(body)?;
    if theirs == *mine {
        return Ok(message);
    }
    Err(refusal(mine, me, &theirs))
}

/// Why a message of `theirs` is refused here, and what whoever is behind does next.
fn refusal(mine: &Tag, me: NodeId, theirs: &Tag) -> String {
    format!(
        "node {me} belongs to the foundation with tag {mine} of this cluster, the message to the one with tag {theirs}; \
         a node of another tag joins again: hirsel join SEED --token T"
    )
}

fn split(body: &[u8]) -> Result<(Tag, &[u8]), String> {
    let Some((&MARK, rest)) = body.split_first() else { return Ok((Tag::default(), body)) };
    let (length, rest) = rest.split_first().ok_or("a message that ends in its tag")?;
    let length = usize::from(*length);
    if length > TAG_BYTES_MAX || length > rest.len() {
        return Err("a message that ends in its tag".into());
    }
    let (text, message) = rest.split_at(length);
    let tag = std::str::from_utf8(text).map_err(|error| error.to_string())?.parse::<Tag>();
    Ok((tag.map_err(|error| error.to_string())?, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_another_foundation_is_refused_with_both_tags() {
        let (first, second) = (Tag::default(), Tag::default().next(9));
        for tag in [&first, &second] {
            let sent = tagged(tag, b"\x81hello".to_vec());
            assert_eq!(untagged(tag, NodeId(1), &sent), Ok(&b"\x81hello"[..]));
            assert_eq!(untagged(tag, NodeId(1), &tagged(tag, Vec::new())), Ok(&b""[..]));
        }
        let refused = untagged(&second, NodeId(3), &tagged(&first, vec![0x81])).unwrap_err();
        assert!(refused.contains("tag 0;") && refused.contains(&second.to_string()), "{refused}");
        for cut in 0..8 {
            let sent = tagged(&second, vec![0x81]);
            assert!(untagged(&second, NodeId(3), &sent[..cut]).is_err(), "{cut}");
        }
    }
}
