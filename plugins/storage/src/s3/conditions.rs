//! Conditions of reads (RFC 9110, section 13.2.2): pure.

use hirsel_model::WallTime;
use s3s::dto::{ETagCondition, Timestamp};

use super::about::wall;

/// What must hold of an object for it to be sent.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// It has this ETag.
    pub if_match: Option<ETagCondition>,
    /// It has another one.
    pub if_none_match: Option<ETagCondition>,
    /// It was made after this.
    pub if_modified_since: Option<Timestamp>,
    /// It was not.
    pub if_unmodified_since: Option<Timestamp>,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent.
    Go,
    /// The client has it already.
    NotModified,
    /// It is not what the client wants.
    Failed,
}

impl Conditions {
    /// Looks at an object with this ETag (without quotes), made at that moment. Clients know moments to the second.
    pub fn verdict(&self, etag: &str, made: WallTime) -> Verdict {
        let is = |wanted: &ETagCondition| match wanted {
            ETagCondition::Any => true,
            ETagCondition::ETag(wanted) => wanted.value() == etag,
        };
        let made_after = |since: &Timestamp| wall(since).is_none_or(|since| made.0 / 1_000 > since.0 / 1_000);
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(wanted), _) if !is(wanted) => return Verdict::Failed,
            (None, Some(since)) if made_after(since) => return Verdict::Failed,
            _ => {}
        }
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(unwanted), _) if is(unwanted) => Verdict::NotModified,
            (None, Some(since)) if !made_after(since) => Verdict::NotModified,
            _ => Verdict::Go,
        }
    }
}

#[cfg(test)]
mod tests {
    use s3s::dto::ETag;

    use super::super::about::moment;
    use super::*;

    const MADE: WallTime = WallTime(1_000_500);

    fn verdict(conditions: Conditions) -> Verdict {
        conditions.verdict("abc", MADE)
    }

    #[test]
    fn an_etag_decides_before_a_date() {
        let (mine, other) =
            (ETagCondition::ETag(ETag::Strong("abc".into())), ETagCondition::ETag(ETag::Strong("x".into())));
        let (before, after) = (Some(moment(WallTime(990_000))), Some(moment(WallTime(1_010_000))));
        let base = Conditions::default;
        assert_eq!(verdict(base()), Verdict::Go);
        assert_eq!(verdict(Conditions { if_match: Some(other.clone()), ..base() }), Verdict::Failed);
        assert_eq!(
            verdict(Conditions { if_match: Some(mine.clone()), if_unmodified_since: before.clone(), ..base() }),
            Verdict::Go
        );
        assert_eq!(verdict(Conditions { if_unmodified_since: before.clone(), ..base() }), Verdict::Failed);
        assert_eq!(verdict(Conditions { if_unmodified_since: after.clone(), ..base() }), Verdict::Go);
        assert_eq!(
            verdict(Conditions { if_none_match: Some(mine), if_modified_since: before.clone(), ..base() }),
            Verdict::NotModified
        );
        assert_eq!(
            verdict(Conditions { if_none_match: Some(other), if_modified_since: after.clone(), ..base() }),
            Verdict::Go
        );
        assert_eq!(verdict(Conditions { if_modified_since: before, ..base() }), Verdict::Go);
        assert_eq!(verdict(Conditions { if_modified_since: after, ..base() }), Verdict::NotModified);
        assert_eq!(verdict(Conditions { if_match: Some(ETagCondition::Any), ..base() }), Verdict::Go);
    }

    #[test]
    fn a_moment_counts_to_the_second() {
        let same = Some(moment(WallTime(1_000_000)));
        assert_eq!(
            verdict(Conditions { if_modified_since: same.clone(), ..Conditions::default() }),
            Verdict::NotModified
        );
        assert_eq!(verdict(Conditions { if_unmodified_since: same, ..Conditions::default() }), Verdict::Go);
    }
}
