//! Whatever the changesets, a stack shows what applying them in order gives.

use proptest::prelude::*;
use proptest::test_runner::Config;

use super::{Built, Model, compare};
use crate::error::ErrorKind;

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|names| names.join("/"))
}

/// One word of a changeset, in a name space so small that they collide.
fn word() -> impl Strategy<Value = String> {
    let targets = vec!["a", "b", "c", "a/b", "/b/c", "../a", "b/../c", "/a", "c/c"];
    prop_oneof![
        2 => (path(), prop::sample::select(vec!["0700:1:2", "0755:0:9.5", "1777:2:0"]))
            .prop_map(|(path, rest)| format!("d:{path}:{rest}")),
        3 => (path(), "[xy]").prop_map(|(path, content)| format!("f:{path}:{content}")),
        3 => (path(), prop::sample::select(targets))
            .prop_map(|(path, target)| format!("l:{path}:{target}")),
        1 => (path(), path()).prop_map(|(path, target)| format!("h:{path}:{target}")),
        3 => (path(), prop::sample::select(vec!["a", "b", "c"]))
            .prop_map(|(path, name)| format!("f:{path}/.wh.{name}:")),
        1 => prop::sample::select(vec!["a", "b", "c"]).prop_map(|name| format!("f:.wh.{name}:")),
        1 => path().prop_map(|path| format!("f:{path}/.wh..wh..opq:")),
    ]
}

fn check(layers: &[Vec<String>]) -> Result<(), TestCaseError> {
    let (mut built, mut model) = (Built::new(), Model::new());
    for changeset in layers {
        let changeset: Vec<&str> = changeset.iter().map(String::as_str).collect();
        let mut next = model.clone();
        // What has no one meaning, or none at all, is left out of the stack.
        if next.apply_if_unordered(&changeset).is_err() {
            continue;
        }
        if let Err(error) = built.push(&changeset) {
            // A mark beneath a file, or beneath a symlink that leads nowhere, may be refused though
            // it says nothing.
            let has_marks = changeset.iter().any(|word| word.contains("/.wh."));
            let refused = has_marks && error.kind() == ErrorKind::InvalidData;
            prop_assert!(refused, "{changeset:?}: {error}");
            continue;
        }
        model = next;
        compare("layers", &built, &model);
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 100, failure_persistence: None, ..Config::default() })]

    #[test]
    fn e19_any_stack_shows_what_applying_in_order_gives(
        layers in prop::collection::vec(prop::collection::vec(word(), 1..6), 2..4),
    ) {
        check(&layers)?;
    }
}
