//! What is printed: tables and lines for people, JSON for programs.

use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

use comfy_table::{Table, presets};
use overlay2::{Durability, NewFile, escape_bytes};
use serde::Serialize;
use serde_json::Value;

use crate::args::Format;
use crate::style::{self, paint};

/// Where results go.
pub(crate) struct Output {
    format: Format,
}

/// What the command line said, for those who complain.
static FORMAT: OnceLock<Format> = OnceLock::new();

/// Whether errors are for a program.
pub(crate) fn is_json() -> bool {
    FORMAT.get() == Some(&Format::Json)
}

/// Prints what went wrong, as one line of JSON on standard error.
pub(crate) fn failure(message: &str, kind: Option<&str>, hint: Option<&str>) -> ExitCode {
    let line = serde_json::json!({"error": message, "kind": kind, "hint": hint});
    // Where even this cannot be written there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
    ExitCode::FAILURE
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        FORMAT.get_or_init(|| format);
        Self { format }
    }

    /// Whether results are for a program.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints lines, or the value as JSON.
    pub(crate) fn lines(&self, value: &impl Serialize, lines: &[String]) -> io::Result<()> {
        if self.is_json() {
            return self.json(value);
        }
        print(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))
    }

    /// Prints lines whose bytes need not be UTF-8, or the value as JSON.
    pub(crate) fn raw_lines(&self, value: &impl Serialize, lines: &[Vec<u8>]) -> io::Result<()> {
        if self.is_json() {
            return self.json(value);
        }
        print(|out| {
            lines.iter().try_for_each(|line| {
                out.write_all(line)?;
                out.write_all(b"\n")
            })
        })
    }

    /// Prints a path, whose bytes need not be UTF-8, or as JSON what `value` makes of it as text.
    pub(crate) fn path(&self, path: &Path, value: impl Fn(String) -> Value) -> io::Result<()> {
        self.raw_lines(&value(text_of(path)), &[path.as_os_str().as_bytes().to_vec()])
    }

    /// Prints a table, or the value as JSON.
    pub(crate) fn table(
        &self,
        value: &impl Serialize,
        header: &[&str],
        rows: Vec<Vec<String>>,
    ) -> io::Result<()> {
        if self.is_json() {
            return self.json(value);
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(header.iter().copied());
        // Commands and comments come out of images, and may hold anything.
        let cell = |cell: String| -> String {
            cell.split('\n').map(|line| visible(line.as_bytes())).collect::<Vec<_>>().join("\n")
        };
        table.add_rows(rows.into_iter().map(|row| row.into_iter().map(cell).collect::<Vec<_>>()));
        for column in table.column_iter_mut() {
            column.set_padding((0, 3));
        }
        print(|out| {
            let mut lines = table.lines();
            if let Some(header) = lines.next() {
                let wanted = style::colours(&io::stdout());
                writeln!(out, "{}", paint(header.trim_end(), style::HEADER, wanted))?;
            }
            lines.try_for_each(|line| writeln!(out, "{}", line.trim_end()))
        })
    }

    /// Prints a value as JSON, indented.
    pub(crate) fn json(&self, value: &impl Serialize) -> io::Result<()> {
        print(|out| {
            serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
            writeln!(out)
        })
    }
}

/// Writes to standard output, and says so where that fails; the kind of the error stays.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = write(&mut out).and_then(|()| out.flush());
    written
        .map_err(|error| io::Error::new(error.kind(), format!("write to standard output: {error}")))
}

/// Lines that are printed one by one; headings among them once a line follows.
pub(crate) struct Lines {
    out: io::BufWriter<io::StdoutLock<'static>>,
    /// Those after which no line came yet.
    headings: Vec<u8>,
    has_heading: bool,
    has_line: bool,
}

impl Lines {
    pub(crate) fn new() -> Self {
        let out = io::BufWriter::with_capacity(64 << 10, io::stdout().lock());
        Self { out, headings: Vec::new(), has_heading: false, has_line: false }
    }

    /// `TEXT:`, an empty line before it where it is not the first.
    pub(crate) fn heading(&mut self, text: &[u8]) {
        if std::mem::replace(&mut self.has_heading, true) {
            self.headings.push(b'\n');
        }
        self.headings.extend_from_slice(text);
        self.headings.extend_from_slice(b":\n");
    }

