//! What fuzzing tries here: layers and operations chosen byte by byte.

use rustix::io::Errno;

use super::backend::{Backend, Op, Outcome};
use super::bed::{self, Bed, Manner};
use super::model::{Model, keeps_plain};
use crate::fuzz_bed::Input;
use crate::merged::{EntryKind, Redirects, RenameMode, XattrMode};

const NAMES: [&str; 3] = ["a", "b", "c"];

fn path(input: &mut Input<'_>) -> String {
    let byte = usize::from(input.byte());
    let names = [NAMES[byte % 3], NAMES[byte / 3 % 3], NAMES[byte / 9 % 3]];
    names[..1 + byte / 27 % 3].join("/")
}

fn odd_path(input: &mut Input<'_>) -> String {
    let path = path(input);
    let end = input.byte();
    path + match end {
        0..4 => "/",
        4..8 => "/.",
        8..12 => "/..",
        _ => "",
    }
}

fn text(input: &mut Input<'_>) -> String {
    match input.below(5) {
        0 => String::new(),
        1 => "long".repeat(3000),
        _ => "xyz".chars().cycle().skip(input.below(3)).take(1 + input.below(5)).collect(),
    }
}

fn xattr_name(input: &mut Input<'_>) -> String {
    let own = Manner::plain().namespace.prefix();
    let names = ["user.a", "user.b", &format!("{own}opaque"), &format!("{own}overlay.x")];
    input.pick(&names).to_owned()
}

fn rename_mode(input: &mut Input<'_>) -> RenameMode {
    input.pick(&[RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange])
}

/// What the model knows.
fn plain_op(input: &mut Input<'_>) -> Op {
    match input.below(7) {
        0 => Op::Write(path(input), text(input)),
        1 => Op::Read(path(input)),
        2 => Op::Mkdir(path(input), 0o755),
        3 => Op::Unlink(path(input)),
        4 => Op::Rmdir(path(input)),
        _ => Op::Rename(path(input), path(input), rename_mode(input)),
    }
}

fn op(input: &mut Input<'_>) -> Op {
    let kinds = [EntryKind::Fifo, EntryKind::CharDevice, EntryKind::Regular];
    let modes = [XattrMode::Set, XattrMode::Create, XattrMode::Replace];
    match input.below(24) {
        0 => Op::Unlink(odd_path(input)),
        1 => Op::Rmdir(odd_path(input)),
        2 => Op::Mkdir(odd_path(input), input.pick(&[0o755, 0o700, 0o2775])),
        3 | 4 => Op::Rename(odd_path(input), odd_path(input), rename_mode(input)),
        5 => Op::Link(odd_path(input), odd_path(input)),
        6 => Op::Symlink(path(input), odd_path(input)),
        7 => Op::Mknod(odd_path(input), input.pick(&kinds), 0o640, 0, input.byte().into()),
        8 => Op::CreateNew(odd_path(input), 0o640),
        9 => Op::Write(odd_path(input), text(input)),
        10 => Op::Patch(path(input), input.byte().into(), text(input)),
        11 => Op::Append(path(input), text(input)),
        12 => Op::OpenWrite(path(input)),
        13 => Op::Truncate(path(input), input.byte().into()),
        14 => Op::PunchHole(path(input), input.byte().into(), 1 + 40 * u64::from(input.byte())),
        15 => Op::Chmod(path(input), input.pick(&[0o755, 0o600, 0o4755])),
        16 => Op::SetTimes(path(input), input.byte().into()),
        17 => Op::SetSymlinkTimes(path(input), input.byte().into()),
        18 => Op::SetXattr(path(input), xattr_name(input), text(input), input.pick(&modes)),
        19 => Op::RemoveXattr(path(input), xattr_name(input)),
        20 => Op::GetXattr(path(input), xattr_name(input)),
        21 => Op::ListXattrs(path(input)),
        22 => Op::ReadDir(odd_path(input)),
        _ => Op::Stat(odd_path(input)),
    }
}

/// A lower directory, as `machine` makes them: every kind of file and mark, none under what is no
/// directory.
fn layer(input: &mut Input<'_>) -> Vec<String> {
    const KINDS: [&str; 14] =
        ["/", "/", "/", "/!", "=", "=text", "!", "->a", "->/b/c", "|", "@1:3", "%", "!!", "^"];
    let mut entries: Vec<(String, &str)> =
        (0..input.below(9)).map(|_| (path(input), input.pick(&KINDS))).collect();
    entries.sort_by_key(|(path, _)| path.len());
    let mut made: Vec<(String, bool)> = Vec::new();
    let mut lines = Vec::new();
    for (path, kind) in entries {
        let has_parent = path
            .rsplit_once('/')
            .is_none_or(|(parent, _)| made.iter().any(|(other, dir)| other == parent && *dir));
        if !has_parent || made.iter().any(|(other, _)| *other == path) {
            continue;
        }
        made.push((path.clone(), matches!(kind, "/" | "/!")));
        match kind {
            "/!" => lines.extend([format!("{path}/"), format!("{path}/!")]),
            "%" => lines.extend([format!("{path}=x"), format!("{path}%user.a=lower")]),
            "^" => lines.extend([format!("{path}=suid"), format!("{path}^4711")]),
            kind => lines.push(format!("{path}{kind}")),
        }
    }
    lines
}

