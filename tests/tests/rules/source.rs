//! Reads Rust sources as far as the rules need it: which files belong to a program, and which paths each file names.
//!
//! Comments, texts and whatever is only there for tests are left out. Imports are followed, so that `use std::{fs as f}; f::read(…)`
//! is seen as `std::fs::read`. It does not expand macros.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One file without comments, texts and tests. Its lines are where they were.
pub struct Source {
    pub path: PathBuf,
    /// Whether it opens with a `//!` comment (after attributes).
    pub has_header: bool,
    code: String,
}

/// The file of a crate's root and, through `mod NAME;`, all others that are compiled outside tests.
pub fn production_files(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut waiting = vec![(root.to_path_buf(), true)];
    while let Some((path, is_root)) = waiting.pop() {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let source = Source::new(path, &text);
        let parent = source.path.parent().expect("a file is in a folder");
        let is_mod = is_root || source.path.file_name().is_some_and(|name| name == "mod.rs");
        let folder = if is_mod { parent.to_path_buf() } else { source.path.with_extension("") };
        for module in source.modules() {
            let flat = folder.join(format!("{module}.rs"));
            let nested = folder.join(&module).join("mod.rs");
            waiting.push((if flat.exists() { flat } else { nested }, false));
        }
        found.push(source);
    }
    found
}

impl Source {
    pub fn new(path: PathBuf, text: &str) -> Self {
        let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("#!["));
        let has_header = first.is_some_and(|line| line.starts_with("//!"));
        Self { path, has_header, code: without_tests(&code_only(text)) }
    }

    /// Whether the file names `word`.
    pub fn mentions(&self, word: &str) -> bool {
        words(&self.code).any(|(_, found)| found == word)
    }

    /// Names of the modules that are files of their own.
    fn modules(&self) -> Vec<String> {
        let tokens: Vec<_> = tokens(&self.code).into_iter().map(|(_, token)| token).collect();
        let declared = tokens.windows(3).filter(|three| three[0] == "mod" && three[2] == ";");
        declared.map(|three| three[1].trim_start_matches("r#").to_owned()).collect()
    }

    /// All paths of the file with their lines, as whole as its imports tell.
    pub fn paths(&self) -> Vec<(usize, String)> {
        let tokens = tokens(&self.code);
        let mut imports = BTreeMap::new();
        let mut paths = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at].1 == "use" {
                let end = (at..tokens.len()).find(|end| tokens[*end].1 == ";").unwrap_or(tokens.len());
                let mut tree = &tokens[at + 1..end];
                for (line, path, name) in import(&mut tree, "") {
                    imports.insert(name, path.clone());
                    paths.push((line, path));
                }
                at = end;
            }
            at += 1;
        }
        at = 0;
        while at < tokens.len() {
            let (line, token) = &tokens[at];
            at += 1;
            if token == "use" {
                at = (at..tokens.len()).find(|end| tokens[*end].1 == ";").unwrap_or(tokens.len());
                continue;
            }
            let begins = is_word(token) && (at < 2 || !matches!(tokens[at - 2].1.as_str(), "::" | "."));
            if !begins {
                continue;
            }
            let mut path = imports.get(token).cloned().unwrap_or_else(|| token.clone());
            let mut long = imports.contains_key(token);
            while at + 1 < tokens.len() && tokens[at].1 == "::" && is_word(&tokens[at + 1].1) {
                path = format!("{path}::{}", tokens[at + 1].1);
                long = true;
                at += 2;
            }
            if long {
                paths.push((*line, path));
            }
        }
        paths.sort();
        paths.dedup();
        paths
    }
}

/// The paths of one tree of `use`, each with the name it gets.
fn import(tree: &mut &[(usize, String)], before: &str) -> Vec<(usize, String, String)> {
    let mut found = Vec::new();
    let mut path = before.to_owned();
    while let Some(((line, token), rest)) = tree.split_first() {
        *tree = rest;
        match token.as_str() {
            "{" => {
                while tree.first().is_some_and(|(_, token)| token != "}") {
                    found.extend(import(tree, &path));
                    if tree.first().is_some_and(|(_, token)| token == ",") {
                        *tree = &tree[1..];
                    }
                }
                *tree = tree.get(1..).unwrap_or_default();
                return found;
            }
            "as" => {
                let Some(((_, name), rest)) = tree.split_first() else { break };
                *tree = rest;
                found.push((*line, path, name.clone()));
                return found;
            }
            "::" => (),
            "self" if !path.is_empty() => (),
            word => path = if path.is_empty() { word.to_owned() } else { format!("{path}::{word}") },
        }
        let ends = tree.first().is_none_or(|(_, token)| token == "," || token == "}");
        if ends {
            let name = path.rsplit("::").next().unwrap_or_default().to_owned();
            found.push((*line, path, name));
            return found;
        }
    }
    found
}

/// `text` with everything inside comments and literals replaced by blanks.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = literal(rest, code.chars().next_back()).unwrap_or(0);
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            let (blank, after) = rest.split_at(length);
            code.extend(blank.chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = after;
        }
    }
    code
}

