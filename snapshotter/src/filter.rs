//! Filters of lists, in the syntax of containerd's `filters` package.
//!
//! ```text
//! filter   = selector ( "," selector )*                     all of them; an empty one: everything
//! selector = field [ ( "==" | "!=" | "~=" ) value ]         without a value: it is there
//! field    = part ( "." part )*                             a part: letters, digits, `_`, or quoted
//! value    = quoted | what goes on to a comma or a space
//! ```
//!
//! Quotes are `"`; around a pattern, `/` and `|` too.

use std::fmt;
use std::str::FromStr;

use overlay2::snapshot::{Snapshot, SnapshotKind};

/// What a snapshot has to be.
#[derive(Clone, Debug)]
pub struct Filter(Vec<Selector>);

#[derive(Clone, Debug)]
struct Selector {
    field: Vec<String>,
    wanted: Wanted,
}

#[derive(Clone, Debug)]
enum Wanted {
    Present,
    Equal(String),
    NotEqual(String),
    Matching(regex_lite::Regex),
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFilter {
    text: String,
    at: usize,
    what: &'static str,
}

impl fmt::Display for BadFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} at byte {}", self.text, self.what, self.at)
    }
}

impl std::error::Error for BadFilter {}

impl Filter {
    /// Whether a snapshot is all that.
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        self.0.iter().all(|selector| {
            let value = value_of(snapshot, &selector.field);
            match &selector.wanted {
                Wanted::Present => value.is_some(),
                Wanted::Equal(wanted) => value == Some(wanted),
                // What is not there counts as empty.
                Wanted::NotEqual(wanted) => value.unwrap_or_default() != wanted,
                Wanted::Matching(pattern) => pattern.is_match(value.unwrap_or_default()),
            }
        })
    }
}

/// The value of a field, where the snapshot has it.
fn value_of<'a>(snapshot: &'a Snapshot, field: &[String]) -> Option<&'a str> {
    let (first, rest) = field.split_first()?;
    match first.as_str() {
        "name" => Some(&snapshot.name),
        "parent" => Some(snapshot.parent.as_deref().unwrap_or_default()),
        "kind" => Some(match snapshot.kind {
            SnapshotKind::Active => "active",
            SnapshotKind::View => "view",
            SnapshotKind::Committed => "committed",
        }),
        "labels" => snapshot.labels.get(&rest.join(".")).map(String::as_str),
        _ => None,
    }
}

impl FromStr for Filter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        let mut scanner = Scanner { text, at: 0 };
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let mut selectors = vec![scanner.selector()?];
        while !scanner.rest().is_empty() {
            if !scanner.take(",") {
                return Err(scanner.bad("a comma was expected"));
            }
            selectors.push(scanner.selector()?);
        }
        Ok(Self(selectors))
    }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// What is left, from the next character that is no space.
    fn rest(&mut self) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        trimmed
    }

    fn bad(&self, what: &'static str) -> BadFilter {
        BadFilter { text: self.text.to_owned(), at: self.at, what }
    }

    fn take(&mut self, word: &str) -> bool {
        let is_there = self.rest().starts_with(word);
        self.at += if is_there { word.len() } else { 0 };
        is_there
    }

    /// What goes on as long as its characters are of this kind.
    fn run(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn selector(&mut self) -> Result<Selector, BadFilter> {
        let mut field = vec![self.part()?];
        while self.take(".") {
            field.push(self.part()?);
        }
        let wanted = match self.run(|letter| "=!~".contains(letter)) {
            "" => Wanted::Present,
            "==" => Wanted::Equal(self.value(&['"'])?),
            "!=" => Wanted::NotEqual(self.value(&['"'])?),
            "~=" => {
                let pattern = regex_lite::Regex::new(&self.value(&['"', '/', '|'])?);
                Wanted::Matching(pattern.map_err(|_| self.bad("a pattern that is none ends"))?)
            }
            _ => return Err(self.bad("one of ==, != and ~= was expected")),
        };
        Ok(Selector { field, wanted })
    }

    /// One part of a field.
    fn part(&mut self) -> Result<String, BadFilter> {
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        match self.run(|letter| letter == '_' || letter.is_ascii_alphanumeric()) {
            "" => Err(self.bad("the name of a field was expected")),
            part => Ok(part.to_owned()),
        }
    }

    fn value(&mut self, quotes: &[char]) -> Result<String, BadFilter> {
        if self.rest().starts_with(quotes) {
            return self.quoted();
        }
        if self.rest().starts_with(['"', '/', '|']) {
            return Err(self.bad("a quote that stands only around patterns"));
        }
        match self.run(|letter| letter != ',' && !letter.is_whitespace()) {
            "" => Err(self.bad("a value was expected")),
            value => Ok(value.to_owned()),
        }
    }

    /// A text between two of the character that stands here, with escapes as Go has them.
    fn quoted(&mut self) -> Result<String, BadFilter> {
        let mut letters = self.rest().char_indices();
        let Some((_, quote)) = letters.next() else { return Err(self.bad("a value is missing")) };
        let mut value = String::new();
        while let Some((at, letter)) = letters.next() {
            if letter == quote {
                self.at += at + quote.len_utf8();
                return Ok(value);
            }
            if letter != '\\' {
                value.push(letter);
                continue;
            }
            let Some((_, escape)) = letters.next() else { break };
            match escape {
                'a' => value.push('\x07'),
                'b' => value.push('\x08'),
                'f' => value.push('\x0c'),
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                'v' => value.push('\x0b'),
                'x' | 'u' | 'U' => {
                    let digits = if escape == 'x' {
                        2
                    } else if escape == 'u' {
                        4
                    } else {
                        8
                    };
                    let text: String = letters.by_ref().take(digits).map(|(_, c)| c).collect();
                    let number = u32::from_str_radix(&text, 16).ok().and_then(char::from_u32);
                    value.push(number.ok_or_else(|| self.bad("a quote with a bad escape begins"))?);
                }
                _ if escape == quote || escape == '\\' => value.push(escape),
                // A pattern's own.
                _ if quote != '"' => value.extend(['\\', escape]),
                _ => return Err(self.bad("a quote with a bad escape begins")),
            }
        }
        Err(self.bad("a quote that does not end begins"))
    }
}

#[cfg(test)]
mod tests;
