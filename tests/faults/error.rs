//! Each operation with each of its system calls failing: the error says what was being done, the
//! store is as before or as after, and the same command then succeeds.

use crate::bed::Bed;
use crate::common::store::Done;
use crate::kill::endings;
use crate::operations::{OPERATIONS, Operation};
use crate::sample::Failures;
use crate::snapshot::snapshot;
use crate::trace::{self, Fault, Outcome, Point};
use crate::{require_tool, sample, sandbox};

/// How many points of each operation and error an ordinary run tries.
const SAMPLE: usize = 2;

/// Which calls give which error. `EINTR` comes of those that wait for a slow device or a lock.
const ERRORS: &[(&str, &[&str])] = &[
    (
        "ENOSPC",
        &[
            "open",
            "openat",
            "openat2",
            "mkdirat",
            "renameat",
            "renameat2",
            "linkat",
            "symlinkat",
            "mknodat",
            "write",
            "pwrite64",
            "copy_file_range",
            "ftruncate",
            "fallocate",
            "fsetxattr",
            "lsetxattr",
            "setxattr",
            "fsync",
            "syncfs",
        ],
    ),
    (
        "EDQUOT",
        &[
            "open",
            "openat",
            "openat2",
            "mkdirat",
            "renameat",
            "renameat2",
            "linkat",
            "symlinkat",
            "mknodat",
            "write",
            "pwrite64",
            "copy_file_range",
            "fallocate",
            "fsetxattr",
            "fsync",
            "syncfs",
        ],
    ),
    (
        "EIO",
        &[
            "open",
            "openat",
            "openat2",
            "read",
            "pread64",
            "getdents64",
            "newfstatat",
            "statx",
            "readlinkat",
            "fgetxattr",
            "flistxattr",
            "fstatfs",
            "mkdirat",
            "renameat",
            "renameat2",
            "linkat",
            "symlinkat",
            "unlinkat",
            "mknodat",
            "write",
            "pwrite64",
            "copy_file_range",
            "ftruncate",
            "fchmod",
            "fchmodat",
            "fchown",
            "fchownat",
            "fsetxattr",
            "lsetxattr",
            "utimensat",
            "fsync",
            "syncfs",
            "fsconfig",
            "fsmount",
            "move_mount",
        ],
    ),
    ("EMFILE", &["open", "openat", "openat2", "fsopen", "fsmount", "open_tree", "fcntl"]),
    (
        "EINTR",
        &[
            "open",
            "openat",
            "openat2",
            "read",
            "pread64",
            "write",
            "pwrite64",
            "copy_file_range",
            "flock",
            "ftruncate",
            "fallocate",
        ],
    ),
];

/// What a tried point came to.
#[derive(Debug, Default)]
struct Counts {
    injected: usize,
    survived: usize,
    before: usize,
    after: usize,
}

#[test]
fn e81_a_call_that_fails_is_told_and_leaves_the_store_as_before_or_as_after() {
    sandbox!();
    require_tool!("strace");
    let bed = Bed::with_container();
    let (mut failures, mut total) = (Failures::default(), 0);
    for operation in OPERATIONS.iter().filter(|operation| operation.is_known(&bed)) {
        let ending = endings(&bed, operation);
        let mut counts = Counts::default();
        for (error, calls) in ERRORS {
            let fits = |point: &Point| may_give(point, error, calls);
            let points = ending.0.iter().filter(|point| fits(point)).cloned().collect();
            for point in sample::of(points, SAMPLE) {
                let tried = attempt(&bed, operation, &point, error, (&ending.1, &ending.2));
                counts.injected += usize::from(!matches!(tried, Ok(None)));
                match tried {
                    Ok(None) => {}
                    Ok(Some(Ended::Survived)) => counts.survived += 1,
                    Ok(Some(Ended::Before)) => counts.before += 1,
                    Ok(Some(Ended::After)) => counts.after += 1,
                    Err(what) => failures.push(format!(
                        "{}: {error} from {} {}: {}\n{what}",
                        operation.name, point.call, point.nth, point.line
                    )),
                }
            }
        }
        total += counts.injected;
        eprintln!(
            "failed {}: {} calls; {} made no difference, {} left it as before, {} as after",
            operation.name, counts.injected, counts.survived, counts.before, counts.after
        );
    }
    bed.clear();
    eprintln!("{total} errors injected, {} losses", failures.0.len());
    assert!(failures.0.is_empty(), "{}", failures.0.join("\n"));
}

/// Whether the kernel may answer so, and whether a person can be told of it.
fn may_give(point: &Point, error: &str, calls: &[&str]) -> bool {
    if !calls.contains(&point.call.as_str()) || point.is_standard_stream() {
        return false;
    }
    match point.call.as_str() {
        "open" | "openat" | "openat2" => match error {
            "ENOSPC" | "EDQUOT" => point.changes(),
            _ => true,
        },
        "fcntl" => point.line.contains("F_DUPFD"),
        _ => true,
    }
}

enum Ended {
    /// The command succeeded all the same.
    Survived,
    Before,
    After,
}

fn attempt(
    bed: &Bed,
    operation: &Operation,
    point: &Point,
    error: &'static str,
    (old, new): (&[String], &[String]),
) -> Result<Option<Ended>, String> {
    let place = operation.prepare(bed);
    let command = operation.command(bed, &place);
    let done = match trace::run(&command, &bed.path("log"), point, Fault::Error(error)) {
        None => return Ok(None),
        Some(Outcome::Ended(done)) => done,
        Some(Outcome::Killed) => return Err("  it was killed".to_owned()),
    };
    let found = bed.opened(&place);
    if done.status == 0 {
        return match found == new {
            true => Ok(Some(Ended::Survived)),
            false => Err(format!("  it succeeded, but:\n{}", sample::difference(old, new, &found))),
        };
    }
    // What a check cannot read is a finding, and stands in its table.
    let told = done.stderr.clone() + &done.stdout;
    let words =
        if told.contains("panicked") || told.trim().len() < 20 { "no clear error" } else { "" };
    if done.status != 1 || !words.is_empty() {
        return Err(format!("  {words} {done:?}"));
    }
    if error == "EINTR" {
        return Err(format!("  was not tried again: {told}"));
    }
    if found != new && found != old {
        return Err(format!("  {told}{}", sample::difference(old, new, &found)));
    }
    if found == new {
        return Ok(Some(Ended::After));
    }
    let again = Done::of(&mut operation.command(bed, &place));
    if again.status != 0 || snapshot(&place) != new {
        return Err(format!("  {told}  cannot be repeated: {again:?}"));
    }
    Ok(Some(Ended::Before))
}