/// How long the comment or literal is that `rest` begins with.
fn literal(rest: &str, before: Option<char>) -> Option<usize> {
    let end = |from: usize, mark: &str| rest[from..].find(mark).map_or(rest.len(), |at| from + at + mark.len());
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        let mut depth = 0;
        let mut at = 0;
        while at < rest.len() {
            match &rest.as_bytes()[at..rest.len().min(at + 2)] {
                b"/*" => (depth, at) = (depth + 1, at + 2),
                b"*/" => (depth, at) = (depth - 1, at + 2),
                _ => at += 1,
            }
            if depth == 0 {
                break;
            }
        }
        return Some(at);
    }
    let inside_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let prefix = if inside_word { 0 } else { rest.bytes().take_while(|b| matches!(b, b'b' | b'c' | b'r')).count() };
    let raw = &rest[prefix..];
    let hashes = raw.bytes().take_while(|b| *b == b'#').count();
    if rest[..prefix].contains('r') && raw[hashes..].starts_with('"') {
        return Some(end(prefix + hashes + 1, &format!("\"{}", "#".repeat(hashes))));
    }
    if raw.starts_with('"') {
        return Some(prefix + quoted(raw, b'"'));
    }
    // A character, unless it is a lifetime.
    let mut chars = raw.chars();
    if chars.next() == Some('\'') {
        let (first, second) = (chars.next(), chars.next());
        if first == Some('\\') || second == Some('\'') {
            return Some(prefix + quoted(raw, b'\''));
        }
    }
    None
}

/// Length of a text in quotes, escapes heeded.
fn quoted(text: &str, mark: u8) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == mark => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `code` without the items that are marked as being for tests.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find("#[cfg(test)]") {
        let mut depth = 0;
        let mut end = out.len();
        for (at, c) in out[start + "#[cfg(test)]".len()..].char_indices() {
            match c {
                '{' | '[' | '(' => depth += 1,
                '}' | ']' | ')' => depth -= 1,
                _ => (),
            }
            if depth == 0 && matches!(c, ';' | '}') {
                end = start + "#[cfg(test)]".len() + at + 1;
                break;
            }
        }
        let blank: String = out[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        out.replace_range(start..end, &blank);
    }
    out
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(line, text)| {
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.filter(|word| is_word(word)).map(move |word| (line + 1, word))
    })
}

/// Words, `::`, and every other sign by itself, each with its line.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut tokens = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = match word {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                word => word,
            };
            tokens.push((line + 1, rest[..length].to_owned()));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        Source::new(PathBuf::new(), text).paths().into_iter().map(|(line, path)| format!("{line} {path}")).collect()
    }

    #[test]
    fn paths_are_followed_through_imports_groups_and_other_names() {
        let text =
            "use std::{fs, io::{self, Read}, process as p};\nfn f() { fs::read(a); p::Command::new(b); io::empty() }";
        let found = paths(text);
        for expected in [
            "1 std::fs",
            "1 std::io",
            "1 std::io::Read",
            "1 std::process",
            "2 std::fs::read",
            "2 std::process::Command::new",
            "2 std::io::empty",
        ] {
            assert!(found.iter().any(|path| path == expected), "{expected} is missing in {found:?}");
        }
    }

    #[test]
    fn two_types_of_one_name_are_told_apart_by_their_import() {
        assert!(
            paths("use tokio::time::Instant;\nlet a = Instant::now();").contains(&"2 tokio::time::Instant::now".into())
        );
        assert!(
            paths("use std::time::Instant;\nlet a = Instant::now();").contains(&"2 std::time::Instant::now".into())
        );
        assert!(paths("let a = std::time::SystemTime::now();").contains(&"1 std::time::SystemTime::now".into()));
    }

    #[test]
    fn comments_texts_and_tests_say_nothing() {
        let text = "// std::fs::read\n/* std::fs /* std::net */ std::fs */ let a = \"std::fs::read \\\" \";\nlet b = r#\"std::fs\" \"#;\nlet c = '\"'; let d: &'static str = x;\n#[cfg(test)]\nmod tests { use std::fs; fn f() { std::fs::read(1) } }\n#[cfg(test)]\nmod more;\nlet e = std::mem::take(x);";
        assert_eq!(paths(text), ["9 std::mem::take"]);
        assert!(Source::new(PathBuf::new(), text).modules().is_empty());
    }

    #[test]
    fn modules_in_files_are_found_and_inline_ones_are_read_in_place() {
        let source =
            Source::new(PathBuf::new(), "//! It is.\npub mod a;\nmod b { pub(crate) mod c; }\nmod d { fn f() {} }");
        assert_eq!(source.modules(), ["a", "c"]);
        assert!(source.has_header);
        assert!(!Source::new(PathBuf::new(), "use a::b;\n//! Too late.").has_header);
        assert!(Source::new(PathBuf::new(), "#![allow(x)]\n\n//! It is.").has_header);
    }
}
