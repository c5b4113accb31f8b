//! How long a file and a function may be.

use crate::{Source, catches, hold, rust};

const MAX_FILE: usize = 500;
const MAX_FUNCTION: usize = 80;

fn file_size(file: &Source) -> Vec<String> {
    match file.text.lines().count() {
        lines if lines > MAX_FILE => vec![format!("{}: {lines} lines", file.path)],
        _ => Vec::new(),
    }
}

/// Functions by where their signature begins and the brace at the same indentation ends.
fn function_sizes(file: &Source) -> Vec<String> {
    let lines: Vec<_> = file.text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if !is_function(line) {
            continue;
        }
        let indentation = &line[..line.len() - line.trim_start().len()];
        let closes = |line: &&str| {
            let rest = line.strip_prefix(indentation).unwrap_or("");
            rest.starts_with('}')
                || rest.starts_with(");")
                || rest.starts_with(") -> ") && rest.ends_with(';')
        };
        // A declaration without a body, or a body on the line of the signature.
        if line.ends_with(';') || line.ends_with('}') {
            continue;
        }
        let length = lines[index + 1..].iter().position(closes).map_or(0, |end| end + 2);
        if length > MAX_FUNCTION {
            found.push(format!("{}:{}: a function of {length} lines", file.path, index + 1));
        }
    }
    found
}

fn is_function(line: &str) -> bool {
    let mut words = line.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let qualifier = ["pub", "const", "async", "unsafe", "extern", "\"C\"", "default"];
        if word == "fn" {
            return words.peek().is_some();
        } else if !qualifier.contains(&word) && !word.starts_with("pub(") && word != "super)" {
            return false;
        }
    }
    false
}

#[test]
fn no_file_and_no_function_is_long() {
    let files = rust();
    hold(file_size, &files);
    hold(function_sizes, &files);
}

#[test]
fn the_rules_of_size_catch_what_they_should() {
    let path = "src/sys/dir.rs";
    catches(file_size, path, &"\n".repeat(MAX_FILE + 1), &"\n".repeat(MAX_FILE));
    let function = |lines: usize, signature: &str| {
        format!("impl X {{\n    {signature} {{\n{}    }}\n}}\n", "        g();\n".repeat(lines))
    };
    let (long, short) = (MAX_FUNCTION - 1, MAX_FUNCTION - 2);
    for signature in ["fn f()", "pub(crate) async unsafe fn f<T>(&self) -> T", "pub const fn f()"] {
        catches(function_sizes, path, &function(long, signature), &function(short, signature));
    }
    let wrapped = "fn f(\n        a: u8,\n    ) -> Result<\n        T,\n    >";
    catches(function_sizes, path, &function(long - 3, wrapped), &function(3, wrapped));
    let declared = format!("trait T {{\n    fn f();\n{}}}\n", "    fn g();\n".repeat(200));
    assert_eq!(function_sizes(&Source::new(path, &declared)), [""; 0]);
}
