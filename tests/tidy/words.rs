//! Words that do not belong where they stand.

use crate::{Source, catches, code_lines, hold, rust, tracked};

/// Lines of the product that hold one of the words.
fn words(file: &Source, forbidden: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in file.product_lines() {
        for word in forbidden.iter().filter(|word| line.contains(**word)) {
            found.push(format!("{}:{number}: {word}", file.path));
        }
    }
    found
}

fn unsafe_outside_sys(file: &Source) -> Vec<String> {
    let is_keyword = |line: &str| {
        line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe")
    };
    if file.path.starts_with("src/sys/") || file.path.starts_with("tests/tidy/") {
        return Vec::new();
    }
    code_lines(&file.text)
        .filter(|(_, line)| is_keyword(line))
        .map(|(number, _)| format!("{}:{number}: unsafe", file.path))
        .collect()
}

fn unwrap_in_product(file: &Source) -> Vec<String> {
    words(file, &[".unwrap()"])
}

/// What is not finished, or switched off; spelled in pieces, since this file is looked at too.
fn unfinished(file: &Source) -> Vec<String> {
    let forbidden = [["to", "do!("], ["unimple", "mented!("], ["#[ign", "ore"], ["db", "g!("]]
        .map(|w| w.concat());
    let mut found = Vec::new();
    for (number, line) in code_lines(&file.text) {
        for word in forbidden.iter().filter(|word| line.contains(word.as_str())) {
            found.push(format!("{}:{number}: {word}", file.path));
        }
    }
    found
}

/// Paths that only one machine has.
fn machine_paths(file: &Source) -> Vec<String> {
    let homes = ["work", "root"].map(|name| format!("/{name}/"));
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for home in &homes {
            for (at, _) in line.match_indices(home.as_str()) {
                // Part of a longer path, such as a path inside a container or an address.
                let before = line[..at].chars().next_back();
                let absolute = !before.is_some_and(|c| {
                    c.is_alphanumeric() || matches!(c, '/' | '.' | '}' | '_' | '-')
                });
                // What the name is followed by: a folder's name, not a pattern or an end.
                let named = line[at + home.len()..].starts_with(|c: char| c.is_alphanumeric());
                if absolute && named {
                    found.push(format!("{}:{}: {home}", file.path, index + 1));
                }
            }
        }
    }
    found
}

#[test]
fn unsafe_stands_in_sys_alone() {
    hold(unsafe_outside_sys, &rust());
}

#[test]
fn the_product_does_not_unwrap() {
    hold(unwrap_in_product, &rust());
}

#[test]
fn nothing_is_unfinished_or_switched_off() {
    hold(unfinished, &rust());
}

#[test]
fn nothing_names_one_machine() {
    hold(machine_paths, &tracked());
}

#[test]
fn the_rules_about_words_catch_what_they_should() {
    let block = "fn f() { unsafe { g() } }";
    catches(unsafe_outside_sys, "src/store/gc.rs", block, "#![deny(unsafe_code)] // unsafe");
    assert_eq!(unsafe_outside_sys(&Source::new("src/sys/mount.rs", block)), [""; 0]);

    let unwrap = "let x = y.unwrap();";
    let in_tests = format!("#[cfg(test)]\nmod tests {{\n    {unwrap}\n}}\n");
    catches(unwrap_in_product, "src/inode.rs", unwrap, &in_tests);
    catches(unwrap_in_product, "src/bin/overlay2/main.rs", unwrap, "// y.unwrap()");
    assert_eq!(unwrap_in_product(&Source::new("src/format/tests.rs", unwrap)), [""; 0]);
    // An item for tests in the middle of a file does not excuse what follows.
    let item = format!("#[cfg(test)]\nuse x;\n{unwrap}\n");
    assert!(!unwrap_in_product(&Source::new("src/inode.rs", &item)).is_empty());

    for word in [["to", "do!()"], ["unimple", "mented!()"], ["#[ign", "ore]"], ["db", "g!(x)"]] {
        catches(unfinished, "tests/seed.rs", &word.concat(), "let finished = true;");
    }
    for home in ["work", "root"] {
        let bad = format!("cd \"/{home}/somebody\"");
        catches(machine_paths, "README.md", &bad, &format!("ls $m/{home}/x, rootfs/{home}/x"));
    }
}
