use super::super::lookup::Redirects;
use super::super::lookup::tests::layer;
use super::super::xattr_name::mark;
use super::*;
use crate::namespace::Namespace;
use crate::sys::xattr::{self, Target};

/// A trace as a line: for each layer `INDEX`, `+` where it has the path, `*` where it supplies what
/// shows, and what it hides how and where.
fn line(stack: &Stack, path: &str) -> String {
    let trace = trace(stack, &LayerPath::parse(path.as_bytes()).unwrap()).unwrap();
    let step = |step: &Step| {
        let mut text = step.layer.to_string();
        text.push_str(if step.own.is_some() { "+" } else { "" });
        text.push_str(if trace.shown.contains(&step.layer) { "*" } else { "" });
        if let Some(Hides { layers, how, at }) = &step.hides {
            text.push_str(&format!("{how:?}{layers:?}{at}"));
        }
        text
    };
    trace.steps.iter().map(step).collect::<Vec<_>>().join(" ")
}

fn stack(layers: &[&[&str]]) -> (tempfile::TempDir, Stack) {
    let scratch = tempfile::tempdir().unwrap();
    let numbered = layers.iter().enumerate();
    let dirs = numbered.map(|(at, lines)| layer(scratch.path(), &at.to_string(), lines)).collect();
    (scratch, Stack::new(dirs, Namespace::User, Redirects::Follow))
}

#[track_caller]
fn check(layers: &[&[&str]], cases: &[(&str, &str)]) {
    let (_scratch, stack) = stack(layers);
    for (path, expected) in cases {
        assert_eq!(line(&stack, path), *expected, "{path} in {layers:?}");
    }
}

#[test]
fn a_file_is_supplied_by_the_topmost_layer_that_has_it() {
    check(
        &[&["g"], &["f"], &["f", "h"], &["f"]],
        &[
            ("f", "1+*Replaced[2]/f 2+Replaced[3]/f 3+"),
            ("g", "0+*"),
            ("h", "2+*"),
            ("none", ""),
            ("none/deeper", ""),
            ("f/deeper", ""),
        ],
    );
}

#[test]
fn a_directory_is_supplied_by_every_layer_that_has_it() {
    check(
        &[&["d/", "d/a"], &["e"], &["d/", "d/b"]],
        &[("d", "0+* 2+*"), ("d/a", "0+*"), ("d/b", "2+*"), ("", "0+* 1+* 2+*")],
    );
}

#[test]
fn a_whiteout_says_where_it_stands() {
    check(
        &[&["d/", "d/f=w"], &["e=w"], &["d/", "d/f", "e/", "e/f"], &["e/", "e/f"]],
        &[
            ("d/f", "0Whiteout[2]/d/f 2+"),
            ("e/f", "1Whiteout[2]/e 2+Replaced[3]/e/f 3+"),
            ("e", "1Whiteout[2, 3]/e 2+ 3+"),
            ("d", "0+* 2+*"),
        ],
    );
    // What hides nothing says nothing.
    check(&[&["f=w"], &["g"]], &[("f", "")]);
}

#[test]
fn an_opaque_directory_hides_those_below_it() {
    check(
        &[&["d/", "d/!", "d/new"], &["d/", "d/old"], &["d/", "d/old"]],
        &[
            ("d", "0+*Opaque[1, 2]/d 1+ 2+"),
            ("d/old", "0Opaque[1]/d 1+Replaced[2]/d/old 2+"),
            ("d/new", "0+*"),
        ],
    );
}

#[test]
fn a_file_and_a_directory_replace_each_other() {
    check(
        &[&["x"], &["x/", "x/f"], &["x"]],
        &[("x", "0+*Replaced[1]/x 1+Replaced[2]/x 2+"), ("x/f", "0Replaced[1]/x 1+")],
    );
}

#[test]
fn a_renamed_directory_goes_on_under_its_old_name() {
    let (_scratch, stack) = stack(&[&["new/", "old=w"], &["old/", "old/f"], &["new/", "new/g"]]);
    let top = stack.clone_layers().unwrap().remove(0);
    let moved = top.child(b"new").unwrap();
    let name = Namespace::User.name(mark::REDIRECT);
    xattr::set(Target::open(&moved), &name, b"old").unwrap();
    assert_eq!(line(&stack, "new"), "0+*Redirect[2]/new 1* 2+");
    assert_eq!(line(&stack, "new/f"), "1*");
    assert_eq!(line(&stack, "new/g"), "0Redirect[2]/new 2+");
    assert_eq!(line(&stack, "old/f"), "0Whiteout[1]/old 1+");
}

#[test]
fn a_file_without_data_is_supplied_by_two_layers() {
    let (_scratch, stack) = stack(&[&["f"], &["f"], &["f"]]);
    let top = stack.clone_layers().unwrap().remove(0);
    let name = Namespace::User.name(mark::METACOPY);
    xattr::set(Target::Name(&top, b"f"), &name, b"").unwrap();
    assert_eq!(line(&stack, "f"), "0+* 1+*Replaced[2]/f 2+");
}

#[test]
fn a_whiteout_may_be_an_attribute() {
    let (_scratch, stack) = stack(&[&["f"], &["f"]]);
    let top = stack.clone_layers().unwrap().remove(0);
    let name = Namespace::User.name(mark::WHITEOUT);
    xattr::set(Target::Name(&top, b"f"), &name, b"y").unwrap();
    assert_eq!(line(&stack, "f"), "0Whiteout[1]/f 1+");
}
