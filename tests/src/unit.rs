//! A systemd unit, read as systemd reads it (systemd.service(5), "Command lines"), for machines where it does not run.

use std::collections::BTreeMap;
use std::path::Path;

/// A unit.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Its `[Service]`.
    pub service: BTreeMap<String, String>,
}

impl Unit {
    /// Reads a unit file.
    ///
    /// # Panics
    /// When there is none.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let service =
            text.lines().skip_while(|line| *line != "[Service]").skip(1).take_while(|line| !line.starts_with('['));
        let pairs = service.filter(|line| !line.starts_with(['#', ';'])).filter_map(|line| line.split_once('='));
        Self { service: pairs.map(|(key, value)| (key.to_string(), value.to_string())).collect() }
    }

    /// The words of `ExecStart`.
    ///
    /// # Panics
    /// When it has none.
    pub fn command(&self) -> Vec<String> {
        words(self.service.get("ExecStart").expect("a service starts something"))
    }
}

/// Splits a command line: quotes hold words together, a backslash escapes, `%%` and `$$` are `%` and `$`.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' if quote.is_none() => words.extend(word.take()),
            '"' | '\'' if quote == Some(letter) => quote = None,
            '"' | '\'' if quote.is_none() => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().extend(letters.next()),
            '%' | '$' => {
                assert_eq!(letters.next(), Some(letter), "a specifier or variable in {line:?}");
                word.get_or_insert_default().push(letter);
            }
            _ => word.get_or_insert_default().push(letter),
        }
    }
    assert_eq!(quote, None, "an open quote in {line:?}");
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_split_as_systemd_splits_it() {
        let line = r#""/opt/my apps/hirsel" up  --label "a=100%% of $$HOME" 'it"s' "\"" """#;
        assert_eq!(words(line), ["/opt/my apps/hirsel", "up", "--label", "a=100% of $HOME", "it\"s", "\"", ""]);
    }
}
