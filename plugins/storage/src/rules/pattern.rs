//! Patterns with `*` and `?`, as policies name actions, resources and values: and with variables, which stand for what is known of the
//! request (`${aws:username}`).

use std::fmt;

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Just(char),
    /// `?`.
    One,
    /// `*`.
    Any,
    /// `${key}`, with the key as it was written.
    Variable(String),
}

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Piece>);

impl Pattern {
    /// Reads a pattern. With `variables`, `${key}` stands for a value, and `${*}`, `${?}` and `${$}` for the character; without them
    /// a dollar is a dollar.
    ///
    /// # Errors
    /// In words, when a variable has no end.
    pub fn new(text: &str, variables: bool) -> Result<Self, String> {
        let mut pieces = Vec::with_capacity(text.len());
        let mut rest = text.chars();
        while let Some(next) = rest.next() {
            pieces.push(match next {
                '*' => Piece::Any,
                '?' => Piece::One,
                '$' if variables && rest.as_str().starts_with('{') => {
                    let inside = &rest.as_str()[1..];
                    let (name, after) =
                        inside.split_once('}').ok_or_else(|| format!("a variable in {text:.80?} has no end"))?;
                    rest = after.chars();
                    match name {
                        "*" | "?" | "$" => Piece::Just(name.chars().next().unwrap_or('$')),
                        // `${key, 'default'}` is not taken: what is not known matches nothing.
                        _ => Piece::Variable(name.trim().to_owned()),
                    }
                }
                other => Piece::Just(other),
            });
        }
        pieces.dedup_by(|next, last| *next == Piece::Any && *last == Piece::Any);
        Ok(Self(pieces))
    }

    /// A pattern that only this text matches.
    pub fn exactly(text: &str) -> Self {
        Self(text.chars().map(Piece::Just).collect())
    }

    /// Whether anything in it can stand for more than one text.
    pub fn is_fixed(&self) -> bool {
        !self.0.iter().any(|piece| matches!(piece, Piece::One | Piece::Any | Piece::Variable(_)))
    }

    /// The variables in it.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Variable(name) => Some(name.as_str()),
            Piece::Just(_) | Piece::One | Piece::Any => None,
        })
    }

    /// Whether `text` is what it says. `lookup` gives values of variables; a pattern with one that has none matches nothing.
    pub fn matches(&self, text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> bool {
        if self.variables().next().is_none() {
            return matches(&self.0, text);
        }
        let mut pieces = Vec::with_capacity(self.0.len());
        for piece in &self.0 {
            match piece {
                Piece::Variable(name) => match lookup(name) {
                    Some(value) => pieces.extend(value.chars().map(Piece::Just)),
                    None => return false,
                },
                other => pieces.push(other.clone()),
            }
        }
        matches(&pieces, text)
    }

    /// Whether `text` is what it says, without variables.
    pub fn matches_plainly(&self, text: &str) -> bool {
        self.matches(text, &|_| None)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Just(char) => write!(f, "{char}"),
            Piece::One => f.write_str("?"),
            Piece::Any => f.write_str("*"),
            Piece::Variable(name) => write!(f, "${{{name}}}"),
        })
    }
}

/// Goes back to the last star only, so that it takes the product of the lengths at most.
fn matches(pieces: &[Piece], text: &str) -> bool {
    let (mut at, mut rest) = (0, text);
    let mut star: Option<(usize, &str)> = None;
    while let Some(next) = rest.chars().next() {
        let fits = match pieces.get(at) {
            Some(Piece::Any) => {
                star = Some((at, rest));
                at += 1;
                continue;
            }
            Some(Piece::One) => true,
            Some(Piece::Just(char)) => *char == next,
            Some(Piece::Variable(_)) | None => false,
        };
        if fits {
            at += 1;
            rest = &rest[next.len_utf8()..];
            continue;
        }
        // The last star takes one character more.
        let Some((starred, from)) = star else { return false };
        let mut longer = from.chars();
        longer.next();
        (at, rest) = (starred + 1, longer.as_str());
        star = Some((starred, rest));
    }
    pieces[at..].iter().all(|piece| *piece == Piece::Any)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern, false).expect("no variables").matches_plainly(text)
    }

    #[test]
    fn stars_and_question_marks_stand_for_characters() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "a/b"),
            ("a*c", "ac"),
            ("a*c", "abcbc"),
            ("a?c", "aßc"),
            ("*/public/*", "pics/public/a/b"),
            ("a**b", "ab"),
            ("a*b*c", "aXbYbZc"),
        ] {
            assert!(is(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("?", ""), ("a*c", "acb"), ("a?c", "ac"), ("A", "a"), ("a*b*c", "acb")] {
            assert!(!is(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn variables_stand_for_values_which_are_no_patterns() {
        let pattern = Pattern::new("home/${aws:username}/*", true).expect("a pattern");
        let name = |value: &'static str| move |key: &str| (key == "aws:username").then(|| value.to_owned());
        assert!(pattern.matches("home/ann/a", &name("ann")));
        assert!(!pattern.matches("home/bob/a", &name("*")), "a value is taken as it is");
        assert!(pattern.matches("home/*/a", &name("*")));
        assert!(!pattern.matches("home//a", &|_| None), "nothing known, nothing matched");
        let plain = Pattern::new("${*}${$}{", true).expect("a pattern");
        assert!(plain.matches_plainly("*${") && !plain.matches_plainly("x${"));
        assert!(Pattern::new("${aws:username", true).is_err());
        assert!(Pattern::new("${aws:username", false).expect("a text").matches_plainly("${aws:username"));
    }

    /// Says the same, slowly.
    fn slow(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', rest @ ..] => (0..=text.len()).any(|skip| slow(rest, &text[skip..])),
            ['?', rest @ ..] => !text.is_empty() && slow(rest, &text[1..]),
            [char, rest @ ..] => text.first() == Some(char) && slow(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn it_matches_what_the_definition_does(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            let slow = slow(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>());
            prop_assert_eq!(is(&pattern, &text), slow);
        }

        #[test]
        fn any_text_matches_itself(text in "\\PC{0,40}") {
            prop_assert!(Pattern::exactly(&text).matches_plainly(&text));
        }
    }
}