/// Layers, and operations on the merged tree: as on a plain tree, or as the kernel has it, or on
/// layers with marks that nobody would make.
pub(crate) fn operations(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.below(4);
    let mut layers: Vec<Vec<String>> = (0..=input.below(4)).map(|_| layer(&mut input)).collect();
    match how {
        0 | 1 => {
            layers.iter_mut().for_each(|layer| layer.retain(keeps_plain));
            as_a_plain_tree(&layers, &mut input);
        }
        2 => as_the_kernel(&layers, &mut input),
        _ => on_wild_layers(layers, &mut input),
    }
}

fn as_a_plain_tree(layers: &[Vec<String>], input: &mut Input<'_>) {
    let bed = Bed::new(layers, Manner { redirects: Redirects::Write, ..Manner::plain() });
    let before = bed.lowers();
    let mut model = Model::of(layers);
    let mut tree = bed.tree();
    for number in 0..40 {
        if input.is_empty() {
            break;
        }
        let op = plain_op(input);
        let expected: Outcome = model.act(&op).map_err(Errno::raw_os_error);
        let shown = |outcome: Outcome| match op {
            Op::Read(_) => outcome.map(|text| text.len().to_string()),
            _ => outcome,
        };
        let got = match (&op, tree.run(&op)) {
            // A long text is shown by its digest.
            (Op::Read(path), Ok(_)) => {
                Ok(tree.read(path).map(|text| text.len()).unwrap().to_string())
            }
            (_, other) => other,
        };
        assert_eq!(got, shown(expected), "{op:?} on {layers:?}");
        if number % 7 == 6 {
            // What is remembered in memory and what is on disk are the same.
            drop(tree);
            tree = bed.tree();
        }
    }
    let mut found = std::collections::BTreeMap::new();
    for entry in tree.walk("/").unwrap() {
        let entry = entry.unwrap();
        let path = entry.path().to_str().unwrap().to_owned();
        let text = entry.metadata().is_file().then(|| tree.read(&path).unwrap());
        found.insert(path, text.map(|text| String::from_utf8(text).unwrap()));
    }
    assert_eq!(found, model.0);
    drop(tree);
    assert_eq!(bed.lowers(), before, "a lower directory changed");
}

/// As many operations as the input has, at most 20.
fn ops(input: &mut Input<'_>) -> Vec<Op> {
    let mut ops = Vec::new();
    while !input.is_empty() && ops.len() < 20 {
        ops.push(op(input));
    }
    ops
}

fn as_the_kernel(layers: &[Vec<String>], input: &mut Input<'_>) {
    let redirects = input.pick(&[Redirects::Refuse, Redirects::Write]);
    let mut manner = Manner::plain();
    if manner.namespace == crate::Namespace::Trusted {
        manner.redirects = redirects;
    }
    let ops = ops(input);
    if Bed::new(layers, manner).mount().is_err() {
        // Only who may mount can ask the kernel.
        return on_wild_layers(layers.to_vec(), &mut Input::new(&[]));
    }
    if let Err(error) = bed::try_in(manner, layers, &ops) {
        panic!("{error}\n{ops:?} on {layers:?}");
    }
}

/// Attributes of any value where marks would stand: an answer to every call, the lower directories
/// as they were, and a listing that names what can be looked up.
fn on_wild_layers(mut layers: Vec<Vec<String>>, input: &mut Input<'_>) {
    let redirects = input.pick(&[Redirects::Refuse, Redirects::Follow, Redirects::Write]);
    let manner = Manner { redirects, ..Manner::plain() };
    let own = manner.namespace.prefix();
    for layer in &mut layers {
        for _ in 0..input.below(5) {
            let names = ["redirect", "metacopy", "opaque", "whiteout", "origin", "impure"];
            let values = ["", "y", "x", "a", "/b", "/a/b", "..", "/", "b/c", "\u{7f}"];
            let (name, value) = (input.pick(&names), input.pick(&values));
            let stat = ["0:0:0:pipe", "1:2:0644:char-1-3", "x", "7:7:0:dir", "0:0:07777"];
            let at = layer.iter().filter(|line| line.ends_with('/') || line.contains('='));
            let at: Vec<String> = at
                .filter(|line| !line.contains('%'))
                .map(|line| line.split(['=']).next().unwrap().trim_end_matches('/').to_owned())
                .collect();
            if at.is_empty() {
                break;
            }
            let path = &at[input.below(at.len())];
            layer.push(match input.below(4) {
                0 => format!("{path}%user.containers.override_stat={}", input.pick(&stat)),
                _ => format!("{path}%{own}{name}={value}"),
            });
        }
    }
    let bed = Bed::new(&layers, manner);
    let before = bed.lowers();
    let tree = bed.tree();
    for op in ops(input) {
        let _ = tree.run(&op);
    }
    let shown = bed::merged(&tree);
    drop(tree);
    assert_eq!(bed::merged(&bed.tree()), shown, "another tree when it is opened again");
    assert_eq!(bed.lowers(), before, "a lower directory changed");
}
