//! What holds whatever the kernel does: a plain tree as the model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rustix::io::Errno;

use super::backend::{Backend, Op, Outcome};
use super::bed::{Bed, Manner};
use super::machine::{layers, path, run};
use super::model::{Model, keeps_plain};
use crate::merged::{Redirects, RenameMode};

fn plain_op() -> impl Strategy<Value = Op> {
    let modes =
        vec![RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
    prop_oneof![
        (path(), "[x-z]{0,3}").prop_map(|(p, t)| Op::Write(p, t)),
        path().prop_map(Op::Read),
        path().prop_map(|p| Op::Mkdir(p, 0o755)),
        path().prop_map(Op::Unlink),
        path().prop_map(Op::Rmdir),
        (path(), path(), prop::sample::select(modes)).prop_map(|(a, b, m)| Op::Rename(a, b, m)),
    ]
}

/// With redirects, the merged tree is a plain tree: nothing shows that there are layers.
#[test]
fn random_operations_as_in_a_plain_tree() {
    let manner = Manner { redirects: Redirects::Write, ..Manner::plain() };
    let strategy = (layers(), prop::collection::vec(plain_op(), 1..40));
    run("random_operations_as_in_a_plain_tree", &strategy, |(mut layers, ops)| {
        for layer in &mut layers {
            layer.retain(keeps_plain);
        }
        let bed = Bed::new(&layers, manner);
        let before = bed.lowers();
        let mut model = Model::of(&layers);
        let mut tree = bed.tree();
        for (index, op) in ops.iter().enumerate() {
            let expected: Outcome = model.act(op).map_err(Errno::raw_os_error);
            let got = tree.run(op);
            if got != expected {
                return Err(format!("{op:?}: {got:?}, not {expected:?}"));
            }
            if index % 7 == 6 {
                // What is remembered in memory and what is on disk are the same.
                drop(tree);
                tree = bed.tree();
            }
        }
        let mut found = BTreeMap::new();
        for entry in tree.walk("/").unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().to_str().unwrap().to_owned();
            let text = entry.metadata().is_file().then(|| tree.read(&path).unwrap());
            found.insert(path, text.map(|text| String::from_utf8(text).unwrap()));
        }
        if found != model.0 {
            return Err(format!("{found:?}, not {:?}", model.0));
        }
        (bed.lowers() == before).then_some(()).ok_or("a lower directory changed".to_owned())
    });
}
