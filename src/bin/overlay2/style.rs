//! What a terminal is shown and a pipe is not: colours, ages, what fits in a line.

use std::io::IsTerminal;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::builder::styling::{AnsiColor, Style};

/// What stands out: the header of a table.
pub(crate) const HEADER: Style = Style::new().bold();
/// What is bad, or goes.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// What is new, or helps.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// What is otherwise than it was.
pub(crate) const CHANGED: Style = AnsiColor::Yellow.on_default();
/// How wide a command is shown on a terminal.
const COMMAND: usize = 45;

/// Whether colours are wanted there: on a terminal that has them, unless `NO_COLOR` is set.
pub(crate) fn colours(stream: &impl IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    stream.is_terminal() && !dumb && !set("NO_COLOR")
}

/// Text in a style, where that is wanted.
pub(crate) fn paint(text: &str, style: Style, wanted: bool) -> String {
    if wanted { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

/// When something was made: on a terminal how long ago, as Docker tells it; else to the second.
pub(crate) fn time(rfc3339: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let then = seconds(rfc3339).and_then(|then| u64::try_from(then).ok());
    match then.and_then(|then| now.checked_sub(then)) {
        Some(age) if std::io::stdout().is_terminal() => ago(age),
        _ => whole_seconds(rfc3339),
    }
}

/// Text with IDs in it: on a terminal, where 64 digits fill the line, the first twelve of each, and `end`
/// behind them.
pub(crate) fn ids(text: &str, end: &str) -> String {
    if std::io::stdout().is_terminal() { shorten(text, end) } else { text.to_owned() }
}

fn shorten(text: &str, end: &str) -> String {
    let (mut short, mut rest) = (String::with_capacity(text.len()), text);
    let is_digit = |letter: char| letter.is_ascii_hexdigit();
    while let Some(at) = rest.find(is_digit) {
        let (before, from) = rest.split_at(at);
        let (digits, after) = from.split_at(from.find(|c| !is_digit(c)).unwrap_or(from.len()));
        short.push_str(before);
        match digits.get(..12) {
            Some(first) if digits.len() == 64 => short.extend([first, end]),
            _ => short.push_str(digits),
        }
        rest = after;
    }
    short + rest
}

/// A command in one line; on a terminal no longer than a table bears.
pub(crate) fn command(text: &str) -> String {
    let line = one_line(text);
    if !std::io::stdout().is_terminal() || line.chars().count() <= COMMAND {
        return line;
    }
    line.chars().take(COMMAND - 1).chain(['…']).collect()
}

/// A command without the line ends that it has.
pub(crate) fn one_line(command: &str) -> String {
    let text = command.split_whitespace().collect::<Vec<_>>().join(" ");
    crate::output::visible(text.as_bytes())
}

fn whole_seconds(rfc3339: &str) -> String {
    match rfc3339.split_once('.') {
        Some((seconds, rest)) => {
            let zone = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
            format!("{seconds}{zone}")
        }
        None => rfc3339.to_owned(),
    }
}

fn ago(seconds: u64) -> String {
    const UNITS: [(u64, &str); 6] = [
        (365 * 86_400, "year"),
        (30 * 86_400, "month"),
        (7 * 86_400, "week"),
        (86_400, "day"),
        (3600, "hour"),
        (60, "minute"),
    ];
    // Two of a unit before it is used: "36 hours" tells more than "1 day".
    let unit = UNITS.into_iter().find(|(length, _)| seconds >= 2 * length);
    let (length, name) = unit.unwrap_or((1, "second"));
    let count = seconds / length;
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {name}{plural} ago")
}

/// Seconds since 1970 of a time in RFC 3339, as configs of images hold it.
fn seconds(rfc3339: &str) -> Option<i64> {
    let number = |from: usize, to: usize| rfc3339.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // Days since 1970 of a date, the year beginning in March: leap days are last then.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 719_469;
    let zone = rfc3339.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone {
        "Z" | "z" => 0,
        zone => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let hours = zone.get(1..3)?.parse::<i64>().ok()?;
            sign * (hours * 60 + zone.get(4..6)?.parse::<i64>().ok()?) * 60
        }
    };
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2026-11-27T08:27:21.795176773Z", Some(1_795_768_041)),
            ("2026-11-27T10:27:21+02:00", Some(1_795_768_041)),
            ("1969-12-31T23:59:59Z", Some(-1)),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        assert_eq!(whole_seconds("2026-11-27T08:27:21.79Z"), "2026-11-27T08:27:21Z");
        assert_eq!(whole_seconds("2026-11-27T08:27:21+02:00"), "2026-11-27T08:27:21+02:00");
    }

    #[test]
    fn ids_are_shortened_and_nothing_else() {
        let id = "0123456789abcdef".repeat(4);
        let path = format!("/data/beef/{id}/merged");
        assert_eq!(shorten(&path, "…"), "/data/beef/0123456789ab…/merged");
        assert_eq!(shorten(&format!("chain-{id}"), ""), "chain-0123456789ab");
        assert_eq!(shorten("app:1 é", "…"), "app:1 é");
    }

    #[test]
    fn ages_are_those_of_docker() {
        for (age, text) in [
            (0, "0 seconds ago"),
            (1, "1 second ago"),
            (119, "119 seconds ago"),
            (120, "2 minutes ago"),
            (3 * 3600, "3 hours ago"),
            (40 * 86_400, "5 weeks ago"),
            (800 * 86_400, "2 years ago"),
        ] {
            assert_eq!(ago(age), text);
        }
    }
}