    /// Prints a line, whose bytes need not be UTF-8.
    pub(crate) fn put(&mut self, line: &[u8]) -> io::Result<()> {
        self.out.write_all(&std::mem::take(&mut self.headings))?;
        self.has_line = true;
        self.out.write_all(line)?;
        self.out.write_all(b"\n")
    }

    /// Prints what is left. Where something failed and there was no line, the headings are not.
    pub(crate) fn end(mut self, succeeded: bool) -> io::Result<()> {
        if succeeded || self.has_line {
            self.out.write_all(&self.headings)?;
        }
        self.out.flush()
    }
}

/// A file that results go to, or standard output for `-`; it is begun when there is something to
/// write, and has its name once all is written, so that what fails changes nothing.
pub(crate) struct Target<'a> {
    path: &'a Path,
    opened: Option<Opened>,
}

enum Opened {
    Stdout(io::BufWriter<io::StdoutLock<'static>>),
    File(NewFile),
}

impl<'a> Target<'a> {
    pub(crate) fn new(path: &'a Path) -> Self {
        Self { path, opened: None }
    }

    /// Does something with a buffered writer, and makes what it wrote that of the file.
    pub(crate) fn fill<T>(
        mut self,
        durability: Durability,
        write: impl FnOnce(&mut dyn Write) -> Result<T, crate::Failure>,
    ) -> Result<T, crate::Failure> {
        let done = write(&mut self)?;
        self.flush()?;
        if let Some(Opened::File(file)) = self.opened {
            file.commit(durability)?;
        }
        Ok(done)
    }

    fn open(&mut self) -> io::Result<&mut Opened> {
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None if self.path == Path::new("-") => {
                let stdout = io::stdout().lock();
                Opened::Stdout(io::BufWriter::with_capacity(256 << 10, stdout))
            }
            None => Opened::File(NewFile::create(self.path)?),
        };
        Ok(self.opened.insert(opened))
    }
}

impl Write for Target<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.open()? {
            Opened::Stdout(stdout) => stdout.write(bytes),
            Opened::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.open()? {
            Opened::Stdout(stdout) => stdout.flush(),
            Opened::File(file) => file.flush(),
        }
    }
}

/// A path as it stands in JSON.
pub(crate) fn text_of(path: &Path) -> String {
    escape_bytes(path.as_os_str().as_bytes())
}

/// A name as it is printed: as it is into a pipe, and with what would upset a terminal escaped on
/// one (`\xFF`).
pub(crate) fn name(bytes: &[u8]) -> Vec<u8> {
    static TERMINAL: OnceLock<bool> = OnceLock::new();
    // Asked once, for there may be many names.
    let terminal = *TERMINAL.get_or_init(|| io::stdout().is_terminal());
    if terminal { visible(bytes).into_bytes() } else { bytes.to_vec() }
}

/// Bytes as text: control characters, and bytes that are no UTF-8, as `\xNN`.
pub(crate) fn visible(bytes: &[u8]) -> String {
    let escaped =
        |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("\\x{byte:02X}")).collect() };
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter.is_control() {
                text.push_str(&escaped(letter.encode_utf8(&mut [0; 4]).as_bytes()));
            } else {
                text.push(letter);
            }
        }
        text.push_str(&escaped(chunk.invalid()));
    }
    text
}

/// A number of bytes as Docker prints it: three digits, decimal units.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = UNITS.iter();
    let mut name = unit.next().copied().unwrap_or_default();
    while value >= 1000.0 {
        let Some(next) = unit.next() else { break };
        value /= 1000.0;
        name = next;
    }
    let digits = match value {
        value if name == "B" || value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{name}")
}

/// The first twelve digits of a digest, as Docker shortens it.
pub(crate) fn short(digest: &impl ToString) -> String {
    let text = digest.to_string();
    let digits = text.strip_prefix("sha256:").unwrap_or(&text);
    digits.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_upset_no_terminal() {
        for (bytes, text) in [
            (&b"plain name"[..], "plain name"),
            ("naïve".as_bytes(), "naïve"),
            (b"\xff\x1b[2J\n", "\\xFF\\x1B[2J\\x0A"),
            ("\u{85}".as_bytes(), "\\xC2\\x85"),
        ] {
            assert_eq!(visible(bytes), text);
        }
    }

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (356, "356B"),
            (999, "999B"),
            (1000, "1kB"),
            (3_580_000, "3.58MB"),
            (7_360_000, "7.36MB"),
            (20_200_000, "20.2MB"),
            (123_456_789, "123MB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
