//! What the documents promise of the code.

use std::collections::BTreeSet;
use std::fs;

use crate::{project, rust};

/// Modules that the map of the code does not name: a file as `dir.rs` or `sys/dir`, the file that
/// makes a folder a module as `sys/`.
fn unmapped(map: &str, modules: &[String]) -> Vec<String> {
    let is_path_char = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '/');
    let words: Vec<_> = map.split(|c| !is_path_char(c)).collect();
    let has =
        |name: &str| words.iter().any(|word| *word == name || word.ends_with(&format!("/{name}")));
    let named = |module: &String| {
        let path = module.trim_start_matches("src/");
        match path.rsplit_once('/') {
            Some((folder, "mod.rs" | "main.rs")) => has(&format!("{folder}/")) || has(path),
            Some((_, file)) => has(file) || has(path.trim_end_matches(".rs")),
            None => has(path),
        }
    };
    modules.iter().filter(|module| !named(module)).cloned().collect()
}

/// Paths in the map that no longer exist.
fn mapped_in_vain(map: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let is_path_char = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    map.split(|c| !is_path_char(c))
        .filter(|word| word.starts_with("src/") && word.ends_with(".rs"))
        .filter(|word| !exists(word))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_map_names_every_module_and_nothing_else() {
    let map = fs::read_to_string(project().join("ARCHITECTURE.md"))
        .unwrap_or_else(|error| panic!("ARCHITECTURE.md: {error}"));
    let modules: Vec<_> = rust()
        .into_iter()
        .map(|file| file.path)
        .filter(|path| path.starts_with("src/") && !path.ends_with("/tests.rs"))
        .filter(|path| !path.contains("/tests/"))
        .collect();
    assert_eq!(unmapped(&map, &modules), [""; 0], "not in ARCHITECTURE.md");
    assert_eq!(mapped_in_vain(&map, |path| project().join(path).exists()), [""; 0]);
}

/// What README.md tells a newcomer to type.
const README_COMMANDS: [&str; 2] = ["cargo run --example quickstart", "cargo test"];

fn missing_commands(readme: &str) -> Vec<&'static str> {
    let has = |command: &&str| readme.lines().any(|line| line.trim_start().starts_with(command));
    README_COMMANDS.into_iter().filter(|command| !has(command)).collect()
}

#[test]
fn the_readme_says_how_to_start() {
    let readme = fs::read_to_string(project().join("README.md"))
        .unwrap_or_else(|error| panic!("README.md: {error}"));
    assert_eq!(missing_commands(&readme), [""; 0]);
    assert!(project().join("examples/quickstart/main.rs").is_file());
}

/// The ids of edge cases that the names of tests begin with: of `fn e19_e20_links`, `E19` and `E20`.
fn tested_cases(source: &str) -> BTreeSet<String> {
    let names = source.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
    let id = |word: &&str| {
        let digits = word.strip_prefix('e').unwrap_or_default();
        digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    names.flat_map(|name| name.split('_').take_while(id)).map(str::to_uppercase).collect()
}

/// The ids in the first column of the table.
fn listed_cases(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| E")?.split_once(" |"));
    rows.map(|(id, _)| format!("E{id}")).collect()
}

#[test]
fn each_edge_case_has_a_test_and_each_test_a_row() {
    let page = fs::read_to_string(project().join("docs/edge-cases.md"))
        .unwrap_or_else(|error| panic!("docs/edge-cases.md: {error}"));
    let tested: BTreeSet<String> = rust()
        .iter()
        .flat_map(|file| tested_cases(&file.text))
        .filter(|id| id.as_str() < "E80")
        .collect();
    assert_eq!(listed_cases(&page), tested, "in docs/edge-cases.md (left), in tests (right)");
}

#[test]
fn the_rules_about_documents_catch_what_they_should() {
    let modules = ["src/sys/mod.rs", "src/sys/dir.rs", "src/error.rs"].map(str::to_owned);
    let map = "```\nerror.rs   errors\nsys/       the kernel: sys/dir\n```";
    assert_eq!(unmapped(map, &modules), [""; 0]);
    assert_eq!(unmapped("error.rs, sys/", &modules), ["src/sys/dir.rs"]);
    assert_eq!(unmapped("error.rs and dir.rs", &modules), ["src/sys/mod.rs"]);
    assert_eq!(
        mapped_in_vain("see `src/gone.rs`, `src/here.rs`.", |p| p == "src/here.rs"),
        ["src/gone.rs"]
    );
    let ids = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<BTreeSet<_>>();
    let tests = "    fn e19_e20_links() {\n    fn e123_no() {\nfn even() {\n// fn e01_said";
    assert_eq!(tested_cases(tests), ids(&["E19", "E20"]));
    assert_eq!(listed_cases("| id | right |\n| E19 | a | b |\n| E20 | c |"), ids(&["E19", "E20"]));
    assert_eq!(missing_commands("```\ncargo test\n```"), ["cargo run --example quickstart"]);
}
