//! Which module uses which.

use std::collections::BTreeMap;

use crate::{Source, catches, code_lines, hold, rust, test_module_start};

/// The floor of each module at the crate's root. A module uses lower floors only, and itself.
const FLOORS: [(&str, u8); 27] = [
    ("error", 0),
    ("percent", 0),
    ("finding", 0),
    ("digest", 1),
    ("layer_path", 1),
    ("namespace", 1),
    ("inode", 1),
    ("id_map", 1),
    ("watch", 1),
    ("compression", 1),
    ("pipe", 1),
    ("image_config", 1),
    ("quota", 1),
    ("file_name", 2),
    ("sys", 2),
    ("format", 3),
    ("fuzz_bed", 3),
    ("changeset", 4),
    ("snapshot", 4),
    ("store", 4),
    ("mount", 4),
    ("merged", 4),
    ("image", 4),
    ("bundle", 4),
    ("driver", 5),
    ("fuzzing", 6),
    ("guide", 6),
];

/// The paths that begin with `crate::` or `super::`, groups spelled out, with their lines.
fn paths_used(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let code: Vec<_> = code_lines(text).collect();
    for (index, (number, line)) in code.iter().enumerate() {
        for start in ["crate::", "super::"] {
            for (at, _) in line.match_indices(start) {
                let before = line[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
                    continue;
                }
                // A group may go on for some lines.
                let mut rest = line[at..].to_owned();
                for (_, more) in &code[index + 1..] {
                    if rest.contains(';') {
                        break;
                    }
                    rest.push_str(more);
                }
                found.extend(spell_out(&rest).into_iter().map(|path| (*number, path)));
            }
        }
    }
    found
}

/// `crate::{a::{b, c}, d}` as `crate::a`, `crate::d`: the members of the group that stands directly
/// behind `crate` and `super`; a path without such a group as it is.
fn spell_out(text: &str) -> Vec<String> {
    let ends = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':'));
    let head_end = text.find(ends).unwrap_or(text.len());
    let (head, rest) = text.split_at(head_end);
    let is_group =
        rest.starts_with('{') && head.split("::").all(|p| ["crate", "super", ""].contains(&p));
    if !is_group {
        return vec![head.to_owned()];
    }
    let (mut depth, mut members) = (0, vec![String::new()]);
    for c in rest.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => members.push(String::new()),
            _ if depth == 1 && !c.is_whitespace() => members.last_mut().unwrap().push(c),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    members.iter().filter(|name| !name.is_empty()).map(|name| format!("{head}{name}")).collect()
}

/// What lib.rs makes public, and from which module.
fn public_names(lib: &str) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let code: String = code_lines(lib).map(|(_, line)| line).collect();
    for statement in code.split("pub use ").skip(1) {
        let statement = statement.split(';').next().unwrap();
        let Some((room, _)) = statement.split_once("::") else { continue };
        for name in statement.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
            names.insert(name.to_owned(), room.to_owned());
        }
    }
    names
}

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// How many modules deep a file's own items stand below the crate's root.
fn depth(path: &str) -> usize {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    inside.split('/').count()
}

fn floors(file: &Source, public: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut report =
        |line: usize, what: String| found.push(format!("{}:{line}: {what}", file.path));
    if file.is_binary() {
        // A binary is a crate of its own; `crate` there is the binary.
        for (number, line) in code_lines(&file.text) {
            if line.contains("#[path") || line.contains("include!") {
                report(number, "a binary uses the public crate alone".to_owned());
            }
        }
        return found;
    }
    let Some(room) = file.room() else { return found };
    let Some(own) = floor(room) else {
        report(1, format!("the module {room} stands on no floor: see FLOORS"));
        return found;
    };
    for (line, path) in paths_used(&file.text) {
        let parts: Vec<_> = path.split("::").collect();
        let supers = parts.iter().take_while(|part| **part == "super").count();
        let unit_test = line > test_module_start(&file.text);
        let name = match parts.first() {
            Some(&"crate") => parts.get(1),
            _ if supers < depth(&file.path) + usize::from(unit_test) => continue,
            _ => parts.get(supers),
        };
        let name = name.copied().unwrap_or("");
        let used = if floor(name).is_some() { name } else { public.get(name).map_or("", |n| n) };
        match floor(used) {
            _ if used == room => {}
            None => report(line, format!("{path}: name it by its module")),
            Some(other) if other > own => {
                report(line, format!("{room}, on floor {own}, uses {used} on floor {other}"));
            }
            Some(other) if other == own => report(line, format!("{room} knows its sibling {used}")),
            Some(_) => {}
        }
    }
    found
}

#[test]
fn modules_use_lower_floors_only() {
    let files = rust();
    let lib = files.iter().find(|file| file.path == "src/lib.rs").unwrap();
    let public = public_names(&lib.text);
    let src: Vec<_> = files.iter().filter(|file| file.path.starts_with("src/")).cloned().collect();
    hold(|file| floors(file, &public), &src);
}

#[test]
fn the_rule_of_floors_catches_what_it_should() {
    let public = public_names("pub use store::{Store, layout::Name};\npub use error::Error;");
    let rule = |file: &Source| floors(file, &public);
    let good = "use crate::error::Error;\nuse super::dir;\n// crate::driver::Driver\n";
    let sys = "src/sys/xattr.rs";
    catches(rule, sys, "use crate::store::Store;", good);
    catches(rule, sys, "use crate::{error::Error, store::{self, Store}};", good);
    catches(rule, sys, "use crate::{\n    error::{Error, Result},\n    format::mark,\n};", good);
    catches(rule, sys, "fn f() -> crate::driver::Driver { g() }", good);
    catches(rule, sys, "use crate::Store;", "use crate::Error;");
    catches(rule, sys, "use super::super::store::Store;", "mod tests {}\nuse super::*;");
    catches(rule, "src/store/mod.rs", "use super::mount::Plan;", "use crate::sys::Dir;");
    catches(rule, "src/store/gc.rs", "use crate::image::Manifest;", "use crate::store::Layer;");
    catches(rule, "src/digest.rs", "use crate::inode::Inode;", "use crate::error::Error;");
    assert!(!rule(&Source::new("src/new.rs", "")).is_empty(), "a module without a floor");
}
